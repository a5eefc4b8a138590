//! Starting and stopping: parameters in, a running gateway out.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use gateway_core::host::{Host, HostOptions, StartError};
use gateway_core::start::Phase;
use gateway_protocol::{Class, method};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{oneshot, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accept,
    app::App,
    budget, descriptors,
    discover::{self, Findable},
    guard::Names,
    http, limits, memory,
    tailscale::{Claim, Tailscale},
    tls::{CertificateNames, CertificateStatus, Certificates, TlsError},
    ws::timer::Timer,
};

/// Limits that an operator (or a test) may set. Everything else is a constant in [`crate::limits`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerLimits {
    /// Open connections in all.
    pub max_connections: usize,
    /// Unauthenticated connections in all; the rest of `max_connections` is reserved for authenticated ones.
    pub preauth_total: usize,
    /// Unauthenticated connections of one address (of one /64 network for IPv6).
    pub preauth_per_address: u32,
    /// From the opening of a v4 WebSocket to its `connect`, in ms.
    pub handshake_timeout_ms: u64,
    /// For a TLS handshake, in ms.
    pub tls_handshake_timeout_ms: u64,
    /// For a whole request head, and for an idle kept-alive connection, in ms.
    pub header_read_timeout_ms: u64,
    /// For a whole request body, in ms.
    pub body_deadline_ms: u64,
    /// Before the lowest rate of a body counts, in ms.
    pub body_grace_ms: u64,
    /// From the first to the last byte of a WebSocket message, in ms.
    pub message_deadline_ms: u64,
    /// A peer that takes none of our bytes for so long is cut off, in ms.
    pub write_stall_ms: u64,
    /// Between two pings (and `tick` events), in ms.
    pub ping_interval_ms: u64,
    /// For the answer to a ping, in ms.
    pub pong_timeout_ms: u64,
    /// For runs to end when the gateway stops, in ms.
    pub drain_timeout_ms: u64,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: limits::MAX_CONNECTIONS,
            preauth_total: limits::MAX_PREAUTH_CONNECTIONS,
            preauth_per_address: u32::try_from(gateway_protocol::limits::PREAUTH_PER_IP)
                .unwrap_or(32),
            handshake_timeout_ms: gateway_protocol::limits::HANDSHAKE_TIMEOUT_MS,
            tls_handshake_timeout_ms: limits::TLS_HANDSHAKE_TIMEOUT_MS,
            header_read_timeout_ms: limits::HEADER_READ_TIMEOUT_MS,
            body_deadline_ms: limits::BODY_DEADLINE_MS,
            body_grace_ms: limits::BODY_GRACE_MS,
            message_deadline_ms: limits::WS_MESSAGE_DEADLINE_MS,
            write_stall_ms: limits::WRITE_STALL_MS,
            ping_interval_ms: gateway_protocol::limits::TICK_INTERVAL_MS,
            pong_timeout_ms: gateway_protocol::limits::PONG_TIMEOUT_MS,
            drain_timeout_ms: 10_000,
        }
    }
}

impl ServerLimits {
    /// The defaults with what the settings say.
    #[must_use]
    pub fn of(settings: &gateway_config::GatewayLimits) -> Self {
        Self {
            max_connections: settings.max_connections as usize,
            preauth_total: settings.preauth_total as usize,
            preauth_per_address: settings.preauth_per_ip,
            handshake_timeout_ms: settings.handshake_timeout_ms,
            drain_timeout_ms: settings.drain_timeout_ms,
            ..Self::default()
        }
    }
}

/// What a gateway is started with. [`GatewayServerOptions::new`] takes everything from the settings; each field can be overridden.
pub struct GatewayServerOptions {
    /// What the core is started with; its settings name port, addresses, names and limits.
    pub host: HostOptions,
    /// TCP port instead of the one in the settings; 0 lets the system choose.
    pub port: Option<u16>,
    /// Address to bind instead of the one in the settings.
    pub bind: Option<IpAddr>,
    /// A bound, listening socket to use instead of binding one (socket activation, tests). `port` and `bind` are then not used.
    pub listener: Option<std::net::TcpListener>,
    /// Take no connection before the gateway is ready (at most 10 s): with a listener that is handed over clients then wait
    /// in the kernel instead of being told to come again.
    pub accept_when_ready: bool,
    /// Serve TLS with this configuration instead of the certificate that the settings name (`gateway.tls`). Only HTTP/1.1 is
    /// offered by ALPN, whatever it says.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Where everything runs; the runtime of the caller if there is none.
    pub runtime: Option<tokio::runtime::Handle>,
    /// Cancelling it stops the gateway, in order, as [`GatewayServer::shutdown`] does.
    pub shutdown: CancellationToken,
    /// Limits instead of those in the settings.
    pub limits: Option<ServerLimits>,
}

