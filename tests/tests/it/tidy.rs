//! The structure that ARCHITECTURE.md promises, checked on the manifests and sources.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    all["packages"].as_array().unwrap().clone()
}

/// Packages whose normal dependencies name `dependency`.
fn users(packages: &[Value], dependency: &str) -> BTreeSet<String> {
    packages
        .iter()
        .filter(|package| {
            package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .any(|one| one["name"] == dependency && one["kind"].is_null())
        })
        .map(|package| package["name"].as_str().unwrap().to_owned())
        .filter(|name| name != "gateway-tests")
        .collect()
}

#[test]
fn who_links_what() {
    let packages = packages();
    for (dependency, allowed) in [
        ("wasmtime", vec!["gateway-wasm"]),
        ("rusqlite", vec!["gateway-store"]),
        ("axum", vec!["gateway-server"]),
        ("jsonc-parser", vec!["gateway-config"]),
        (
            "rustls",
            vec!["gateway", "gateway-egress", "gateway-server"],
        ),
        (
            "tokio-rustls",
            vec!["gateway-client", "gateway-egress", "gateway-server"],
        ),
        ("rcgen", vec!["gateway-server"]),
        ("tar", vec!["gateway-backup", "xtask"]),
        // In `core` for the picture of a setup code.
        ("flate2", vec!["gateway-backup", "gateway-core", "xtask"]),
        ("mdns-sd", vec!["gateway-client", "gateway-server"]),
        ("reqwest", vec![]),
        ("openssl", vec![]),
    ] {
        let found = users(&packages, dependency);
        let allowed: BTreeSet<String> = allowed.into_iter().map(str::to_owned).collect();
        assert!(
            found.is_subset(&allowed),
            "{dependency} is linked by {found:?}, allowed are {allowed:?}"
        );
    }
    let of = |name: &str| {
        packages
            .iter()
            .find(|package| package["name"] == name)
            .unwrap()["dependencies"]
            .clone()
    };
    let names = |name: &str| -> BTreeSet<String> {
        of(name)
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["kind"].is_null())
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let protocol = names("gateway-protocol");
    assert!(
        !protocol.contains("tokio") && !protocol.contains("hyper"),
        "protocol does no I/O: {protocol:?}"
    );
    let core = names("gateway-core");
    for outside in ["hyper", "axum", "rusqlite", "wasmtime", "tokio-tungstenite"] {
        assert!(!core.contains(outside), "core links {outside}");
    }
    assert!(
        !names("gateway-wasm").contains("gateway-store")
            && !names("gateway-store").contains("gateway-wasm")
    );
}

/// Versions from which the known faults of these libraries are mended; no certificate compression; no other TLS library.
///
/// Covers: N17.
#[test]
fn tls_libraries_are_new_enough_and_few() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let versions = |name: &str| -> Vec<[u64; 3]> {
        lock.split("[[package]]")
            .filter(|block| block.contains(&format!("\nname = \"{name}\"\n")))
            .map(|block| {
                let version = block.split("version = \"").nth(1).unwrap();
                let version = version.split('"').next().unwrap();
                let mut parts = version
                    .split(['.', '-', '+'])
                    .map(|part| part.parse().unwrap());
                std::array::from_fn(|_| parts.next().unwrap())
            })
            .collect()
    };
    for (name, least) in [("rustls", [0, 23, 46]), ("rustls-webpki", [0, 103, 13])] {
        let found = versions(name);
        assert!(!found.is_empty(), "{name} is not in Cargo.lock");
        assert!(found.iter().all(|v| *v >= least), "{name}: {found:?}");
    }
    // It is there for archives on disk, and the TLS library does not have it.
    let with_zlib: Vec<&str> = lock
        .split("[[package]]")
        .filter(|block| block.contains("\n \"zlib-rs\",\n"))
        .filter_map(|block| block.split("name = \"").nth(1)?.split('"').next())
        .collect();
    assert_eq!(with_zlib, ["flate2"]);
    for absent in [
        "brotli",
        "aws-lc-rs",
        "aws-lc-sys",
        "openssl-sys",
        "native-tls",
    ] {
        assert!(versions_absent(&lock, absent), "{absent} is in Cargo.lock");
    }
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let features = manifest
        .lines()
        .find(|line| line.starts_with("rustls = "))
        .unwrap();
    for feature in ["brotli", "zlib", "ech", "hpke"] {
        assert!(!features.contains(feature), "{features}");
    }
}

