//! `$include`: which files may be read, and how many.
//!
//! An included file lies in the folder of the configuration or below it, also after all symbolic links are followed.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::disk::DiskFault;
use crate::load::{ReadFault, read_bounded};
use crate::source::MAX_FILE_BYTES;

/// Files within files, the configuration itself not counted.
pub(crate) const MAX_INCLUDE_DEPTH: usize = 8;
/// Included files in all.
pub(crate) const MAX_INCLUDED_FILES: usize = 64;
/// Bytes of all included files.
pub(crate) const MAX_INCLUDED_BYTES: u64 = 4 * MAX_FILE_BYTES;

/// Where included files are read from.
pub(crate) enum Files<'a> {
    /// The disk, in the folder of the configuration.
    Disk,
    /// Texts that were kept, by their name below that folder.
    Kept(&'a BTreeMap<String, String>),
}

/// A file that may be put in.
pub(crate) struct Opened {
    /// Its name below the folder of the configuration.
    pub(crate) name: PathBuf,
    pub(crate) text: String,
}

/// The state of reading included files.
pub(crate) struct Including<'a> {
    files: &'a Files<'a>,
    folder: PathBuf,
    /// Names that are being read, outermost first.
    open: Vec<PathBuf>,
    count: usize,
    bytes: u64,
    /// Names that were looked for.
    tried: Vec<PathBuf>,
    disk: Option<DiskFault>,
}

/// What is wrong, and what to do.
type Refusal = (String, &'static str);

impl<'a> Including<'a> {
    pub(crate) fn new(files: &'a Files<'a>, config: &Path) -> Self {
        let folder = config.parent().filter(|p| !p.as_os_str().is_empty());
        Self {
            files,
            folder: folder.unwrap_or(Path::new(".")).to_owned(),
            open: Vec::new(),
            count: 0,
            bytes: 0,
            tried: Vec::new(),
            disk: None,
        }
    }

    /// The name of an included file as errors show it.
    pub(crate) fn shown(&self, name: &Path) -> PathBuf {
        if self.folder == Path::new(".") {
            name.to_owned()
        } else {
            self.folder.join(name)
        }
    }

    /// Reads the file that is written as `written` in the file that is being read.
    pub(crate) fn open(&mut self, written: &str) -> Result<Opened, Refusal> {
        let inside = "name a file in the folder of the configuration or below it";
        let base = self.open.last().and_then(|n| n.parent());
        let name = normal(base.unwrap_or(Path::new("")), Path::new(written)).ok_or_else(|| {
            (
                format!("{written:?} is outside of the configuration's folder"),
                inside,
            )
        })?;
        if self.open.contains(&name) {
            return Err((
                format!("{} includes itself", name.display()),
                "take one of the two out",
            ));
        }
        if self.open.len() >= MAX_INCLUDE_DEPTH {
            return Err((
                format!("files include each other more than {MAX_INCLUDE_DEPTH} deep"),
                "put them side by side in one list",
            ));
        }
        if self.count >= MAX_INCLUDED_FILES {
            return Err((
                format!("more than {MAX_INCLUDED_FILES} files are included"),
                "join some of them",
            ));
        }
        self.tried.push(name.clone());
        let text = match self.files {
            Files::Kept(kept) => kept
                .get(&*name.to_string_lossy())
                .cloned()
                .ok_or_else(|| (format!("{}: {}", name.display(), ReadFault::Missing), ""))?,
            Files::Disk => self.read(&name, inside)?,
        };
        self.bytes += text.len() as u64;
        if self.bytes > MAX_INCLUDED_BYTES {
            return Err((
                format!("the included files have more than {MAX_INCLUDED_BYTES} bytes"),
                "take some of it out",
            ));
        }
        self.count += 1;
        self.open.push(name.clone());
        Ok(Opened { name, text })
    }

    /// The files that were looked for, there or not.
    pub(crate) fn tried(&self) -> Vec<PathBuf> {
        self.tried.iter().map(|name| self.shown(name)).collect()
    }

    /// The last opened file is read.
    pub(crate) fn close(&mut self) {
        self.open.pop();
    }

    /// What the machine refused while files were read.
    pub(crate) fn disk(&self) -> Option<DiskFault> {
        self.disk
    }

    fn read(&mut self, name: &Path, inside: &'static str) -> Result<String, Refusal> {
        let shown = |fault: &dyn std::fmt::Display| format!("{}: {fault}", name.display());
        let places = || {
            Ok((
                self.folder.canonicalize()?,
                self.folder.join(name).canonicalize()?,
            ))
        };
        let (folder, real) = places().map_err(|e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => (shown(&ReadFault::Missing), "check the name"),
            _ => (shown(&ReadFault::Io(e)), "check its permissions"),
        })?;
        if !real.starts_with(&folder) {
            return Err((shown(&"leads out of the configuration's folder"), inside));
        }
        let bytes = read_bounded(&real, MAX_FILE_BYTES).map_err(|fault| {
            self.disk = self.disk.or(fault.of_the_machine());
            (shown(&fault), "check its permissions")
        })?;
        let text = String::from_utf8(bytes)
            .map_err(|_| (shown(&"not UTF-8 text"), "save the file as UTF-8"))?;
        Ok(match text.strip_prefix('\u{feff}') {
            Some(plain) => plain.to_owned(),
            None => text,
        })
    }
}

/// `written` seen from `base`, without `.` and `..`; `None` when it leads out.
fn normal(base: &Path, written: &Path) -> Option<PathBuf> {
    let mut name = base.to_owned();
    for part in written.components() {
        match part {
            Component::Normal(part) => name.push(part),
            Component::CurDir => {}
            Component::ParentDir => {
                if !name.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!name.as_os_str().is_empty()).then_some(name)
}