impl GatewayServerOptions {
    /// Everything as `host.settings` says.
    #[must_use]
    pub fn new(host: HostOptions) -> Self {
        Self {
            host,
            port: None,
            bind: None,
            listener: None,
            accept_when_ready: false,
            tls: None,
            runtime: None,
            shutdown: CancellationToken::new(),
            limits: None,
        }
    }
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The core did not start.
    #[error("{0}")]
    Core(#[from] StartError),
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source} (next step: {next})")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What to do.
        next: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// The certificate cannot be served.
    #[error("{error} (next step: {})", error.next)]
    Tls {
        /// What is wrong and what to do.
        error: TlsError,
    },
    /// The given runtime ended while the gateway started.
    #[error("the runtime ended while the gateway started")]
    Runtime,
}

/// A running gateway. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct GatewayServer {
    local_addr: SocketAddr,
    certificates: Option<Arc<Certificates>>,
    host: Arc<Host>,
    socket: Arc<Mutex<Option<std::net::TcpListener>>>,
    handing_over: CancellationToken,
    accepting: watch::Receiver<bool>,
    shutdown: CancellationToken,
    stopped: watch::Receiver<bool>,
}

impl GatewayServer {
    /// The address that it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The address of the built-in page, for a browser on this machine.
    #[must_use]
    pub fn url(&self) -> String {
        let ip = self.local_addr.ip();
        let ip = match ip {
            IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            _ => ip,
        };
        let scheme = if self.certificates.is_some() {
            "https"
        } else {
            "http"
        };
        format!(
            "{scheme}://{}/",
            SocketAddr::new(ip, self.local_addr.port())
        )
    }

    /// The certificate that is served, as it changes; `None` without TLS, or with a configuration of the embedder.
    #[must_use]
    pub fn certificate(&self) -> Option<watch::Receiver<CertificateStatus>> {
        self.certificates.as_ref()?.status()
    }

    /// Looks at the files of the certificate now; they are looked at every second anyway.
    pub fn recheck_certificate(&self) {
        if let Some(certificates) = &self.certificates {
            certificates.recheck();
        }
    }

    /// The core.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Resolves when connections are accepted; see [`GatewayServerOptions::accept_when_ready`].
    pub async fn accepting(&self) {
        let mut accepting = self.accepting.clone();
        if accepting.wait_for(|a| *a).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The listening socket once more, for another process; `None` when the gateway stops. As long as somebody has it, new
    /// connections wait in the kernel and are not refused.
    #[must_use]
    pub fn socket(&self) -> Option<std::net::TcpListener> {
        self.socket.lock().as_ref()?.try_clone().ok()
    }

    /// Stops as [`GatewayServer::shutdown`] does, for another process that goes on with [`GatewayServer::socket`]: for half a
    /// second everything is still served and each HTTP connection ends with its answer; then nothing is accepted any more,
    /// requests of connections that are open are answered, and the rest is that of a stop. At the end the state directory is
    /// free. Gives when the last connection was accepted.
    ///
    /// # Errors
    /// When the lock of the state directory could not be given up: it ends with this process.
    pub async fn hand_over(&self) -> Result<tokio::time::Instant, ServeError> {
        self.handing_over.cancel();
        tokio::time::sleep(Duration::from_millis(limits::HANDOVER_NOTICE_MS)).await;
        let closed = tokio::time::Instant::now();
        self.shutdown.cancel();
        self.stopped().await;
        self.host.release()?;
        Ok(closed)
    }

    /// Resolves when the gateway has stopped, whoever asked for it.
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.clone();
        // An error means that the supervisor is gone, and with it the gateway.
        let _ = stopped.wait_for(|s| *s).await;
    }

    /// Stops: no new connections, `shutdown` events, runs end (or stay for the next start), sockets are closed with 1012.
    pub async fn shutdown(self) {
        self.shutdown.cancel();
        self.stopped().await;
    }
}

impl Drop for GatewayServer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Starts the core and listens for it.
///
/// # Errors
/// See [`ServeError`].
pub async fn start_gateway_server(
    options: GatewayServerOptions,
) -> Result<GatewayServer, ServeError> {
    match options.runtime.clone() {
        None => start(options).await,
        Some(runtime) => runtime
            .spawn(start(options))
            .await
            .map_err(|_| ServeError::Runtime)?,
    }
}

