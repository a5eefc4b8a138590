//! Who may hold how many connections: a total, a part of it for those that nobody has authenticated, and a cap for each address.
//!
//! A permit is taken before anything is awaited and given back when it is dropped, so an in-flight handshake is always counted.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use crate::limits::LOCAL_PLACES;

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The listener has all the connections that it may have.
    Total,
    /// All places for unauthenticated connections are taken.
    Preauth,
    /// This address holds its share of them.
    Address,
    /// The process is short of memory.
    Memory,
}

/// The listener's places.
#[derive(Debug)]
pub(crate) struct Budget {
    /// What the process has file descriptors for, whatever is asked for.
    descriptors: usize,
    total: AtomicUsize,
    preauth: AtomicUsize,
    per_address: AtomicU32,
    used: AtomicUsize,
    shedding: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    // Bounded by `preauth`: an entry lives only while its address holds a permit.
    by_address: HashMap<IpAddr, u32>,
}

/// A place of one connection.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    address: Option<IpAddr>,
}

impl Budget {
    /// `total` connections, `preauth` of them unauthenticated, `per_address` of those from one address; never more than
    /// `descriptors`, of which strangers get half at most.
    pub(crate) fn new(
        descriptors: usize,
        total: usize,
        preauth: usize,
        per_address: u32,
    ) -> Arc<Self> {
        let budget = Self {
            descriptors,
            total: AtomicUsize::new(0),
            preauth: AtomicUsize::new(0),
            per_address: AtomicU32::new(0),
            used: AtomicUsize::new(0),
            shedding: AtomicBool::new(false),
            waiting: Mutex::default(),
        };
        budget.set(total, preauth, per_address);
        Arc::new(budget)
    }

    /// Other sizes from now on. Places that are taken stay taken.
    pub(crate) fn set(&self, total: usize, preauth: usize, per_address: u32) {
        if total > self.descriptors {
            tracing::warn!(
                wanted = total,
                possible = self.descriptors,
                "the limit of open files allows fewer connections than the configuration; raise it (`ulimit -n`, LimitNOFILE=)"
            );
        }
        let total = total.min(self.descriptors);
        self.total.store(total, Ordering::Release);
        let strangers = preauth.min(total).min((self.descriptors / 2).max(1));
        self.preauth.store(strangers, Ordering::Release);
        self.per_address.store(per_address, Ordering::Release);
    }

    /// Takes a place for a connection from `peer`, or says why not. Never waits.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr) -> Result<Permit, Full> {
        self.place(peer, true)
    }

    /// The same for a connection from a trusted proxy: it is many clients', so that no share of one address counts for it.
    pub(crate) fn take_of_proxy(self: &Arc<Self>, proxy: IpAddr) -> Result<Permit, Full> {
        self.place(proxy, false)
    }

    fn place(self: &Arc<Self>, peer: IpAddr, one_client: bool) -> Result<Permit, Full> {
        let address = share_of(peer);
        let own = if peer.to_canonical().is_loopback() {
            LOCAL_PLACES
        } else {
            0
        };
        let mut waiting = self.waiting.lock();
        if self.shedding.load(Ordering::Acquire) && waiting.all >= own {
            return Err(Full::Memory);
        }
        if waiting.all >= self.preauth.load(Ordering::Acquire) + own {
            return Err(Full::Preauth);
        }
        let most = self.per_address.load(Ordering::Acquire);
        if one_client && waiting.by_address.get(&address).is_some_and(|n| *n >= most) {
            return Err(Full::Address);
        }
        if self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                (n < self.total.load(Ordering::Acquire) + own).then_some(n + 1)
            })
            .is_err()
        {
            return Err(Full::Total);
        }
        waiting.all += 1;
        *waiting.by_address.entry(address).or_insert(0) += 1;
        Ok(Permit {
            budget: self.clone(),
            address: Some(address),
        })
    }

    /// Takes no new connection, but a few of this machine's operator.
    pub(crate) fn shed(&self, shed: bool) {
        self.shedding.store(shed, Ordering::Release);
    }

    /// Connections held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    fn authenticated(&self, address: IpAddr) {
        let mut waiting = self.waiting.lock();
        waiting.all = waiting.all.saturating_sub(1);
        if let Some(n) = waiting.by_address.get_mut(&address) {
            *n -= 1;
            if *n == 0 {
                waiting.by_address.remove(&address);
            }
        }
        if waiting.by_address.is_empty() {
            waiting.by_address.shrink_to(64);
        }
    }
}

