//! The archive of a release: a plain tar in gzip that is the same, byte for byte, wherever and whenever the same files go into it.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::ui::Result;

/// A file of the archive.
pub struct Entry {
    /// Its path below the archive's one folder, with `/`.
    pub path: String,
    /// Its contents.
    pub bytes: Vec<u8>,
    /// Whether it may be run.
    pub program: bool,
}

impl Entry {
    /// A file that is read.
    pub fn file(path: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self {
            path: path.into(),
            bytes,
            program: false,
        }
    }
}

/// Packs the entries below `folder`, in order of their paths, as files of root that were changed at `time` (Unix seconds).
pub fn pack(folder: &str, mut entries: Vec<Entry>, time: u64) -> Result<Vec<u8>> {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    if let Some(pair) = entries.windows(2).find(|p| p[0].path == p[1].path) {
        return Err(format!("{} is in the archive twice", pair[0].path));
    }
    let gzip = flate2::GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), flate2::Compression::best());
    let mut tar = tar::Builder::new(gzip);
    for entry in &entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(entry.bytes.len() as u64);
        header.set_mode(if entry.program { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(time);
        tar.append_data(
            &mut header,
            format!("{folder}/{}", entry.path),
            entry.bytes.as_slice(),
        )
        .map_err(|e| format!("{}: {e}", entry.path))?;
    }
    tar.into_inner()
        .and_then(flate2::write::GzEncoder::finish)
        .map_err(|e| e.to_string())
}

/// Lower-case hex SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// The text of `SHA256SUMS` for these files, in the form that `sha256sum --check` reads.
pub fn sums(files: &[&Path]) -> Result<String> {
    let mut lines = Vec::new();
    for path in files {
        let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path.file_name().and_then(|n| n.to_str());
        let name = name.ok_or_else(|| format!("{}: not a name", path.display()))?;
        lines.push(format!("{}  {name}\n", sha256(&bytes)));
    }
    lines.sort_by(|a, b| a[64..].cmp(&b[64..]));
    Ok(lines.concat())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;

    fn entries(turned: bool) -> Vec<Entry> {
        let long = format!("docs/{}/page.md", "long-name/".repeat(20));
        let mut entries = vec![
            Entry::file("b.txt", b"two".to_vec()),
            Entry::file(long, b"deep".to_vec()),
            Entry {
                program: true,
                ..Entry::file("a", b"#!/bin/sh\necho it runs\n".to_vec())
            },
        ];
        if turned {
            entries.reverse();
        }
        entries
    }

    #[test]
    fn the_same_files_make_the_same_archive() {
        let one = pack("gateway-1", entries(false), 1_700_000_000).unwrap();
        let two = pack("gateway-1", entries(true), 1_700_000_000).unwrap();
        assert_eq!(one, two, "neither order nor the clock is in it");
        assert_ne!(one, pack("gateway-1", entries(false), 1).unwrap());
        assert_ne!(
            one,
            pack("gateway-2", entries(false), 1_700_000_000).unwrap()
        );
        let mut double = entries(false);
        double.push(Entry::file("b.txt", Vec::new()));
        assert!(pack("gateway-1", double, 0).unwrap_err().contains("b.txt"));
    }

    /// As the system's tar reads it.
    #[test]
    fn the_archive_can_be_unpacked_by_others() {
        let dir = std::env::temp_dir().join(format!("xtask-archive-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("x.tar.gz");
        std::fs::write(
            &path,
            pack("gateway-1", entries(false), 1_700_000_000).unwrap(),
        )
        .unwrap();
        let tar = |args: &[&str]| {
            let out = Command::new("tar").current_dir(&dir).args(args).output();
            let out = out.unwrap();
            assert!(out.status.success(), "{out:?}");
            String::from_utf8(out.stdout).unwrap()
        };
        let listed = tar(&["--utc", "--numeric-owner", "-tvzf", "x.tar.gz"]);
        let lines: Vec<&str> = listed.lines().collect();
        assert_eq!(lines.len(), 3, "{listed}");
        assert!(lines[0].starts_with("-rwxr-xr-x 0/0"), "{listed}");
        assert!(lines[1].starts_with("-rw-r--r-- 0/0"), "{listed}");
        assert!(
            lines.iter().all(|l| l.contains("2023-11-14 22:13")),
            "{listed}"
        );
        tar(&["-xzf", "x.tar.gz"]);
        let said = Command::new(dir.join("gateway-1/a")).output().unwrap();
        assert_eq!(said.stdout, b"it runs\n");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// As `sha256sum --check` sees it: the files as they are, and one that was changed.
    #[test]
    fn sums_fit_the_files_and_no_others() {
        let dir = std::env::temp_dir().join(format!("xtask-sums-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let (a, b) = (dir.join("a.tar.gz"), dir.join("b.json"));
        std::fs::write(&a, b"archive").unwrap();
        std::fs::write(&b, b"{}").unwrap();
        std::fs::write(dir.join("SHA256SUMS"), sums(&[&b, &a]).unwrap()).unwrap();
        let check = || {
            let mut cmd = Command::new("sha256sum");
            cmd.args(["--check", "--strict", "SHA256SUMS"]);
            cmd.current_dir(&dir).output().unwrap()
        };
        let checked = check();
        assert!(checked.status.success(), "{checked:?}");
        assert_eq!(checked.stdout, b"a.tar.gz: OK\nb.json: OK\n");
        std::fs::write(&a, b"archivf").unwrap();
        assert!(!check().status.success());
        assert!(sums(&[&dir.join("none")]).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
