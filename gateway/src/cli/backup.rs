//! `gateway backup create | verify | restore`: archives of the state directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use gateway_backup::{
    Archive, ArchiveKind, BackupError, Manifest, TenantEntry, TenantOf, Unfinished, Verified,
    Wanted, collect, pack, restore, restore_tenant, sweep_snapshots,
};
use gateway_client::{ClientError, RequestOptions};
use gateway_config::{ClientWants, LoadRequest, MAIN_TENANT, Overrides, client_view, valid_slug};
use gateway_core::clock::{Clock, SystemClock};
use gateway_core::cron::schedule::rfc3339;
use gateway_protocol::methods::backup::BackupSnapshotResult;
use gateway_store::{SnapshotId, SnapshotOf, StateDir, StoreError, snapshot};
use serde_json::{Value, json};

use super::output::{Exit, Failure, clean, print};
use super::{Global, block_on, target};

/// Longest wait for the copies of the databases.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(6 * 3_600);
/// Longest wait for another backup to end.
const BUSY_PATIENCE: Duration = Duration::from_secs(120);
/// The layout of archives that this build writes.
const FORMAT: u32 = 1;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pack databases, blobs and configuration into one file, while the gateway runs or not; with --tenant only that tenant.
    Create {
        /// The file to make [default: gateway-backup-TIME.tar.gz here]. What is there already stays.
        file: Option<PathBuf>,
        /// Also secrets, the host's key, certificates and their keys: who has the file then has the gateway.
        #[arg(long)]
        with_secrets: bool,
    },
    /// Read an archive: every digest, and every database by opening it.
    Verify {
        /// The archive.
        file: PathBuf,
    },
    /// Put an archive back as the state directory, at once or not at all; with --tenant only that tenant, into the state directory that is there.
    Restore {
        /// The archive.
        file: PathBuf,
        /// Even where there is something: it is kept beside.
        #[arg(long)]
        force: bool,
    },
}

impl From<BackupError> for Failure {
    fn from(e: BackupError) -> Self {
        Self::new(Exit::Failure, e.why, e.next)
    }
}

pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let elsewhere =
        global.url.is_some() || std::env::var_os("GATEWAY_URL").is_some_and(|v| !v.is_empty());
    if elsewhere && !matches!(command, Command::Verify { .. }) {
        return Err(Failure::new(
            Exit::Usage,
            "a backup is made and restored on the gateway's machine, beside its state directory",
            "leave --url out (and GATEWAY_URL unset), and run it there",
        ));
    }
    match command {
        Command::Create { file, with_secrets } => create(global, file, with_secrets),
        Command::Verify { file } => verify(global, &file),
        Command::Restore { file, force } => put_back(global, &file, force),
    }
}