impl Permit {
    /// The connection is authenticated: its place among the unauthenticated is free again.
    pub(crate) fn authenticated(&mut self) {
        if let Some(address) = self.address.take() {
            self.budget.authenticated(address);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.authenticated();
        self.budget.used.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One subscriber of an IPv6 network has a whole /64, so that is what counts as one address.
fn share_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            IpAddr::V6(std::net::Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

/// A counter of bytes with a ceiling, shared by many.
#[derive(Debug)]
pub(crate) struct Bytes {
    limit: usize,
    used: AtomicUsize,
}

/// Bytes taken from a [`Bytes`] budget; dropping gives them back.
#[derive(Debug)]
pub(crate) struct Held {
    from: Arc<Bytes>,
    bytes: usize,
}

impl Bytes {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    /// Takes `n` bytes; `false` if they are not there.
    pub(crate) fn take(&self, n: usize) -> bool {
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |u| {
                u.checked_add(n).filter(|u| *u <= self.limit)
            })
            .is_ok()
    }

    /// Gives `n` bytes back.
    pub(crate) fn give(&self, n: usize) {
        self.used.fetch_sub(n, Ordering::AcqRel);
    }

    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        Held {
            from: self.clone(),
            bytes: 0,
        }
    }
}

impl Held {
    /// Takes `n` more bytes; `false` if they are not there.
    pub(crate) fn more(&mut self, n: usize) -> bool {
        let ok = self.from.take(n);
        if ok {
            self.bytes += n;
        }
        ok
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.from.give(self.bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    /// Covers: R1, R2.
    #[test]
    fn each_address_has_its_share_and_authenticated_ones_are_not_counted() {
        let budget = Budget::new(1_000, 100, 10, 3);
        let mut a: Vec<_> = (0..3).map(|_| budget.take(ip(1)).unwrap()).collect();
        assert_eq!(budget.take(ip(1)).unwrap_err(), Full::Address);
        a[0].authenticated();
        a[0].authenticated();
        let fourth = budget.take(ip(1)).unwrap();
        assert_eq!(budget.take(ip(1)).unwrap_err(), Full::Address);
        drop((a, fourth));
        assert_eq!(
            (budget.used(), budget.waiting.lock().by_address.len()),
            (0, 0)
        );
    }

    /// Covers: R1.
    #[test]
    fn strangers_cannot_take_the_reserved_places() {
        let budget = Budget::new(1_000, 12, 10, 3);
        let strangers: Vec<_> = (0..10).map(|n| budget.take(ip(n)).unwrap()).collect();
        assert_eq!(budget.take(ip(200)).unwrap_err(), Full::Preauth);
        drop(strangers);
        let mut known: Vec<_> = Vec::new();
        for n in 0..12 {
            let mut p = budget.take(ip(n)).unwrap();
            p.authenticated();
            known.push(p);
        }
        assert_eq!(budget.take(ip(200)).unwrap_err(), Full::Total);
    }

    /// Covers: F27.
    #[test]
    fn there_are_no_more_places_than_descriptors_and_this_machine_has_some_of_its_own() {
        let budget = Budget::new(20, 1_000, 1_000, 100);
        let strangers: Vec<_> = (0..10).map(|n| budget.take(ip(n)).unwrap()).collect();
        assert_eq!(budget.take(ip(200)).unwrap_err(), Full::Preauth);
        let local = "127.0.0.1".parse().unwrap();
        drop(budget.take(local).unwrap());
        drop(strangers);
        let mut known: Vec<_> = Vec::new();
        for n in 0..20 {
            let mut p = budget.take(ip(n)).unwrap();
            p.authenticated();
            known.push(p);
        }
        assert_eq!(budget.take(ip(200)).unwrap_err(), Full::Total);
        let mut operators: Vec<_> = Vec::new();
        for _ in 0..LOCAL_PLACES {
            operators.push(budget.take(local).unwrap());
        }
        assert_eq!(budget.take(local).unwrap_err(), Full::Total);
    }

    /// Covers: F28.
    #[test]
    fn short_of_memory_only_this_machine_gets_in() {
        let budget = Budget::new(1_000, 100, 100, 100);
        budget.shed(true);
        assert_eq!(budget.take(ip(1)).unwrap_err(), Full::Memory);
        let local = "127.0.0.1".parse().unwrap();
        let operators: Vec<_> = (0..LOCAL_PLACES)
            .map(|_| budget.take(local).unwrap())
            .collect();
        assert_eq!(budget.take(local).unwrap_err(), Full::Memory);
        drop(operators);
        budget.shed(false);
        drop(budget.take(ip(1)).unwrap());
    }

    #[test]
    fn one_ipv6_network_is_one_address() {
        let budget = Budget::new(1_000, 10, 10, 1);
        let _p = budget.take("2001:db8::1".parse().unwrap()).unwrap();
        assert_eq!(
            budget.take("2001:db8::ffff".parse().unwrap()).unwrap_err(),
            Full::Address
        );
        assert!(budget.take("2001:db8:0:1::1".parse().unwrap()).is_ok());
        let _q = budget.take(ip(1)).unwrap();
        assert_eq!(
            budget
                .take("::ffff:192.0.2.1".parse().unwrap())
                .unwrap_err(),
            Full::Address
        );
    }

    /// Covers: N7.
    #[test]
    fn byte_budget_is_given_back() {
        let all = Bytes::new(100);
        let mut a = all.hold();
        assert!(a.more(60));
        let mut b = all.hold();
        assert!(!b.more(41) && b.more(40));
        drop(a);
        assert!(b.more(60) && !b.more(1));
    }
}
