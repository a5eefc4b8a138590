//! Archives as they should be, and as nobody should trust them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use gateway_backup::{
    Archive, ArchiveKind, Manifest, TenantEntry, TenantOf, Unfinished, Wanted, collect, pack,
    restore, restore_tenant,
};
use gateway_store::{
    HostDb, SnapshotId, SnapshotOf, StateDir, StoreExec, StoreOptions, SyncMode, TenantDb, snapshot,
};
use sha2::{Digest, Sha256};

/// A state directory with two tenants, a blob, a configuration and secrets, on which no gateway runs.
struct Place {
    _dir: tempfile::TempDir,
    state: PathBuf,
    root: PathBuf,
}

fn options() -> StoreOptions {
    StoreOptions {
        sync: SyncMode::Off,
    }
}

fn open(state: &StateDir, host: &HostDb, slug: &str) -> TenantDb {
    let row = host.ensure_tenant(slug, 1).unwrap();
    TenantDb::open(
        state.tenant_dir(&row),
        row.id,
        host.epoch(),
        StoreExec::Inline,
        SyncMode::Off,
    )
    .unwrap()
}

fn put(db: &TenantDb, key: &str, value: &[u8]) {
    let (key, value) = (key.to_owned(), value.to_vec());
    db.write(move |w| w.kv_set("channel", "a", &key, &value, 1_000_000))
        .wait()
        .unwrap();
}

fn get(db: &TenantDb, key: &str) -> Option<Vec<u8>> {
    db.read_now(|r| r.kv_get("channel", "a", key)).unwrap()
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let state = root.join("state");
    {
        let held = StateDir::open(&state).unwrap();
        let host = HostDb::open(&held, options()).unwrap();
        for slug in ["main", "acme"] {
            let db = open(&held, &host, slug);
            put(&db, "who", slug.as_bytes());
            let id = db
                .put_blob(format!("blob of {slug}").into_bytes())
                .wait()
                .unwrap();
            db.write(move |w| w.ref_blob(&id, 1)).wait().unwrap();
        }
    }
    std::fs::write(state.join("gateway.json5"), "{ $include: 'parts/a.json5' }").unwrap();
    std::fs::create_dir_all(state.join("parts")).unwrap();
    std::fs::write(state.join("parts/a.json5"), "{}").unwrap();
    for slug in ["main", "acme"] {
        std::fs::create_dir_all(state.join("secrets").join(slug)).unwrap();
        std::fs::write(
            state.join("secrets").join(slug).join("gateway-token"),
            format!("secret of {slug}"),
        )
        .unwrap();
    }
    std::fs::create_dir_all(state.join("run")).unwrap();
    std::fs::write(state.join("run/gateway.json"), "{}").unwrap();
    Place {
        _dir: dir,
        state,
        root,
    }
}

impl Place {
    fn pack(&self, name: &str, tenant: Option<&str>, with_secrets: bool) -> PathBuf {
        let out = self.root.join(name);
        let state = StateDir::open(&self.state).unwrap();
        let snapshots = SnapshotId::parent(&self.state);
        let _ = std::fs::create_dir(&snapshots);
        let work = Unfinished::make(&snapshots, "").unwrap();
        let id = SnapshotId::parse(work.name()).unwrap();
        let of = tenant.map_or(SnapshotOf::Everything, SnapshotOf::Tenant);
        let made = snapshot(&state, &id, of).unwrap();
        let collected = collect(&Wanted {
            state_dir: &self.state,
            snapshot_dir: work.path(),
            tenant,
            with_secrets,
            included: &["parts/a.json5".to_owned()],
        })
        .unwrap();
        let manifest = Manifest {
            format: 1,
            kind: if tenant.is_some() {
                ArchiveKind::Tenant
            } else {
                ArchiveKind::Gateway
            },
            made_by: "0".to_owned(),
            made_at_ms: 1_700_000_000_000,
            secrets: with_secrets,
            host_schema: made.host_schema,
            tenants: made
                .tenants
                .into_iter()
                .map(|t| TenantEntry {
                    slug: t.slug,
                    dir: t.dir,
                    schema: t.schema,
                    commits: t.commits,
                    blobs: t.blobs,
                })
                .collect(),
            left_out: Vec::new(),
            files: Vec::new(),
        };
        pack(collected, manifest, &out).unwrap();
        out
    }

