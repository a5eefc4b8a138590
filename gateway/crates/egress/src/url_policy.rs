//! URLs as we accept them, and the rules that name them.
//!
//! One spelling per target: what has a second reading anywhere (odd number hosts, user names, tabs, backslashes,
//! dot segments, other digits) is refused and never repaired, because a check and a connection that read one string in two ways
//! are how such checks are passed by.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use http::Method;

use crate::limits::{
    MAX_HOST_BYTES, MAX_LABEL_BYTES, MAX_PATTERN_STARS, MAX_SECRET_NAME_BYTES, MAX_URL_BYTES,
    MAX_URL_SECRETS,
};

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS, always verified.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that needs no writing: 80 or 443.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A host in its one spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// Lower case ASCII labels, no trailing dot, not readable as a number.
    Name(String),
    /// Strict dotted quad.
    V4(Ipv4Addr),
    /// In brackets, without zone.
    V6(Ipv6Addr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(ip) => write!(f, "{ip}"),
            Self::V6(ip) => write!(f, "[{ip}]"),
        }
    }
}

/// Why a URL or a rule is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

fn bad<T>(why: impl Into<String>) -> Result<T, UrlError> {
    Err(UrlError(why.into()))
}

/// A checked absolute URL. Its `Debug` and `Display` show the origin only, since the path may hold a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url {
    scheme: Scheme,
    host: Host,
    port: u16,
    target: String,
}

impl Url {
    /// Reads an absolute `http` or `https` URL without user name and fragment.
    ///
    /// # Errors
    /// If it is not exactly such a URL; the text says what is wrong and does not repeat the URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, host, port, target) = parse_parts(text, Allow::Nothing)?;
        Ok(Self {
            scheme,
            host,
            port,
            target,
        })
    }

    /// The scheme.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, also where the URL did not write it.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query as sent in the request line; begins with `/`.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// `scheme://host` and the port where it is not the default.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme.as_str(), self.authority())
    }

    /// The value of the `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The whole URL; may hold a secret.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{}{}", self.origin(), self.target)
    }

    /// The same origin with `suffix` (beginning with `/`) after the path, as `base` + `/chat/completions`.
    ///
    /// # Errors
    /// If this URL has a query, or the result is not a URL that we accept.
    pub fn join_path(&self, suffix: &str) -> Result<Self, UrlError> {
        if self.target.contains('?') {
            return bad("a base URL must not have a query");
        }
        Self::parse(&format!(
            "{}{}{}",
            self.origin(),
            self.target.trim_end_matches('/'),
            suffix
        ))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/…", self.origin())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())
    }
}

/// A URL as a guest writes it: its path may hold `{secret:NAME}`, which the host fills in after the rules were asked.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UrlTemplate {
    scheme: Scheme,
    host: Host,
    port: u16,
    target: String,
}

impl UrlTemplate {
    /// Reads a URL like [`Url::parse`], but with `{secret:NAME}` allowed in the path.
    ///
    /// # Errors
    /// As [`Url::parse`].
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, host, port, target) = parse_parts(text, Allow::Secrets)?;
        Ok(Self {
            scheme,
            host,
            port,
            target,
        })
    }

    /// The names of the secrets that the path asks for, in order.
    #[must_use]
    pub fn secrets(&self) -> Vec<&str> {
        secret_names(&self.target)
    }

    /// Fills in the secrets, percent-encoding what cannot stand in a path segment.
    ///
    /// # Errors
    /// If `lookup` has no value for a name, or the result is not a URL that we accept. No value is in the text.
    pub fn expand(&self, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Url, UrlError> {
        let mut target = String::with_capacity(self.target.len() + 64);
        let mut rest = self.target.as_str();
        while let Some((before, after)) = rest.split_once("{secret:") {
            let Some((name, tail)) = after.split_once('}') else {
                return bad("a secret's brace is not closed");
            };
            let Some(value) = lookup(name) else {
                return bad(format!("there is no secret named {name}"));
            };
            if value.is_empty() || value == "." || value == ".." {
                return bad(format!("the secret named {name} cannot stand in a path"));
            }
            target.push_str(before);
            push_encoded(&mut target, &value);
            rest = tail;
        }
        target.push_str(rest);
        let url = Url {
            scheme: self.scheme,
            host: self.host.clone(),
            port: self.port,
            target,
        };
        if url.target.len() > MAX_URL_BYTES {
            return bad("the URL is too long");
        }
        // A value such as ".%2e" next to literal text must not turn into a dot segment.
        check_path(path_of(&url.target), Allow::Nothing)?;
        Ok(url)
    }

    /// `scheme://host` and the port where it is not the default.
    #[must_use]
    pub fn origin(&self) -> String {
        Url {
            scheme: self.scheme,
            host: self.host.clone(),
            port: self.port,
            target: String::new(),
        }
        .origin()
    }
}

