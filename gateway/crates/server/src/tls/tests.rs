#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use gateway_config::{LoadRequest, Overrides, load_text};
use gateway_core::clock::{Clock, SystemClock};

use super::*;

const DAY_MS: i64 = 86_400_000;

fn now() -> i64 {
    SystemClock::new().now_ms()
}

fn names() -> CertificateNames {
    let request = LoadRequest {
        state_dir: "/nowhere".into(),
        config_path: None,
        overrides: Overrides::default(),
        env: &|_| None,
    };
    let text = r#"{ gateway: { allowedHosts: ["gw.example"], auth: { token: "k7Q2v9XbT4mZr8Lw3NcY6hJd5FsG1pAe" } },
        tenants: { acme: { hosts: ["acme.example"], auth: { token: "Zp4Wc8RfM1xKt6BvQ9sLd3HyN7gJu2Ea" } } } }"#;
    let settings = load_text(text, &request, "/nowhere/gateway.json5".into()).unwrap();
    CertificateNames::of(&settings.gateway, "192.0.2.7".parse().unwrap())
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A pair in PEM, valid from and to so many days from now.
fn pem_pair(days: (i64, i64)) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let at = |days: i64| {
        time::OffsetDateTime::from_unix_timestamp((now() + days * DAY_MS) / 1000).unwrap()
    };
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = at(days.0);
    params.not_after = at(days.1);
    let cert = params.self_signed(&key).unwrap();
    let pem = |label: &str, der: &[u8]| {
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    };
    (
        pem("CERTIFICATE", cert.der()),
        pem("PRIVATE KEY", key.serialized_der()),
    )
}

fn put(files: &PairFiles, cert: &str, key: &str) {
    std::fs::write(&files.cert, cert).unwrap();
    std::fs::write(&files.key, key).unwrap();
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Covers: N12.
#[test]
fn the_first_use_makes_a_whole_private_pair_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path();
    assert!(make_own(state, &names(), now()).unwrap());
    let files = PairFiles::own(state);
    assert_eq!((mode(&files.cert), mode(&files.key)), (0o600, 0o600));
    assert_eq!(mode(files.cert.parent().unwrap()), 0o700);
    assert_eq!(mode(&state.join("gateway")), 0o700);
    let info = CertificatePair::load(&files, now()).unwrap().info;
    assert!(info.self_signed);
    assert_eq!(info.subject, "CN=gateway");
    for name in ["localhost", "127.0.0.1", "::1", "gw.example", "192.0.2.7"] {
        assert!(info.names.iter().any(|n| n == name), "{:?}", info.names);
    }
    assert!(
        !info.names.iter().any(|n| n.contains("acme")),
        "a tenant is shown: {:?}",
        info.names
    );
    let days = (info.not_after_ms - now()) / DAY_MS;
    assert!((3_640..=3_660).contains(&days), "{days}");
    assert_eq!(info.last_day().len(), 10);

    assert!(!make_own(state, &names(), now()).unwrap());
    let again = CertificatePair::load(&files, now()).unwrap().info;
    assert_eq!(again.fingerprint, info.fingerprint);
    assert_eq!(entries(&state.join("gateway")), ["tls"]);
}

#[test]
fn many_first_starts_at_once_make_one_pair() {
    let dir = tempfile::tempdir().unwrap();
    let (names, state) = (names(), dir.path());
    let made: Vec<bool> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| make_own(state, &names, now()).unwrap()))
            .collect();
        starts.into_iter().map(|s| s.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|made| **made).count(), 1, "{made:?}");
    CertificatePair::load(&PairFiles::own(state), now()).unwrap();
    assert_eq!(
        entries(&state.join("gateway")),
        ["tls"],
        "nothing is left over"
    );
}

