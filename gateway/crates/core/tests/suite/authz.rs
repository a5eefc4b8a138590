//! Who may call what: generated from the registry, so that a new method is in here by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_core::{Caller, Role};
use gateway_protocol::method::{Access, MethodSpec};
use gateway_protocol::{DetailCode, Scope, ScopeSet};
use serde_json::{Value, json};

use super::support::*;

/// Every set of up to two scopes, and all.
fn scope_sets() -> Vec<ScopeSet> {
    let mut sets = vec![ScopeSet::NONE, ScopeSet::ALL];
    for a in Scope::ALL {
        for b in Scope::ALL {
            sets.push([a, b].into_iter().collect());
        }
    }
    sets
}

fn methods() -> impl Iterator<Item = &'static MethodSpec> {
    gateway_protocol::method::all()
        .iter()
        .copied()
        .filter(|m| !gateway_core::rpc::ELSEWHERE.contains(&m.name))
}

/// Every method × role × scope set: refused exactly when the registry says so, before anything is decoded.
/// Covers: A2, A18.
#[tokio::test(start_paused = true)]
async fn every_method_asks_for_its_scope() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap().clone();
    let mut checked = 0;
    for spec in methods() {
        for role in [Role::Operator, Role::Node] {
            for scopes in scope_sets() {
                let mut caller = Caller::internal("matrix", scopes, None);
                caller.role = role;
                // Params that no method takes: who may not call learns nothing about them.
                let got = call(&host, &t, &Arc::new(caller), spec.name, json!([])).await;
                let refused = got.as_ref().err().map(|e| e.detail);
                let allowed = match spec.access {
                    Access::Any => true,
                    Access::Operator(scope) => role == Role::Operator && scopes.allows(scope),
                    Access::Node => role == Role::Node,
                };
                let denied = matches!(
                    refused,
                    Some(DetailCode::MissingScope | DetailCode::WrongRole)
                );
                assert_eq!(
                    !denied, allowed,
                    "{} as {role:?} with {scopes:?}: {got:?}",
                    spec.name
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 30 * 2 * 60, "{checked}");
    // A method that nobody classified counts as admin.
    for (scopes, code) in [
        (ScopeSet::of(Scope::Write), DetailCode::MissingScope),
        (ScopeSet::ALL, DetailCode::UnknownMethod),
    ] {
        let caller = Arc::new(Caller::internal("matrix", scopes, None));
        let got = call(&host, &t, &caller, "no.such.method", json!({}))
            .await
            .unwrap_err();
        assert_eq!(got.detail, code);
    }
}

/// What a credential of each kind gives, for a set of scopes: the callers that transports would make of them.
async fn callers_of(
    host: &gateway_core::Host,
    t: &Arc<gateway_core::Tenant>,
    n: usize,
    scopes: ScopeSet,
) -> Vec<(&'static str, Role, ScopeSet, Caller)> {
    use gateway_core::auth::AuthAttempt;
    use gateway_core::pair::{Pairing, book::Claim};
    use gateway_core::{Surface, TenantHint};

    let names: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
    let authenticate = |token: &str, device: Option<(&str, Role)>, surface| {
        let attempt = AuthAttempt {
            peer: "192.0.2.7".parse().unwrap(),
            loopback: false,
            origin: None,
            tenant_hint: &TenantHint::Unnamed,
            token: Some(token),
            password: None,
            device_token: None,
            bootstrap_token: None,
            vouched: None,
            device,
            surface,
        };
        host.authenticate(&attempt).unwrap()
    };
    let caller = |role, scopes, found: &gateway_core::auth::Authenticated| {
        let mut caller = Caller::internal("matrix", scopes, None);
        caller.role = role;
        caller.key = found.key.clone();
        caller.credential = Some(found.proof.name(found.method));
        caller
    };
    let mut out = Vec::new();
    // The tenant's own secret gives what is asked for.
    let found = authenticate(MAIN_TOKEN, None, Surface::V4);
    let granted = ScopeSet::effective(scopes, found.ceiling);
    out.push((
        "secret",
        Role::Operator,
        scopes,
        caller(Role::Operator, granted, &found),
    ));
    // A key gives what it was made with, whatever is asked for.
    if !scopes.is_empty() {
        let params = json!({ "name": format!("matrix {n}"), "scopes": names });
        let made = call(host, t, &admin(), "apikeys.create", params)
            .await
            .unwrap();
        let found = authenticate(made["secret"].as_str().unwrap(), None, Surface::JsonRpcHttp);
        let granted = ScopeSet::effective(ScopeSet::ALL, found.ceiling);
        out.push((
            "API key",
            Role::Operator,
            scopes,
            caller(Role::Operator, granted, &found),
        ));
    }
    // A device gives what was approved; as a node it has no scopes at all.
    for role in [Role::Operator, Role::Node] {
        let claim = Claim {
            device_id: format!("{:064x}", n * 2 + usize::from(role == Role::Node)),
            public_key: "key".to_owned(),
            display_name: None,
            platform: "linux".to_owned(),
            device_family: None,
            client_id: "test".to_owned(),
            client_mode: "test".to_owned(),
            role,
            scopes,
            address: "192.0.2.7".to_owned(),
        };
        let admit = |claim: Claim| async {
            match host.pair(t, claim, false, true) {
                Pairing::Now(decided) => *decided,
                Pairing::Later(work) => work.await,
            }
        };
        let refused = serde_json::to_value(admit(claim.clone()).await.unwrap_err().error).unwrap();
        let params = json!({ "requestId": refused["details"]["requestId"] });
        call(host, t, &admin(), "device.pair.approve", params)
            .await
            .unwrap();
        let paired = admit(claim.clone()).await.unwrap();
        let device = (claim.device_id.as_str(), role);
        let found = authenticate(&paired.token, Some(device), Surface::V4);
        let has = if role == Role::Node {
            ScopeSet::NONE
        } else {
            scopes
        };
        let granted = ScopeSet::effective(ScopeSet::ALL, found.ceiling);
        let mut caller = caller(role, granted, &found);
        caller.device = Some(paired.pass);
        out.push(("device token", role, has, caller));
    }
    out
}

/// Every method × role × scope × kind of credential: each credential opens just what the registry says of its scopes. What no
/// credential was tried on is listed, and the list is empty.
/// Covers: A2, A4, A18.
#[tokio::test(start_paused = true)]
async fn every_credential_gives_just_its_scopes() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap().clone();
    let mut sets = vec![ScopeSet::NONE, ScopeSet::ALL];
    sets.extend(Scope::ALL.map(ScopeSet::of));
    let mut tried = Tried::default();
    for (n, scopes) in sets.iter().enumerate() {
        for (kind, role, has, caller) in callers_of(&host, &t, n, *scopes).await {
            opens_just(&host, &t, kind, role, has, caller, &mut tried).await;
        }
    }
    let kinds = [
        ("secret", "operator", sets.len()),
        ("API key", "operator", sets.len() - 1),
        ("device token", "operator", sets.len()),
        ("device token", "node", sets.len()),
    ];
    nothing_is_left(&tried, &kinds);
}

/// How often a method was tried, by kind of credential and role.
type Tried = BTreeMap<(&'static str, &'static str, &'static str), usize>;

/// Every method by this caller: let through exactly if the registry says so of `role` and the scopes `has`.
async fn opens_just(
    host: &gateway_core::Host,
    t: &Arc<gateway_core::Tenant>,
    kind: &'static str,
    role: Role,
    has: ScopeSet,
    caller: Caller,
    tried: &mut Tried,
) {
    let caller = Arc::new(caller);
    for spec in methods() {
        let got = call(host, t, &caller, spec.name, json!([])).await;
        let denied = got
            .as_ref()
            .err()
            .is_some_and(|e| matches!(e.detail, DetailCode::MissingScope | DetailCode::WrongRole));
        let allowed = spec.access.check(role, has).is_ok();
        assert_eq!(
            !denied, allowed,
            "{} by {kind} as {role:?} with {has:?}: {got:?}",
            spec.name
        );
        *tried.entry((spec.name, kind, role.as_str())).or_default() += 1;
    }
}

/// What was not tried, is printed, and is nothing.
fn nothing_is_left(tried: &Tried, kinds: &[(&'static str, &'static str, usize)]) {
    let uncovered: Vec<_> = methods()
        .flat_map(|m| {
            kinds
                .iter()
                .map(|(kind, role, times)| (m.name, *kind, *role, *times))
        })
        .filter(|(name, kind, role, times)| tried.get(&(*name, *kind, *role)) != Some(times))
        .collect();
    println!(
        "{} methods by {} kinds of credential and role; uncovered: {uncovered:?}",
        methods().count(),
        kinds.len()
    );
    assert!(uncovered.is_empty(), "{uncovered:?}");
}

/// The same for who comes without a credential of their own: by a setup code, by a proxy's word, by being on this machine. A code
/// gives what it was made for, whatever is asked for with it.
/// Covers: A2, A6, A15, A18.
#[tokio::test(start_paused = true)]
async fn every_other_way_in_gives_just_its_scopes() {
    use gateway_config::{AuthMode, TrustedProxySettings};
    use gateway_core::auth::{AuthAttempt, Vouched};
    use gateway_core::pair::book::Claim;
    use gateway_core::{Surface, TenantHint};

    let dir = tempfile::tempdir().unwrap();
    let clock = || Arc::new(gateway_core::clock::ManualClock::new(1_800_000_000_000));
    let host = start_with(
        dir.path(),
        &Arc::default(),
        1,
        settings(dir.path()),
        clock(),
    )
    .await;
    let t = host.main_tenant().unwrap().clone();
    let mut tried = Tried::default();
    fn attempt(
        host: &gateway_core::Host,
        token: Option<&str>,
        device: Option<(&str, Role)>,
        vouched: Option<&Vouched>,
        loopback: bool,
    ) -> gateway_core::auth::Authenticated {
        host.authenticate(&AuthAttempt {
            peer: "192.0.2.7".parse().unwrap(),
            loopback,
            origin: None,
            tenant_hint: &TenantHint::Unnamed,
            token,
            password: None,
            device_token: None,
            bootstrap_token: None,
            vouched,
            device,
            surface: Surface::V4,
        })
        .unwrap()
    }
    let limited = "operator.approvals operator.read operator.talk.secrets operator.write";
    let full = format!("operator.admin {limited}");
    let mut n = 0;
    for (access, operator) in [
        ("full", Some(&*full)),
        ("limited", Some(limited)),
        ("node", None),
    ] {
        for role in [Role::Operator, Role::Node] {
            n += 1;
            let mut params = json!({ "publicUrl": "wss://gw.example" });
            if access != "full" {
                params["bootstrapProfile"] = json!(access);
            }
            let made = call(&host, &t, &admin(), "device.pair.setupCode", params)
                .await
                .unwrap();
            let has = match role {
                Role::Node => ScopeSet::NONE,
                Role::Operator => ScopeSet::parse(operator.unwrap_or_default().split(' ')),
            };
            let claim = |scopes| Claim {
                device_id: format!("{n:064x}"),
                public_key: format!("key-{n}"),
                display_name: None,
                platform: "linux".to_owned(),
                device_family: None,
                client_id: "test".to_owned(),
                client_mode: "test".to_owned(),
                role,
                scopes,
                address: "192.0.2.7".to_owned(),
            };
            let token = super::pairing::token_in(made["setupCode"].as_str().unwrap());
            let code = t.shared().device_tokens.hash(&token);
            if role == Role::Operator {
                // One scope too many, whichever it is: refused, and the code stays good.
                for beyond in Scope::ALL.into_iter().filter(|s| !has.allows(*s)) {
                    let asks = has.iter().chain([beyond]).collect();
                    let refused = host.redeem(&t, claim(asks), code).await.unwrap_err();
                    let detail = refused.error.detail;
                    assert_eq!(detail, DetailCode::AuthBootstrapTokenInvalid, "{beyond}");
                }
            }
            let paired = match (host.redeem(&t, claim(has), code).await, operator, role) {
                (Ok(paired), Some(_), _) | (Ok(paired), None, Role::Node) => paired,
                (Err(_), None, Role::Operator) => continue,
                (other, ..) => panic!("{access} as {role:?}: {other:?}"),
            };
            let id = format!("{n:064x}");
            let found = attempt(&host, Some(&*paired.token), Some((&*id, role)), None, false);
            let granted = ScopeSet::effective(ScopeSet::ALL, found.ceiling);
            let mut caller = Caller::internal("matrix", granted, None);
            caller.role = role;
            caller.device = Some(paired.pass);
            opens_just(&host, &t, "setup code", role, has, caller, &mut tried).await;
        }
    }
    host.shutdown(std::time::Duration::from_secs(1)).await;
    drop((host, t));

    let mut sets = vec![ScopeSet::NONE, ScopeSet::ALL];
    sets.extend(Scope::ALL.map(ScopeSet::of));
    for (kind, mode) in [
        ("proxied user", AuthMode::TrustedProxy),
        ("nothing", AuthMode::None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path());
        settings.tenants.remove("acme");
        let auth = &mut settings.tenants.get_mut("main").unwrap().auth;
        auth.mode = mode;
        auth.token = None;
        auth.proxy = (mode == AuthMode::TrustedProxy).then(|| TrustedProxySettings {
            user_header: "x-user".to_owned(),
            required_headers: Default::default(),
            allow_users: None,
            allow_loopback: false,
            secret: None,
        });
        let host = start_with(dir.path(), &Arc::default(), 1, settings, clock()).await;
        let t = host.main_tenant().unwrap().clone();
        let una = Vouched {
            same_host: false,
            said: [("x-user".to_owned(), "una".to_owned())].into(),
        };
        let proxied = mode == AuthMode::TrustedProxy;
        for scopes in &sets {
            let found = attempt(&host, None, None, proxied.then_some(&una), !proxied);
            let granted = ScopeSet::effective(*scopes, found.ceiling);
            let caller = Caller::internal("matrix", granted, None);
            opens_just(&host, &t, kind, Role::Operator, *scopes, caller, &mut tried).await;
        }
    }
    let kinds = [
        ("setup code", "operator", 2),
        ("setup code", "node", 3),
        ("proxied user", "operator", sets.len()),
        ("nothing", "operator", sets.len()),
    ];
    nothing_is_left(&tried, &kinds);
}

/// A caller restricted to methods (a boot script) gets no other one, whatever its scopes are.
#[tokio::test(start_paused = true)]
async fn a_restricted_caller_has_just_its_methods() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let t = host.main_tenant().unwrap().clone();
    let only: Arc<[Box<str>]> = Arc::from(vec![Box::from("health")]);
    let caller = Arc::new(Caller::internal("boot", ScopeSet::ALL, Some(only)));
    for spec in methods() {
        let got = call(&host, &t, &caller, spec.name, json!({})).await;
        // What is for nodes alone is refused for that reason first.
        let refusal = match spec.access {
            Access::Node => DetailCode::WrongRole,
            _ => DetailCode::CapabilityDenied,
        };
        let denied = got.as_ref().err().is_some_and(|e| e.detail == refusal);
        assert_eq!(denied, spec.name != "health", "{}: {got:?}", spec.name);
    }
}

/// Ids of one tenant, by the names of the params that take them.
struct Ids {
    key: String,
    session_id: String,
    run: String,
    node: String,
    node_request: String,
}

fn params_with(spec: &MethodSpec, ids: &Ids, idem: &str) -> Value {
    let mut out = BTreeMap::new();
    for p in spec
        .params
        .iter()
        .filter(|p| p.rule == gateway_protocol::method::Rule::Honoured)
    {
        let value: Value = match p.name {
            "key" | "sessionKey" => ids.key.clone().into(),
            "sessionId" | "expectedSessionId" | "expectedExistingSessionId" => {
                ids.session_id.clone().into()
            }
            "runId" => ids.run.clone().into(),
            "requestId" if spec.name.starts_with("node.") => ids.node_request.clone().into(),
            "requestId" => "ABCD1234".into(),
            "nodeId" => ids.node.clone().into(),
            "command" => "system.notify".into(),
            "displayName" => "taken".into(),
            "type" => "status.request".into(),
            "message" | "to" => "hello".into(),
            "idempotencyKey" => idem.into(),
            "channel" => "webhook".into(),
            "timeoutMs" => 20.into(),
            _ => continue,
        };
        out.insert(p.name, value);
    }
    json!(out)
}

/// The answer with the ids replaced and everything minted in it made equal.
fn shape(answer: &Result<Value, gateway_protocol::RpcError>, ids: &Ids) -> String {
    let text = match answer {
        Ok(v) => v.to_string(),
        Err(e) => format!("ERR {}", serde_json::to_string(e).unwrap()),
    };
    let text = text
        .replace(&ids.key, "KEY")
        .replace(&ids.session_id, "SESSION")
        .replace(&ids.run, "RUN")
        .replace(&ids.node, "NODE")
        .replace(&ids.node_request, "REQUEST");
    // Minted UUIDs and times differ between any two calls.
    let mut out = String::new();
    for token in text.split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || c == '-')) {
        let body = token.trim_end_matches(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let uuid = body.len() == 36 && body.matches('-').count() == 4;
        let time =
            body.len() == 13 && body.starts_with("18") && body.bytes().all(|b| b.is_ascii_digit());
        let hash = body.len() >= 32 && body.bytes().all(|b| b.is_ascii_hexdigit());
        if uuid || time || hash {
            out.push('#');
            out.push_str(&token[body.len()..]);
        } else {
            out.push_str(token);
        }
    }
    out
}

