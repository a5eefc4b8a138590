//! The bill of materials of a release: CycloneDX 1.5 as JSON.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::archive::sha256;
use super::parts::{Id, PACKAGE, Part, Parts};
use crate::ui::Result;

/// What the document says beside the parts.
pub struct Release<'a> {
    /// What the binary is built for.
    pub target: &'a str,
    /// SHA-256 of the binary.
    pub binary: String,
    /// When it counts as made, as RFC 3339.
    pub time: &'a str,
    /// Version of the SQLite that is compiled in.
    pub sqlite: String,
}

/// Makes the document. The same parts give the same bytes.
pub fn document(parts: &Parts, release: &Release) -> Result<Value> {
    let main = parts
        .all
        .iter()
        .find(|((name, _), part)| name == PACKAGE && part.own);
    let (main, main_part) = main.ok_or_else(|| format!("{PACKAGE} is not among the parts"))?;
    let mut components: Vec<Value> = Vec::new();
    let mut dependencies: Vec<Value> = Vec::new();
    for (id, part) in &parts.all {
        let mut uses: BTreeSet<String> = part.uses.iter().map(reference).collect();
        if id == main {
            uses.extend(parts.guests.iter().map(reference));
        } else {
            components.push(component(id, part, parts.guests.contains(id)));
        }
        if id.0 == "libsqlite3-sys" {
            uses.insert(format!("sqlite@{}", release.sqlite));
        }
        dependencies.push(json!({ "ref": reference(id), "dependsOn": uses }));
    }
    components.push(json!({
        "type": "library", "bom-ref": format!("sqlite@{}", release.sqlite), "name": "sqlite",
        "version": release.sqlite, "scope": "required", "licenses": [{ "license": { "id": "blessing" } }],
        "purl": format!("pkg:generic/sqlite@{}", release.sqlite),
    }));
    dependencies.push(json!({ "ref": format!("sqlite@{}", release.sqlite), "dependsOn": [] }));
    let mut subject = component(main, main_part, true);
    subject["hashes"] = json!([{ "alg": "SHA-256", "content": release.binary }]);
    subject["properties"] = json!([{ "name": "target", "value": release.target }]);
    let mut bom = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {
            "timestamp": release.time,
            "tools": { "components": [{ "type": "application", "name": "cargo xtask dist", "version": main.1 }] },
            "component": subject,
        },
        "components": components, "dependencies": dependencies,
    });
    let digest = sha256(bom.to_string().as_bytes());
    bom["serialNumber"] = json!(format!("urn:uuid:{}", uuid(&digest)));
    Ok(bom)
}

fn reference((name, version): &Id) -> String {
    format!("{name}@{version}")
}

fn component(id: &Id, part: &Part, application: bool) -> Value {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    let kind = if application {
        "application"
    } else {
        "library"
    };
    put("type", json!(kind));
    put("bom-ref", json!(reference(id)));
    put("name", json!(id.0));
    put("version", json!(id.1));
    let scope = if part.linked { "required" } else { "excluded" };
    put("scope", json!(scope));
    if !part.license.is_empty() {
        put("licenses", json!([{ "expression": part.license }]));
    }
    if let Some(checksum) = &part.checksum {
        put("hashes", json!([{ "alg": "SHA-256", "content": checksum }]));
    }
    // What is ours is in no registry.
    if !part.own {
        // `+` stands for a blank in some readers' eyes.
        let version = id.1.replace('+', "%2B");
        put("purl", json!(format!("pkg:cargo/{}@{version}", id.0)));
    }
    Value::Object(out)
}

