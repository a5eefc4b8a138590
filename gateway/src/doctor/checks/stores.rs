//! The databases. A running gateway has them open and watches over them itself; without one they are read whole.

use gateway_store::{DatabaseKind, StateDir, StoreError, check_database};

use crate::doctor::{Finding, Place};

/// `stores`: each database is whole, of a schema that this gateway knows, and sealed by its tenant.
pub fn databases(place: &Place) -> Vec<Finding> {
    const ID: &str = "stores";
    let host = place.state_dir.join("host.sqlite");
    if !host.exists() {
        return vec![Finding::ok(ID, "there are none yet")];
    }
    let held = match StateDir::open(&place.state_dir) {
        Ok(held) => held,
        Err(StoreError::Locked(_)) => {
            return vec![Finding::ok(
                ID,
                "in use by the running gateway, which checks them when it opens them (`gateway health`)",
            )];
        }
        Err(e) => {
            return vec![Finding::error(
                ID,
                e.to_string(),
                "use a state directory on a local disk",
            )];
        }
    };
    const MEND: &str =
        "keep the files as they are, and restore a backup (`gateway backup restore`)";
    let tenants = match check_database(&host, DatabaseKind::Host) {
        Ok(checked) => checked.tenants,
        Err(e) => return vec![Finding::error(ID, e.to_string(), MEND)],
    };
    let mut found = Vec::new();
    let mut count = 1;
    for (slug, id, dir) in &tenants {
        let dir = held.path().join("tenants").join(dir);
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
    found
}
