//! The configuration, and what it names: secrets, certificate, plugins.

use std::path::Path;

use gateway_config::TlsSource;
use gateway_core::health::used_as;
use gateway_server::tls::{CertificatePair, PairFiles};
use gateway_wasm::manifest::World;
use gateway_wasm::{Bundled, Pins, candidates};

use crate::doctor::{Finding, Place};

/// Days before its end from which a certificate is a matter.
const CERTIFICATE_WARNING_DAYS: i64 = 14;
const DAY_MS: i64 = 86_400_000;

/// `config`: the file can be read, has only known keys, and everything that it refers to is there.
pub fn file(place: &Place) -> Vec<Finding> {
    const ID: &str = "config";
    match &place.settings {
        Err(error) => vec![Finding::error(
            ID,
            error.to_string(),
            format!(
                "{}; `gateway config history` and `gateway config rollback` bring an earlier one back",
                error.next
            ),
        )],
        Ok(settings) if settings.warnings.is_empty() => vec![Finding::ok(
            ID,
            format!("{} is sound", settings.config_path.display()),
        )],
        Ok(settings) => settings
            .warnings
            .iter()
            .map(|w| Finding::warning(ID, w.clone(), "see docs/configuration.md"))
            .collect(),
    }
}

/// What a command has to say to mean the tenant whose secrets are in this directory.
fn of_tenant(dir: &std::ffi::OsStr) -> String {
    match dir.to_string_lossy() {
        slug if slug == gateway_config::MAIN_TENANT => String::new(),
        slug => format!(" --tenant {slug}"),
    }
}

/// `secrets`: each stored secret can be read and is not empty. Those that the configuration refers to are part of `config`.
pub fn secrets(place: &Place) -> Vec<Finding> {
    const ID: &str = "secrets";
    let mut found = Vec::new();
    let mut count = 0;
    let dirs = std::fs::read_dir(place.state_dir.join("secrets"));
    for dir in dirs.into_iter().flatten().flatten() {
        for entry in std::fs::read_dir(dir.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            count += 1;
            let shown = path.display();
            match std::fs::read(&path) {
                Ok(bytes) if bytes.is_empty() => found.push(Finding::error(
                    ID,
                    format!("{shown} is empty"),
                    format!(
                        "gateway secret set {}{}",
                        entry.file_name().to_string_lossy(),
                        of_tenant(&dir.file_name())
                    ),
                )),
                Ok(_) => {}
                Err(e) => found.push(Finding::error(
                    ID,
                    format!("{shown} cannot be read: {e}"),
                    "give it to the user that the gateway runs as (chown, chmod 600)",
                )),
            }
        }
    }
    if found.is_empty() {
        found.push(Finding::ok(ID, format!("{count} can be read")));
    }
    found
}

/// `certificate`: both files of the listener's pair, fitting each other, in their time, and for some days yet.
pub fn certificate(place: &Place) -> Vec<Finding> {
    const ID: &str = "certificate";
    let Ok(settings) = &place.settings else {
        return Vec::new();
    };
    let tls = &settings.gateway.tls;
    let files = PairFiles::of(&tls.source, &place.state_dir);
    let own = matches!(tls.source, TlsSource::Own { .. });
    if !(tls.enabled || own && files.cert.exists()) {
        return vec![Finding::ok(ID, "no TLS is wanted")];
    }
    if own && !files.cert.exists() && !files.key.exists() {
        return vec![Finding::ok(ID, "it is made at the next start")];
    }
    let next = if own {
        "gateway tls rotate --now makes a new one (clients must pin it)"
    } else {
        "put the renewed pair in place of the old one: a running gateway takes it up"
    };
    match CertificatePair::load(&files, place.now_ms) {
        Err(e) => vec![Finding::error(ID, e.to_string(), e.next)],
        Ok(pair) => {
            let days = (pair.info.not_after_ms - place.now_ms) / DAY_MS;
            let said = format!("{} is valid for {days} days", files.cert.display());
            vec![if days < CERTIFICATE_WARNING_DAYS {
                Finding::warning(ID, said, next)
            } else {
                Finding::ok(ID, said)
            }]
        }
    }
}