fn versions_absent(lock: &str, name: &str) -> bool {
    !lock.contains(&format!("\nname = \"{name}\"\n"))
}

/// Nothing prints a value that holds a key or session secrets: the types that do have their own `Debug`, or none.
///
/// Covers: N17.
#[test]
fn types_with_tls_secrets_do_not_derive_debug() {
    let mut files = Vec::new();
    for krate in ["server", "client", "egress"] {
        sources(
            &root().join("gateway/crates").join(krate).join("src"),
            &mut files,
        );
    }
    let secret = [
        "ServerConfig",
        "ClientConfig",
        "CertifiedKey",
        "PrivateKeyDer",
        "ServerConnection",
        "ClientConnection",
    ];
    let mut seen = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("struct ") {
            let body = &text[at..];
            let body = &body[..body.find("\n}").map_or(body.len(), |end| end)];
            let holds = secret.iter().any(|name| body.contains(name));
            let above = &text[..at];
            let attributes = &above[above.rfind("\n\n").unwrap_or(0)..];
            if holds {
                seen += 1;
                assert!(
                    !attributes.contains("derive(") || !attributes.contains("Debug"),
                    "{}: {}",
                    file.display(),
                    body.lines().next().unwrap()
                );
            }
        }
    }
    assert!(seen >= 3, "the types were not found");
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
    {
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn no_global_state() {
    let mut files = Vec::new();
    let crates = root().join("gateway/crates");
    for entry in std::fs::read_dir(&crates).unwrap().flatten() {
        sources(&entry.path().join("src"), &mut files);
    }
    sources(&root().join("gateway/src"), &mut files);
    assert!(files.len() > 80, "the sources were not found");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let product = text.split("#[cfg(test)]").next().unwrap();
        for (number, line) in product.lines().enumerate() {
            let code = line.trim_start();
            let is_static = code.starts_with("static ")
                || code.starts_with("pub static ")
                || code.contains("static mut ");
            let mutable = [
                "Mutex",
                "RwLock",
                "OnceLock",
                "OnceCell",
                "Atomic",
                "LazyLock",
                "static mut",
            ];
            assert!(
                !(is_static && mutable.iter().any(|word| code.contains(word))),
                "{}:{}: state outside of `Host` and `Tenant`: {code}",
                file.display(),
                number + 1
            );
        }
    }
}

#[test]
fn links_in_the_documents_are_alive() {
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            assert!(
                root().join(link).exists(),
                "{document} links {link}, which is not there"
            );
        }
    }
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for path in [
        "server/src/accept.rs",
        "core/src/channel/verify.rs",
        "core/src/channel/inbound.rs",
        "core/src/channel/outbound.rs",
    ] {
        assert!(architecture.contains(path));
        assert!(
            root().join("gateway/crates").join(path).exists(),
            "ARCHITECTURE.md names {path}"
        );
    }
}

/// No pattern of an operator, a manifest or a user is run by an engine that goes back over its text: there is none in the lock
/// files, and our own crates name no pattern engine at all. (`regex-automata` is in the tree for the directives of the log
/// filter; it is a finite automaton.)
/// Covers: R14.
#[test]
fn no_backtracking_pattern_engine_is_linked() {
    for lock in ["Cargo.lock", "guest-plugins/Cargo.lock", "fuzz/Cargo.lock"] {
        let text = std::fs::read_to_string(root().join(lock)).unwrap();
        let names: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
            .collect();
        assert!(names.len() > 3, "{lock} was not read");
        for engine in [
            "fancy-regex",
            "pcre",
            "pcre2",
            "pcre2-sys",
            "onig",
            "onig_sys",
            "regress",
            "hyperscan",
            "wildmatch",
            "glob-match",
        ] {
            assert!(!names.contains(engine), "{lock} has {engine}");
        }
    }
    for package in packages() {
        for one in package["dependencies"].as_array().unwrap() {
            let name = one["name"].as_str().unwrap();
            assert!(
                !name.contains("regex") && !name.contains("glob"),
                "{} names {name}: patterns of strangers need a bound on their cost",
                package["name"]
            );
        }
    }
}
