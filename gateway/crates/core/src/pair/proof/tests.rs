#![allow(clippy::unwrap_used)]
use super::*;
use gateway_protocol::methods::connect::{
    ClientId, ClientInfo, ClientMode, ConnectAuth, ConnectDevice,
};
use gateway_protocol::value::NonEmpty;
use ring::signature::{Ed25519KeyPair, KeyPair};

const NONCE: &str = "11111111-2222-3333-4444-555555555555";
const AT: i64 = 1_737_264_000_000;
const V3: &str =
    "Fw2551oHBT7DRzZg1LltuC4TiXqsH5qGGNLf9l4NZnU3hWsdEbdZZ3nmGoiYdCUpnRED10OTKSNBKndRfBjuAg";
const V2: &str =
    "ySEprhshZwOxo3F-AQhgoXK5a6bjXyFsD36KACDy1DQK3Qw1OE-94zUJ3LiK_-yaPpYvBp8Efdk4NmpYmgOuDw";

fn text(t: &str) -> NonEmpty {
    NonEmpty::new(t).unwrap()
}

/// The connect of the protocol's test vector.
fn vector(signature: &str) -> ConnectParams {
    ConnectParams {
        client: ClientInfo {
            id: ClientId::Cli,
            mode: ClientMode::Cli,
            version: text("1"),
            platform: text("linux"),
            device_family: Some(text("Linux")),
            ..ClientInfo::default()
        },
        scopes: Some(vec![text("operator.read"), text("operator.write")]),
        auth: Some(ConnectAuth {
            token: Some("example-token".to_owned()),
            ..ConnectAuth::default()
        }),
        device: Some(ConnectDevice {
            id: text("fe812c12f3ab4ce6ac5db69ac352f906cb1b11ef43fb33e252ef7ff552263889"),
            public_key: text("6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"),
            signature: text(signature),
            signed_at: u64::try_from(AT).unwrap(),
            nonce: text(NONCE),
        }),
        ..ConnectParams::default()
    }
}

fn check(params: &ConnectParams) -> Result<String, ProofFault> {
    verify(params, "operator", NONCE, AT).map(|d| d.unwrap().id)
}

/// The protocol's own signatures, of both versions, hold; base64 of the other alphabet and PEM are read too.
#[test]
fn the_vector_of_the_protocol() {
    let id = "fe812c12f3ab4ce6ac5db69ac352f906cb1b11ef43fb33e252ef7ff552263889";
    assert_eq!(check(&vector(V3)), Ok(id.to_owned()));
    assert_eq!(check(&vector(V2)), Ok(id.to_owned()));
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode([&SPKI_HEAD[..], pair.public_key().as_ref()].concat())
    );
    let standard = STANDARD.encode(URL_SAFE_NO_PAD.decode(V3).unwrap());
    let mut other = vector(&standard);
    other.device.as_mut().unwrap().public_key = text(&pem);
    assert_eq!(check(&other), Ok(id.to_owned()));
    let none = ConnectParams::default();
    assert_eq!(verify(&none, "operator", NONCE, AT), Ok(None));
}

/// Each field that is signed, changed alone, breaks the signature of version 3; platform and family are free in version 2 only.
#[test]
fn every_signed_field_is_bound() {
    type Change = fn(&mut ConnectParams);
    let changes: [(&str, Change, bool); 9] = [
        ("client id", |p| p.client.id = ClientId::Test, false),
        ("mode", |p| p.client.mode = ClientMode::Ui, false),
        ("scopes", |p| p.scopes.as_mut().unwrap().reverse(), false),
        (
            "more scopes",
            |p| p.scopes.as_mut().unwrap().push(text("operator.admin")),
            false,
        ),
        (
            "token",
            |p| p.auth.as_mut().unwrap().token = Some("other".into()),
            false,
        ),
        ("time", |p| p.device.as_mut().unwrap().signed_at += 1, false),
        ("platform", |p| p.client.platform = text("ios"), true),
        ("family", |p| p.client.device_family = None, true),
        ("no scopes", |p| p.scopes = None, false),
    ];
    for (what, change, free_in_v2) in changes {
        for (signature, holds) in [(V3, false), (V2, free_in_v2)] {
            let mut params = vector(signature);
            change(&mut params);
            assert_eq!(check(&params).is_ok(), holds, "{what}");
        }
    }
    let node = verify(&vector(V3), "node", NONCE, AT);
    assert_eq!(
        node,
        Err(ProofFault::SignatureInvalid),
        "the role is signed"
    );
    // Only ASCII letters lose their case: a look-alike stays another name.
    let mut kelvin = vector(V3);
    kelvin.client.platform = text("LINUX");
    assert!(check(&kelvin).is_ok());
    kelvin.client.platform = text("l\u{131}nux");
    assert_eq!(check(&kelvin), Err(ProofFault::SignatureInvalid));
}

/// The faults in the order in which they are looked for, and the window of the time. A proof of another connection (a replay)
/// has another nonce.
#[test]
fn faults_in_their_order() {
    let with = |change: &dyn Fn(&mut ConnectDevice)| {
        let mut params = vector(V3);
        change(params.device.as_mut().unwrap());
        check(&params).unwrap_err()
    };
    let all_wrong = |d: &mut ConnectDevice| {
        d.signed_at = 1;
        d.nonce = text(" ");
        d.signature = text("x");
    };
    assert_eq!(
        with(&|d| {
            all_wrong(d);
            d.public_key = text("AAAA");
        }),
        ProofFault::IdMismatch
    );
    assert_eq!(
        with(&|d| {
            all_wrong(d);
            d.id = text(&"f".repeat(64));
        }),
        ProofFault::IdMismatch
    );
    assert_eq!(
        with(&|d| {
            d.id = text(&d.id.to_ascii_uppercase());
        }),
        ProofFault::IdMismatch
    );
    assert_eq!(with(&all_wrong), ProofFault::Stale);
    let fresh = |d: &mut ConnectDevice| {
        all_wrong(d);
        d.signed_at = u64::try_from(AT).unwrap();
    };
    assert_eq!(with(&fresh), ProofFault::NonceMissing);
    assert_eq!(
        with(&|d| {
            fresh(d);
            d.nonce = text("deadbeef");
        }),
        ProofFault::NonceMismatch
    );
    assert_eq!(
        with(&|d| {
            fresh(d);
            d.nonce = text(NONCE);
        }),
        ProofFault::SignatureInvalid
    );
    for (late, ok) in [
        (120_000, true),
        (-120_000, true),
        (120_001, false),
        (-120_001, false),
    ] {
        let at = verify(&vector(V3), "operator", NONCE, AT + late);
        assert_eq!(at.is_ok(), ok, "{late}");
    }
    let replay = verify(
        &vector(V3),
        "operator",
        "99999999-2222-3333-4444-555555555555",
        AT,
    );
    assert_eq!(replay, Err(ProofFault::NonceMismatch));
}
