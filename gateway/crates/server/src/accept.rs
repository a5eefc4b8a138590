//! The accept loop: a place is taken before anything is awaited, the socket is set up, and one task carries the connection to its end.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    app::App,
    budget::Permit,
    descriptors::Spare,
    guard::Socket,
    handshakes::Handshakes,
    head::HeadFault,
    http,
    limits::{ACCEPT_BACKOFF_MS, LINGER_BYTES, LINGER_MS, MAX_HEADER_LINES},
    stream::{HeadGuard, Stream, Transport},
    tls::Certificates,
    ws::upgrade::Upgrade,
};

/// What a connection's requests share.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) socket: Socket,
    permit: Mutex<Option<Permit>>,
    requests: AtomicU32,
    upgrade: Mutex<Option<Upgrade>>,
    refused: Mutex<Option<(u32, HeadFault)>>,
    asking: Mutex<Option<TaskTrackerToken>>,
}

impl Wire {
    /// The caller proved who it is: its place among the strangers is free again.
    pub(crate) fn authenticated(&self) {
        if let Some(permit) = self.permit.lock().as_mut() {
            permit.authenticated();
        }
    }

    /// No request comes from this connection any more: it was its last, or it is a socket now.
    pub(crate) fn asked_all(&self) {
        self.asking.lock().take();
    }

    /// Counts a request and gives its number, from 1.
    pub(crate) fn count(&self) -> u32 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn has_asked(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// Request `number` is to be answered with this refusal.
    pub(crate) fn refuse(&self, number: u32, fault: HeadFault) {
        *self.refused.lock() = Some((number, fault));
    }

    /// The refusal of request `number`, if it is refused.
    pub(crate) fn refusal(&self, number: u32) -> Option<HeadFault> {
        self.refused
            .lock()
            .filter(|(refused, _)| *refused == number)
            .map(|(_, fault)| fault)
    }

    /// What to do with the socket once the answer 101 is out.
    pub(crate) fn upgrade(&self, upgrade: Upgrade) {
        *self.upgrade.lock() = Some(upgrade);
    }
}

/// Accepts until the listener is told to stop.
pub(crate) async fn accept(app: Arc<App>, listener: TcpListener, tls: Option<Arc<Certificates>>) {
    let handshakes = Arc::new(Handshakes::default());
    let mut spare = Spare::new();
    let plain = tls.is_none();
    loop {
        let accepted = tokio::select! {
            biased;
            () = app.stop.cancelled() => return,
            a = listener.accept() => a,
        };
        let (stream, peer) = match accepted {
            Ok(a) => a,
            Err(error) => {
                if !of_one_connection(&error) {
                    tracing::warn!(%error, "cannot accept connections; waiting");
                    spare
                        .refuse_one(&listener, |stream| too_busy(stream, plain))
                        .await;
                    tokio::time::sleep(Duration::from_millis(ACCEPT_BACKOFF_MS)).await;
                }
                continue;
            }
        };
        let taken = match app.names().1.is_proxy(peer.ip()) {
            true => app.budget.take_of_proxy(peer.ip()),
            false => app.budget.take(peer.ip()),
        };
        let permit = match taken {
            Ok(permit) => permit,
            Err(full) => {
                app.traffic.refused(full);
                tracing::debug!(?full, "connection not taken");
                if let Ok(stream) = stream.into_std() {
                    too_busy(stream, plain);
                }
                continue;
            }
        };
        app.traffic.accepted.inc();
        let _ = stream.set_nodelay(true);
        let (app, tls, handshakes) = (app.clone(), tls.clone(), handshakes.clone());
        let (tasks, asking) = (app.tasks.clone(), app.asking.token());
        let places = (permit, asking);
        tasks.spawn(connection(app, stream, peer, places, tls, handshakes));
    }
}

/// Refuses a connection; with TLS there are no words for it.
fn too_busy(mut stream: std::net::TcpStream, plain: bool) {
    if plain {
        // Fits any socket buffer; a peer that cannot take it loses nothing that it was owed.
        let _ = io::Write::write(&mut stream, http::reply::TOO_BUSY);
    }
}

/// The error says something about one peer, not about our means.
fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

// Both phases are boxed, so that the task keeps only the one that it is in.
async fn connection(
    app: Arc<App>,
    stream: TcpStream,
    peer: SocketAddr,
    (permit, asking): (Permit, TaskTrackerToken),
    tls: Option<Arc<Certificates>>,
    handshakes: Arc<Handshakes>,
) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let stream = match tls {
        None => Transport::Plain(stream),
        Some(certificates) => {
            let patience = Duration::from_millis(app.limits.tls_handshake_timeout_ms);
            let handshake = secure(stream, &certificates, &handshakes, patience);
            match Box::pin(tokio::time::timeout(patience, handshake)).await {
                Ok(Some(stream)) => {
                    app.traffic.tls_ended(true);
                    Transport::Tls(Box::new(stream))
                }
                _ => {
                    app.traffic.tls_ended(false);
                    return;
                }
            }
        }
    };
    let stream = Stream::new(stream, app.traffic.clone());
    let tls = stream.is_tls();
    let wire = Arc::new(Wire {
        socket: Socket {
            local,
            peer,
            tls,
            forwarded: false,
        },
        permit: Mutex::new(Some(permit)),
        requests: AtomicU32::new(0),
        upgrade: Mutex::new(None),
        refused: Mutex::new(None),
        asking: Mutex::new(Some(asking)),
    });
    Box::pin(serve_http(&app, stream, wire.clone())).await;
    let (upgrade, permit) = (wire.upgrade.lock().take(), wire.permit.lock().take());
    drop(wire);
    if let (Some(upgrade), Some(permit)) = (upgrade, permit)
        && let Some(conn) = upgrade.finish(app, permit).await
    {
        conn.await;
    }
}

