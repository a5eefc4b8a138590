//! Credentials, tenants and the failure limiter.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use gateway_core::auth::{AuthAttempt, effective_scopes};
use gateway_core::clock::ManualClock;
use gateway_core::{Host, Surface, TenantHint};
use gateway_protocol::{DetailCode, Scope, ScopeSet};
use proptest::prelude::*;

use super::support::*;

const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

struct Try<'a> {
    token: Option<&'a str>,
    password: Option<&'a str>,
    loopback: bool,
    origin: Option<&'a str>,
    hint: &'a TenantHint,
    surface: Surface,
}

impl Default for Try<'_> {
    fn default() -> Self {
        Self {
            token: None,
            password: None,
            loopback: false,
            origin: None,
            hint: &TenantHint::Unnamed,
            surface: Surface::V4,
        }
    }
}

/// Tenant slug, or the code of the refusal.
fn attempt(host: &Host, t: &Try<'_>) -> Result<String, DetailCode> {
    host.authenticate(&AuthAttempt {
        peer: if t.loopback {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            FAR
        },
        loopback: t.loopback,
        origin: t.origin,
        tenant_hint: t.hint,
        token: t.token,
        password: t.password,
        device_token: None,
        bootstrap_token: None,
        vouched: None,
        device: None,
        surface: t.surface,
    })
    .map(|a| a.tenant.slug().to_owned())
    .map_err(|r| r.error.detail)
}

async fn host(dir: &std::path::Path, clock: &Arc<ManualClock>) -> Arc<Host> {
    start_with(dir, &Arc::default(), 1, settings(dir), clock.clone()).await
}

/// Each wrong value of each field is refused alike; the shared secret counts in either field; the credential decides the
/// tenant, and a name that disagrees makes it wrong.
/// Covers: A1, A16.
#[tokio::test]
async fn the_credential_decides_and_presence_is_not_enough() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1));
    let host = host(dir.path(), &clock).await;
    let local = || Try {
        loopback: true,
        ..Try::default()
    };
    assert_eq!(
        attempt(
            &host,
            &Try {
                token: Some(MAIN_TOKEN),
                ..local()
            }
        ),
        Ok("main".into())
    );
    assert_eq!(
        attempt(
            &host,
            &Try {
                password: Some(ACME_TOKEN),
                ..local()
            }
        ),
        Ok("acme".into())
    );
    let huge = "x".repeat(1 << 20);
    let prefix = &MAIN_TOKEN[..MAIN_TOKEN.len() - 1];
    for wrong in ["", " ", "wrong", prefix, &huge, "undefined", "null"] {
        for surface in [
            Surface::V4,
            Surface::JsonRpcWs,
            Surface::JsonRpcHttp,
            Surface::OpenAi,
        ] {
            let token = Try {
                token: Some(wrong),
                surface,
                ..local()
            };
            assert_eq!(
                attempt(&host, &token),
                Err(DetailCode::AuthTokenMismatch),
                "{surface:?}"
            );
            let password = Try {
                password: Some(wrong),
                surface,
                ..local()
            };
            assert_eq!(
                attempt(&host, &password),
                Err(DetailCode::AuthPasswordMismatch)
            );
        }
    }
    assert_eq!(
        attempt(&host, &local()),
        Err(DetailCode::DeviceIdentityRequired)
    );
    let bare = Try {
        surface: Surface::OpenAi,
        ..local()
    };
    assert_eq!(attempt(&host, &bare), Err(DetailCode::AuthTokenMissing));

    let acme = host.tenant_by_hints(Some("ACME.example."), None).unwrap();
    let path = host.tenant_by_hints(None, Some("acme")).unwrap();
    let nobody = host.tenant_by_hints(None, Some("globex")).unwrap();
    assert!(
        host.tenant_by_hints(Some("acme.example"), Some("main"))
            .is_err()
    );
    assert!(
        host.tenant_by_hints(Some("acme.example"), Some("acme"))
            .is_ok()
    );
    for hint in [&acme, &path] {
        assert_eq!(
            attempt(
                &host,
                &Try {
                    token: Some(ACME_TOKEN),
                    hint,
                    ..local()
                }
            ),
            Ok("acme".into())
        );
        let foreign = Try {
            token: Some(MAIN_TOKEN),
            hint,
            ..local()
        };
        assert_eq!(attempt(&host, &foreign), Err(DetailCode::AuthTokenMismatch));
    }
    // A tenant that does not exist answers as one that does.
    let unknown = Try {
        token: Some(MAIN_TOKEN),
        hint: &nobody,
        ..local()
    };
    assert_eq!(attempt(&host, &unknown), Err(DetailCode::AuthTokenMismatch));
}

