//! Files below one folder. Every path is resolved by the kernel below the folder's descriptor (`openat2` with `RESOLVE_BENEATH`): no `..`,
//! no absolute path and no symbolic link leads out, whatever changes meanwhile.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use serde_json::{Value, json};

use super::commands::Fault;

/// Bytes that one `file.fetch` gives, and one `file.write` takes.
const MAX_PIECE_BYTES: u64 = 1024 * 1024;
/// Entries of one `dir.list`.
const MAX_ENTRIES: usize = 1_000;

/// The folder.
pub struct Root {
    dir: OwnedFd,
    writable: bool,
}

impl Root {
    /// Opens the folder.
    pub fn open(path: &Path, writable: bool) -> std::io::Result<Self> {
        let dir = File::open(path)?;
        if !dir.metadata()?.is_dir() {
            return Err(std::io::Error::from(std::io::ErrorKind::NotADirectory));
        }
        Ok(Self {
            dir: dir.into(),
            writable,
        })
    }

    /// Whether files may be written.
    pub fn writable(&self) -> bool {
        self.writable
    }

    fn beneath(&self, params: &Value, flags: OFlag, mode: Mode) -> Result<File, Fault> {
        let path = match &params["path"] {
            Value::Null => ".",
            Value::String(path) if !path.is_empty() && !path.contains('\0') => path,
            _ => return Err(Fault::new("INVALID_PARAMS", "path has to be a text")),
        };
        // A descriptor that is for looking only takes none of the others.
        let more = if flags.contains(OFlag::O_PATH) {
            OFlag::O_CLOEXEC
        } else {
            OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY
        };
        let how = OpenHow::new()
            .flags(flags | more)
            .mode(mode)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(self.dir.as_fd(), path, how)
            .map(File::from)
            .map_err(|errno| match errno {
                nix::Error::ENOENT => Fault::new("NOT_FOUND", "there is no such file"),
                nix::Error::EXDEV | nix::Error::ELOOP => Fault::new(
                    "OUTSIDE",
                    "this path leads out of the folder that is offered",
                ),
                other => Fault::new("FAILED", other.desc()),
            })
    }

    /// `{path?}` → `{entries: [{name, kind, size}], truncated}`
    pub fn list(&self, params: &Value) -> Result<Value, Fault> {
        let dir = self.beneath(params, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
        let mut open = nix::dir::Dir::from_fd(dir.into()).map_err(failed)?;
        let mut names: Vec<(String, &'static str)> = Vec::new();
        let mut truncated = false;
        for entry in open.iter() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." {
                continue;
            }
            if names.len() >= MAX_ENTRIES {
                truncated = true;
                break;
            }
            let kind = match entry.file_type() {
                Some(nix::dir::Type::File) => "file",
                Some(nix::dir::Type::Directory) => "dir",
                Some(nix::dir::Type::Symlink) => "link",
                _ => "other",
            };
            names.push((name, kind));
        }
        names.sort();
        let entries: Vec<Value> = names
            .into_iter()
            .map(|(name, kind)| json!({ "name": name, "kind": kind }))
            .collect();
        Ok(json!({ "entries": entries, "truncated": truncated }))
    }

    /// `{path}` → `{kind, size, modifiedAtMs}`
    pub fn stat(&self, params: &Value) -> Result<Value, Fault> {
        let file = self.beneath(params, OFlag::O_PATH, Mode::empty())?;
        let meta = file.metadata().map_err(broken)?;
        let kind = if meta.is_file() {
            "file"
        } else if meta.is_dir() {
            "dir"
        } else {
            "other"
        };
        let modified = meta.mtime().saturating_mul(1_000) + meta.mtime_nsec() / 1_000_000;
        Ok(json!({ "kind": kind, "size": meta.len(), "modifiedAtMs": modified }))
    }