fn create(global: &Global, file: Option<PathBuf>, with_secrets: bool) -> Result<(), Failure> {
    let state_dir = std::path::absolute(global.state_dir()?)?;
    if !state_dir.join("host.sqlite").exists() {
        return Err(Failure::new(
            Exit::Failure,
            format!("{} is no state directory of a gateway", state_dir.display()),
            "name it with --state-dir",
        ));
    }
    let started_ms = SystemClock::new().now_ms();
    let tenant = global.tenant_given.then_some(global.tenant.as_str());
    let out = file.unwrap_or_else(|| {
        let of = tenant.map(|t| format!("{t}-")).unwrap_or_default();
        PathBuf::from(format!("gateway-backup-{of}{}.tar.gz", stamp(started_ms)))
    });
    let out = std::path::absolute(out)?;
    let included = included(global, &state_dir);
    let snapshots = SnapshotId::parent(&state_dir);
    gateway_config::durable::create_dirs(&snapshots)?;
    sweep_snapshots(&snapshots);
    let place = Unfinished::make(&snapshots, "")?;
    let taken = take_snapshot(global, &state_dir, &place, tenant)?;
    let manifest = Manifest {
        format: FORMAT,
        kind: if tenant.is_some() {
            ArchiveKind::Tenant
        } else {
            ArchiveKind::Gateway
        },
        made_by: gateway::VERSION.to_owned(),
        made_at_ms: taken.begun_at_ms,
        secrets: with_secrets,
        host_schema: taken.host_schema,
        tenants: taken
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
    let mut collected = collect(&Wanted {
        state_dir: &state_dir,
        snapshot_dir: place.path(),
        tenant,
        with_secrets,
        included: &included,
    })?;
    if let Some(config) = global.config.as_ref().filter(|_| tenant.is_none()) {
        collected.left_out.push(format!(
            "{} (the configuration lies outside of the state directory)",
            config.display()
        ));
    }
    let packed = pack(collected, manifest, &out)?;
    drop(place);
    sweep_snapshots(&snapshots);
    let mut told = described(&out, &packed.manifest, Some(&packed.verified));
    told["live"] = json!(taken.live);
    print(global.json, &told, |told| {
        format!(
            "{}\nnext: keep it on another machine; `gateway backup verify {}` reads it again, `gateway backup restore` puts it back",
            human("made", told),
            clean(&out.display().to_string())
        )
    })
}

/// Names of the files that the configuration includes. A configuration that is broken is packed as it is.
fn included(global: &Global, state_dir: &Path) -> Vec<String> {
    let request = LoadRequest {
        state_dir: state_dir.to_owned(),
        config_path: global.config.clone(),
        overrides: Overrides::default(),
        env: &|name| std::env::var(name).ok(),
    };
    client_view(&request, MAIN_TENANT, ClientWants::Place)
        .map(|view| view.included)
        .unwrap_or_default()
}

struct Taken {
    begun_at_ms: i64,
    host_schema: Option<i64>,
    tenants: Vec<gateway_protocol::methods::backup::BackupTenant>,
    /// A running gateway made it.
    live: bool,
}

/// By the gateway that runs on the directory; where none does, here, with its lock held.
fn take_snapshot(
    global: &Global,
    state_dir: &Path,
    place: &Unfinished,
    tenant: Option<&str>,
) -> Result<Taken, Failure> {
    match StateDir::open(state_dir) {
        Ok(state) => {
            let begun_at_ms = SystemClock::new().now_ms();
            let id = SnapshotId::parse(place.name()).ok_or_else(|| {
                Failure::new(Exit::Failure, "no name for the snapshot", "report this")
            })?;
            let of = tenant.map_or(SnapshotOf::Everything, SnapshotOf::Tenant);
            let made = snapshot(&state, &id, of).map_err(BackupError::from)?;
            Ok(Taken {
                begun_at_ms,
                host_schema: made.host_schema,
                tenants: made
                    .tenants
                    .into_iter()
                    .map(|t| gateway_protocol::methods::backup::BackupTenant {
                        slug: t.slug,
                        dir: t.dir,
                        schema: t.schema,
                        commits: t.commits,
                        blobs: t.blobs,
                    })
                    .collect(),
                live: false,
            })
        }
        Err(StoreError::Locked(_)) => block_on_value(ask(global, place.name(), tenant.is_none())),
        Err(e) => Err(BackupError::from(e).into()),
    }
}

async fn ask(global: &Global, id: &str, everything: bool) -> Result<Taken, Failure> {
    const METHOD: &str = "backup.snapshot";
    let client = target::connect(global, &[METHOD]).await?;
    let scope = if everything { "gateway" } else { "tenant" };
    let params = json!({ "snapshotId": id, "scope": scope });
    let begun = std::time::Instant::now();
    let answer = loop {
        let options = RequestOptions {
            timeout: Some(SNAPSHOT_PATIENCE),
            ..RequestOptions::default()
        };
        let answer = client.request_with(METHOD, params.clone(), options).await;
        match &answer {
            // Another backup is at work, or one that was ended here has not ended there.
            Err(ClientError::Rpc { error, .. })
                if error.details["code"] == "OVERLOADED" && begun.elapsed() < BUSY_PATIENCE =>
            {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            _ => break answer,
        }
    };
    client.close().await;
    let made: BackupSnapshotResult = serde_json::from_value(answer?).map_err(|e| {
        Failure::new(
            Exit::Failure,
            format!("the gateway answered something else: {e}"),
            "use the same version of the gateway and of this command",
        )
    })?;
    Ok(Taken {
        begun_at_ms: made.begun_at_ms,
        host_schema: made.host_schema,
        tenants: made.tenants,
        live: true,
    })
}

fn block_on_value<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut value = None;
    block_on(async {
        value = Some(work.await?);
        Ok(())
    })?;
    value.ok_or_else(|| Failure::new(Exit::Failure, "no answer", "try again"))
}

fn verify(global: &Global, file: &Path) -> Result<(), Failure> {
    let archive = Archive::open(file)?;
    let verified = archive.verify()?;
    let told = described(file, archive.manifest(), Some(&verified));
    print(global.json, &told, |told| human("whole", told))
}

fn put_back(global: &Global, file: &Path, force: bool) -> Result<(), Failure> {
    let state_dir = std::path::absolute(global.state_dir()?)?;
    let archive = Archive::open(file)?;
    let manifest = archive.manifest();
    let now_ms = SystemClock::new().now_ms();
    if !global.tenant_given && manifest.kind == ArchiveKind::Gateway {
        let done = restore(&archive, &state_dir, force, &stamp(now_ms))?;
        let mut told = described(file, manifest, None);
        told["stateDir"] = json!(state_dir);
        told["kept"] = json!(done.kept);
        told["takenOver"] = json!(done.taken_over);
        return print(global.json, &told, |told| {
            let mut lines = vec![format!("restored {}", clean_path(&told["stateDir"]))];
            if told["kept"].is_string() {
                lines.push(format!(
                    "before   {} (remove it when all is well)",
                    clean_path(&told["kept"])
                ));
            }
            if !done.taken_over.is_empty() {
                lines.push(format!(
                    "secrets  taken over from there: {}",
                    done.taken_over.join(", ")
                ));
            } else if !manifest.secrets {
                lines.push(
                    "secrets  the archive has none: put them back with `gateway secret set`; a new token is made at the start".to_owned(),
                );
            }
            lines.push("next: gateway serve".to_owned());
            lines.join("\n")
        });
    }
    let slug = match (&manifest.kind, global.tenant_given) {
        (ArchiveKind::Gateway, _) => global.tenant.clone(),
        (ArchiveKind::Tenant, _) => manifest
            .tenants
            .first()
            .map(|t| t.slug.clone())
            .unwrap_or_default(),
    };
    let to = if global.tenant_given {
        global.tenant.clone()
    } else {
        slug.clone()
    };
    if !valid_slug(&to) {
        return Err(Failure::new(
            Exit::Usage,
            format!("{to:?} is no name for a tenant"),
            "use a slug: a-z, 0-9 and -, not beginning with -",
        ));
    }
    let which = TenantOf {
        slug: &slug,
        to: &to,
    };
    let done = restore_tenant(&archive, &state_dir, which, force, now_ms)?;
    let mut told = described(file, manifest, None);
    told["stateDir"] = json!(state_dir);
    told["tenant"] = json!(to);
    told["kept"] = json!(done.kept);
    told["secrets"] = json!(done.secrets);
    print(global.json, &told, |told| {
        let mut lines = vec![format!(
            "restored tenant {to} of {}",
            clean_path(&told["stateDir"])
        )];
        if told["kept"].is_string() {
            lines.push(format!(
                "before   {} (remove it when all is well)",
                clean_path(&told["kept"])
            ));
        }
        lines.push(format!("secrets  {} put in place", done.secrets));
        lines.push(format!(
            "next: see that gateway.json5 has the tenant {to} and that its secrets are there, then gateway serve"
        ));
        lines.join("\n")
    })
}

/// `20261125T232044Z`
fn stamp(ms: i64) -> String {
    rfc3339(ms / 1_000 * 1_000)
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .collect()
}

fn described(file: &Path, manifest: &Manifest, verified: Option<&Verified>) -> Value {
    json!({
        "file": file,
        "kind": manifest.kind,
        "madeAt": rfc3339(manifest.made_at_ms),
        "madeAtMs": manifest.made_at_ms,
        "madeBy": manifest.made_by,
        "secrets": manifest.secrets,
        "hostSchema": manifest.host_schema,
        "tenants": manifest.tenants,
        "leftOut": manifest.left_out,
        "files": manifest.files.len(),
        "verified": verified,
    })
}

fn clean_path(value: &Value) -> String {
    clean(value.as_str().unwrap_or("-"))
}

fn human(word: &str, told: &Value) -> String {
    let tenants: Vec<String> = told["tenants"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|t| t["slug"].as_str())
        .map(clean)
        .collect();
    let bytes = |key: &str| told["verified"][key].as_u64().unwrap_or(0);
    let mut lines = vec![
        format!(
            "{word:8} {} ({} KiB, unpacked {} KiB)",
            clean_path(&told["file"]),
            bytes("bytes").div_ceil(1_024),
            bytes("unpackedBytes").div_ceil(1_024)
        ),
        format!("sha256   {}", clean_path(&told["verified"]["sha256"])),
        format!(
            "holds    {} files, {} databases; tenants: {}; as of {}",
            told["files"],
            told["verified"]["databases"],
            tenants.join(", "),
            clean_path(&told["madeAt"])
        ),
    ];
    if told["secrets"] == true {
        lines.push("secrets  are in it: keep it like the keys of the gateway".to_owned());
    }
    for left in told["leftOut"].as_array().into_iter().flatten() {
        lines.push(format!("left out {}", clean_path(left)));
    }
    lines.join("\n")
}
