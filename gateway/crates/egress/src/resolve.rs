//! Names to addresses, and addresses to connections: both are traits, so that tests and the simulation bring their own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use crate::limits::MAX_PARALLEL_LOOKUPS;

/// Looks up a name. Asked once per connection; every address of the answer is checked before any is used.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of `host` (a lower case ASCII name without trailing dot). The caller bounds the time.
    ///
    /// # Errors
    /// If there is no answer.
    fn resolve(&self, host: &str) -> BoxFuture<'_, io::Result<Vec<IpAddr>>>;
}

/// Connects to one already checked address.
pub trait Dial: Send + Sync + 'static {
    /// Opens a byte stream to `addr`. The caller bounds the time.
    ///
    /// # Errors
    /// If there is no connection.
    fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxIo>>;
}

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A boxed [`Io`].
pub type BoxIo = Box<dyn Io>;

/// The resolver of the operating system, with a bound on parallel look-ups.
#[derive(Debug)]
pub struct SystemResolver {
    permits: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_PARALLEL_LOOKUPS)),
        }
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str) -> BoxFuture<'_, io::Result<Vec<IpAddr>>> {
        let host = host.to_string();
        Box::pin(async move {
            let permit = self
                .permits
                .clone()
                .acquire_owned()
                .await
                .map_err(io::Error::other)?;
            // The thread of a look-up that hangs cannot be stopped: the permit stays with it, not with the waiter.
            let found = tokio::spawn(async move {
                let found: Vec<IpAddr> = tokio::net::lookup_host((host.as_str(), 0))
                    .await?
                    .map(|a| a.ip())
                    .collect();
                drop(permit);
                io::Result::Ok(found)
            });
            found.await.map_err(io::Error::other)?
        })
    }
}

/// TCP of the operating system.
#[derive(Debug, Default)]
pub struct TcpDialer;

impl Dial for TcpDialer {
    fn dial(&self, addr: SocketAddr) -> BoxFuture<'_, io::Result<BoxIo>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxIo)
        })
    }
}
