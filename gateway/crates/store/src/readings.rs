//! Reads that are going on, so that one that takes too long can be cut short.
//!
//! A read holds its snapshot, and SQLite keeps the write-ahead log as long as somebody may still look into it. One read that never
//! ends would make the log fill the disk, for its own tenant and all others.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::{Connection, InterruptHandle};

#[derive(Default)]
pub(crate) struct Readings(Mutex<Going>);

#[derive(Default)]
struct Going {
    last: u64,
    reads: Vec<Reading>,
}

struct Reading {
    number: u64,
    since: Instant,
    handle: InterruptHandle,
}

/// A read that is going on, until it is dropped.
pub(crate) struct ReadGuard<'a> {
    readings: &'a Readings,
    number: u64,
}

impl Readings {
    pub(crate) fn enter(&self, conn: &Connection) -> ReadGuard<'_> {
        let mut going = self.0.lock();
        going.last += 1;
        let number = going.last;
        going.reads.push(Reading {
            number,
            since: Instant::now(),
            handle: conn.get_interrupt_handle(),
        });
        ReadGuard {
            readings: self,
            number,
        }
    }

    /// Ends the statement that each read is at that has gone on for longer. Gives the number of such reads.
    pub(crate) fn cut_longer_than(&self, patience: Duration) -> usize {
        // Under the lock: a connection whose read has ended is not interrupted in its next one.
        let going = self.0.lock();
        let long = going
            .reads
            .iter()
            .filter(|read| read.since.elapsed() > patience);
        long.inspect(|read| read.handle.interrupt()).count()
    }
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        self.readings
            .0
            .lock()
            .reads
            .retain(|read| read.number != self.number);
    }
}
