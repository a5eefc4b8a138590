use gateway_protocol::frame::Close;
use gateway_protocol::method::{ConnRole, Params as _};
use gateway_protocol::methods::connect::{
    AuthReason, ClientId, ConnectParams, ConnectRefusal, HelloFeatures, HelloOk,
};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

fn base() -> Value {
    json!({
        "minProtocol": 4, "maxProtocol": 4,
        "client": { "id": "gateway-client", "version": "1.0.0", "platform": "linux", "mode": "backend" },
        "role": "operator", "scopes": ["operator.admin", "operator.read"], "caps": [], "auth": { "token": "t" },
        "locale": "en-US", "userAgent": "lab/1.0",
    })
}

fn parse(value: &Value) -> Result<ConnectParams, ConnectRefusal> {
    ConnectParams::parse(Some(&to_raw_value(value).unwrap()))
}

fn refusal(value: &Value) -> (String, Close) {
    let refusal = parse(value).unwrap_err();
    let error = serde_json::to_value(&refusal.error).unwrap();
    assert_eq!(error["code"], "INVALID_REQUEST");
    assert_eq!(error.get("details"), None);
    (refusal.error.message, refusal.close)
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut value = base();
    change(&mut value);
    value
}

#[test]
fn good_parameters() {
    let params = parse(&base()).unwrap();
    assert_eq!(params.client.id, ClientId::GatewayClient);
    assert_eq!(params.client.id.as_str(), "gateway-client");
    assert_eq!(params.role().unwrap(), ConnRole::Operator);
    assert_eq!(
        params.requested_scopes(),
        ["operator.admin", "operator.read"]
    );
    params.check_protocol().unwrap();
    // The Control UI of 2026.9.6 sends more than the published schema has.
    let ui = with(|v| {
        v["modelCatalog"] = json!({ "sessionKey": "main" });
        v["client"]["id"] = json!("openclaw-control-ui");
        v["client"]["mode"] = json!("webchat");
        v["client"]["timeZone"] = json!("Europe/Berlin");
        v["caps"] = json!(["tool-events"]);
    });
    assert!(parse(&ui).unwrap().has_cap("tool-events"));
}

/// The recorded refusals, with their closes.
#[test]
fn recorded_refusals() {
    for (value, message) in [
        (
            with(|v| {
                v["device"] =
                    json!({ "id": "x", "publicKey": "x", "signature": "x", "signedAt": 1 })
            }),
            "invalid connect params: at /device: must have required property 'nonce'",
        ),
        (
            with(|v| v["bogus"] = json!(1)),
            "invalid connect params: at root: unexpected property 'bogus'",
        ),
        (
            with(|v| v["client"]["id"] = json!("my-client")),
            "invalid connect params: at /client/id: must be equal to one of the allowed values",
        ),
    ] {
        assert_eq!(
            refusal(&value),
            (message.to_owned(), Close::new(1008, message))
        );
    }
    let role = parse(&with(|v| v["role"] = json!("superuser")))
        .unwrap()
        .role()
        .unwrap_err();
    assert_eq!(
        (role.error.message.as_str(), role.close),
        ("invalid role", Close::new(1008, "invalid role"))
    );
    assert_eq!(
        serde_json::to_value(&role.error).unwrap(),
        json!({ "code": "INVALID_REQUEST", "message": "invalid role" })
    );

    let window = parse(&with(|v| {
        (v["minProtocol"], v["maxProtocol"]) = (json!(1), json!(2))
    }))
    .unwrap();
    let refusal = window.check_protocol().unwrap_err();
    assert_eq!(refusal.close, Close::new(1002, "protocol mismatch"));
    assert_eq!(
        serde_json::to_value(&refusal.error).unwrap(),
        json!({
            "code": "INVALID_REQUEST", "message": "protocol mismatch",
            "details": {
                "code": "PROTOCOL_MISMATCH", "clientMinProtocol": 1, "clientMaxProtocol": 2,
                "expectedProtocol": 4, "minimumProbeProtocol": 3,
            },
        })
    );

    let token = ConnectRefusal::unauthorized(AuthReason::TokenMismatch, false);
    assert_eq!(
        token.close,
        Close::new(
            1008,
            "unauthorized: gateway token mismatch (provide gateway auth token)"
        )
    );
    assert_eq!(
        serde_json::to_value(&token.error).unwrap(),
        json!({
            "code": "INVALID_REQUEST", "message": "unauthorized: gateway token mismatch (provide gateway auth token)",
            "details": {
                "code": "AUTH_TOKEN_MISMATCH", "authReason": "token_mismatch", "canRetryWithDeviceToken": false,
                "recommendedNextStep": "update_auth_credentials",
            },
        })
    );
    let scope = ConnectRefusal::unauthorized(AuthReason::ScopeMismatch, false);
    assert_eq!(
        scope.error.message,
        "unauthorized: device token scope mismatch (re-pair or approve scope upgrade)"
    );
    let nothing = ConnectRefusal::device_identity_required();
    assert_eq!(
        serde_json::to_value(&nothing.error).unwrap(),
        json!({ "code": "NOT_PAIRED", "message": "device identity required", "details": { "code": "DEVICE_IDENTITY_REQUIRED" } })
    );
    assert_eq!(nothing.close, Close::new(1008, "device identity required"));
    let starting = ConnectRefusal::starting(500);
    let error = serde_json::to_value(&starting.error).unwrap();
    assert_eq!(
        (
            &error["code"],
            &error["retryable"],
            &error["retryAfterMs"],
            &error["details"]["reason"]
        ),
        (
            &json!("UNAVAILABLE"),
            &json!(true),
            &json!(500),
            &json!("startup-sidecars")
        )
    );
    assert_eq!(starting.close, Close::new(1013, "gateway starting"));
}

