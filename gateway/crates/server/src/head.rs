//! Strict reading of one HTTP/1.1 request head, before hyper sees it.
//!
//! hyper accepts several spellings that other servers read differently (two lengths, a length beside a transfer coding, no Host,
//! bare line feeds). Each of them is refused here, so that no second reading of a request can exist. This module is pure: bytes in, verdict out.

use crate::limits::{MAX_HEAD_BYTES, MAX_HEADER_LINES, MAX_TARGET_BYTES};

/// How the body of a request is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// No body.
    None,
    /// Exactly this many bytes.
    Length(u64),
    /// Chunked; the connection ends after the answer.
    Chunked,
}

/// What the guard needs to know about an accepted head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What follows the head.
    pub body: BodyKind,
    /// The request asks for another protocol: nothing after it is HTTP until we have answered.
    pub upgrade: bool,
}

/// Why a head is refused. `status` is the HTTP status of the answer, after which the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadFault {
    /// HTTP status of the answer.
    pub status: u16,
    /// What is wrong, for the log and the answer.
    pub why: &'static str,
}

const fn bad(why: &'static str) -> HeadFault {
    HeadFault { status: 400, why }
}

/// Where a head ends, looked for as bytes arrive.
#[derive(Debug, PartialEq, Eq)]
pub enum HeadEnd {
    /// More bytes are needed.
    More,
    /// The head is the first `n` bytes (with its empty line).
    At(usize),
    /// No valid head starts with these bytes.
    Fault(HeadFault),
}

/// Looks for the end of the head in `bytes`, having already looked at the first `*seen` of them.
pub fn find_end(bytes: &[u8], seen: &mut usize) -> HeadEnd {
    // A method starts with a capital letter; anything else (TLS on a plain port, blank lines, garbage) is told so at once.
    if bytes.first().is_some_and(|b| !b.is_ascii_uppercase()) {
        return HeadEnd::Fault(bad("not an HTTP request"));
    }
    let mut at = *seen;
    while at < bytes.len() {
        match bytes[at] {
            b'\n' => {
                if at == 0 || bytes[at - 1] != b'\r' {
                    return HeadEnd::Fault(bad("line ends without CR"));
                }
                if at >= 3 && bytes[at - 3] == b'\r' && bytes[at - 2] == b'\n' {
                    return if at < MAX_HEAD_BYTES {
                        HeadEnd::At(at + 1)
                    } else {
                        HeadEnd::Fault(TOO_LARGE)
                    };
                }
            }
            b'\r' => match bytes.get(at + 1) {
                None => break, // look at it again together with the next byte
                Some(b'\n') => {}
                Some(_) => return HeadEnd::Fault(bad("CR inside a line")),
            },
            0 => return HeadEnd::Fault(bad("NUL in the head")),
            _ => {}
        }
        at += 1;
    }
    *seen = at;
    if bytes.len() >= MAX_HEAD_BYTES {
        HeadEnd::Fault(TOO_LARGE)
    } else {
        HeadEnd::More
    }
}

const TOO_LARGE: HeadFault = HeadFault {
    status: 431,
    why: "request head too large",
};

/// Judges a whole head, `CRLF CRLF` included.
///
/// # Errors
/// The status to answer with before the connection is closed.
pub fn inspect(head: &[u8]) -> Result<Head, HeadFault> {
    let text = head
        .strip_suffix(b"\r\n\r\n")
        .ok_or(bad("head without end"))?;
    let mut lines = text
        .split(|b| *b == b'\n')
        .map(|l| l.strip_suffix(b"\r").unwrap_or(l));
    let (method, target) = request_line(lines.next().unwrap_or_default())?;

    let (mut host, mut length, mut coding, mut upgrade) = (None, None, None, false);
    let (mut origin, mut authorization, mut count) = (0_u32, 0_u32, 0_usize);
    for line in lines {
        count += 1;
        if count > MAX_HEADER_LINES {
            return Err(HeadFault {
                status: 431,
                why: "too many header lines",
            });
        }
        let (name, value) = header_line(line)?;
        if name.eq_ignore_ascii_case(b"host") {
            if host.replace(value).is_some() {
                return Err(bad("two Host lines"));
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if length.replace(content_length(value)?).is_some() {
                return Err(bad("two Content-Length lines"));
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(bad("transfer coding is not exactly chunked"));
            }
            if coding.replace(()).is_some() {
                return Err(bad("two Transfer-Encoding lines"));
            }
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            upgrade = true;
        } else if name.eq_ignore_ascii_case(b"origin") {
            origin += 1;
        } else if name.eq_ignore_ascii_case(b"authorization") {
            authorization += 1;
        }
    }
    if origin > 1 || authorization > 1 {
        return Err(bad("a header that must be single is repeated"));
    }
    let host = host.ok_or(bad("no Host line"))?;
    host_syntax(host)?;
    target_form(target, host)?;
    let body = match (length, coding) {
        (Some(_), Some(())) => return Err(bad("Content-Length beside Transfer-Encoding")),
        (None | Some(0), None) => BodyKind::None,
        (Some(n), None) => BodyKind::Length(n),
        (None, Some(())) => BodyKind::Chunked,
    };
    let bodyless = matches!(method, b"GET" | b"HEAD");
    if body != BodyKind::None && (bodyless || upgrade) {
        return Err(bad("this request must not have a body"));
    }
    Ok(Head {
        body,
        upgrade: upgrade && bodyless,
    })
}

fn request_line(line: &[u8]) -> Result<(&[u8], &[u8]), HeadFault> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad("malformed request line"));
    };
    if method.is_empty() || method.len() > 16 || !method.iter().all(u8::is_ascii_uppercase) {
        return Err(bad("malformed method"));
    }
    if version != b"HTTP/1.1" {
        let known = version.starts_with(b"HTTP/");
        return Err(if known {
            HeadFault {
                status: 505,
                why: "only HTTP/1.1 is served",
            }
        } else {
            bad("malformed version")
        });
    }
    if target.len() > MAX_TARGET_BYTES {
        return Err(HeadFault {
            status: 414,
            why: "request target too long",
        });
    }
    if !target.iter().all(u8::is_ascii_graphic) || target.contains(&b'#') {
        return Err(bad("malformed request target"));
    }
    Ok((method, target))
}

