//! The databases. A running gateway has them open and watches over them itself; without one they are read whole.

use std::fs::File;
use std::path::Path;

use gateway_store::{DatabaseKind, check_database};

use crate::doctor::{Finding, Place};

/// `stores`: each database is whole, of a schema that this gateway knows, and sealed by its tenant.
pub fn databases(place: &Place) -> Vec<Finding> {
    const ID: &str = "stores";
    let host = place.state_dir.join("host.sqlite");
    if !host.exists() {
        return vec![Finding::ok(ID, "there are none yet")];
    }
    // The lock of the gateway itself, so that none begins to write meanwhile; nothing is made and no mode is changed.
    let lock = File::open(place.state_dir.join("state.lock")).ok();
    if lock.as_ref().is_some_and(|lock| lock.try_lock().is_err()) {
        return vec![Finding::ok(
            ID,
            "in use by the running gateway, which checks them when it opens them (`gateway health`)",
        )];
    }
    const MEND: &str =
        "keep the files as they are, and restore a backup (`gateway backup restore`)";
    let tenants = match check_database(&host, DatabaseKind::Host) {
        Ok(checked) => checked.tenants,
        Err(e) => return vec![Finding::error(ID, e.to_string(), MEND)],
    };
    let mut found = Vec::new();
    let mut count = 1;
    for (slug, id, dir) in &tenants {
        let dir = place.state_dir.join("tenants").join(dir);
        let file = dir.join("tenant.sqlite");
        if !file.exists() {
            continue;
        }
        count += 1;
        match check_database(&file, DatabaseKind::Tenant) {
            Err(e) => found.push(Finding::error(
                ID,
                format!("tenant {slug}: {e}"),
                format!("{MEND}, only this tenant with --tenant {slug}"),
            )),
            Ok(checked) if checked.sealed_by.as_ref().is_some_and(|by| by != id) => {
                found.push(Finding::error(
                    ID,
                    format!("tenant {slug}: {} is another tenant's file", file.display()),
                    MEND,
                ));
            }
            Ok(_) => {}
        }
    }
    if found.is_empty() {
        found.push(Finding::ok(ID, format!("{count} databases are whole")));
    }
    found.push(orphans(&place.state_dir.join("tenants"), &tenants));
    found
}

/// `orphans`: directories below `tenants/` that the host does not refer to.
fn orphans(dir: &Path, tenants: &[(String, String, String)]) -> Finding {
    const ID: &str = "orphans";
    let lost: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            entry.path().join("tenant.sqlite").exists()
                && !tenants
                    .iter()
                    .any(|(.., dir)| name.to_str() == Some(dir.as_str()))
        })
        .map(|entry| entry.path().display().to_string())
        .collect();
    if lost.is_empty() {
        return Finding::ok(ID, "every tenant's directory is referred to");
    }
    Finding::warning(
        ID,
        format!(
            "no tenant has {}: the files from before a restored tenant, or of a restore that was cut off",
            lost.join(", ")
        ),
        "remove them when all is well",
    )
}