    /// What a tenant of a state directory has under a key.
    fn value(state: &Path, slug: &str, key: &str) -> Option<Vec<u8>> {
        let held = StateDir::open(state).unwrap();
        let host = HostDb::open(&held, options()).unwrap();
        get(&open(&held, &host, slug), key)
    }
}

/// Name, kind and bytes of each entry.
type Entries = Vec<(String, tar::EntryType, Vec<u8>)>;

fn entries(path: &Path) -> Entries {
    let gz = flate2::read::GzDecoder::new(File::open(path).unwrap());
    let mut tar = tar::Archive::new(gz);
    tar.entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            (name, entry.header().entry_type(), bytes)
        })
        .collect()
}

/// Writes entries as they are, whatever their names say.
fn write(path: &Path, entries: &Entries) {
    let mut gz = GzEncoder::new(File::create(path).unwrap(), Compression::fast());
    for (name, kind, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(*kind);
        if *kind == tar::EntryType::Symlink || *kind == tar::EntryType::Link {
            header.set_link_name_literal("/etc/passwd").unwrap();
        }
        header.set_cksum();
        gz.write_all(header.as_bytes()).unwrap();
        gz.write_all(bytes).unwrap();
        gz.write_all(&vec![0; (512 - bytes.len() % 512) % 512])
            .unwrap();
    }
    gz.write_all(&[0; 1024]).unwrap();
    gz.finish().unwrap();
}

fn manifest_of(entries: &Entries) -> serde_json::Value {
    serde_json::from_slice(&entries[0].2).unwrap()
}

