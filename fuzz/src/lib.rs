//! The entry functions of the fuzz targets: each reads bytes as a stranger may send them, and panics when something that the
//! project promises about them is not so.
//!
//! `cargo xtask fuzz` runs them under libFuzzer, the test `fuzz` of package gateway-tests replays the seeds and mutations of them.

mod cron;
mod names;
mod wire;

pub use cron::cron;
pub use names::{names, session_key, url};
pub use wire::{connect, frame, head, jsonrpc};

use std::path::PathBuf;

/// One target: its name (of the binary and of the folder in `corpus/`), and what it does with an input.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name.
    pub name: &'static str,
    /// Reads one input; panics on a broken promise.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "frame",
        run: frame,
    },
    Target {
        name: "connect",
        run: connect,
    },
    Target {
        name: "jsonrpc",
        run: jsonrpc,
    },
    Target {
        name: "config",
        run: config,
    },
    Target {
        name: "session_key",
        run: session_key,
    },
    Target {
        name: "names",
        run: names,
    },
    Target {
        name: "url",
        run: url,
    },
    Target {
        name: "head",
        run: head,
    },
    Target {
        name: "manifest",
        run: manifest,
    },
    Target {
        name: "archive",
        run: archive,
    },
    Target {
        name: "cron",
        run: cron,
    },
];

/// `gateway.json5`: nothing but a whole `Settings` or an error with places inside the file comes out, and no secret shows.
pub fn config(bytes: &[u8]) {
    const CANARY: &str = "canary-3f9c61d2a7b84e05-canary-3f9c61d2a7b84e05";
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let request = gateway_config::LoadRequest {
        // No such directory: secret files are looked for and not found.
        state_dir: PathBuf::from("/nonexistent/fuzz"),
        config_path: None,
        overrides: gateway_config::Overrides::default(),
        env: &|_| Some(CANARY.to_owned()),
    };
    match gateway_config::load_text(text, &request, PathBuf::from("gateway.json5")) {
        Ok(settings) => {
            let shown = gateway_config::redacted_json(&settings).to_string();
            assert!(!shown.contains(CANARY), "a secret shows: {shown}");
            assert!(!format!("{settings:?}").contains(CANARY));
        }
        Err(error) => {
            assert!(!error.problems.is_empty() && !error.next.is_empty());
            assert!(!error.to_string().contains(CANARY));
            let lines = text.split('\n').count();
            for (line, column) in error.problems.iter().filter_map(|p| p.position) {
                assert!(
                    (1..=lines).contains(&line) && column >= 1,
                    "{line}:{column} of {lines} lines"
                );
            }
        }
    }
}

/// `plugin.toml`: an accepted manifest asks only for what its world offers, and never for more than the host's ceilings.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match gateway_wasm::Manifest::parse(text) {
        Ok(manifest) => {
            for capability in &manifest.capabilities {
                assert!(manifest.world.offers().contains(capability));
            }
            assert!(!manifest.id.is_empty() && manifest.id.len() <= 64);
            assert!(
                manifest
                    .id
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            );
            assert!(
                !manifest.file.contains(['/', '\\', '\0']) && !manifest.file.starts_with('.'),
                "{:?}",
                manifest.file
            );
            assert!(
                manifest.limits.call_ms >= 1 && manifest.limits.mailbox >= 1 && manifest.batch >= 1
            );
            assert!(
                manifest.boot.is_some()
                    == (manifest.world == gateway_wasm::manifest::World::BootV0_1)
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// `manifest.json` of a backup: whatever an accepted one names stays below the directory that it is unpacked to, once, and
/// within the limits; secrets are there only when it says so.
pub fn archive(bytes: &[u8]) {
    let manifest = match gateway_backup::Manifest::parse(bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            assert!(!error.why.is_empty() && !error.next.is_empty());
            return;
        }
    };
    let root = std::path::Path::new("/place");
    let mut seen = std::collections::BTreeSet::new();
    for file in &manifest.files {
        let path = file.path.below(root);
        let plain = path
            .components()
            .skip(1)
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        assert!(plain && path.starts_with(root) && path != root, "{path:?}");
        assert!(seen.insert(path), "{} twice", file.path);
        assert!(manifest.secrets || !file.path.is_secret());
        assert_eq!(file.sha256.len(), 64);
    }
    for path in &seen {
        assert!(!path.ancestors().skip(1).any(|above| seen.contains(above)));
    }
    assert!(manifest.total_bytes().is_ok());
    for tenant in &manifest.tenants {
        assert!(tenant.dir.len() == 16 && !tenant.dir.contains(['/', '.']));
    }
}