/// A UUID of version 8 (the maker's own kind) from the beginning of a digest.
fn uuid(digest: &str) -> String {
    let d = digest;
    format!(
        "{}-{}-8{}-8{}-{}",
        &d[..8],
        &d[8..12],
        &d[13..16],
        &d[17..20],
        &d[20..32]
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::parts::sqlite_version;
    use super::*;
    use crate::sh;

    fn release(target: &str, sqlite: String) -> Release<'_> {
        Release {
            target,
            binary: sha256(b"binary"),
            time: "2026-01-02T03:04:05Z",
            sqlite,
        }
    }

    /// The real dependencies: everything that is linked is told, with license and origin, and every reference leads somewhere.
    #[test]
    fn the_document_has_every_normal_dependency() {
        let target = sh::host_target().unwrap();
        let guests: Vec<String> = crate::guests::names().unwrap().into_values().collect();
        assert_eq!(guests.len(), 5, "{guests:?}");
        let parts = Parts::find(&target, &guests).unwrap();
        let sqlite = sqlite_version(&parts).unwrap();
        let bom = document(&parts, &release(&target, sqlite.clone())).unwrap();
        assert_eq!(bom["specVersion"], "1.5");
        let components = bom["components"].as_array().unwrap();
        let find = |name: &str| components.iter().find(|c| c["name"] == name);
        for name in ["wasmtime", "tokio", "rustls", "ring", "rusqlite", "axum"] {
            let found = find(name).unwrap_or_else(|| panic!("no {name}"));
            assert_eq!(found["scope"], "required", "{found}");
            let purl = found["purl"].as_str().unwrap();
            assert!(purl.starts_with(&format!("pkg:cargo/{name}@")), "{purl}");
            assert_eq!(found["hashes"][0]["content"].as_str().unwrap().len(), 64);
        }
        assert_eq!(find("serde_derive").unwrap()["scope"], "excluded");
        assert_eq!(find("sqlite").unwrap()["version"], sqlite);
        for absent in ["xtask", "gateway-tests", "proptest", "croner", "criterion"] {
            assert!(find(absent).is_none(), "{absent} is not in the release");
        }
        // What each of our manifests names as a normal dependency for this system, asked in another way.
        let metadata: Value = serde_json::from_str(
            &sh::output(sh::cargo().args([
                "metadata",
                "--locked",
                "--no-deps",
                "--format-version",
                "1",
            ]))
            .unwrap(),
        )
        .unwrap();
        let mut seen = 0;
        for package in metadata["packages"].as_array().unwrap() {
            let own = package["name"].as_str().unwrap();
            if own != PACKAGE && find(own).is_none() {
                continue;
            }
            for dep in package["dependencies"].as_array().unwrap() {
                let normal = dep["kind"].is_null() && dep["optional"] == false;
                if normal && dep["target"].is_null() {
                    let name = dep["name"].as_str().unwrap();
                    assert!(find(name).is_some(), "{own} uses {name}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 100, "{seen}");
        for component in components {
            let license = &component["licenses"][0];
            assert!(
                license["expression"].is_string() || license["license"].is_object(),
                "{component}"
            );
        }
        let refs: BTreeSet<&str> = components
            .iter()
            .chain([&bom["metadata"]["component"]])
            .map(|c| c["bom-ref"].as_str().unwrap())
            .collect();
        assert_eq!(refs.len(), components.len() + 1, "references are unique");
        for dependency in bom["dependencies"].as_array().unwrap() {
            assert!(refs.contains(dependency["ref"].as_str().unwrap()));
            for to in dependency["dependsOn"].as_array().unwrap() {
                assert!(refs.contains(to.as_str().unwrap()), "{dependency}");
            }
        }
        // From the program one reaches everything that is linked, the guests and what they use among it.
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        let mut next = vec![bom["metadata"]["component"]["bom-ref"].as_str().unwrap()];
        while let Some(at) = next.pop() {
            if reached.insert(at) {
                let all = bom["dependencies"].as_array().unwrap().iter();
                let of = all.filter(|d| d["ref"] == at);
                let uses = of.flat_map(|d| d["dependsOn"].as_array().unwrap());
                next.extend(uses.map(|u| u.as_str().unwrap()));
            }
        }
        assert_eq!(reached, refs);
        assert!(
            guests
                .iter()
                .all(|g| find(g).is_some_and(|c| c["type"] == "application"))
        );
        let again = document(&parts, &release(&target, sqlite)).unwrap();
        assert_eq!(bom.to_string(), again.to_string());
        let text = bom.to_string();
        for host in ["://", "/root", "registry+"] {
            assert!(!text.contains(host), "{host} is in the document");
        }
    }

    /// The reader of the format's own makers, with their schema.
    #[test]
    fn the_document_holds_to_the_published_schema() {
        let Ok(python) = std::env::var("GATEWAY_PYTHON") else {
            panic!("GATEWAY_PYTHON is not set: run `cargo xtask test`");
        };
        let target = sh::host_target().unwrap();
        let guests: Vec<String> = crate::guests::names().unwrap().into_values().collect();
        let parts = Parts::find(&target, &guests).unwrap();
        let sqlite = sqlite_version(&parts).unwrap();
        let mut bom = document(&parts, &release(&target, sqlite)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sbom.cdx.json");
        let check = |bom: &Value| {
            std::fs::write(&file, bom.to_string()).unwrap();
            let done = std::process::Command::new(&python)
                .args(["-c", CHECK])
                .arg(&file)
                .output()
                .unwrap();
            (
                done.status.code(),
                String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned(),
            )
        };
        let (code, said) = check(&bom);
        assert_eq!(code, Some(0), "{said}");
        bom["components"][0]["scope"] = json!("linked");
        let (code, said) = check(&bom);
        assert_eq!(code, Some(3), "{said}");
    }

    const CHECK: &str = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
with open(sys.argv[1]) as file:
    error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(file.read())
if error:
    print(error)
    sys.exit(3)
";

    #[test]
    fn the_serial_number_is_a_uuid_of_the_contents() {
        let uuid = uuid(&sha256(b"x"));
        let parts: Vec<&str> = uuid.split('-').collect();
        assert_eq!(
            parts.iter().map(|p| p.len()).collect::<Vec<_>>(),
            [8, 4, 4, 4, 12]
        );
        assert!(parts[2].starts_with('8') && parts[3].starts_with('8'));
    }
}
