//! A file that starts over when it is full: `gateway.log`, `gateway.log.1` (the newest full one), and so on.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file, open for appending.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    file: File,
    size: u64,
}

impl RotatingFile {
    /// Opens it, and makes it (0600) and its folder (0700) if they are missing.
    pub fn open(path: &Path, max_bytes: u64, keep: u32) -> io::Result<Self> {
        let named = |e: io::Error| {
            io::Error::new(e.kind(), format!("the log file {}: {e}", path.display()))
        };
        if let Some(folder) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(named)?;
        }
        let file = append(path).map_err(named)?;
        let size = file.metadata().map_err(named)?.len();
        Ok(Self {
            path: path.to_owned(),
            max_bytes,
            keep,
            file,
            size,
        })
    }

    fn old(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(self.path.as_os_str());
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    /// Renames what is full, oldest first, and begins the next file.
    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            match std::fs::rename(self.old(number), self.old(number + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        std::fs::rename(&self.path, self.old(1))?;
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size > 0 && self.size.saturating_add(bytes.len() as u64) > self.max_bytes {
            // Without a next file the lines are lost and counted: the bound holds.
            self.rotate()?;
        }
        let n = self.file.write(bytes)?;
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn full_files_are_kept_up_to_their_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/gateway.log");
        let mut file = RotatingFile::open(&path, 10, 2).unwrap();
        for n in 0..6 {
            file.write_all(format!("line{n}\n").as_bytes()).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join("logs").join(name));
        assert_eq!(read("gateway.log").unwrap(), "line5\n");
        assert_eq!(read("gateway.log.1").unwrap(), "line4\n");
        assert_eq!(read("gateway.log.2").unwrap(), "line3\n");
        assert!(read("gateway.log.3").is_err());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // A start goes on where the last one ended.
        drop(file);
        let mut file = RotatingFile::open(&path, 100, 2).unwrap();
        file.write_all(b"more\n").unwrap();
        assert_eq!(read("gateway.log").unwrap(), "line5\nmore\n");
        // Where no next file can be begun the bound still holds.
        std::fs::create_dir(dir.path().join("logs/gateway.log.2/")).unwrap_or(());
        std::fs::remove_file(dir.path().join("logs/gateway.log.2")).unwrap();
        std::fs::create_dir_all(dir.path().join("logs/gateway.log.2/x")).unwrap();
        assert!(file.write_all(&[b'x'; 200]).is_err());
        assert_eq!(read("gateway.log").unwrap(), "line5\nmore\n");
    }
}
