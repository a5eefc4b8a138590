#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn class(text: &str) -> AddressClass {
    classify(text.parse().unwrap())
}

/// First, last and a middle address of each class, and the neighbours on both sides.
///
/// Covers: N1.
#[test]
fn every_class_of_address_is_known_up_to_its_edges() {
    let never = [
        "0.0.0.0",
        "0.255.255.255",
        "169.254.0.0",
        "169.254.169.254",
        "169.254.255.255",
        "192.0.0.0",
        "192.0.0.192",
        "192.0.0.255",
        "192.0.2.0",
        "192.0.2.255",
        "192.31.196.1",
        "192.52.193.1",
        "192.88.99.0",
        "192.88.99.255",
        "192.175.48.1",
        "198.51.100.0",
        "198.51.100.255",
        "203.0.113.0",
        "203.0.113.255",
        "224.0.0.0",
        "224.0.0.251",
        "239.255.255.255",
        "240.0.0.0",
        "254.1.1.1",
        "255.255.255.255",
        "168.63.129.16",
        "100.100.100.200",
        "::",
        "::2",
        "::7f00:1",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::808:808",
        "64:ff9b:1::a00:1",
        "64:ff9b:1:ffff::1",
        "100::1",
        "100:0:0:1::1",
        "2001::1",
        "2001:0:53aa:64c:0:0:0:1",
        "2001:10::1",
        "2001:20::1",
        "2001:1ff::1",
        "2001:db8::1",
        "2001:db8:ffff::1",
        "2002:7f00:1::",
        "2002:808:808::1",
        "3fff::1",
        "3fff:fff::1",
        "5f00::1",
        "fd00:ec2::254",
        "fd00:c2c::a9fe",
        "fd20:ce::254",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "feff::1",
        "ff02::1",
        "ff0e::1",
        "1::1",
        "4000::1",
        "8000::1",
        "e000::1",
        "200::1",
        "1fff::1",
    ];
    for ip in never {
        assert!(
            matches!(class(ip), AddressClass::Never(_)),
            "{ip}: {:?}",
            class(ip)
        );
    }
    for ip in [
        "127.0.0.0",
        "127.0.0.1",
        "127.1.2.3",
        "127.255.255.255",
        "::1",
    ] {
        assert_eq!(class(ip), AddressClass::Loopback, "{ip}");
    }
    let private = [
        "10.0.0.0",
        "10.255.255.255",
        "100.64.0.0",
        "100.127.255.255",
        "172.16.0.0",
        "172.31.255.255",
        "192.168.0.0",
        "192.168.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "fc00::1",
        "fd12:3456::1",
        "fdff:ffff::1",
    ];
    for ip in private {
        assert_eq!(class(ip), AddressClass::Private, "{ip}");
    }
    let public = [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "191.255.255.255",
        "192.0.1.0",
        "192.0.3.0",
        "192.88.98.1",
        "192.88.100.1",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.99.1",
        "203.0.112.1",
        "203.0.114.1",
        "223.255.255.255",
        "8.8.8.8",
        "2000::1",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2003::1",
        "2606:4700::1111",
        "3ffe::1",
        "3fff:1000::1",
    ];
    for ip in public {
        assert_eq!(class(ip), AddressClass::Public, "{ip}");
    }
}

/// No v6 address that carries a v4 address is public, whichever v4 address it is.
///
/// Covers: N1.
#[test]
fn no_carrier_of_another_address_is_public() {
    for v4 in [[127u16, 0, 0, 1], [8, 8, 8, 8], [169, 254, 169, 254]] {
        let (hi, lo) = (v4[0] << 8 | v4[1], v4[2] << 8 | v4[3]);
        for ip in [
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, hi, lo),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, hi, lo),
            Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, hi, lo),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, hi, lo),
            Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, hi, lo),
            Ipv6Addr::new(0x2002, hi, lo, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2001, 0, hi, lo, 0, 0, !hi, !lo),
        ] {
            for private in [false, true] {
                assert!(
                    Granted { private }.check(IpAddr::V6(ip)).is_err(),
                    "{ip} private={private}"
                );
            }
        }
    }
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

/// Covers: N1.
#[test]
fn a_rule_is_exact_in_scheme_host_and_port() {
    let policy = AddressPolicy::exact(vec![HostPortRule::of(
        &url("https://api.example.com"),
        false,
    )]);
    assert_eq!(
        policy.check_target(&url("https://API.example.com:443/x")),
        Ok(Granted { private: false })
    );
    for other in [
        "http://api.example.com:443/",
        "https://api.example.com:8443/",
        "https://api.example.com.evil.example/",
        "https://xapi.example.com/",
        "https://example.com/",
        "https://api.example.co/",
        "https://93.184.216.34/",
    ] {
        assert_eq!(
            policy.check_target(&url(other)).unwrap_err().kind,
            ErrorKind::NotAllowed,
            "{other}"
        );
    }
    assert_eq!(
        AddressPolicy::default()
            .check_target(&url("https://example.com"))
            .unwrap_err()
            .kind,
        ErrorKind::NotAllowed
    );
}

/// Covers: N1.
#[test]
fn private_targets_need_the_operators_exact_word_and_the_worst_never_open() {
    let open = AddressPolicy::any_public();
    let targets = [
        "http://localhost/",
        "http://127.0.0.1/",
        "http://10.1.2.3/",
        "http://[::1]/",
        "http://printer/",
        "http://db.internal/",
    ];
    for target in targets {
        assert_eq!(
            open.check_target(&url(target)).unwrap_err().kind,
            ErrorKind::Address,
            "{target}"
        );
        let named = AddressPolicy {
            allow: vec![HostPortRule::of(&url(target), true)],
            any_public: true,
        };
        assert_eq!(
            named.check_target(&url(target)),
            Ok(Granted { private: true }),
            "{target}"
        );
        let elsewhere = target.replace("/", ":81/").replacen(":81/:81/", "//", 1);
        assert!(named.check_target(&url(&elsewhere)).is_err(), "{elsewhere}");
    }
    for target in [
        "http://0.0.0.0/",
        "http://169.254.169.254/",
        "http://[fd00:ec2::254]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::]/",
    ] {
        let named = AddressPolicy::exact(vec![HostPortRule::of(&url(target), true)]);
        assert_eq!(
            named.check_target(&url(target)).unwrap_err().kind,
            ErrorKind::Address,
            "{target}"
        );
    }
}