#[test]
fn other_refusals_name_the_place() {
    for (value, message) in [
        (json!(null), "must be object"),
        (json!([]), "must be object"),
        (json!({}), "must have required property 'minProtocol'"),
        (
            with(|v| v["minProtocol"] = json!("4")),
            "at /minProtocol: must be integer",
        ),
        (
            with(|v| v["maxProtocol"] = json!(0)),
            "at /maxProtocol: must be >= 1",
        ),
        (
            with(|v| v["client"]["version"] = json!("")),
            "at /client/version: must not have fewer than 1 characters",
        ),
        (
            with(|v| v["client"]["x"] = json!(1)),
            "at /client: unexpected property 'x'",
        ),
        (
            with(|v| v["client"]["mode"] = json!("operator")),
            "at /client/mode: must be equal to one of the allowed values",
        ),
        (
            with(|v| v["auth"] = json!({ "token": ["a"] })),
            "at /auth/token: must be string",
        ),
        (
            with(|v| v["auth"] = json!({ "secret": "a" })),
            "at /auth: unexpected property 'secret'",
        ),
        (with(|v| v["auth"] = json!("t")), "at /auth: must be object"),
        (
            with(|v| v["scopes"] = json!(["operator.read", ""])),
            "at /scopes/1: must not have fewer than 1 characters",
        ),
        (
            with(|v| v["scopes"] = json!("operator.admin")),
            "at /scopes: must be array",
        ),
        (
            with(|v| v["client"]["buildId"] = json!("b".repeat(97))),
            "at /client/buildId: must not have more than 96 characters",
        ),
    ] {
        assert_eq!(
            refusal(&value).0,
            format!("invalid connect params: {message}")
        );
    }
    assert_eq!(
        ConnectParams::parse(None).unwrap_err().error.message,
        "invalid connect params: must be object"
    );
}

