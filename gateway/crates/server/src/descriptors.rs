//! File descriptors: how many the process may have, and how many connections that leaves room for.
//!
//! A connection is one descriptor. The databases, the guests' requests and the agents need some as well, and must not find that
//! strangers took them all: so the listener holds no more connections than leave a rest.

use std::{fs::File, net::TcpStream};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::limits::RESERVED_DESCRIPTORS;

/// Raises the soft limit of open files of this process to its hard limit, as servers do: the soft one is low for the sake of
/// old programs. Returns the limit that holds now, if the system tells.
///
/// It is the program that calls this, not the library: the limit belongs to the whole process.
pub fn raise_descriptor_limit() -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Some(hard);
    }
    Some(soft)
}

/// Connections that the limit of open files leaves room for, beside what is open now and [`RESERVED_DESCRIPTORS`].
/// `usize::MAX` where the system does not tell.
pub(crate) fn places() -> usize {
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return usize::MAX;
    };
    let open = std::fs::read_dir("/dev/fd").map_or(0, Iterator::count);
    usize::try_from(soft)
        .unwrap_or(usize::MAX)
        .saturating_sub(open.saturating_add(RESERVED_DESCRIPTORS))
        .max(1)
}

/// A descriptor kept for the moment in which there is none left: it is given up to take the connection that waits first and to
/// refuse it in words. Otherwise that one would wait in the dark, and wake the accept loop for nothing.
#[derive(Debug)]
pub(crate) struct Spare(Option<File>);

impl Spare {
    pub(crate) fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Takes the connection that waits first in place of the spare descriptor, hands it to `refuse`, and takes a new spare.
    pub(crate) async fn refuse_one(
        &mut self,
        listener: &tokio::net::TcpListener,
        refuse: impl FnOnce(TcpStream),
    ) {
        if self.0.take().is_none() {
            *self = Self::new();
            return;
        }
        // It waits already: `accept` said so before it found no descriptor.
        let waiting = tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await;
        if let Ok(Ok((stream, _))) = waiting
            && let Ok(stream) = stream.into_std()
        {
            refuse(stream);
        }
        *self = Self::new();
    }
}