fn with_manifest(entries: &Entries, change: impl FnOnce(&mut serde_json::Value)) -> Entries {
    let mut manifest = manifest_of(entries);
    change(&mut manifest);
    let mut changed = entries.clone();
    changed[0].2 = serde_json::to_vec(&manifest).unwrap();
    changed
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Covers: F32.
#[test]
fn what_was_packed_comes_back() {
    let place = place();
    let archive = place.pack("a.tar.gz", None, true);
    assert_eq!(
        std::fs::metadata(&archive).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let names: Vec<String> = entries(&archive).into_iter().map(|e| e.0).collect();
    for wanted in [
        "manifest.json",
        "host.sqlite",
        "host.key",
        "gateway.json5",
        "parts/a.json5",
        "secrets/acme/gateway-token",
    ] {
        assert!(
            names.iter().any(|n| n == wanted),
            "{wanted} is not in {names:?}"
        );
    }
    assert!(
        !names
            .iter()
            .any(|n| n.starts_with("run") || n.contains("lock") || n.contains("-wal"))
    );
    let opened = Archive::open(&archive).unwrap();
    assert_eq!(opened.verify().unwrap().databases, 3);
    let target = place.root.join("new").join("state");
    let done = restore(&opened, &target, false, "now").unwrap();
    assert!(done.kept.is_none());
    for slug in ["main", "acme"] {
        assert_eq!(
            Place::value(&target, slug, "who").as_deref(),
            Some(slug.as_bytes())
        );
    }
    let mode = |path: &str| {
        std::fs::metadata(target.join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (
            mode(""),
            mode("host.sqlite"),
            mode("tenants"),
            mode("secrets/main")
        ),
        (0o700, 0o600, 0o700, 0o700)
    );
    // The blobs are there, under the hash that they have.
    let held = StateDir::open(&target).unwrap();
    let host = HostDb::open(&held, options()).unwrap();
    let acme = open(&held, &host, "acme");
    let blob = acme
        .get_blob(gateway_store::BlobId::of(b"blob of acme"))
        .wait()
        .unwrap();
    assert_eq!(blob, b"blob of acme");
    // Where a gateway runs, or something is, nothing is replaced.
    let refused = restore(&opened, &target, true, "now").unwrap_err();
    assert!(refused.why.contains("in use"), "{refused}");
    drop((acme, host, held));
    let refused = restore(&opened, &target, false, "now").unwrap_err();
    assert!(refused.why.contains("holds something"), "{refused}");
    assert!(!target.join("unfinished.lock").exists());
}

#[test]
fn without_secrets_those_of_before_stay() {
    let place = place();
    let archive = place.pack("a.tar.gz", None, false);
    let packed = entries(&archive);
    assert!(
        !packed
            .iter()
            .any(|e| e.0.starts_with("secrets") || e.0 == "host.key")
    );
    let whole: Vec<u8> = packed.iter().flat_map(|e| e.2.clone()).collect();
    assert!(!whole.windows(9).any(|w| w == b"secret of"));
    let key = std::fs::read(place.state.join("host.key")).unwrap();
    {
        let held = StateDir::open(&place.state).unwrap();
        let host = HostDb::open(&held, options()).unwrap();
        put(&open(&held, &host, "main"), "who", b"changed since");
    }
    let opened = Archive::open(&archive).unwrap();
    let done = restore(&opened, &place.state, true, "now").unwrap();
    assert_eq!(done.taken_over, ["host.key", "secrets"]);
    assert_eq!(std::fs::read(place.state.join("host.key")).unwrap(), key);
    assert!(place.state.join("secrets/acme/gateway-token").exists());
    assert_eq!(
        Place::value(&place.state, "main", "who").as_deref(),
        Some(&b"main"[..])
    );
    let kept = done.kept.unwrap();
    assert_eq!(kept, place.root.join("state.before-restore-now"));
    assert_eq!(
        Place::value(&kept, "main", "who").as_deref(),
        Some(&b"changed since"[..])
    );
}

#[test]
fn one_tenant_goes_into_another_gateway_under_another_name() {
    let here = place();
    let there = place();
    for (archive, slug) in [
        (here.pack("t.tar.gz", Some("acme"), true), "acme"),
        (here.pack("all.tar.gz", None, true), "acme"),
    ] {
        let opened = Archive::open(&archive).unwrap();
        opened.verify().unwrap();
        let to = if opened.manifest().kind == ArchiveKind::Tenant {
            "moved"
        } else {
            "again"
        };
        let which = TenantOf { slug, to };
        let done = restore_tenant(&opened, &there.state, which, false, 5).unwrap();
        assert!(done.kept.is_none() && done.secrets == 1);
        assert_eq!(
            Place::value(&there.state, to, "who").as_deref(),
            Some(&b"acme"[..])
        );
        let refused = restore_tenant(&opened, &there.state, which, false, 5).unwrap_err();
        assert!(refused.why.contains("has files already"), "{refused}");
        let forced = restore_tenant(&opened, &there.state, which, true, 5).unwrap();
        assert!(forced.kept.unwrap().join("tenant.sqlite").exists());
        assert_eq!(
            Place::value(&there.state, to, "who").as_deref(),
            Some(&b"acme"[..])
        );
    }
    // What was there is as it was.
    for slug in ["main", "acme"] {
        assert_eq!(
            Place::value(&there.state, slug, "who").as_deref(),
            Some(slug.as_bytes())
        );
    }
    let names: Vec<String> = entries(&here.root.join("t.tar.gz"))
        .into_iter()
        .map(|e| e.0)
        .collect();
    assert!(
        !names
            .iter()
            .any(|n| n.contains("host") || n.contains("gateway.json5") || n.contains("main")),
        "{names:?}"
    );
    let nowhere = here.root.join("nowhere");
    let of_acme = Archive::open(&here.root.join("t.tar.gz")).unwrap();
    let which = TenantOf {
        slug: "acme",
        to: "acme",
    };
    assert!(restore_tenant(&of_acme, &nowhere, which, false, 5).is_err() && !nowhere.exists());
    let of_one = Archive::open(&here.root.join("t.tar.gz")).unwrap();
    assert!(restore(&of_one, &here.root.join("x"), false, "now").is_err());
}

/// Links, hard links, devices, names that lead out, double names, other sizes, bombs, planted tables: each is refused, by
/// `verify` and by `restore`, and nothing is written outside of the place that goes away.
///
/// Covers: N11, F32.
#[test]
fn hostile_archives_are_refused() {
    let place = place();
    let good = entries(&place.pack("good.tar.gz", None, true));
    let at = |name: &str| good.iter().position(|e| e.0 == name).unwrap();
    let file = |manifest: &serde_json::Value, name: &str| {
        manifest["files"]
            .as_array()
            .unwrap()
            .iter()
            .position(|f| f["path"] == name)
            .unwrap()
    };
    let kind = |name: &str, kind: tar::EntryType| {
        let mut e = good.clone();
        e[at(name)].1 = kind;
        e
    };
    let renamed = |to: &str| {
        let mut e = with_manifest(&good, |m| {
            let i = file(m, "gateway.json5");
            m["files"][i]["path"] = to.into();
        });
        e[at("gateway.json5")].0 = to.to_owned();
        e
    };
    let mut cases: Vec<(&str, Entries)> = vec![
        (
            "symbolic link",
            kind("gateway.json5", tar::EntryType::Symlink),
        ),
        ("hard link", kind("gateway.json5", tar::EntryType::Link)),
        ("device", kind("gateway.json5", tar::EntryType::Char)),
        ("pipe", kind("gateway.json5", tar::EntryType::Fifo)),
        (
            "directory",
            kind("gateway.json5", tar::EntryType::Directory),
        ),
        ("sparse", kind("gateway.json5", tar::EntryType::GNUSparse)),
        (
            "long name",
            kind("gateway.json5", tar::EntryType::GNULongName),
        ),
        ("pax header", kind("gateway.json5", tar::EntryType::XHeader)),
        ("parent", renamed("../gateway.json5")),
        ("absolute", renamed("/tmp/gateway.json5")),
        ("parent inside", renamed("parts/../../x.json5")),
        ("lock", renamed("state.lock")),
        ("shell start", renamed(".bashrc")),
        ("a file as directory", renamed("host.sqlite/x")),
        ("owned by nobody", renamed("tenants/aaaaaaaaaaaaaaaa/x")),
        (
            "manifest is a link",
            kind("manifest.json", tar::EntryType::Symlink),
        ),
    ];
    let mut e = good.clone();
    e.insert(at("gateway.json5") + 1, good[at("gateway.json5")].clone());
    cases.push(("twice in the tar", e));
    let i = at("gateway.json5");
    let mut e = with_manifest(&good, |m| {
        let i = file(m, "gateway.json5");
        let twice = m["files"][i].clone();
        m["files"].as_array_mut().unwrap().insert(i, twice);
    });
    e.insert(i, good[i].clone());
    cases.push(("twice in both", e));
    let mut e = good.clone();
    e[i].2 = b"{ other: 1 }".to_vec();
    cases.push(("other bytes", e));
    let mut e = good.clone();
    e[i].2.push(b' ');
    cases.push(("other size", e));
    let mut e = good.clone();
    e.remove(i);
    cases.push(("one missing", e));
    let mut e = good.clone();
    e.swap(i, i + 1);
    cases.push(("other order", e));
    let mut e = good.clone();
    e.push(("more.json5".to_owned(), tar::EntryType::Regular, vec![]));
    cases.push(("one more", e));
    cases.push(("no manifest", good[1..].to_vec()));
    cases.push((
        "newer layout",
        with_manifest(&good, |m| m["format"] = 2.into()),
    ));
    cases.push((
        "unknown key",
        with_manifest(&good, |m| m["run"] = "sh".into()),
    ));
    cases.push((
        "secrets denied",
        with_manifest(&good, |m| m["secrets"] = false.into()),
    ));
    cases.push((
        "tenant of elsewhere",
        with_manifest(&good, |m| {
            m["tenants"][0]["dir"] = "../../../../tmp/x".into()
        }),
    ));
    cases.push((
        "tenants exchanged",
        with_manifest(&good, |m| {
            let slug = m["tenants"][0]["slug"].clone();
            m["tenants"][0]["slug"] = m["tenants"][1]["slug"].clone();
            m["tenants"][1]["slug"] = slug;
        }),
    ));
    cases.push((
        "another schema",
        with_manifest(&good, |m| m["tenants"][0]["schema"] = 1.into()),
    ));
    cases.push((
        "bomb by its manifest",
        with_manifest(&good, |m| {
            let i = file(m, "gateway.json5");
            m["files"][i]["bytes"] = (1u64 << 50).into();
        }),
    ));
    // A database with a trigger that nobody of us made, with fitting digests.
    let tenant = good
        .iter()
        .position(|e| e.0.ends_with("tenant.sqlite"))
        .unwrap();
    let planted = place.root.join("planted.sqlite");
    std::fs::write(&planted, &good[tenant].2).unwrap();
    plant(&planted);
    let bytes = std::fs::read(&planted).unwrap();
    let name = good[tenant].0.clone();
    let mut e = with_manifest(&good, |m| {
        let i = file(m, &name);
        m["files"][i]["bytes"] = bytes.len().into();
        m["files"][i]["sha256"] = hex(&bytes).into();
    });
    e[tenant].2 = bytes;
    cases.push(("planted trigger", e));
    // A database that is damaged inside, with fitting digests.
    let mut bytes = good[tenant].2.clone();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x5a);
    let mut e = with_manifest(&good, |m| {
        let i = file(m, &name);
        m["files"][i]["sha256"] = hex(&bytes).into();
    });
    e[tenant].2 = bytes;
    cases.push(("damaged database", e));

    let target = place.root.join("target");
    let before = listing(&place.root);
    let bad = place.root.join("bad.tar.gz");
    for (what, entries) in &cases {
        write(&bad, entries);
        let told = Archive::open(&bad).and_then(|a| a.verify().map(|_| a));
        let told = told.expect_err(what);
        assert!(!told.why.is_empty() && !told.next.is_empty());
        let restored =
            Archive::open(&bad).and_then(|a| restore(&a, &target, true, "now").map(|_| ()));
        assert!(restored.is_err(), "{what}");
        assert!(!target.exists(), "{what}");
        std::fs::remove_file(&bad).unwrap();
        assert_eq!(listing(&place.root), before, "{what}");
    }
    // The good one, written the same way, is taken: the cases fail for what they say.
    write(&bad, &good);
    Archive::open(&bad).unwrap().verify().unwrap();
}

/// Files below a directory with their sizes, without the databases of the place itself.
fn listing(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let meta = std::fs::symlink_metadata(entry.path()).unwrap();
            if meta.is_dir() {
                dirs.push(entry.path());
            }
            all.push((entry.path(), if meta.is_dir() { 0 } else { meta.size() }));
        }
    }
    all.sort();
    all
}