/// The TLS handshake. What costs computing time begins only when the peer has sent its greeting and it is its turn.
async fn secure(
    stream: TcpStream,
    certificates: &Certificates,
    handshakes: &Arc<Handshakes>,
    patience: Duration,
) -> Option<TlsStream<TcpStream>> {
    let stream = not_plain(stream).await?;
    let greeting = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let greeted = greeting.await.ok()?;
    let place = handshakes.enter(patience).await?;
    tokio::select! {
        biased;
        stream = greeted.into_stream(certificates.config()) => stream.ok(),
        () = place.pushed_out() => None,
    }
}

/// Looks at the first byte, without a place among the handshakes. What is no TLS record gets an answer that a person can read.
async fn not_plain(mut stream: TcpStream) -> Option<TcpStream> {
    const TLS_HANDSHAKE_RECORD: u8 = 22;
    let mut first = [0_u8; 1];
    match stream.peek(&mut first).await {
        Ok(1) if first[0] == TLS_HANDSHAKE_RECORD => return Some(stream),
        Ok(1) if first[0].is_ascii_alphabetic() => {}
        _ => return None,
    }
    stream.write_all(http::reply::WANTS_TLS).await.ok()?;
    stream.shutdown().await.ok()?;
    // What is left unread would turn the answer into a reset.
    let mut waste = [0_u8; 2048];
    let drain = async {
        let mut thrown = 0;
        while thrown < LINGER_BYTES {
            match stream.read(&mut waste).await {
                Ok(n) if n > 0 => thrown += n,
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(LINGER_MS), drain).await;
    None
}

async fn serve_http(app: &Arc<App>, stream: Stream, wire: Arc<Wire>) {
    let service = {
        let (app, wire) = (app.clone(), wire.clone());
        hyper::service::service_fn(move |request| http::serve(app.clone(), wire.clone(), request))
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(app.limits.header_read_timeout_ms))
        .max_headers(MAX_HEADER_LINES + 1) // ours is judged before; the guard may add one line
        .max_buf_size(64 * 1024)
        .keep_alive(true)
        .serve_connection(TokioIo::new(HeadGuard::new(stream, wire.clone())), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        r = connection.as_mut() => r,
        // Not at once when the gateway stops: what comes on an open connection meanwhile is answered, and its answer ends it.
        () = app.closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
        // Unless another process goes on: there a client gets a better answer.
        () = app.retires(|| wire.has_asked()) => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
