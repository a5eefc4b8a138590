//! Devices: the rules as a state machine, and what the store keeps of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_core::pair::book::{Book, Change, Claim, Decision, Minted, Refusal, Silent};
use gateway_core::pair::{Paired, Pairing};
use gateway_core::{Host, Role, Tenant};
use gateway_protocol::methods::connect::ConnectRefusal;
use gateway_protocol::{DetailCode, Scope, ScopeSet};
use gateway_store::CredentialHash;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::support::*;

fn claim(n: u8, role: Role, scopes: ScopeSet) -> Claim {
    Claim {
        device_id: format!("{n:064x}"),
        public_key: format!("key-{n}"),
        display_name: None,
        platform: "linux".into(),
        device_family: None,
        client_id: "cli".into(),
        client_mode: "cli".into(),
        role,
        scopes: if role == Role::Node {
            ScopeSet::NONE
        } else {
            scopes
        },
        address: "192.0.2.7".into(),
    }
}

fn set(bits: u8) -> ScopeSet {
    Scope::ALL
        .into_iter()
        .enumerate()
        .filter(|(i, _)| bits & (1 << i) != 0)
        .map(|(_, s)| s)
        .collect()
}

fn minted(n: u32) -> Minted {
    let mut salt = [0; 16];
    salt[..4].copy_from_slice(&n.to_le_bytes());
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&n.to_le_bytes());
    Minted {
        salt,
        hash: CredentialHash(hash),
    }
}

fn applied(book: &Book, changes: &[Change], now: i64) -> Book {
    let mut next = book.clone();
    for change in changes {
        next.apply(change, now);
    }
    next
}