/// `plugins`: their directory is there, each can be read, fits its pin, and everything that the configuration names (accounts of
/// channels, boot scripts, hook components) is one that can do it. Those that the program carries count as well.
pub fn plugins(place: &Place) -> Vec<Finding> {
    const ID: &str = "plugins";
    let Ok(settings) = &place.settings else {
        return Vec::new();
    };
    let bundled = match settings.plugins_bundled {
        true => gateway::bundled_plugins(),
        false => Vec::new(),
    };
    let dir = settings.plugins_dir.as_deref();
    let named = || settings.tenants.values().flat_map(|t| t.named_plugins());
    if dir.is_none() && bundled.is_empty() {
        let none = "no directory of plugins is configured (plugins.dir, --wasm-dir)";
        // A running gateway may have been given one, and says itself what it misses.
        return vec![match named().next().filter(|_| place.answer.is_none()) {
            None => Finding::ok(ID, none),
            Some(named) => Finding::warning(
                ID,
                format!("{none}, and {} names the plugin {}", named.path, named.id),
                "set plugins.dir; where the gateway is started with --wasm-dir, ask again while it runs",
            ),
        }];
    }
    if let Some(dir) = dir.filter(|d| !d.is_dir()) {
        return vec![Finding::error(
            ID,
            format!("the plugin directory {} is not there", dir.display()),
            "set plugins.dir, or build the plugins (`cargo xtask guests`)",
        )];
    }
    let pins = Pins {
        digests: settings.plugin_pins.clone(),
        only: settings.plugins_pinned_only,
    };
    let (mut found, there) = judge_packages(dir, &bundled, &pins);
    let place = match dir {
        Some(dir) => format!("in {}", dir.display()),
        None => "bundled with this program".to_owned(),
    };
    for named in named() {
        let world = there.iter().find(|(id, _)| *id == named.id);
        if let Some(why) = named.fault(world.map(|(_, world)| used_as(*world))) {
            found.push(Finding::error(
                ID,
                format!("{why} (looked {place})"),
                named.next_step(),
            ));
        }
    }
    let known = |id: &str| there.iter().any(|(there, _)| there == id);
    for id in pins.digests.keys().filter(|id| !known(id)) {
        found.push(Finding::warning(
            ID,
            format!("plugins.pins names {id}, which is not {place}"),
            "put the plugin into the directory of plugins, or take the pin out",
        ));
    }
    if found.is_empty() {
        let ids: Vec<&str> = there.iter().map(|(id, _)| id.as_str()).collect();
        found.push(Finding::ok(ID, ids.join(", ")));
    }
    found
}

fn judge_packages(
    dir: Option<&Path>,
    bundled: &[Bundled],
    pins: &Pins,
) -> (Vec<Finding>, Vec<(String, World)>) {
    let mut found = Vec::new();
    let mut ids = Vec::new();
    let there = match candidates(dir, bundled) {
        Ok(there) => there,
        Err(e) => {
            found.push(Finding::error(
                "plugins",
                e.to_string(),
                "give the directory to the user that the gateway runs as",
            ));
            Vec::new()
        }
    };
    for candidate in there {
        let at = match candidate.source().path() {
            Some(path) => path.display().to_string(),
            None => format!("{} (bundled)", candidate.id),
        };
        match candidate.read() {
            Err(why) => found.push(Finding::error(
                "plugins",
                format!("{at}: {why}"),
                "replace the folder by a whole one",
            )),
            Ok(package) => {
                if let Err(why) = pins.check(&package) {
                    found.push(Finding::error(
                        "plugins",
                        format!("{at}: {why}"),
                        "compare with `gateway plugin list`; put the pinned plugin back if this one is not yours",
                    ));
                }
                ids.push((package.manifest.id, package.manifest.world));
            }
        }
    }
    (found, ids)
}