async fn start(options: GatewayServerOptions) -> Result<GatewayServer, ServeError> {
    let settings = &options.host.settings;
    let (discovery, state_dir) = (settings.discovery.clone(), options.host.state_dir.clone());
    let gateway = &settings.gateway.clone();
    let own_limits = options.limits.is_some();
    let limits = options
        .limits
        .unwrap_or_else(|| ServerLimits::of(&gateway.limits));
    let address = SocketAddr::new(
        options.bind.unwrap_or_else(|| gateway.bind.ip()),
        options.port.unwrap_or(gateway.port),
    );
    let names = CertificateNames::of(gateway, address.ip());
    let clock = options.host.clock.clone();
    // First the stores: a second gateway fails at the lock of the state directory, before it touches anything.
    let host = Host::open(options.host).await?;
    let opened = open_listener(
        &host,
        Sockets {
            given: options.listener,
            address,
            tls: options.tls,
            names: &names,
            gateway,
            state_dir: &state_dir,
            clock,
        },
    )
    .await;
    let (certificates, listener, socket, local_addr) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            host.shutdown(Duration::ZERO).await;
            return Err(error);
        }
    };
    let certificate = certificates.as_ref().and_then(|c| c.status());
    if let Some(status) = &certificate {
        // Before the first caller: `hello-ok` shows it.
        host.set_tls_health(status.borrow().health());
    }
    let bound = local_addr.ip();
    host.set_listener(gateway_core::process_health::Listener {
        port: local_addr.port(),
        tls: certificate.is_some(),
        addresses: Arc::new(move || discover::reachable(bound)),
    });

    let of_class = |class| {
        method::all()
            .iter()
            .filter(|m| m.class == class)
            .map(|m| m.name)
            .collect()
    };
    let settings = host.settings();
    let app = Arc::new(App {
        names: ArcSwap::from_pointee((settings.clone(), Names::of(&settings))),
        own_limits,
        tailscale: gateway.tailscale.clone().map(Tailscale::new),
        budget: budget::Budget::new(
            descriptors::places(),
            limits.max_connections,
            limits.preauth_total,
            limits.preauth_per_address,
        ),
        preauth_bytes: budget::Bytes::new(limits::MAX_PREAUTH_BODY_BYTES),
        event_bytes: budget::Bytes::new(limits::MAX_QUEUED_EVENT_BYTES_ALL),
        traffic: Arc::default(),
        timer: Timer::new(),
        routes: http::routes(),
        waits: of_class(Class::Wait),
        interim: ["agent"].into(),
        ready: host.ready(),
        handing_over: CancellationToken::new(),
        asking: TaskTracker::new(),
        stop: CancellationToken::new(),
        closing: CancellationToken::new(),
        tasks: TaskTracker::new(),
        host: host.clone(),
        limits,
    });
    let timer_stop = CancellationToken::new();
    tokio::spawn(app.timer.clone().run(timer_stop.clone()));
    tokio::spawn(app.clone().follow_settings());
    tokio::spawn(memory::watch(app.clone()));
    let (tell_accepting, accepts) = watch::channel(false);
    let accepting = tokio::spawn({
        let (app, certificates) = (app.clone(), certificates.clone());
        let held_back = options.accept_when_ready;
        async move {
            if held_back {
                welcome(&app).await;
            }
            tell_accepting.send_replace(true);
            accept::accept(app, listener, certificates).await;
        }
    });
    if let Some(certificates) = &certificates {
        tokio::spawn(certificates.clone().watch(app.stop.clone()));
    }
    if let Some(status) = certificate {
        tokio::spawn(tell_certificate(status, Arc::downgrade(&host)));
    }
    if let Some(tailscale) = &app.tailscale {
        // The certificate is one that Tailscale has no reason to know.
        let scheme = if certificates.is_some() {
            "https+insecure"
        } else {
            "http"
        };
        let claim = Claim {
            host: Arc::downgrade(&host),
            target: format!("{scheme}://{local_addr}"),
            record: state_dir.join("run").join("tailscale"),
        };
        app.tasks
            .spawn(tailscale.clone().hold(claim, app.stop.clone()));
    }
    let found = Findable {
        gateway: gateway.clone(),
        discovery: discovery.clone(),
        state_dir,
        port: local_addr.port(),
        certificate: certificates.as_ref().and_then(|c| c.status()),
    };
    let (tell_begun, begun) = oneshot::channel();
    app.tasks.spawn(found.run(
        Arc::downgrade(&host),
        host.sidecars(),
        tell_begun,
        app.stop.clone(),
    ));
    // Discovery has no failure that holds a start up: at its end, too, the other side of the channel is gone.
    host.begin(async move {
        let _ = begun.await;
    });
    let (tell, stopped) = watch::channel(false);
    let shutdown = options.shutdown;
    let socket = Arc::new(Mutex::new(socket));
    let handing_over = app.handing_over.clone();
    tokio::spawn({
        let (shutdown, socket) = (shutdown.clone(), socket.clone());
        async move {
            shutdown.cancelled().await;
            // Without another process that has it, connections are to be refused from now on.
            drop(socket.lock().take());
            app.stop.cancel();
            let _ = accepting.await;
            if app.handing_over.is_cancelled() {
                app.asking.close();
                let grace = Duration::from_millis(limits::HANDOVER_GRACE_MS);
                let _ = tokio::time::timeout(grace, app.asking.wait()).await;
            }
            app.host
                .shutdown(Duration::from_millis(app.drain_timeout_ms()))
                .await;
            app.closing.cancel();
            app.timer.stop_all();
            app.tasks.close();
            let deadline = Duration::from_millis(limits::SHUTDOWN_DEADLINE_MS);
            if tokio::time::timeout(deadline, app.tasks.wait())
                .await
                .is_err()
            {
                tracing::warn!(
                    connections = app.budget.used(),
                    "connections did not end in time"
                );
            }
            timer_stop.cancel();
            let _ = tell.send(true);
        }
    });
    Ok(GatewayServer {
        local_addr,
        certificates,
        host,
        socket,
        handing_over,
        accepting: accepts,
        shutdown,
        stopped,
    })
}

