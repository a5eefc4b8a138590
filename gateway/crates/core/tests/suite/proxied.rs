//! Users whom a reverse proxy vouches for.

use std::sync::Arc;

use gateway_config::{LoadRequest, Overrides, Settings, load_text};
use gateway_core::auth::{AuthAttempt, Authenticated, Proof, Vouched};
use gateway_core::{Host, Surface, TenantHint};
use gateway_protocol::ScopeSet;

use super::support::*;

const SECRET: &str = "k7Q2v9XbT4mZr8Lw3NcY6hJd5FsG1pAe";
const PASSWORD: &str = "Zp4Wc8RfM1xKt6BvQ9sLd3HyN7gJu2Ea";

/// Two tenants behind a proxy: una is a user of `main`, bo of `acme`, and kim of both.
fn behind(dir: &std::path::Path, main_users: &str) -> Settings {
    let text = format!(
        r#"{{
            gateway: {{ trustedProxies: ["198.51.100.7"], auth: {{ mode: "trusted-proxy", password: "{PASSWORD}", trustedProxy: {{
                userHeader: "X-User", requiredHeaders: ["X-Assertion"], allowUsers: [{main_users}] }} }} }},
            tenants: {{ acme: {{ hosts: ["acme.example"], auth: {{ mode: "trusted-proxy", trustedProxy: {{
                userHeader: "x-user", allowUsers: ["bo", "kim"], allowLoopback: true, secret: "{SECRET}" }} }} }} }},
        }}"#
    );
    let request = LoadRequest {
        state_dir: dir.to_owned(),
        config_path: None,
        overrides: Overrides::default(),
        env: &|_| None,
    };
    load_text(&text, &request, dir.join("gateway.json5")).unwrap()
}

struct Try<'a> {
    vouched: Option<&'a Vouched>,
    hint: &'a TenantHint,
    password: Option<&'a str>,
    loopback: bool,
    origin: Option<&'a str>,
}

impl Default for Try<'_> {
    fn default() -> Self {
        Self {
            vouched: None,
            hint: &TenantHint::Unnamed,
            password: None,
            loopback: false,
            origin: None,
        }
    }
}

/// Who was let in, or the reason of the refusal.
fn attempt(host: &Host, t: &Try<'_>) -> Result<Authenticated, String> {
    host.authenticate(&AuthAttempt {
        peer: "192.0.2.7".parse().unwrap(),
        loopback: t.loopback,
        origin: t.origin,
        tenant_hint: t.hint,
        token: None,
        password: t.password,
        device_token: None,
        bootstrap_token: None,
        vouched: t.vouched,
        device: None,
        surface: Surface::JsonRpcHttp,
    })
    .map_err(|refusal| {
        let error = serde_json::to_value(&refusal.error).unwrap();
        let reason = error["details"]["authReason"].as_str();
        reason.unwrap_or_else(|| panic!("{error}")).to_owned()
    })
}