fn plant(path: &Path) {
    rusqlite::Connection::open(path)
        .unwrap()
        .execute_batch("CREATE TRIGGER planted AFTER UPDATE ON seal BEGIN DELETE FROM blobs; END")
        .unwrap();
}

/// Every place where an archive can be cut off, and every flipped byte: never whole, never a panic.
///
/// Covers: F32.
#[test]
fn archives_that_are_cut_or_changed_are_told() {
    let place = place();
    let good = std::fs::read(place.pack("good.tar.gz", None, false)).unwrap();
    let bad = place.root.join("bad.tar.gz");
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&bad, bytes).unwrap();
        let told = Archive::open(&bad).and_then(|a| a.verify());
        assert!(told.is_err(), "{what}");
    };
    let step = (good.len() / 40).max(1);
    for n in (0..good.len())
        .step_by(step)
        .chain(good.len() - 9..good.len())
    {
        refused(&good[..n], &format!("cut off after {n} of {}", good.len()));
    }
    let unpacked = |bytes: &[u8]| {
        let mut plain = Vec::new();
        let read = GzDecoder::new(bytes).read_to_end(&mut plain);
        read.is_ok().then_some(plain)
    };
    let whole = unpacked(&good).unwrap();
    let mut told = 0;
    for n in (10..good.len()).step_by(step) {
        let mut bytes = good.clone();
        bytes[n] ^= 0x10;
        // Between two blocks the stream has bits that carry nothing.
        if unpacked(&bytes).as_ref() != Some(&whole) {
            refused(&bytes, &format!("byte {n} changed"));
            told += 1;
        }
    }
    assert!(told > 30, "{told} changes that count");
    let mut longer = good.clone();
    longer.extend_from_slice(&good);
    refused(&longer, "two archives in one file");
    std::fs::write(&bad, &good).unwrap();
    Archive::open(&bad).unwrap().verify().unwrap();
}

