//! Rules that need the whole: who is told apart by what, what may be open to whom. And the small grammars.

use std::collections::BTreeMap;

use crate::load::Resolver;
use crate::settings::{AuthMode, MAIN_TENANT, Settings, TailscaleMode};
use crate::source::join_key;

/// Checks what no single key can tell.
pub(crate) fn check(settings: &Settings, cx: &mut Resolver<'_>) {
    open_gateway(settings, cx);
    clear_text(settings, cx);
    trusted_proxy(settings, cx);
    tailnet(settings, cx);
    tenants_apart(settings, cx);
    accounts_apart(settings, cx);
}

/// Where a tenant's key stands in the file.
fn tenant_path(slug: &str, key: &str) -> String {
    match (slug, key) {
        (MAIN_TENANT, "auth") => "gateway.auth".to_owned(),
        (MAIN_TENANT, key) => key.to_owned(),
        (slug, key) => format!("{}.{key}", join_key("tenants", slug)),
    }
}

/// No secret is only possible where no one else can be: alone, and on loopback.
fn open_gateway(settings: &Settings, cx: &mut Resolver<'_>) {
    for tenant in settings.tenants.values() {
        if tenant.auth.mode != AuthMode::None {
            continue;
        }
        let path = format!("{}.mode", tenant_path(&tenant.slug, "auth"));
        if !settings.gateway.bind.is_loopback() {
            cx.bad(
                &path,
                format!(
                    "bind is {}, so others can connect: authentication is needed",
                    settings.gateway.bind.label()
                ),
                "write mode: \"token\", or bind: \"loopback\"",
            );
        } else if settings.tenants.len() > 1 {
            cx.bad(
                &path,
                "with more than one tenant each needs authentication",
                "write mode: \"token\"",
            );
        } else {
            cx.warn(
                &path,
                "every program on this machine can use the gateway without a secret",
            );
        }
    }
}

/// A proxy's word is worth what tells the proxy apart from everybody else.
fn trusted_proxy(settings: &Settings, cx: &mut Resolver<'_>) {
    let proxies = &settings.gateway.trusted_proxies;
    for tenant in settings.tenants.values() {
        let auth = tenant_path(&tenant.slug, "auth");
        let Some(proxy) = &tenant.auth.proxy else {
            continue;
        };
        if proxies.is_empty() {
            cx.bad(
                &format!("{auth}.mode"),
                "no proxy is trusted, so nobody could say who a user is",
                "write the proxy's address into gateway.trustedProxies",
            );
        }
        if tenant.auth.token.is_some() {
            cx.bad(
                &format!("{auth}.token"),
                "in mode trusted-proxy a token opens nothing",
                "remove it; for commands on this machine write password: {store: \"gateway-password\"}",
            );
        }
        if proxy.allow_loopback && proxy.secret.is_none() {
            cx.bad(
                &format!("{auth}.trustedProxy.allowLoopback"),
                "every program on this machine could pretend to be the proxy",
                "write secret: {store: \"proxy-secret\"}, run `gateway secret set proxy-secret`, and let the proxy send it as X-Gateway-Proxy-Secret",
            );
        }
        if proxy.allow_users.is_none() {
            let path = format!("{auth}.trustedProxy.allowUsers");
            if settings.tenants.len() > 1 {
                cx.bad(
                    &path,
                    "with more than one tenant each names its users",
                    "write them as the proxy names them: allowUsers: [\"una@example.org\"]",
                );
            } else {
                cx.warn(
                    &path,
                    "everybody whom the proxy lets in may do everything here; name the users to narrow it",
                );
            }
        }
    }
    users_apart(settings, cx);
}

/// A user whom two tenants let in would belong to whichever the address names; that is theirs to decide, but not by chance.
fn users_apart(settings: &Settings, cx: &mut Resolver<'_>) {
    let mut users: BTreeMap<&str, &str> = BTreeMap::new();
    for tenant in settings.tenants.values() {
        let named = tenant
            .auth
            .proxy
            .iter()
            .flat_map(|p| p.allow_users.iter().flatten());
        for user in named {
            if let Some(other) = users.insert(user, &tenant.slug) {
                cx.warn(
                    &format!("{}.trustedProxy.allowUsers", tenant_path(&tenant.slug, "auth")),
                    format_args!("{user} is a user of {other} too, and reaches each by its host name or path only"),
                );
            }
        }
    }
}

/// Others can connect, and who listens on the way reads along.
fn clear_text(settings: &Settings, cx: &mut Resolver<'_>) {
    let gateway = &settings.gateway;
    if !gateway.bind.is_loopback() && !gateway.tls.enabled {
        cx.warn(
            "gateway.bind",
            format_args!(
                "bind is {} without TLS: tokens and messages cross the network in clear; set gateway.tls.enabled (or --tls), or bind loopback behind a TLS proxy or tunnel",
                gateway.bind.label()
            ),
        );
    }
}