/// Waits until requests are welcome, or it has taken too long, or the gateway stops.
async fn welcome(app: &App) {
    let mut ready = app.host.ready();
    let patience = Duration::from_millis(limits::ACCEPT_HELD_BACK_MS);
    tokio::select! {
        () = app.stop.cancelled() => {}
        _ = ready.wait_for(|ready| *ready) => {}
        () = tokio::time::sleep(patience) => {}
    }
}

/// Shows each change of the certificate in the health of every tenant.
async fn tell_certificate(
    mut status: watch::Receiver<CertificateStatus>,
    host: std::sync::Weak<Host>,
) {
    while status.changed().await.is_ok() {
        let health = status.borrow_and_update().health();
        let Some(host) = host.upgrade() else { return };
        host.set_tls_health(health);
    }
}

/// What the listener is made of.
struct Sockets<'a> {
    given: Option<std::net::TcpListener>,
    address: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    names: &'a CertificateNames,
    gateway: &'a gateway_config::GatewaySettings,
    state_dir: &'a std::path::Path,
    clock: Arc<dyn gateway_core::clock::Clock>,
}

type Opened = (
    Option<Arc<Certificates>>,
    TcpListener,
    Option<std::net::TcpListener>,
    SocketAddr,
);

/// The certificate, then the socket: nobody is to reach a listener that cannot show one.
async fn open_listener(host: &Host, sockets: Sockets<'_>) -> Result<Opened, ServeError> {
    let certificates = match &sockets.tls {
        Some(config) => Some(Certificates::fixed(config)),
        None if sockets.gateway.tls.enabled => {
            let opened = Certificates::open(
                &sockets.gateway.tls.source,
                sockets.state_dir,
                sockets.names,
                sockets.clock,
            );
            Some(opened.map_err(|error| ServeError::Tls { error })?)
        }
        None => None,
    }
    .map(Arc::new);
    host.phase(Phase::Tls);
    let (listener, socket) =
        listen(sockets.given, sockets.address).map_err(|e| bind_error(sockets.address, e))?;
    let local_addr = listener
        .local_addr()
        .map_err(|source| bind_error(sockets.address, source))?;
    host.phase(Phase::Listener);
    Ok((certificates, listener, socket, local_addr))
}

/// The listener, and its socket once more for a process that goes on with it.
fn listen(
    given: Option<std::net::TcpListener>,
    address: SocketAddr,
) -> io::Result<(TcpListener, Option<std::net::TcpListener>)> {
    let listener = match given {
        Some(listener) => listener,
        None => {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket
                .listen(limits::LISTEN_BACKLOG_CONNECTIONS)?
                .into_std()?
        }
    };
    listener.set_nonblocking(true)?;
    let socket = listener.try_clone().ok();
    Ok((TcpListener::from_std(listener)?, socket))
}

fn bind_error(address: SocketAddr, source: io::Error) -> ServeError {
    let next = match source.kind() {
        io::ErrorKind::AddrInUse => {
            "stop the program that uses the port, or choose another with --port"
        }
        io::ErrorKind::PermissionDenied => "choose a port above 1023 with --port",
        io::ErrorKind::AddrNotAvailable => "choose an address of this machine with --bind",
        _ => "check --bind and --port",
    };
    ServeError::Bind {
        address,
        next,
        source,
    }
}