/// Covers: F23.
#[test]
fn what_cannot_be_served_is_refused_with_a_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let files = PairFiles {
        cert: dir.path().join("c.pem"),
        key: dir.path().join("k.pem"),
    };
    let (cert, key) = pem_pair((-1, 30));
    let (other_cert, other_key) = pem_pair((-1, 30));
    let refused = |what: &str| {
        let error = CertificatePair::load(&files, now()).unwrap_err();
        assert!(error.why.contains(what), "{what}: {error}");
        assert!(!error.next.is_empty());
        assert!(!error.why.contains(dir.path().to_str().unwrap()), "{error}");
        let body = key.lines().nth(1).unwrap();
        assert!(!error.to_string().contains(body), "{error}");
    };
    refused("neither certificate nor key");
    put(&files, &cert, &key);
    CertificatePair::load(&files, now()).unwrap();

    std::fs::remove_file(&files.key).unwrap();
    refused("its key is not");
    put(&files, &cert, &key);
    std::fs::remove_file(&files.cert).unwrap();
    refused("its certificate is not");
    put(&files, &cert, &other_key);
    refused("does not belong");
    // The leaf must be the first of the chain.
    put(&files, &format!("{other_cert}{cert}"), &key);
    refused("must be the first");
    put(&files, &format!("{cert}{other_cert}"), &key);
    CertificatePair::load(&files, now()).unwrap();
    // A group of the operator's choosing may read it, as other servers' keys are kept.
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o640)).unwrap();
    CertificatePair::load(&files, now()).unwrap();
    for loose in [0o604, 0o620, 0o660, 0o644] {
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(loose)).unwrap();
        refused("other users can");
    }
    let (old_cert, old_key) = pem_pair((-30, -1));
    put(&files, &old_cert, &old_key);
    refused("expired");
    let (early_cert, early_key) = pem_pair((1, 30));
    put(&files, &early_cert, &early_key);
    refused("not valid yet");
    put(&files, "", &key);
    refused("no certificate");
    put(&files, &cert, "");
    refused("no private key");
    put(
        &files,
        "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
        &key,
    );
    refused("not PEM");
    put(
        &files,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        &key,
    );
    refused("not an X.509");
    put(
        &files,
        &cert,
        &key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
    );
    refused("encrypted");
    put(&files, &cert.repeat(17), &key);
    refused("more than 16");
    put(&files, &" ".repeat(300 * 1024), &key);
    refused("larger than");
    std::fs::remove_file(&files.cert).unwrap();
    std::fs::create_dir(&files.cert).unwrap();
    refused("not a regular file");
}

#[test]
fn the_kinds_of_keys_that_openssl_writes() {
    // PKCS#8 is what the other tests have; these two are its older forms, made once with openssl for this test.
    for (cert, key) in [
        (
            include_str!("../../tests/golden/sec1-cert.pem"),
            include_str!("../../tests/golden/sec1-key.pem"),
        ),
        (
            include_str!("../../tests/golden/pkcs1-cert.pem"),
            include_str!("../../tests/golden/pkcs1-key.pem"),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let files = PairFiles {
            cert: dir.path().join("c.pem"),
            key: dir.path().join("k.pem"),
        };
        put(&files, cert, key);
        CertificatePair::load(&files, now()).unwrap();
    }
}

#[test]
fn the_next_pair_is_made_ahead_and_put_in_place_whole() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path();
    make_own(state, &names(), now()).unwrap();
    assert!(
        finish_next(state, now())
            .unwrap_err()
            .why
            .contains("prepared")
    );
    let old = CertificateInfo::read(&PairFiles::own(state).cert).unwrap();
    let next = prepare_next(state, &names(), now()).unwrap();
    assert_ne!(next.fingerprint, old.fingerprint);
    // Asked again it is the same one: clients have pinned it by now.
    assert_eq!(prepare_next(state, &names(), now()).unwrap(), next);
    assert_eq!(finish_next(state, now()).unwrap(), next);
    let served = CertificatePair::load(&PairFiles::own(state), now()).unwrap();
    assert_eq!(served.info, next);
    assert_eq!(entries(&state.join("gateway")), ["tls"]);
}

#[test]
fn a_change_that_was_cut_off_is_finished_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path();
    make_own(state, &names(), now()).unwrap();
    let next = prepare_next(state, &names(), now()).unwrap();
    // Killed between the two renames.
    std::fs::rename(own_dir(state), state.join("gateway/.tls.0.old")).unwrap();
    assert!(!make_own(state, &names(), now()).unwrap());
    let served = CertificatePair::load(&PairFiles::own(state), now()).unwrap();
    assert_eq!(served.info, next);
}