/// Every method with ids of tenant `main`, called as tenant `acme`: the same bytes as with random ids, and nothing of
/// `main` changes.
/// Covers: Z4, Z5, MT5.
#[tokio::test(start_paused = true)]
async fn foreign_ids_are_like_random_ids() {
    let dir = tempfile::tempdir().unwrap();
    let host = start(dir.path(), &Arc::default(), 1).await;
    let a = host.main_tenant().unwrap().clone();
    let b = host.tenant("acme").unwrap().clone();
    let canary = "canary-7f3a";
    call(
        &host,
        &a,
        &admin(),
        "chat.send",
        json!({"sessionKey": "agent:main:lab-aaaaaaaaaaaa", "message": canary, "idempotencyKey": "11111111-1111-4111-8111-111111111111"}),
    )
    .await
    .unwrap();
    settle(&a).await;
    let made = call(
        &host,
        &a,
        &admin(),
        "sessions.describe",
        json!({"key": "lab-aaaaaaaaaaaa"}),
    )
    .await
    .unwrap();
    // A node with an approval, and one that waits for it.
    let node = super::nodes::approved(&host, &a, 7, &["system.notify"]).await;
    let paired = super::nodes::paired(&host, &a, 8, "linux").await;
    let waiting = super::nodes::attach(&host, &a, &paired, &["system.notify"]);
    super::nodes::quiet().await;
    let waits = super::nodes::described(&host, &a, &waiting.id).await;
    let foreign = Ids {
        node: node.id.clone(),
        node_request: waits["pendingRequestId"].as_str().unwrap().into(),
        key: "agent:main:lab-aaaaaaaaaaaa".into(),
        session_id: made["session"]["sessionId"].as_str().unwrap().into(),
        run: "11111111-1111-4111-8111-111111111111".into(),
    };
    let random = Ids {
        node: format!("{:064x}", 99),
        node_request: "99999999-9999-4999-8999-999999999998".into(),
        key: "agent:main:lab-zzzzzzzzzzzz".into(),
        session_id: "99999999-9999-4999-8999-999999999999".into(),
        run: "22222222-2222-4222-8222-222222222222".into(),
    };
    let before = everything(&host, &a).await;
    for spec in methods() {
        // Each on a fresh pair of names for what it makes itself.
        let conn = connect(&host, &b, Role::Operator, ScopeSet::ALL, &[]);
        let mut got = Vec::new();
        for ids in [&foreign, &random] {
            let idem = format!("idem-{}", spec.name);
            let idem = format!(
                "{idem}-{}",
                if std::ptr::eq(ids, &foreign) {
                    "f"
                } else {
                    "r"
                }
            );
            let answer = call(
                &host,
                &b,
                &conn.caller,
                spec.name,
                params_with(spec, ids, &idem),
            )
            .await;
            got.push(shape(&answer, ids).replace(&idem, "IDEM"));
            settle(&b).await;
        }
        // What depends on how many sessions there are by now, or on what was called before, is not about the ids.
        if ![
            "sessions.list",
            "health",
            "status",
            "system-presence",
            "logs.tail",
            "audit.entries",
            "audit.verify",
        ]
        .contains(&spec.name)
        {
            assert_eq!(got[0], got[1], "{}", spec.name);
        }
        assert!(!got[0].contains(canary), "{}", spec.name);
        assert!(!conn.events.bytes().contains(canary), "{}", spec.name);
        // Undo what the call made in B.
        for ids in [&foreign, &random] {
            call(
                &host,
                &b,
                &admin(),
                "sessions.delete",
                json!({"key": ids.key}),
            )
            .await
            .unwrap();
        }
    }
    assert_eq!(everything(&host, &a).await, before, "nothing of A changed");
    assert!(node.events.named("node.invoke.request").is_empty());
    for line in b.logs().tail(None, 5000, 1_000_000).lines {
        assert!(!line.contains(canary));
    }
}

async fn everything(host: &gateway_core::Host, t: &Arc<gateway_core::Tenant>) -> String {
    let list = call(host, t, &admin(), "sessions.list", json!({}))
        .await
        .unwrap();
    let history = call(
        host,
        t,
        &admin(),
        "chat.history",
        json!({"sessionKey": "lab-aaaaaaaaaaaa"}),
    )
    .await
    .unwrap();
    let nodes = call(host, t, &admin(), "node.list", json!({}))
        .await
        .unwrap();
    format!("{} {history} {}", list["sessions"], nodes["nodes"])
}