/// A stream of zeros that unpacks to far more than its few bytes stops at what the manifest allows.
///
/// Covers: N11.
#[test]
fn a_bomb_is_stopped() {
    let place = place();
    let good = entries(&place.pack("good.tar.gz", None, false));
    let bad = place.root.join("bomb.tar.gz");
    // After the end of the tar come 4 GiB of zeros: some megabytes on the disk.
    let mut gz = GzEncoder::new(File::create(&bad).unwrap(), Compression::fast());
    let plain = place.root.join("plain.tar.gz");
    write(&plain, &good);
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(File::open(&plain).unwrap())
        .read_to_end(&mut tar)
        .unwrap();
    gz.write_all(&tar).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..256 {
        gz.write_all(&zeros).unwrap();
    }
    gz.finish().unwrap();
    let told = Archive::open(&bad).and_then(|a| a.verify()).unwrap_err();
    assert!(told.why.contains("more than its manifest says"), "{told}");
    // A manifest without end.
    let mut gz = GzEncoder::new(File::create(&bad).unwrap(), Compression::fast());
    let mut header = tar::Header::new_ustar();
    header.set_path("manifest.json").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    gz.write_all(header.as_bytes()).unwrap();
    for _ in 0..80 {
        gz.write_all(&zeros).unwrap();
    }
    gz.finish().unwrap();
    let told = Archive::open(&bad).unwrap_err();
    assert!(told.why.contains("manifest is too large"), "{told}");
}