fn header_line(line: &[u8]) -> Result<(&[u8], &[u8]), HeadFault> {
    if line.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
        return Err(bad("folded header line"));
    }
    let colon = line
        .iter()
        .position(|b| *b == b':')
        .ok_or(bad("header line without colon"))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return Err(bad("malformed header name"));
    }
    if value
        .iter()
        .any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f)
    {
        return Err(bad("control character in a header value"));
    }
    Ok((name, value.trim_ascii()))
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn content_length(value: &[u8]) -> Result<u64, HeadFault> {
    if value.is_empty() || value.len() > 15 || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad("malformed Content-Length"));
    }
    Ok(value.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

fn host_syntax(host: &[u8]) -> Result<(), HeadFault> {
    let ok = !host.is_empty()
        && host.len() <= 261
        && host
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(b));
    if ok {
        Ok(())
    } else {
        Err(bad("malformed Host"))
    }
}

fn target_form(target: &[u8], host: &[u8]) -> Result<(), HeadFault> {
    if target.first() == Some(&b'/') {
        return Ok(());
    }
    let rest = target
        .strip_prefix(b"http://")
        .or_else(|| target.strip_prefix(b"https://"))
        .ok_or(bad("request target is not a path"))?;
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?'))
        .unwrap_or(rest.len());
    if rest[..end].eq_ignore_ascii_case(host) {
        Ok(())
    } else {
        Err(HeadFault {
            status: 421,
            why: "target and Host differ",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str) -> Result<Head, u16> {
        let bytes = head.as_bytes();
        let mut seen = 0;
        match find_end(bytes, &mut seen) {
            HeadEnd::At(n) => inspect(&bytes[..n]).map_err(|f| f.status),
            HeadEnd::More => Err(0),
            HeadEnd::Fault(f) => Err(f.status),
        }
    }

    /// Found by the fuzz target `head`: a form feed is no blank, wherever it stands.
    #[test]
    fn control_characters_around_a_value_are_refused() {
        for value in ["\x0c5", "5\x0c", "\x0b5", "\x7f5"] {
            let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length:{value}\r\n\r\n");
            assert_eq!(check(&head), Err(400), "{value:?}");
        }
    }

    #[test]
    fn accepts_the_plain_forms() {
        let get = check("GET /a?b=c HTTP/1.1\r\nHost: x:1\r\n\r\n");
        assert_eq!(
            get,
            Ok(Head {
                body: BodyKind::None,
                upgrade: false
            })
        );
        let post = check("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n\r\n");
        assert_eq!(
            post,
            Ok(Head {
                body: BodyKind::Length(12),
                upgrade: false
            })
        );
        let chunked = check("POST / HTTP/1.1\r\nhost: x\r\nTransfer-Encoding: Chunked\r\n\r\n");
        assert_eq!(
            chunked,
            Ok(Head {
                body: BodyKind::Chunked,
                upgrade: false
            })
        );
        let ws = check("GET / HTTP/1.1\r\nhost: x\r\nUpgrade: websocket\r\n\r\n");
        assert_eq!(
            ws,
            Ok(Head {
                body: BodyKind::None,
                upgrade: true
            })
        );
        assert!(check("GET http://x:9/ok HTTP/1.1\r\nHost: X:9\r\n\r\n").is_ok());
    }

    /// Covers: R4, R9.
    #[test]
    fn refuses_each_ambiguous_spelling() {
        let many: String = (0..65).map(|i| format!("x-{i}: a\r\n")).collect();
        let long = format!(
            "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
            "a".repeat(MAX_HEAD_BYTES)
        );
        let table: &[(&str, u16)] = &[
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 1\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\n",
                400,
            ),
            ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n", 400),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
                505,
            ),
            ("GET / HTTP/1.0\r\n\r\n", 505),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\n",
                400,
            ),
            ("GET / HTTP/1.1\r\nHost: x\r\nX-A: a\r\n b\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: x\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: x\r\nX-A: a\rb\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: x\r\nX-A: a\0b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: x\r\nX-A: a\x01b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: user@x\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", 400),
            ("GET http://evil/ HTTP/1.1\r\nHost: x\r\n\r\n", 421),
            ("GET http://u@x/ HTTP/1.1\r\nHost: x\r\n\r\n", 421),
            ("CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
            ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
            ("GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
            ("GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
            ("get / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
            ("\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
            ("\x16\x03\x01\x02\x00", 400),
            (
                "GET / HTTP/1.1\r\nHost: x\r\nOrigin: a\r\nOrigin: a\r\n\r\n",
                400,
            ),
            (
                "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n",
                400,
            ),
            (
                "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
                400,
            ),
            (&format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"), 431),
            (&long, 431),
        ];
        for (head, status) in table {
            assert_eq!(
                check(head).map(|_| ()),
                Err(*status),
                "{:?}",
                &head[..head.len().min(90)]
            );
        }
    }

    #[test]
    fn finds_the_end_however_the_bytes_arrive() {
        let head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nrest";
        let mut seen = 0;
        for n in 1..head.len() - 4 {
            assert_eq!(find_end(&head[..n], &mut seen), HeadEnd::More, "{n}");
        }
        assert_eq!(find_end(head, &mut seen), HeadEnd::At(head.len() - 4));
    }
}
