//! A reader of event streams (`text/event-stream`), linear in its input and bounded in its memory.
//!
//! Own and not a library's, because an upstream is not trusted to be kind: the usual parsers keep what they cannot read yet without
//! bound and begin anew with each piece.

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SseFault {
    /// One event is longer than the bound.
    TooLarge,
    /// The data of an event is not UTF-8.
    NotText,
}

/// Takes bytes as they come and gives the data of each whole event.
#[derive(Debug)]
pub(crate) struct SseReader {
    max_event_bytes: usize,
    /// The line that is not ended yet.
    line: Vec<u8>,
    /// Data of the event that is not ended yet.
    data: Vec<u8>,
    /// Bytes of the event so far, whatever they are.
    event_bytes: usize,
    has_data: bool,
    after_cr: bool,
    at_start: bool,
}

impl SseReader {
    /// A reader that refuses events longer than this, counted with their comments and field names.
    pub(crate) fn new(max_event_bytes: usize) -> Self {
        Self {
            max_event_bytes,
            line: Vec::new(),
            data: Vec::new(),
            event_bytes: 0,
            has_data: false,
            after_cr: false,
            at_start: true,
        }
    }

    /// Reads a piece and adds the data of each event that it ends to `out`. After a fault the reader is of no more use.
    pub(crate) fn push(&mut self, piece: &[u8], out: &mut Vec<String>) -> Result<(), SseFault> {
        for &byte in piece {
            let second_half = self.after_cr && byte == b'\n';
            self.after_cr = byte == b'\r';
            if second_half {
                continue;
            }
            self.event_bytes += 1;
            if self.event_bytes > self.max_event_bytes {
                return Err(SseFault::TooLarge);
            }
            if !matches!(byte, b'\r' | b'\n') {
                self.line.push(byte);
                continue;
            }
            if self.at_start {
                self.at_start = false;
                if self.line.starts_with(b"\xef\xbb\xbf") {
                    self.line.drain(..3);
                }
            }
            if self.line.is_empty() {
                self.event_bytes = 0;
                if std::mem::take(&mut self.has_data) {
                    let data = std::mem::take(&mut self.data);
                    out.push(String::from_utf8(data).map_err(|_| SseFault::NotText)?);
                }
            } else {
                self.field();
                self.line.clear();
            }
        }
        Ok(())
    }

    /// One line that is not empty. Only `data` means something here; comments, names and ids are passed over.
    fn field(&mut self) {
        let Some(rest) = self.line.strip_prefix(b"data") else {
            return;
        };
        let value = match rest.split_first() {
            None => rest,
            Some((b':', value)) => value.strip_prefix(b" ").unwrap_or(value),
            Some(_) => return,
        };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<String>, SseFault> {
        let mut reader = SseReader::new(64);
        let mut out = Vec::new();
        pieces.iter().try_for_each(|p| reader.push(p, &mut out))?;
        Ok(out)
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        for (text, want) in [
            (
                "data: a\n\ndata:b\r\n\r\ndata:  c\r\r",
                vec!["a", "b", " c"],
            ),
            ("data: a\ndata\ndata: b\n\n", vec!["a\n\nb"]),
            (": comment\n\nevent: x\nid: 1\nretry: 5\n\n", vec![]),
            ("event: x\ndata: {\"k\": 1}\nid: 7\n\n", vec!["{\"k\": 1}"]),
            ("datax: a\ndata : b\n\n", vec![]),
            ("\u{feff}data: a\n\n\u{feff}data: b\n\n", vec!["a"]),
            ("data\n\n", vec![""]),
            ("data: cut off\n", vec![]),
            ("\n\n\r\n\r\rdata: žluť 🐎\n\n", vec!["žluť 🐎"]),
        ] {
            assert_eq!(read(&[text.as_bytes()]).unwrap(), want, "{text:?}");
        }
        assert_eq!(read(&[b"data: \xff\n\n"]), Err(SseFault::NotText));
        assert_eq!(read(&[b": \xff\ndata: ok\n\n"]).unwrap(), ["ok"]);
    }

    #[test]
    fn one_event_is_bounded_and_many_are_not() {
        for line_end in ["\n", "\r\n", "\r"] {
            let event = format!(
                "data: {}{line_end}data: x{line_end}{line_end}",
                "x".repeat(40)
            );
            assert_eq!(read(&[event.repeat(100).as_bytes()]).unwrap().len(), 100);
            assert_eq!(
                read(&[format!("data: x{line_end}").repeat(20).as_bytes()]),
                Err(SseFault::TooLarge)
            );
            assert_eq!(
                read(&[format!(": x{line_end}").repeat(20).as_bytes()]),
                Err(SseFault::TooLarge),
                "comments count too"
            );
        }
        assert_eq!(read(&[&[b'x'; 65]]), Err(SseFault::TooLarge));
    }

    proptest! {
        /// How the bytes are cut into pieces changes nothing.
        #[test]
        fn pieces_do_not_matter(text in "(data|d|:| |a|é|\r|\n|\r\n){0,30}", cuts in prop::collection::vec(0usize..200, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(read(&pieces), read(&[bytes]));
        }
    }
}