fn says(same_host: bool, said: &[(&str, &str)]) -> Vouched {
    Vouched {
        same_host,
        said: said
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

/// Each part of the proof is needed, and a user is let in where they are one: exactly as they are named.
/// Covers: A15, A20.
#[tokio::test]
async fn the_word_of_a_proxy_is_judged_whole() {
    let dir = scratch();
    let settings = behind(dir.path(), r#""una", "kim""#);
    let clock = Arc::new(gateway_core::clock::ManualClock::new(1_800_000_000_000));
    let host = start_with(dir.path(), &Arc::default(), 1, settings, clock).await;
    let main = TenantHint::Named(host.main_tenant().unwrap().clone());
    let acme = TenantHint::Named(host.tenant("acme").unwrap().clone());
    let who = |hint: &TenantHint, same_host, said: &[(&str, &str)]| {
        let vouched = says(same_host, said);
        let found = attempt(
            &host,
            &Try {
                vouched: Some(&vouched),
                hint,
                ..Try::default()
            },
        )?;
        assert_eq!(found.method, "trusted-proxy");
        assert_eq!(found.ceiling, ScopeSet::ALL);
        assert!(matches!(found.proof, Proof::Proxied(_)));
        Ok::<_, String>(found.tenant.slug().to_owned())
    };
    let refused = |why: &str| Err(why.to_owned());
    let jwt = ("x-assertion", "jwt");
    assert_eq!(
        who(&main, false, &[("x-user", "una"), jwt]),
        Ok("main".to_owned())
    );
    // The proxy's spaces are not the user's.
    assert_eq!(
        who(&main, false, &[("x-user", " una "), jwt]),
        Ok("main".to_owned())
    );
    let missing = refused("trusted_proxy_missing_header_x-assertion");
    assert_eq!(who(&main, false, &[("x-user", "una")]), missing);
    assert_eq!(
        who(&main, false, &[("x-user", "una"), ("x-assertion", " ")]),
        missing
    );
    let nobody = refused("trusted_proxy_user_missing");
    assert_eq!(who(&main, false, &[jwt]), nobody);
    assert_eq!(who(&main, false, &[("x-user", ""), jwt]), nobody);
    let stranger = refused("trusted_proxy_user_not_allowed");
    for user in ["Una", "una,admin", "una\u{200b}", "un", "unaa", "*", "bo"] {
        assert_eq!(
            who(&main, false, &[("x-user", user), jwt]),
            stranger,
            "{user}"
        );
    }
    // Every program of this machine could say it, and does not get past the address.
    let local = refused("trusted_proxy_loopback_source");
    assert_eq!(who(&main, true, &[("x-user", "una"), jwt]), local);
    // Where a proxy of this machine counts, it proves itself.
    let secret = ("x-gateway-proxy-secret", SECRET);
    let unproven = refused("trusted_proxy_secret_mismatch");
    assert_eq!(
        who(&acme, true, &[("x-user", "bo"), secret]),
        Ok("acme".to_owned())
    );
    assert_eq!(who(&acme, true, &[("x-user", "bo")]), unproven);
    assert_eq!(who(&acme, false, &[("x-user", "bo")]), unproven);
    let wrong = ("x-gateway-proxy-secret", "k7Q2v9XbT4mZr8Lw3NcY6hJd5FsG1pAf");
    assert_eq!(who(&acme, true, &[("x-user", "bo"), wrong]), unproven);
    // A user is one of their own tenants, whatever the address says; one of two has to say which.
    let any = &TenantHint::Unnamed;
    assert_eq!(
        who(any, false, &[("x-user", "una"), jwt, secret]),
        Ok("main".to_owned())
    );
    assert_eq!(
        who(any, false, &[("x-user", "bo"), jwt, secret]),
        Ok("acme".to_owned())
    );
    assert_eq!(
        who(&acme, false, &[("x-user", "una"), jwt, secret]),
        stranger
    );
    assert_eq!(
        who(any, false, &[("x-user", "kim"), jwt, secret]),
        refused("trusted_proxy_tenant_ambiguous")
    );
    assert_eq!(
        who(&acme, false, &[("x-user", "kim"), secret]),
        Ok("acme".to_owned())
    );
    let nowhere = TenantHint::Nobody;
    assert_eq!(
        who(&nowhere, false, &[("x-user", "una"), jwt]),
        refused("token_missing")
    );
    // Who does not come through a proxy learns nothing of how tenants are let in.
    assert!(
        attempt(
            &host,
            &Try {
                hint: &main,
                ..Try::default()
            }
        )
        .is_err_and(|why| why == "token_missing")
    );

    // The password of a proxied tenant is for this machine alone.
    let by_password = |loopback, origin| {
        let found = attempt(
            &host,
            &Try {
                password: Some(PASSWORD),
                loopback,
                origin,
                ..Try::default()
            },
        );
        found.map(|found| found.method)
    };
    assert_eq!(by_password(true, None), Ok("password"));
    assert_eq!(
        by_password(false, None),
        Err("password_mismatch".to_owned())
    );
    assert!(by_password(true, Some("https://page.example")).is_err());
}

/// A user who is taken off the list is out at once.
/// Covers: A5, A15.
#[tokio::test]
async fn a_user_who_is_not_named_any_more_is_out() {
    let dir = scratch();
    let settings = behind(dir.path(), r#""una", "kim""#);
    let clock = Arc::new(gateway_core::clock::ManualClock::new(1_800_000_000_000));
    let host = start_with(dir.path(), &Arc::default(), 1, settings, clock).await;
    let main = host.main_tenant().unwrap().clone();
    let vouched = says(false, &[("x-user", "una"), ("x-assertion", "jwt")]);
    let by = Try {
        vouched: Some(&vouched),
        ..Try::default()
    };
    let found = attempt(&host, &by).unwrap();
    assert!(host.still_admits(&main, &found.proof));
    host.sync_credentials(&behind(dir.path(), r#""kim""#))
        .unwrap();
    assert!(!host.still_admits(&main, &found.proof));
    assert_eq!(
        attempt(&host, &by).unwrap_err(),
        "trusted_proxy_user_not_allowed"
    );
}