impl fmt::Debug for UrlTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/…", self.origin())
    }
}

/// One allow rule: `[GET|POST ]https://host[:port]/path`.
///
/// Scheme, host and port are exact. In the path `*` stands for any text within one segment, a `*` at the very end for any rest
/// (further segments too), `{secret:NAME}` for exactly that placeholder. A `*` never stands for a placeholder, so that a guest
/// cannot send a secret to a place for which the rule does not name it. The query is free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlRule {
    methods: Vec<Method>,
    scheme: Scheme,
    host: Host,
    port: u16,
    path: String,
}

impl UrlRule {
    /// Reads a rule.
    ///
    /// # Errors
    /// If it is not one; the text says why.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (methods, url) = match text.split_once(' ') {
            None => (Vec::new(), text),
            Some((list, url)) => (
                list.split('|')
                    .map(parse_method)
                    .collect::<Result<Vec<_>, _>>()?,
                url,
            ),
        };
        let (scheme, host, port, path) = parse_parts(url, Allow::Pattern)?;
        if path.contains('?') {
            return bad("a rule has no query");
        }
        if path.matches('*').count() > MAX_PATTERN_STARS {
            return bad("a rule has too many *");
        }
        Ok(Self {
            methods,
            scheme,
            host,
            port,
            path,
        })
    }

    /// True if the rule allows `method` on `url`. A rule without methods allows each.
    #[must_use]
    pub fn matches(&self, method: &Method, url: &UrlTemplate) -> bool {
        (self.methods.is_empty() || self.methods.contains(method))
            && self.scheme == url.scheme
            && self.port == url.port
            && self.host == url.host
            && path_matches(&self.path, path_of(&url.target))
    }

    /// The names of the secrets that the path of this rule may receive.
    #[must_use]
    pub fn secrets(&self) -> Vec<&str> {
        secret_names(&self.path)
    }

    /// The address rule of this rule's exact scheme, host and port.
    #[must_use]
    pub fn host_port(&self, allow_private: bool) -> crate::address::HostPortRule {
        crate::address::HostPortRule {
            scheme: self.scheme,
            host: self.host.clone(),
            port: self.port,
            allow_private,
        }
    }
}