    /// `{path, offset?, maxBytes?}` → `{base64, offset, size, eof}`
    pub fn fetch(&self, params: &Value) -> Result<Value, Fault> {
        let mut file = self.plain(params, OFlag::O_RDONLY)?;
        let size = file.metadata().map_err(broken)?.len();
        let offset = params["offset"].as_u64().unwrap_or(0);
        let most = params["maxBytes"]
            .as_u64()
            .unwrap_or(MAX_PIECE_BYTES)
            .min(MAX_PIECE_BYTES);
        file.seek(SeekFrom::Start(offset)).map_err(broken)?;
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).map_err(broken)?;
        let end = offset.saturating_add(bytes.len() as u64);
        Ok(
            json!({ "base64": STANDARD.encode(&bytes), "offset": offset, "size": size, "eof": end >= size }),
        )
    }

    /// `{path, base64, append?}` → `{size}`. A new file is for its owner alone.
    pub fn write(&self, params: &Value) -> Result<Value, Fault> {
        let text = params["base64"]
            .as_str()
            .ok_or_else(|| Fault::new("INVALID_PARAMS", "base64 has to be a text"))?;
        let bytes = STANDARD
            .decode(text)
            .map_err(|e| Fault::new("INVALID_PARAMS", format!("base64: {e}")))?;
        if bytes.len() as u64 > MAX_PIECE_BYTES {
            return Err(Fault::new(
                "TOO_LARGE",
                format!("at most {MAX_PIECE_BYTES} bytes at once; send the rest with append"),
            ));
        }
        let how = if params["append"] == true {
            OFlag::O_APPEND
        } else {
            OFlag::O_TRUNC
        };
        let mut file = self.plain(params, OFlag::O_WRONLY | OFlag::O_CREAT | how)?;
        file.write_all(&bytes).map_err(broken)?;
        file.sync_all().map_err(broken)?;
        Ok(json!({ "size": file.metadata().map_err(broken)?.len() }))
    }

    /// A plain file; a pipe or a device could hold the reader up for ever.
    fn plain(&self, params: &Value, flags: OFlag) -> Result<File, Fault> {
        let mode = if flags.contains(OFlag::O_CREAT) {
            Mode::S_IRUSR | Mode::S_IWUSR
        } else {
            Mode::empty()
        };
        let file = self.beneath(params, flags, mode)?;
        if !file.metadata().map_err(broken)?.is_file() {
            return Err(Fault::new("NOT_A_FILE", "it is no plain file"));
        }
        Ok(file)
    }
}

fn failed(errno: nix::Error) -> Fault {
    Fault::new("FAILED", errno.desc())
}

fn broken(error: std::io::Error) -> Fault {
    Fault::new("FAILED", error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// No path leads out of the folder, nor does a link in it.
    #[test]
    fn paths_stay_below_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        std::fs::create_dir_all(inside.join("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "no").unwrap();
        std::fs::write(inside.join("sub/a.txt"), "hello").unwrap();
        for (name, to) in [
            ("up", "../secret"),
            ("abs", "/etc/passwd"),
            ("good", "sub/a.txt"),
        ] {
            std::os::unix::fs::symlink(to, inside.join(name)).unwrap();
        }
        let root = Root::open(&inside, true).unwrap();
        for out in ["../secret", "sub/../../secret", "/etc/passwd", "up", "abs"] {
            let path = json!({ "path": out, "base64": "" });
            assert_eq!(root.fetch(&path).unwrap_err().code, "OUTSIDE", "{out}");
            assert_eq!(root.write(&path).unwrap_err().code, "OUTSIDE", "{out}");
            assert_eq!(root.stat(&path).unwrap_err().code, "OUTSIDE", "{out}");
        }
        assert_eq!(
            std::fs::read_to_string(dir.path().join("secret")).unwrap(),
            "no"
        );
        let got = root.fetch(&json!({ "path": "good", "offset": 1, "maxBytes": 2 }));
        assert_eq!(
            got.unwrap(),
            json!({ "base64": STANDARD.encode("el"), "offset": 1, "size": 5, "eof": false })
        );
        assert_eq!(
            root.fetch(&json!({ "path": "sub" })).unwrap_err().code,
            "NOT_A_FILE"
        );
        assert_eq!(
            root.fetch(&json!({ "path": "none" })).unwrap_err().code,
            "NOT_FOUND"
        );
        let listed = root.list(&json!({})).unwrap();
        let names: Vec<&str> = listed["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["abs", "good", "sub", "up"]);
        for (append, size) in [(false, 2), (true, 4), (false, 2)] {
            let wrote = root.write(
                &json!({ "path": "sub/new", "base64": STANDARD.encode("ab"), "append": append }),
            );
            assert_eq!(wrote.unwrap(), json!({ "size": size }));
        }
        assert_eq!(root.stat(&json!({ "path": "sub/new" })).unwrap()["size"], 2);
    }
}
