#![allow(clippy::unwrap_used, clippy::expect_used)]

use gateway_config::{LoadRequest, Overrides, Settings, load_text};

use super::*;

const DEVICE: &str = "1a2b3c4d5e6f70819293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9";

fn settings(text: &str) -> Settings {
    let request = LoadRequest {
        state_dir: "/nowhere/state".into(),
        config_path: None,
        overrides: Overrides::default(),
        env: &|_| None,
    };
    load_text(text, &request, "/nowhere/state/gateway.json5".into()).unwrap()
}

const TOKEN: &str = r#"auth: { token: "k7Q2v9XbT4mZr8Lw3NcY6hJd5FsG1pAe" }"#;
const ACME: &str = r#"tenants: { acme: { hosts: ["acme.example"], auth: { token: "Zp4Wc8RfM1xKt6BvQ9sLd3HyN7gJu2Ea" } } }"#;

fn advertisement(mode: MdnsMode) -> Advertisement {
    let text =
        format!(r#"{{ gateway: {{ bind: "lan", tls: {{ enabled: true }}, {TOKEN} }}, {ACME} }}"#);
    let pin = CertPin::new([0xab; 32]);
    Advertisement::of(&settings(&text).gateway, mode, DEVICE, 18_789, Some(pin)).unwrap()
}

/// Covers: N13.
#[test]
fn minimal_names_no_machine_no_path_and_no_tenant() {
    let what = advertisement(MdnsMode::Minimal);
    let txt: std::collections::BTreeMap<_, _> = what.lan_txt().into_iter().collect();
    let pin = "ab".repeat(32);
    let expected = [
        ("displayName", "gateway-1a2b3c4d"),
        ("gatewayDirectReachable", "1"),
        ("gatewayPort", "18789"),
        ("gatewayTls", "1"),
        ("gatewayTlsSha256", pin.as_str()),
        ("lanHost", "gateway-1a2b3c4d.local"),
        ("role", "gateway"),
        ("transport", "gateway"),
    ];
    let found: Vec<(&str, &str)> = txt.iter().map(|(k, v)| (*k, v.as_str())).collect();
    assert_eq!(found, expected);
    // The zone is read by everybody: it says no more than that, whatever the mode of the local network.
    let zone = zone::text(&what, "gw.example.org", &["192.0.2.7".parse().unwrap()], 7);
    let machine = tls::host_name().unwrap();
    for word in [
        "acme",
        "nowhere",
        "lanHost",
        ".local",
        &format!(" {machine}."),
        "cliPath",
    ] {
        assert!(!zone.contains(word), "{word}: {zone}");
    }
}

#[test]
fn full_names_the_machine_and_the_program() {
    let what = advertisement(MdnsMode::Full);
    let txt: std::collections::BTreeMap<_, _> = what.lan_txt().into_iter().collect();
    let machine = tls::host_name().unwrap();
    assert_eq!(txt["displayName"], machine);
    assert_eq!(txt["lanHost"], format!("{machine}.local"));
    let program = std::env::current_exe().unwrap();
    assert_eq!(txt["cliPath"], program.display().to_string());
}

/// Covers: N13.
#[test]
fn who_serves_several_or_only_this_machine_is_not_told_of() {
    let alone = format!(r#"{{ gateway: {{ bind: "lan", {TOKEN} }} }}"#);
    assert_eq!(settings(&alone).discovery.mode, MdnsMode::Minimal);
    let several = format!(r#"{{ gateway: {{ bind: "lan", {TOKEN} }}, {ACME} }}"#);
    assert_eq!(settings(&several).discovery.mode, MdnsMode::Off);
    let asked = format!(
        r#"{{ gateway: {{ bind: "lan", {TOKEN} }}, discovery: {{ mdns: {{ mode: "minimal" }} }}, {ACME} }}"#
    );
    assert_eq!(settings(&asked).discovery.mode, MdnsMode::Minimal);
    let loopback = settings(&format!(r#"{{ gateway: {{ {TOKEN} }} }}"#)).gateway;
    assert_eq!(
        Advertisement::of(&loopback, MdnsMode::Full, DEVICE, 1, None),
        None
    );
    let lan = settings(&alone).gateway;
    assert_eq!(
        Advertisement::of(&lan, MdnsMode::Off, DEVICE, 1, None),
        None
    );
    let plain = Advertisement::of(&lan, MdnsMode::Minimal, DEVICE, 1, None).unwrap();
    assert!(
        plain
            .lan_txt()
            .iter()
            .all(|(key, _)| !key.starts_with("gatewayTls"))
    );
}

#[test]
fn the_zone_is_one_that_a_name_server_reads() {
    let what = advertisement(MdnsMode::Minimal);
    let addresses = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
    let zone = zone::text(&what, "gw.example.org", &addresses, 7);
    for line in [
        "$ORIGIN gw.example.org.",
        "@ IN SOA ns.gw.example.org. hostmaster.gw.example.org. ( 7 7200 3600 1209600 60 )",
        "ns IN A 192.0.2.7",
        "gateway-1a2b3c4d IN AAAA 2001:db8::7",
        "_openclaw-gw._tcp IN PTR gateway-1a2b3c4d._openclaw-gw._tcp.gw.example.org.",
        "gateway-1a2b3c4d._openclaw-gw._tcp IN SRV 0 0 18789 gateway-1a2b3c4d.gw.example.org.",
    ] {
        assert!(zone.lines().any(|l| l == line), "no {line:?} in {zone}");
    }
    assert!(
        zone.contains(r#" IN TXT "role=gateway" "transport=gateway""#),
        "{zone}"
    );
}