fn parse_method(text: &str) -> Result<Method, UrlError> {
    const KNOWN: [Method; 6] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    KNOWN
        .into_iter()
        .find(|m| m.as_str() == text)
        .ok_or_else(|| UrlError("a rule has an unknown method".into()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Allow {
    Nothing,
    Secrets,
    Pattern,
}

fn parse_parts(text: &str, allow: Allow) -> Result<(Scheme, Host, u16, String), UrlError> {
    if text.len() > MAX_URL_BYTES {
        return bad("the URL is too long");
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic()) {
        return bad(format!(
            "the URL has a character that must be percent-encoded: {:?}",
            c
        ));
    }
    // Schemes are case-insensitive, and "HTTP://" has one reading everywhere.
    let Some((scheme, rest)) = text.split_once("://") else {
        return bad("the URL is not absolute");
    };
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return bad("the scheme is neither http nor https"),
    };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let (host, port) = parse_authority(authority, scheme)?;
    if target.contains('#') {
        return bad("the URL has a fragment, which is never sent");
    }
    let target = match target.as_bytes().first() {
        None => "/".to_string(),
        Some(b'/') => target.to_string(),
        Some(b'?') => format!("/{target}"),
        _ => return bad("the URL has a backslash"),
    };
    let (path, query) = target
        .split_once('?')
        .map_or((target.as_str(), ""), |(p, q)| (p, q));
    check_path(path, allow)?;
    check_escapes(query)?;
    if let Some(c) = query
        .chars()
        .find(|c| matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}'))
    {
        return bad(format!(
            "the query has {c:?}, which must be percent-encoded"
        ));
    }
    Ok((scheme, host, port, target))
}

fn parse_authority(authority: &str, scheme: Scheme) -> Result<(Host, u16), UrlError> {
    if authority.contains('@') {
        return bad("the URL has a user name or password");
    }
    let (host, port) = if let Some(v6) = authority.strip_prefix('[') {
        let Some((inner, after)) = v6.split_once(']') else {
            return bad("the bracket of the host is not closed");
        };
        if inner.contains('%') {
            return bad("the host has a zone");
        }
        let Ok(ip) = inner.parse::<Ipv6Addr>() else {
            return bad("the host in brackets is no IPv6 address");
        };
        let port = match after {
            "" => None,
            _ => match after.strip_prefix(':') {
                Some(port) => Some(port),
                None => return bad("there is text after the host"),
            },
        };
        (Host::V6(ip), port)
    } else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        (parse_host(host)?, port)
    };
    let port = match port {
        None => scheme.default_port(),
        Some(text) => parse_port(text)?,
    };
    Ok((host, port))
}

fn parse_port(text: &str) -> Result<u16, UrlError> {
    let plain = !text.is_empty()
        && text.len() <= 5
        && text.bytes().all(|b| b.is_ascii_digit())
        && !text.starts_with('0');
    match text.parse::<u16>() {
        Ok(port) if plain => Ok(port),
        _ => bad("the port is not a number from 1 to 65535"),
    }
}

fn parse_host(text: &str) -> Result<Host, UrlError> {
    if text.is_empty() || text.len() > MAX_HOST_BYTES {
        return bad("the host is empty or too long");
    }
    let name = text.to_ascii_lowercase();
    for label in name.split('.') {
        if label.is_empty() || label.len() > MAX_LABEL_BYTES {
            return bad("the host has an empty or too long label (or a dot at its end)");
        }
        if !label
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        {
            return bad(
                "the host has a character that is not a letter, a digit or a hyphen (write other scripts in their xn-- form)",
            );
        }
        if label.starts_with('-') || label.ends_with('-') {
            return bad("a label of the host begins or ends with a hyphen");
        }
    }
    // A host whose last label is a number is read as IPv4 by many libraries, in many spellings; only one is accepted.
    let last = name.rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if number {
        return match name.parse::<Ipv4Addr>() {
            Ok(ip) if ip.to_string() == name => Ok(Host::V4(ip)),
            _ => bad("the host is an odd spelling of an IPv4 address"),
        };
    }
    Ok(Host::Name(name))
}

fn path_of(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// Each percent sign begins a whole escape.
fn check_escapes(text: &str) -> Result<(), UrlError> {
    let bytes = text.as_bytes();
    let whole = |at: usize| bytes.get(at + 1..at + 3).and_then(decode_hex).is_some();
    if bytes
        .iter()
        .enumerate()
        .any(|(at, b)| *b == b'%' && !whole(at))
    {
        return bad("a percent sign is not followed by two hex digits");
    }
    Ok(())
}

fn decode_hex(pair: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    match pair {
        [a, b] => u8::try_from(digit(*a)? * 16 + digit(*b)?).ok(),
        _ => None,
    }
}

fn check_path(path: &str, allow: Allow) -> Result<(), UrlError> {
    check_escapes(path)?;
    let plain = without_secrets(path, allow)?;
    if let Some(c) = plain
        .chars()
        .find(|c| matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}'))
    {
        return bad(format!("the path has {c:?}, which must be percent-encoded"));
    }
    // Some servers decode twice: look at the path as written, decoded once and decoded twice.
    let mut form = plain.into_bytes();
    for _ in 0..3 {
        if form.split(|b| *b == b'/' || *b == b'\\').any(|segment| {
            // A path parameter ("..;x") is dropped by some servers.
            let name = segment.split(|b| *b == b';').next().unwrap_or_default();
            name == b"." || name == b".."
        }) {
            return bad("the path has a dot segment");
        }
        if form.iter().any(u8::is_ascii_control) {
            return bad("a percent escape in the path hides a control character");
        }
        form = percent_decode(&form);
    }
    Ok(())
}

fn percent_decode(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(b) = bytes.get(at) {
        match (*b == b'%')
            .then(|| bytes.get(at + 1..at + 3).and_then(decode_hex))
            .flatten()
        {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(*b);
                at += 1;
            }
        }
    }
    out
}

/// The path with each `{secret:NAME}` replaced by a harmless letter.
fn without_secrets(path: &str, allow: Allow) -> Result<String, UrlError> {
    if allow == Allow::Nothing {
        return Ok(path.to_string());
    }
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    let mut found = 0;
    while let Some((before, after)) = rest.split_once("{secret:") {
        let Some((name, tail)) = after.split_once('}') else {
            return bad("a secret's brace is not closed");
        };
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if name.is_empty() || name.len() > MAX_SECRET_NAME_BYTES || !name.bytes().all(word) {
            return bad("a secret's name is not made of letters, digits, '_', '-' and '.'");
        }
        found += 1;
        plain.push_str(before);
        plain.push('s');
        rest = tail;
    }
    if found > MAX_URL_SECRETS {
        return bad("the URL asks for too many secrets");
    }
    plain.push_str(rest);
    Ok(plain)
}

fn secret_names(text: &str) -> Vec<&str> {
    text.split("{secret:")
        .skip(1)
        .filter_map(|part| part.split_once('}').map(|(name, _)| name))
        .collect()
}

fn push_encoded(out: &mut String, value: &str) {
    use fmt::Write as _;
    for b in value.bytes() {
        if b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b':'
                    | b'@'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'+'
                    | b','
                    | b'='
            )
        {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    let Some(open) = pattern.strip_suffix('*') else {
        let mut wanted = pattern.split('/');
        let mut given = path.split('/');
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return true,
                (Some(p), Some(s)) if segment_matches(p, s) => {}
                _ => return false,
            }
        }
    };
    // `head/last*`: the segments before are compared one by one, the rest is free text without placeholders.
    let (head, last) = open.rsplit_once('/').unwrap_or(("", open));
    let depth = head.matches('/').count();
    let mut given = path.splitn(depth + 2, '/');
    for p in head.split('/') {
        match given.next() {
            Some(s) if segment_matches(p, s) => {}
            _ => return false,
        }
    }
    let Some(rest) = given.next() else {
        return false;
    };
    if last.contains('*') {
        let (segment, more) = rest.split_once('/').unwrap_or((rest, ""));
        segment_matches(&format!("{last}*"), segment) && !more.contains(['{', '}'])
    } else {
        rest.strip_prefix(last)
            .is_some_and(|free| !free.contains(['{', '}']))
    }
}

/// `*` stands for any text without braces; both sides have no `/`.
fn segment_matches(pattern: &str, text: &str) -> bool {
    let Some((first, more)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = more.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        match rest.split_once(part) {
            Some((skipped, after)) if !skipped.contains(['{', '}']) => rest = after,
            _ => return false,
        }
    }
    rest.strip_suffix(last)
        .is_some_and(|free| !free.contains(['{', '}']))
}

#[cfg(test)]
#[path = "url_policy_tests.rs"]
mod tests;
