//! What systemd hands to a service and wants to hear from it: listeners, readiness, signs of life. Nothing of it happens
//! where the environment does not ask for it.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// Longest wait for the other side to take a state.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the states of the service are told.
#[derive(Debug)]
pub struct Notify(Option<UnixDatagram>);

impl Notify {
    /// To the socket that `NOTIFY_SOCKET` names (a path, or `@` and an abstract name); to nobody without it.
    ///
    /// # Errors
    /// When the socket cannot be reached.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> io::Result<Self> {
        let Some(address) = env("NOTIFY_SOCKET").filter(|a| !a.is_empty()) else {
            return Ok(Self(None));
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        match address.strip_prefix('@') {
            Some(name) => connect_abstract(&socket, name)?,
            None => socket.connect(&address)?,
        }
        Ok(Self(Some(socket)))
    }

    /// Tells a state, such as `READY=1`. What is not heard changes nothing here.
    pub fn tell(&self, state: &str) {
        if let Some(socket) = &self.0
            && let Err(error) = socket.send(state.as_bytes())
        {
            tracing::warn!(%error, state, "systemd was not told");
        }
    }
}

#[cfg(target_os = "linux")]
fn connect_abstract(socket: &UnixDatagram, name: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt as _;
    socket.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)
}

#[cfg(not(target_os = "linux"))]
fn connect_abstract(_: &UnixDatagram, _: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// How often a sign of life is due: half of what the watchdog waits for; `None` when it does not watch this process.
pub fn watchdog_period(env: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    let ours = env("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
    let micros: u64 = env("WATCHDOG_USEC")?.parse().ok()?;
    (ours && micros > 0).then(|| Duration::from_micros(micros / 2))
}

/// The listening socket that the process was started with (`LISTEN_FDS`), if it was.
///
/// # Errors
/// When what was handed over is no listening TCP socket.
pub fn listener() -> io::Result<Option<TcpListener>> {
    listenfd::ListenFd::from_env().take_tcp_listener(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn states_reach_the_socket_and_nobody_without_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::from_env(|_| Some(path.display().to_string())).unwrap();
        notify.tell("READY=1");
        let mut buffer = [0; 64];
        let n = heard.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"READY=1");
        Notify::from_env(|_| None).unwrap().tell("READY=1");
        assert!(Notify::from_env(|_| Some("/nowhere/at/all".to_owned())).is_err());
    }

    #[test]
    fn the_watchdog_watches_this_process_or_none() {
        let env = |pid: Option<String>, usec: Option<&str>| {
            let usec = usec.map(str::to_owned);
            watchdog_period(move |name| match name {
                "WATCHDOG_PID" => pid.clone(),
                _ => usec.clone(),
            })
        };
        assert_eq!(env(None, Some("2000000")), Some(Duration::from_secs(1)));
        let me = std::process::id().to_string();
        assert_eq!(env(Some(me), Some("2000000")), Some(Duration::from_secs(1)));
        assert_eq!(env(Some("1".to_owned()), Some("2000000")), None);
        assert_eq!(env(None, None), None);
        assert_eq!(env(None, Some("0")), None);
    }
}