/// Waits for a status that `fits`.
async fn until(
    status: &mut tokio::sync::watch::Receiver<CertificateStatus>,
    fits: impl Fn(&CertificateStatus) -> bool,
) -> CertificateStatus {
    let found = tokio::time::timeout(Duration::from_secs(20), status.wait_for(|s| fits(s)));
    found.await.expect("in time").unwrap().clone()
}

/// Covers: F23.
#[tokio::test]
async fn changed_files_are_taken_bad_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let files = PairFiles {
        cert: dir.path().join("c.pem"),
        key: dir.path().join("k.pem"),
    };
    let (first, first_key) = pem_pair((-1, 60));
    let (second, second_key) = pem_pair((-1, 60));
    put(&files, &first, &first_key);
    let source = TlsSource::Files {
        cert: files.cert.clone(),
        key: files.key.clone(),
    };
    let clock = std::sync::Arc::new(SystemClock::new());
    let live = Certificates::open(&source, dir.path(), &names(), clock).unwrap();
    let live = std::sync::Arc::new(live);
    let mut status = live.status().unwrap();
    let start = status.borrow().served.fingerprint;
    let stop = tokio_util::sync::CancellationToken::new();
    let watching = tokio::spawn(live.clone().watch(stop.clone()));

    let before = live.config();
    put(&files, &second, &first_key);
    let told = until(&mut status, |s| s.fault.is_some()).await;
    assert_eq!(told.served.fingerprint, start, "the old one stays");
    assert!(told.fault.unwrap().contains("does not belong"));
    assert!(std::sync::Arc::ptr_eq(&before, &live.config()));

    put(&files, &second, &second_key);
    let told = until(&mut status, |s| s.fault.is_none()).await;
    assert_ne!(told.served.fingerprint, start);
    assert!(!std::sync::Arc::ptr_eq(&before, &live.config()));

    let (old, old_key) = pem_pair((-60, -30));
    for (what, cert, key, mode) in [
        ("expired", old.as_str(), old_key.as_str(), 0o600),
        ("other users", &second, &second_key, 0o644),
        ("no certificate", "", &second_key, 0o600),
    ] {
        put(&files, cert, key);
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(mode)).unwrap();
        let now = until(&mut status, |s| {
            s.fault.as_deref().is_some_and(|f| f.contains(what))
        })
        .await;
        assert_eq!(now.served.fingerprint, told.served.fingerprint, "{what}");
    }
    std::fs::remove_file(&files.key).unwrap();
    until(&mut status, |s| {
        s.fault
            .as_deref()
            .is_some_and(|f| f.contains("no certificate") || f.contains("its key is not"))
    })
    .await;
    put(&files, &second, &second_key);
    live.recheck();
    until(&mut status, |s| s.fault.is_none()).await;

    let (soon, soon_key) = pem_pair((-60, 3));
    put(&files, &soon, &soon_key);
    let told = until(&mut status, |s| s.fault.is_some()).await;
    assert!(
        told.fault.as_deref().unwrap().contains("expires in"),
        "{told:?}"
    );
    stop.cancel();
    watching.await.unwrap();
}

/// Covers: F23.
#[tokio::test]
async fn the_next_certificate_is_announced_before_it_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path();
    let source = TlsSource::Own { generate: true };
    let clock = std::sync::Arc::new(SystemClock::new());
    let live = Certificates::open(&source, state, &names(), clock).unwrap();
    let live = std::sync::Arc::new(live);
    let mut status = live.status().unwrap();
    let old = status.borrow().served.fingerprint;
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(live.clone().watch(stop.clone()));
    let next = prepare_next(state, &names(), now()).unwrap().fingerprint;
    let told = until(&mut status, |s| s.next.is_some()).await;
    assert_eq!((told.served.fingerprint, told.next), (old, Some(next)));
    assert_eq!(told.pins().collect::<Vec<_>>(), [old, next]);
    assert_eq!(told.health().next_fingerprint, Some(next.to_string()));
    finish_next(state, now()).unwrap();
    let told = until(&mut status, |s| s.served.fingerprint == next).await;
    assert_eq!(told.next, None);
    stop.cancel();
}