/// Every set of scopes that an approver may have × every set that a device may ask for: what is given is within what the approver
/// has, and exactly what was asked for; and a replaced token has no more than the old one, nor than who replaced it.
/// Covers: A4.
#[test]
fn nobody_gives_what_they_do_not_have() {
    let empty = Book::default();
    let mut given = 0;
    for asked in 0..=255_u8 {
        let claim = claim(1, Role::Operator, set(asked));
        let ask = Book::ask(
            &claim,
            gateway_protocol::methods::connect::PairingReason::NotPaired,
            "r".into(),
            1,
            100,
        );
        let book = applied(&empty, &ask, 1);
        for has in 0..=255_u8 {
            let ceiling = set(has);
            match book.approve("r", ceiling, minted(1), 2) {
                Ok(changes) => {
                    assert!(set(asked).is_within(ceiling), "{asked:b} by {has:b}");
                    let next = applied(&book, &changes, 2);
                    let device = next.device(&claim.device_id).unwrap();
                    assert_eq!(device.scopes(), set(asked));
                    given += 1;
                }
                Err(Refusal::Beyond(scope)) => {
                    assert!(!ceiling.allows(scope) && set(asked).allows(scope));
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        let paired = applied(
            &book,
            &book.approve("r", ScopeSet::ALL, minted(1), 2).unwrap(),
            2,
        );
        for wanted in 0..=255_u8 {
            let rotated = paired.rotate(
                &claim.device_id,
                Role::Operator,
                Some(set(wanted)),
                ScopeSet::ALL,
                minted(2),
                3,
            );
            assert_eq!(
                rotated.is_ok(),
                set(wanted).is_within(set(asked)),
                "{wanted:b} of {asked:b}"
            );
        }
        let by_reader = paired.rotate(&claim.device_id, Role::Operator, None, set(1), minted(2), 3);
        assert_eq!(by_reader.is_ok(), set(asked).is_within(set(1)));
    }
    assert!(given > 256);
}

#[derive(Debug, Clone)]
enum Step {
    Connect {
        device: u8,
        node: bool,
        scopes: u8,
        silent: bool,
    },
    Approve {
        request: usize,
        ceiling: u8,
    },
    Reject {
        request: usize,
    },
    Rotate {
        device: u8,
        node: bool,
        scopes: u8,
        ceiling: u8,
    },
    Revoke {
        device: u8,
        node: bool,
    },
    Remove {
        device: u8,
    },
    Wait {
        ms: i64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let device = 0..4_u8;
    proptest::collection::vec(
        prop_oneof![
            4 => (device.clone(), any::<bool>(), any::<u8>(), any::<bool>())
                .prop_map(|(device, node, scopes, silent)| Step::Connect { device, node, scopes, silent }),
            3 => (0..4_usize, any::<u8>()).prop_map(|(request, ceiling)| Step::Approve { request, ceiling }),
            1 => (0..4_usize).prop_map(|request| Step::Reject { request }),
            1 => (device.clone(), any::<bool>(), any::<u8>(), any::<u8>())
                .prop_map(|(device, node, scopes, ceiling)| Step::Rotate { device, node, scopes, ceiling }),
            1 => (device.clone(), any::<bool>()).prop_map(|(device, node)| Step::Revoke { device, node }),
            1 => device.prop_map(|device| Step::Remove { device }),
            1 => (0..200_i64).prop_map(|ms| Step::Wait { ms }),
        ],
        1..60,
    )
}

fn role(node: bool) -> Role {
    if node { Role::Node } else { Role::Operator }
}

proptest! {
    /// Whatever devices, operators and the clock do: a device is let in only as what somebody approved since its last end, and no
    /// further; a token that ended never comes back; there is one request per device, and it is decided once.
    /// Covers: A3, A5.
    #[test]
    fn pairing_is_a_state_machine(steps in steps()) {
        const TTL: i64 = 100;
        let (mut book, mut now, mut next_id) = (Book::default(), 0_i64, 0_u32);
        // What was approved, by device and role, since its last end.
        let mut approved: BTreeMap<(u8, Role2), ScopeSet> = BTreeMap::new();
        let mut revoked: BTreeSet<(u8, Role2)> = BTreeSet::new();
        let mut dead: BTreeSet<[u8; 32]> = BTreeSet::new();
        let mut decided: BTreeSet<String> = BTreeSet::new();
        for step in steps {
            next_id += 1;
            let before: BTreeSet<[u8; 32]> = live(&book);
            match step {
                Step::Connect { device, node, scopes, silent } => {
                    let claim = claim(device, role(node), set(scopes));
                    let quietly = Silent { first: silent, upgrade: silent };
                    match book.decide(&claim, quietly, now) {
                        Decision::Known(token) => {
                            let may = approved.get(&(device, node.into())).copied();
                            prop_assert!(may.is_some(), "let in without approval");
                            prop_assert!(claim.scopes.is_within(may.unwrap()));
                            prop_assert!(token.revoked_at.is_none() && !dead.contains(&token.hash.0));
                        }
                        Decision::Approve => {
                            prop_assert!(silent && !revoked.contains(&(device, node.into())));
                            let known = book.device(&claim.device_id).is_some();
                            prop_assert!(!(known && node), "a known device became a node by itself");
                            let changes = book.approve_silently(&claim, "silent", minted(next_id), now);
                            book = applied(&book, &changes, now);
                            let has = approved.entry((device, node.into())).or_default();
                            *has = has.iter().chain(claim.scopes.iter()).collect();
                        }
                        Decision::Ask(reason) => {
                            let changes = Book::ask(&claim, reason, format!("r{next_id:04}"), now, TTL);
                            book = applied(&book, &changes, now);
                        }
                        Decision::Waits(q, _) => prop_assert!(q.expires_at > now && !decided.contains(&q.id)),
                    }
                }
                Step::Approve { request, ceiling } => {
                    let open: Vec<_> = book.requests(now).into_iter().cloned().collect();
                    let Some(q) = open.get(request) else { continue };
                    if let Ok(changes) = book.approve(&q.id, set(ceiling), minted(next_id), now) {
                        let device = u8::from_str_radix(&q.device_id[62..], 16).unwrap();
                        let node = q.role == "node";
                        let asked = ScopeSet::parse(&q.scopes);
                        prop_assert!(asked.is_within(set(ceiling)));
                        book = applied(&book, &changes, now);
                        prop_assert!(decided.insert(q.id.clone()));
                        prop_assert_eq!(book.approve(&q.id, ScopeSet::ALL, minted(0), now), Err(Refusal::NoRequest));
                        let has = approved.entry((device, node.into())).or_default();
                        *has = has.iter().chain(asked.iter()).collect();
                        revoked.remove(&(device, node.into()));
                    }
                }
                Step::Reject { request } => {
                    let open: Vec<String> = book.requests(now).into_iter().map(|q| q.id.clone()).collect();
                    let Some(id) = open.get(request) else { continue };
                    let (changes, _) = book.reject(id, now).unwrap();
                    book = applied(&book, &changes, now);
                    prop_assert!(decided.insert(id.clone()));
                }
                Step::Rotate { device, node, scopes, ceiling } => {
                    let id = format!("{device:064x}");
                    let wanted = if node { ScopeSet::NONE } else { set(scopes) };
                    if let Ok(changes) = book.rotate(&id, role(node), Some(wanted), set(ceiling), minted(next_id), now) {
                        prop_assert!(wanted.is_within(set(ceiling)));
                        book = applied(&book, &changes, now);
                        let has = approved.get_mut(&(device, node.into())).unwrap();
                        prop_assert!(wanted.is_within(*has));
                        *has = wanted;
                    }
                }
                Step::Revoke { device, node } => {
                    if let Ok(changes) = book.revoke(&format!("{device:064x}"), role(node), now) {
                        book = applied(&book, &changes, now);
                        approved.remove(&(device, node.into()));
                        revoked.insert((device, node.into()));
                    }
                }
                Step::Remove { device } => {
                    if let Ok(changes) = book.remove(&format!("{device:064x}")) {
                        book = applied(&book, &changes, now);
                        for node in [false, true] {
                            approved.remove(&(device, node.into()));
                            revoked.remove(&(device, node.into()));
                        }
                    }
                }
                Step::Wait { ms } => now += ms,
            }
            let after = live(&book);
            dead.extend(before.difference(&after));
            prop_assert!(after.is_disjoint(&dead), "an ended token came back");
            let open = book.requests(now);
            let devices: BTreeSet<&str> = open.iter().map(|q| q.device_id.as_str()).collect();
            prop_assert_eq!(devices.len(), open.len(), "one request per device");
            for device in book.devices() {
                let n = u8::from_str_radix(&device.row.id[62..], 16).unwrap();
                for role in device.roles() {
                    let token = device.token(role).unwrap();
                    let may = approved.get(&(n, (role == Role::Node).into())).copied();
                    prop_assert!(may.is_some_and(|may| ScopeSet::parse(&token.scopes).is_within(may)));
                }
            }
        }
    }
}

/// A role that can be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role2 {
    Operator,
    Node,
}

impl From<bool> for Role2 {
    fn from(node: bool) -> Self {
        if node { Self::Node } else { Self::Operator }
    }
}

fn live(book: &Book) -> BTreeSet<[u8; 32]> {
    book.tokens()
        .filter(|t| t.revoked_at.is_none())
        .map(|t| t.hash.0)
        .collect()
}

async fn admit(host: &Host, tenant: &Arc<Tenant>, claim: Claim) -> Result<Paired, ConnectRefusal> {
    match host.pair(tenant, claim, false, true) {
        Pairing::Now(decided) => *decided,
        Pairing::Later(work) => work.await,
    }
}

fn request_of(refused: Result<Paired, ConnectRefusal>) -> String {
    let error = refused.unwrap_err().error;
    assert_eq!(error.detail, DetailCode::PairingRequired, "{error}");
    let details = serde_json::to_value(&error).unwrap();
    details["details"]["requestId"].as_str().unwrap().to_owned()
}

async fn listed(host: &Host, tenant: &Arc<Tenant>) -> Value {
    call(host, tenant, &admin(), "device.pair.list", json!({}))
        .await
        .unwrap()
}

/// What was decided is there after a restart: devices, tokens that hold, tokens that ended, requests that wait; and each decision
/// is in the audit log, which fits.
/// Covers: A5.
#[tokio::test(start_paused = true)]
async fn decisions_survive_a_restart() {
    let dir = scratch();
    let read = ScopeSet::of(Scope::Read);
    let (before, tokens) = {
        let host = start(dir.path(), &Arc::default(), 1).await;
        let main = host.main_tenant().unwrap();
        let mut tokens = Vec::new();
        for n in 1..=4 {
            let id = request_of(admit(&host, &main, claim(n, Role::Operator, read)).await);
            let done = call(
                &host,
                &main,
                &admin(),
                "device.pair.approve",
                json!({ "requestId": id }),
            )
            .await;
            assert!(done.is_ok(), "{done:?}");
            let paired = admit(&host, &main, claim(n, Role::Operator, read))
                .await
                .unwrap();
            tokens.push(paired.token);
        }
        let device = |n: u8| format!("{n:064x}");
        for (method, params) in [
            (
                "device.token.revoke",
                json!({ "deviceId": device(2), "role": "operator" }),
            ),
            (
                "device.token.rotate",
                json!({ "deviceId": device(3), "role": "operator" }),
            ),
            (
                "device.pair.rename",
                json!({ "deviceId": device(3), "label": "Kitchen" }),
            ),
            ("device.pair.remove", json!({ "deviceId": device(4) })),
        ] {
            let done = call(&host, &main, &admin(), method, params).await;
            assert!(done.is_ok(), "{method}: {done:?}");
        }
        request_of(admit(&host, &main, claim(5, Role::Node, read)).await);
        let listed = listed(&host, &main).await;
        host.shutdown(std::time::Duration::from_secs(1)).await;
        (listed, tokens)
    };
    assert_eq!(before["paired"].as_array().unwrap().len(), 3);
    assert_eq!(before["pending"].as_array().unwrap().len(), 1);
    let host = start(dir.path(), &Arc::default(), 2).await;
    let main = host.main_tenant().unwrap();
    assert_eq!(listed(&host, &main).await, before);
    // By token: only the first is as it was.
    for (n, token) in (1..=4_u8).zip(&tokens) {
        let device = format!("{n:064x}");
        let attempt = gateway_core::auth::AuthAttempt {
            peer: "192.0.2.7".parse().unwrap(),
            loopback: false,
            origin: None,
            tenant_hint: &gateway_core::TenantHint::Unnamed,
            token: Some(token),
            password: None,
            device_token: Some(token),
            bootstrap_token: None,
            vouched: None,
            device: Some((&device, Role::Operator)),
            surface: gateway_core::Surface::V4,
        };
        let found = host.authenticate(&attempt);
        assert_eq!(found.is_ok(), n == 1, "{n}: {found:?}");
    }
    let same = admit(&host, &main, claim(1, Role::Operator, read))
        .await
        .unwrap();
    assert_eq!(same.token, tokens[0], "told again, and kept nowhere");
    // The request that waited is decided now, and not by itself.
    let id = before["pending"][0]["requestId"].clone();
    let done = call(
        &host,
        &main,
        &admin(),
        "device.pair.approve",
        json!({ "requestId": id }),
    )
    .await;
    assert!(done.is_ok(), "{done:?}");
    let log = call(
        &host,
        &main,
        &admin(),
        "audit.entries",
        json!({ "limit": 100 }),
    )
    .await
    .unwrap();
    let actions: Vec<&str> = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|e| e["action"].as_str())
        .collect();
    for (action, times) in [
        ("device.pair.approve", 5),
        ("device.token.revoke", 1),
        ("device.token.rotate", 1),
        ("device.pair.rename", 1),
        ("device.pair.remove", 1),
    ] {
        assert_eq!(
            actions.iter().filter(|a| **a == action).count(),
            times,
            "{action}"
        );
    }
    let sound = call(&host, &main, &admin(), "audit.verify", json!({}))
        .await
        .unwrap();
    assert_eq!(sound["ok"], true, "{sound}");
    assert!(!log.to_string().contains(&tokens[0]), "no token in the log");
}

/// A hundred devices at once from one address: exactly ten wait, none of them makes an older one go, and neither another address
/// nor another tenant notices. What ran out makes room.
/// Covers: A10.
#[tokio::test]
async fn the_cap_on_requests_is_one_transaction() {
    let dir = scratch();
    let clock = Arc::new(gateway_core::clock::ManualClock::new(1_800_000_000_000));
    let host = start_with(
        dir.path(),
        &Arc::default(),
        1,
        settings(dir.path()),
        clock.clone(),
    )
    .await;
    let (main, acme) = (host.main_tenant().unwrap(), host.tenant("acme").unwrap());
    let first = request_of(admit(&host, &main, claim(200, Role::Operator, ScopeSet::NONE)).await);
    clock.advance(1);
    let crowd: Vec<_> = (0..100)
        .map(|n| {
            let (host, main) = (host.clone(), main.clone());
            tokio::spawn(async move {
                admit(&host, &main, claim(n, Role::Operator, ScopeSet::NONE)).await
            })
        })
        .collect();
    let mut limited = 0;
    for one in crowd {
        let error = one.await.unwrap().unwrap_err().error;
        limited += usize::from(error.detail == DetailCode::RateLimited);
    }
    assert_eq!(limited, 91);
    let pending = listed(&host, &main).await["pending"].clone();
    assert_eq!(pending.as_array().unwrap().len(), 10);
    assert_eq!(pending[0]["requestId"], json!(first), "the oldest stays");
    let elsewhere = Claim {
        address: "192.0.2.8".into(),
        ..claim(201, Role::Operator, ScopeSet::NONE)
    };
    request_of(admit(&host, &main, elsewhere).await);
    request_of(admit(&host, &acme, claim(202, Role::Operator, ScopeSet::NONE)).await);
    clock.advance(300_001);
    assert_eq!(listed(&host, &main).await["pending"], json!([]));
    let late = call(
        &host,
        &main,
        &admin(),
        "device.pair.approve",
        json!({ "requestId": first }),
    )
    .await;
    assert_eq!(late.unwrap_err().detail, DetailCode::NotFound);
    request_of(admit(&host, &main, claim(203, Role::Operator, ScopeSet::NONE)).await);
}

/// An API key cannot give a device what would outlive it.
/// Covers: A4.
#[tokio::test(start_paused = true)]
async fn an_api_key_gives_devices_nothing() {
    let dir = scratch();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let main = host.main_tenant().unwrap();
    let made = call(
        &host,
        &main,
        &admin(),
        "apikeys.create",
        json!({ "name": "k", "scopes": ["operator.admin"] }),
    )
    .await
    .unwrap();
    let attempt = gateway_core::auth::AuthAttempt {
        peer: "192.0.2.7".parse().unwrap(),
        loopback: false,
        origin: None,
        tenant_hint: &gateway_core::TenantHint::Unnamed,
        token: made["secret"].as_str(),
        password: None,
        device_token: None,
        bootstrap_token: None,
        vouched: None,
        device: None,
        surface: gateway_core::Surface::JsonRpcHttp,
    };
    let mut caller = gateway_core::Caller::internal("key", ScopeSet::ALL, None);
    caller.key = host.authenticate(&attempt).unwrap().key;
    assert!(caller.key.is_some());
    let caller = Arc::new(caller);
    let id = request_of(admit(&host, &main, claim(1, Role::Operator, ScopeSet::NONE)).await);
    for (method, params) in [
        ("device.pair.approve", json!({ "requestId": id })),
        (
            "device.token.rotate",
            json!({ "deviceId": "d", "role": "operator" }),
        ),
    ] {
        let got = call(&host, &main, &caller, method, params)
            .await
            .unwrap_err();
        assert_eq!(got.detail, DetailCode::CapabilityDenied, "{method}");
    }
    let got = call(
        &host,
        &main,
        &caller,
        "device.pair.reject",
        json!({ "requestId": id }),
    )
    .await;
    assert!(got.is_ok(), "turning down gives nothing: {got:?}");
}

/// A setup code ends after ten minutes, and across a restart; kept of it is a hash.
/// Covers: A6.
#[tokio::test]
async fn a_setup_code_ends_and_is_kept_as_a_hash() {
    let dir = scratch();
    let clock = Arc::new(gateway_core::clock::ManualClock::new(1_800_000_000_000));
    let script = Arc::default();
    let begin = |seed| {
        start_with(
            dir.path(),
            &script,
            seed,
            settings(dir.path()),
            clock.clone(),
        )
    };
    let host = begin(1).await;
    let main = host.main_tenant().unwrap();
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let params = json!({ "publicUrl": "wss://gw.example:1", "bootstrapProfile": "node" });
        let made = call(&host, &main, &admin(), "device.pair.setupCode", params)
            .await
            .unwrap();
        tokens.push(token_in(made["setupCode"].as_str().unwrap()));
    }
    let node = |n| claim(n, Role::Node, ScopeSet::NONE);
    let redeem = |host: &Host, main: &Arc<Tenant>, token: &str, n: u8| {
        let hash = main.shared().device_tokens.hash(token);
        host.redeem(main, node(n), hash)
    };
    assert!(redeem(&host, &main, &tokens[0], 1).await.is_ok());
    host.shutdown(std::time::Duration::from_secs(1)).await;
    drop((host, main));
    for entry in walk(dir.path()) {
        let bytes = std::fs::read(&entry).unwrap();
        for token in &tokens {
            let found = bytes.windows(token.len()).any(|w| w == token.as_bytes());
            assert!(!found, "a code in {}", entry.display());
        }
    }
    let host = begin(2).await;
    let main = host.main_tenant().unwrap();
    assert!(
        redeem(&host, &main, &tokens[0], 2).await.is_err(),
        "used before the restart"
    );
    assert!(
        redeem(&host, &main, &tokens[1], 3).await.is_ok(),
        "good after the restart"
    );
    clock.advance(600_001);
    let late = redeem(&host, &main, &tokens[2], 4).await.unwrap_err();
    assert_eq!(late.error.detail, DetailCode::AuthBootstrapTokenInvalid);
    // Only who has everything may make one.
    let caller = Arc::new(gateway_core::Caller::internal(
        "p",
        ScopeSet::of(Scope::Pairing),
        None,
    ));
    let params = json!({ "publicUrl": "wss://gw.example:1" });
    let got = call(&host, &main, &caller, "device.pair.setupCode", params).await;
    assert_eq!(got.unwrap_err().detail, DetailCode::MissingScope);
}

/// Without an address a code leads to the gateway's own, and names its certificate only where it is that one which is shown.
/// Covers: A6.
#[tokio::test]
async fn a_setup_code_leads_to_the_gateway() {
    use gateway_protocol::methods::system::{PartState, TlsHealth};

    let dir = scratch();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let made = async |slug: &str, params: Value| {
        let t = host.tenant(slug).unwrap().clone();
        let made = call(&host, &t, &admin(), "device.pair.setupCode", params).await?;
        let text = base64_url(made["setupCode"].as_str().unwrap());
        let payload: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(payload["url"], made["gatewayUrl"]);
        Ok::<_, gateway_protocol::RpcError>((
            made["urlSource"].as_str().unwrap().to_owned(),
            payload["url"].as_str().unwrap().to_owned(),
            payload["tlsFingerprint"].as_str().map(str::to_owned),
        ))
    };
    let refused = made("main", json!({})).await.unwrap_err();
    assert!(refused.message.contains("publicUrl"), "{refused:?}");
    let listener = |tls| gateway_core::process_health::Listener {
        port: 18_789,
        tls,
        addresses: Arc::new(|| vec!["192.0.2.1".parse().unwrap()]),
    };
    // In clear a code would be anybody's.
    host.set_listener(listener(false));
    assert!(made("main", json!({})).await.is_err());
    host.set_listener(listener(true));
    let pin = "ab".repeat(32);
    host.set_tls_health(TlsHealth {
        state: PartState::Ok,
        fingerprint: pin.clone(),
        next_fingerprint: None,
        expires_at_ms: 0,
        message: None,
    });
    let main = made("main", json!({})).await.unwrap();
    assert_eq!(
        (&*main.0, &*main.1, main.2.as_deref()),
        ("bind", "wss://192.0.2.1:18789", Some(&*pin))
    );
    let (source, url, _) = made("acme", json!({})).await.unwrap();
    assert_eq!(
        (&*source, &*url),
        ("tenant-host", "wss://acme.example:18789")
    );
    // Behind another port stands a proxy with its own certificate.
    for (url, pinned) in [
        ("wss://gw.example", false),
        ("wss://gw.example:8443/x", false),
        ("wss://gw.example:18789", true),
        ("wss://[2001:db8::7]:18789/t/acme/", true),
        ("ws://127.0.0.1:18789", false),
        ("ws://[::1]:18789", false),
    ] {
        let (source, led, fingerprint) = made("main", json!({ "publicUrl": url })).await.unwrap();
        assert_eq!((&*source, &*led), ("param", url));
        assert_eq!(fingerprint.is_some(), pinned, "{url}");
    }
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(walk(&path));
        } else {
            out.push(path);
        }
    }
    out
}

/// The credential in a setup code.
pub fn token_in(code: &str) -> String {
    let payload: Value = serde_json::from_slice(&base64_url(code)).unwrap();
    payload["bootstrapToken"].as_str().unwrap().to_owned()
}

/// Decodes base64url without padding.
fn base64_url(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut out, mut bits, mut have) = (Vec::new(), 0_u32, 0);
    for byte in text.bytes() {
        let value = ALPHABET.iter().position(|b| *b == byte).unwrap();
        bits = bits << 6 | u32::try_from(value).unwrap();
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push(u8::try_from(bits >> have & 0xff).unwrap());
        }
    }
    out
}