/// A key that is given twice could mean two things to two readers.
///
/// Covers: R15.
#[test]
fn repeated_keys_and_depth_are_refused() {
    let text = base()
        .to_string()
        .replacen("\"auth\":{", "\"auth\":{\"token\":\"other\",", 1);
    let raw: Box<RawValue> = serde_json::from_str(&text).unwrap();
    let message = ConnectParams::parse(Some(&raw)).unwrap_err().error.message;
    assert!(message.contains("duplicate key \"token\""), "{message}");
    crate::on_small_stack(|| {
        let text = format!(r#"{{"modelCatalog":{}}}"#, crate::nested(30_000));
        let raw: Box<RawValue> = serde_json::from_str(&text).unwrap();
        let message = ConnectParams::parse(Some(&raw)).unwrap_err().error.message;
        assert!(message.contains("nested deeper than"), "{message}");
    });
}

#[test]
fn the_version_window() {
    let check = |min: u64, max: u64, mode: &str, role: &str| {
        let value = with(|v| {
            (v["minProtocol"], v["maxProtocol"]) = (json!(min), json!(max));
            v["client"]["mode"] = json!(mode);
            v["role"] = json!(role);
        });
        parse(&value).unwrap().check_protocol().is_ok()
    };
    assert!(check(3, 5, "backend", "operator"));
    assert!(check(1, 4, "ui", "operator"));
    assert!(!check(5, 9, "backend", "operator"));
    assert!(!check(3, 3, "backend", "operator"));
    assert!(check(3, 3, "probe", "operator"));
    assert!(check(3, 3, "node", "node"));
    assert!(!check(3, 3, "node", "operator"));
    assert!(!check(3, 3, "backend", "node"));
    assert!(!check(2, 2, "probe", "operator"));
    assert!(!check(5, 4, "probe", "operator"), "an empty window");
}

#[test]
fn the_table_of_reasons_is_sound() {
    for reason in AuthReason::ALL {
        let error = serde_json::to_value(reason.error(false)).unwrap();
        let row = reason.row();
        assert_eq!(error["details"]["code"], row.code.row().name);
        assert_eq!(error["details"]["authReason"], row.reason);
        assert_eq!(
            error["retryable"].as_bool().unwrap_or(false),
            reason == AuthReason::RateLimited
        );
        assert!(
            row.text.len() + "unauthorized: ".len() <= 120,
            "fits a close reason"
        );
    }
    let retry = AuthReason::TokenMismatch.error(true);
    assert_eq!(
        serde_json::to_value(retry).unwrap()["details"]["recommendedNextStep"],
        "retry_with_device_token"
    );
}

/// Secrets do not get into logs by way of `{:?}`.
#[test]
fn credentials_are_not_printed() {
    let text = format!(
        "{:?}",
        parse(&with(
            |v| v["auth"] = json!({ "token": "sesame", "password": "sesame" })
        ))
        .unwrap()
    );
    assert!(!text.contains("sesame"), "{text}");
}

/// The hand-written table of `connect` names exactly what the struct reads.
#[test]
fn the_table_of_names_matches_the_struct() {
    let schema = gateway_protocol::method::schema_of::<ConnectParams>();
    let mut known: Vec<&str> = schema.as_value()["properties"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut listed: Vec<&str> = ConnectParams::PARAMS.iter().map(|p| p.name).collect();
    known.sort_unstable();
    listed.sort_unstable();
    assert_eq!(known, listed);
}

#[test]
fn hello_has_what_clients_need() {
    let hello = HelloOk {
        features: HelloFeatures::ours(),
        protocol: 4,
        ..HelloOk::default()
    };
    let value = serde_json::to_value(&hello).unwrap();
    for pointer in [
        "/type",
        "/protocol",
        "/server/version",
        "/server/connId",
        "/features/methods",
        "/features/events",
        "/snapshot/presence",
        "/snapshot/health",
        "/snapshot/stateVersion/presence",
        "/snapshot/stateVersion/health",
        "/snapshot/uptimeMs",
        "/auth/role",
        "/auth/scopes",
        "/policy/maxPayload",
        "/policy/maxBufferedBytes",
        "/policy/tickIntervalMs",
    ] {
        assert!(value.pointer(pointer).is_some(), "{pointer}");
    }
    assert_eq!(value["type"], "hello-ok");
    let methods = hello.features.methods;
    assert!(methods.contains(&"chat.send".to_owned()) && methods.is_sorted());
    assert!(
        !methods.contains(&"connect".to_owned()) && !methods.contains(&"chat.inject".to_owned())
    );
    assert!(
        hello
            .features
            .capabilities
            .unwrap()
            .contains(&"published-model-catalog".to_owned())
    );
}
