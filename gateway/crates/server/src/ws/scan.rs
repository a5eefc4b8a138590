//! Counts what the WebSocket library does not show: fragments of one message, control frames, and whether a message is half received.
//!
//! It reads only frame headers of the bytes on their way to the library, which stays the one that judges the protocol.

use crate::limits::{
    WS_CONTROL_BURST, WS_CONTROL_PER_SECOND, WS_MAX_SMALL_FRAGMENTS_PER_MESSAGE,
    WS_SMALL_FRAGMENT_BYTES,
};

/// A limit that the peer broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScanFault {
    /// One message came in too many small fragments.
    Fragments,
    /// Pings, pongs and closes came faster than allowed.
    Controls,
}

/// Frame header counter of one connection. Times are milliseconds of one monotonic clock.
#[derive(Debug)]
pub(crate) struct Scanner {
    header: [u8; 14],
    have: usize,
    skip: u64,
    open: bool,
    fragments: u32,
    controls: u32,
    refilled_ms: u64,
    partial_since_ms: Option<u64>,
}

impl Scanner {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self {
            header: [0; 14],
            have: 0,
            skip: 0,
            open: false,
            fragments: 0,
            controls: WS_CONTROL_BURST,
            refilled_ms: now_ms,
            partial_since_ms: None,
        }
    }

    /// Nothing is half received: neither a frame nor a fragmented message.
    pub(crate) fn at_boundary(&self) -> bool {
        self.have == 0 && self.skip == 0 && !self.open
    }

    /// When the message that is half received began.
    pub(crate) fn partial_since_ms(&self) -> Option<u64> {
        self.partial_since_ms
    }

    /// Takes the next bytes of the stream.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], now_ms: u64) -> Result<(), ScanFault> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = usize::try_from(self.skip)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                self.skip -= n as u64;
                bytes = &bytes[n..];
                continue;
            }
            self.header[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if let Some(payload) = self.header_done() {
                self.frame(self.header[0], payload, now_ms)?;
                self.skip = payload;
                self.have = 0;
            }
        }
        if self.at_boundary() {
            self.partial_since_ms = None;
        } else if self.partial_since_ms.is_none() {
            self.partial_since_ms = Some(now_ms);
        }
        Ok(())
    }

    /// The payload length, once the whole header is here.
    fn header_done(&self) -> Option<u64> {
        if self.have < 2 {
            return None;
        }
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        let (extended, short) = match self.header[1] & 0x7f {
            126 => (2, 0),
            127 => (8, 0),
            n => (0, u64::from(n)),
        };
        if self.have < 2 + extended + mask {
            return None;
        }
        let length = self.header[2..2 + extended]
            .iter()
            .fold(short, |n, b| (n << 8) | u64::from(*b));
        Some(length)
    }

    fn frame(&mut self, first: u8, payload: u64, now_ms: u64) -> Result<(), ScanFault> {
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        if opcode >= 8 {
            return self.control(now_ms);
        }
        // Larger fragments cost no more than their bytes, which the largest message bounds.
        let small = u32::from(payload < WS_SMALL_FRAGMENT_BYTES);
        self.fragments = if opcode == 0 {
            self.fragments.saturating_add(small)
        } else {
            small
        };
        self.open = !fin;
        if self.fragments > WS_MAX_SMALL_FRAGMENTS_PER_MESSAGE {
            Err(ScanFault::Fragments)
        } else {
            Ok(())
        }
    }

    fn control(&mut self, now_ms: u64) -> Result<(), ScanFault> {
        let refill = now_ms
            .saturating_sub(self.refilled_ms)
            .saturating_mul(u64::from(WS_CONTROL_PER_SECOND))
            / 1_000;
        if refill > 0 {
            let refill = u32::try_from(refill).unwrap_or(WS_CONTROL_BURST);
            self.controls = self.controls.saturating_add(refill).min(WS_CONTROL_BURST);
            self.refilled_ms = now_ms;
        }
        self.controls = self.controls.checked_sub(1).ok_or(ScanFault::Controls)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut out = vec![first];
        match payload {
            0..=125 => out.push(0x80 | payload as u8),
            126..=65_535 => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(payload as u16).to_be_bytes());
            }
            _ => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(payload as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&[0; 4]);
        out.resize(out.len() + payload, b'a');
        out
    }

    #[test]
    fn knows_boundaries_byte_by_byte() {
        for payload in [0, 1, 125, 126, 65_535, 65_536, 70_000] {
            let bytes = frame(0x81, payload);
            let mut scan = Scanner::new(0);
            for (i, b) in bytes.iter().enumerate() {
                assert!(scan.feed(&[*b], 7).is_ok());
                let end = i + 1 == bytes.len();
                assert_eq!(scan.at_boundary(), end, "{payload} at {i}");
                assert_eq!(scan.partial_since_ms(), (!end).then_some(7));
            }
        }
    }

    /// Covers: R5.
    #[test]
    fn too_many_fragments_of_one_message() {
        let mut scan = Scanner::new(0);
        assert!(scan.feed(&frame(0x01, 1), 0).is_ok());
        for _ in 1..WS_MAX_SMALL_FRAGMENTS_PER_MESSAGE {
            assert!(scan.feed(&frame(0x00, 1), 0).is_ok());
        }
        assert!(!scan.at_boundary());
        assert_eq!(scan.feed(&frame(0x00, 1), 0), Err(ScanFault::Fragments));
        // fragments that are not small are bounded by the size of the message
        let mut scan = Scanner::new(0);
        assert!(scan.feed(&frame(0x01, 1), 0).is_ok());
        for _ in 0..10_000 {
            assert!(scan.feed(&frame(0x00, 64), 0).is_ok());
        }
        // a new message counts from one again
        let mut scan = Scanner::new(0);
        for _ in 0..10_000 {
            assert!(scan.feed(&frame(0x81, 1), 0).is_ok());
        }
    }

    /// Covers: R6.
    #[test]
    fn control_frames_have_a_budget_that_refills() {
        let mut scan = Scanner::new(0);
        for _ in 0..WS_CONTROL_BURST {
            assert!(scan.feed(&frame(0x89, 125), 0).is_ok());
        }
        assert_eq!(scan.feed(&frame(0x89, 0), 0), Err(ScanFault::Controls));
        let mut scan = Scanner::new(0);
        for ms in 0..10_000_u64 {
            if ms % 100 == 0 {
                assert!(scan.feed(&frame(0x8a, 0), ms).is_ok(), "{ms}");
            }
        }
    }
}