/// Tailscale reaches the gateway on loopback; whoever else could reach it would be told apart by nothing but headers.
fn tailnet(settings: &Settings, cx: &mut Resolver<'_>) {
    let Some(tailscale) = &settings.gateway.tailscale else {
        return;
    };
    if !settings.gateway.bind.is_loopback() {
        cx.bad(
            "gateway.tailscale.mode",
            format!(
                "bind is {}: with Tailscale in front the gateway stays on loopback",
                settings.gateway.bind.label()
            ),
            "write bind: \"loopback\", or mode: \"off\"",
        );
    }
    let open = settings
        .tenants
        .values()
        .any(|t| t.auth.mode == AuthMode::None);
    if open {
        cx.bad(
            "gateway.tailscale.mode",
            "others can connect then: authentication is needed",
            "write gateway.auth.mode: \"token\" (or \"password\" for a funnel)",
        );
    }
    if tailscale.mode == TailscaleMode::Funnel && settings.main().auth.mode != AuthMode::Password {
        cx.bad(
            "gateway.tailscale.mode",
            "a funnel is open to everybody: it needs a password",
            "write gateway.auth.mode: \"password\" with password: {store: \"gateway-password\"}, after `gateway secret set gateway-password`",
        );
    }
}

/// A host name or a secret must name one tenant, or a connection would belong to two.
fn tenants_apart(settings: &Settings, cx: &mut Resolver<'_>) {
    let mut hosts: BTreeMap<&str, &str> = BTreeMap::new();
    let mut secrets: BTreeMap<[u8; 32], &str> = BTreeMap::new();
    for tenant in settings.tenants.values() {
        for host in &tenant.hosts {
            if let Some(other) = hosts.insert(host, &tenant.slug) {
                cx.bad(
                    &tenant_path(&tenant.slug, "hosts"),
                    format!("the host {host} already belongs to the tenant {other}"),
                    "a host names one tenant",
                );
            }
        }
        let both = [
            ("token", &tenant.auth.token),
            ("password", &tenant.auth.password),
        ];
        for (key, secret) in both {
            let Some(secret) = secret else { continue };
            match secrets.insert(secret.digest(), &tenant.slug) {
                Some(other) if other != tenant.slug => cx.bad(
                    &format!("{}.{key}", tenant_path(&tenant.slug, "auth")),
                    format!("the tenant {other} has the same secret"),
                    "a secret names one tenant: give each its own",
                ),
                _ => {}
            }
        }
    }
}

/// Two tenants that share a platform's credential would both get its messages.
fn accounts_apart(settings: &Settings, cx: &mut Resolver<'_>) {
    let mut seen: BTreeMap<(&str, [u8; 32]), (&str, &str)> = BTreeMap::new();
    for tenant in settings.tenants.values() {
        for account in &tenant.channels {
            for (name, secret) in &account.secrets {
                let owner = (tenant.slug.as_str(), account.account.as_str());
                let first = *seen
                    .entry((&account.kind, secret.digest()))
                    .or_insert(owner);
                let path = format!(
                    "{}.secrets",
                    join_key(
                        &format!(
                            "{}.accounts",
                            join_key(&tenant_path(&tenant.slug, "channels"), &account.kind)
                        ),
                        &account.account
                    )
                );
                let path = join_key(&path, name);
                if first.0 != owner.0 {
                    cx.bad(
                        &path,
                        format!(
                            "the {} account {} of the tenant {} has the same secret",
                            account.kind, first.1, first.0
                        ),
                        "an account belongs to one tenant",
                    );
                } else if first.1 != owner.1 {
                    cx.warn(
                        &path,
                        format_args!("the account {} has the same secret", first.1),
                    );
                }
            }
        }
    }
}

/// `scheme://host[:port]` in lower case with a default port left out; `None` if it is something else.
pub(crate) fn origin(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let (scheme, rest) = split_scheme(&text)?;
    let (host, port) = split_authority(rest)?;
    let port = match (scheme, port) {
        ("http", Some(80)) | ("https", Some(443)) | (_, None) => String::new(),
        (_, Some(port)) => format!(":{port}"),
    };
    Some(format!("{scheme}://{host}{port}"))
}

/// A bare host name or IP address in lower case; `None` if it is something else.
pub(crate) fn host_name(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('.').unwrap_or(&text);
    match split_authority(text)? {
        (host, None) => Some(host.to_owned()),
        _ => None,
    }
}

/// `http(s)://host[:port][/path]` without a trailing slash, user name, query or fragment.
pub(crate) fn base_url(text: &str) -> Option<String> {
    let text = text.trim_end_matches('/');
    let (_, rest) = split_scheme(text)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    split_authority(&authority.to_ascii_lowercase())?;
    let plain = path
        .chars()
        .all(|c| c.is_ascii_graphic() && !"?#\\\"<>{}|^`".contains(c));
    plain.then(|| text.to_owned())
}