/// Ten failures lock an address for five minutes, right secret or not; a page on this machine is not exempt, a program is.
/// Covers: B4.
#[tokio::test]
async fn failures_lock_out_and_pages_are_never_exempt() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1));
    let host = host(dir.path(), &clock).await;
    let page = |token| Try {
        token: Some(token),
        loopback: true,
        origin: Some("http://localhost:1"),
        ..Try::default()
    };
    for _ in 0..10 {
        assert_eq!(
            attempt(&host, &page("guess")),
            Err(DetailCode::AuthTokenMismatch)
        );
    }
    assert_eq!(
        attempt(&host, &page(MAIN_TOKEN)),
        Err(DetailCode::AuthRateLimited)
    );
    let program = Try {
        token: Some(MAIN_TOKEN),
        loopback: true,
        ..Try::default()
    };
    assert_eq!(
        attempt(&host, &program),
        Ok("main".into()),
        "a program on this machine is exempt"
    );
    let far = Try {
        token: Some(MAIN_TOKEN),
        ..Try::default()
    };
    assert_eq!(
        attempt(&host, &far),
        Ok("main".into()),
        "another address is free"
    );
    clock.advance(299_000);
    assert_eq!(
        attempt(&host, &page(MAIN_TOKEN)),
        Err(DetailCode::AuthRateLimited)
    );
    clock.advance(2_000);
    assert_eq!(attempt(&host, &page(MAIN_TOKEN)), Ok("main".into()));
}

/// No combination of fields and surfaces gets more than ten wrong guesses in a minute.
/// Covers: B5.
#[tokio::test]
async fn no_field_switches_the_limiter_off() {
    let dir = tempfile::tempdir().unwrap();
    for surface in [
        Surface::V4,
        Surface::JsonRpcWs,
        Surface::JsonRpcHttp,
        Surface::OpenAi,
    ] {
        for fields in 1..4 {
            let sub = dir.path().join(format!("{surface:?}-{fields}"));
            let clock = Arc::new(ManualClock::new(1));
            let host = host(&sub, &clock).await;
            let verified = (0..40)
                .filter(|_| {
                    let attempted = attempt(
                        &host,
                        &Try {
                            token: (fields & 1 != 0).then_some("guess"),
                            password: (fields & 2 != 0).then_some("guess"),
                            surface,
                            ..Try::default()
                        },
                    );
                    attempted != Err(DetailCode::AuthRateLimited)
                })
                .count();
            assert_eq!(verified, 10, "{surface:?} {fields}");
        }
    }
}

/// After a rotation the old secret is wrong at once, in memory and in the store.
/// Covers: A11.
#[tokio::test]
async fn a_rotated_secret_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1));
    let host = host(dir.path(), &clock).await;
    let with = |token| Try {
        token: Some(token),
        loopback: true,
        ..Try::default()
    };
    assert_eq!(attempt(&host, &with(MAIN_TOKEN)), Ok("main".into()));
    let fresh = "fresh-token-0123456789abcdef0123456789abcdef";
    host.sync_credentials(&settings_with(dir.path(), fresh))
        .unwrap();
    assert_eq!(
        attempt(&host, &with(MAIN_TOKEN)),
        Err(DetailCode::AuthTokenMismatch)
    );
    assert_eq!(attempt(&host, &with(fresh)), Ok("main".into()));
    // A secret that two tenants share names neither (the configuration refuses it too).
    let mut shared = settings(dir.path());
    let token = shared.main().auth.token.clone();
    shared.tenants.get_mut("acme").unwrap().auth.token = token;
    assert!(host.sync_credentials(&shared).is_err());
    assert_eq!(
        attempt(&host, &with(MAIN_TOKEN)),
        Err(DetailCode::AuthTokenMismatch)
    );
}

proptest! {
    /// What a connection gets is never more than it asked for, and never more than its credential has. Covers: A2.
    #[test]
    fn effective_scopes_are_within_both(asked in proptest::collection::vec(0usize..10, 0..8), ceiling in 0u8..8) {
        let names: Vec<&str> = asked.iter().map(|i| Scope::ALL.get(*i).map_or("operator.bogus", |s| s.as_str())).collect();
        let ceiling = ScopeSet::of(Scope::ALL[usize::from(ceiling)]);
        let got = effective_scopes(&names, ceiling, "cli");
        for scope in got.iter() {
            prop_assert!(ceiling.allows(scope));
            prop_assert!(names.contains(&scope.as_str()));
        }
        prop_assert!(effective_scopes(&names, ceiling, "probe").is_empty());
    }
}