/// `wss://`, `ws://`, `https://` or `http://` with host, optional port and path.
pub(crate) fn gateway_url(text: &str) -> bool {
    let http = ["wss://", "ws://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .map_or_else(|| text.to_owned(), |rest| format!("https://{rest}"));
    base_url(&http).is_some()
}

/// `http(s)://host[:port]/path`, with a `*` only at the very end.
pub(crate) fn url_pattern(text: &str) -> bool {
    let body = text.strip_suffix('*').unwrap_or(text);
    let Some((_, rest)) = split_scheme(body) else {
        return false;
    };
    let Some(slash) = rest.find('/') else {
        return false;
    };
    let (authority, path) = rest.split_at(slash);
    split_authority(&authority.to_ascii_lowercase()).is_some()
        && without_placeholders(path).is_some_and(|path| {
            path.chars()
                .all(|c| c.is_ascii_graphic() && !"*#\\\"<>{}|^`".contains(c))
        })
}

/// The path without its `{secret:NAME}`: a rule names the secrets that may be put into the path, as in
/// `https://bots.example/bot{secret:token}/*`. `None` when one is not well formed.
fn without_placeholders(path: &str) -> Option<String> {
    let mut plain = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once("{secret:") {
        let (name, after) = after.split_once('}')?;
        if !secret_name(name) {
            return None;
        }
        plain.push_str(before);
        rest = after;
    }
    plain.push_str(rest);
    Some(plain)
}

/// 1 to 64 of letters, digits, `-`, `_`, `.`; not beginning with a dot.
pub(crate) fn secret_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn split_scheme(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("https://")
        .map(|rest| ("https", rest))
        .or_else(|| text.strip_prefix("http://").map(|rest| ("http", rest)))
}

/// Host and port of `host[:port]` (lower case): a name, an IPv4 address or `[v6]`. No user name.
fn split_authority(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.rfind(':') {
        Some(colon) if !text[colon..].contains(']') => {
            (&text[..colon], Some(text[colon + 1..].parse::<u16>().ok()?))
        }
        _ => (text, None),
    };
    let good = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            (1..=253).contains(&host.len())
                && host.split('.').all(|label| {
                    (1..=63).contains(&label.len())
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label.chars().all(|c| {
                            c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_'
                        })
                })
        }
    };
    (good && port != Some(0)).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammars() {
        assert_eq!(
            origin("HTTPS://App.Example:443").as_deref(),
            Some("https://app.example")
        );
        assert_eq!(
            origin("http://localhost:5173").as_deref(),
            Some("http://localhost:5173")
        );
        for bad in [
            "*",
            "null",
            "https://",
            "https://a/b",
            "ftp://a",
            "https://u@a",
            "https://a:99999",
            "//a",
        ] {
            assert_eq!(origin(bad), None, "{bad}");
        }
        assert_eq!(host_name("Acme.Example.").as_deref(), Some("acme.example"));
        for bad in [
            "*",
            "*.example",
            "a:1",
            "https://a",
            "a/b",
            "",
            "a..b",
            "-a",
            "a b",
        ] {
            assert_eq!(host_name(bad), None, "{bad}");
        }
        assert_eq!(
            base_url("http://127.0.0.1:11434/v1/").as_deref(),
            Some("http://127.0.0.1:11434/v1")
        );
        for bad in [
            "127.0.0.1",
            "http://u:p@h/v1",
            "http://h/v1?x=1",
            "http://h/#",
            "file:///etc",
            "http:///v1",
        ] {
            assert_eq!(base_url(bad), None, "{bad}");
        }
        assert!(url_pattern("https://api.example.org/v1/*"));
        assert!(url_pattern("https://api.example.org:8443/exact"));
        for bad in [
            "https://*.example/",
            "https://a",
            "*",
            "https://a*",
            "https://u@a/",
            "https://a/*/b",
        ] {
            assert!(!url_pattern(bad), "{bad}");
        }
        assert!(secret_name("telegram-default-token"));
        for bad in ["", ".", "..", "a/b", ".hidden", "a b", "ü"] {
            assert!(!secret_name(bad), "{bad}");
        }
    }

    #[test]
    fn url_patterns_may_name_secrets_in_the_path() {
        for (text, expect) in [
            ("https://a.example/*", true),
            ("http://127.0.0.1:8081/bot{secret:token}/*", true),
            ("https://a.example/bot{secret:}/*", false),
            ("https://a.example/bot{secret:token/*", false),
            ("https://a.example/bot{token}/*", false),
            ("https://{secret:host}.example/*", false),
            ("https://a.example/*/x", false),
        ] {
            assert_eq!(url_pattern(text), expect, "{text}");
        }
    }
}
