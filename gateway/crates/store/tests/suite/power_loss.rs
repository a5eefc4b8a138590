//! Power loss, by replay of the recorded order of writes.
//!
//! A child runs under `strace`, which records each write, fsync and truncate of its files and each acknowledgement
//! (a write to standard output) in one order. For a random point of that order the files are built as a disk might
//! hold them after the power went: everything that was fsynced before, and of the rest each 512-byte sector perhaps.

use crate::support::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SECTOR: usize = 512;

#[derive(Debug)]
enum Op {
    /// The file was made by `open`.
    Create(PathBuf),
    Write(PathBuf, usize, Vec<u8>),
    Truncate(PathBuf, usize),
    Unlink(PathBuf),
    /// fsync or fdatasync of a file or a directory that returned 0.
    Sync(PathBuf),
    Stdout(Vec<u8>),
}

fn require_strace() {
    let there = |cmd: &mut Command| {
        cmd.stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    if there(Command::new("strace").arg("-V")) {
        return;
    }
    let _ = there(Command::new("apt-get").args(["install", "-y", "strace"]));
    assert!(
        there(Command::new("strace").arg("-V")),
        "this test needs strace (apt-get install strace); set GATEWAY_SKIP_STRACE=1 to go without it"
    );
}

/// `"\x41\x42"` → bytes. strace is asked for hexadecimal strings only.
fn unhex(s: &str) -> Vec<u8> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => b - b'0',
        b'a'..=b'f' => b - b'a' + 10,
        _ => panic!("not a hexadecimal string: {}", char::from(b)),
    };
    let bytes = s.as_bytes();
    assert!(bytes.len().is_multiple_of(4), "cut-off string");
    bytes
        .chunks(4)
        .map(|c| digit(c[2]) << 4 | digit(c[3]))
        .collect()
}

/// The path in `N<path>`.
fn fd_path(arg: &str) -> (i32, PathBuf) {
    let (fd, rest) = arg.split_once('<').unwrap_or((arg, ">"));
    let path = rest.rsplit_once('>').map_or("", |(p, _)| p);
    let path = if path.starts_with("\\x") {
        String::from_utf8(unhex(path)).unwrap()
    } else {
        path.to_owned()
    };
    // strace marks the path of a file that is gone.
    (
        fd.trim().parse().unwrap_or(-1),
        PathBuf::from(path.trim_end_matches("(deleted)")),
    )
}

/// Arguments at the top level: commas in strings and brackets do not count.
fn arguments(s: &str) -> Vec<&str> {
    let (mut out, mut start, mut quoted, mut angle) = (Vec::new(), 0, false, false);
    for (i, b) in s.bytes().enumerate() {
        match b {
            b'"' => quoted = !quoted,
            b'<' if !quoted => angle = true,
            b'>' if !quoted => angle = false,
            b',' if !quoted && !angle => {
                out.push(s[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(s[start..].trim());
    out
}

/// Reads the recording: only what concerns files below `root`, and standard output.
fn parse(trace: &Path, root: &Path) -> Vec<Op> {
    let file = std::io::BufReader::new(std::fs::File::open(trace).unwrap());
    let mut ops = Vec::new();
    let mut begun: HashMap<String, String> = HashMap::new();
    let mut known: BTreeSet<PathBuf> = BTreeSet::new();
    for line in file.lines() {
        let line = line.unwrap();
        let Some((pid, rest)) = line.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        // A call that was interrupted in the listing comes in two halves.
        let (call, args, result, half) = if let Some(rest) = rest.strip_prefix("<... ") {
            let Some((call, tail)) = rest.split_once(" resumed>") else {
                panic!("{line:.200}")
            };
            let head = begun.remove(pid).unwrap_or_default();
            let whole = format!("{head}{tail}");
            (call.to_owned(), whole, true, 2)
        } else if let Some(head) = rest.strip_suffix("<unfinished ...>") {
            let Some((call, args)) = head.split_once('(') else {
                continue;
            };
            begun.insert(pid.to_owned(), args.trim_end().to_owned());
            (call.to_owned(), args.to_owned(), false, 1)
        } else {
            let Some((call, args)) = rest.split_once('(') else {
                continue;
            };
            (call.to_owned(), args.to_owned(), true, 0)
        };
        let (args, ok) = if result {
            let Some((args, result)) = args.rsplit_once(") = ").or_else(|| {
                args.rsplit_once(')')
                    .map(|(a, r)| (a, r.trim_start_matches([' ', '='])))
            }) else {
                // A call that strace saw begin and let go: it is as if it were not over.
                if args.contains("<detached ...>") {
                    continue;
                }
                panic!("no result: {line:.200}")
            };
            (
                args.trim_end().to_owned(),
                !result.trim().starts_with('-') && !result.trim().starts_with('?'),
            )
        } else {
            (args, true)
        };
        let a = arguments(&args);
        let ours = |p: &Path| {
            p.starts_with(root)
                && !p.to_string_lossy().ends_with("-shm")
                && !p.ends_with("state.lock")
        };
        match call.as_str() {
            // A write may reach the disk from the moment it begins; an acknowledgement counts from there too.
            "write" if half != 2 => {
                let (fd, path) = fd_path(a[0]);
                if fd == 1 {
                    ops.push(Op::Stdout(unhex(a[1].trim_matches('"'))));
                } else {
                    assert!(
                        !ours(&path),
                        "write without an offset to {}",
                        path.display()
                    );
                }
            }
            "pwrite64" if half != 2 => {
                let (_, path) = fd_path(a[0]);
                if ours(&path) {
                    // The offset of a first half is there too: strace prints the arguments of a write on entry.
                    ops.push(Op::Write(
                        path,
                        a[3].trim_end_matches(')').parse().unwrap(),
                        unhex(a[1].trim_matches('"')),
                    ));
                }
            }
            // A sync holds from the moment it has answered.
            "fsync" | "fdatasync" if half != 1 && ok => ops.push(Op::Sync(fd_path(a[0]).1)),
            "ftruncate" if half != 2 => {
                let (_, path) = fd_path(a[0]);
                if ours(&path) {
                    ops.push(Op::Truncate(
                        path,
                        a[1].trim_end_matches(')').parse().unwrap(),
                    ));
                }
            }
            "openat" if half != 1 && ok && args.contains("O_CREAT") => {
                let path = PathBuf::from(String::from_utf8(unhex(a[1].trim_matches('"'))).unwrap());
                if ours(&path) && known.insert(path.clone()) {
                    ops.push(Op::Create(path));
                }
            }
            "unlink" | "unlinkat" if half != 1 && ok => {
                let name = a.iter().find(|x| x.starts_with('"')).unwrap();
                let path = PathBuf::from(String::from_utf8(unhex(name.trim_matches('"'))).unwrap());
                if ours(&path) {
                    known.remove(&path);
                    ops.push(Op::Unlink(path));
                }
            }
            "rename" | "renameat" | "renameat2" | "pwritev" | "pwritev2" | "writev"
            | "fallocate" | "sync_file_range" => {
                panic!("the replay does not know {call}, but the store used it")
            }
            _ => {}
        }
    }
    ops
}

/// A file of the simulated disk.
#[derive(Clone, Default)]
struct File {
    durable: Vec<u8>,
    /// Whether its directory entry survives.
    entry_durable: bool,
    removed: bool,
    pending: Vec<usize>,
}

fn apply(bytes: &mut Vec<u8>, op: &Op, mut keep: impl FnMut() -> bool) {
    match op {
        Op::Write(_, offset, data) => {
            let mut at = 0;
            while at < data.len() {
                let n = (SECTOR - (offset + at) % SECTOR).min(data.len() - at);
                if keep() {
                    let end = offset + at + n;
                    if bytes.len() < end {
                        bytes.resize(end, 0);
                    }
                    bytes[offset + at..end].copy_from_slice(&data[at..at + n]);
                }
                at += n;
            }
        }
        Op::Truncate(_, len) if keep() => bytes.resize(*len, 0),
        _ => {}
    }
}

/// Builds the disk after `ops[..cut]` and lets the store look at it. Answers what it found wrong.
struct Replay<'a> {
    ops: &'a [Op],
    files: BTreeMap<PathBuf, File>,
    acked: Acked,
    at: usize,
}

impl<'a> Replay<'a> {
    fn new(ops: &'a [Op], root: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut dirs = vec![root.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    let file = File {
                        durable: std::fs::read(&path).unwrap(),
                        entry_durable: true,
                        ..File::default()
                    };
                    files.insert(path, file);
                }
            }
        }
        Self {
            ops,
            files,
            acked: Acked::default(),
            at: 0,
        }
    }

    fn forward(&mut self, cut: usize) {
        for i in self.at..cut {
            match &self.ops[i] {
                Op::Create(p) => {
                    let f = self.files.entry(p.clone()).or_default();
                    f.removed = false;
                }
                op @ (Op::Write(p, ..) | Op::Truncate(p, _)) => {
                    let _ = op;
                    self.files.entry(p.clone()).or_default().pending.push(i);
                }
                Op::Unlink(p) => self.files.entry(p.clone()).or_default().removed = true,
                Op::Sync(p) => {
                    if let Some(f) = self.files.get_mut(p) {
                        for n in std::mem::take(&mut f.pending) {
                            apply(&mut f.durable, &self.ops[n], || true);
                        }
                    } else {
                        // A directory: its entries hold now.
                        for (path, f) in &mut self.files {
                            if path.parent() == Some(p) {
                                f.entry_durable = true;
                            }
                        }
                        self.files
                            .retain(|path, f| !(f.removed && path.parent() == Some(p)));
                    }
                }
                Op::Stdout(bytes) => {
                    for line in String::from_utf8_lossy(bytes).lines() {
                        self.acked.line(line);
                    }
                }
            }
        }
        self.at = cut;
    }

    fn write_disk(&self, root: &Path, target: &Path, rng: &mut Rng) {
        // How likely an unsynced sector is on the disk: never, always, or in between.
        let percent = [0, 0, 50, 90, 100][usize::try_from(rng.below(5)).unwrap()];
        for (path, f) in &self.files {
            let mut keep = || rng.below(100) < percent;
            if (!f.entry_durable && !keep()) || (f.removed && keep()) {
                continue;
            }
            let mut bytes = f.durable.clone();
            for n in &f.pending {
                apply(&mut bytes, &self.ops[*n], &mut keep);
            }
            let to = target.join(path.strip_prefix(root).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, bytes).unwrap();
        }
    }
}

/// Records one run of the workload and cuts it at `cuts` random points. Answers (acknowledgements, points, failures).
fn power_loss(sync: &str, cuts: usize, ops_per_producer: &str) -> (usize, usize, Vec<String>) {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().canonicalize().unwrap().join("state");
    prepare(&root);
    let before = tmp.path().join("before");
    copy_tree(&root, &before);
    let trace = tmp.path().join("trace");
    let strace = [
        "strace",
        "-f",
        "-y",
        "-xx",
        "-s",
        "10000000",
        "-e",
        "trace=openat,write,pwrite64,pwritev,pwritev2,writev,fsync,fdatasync,ftruncate,fallocate,sync_file_range,rename,renameat,renameat2,unlink,unlinkat",
        "-e",
        "signal=none",
        "-o",
        trace.to_str().unwrap(),
    ];
    let vars = [
        ("GATEWAY_STORE_SYNC", sync),
        ("GATEWAY_STORE_OPS", ops_per_producer),
        ("GATEWAY_STORE_CHECKPOINT", "40"),
    ];
    let out = child(&root, &strace, &vars).wait_with_output().unwrap();
    assert!(
        String::from_utf8_lossy(&out.stdout).contains("#done"),
        "the recorded child did not finish its work"
    );
    let ops = parse(&trace, &root);
    std::fs::remove_file(&trace).unwrap();

    // Restored to what the recording started from; the replay reads it and does not change it.
    std::fs::remove_dir_all(&root).unwrap();
    copy_tree(&before, &root);
    let mut replay = Replay::new(&ops, &root);
    let seed = seed();
    let mut rng = Rng(seed);
    let acks: Vec<usize> = ops
        .iter()
        .enumerate()
        .filter(|(_, o)| matches!(o, Op::Stdout(_)))
        .map(|(i, _)| i + 1)
        .collect();
    let mut points = BTreeSet::new();
    while points.len() < cuts.min(ops.len() / 2) {
        // Half of them right behind an acknowledgement, where a lost commit shows at once.
        let near = acks[usize::try_from(rng.below(acks.len() as u64)).unwrap()];
        let any = usize::try_from(rng.below(ops.len() as u64)).unwrap();
        points.insert(if points.len() % 2 == 0 { near } else { any });
    }
    let mut failures = Vec::new();
    for cut in &points {
        replay.forward(*cut);
        let disk = tempfile::tempdir_in(tmp.path()).unwrap();
        let target = disk.path().join("state");
        replay.write_disk(&root, &target, &mut rng);
        if let Err(e) = verify(&target, &replay.acked) {
            failures.push(format!("cut {cut} of {}, seed {seed}: {e}", ops.len()));
        }
    }
    replay.forward(ops.len());
    (replay.acked.ids.len(), points.len(), failures)
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

pub fn skipped() -> bool {
    if std::env::var("GATEWAY_SKIP_STRACE").is_ok() {
        println!("skipped because GATEWAY_SKIP_STRACE is set");
        return true;
    }
    require_strace();
    false
}

/// Covers: F2.
#[test]
fn no_acknowledged_message_is_lost_when_the_power_goes() {
    if skipped() {
        return;
    }
    let (cuts, ops) = if long() { (1_000, "100") } else { (200, "25") };
    let (acked, points, failures) = power_loss("full", cuts, ops);
    println!(
        "{points} power losses over {acked} acknowledged messages, {} with a loss",
        failures.len()
    );
    assert!(
        failures.is_empty(),
        "{} of {points} points: {:#?}",
        failures.len(),
        &failures[..failures.len().min(5)]
    );
    assert_eq!(points, cuts);
}

/// The same test finds the loss where there is one: without fsync.
///
/// Covers: F2.
#[test]
fn the_power_loss_test_notices_a_store_that_does_not_sync() {
    if skipped() {
        return;
    }
    let (acked, points, failures) = power_loss("off", 40, "12");
    println!(
        "without fsync: {points} power losses over {acked} acknowledged messages, {} with a loss",
        failures.len()
    );
    assert!(
        failures.iter().any(|f| f.contains("is lost")),
        "{failures:#?}"
    );
    assert!(
        failures.len() > points / 4,
        "only {} of {points}",
        failures.len()
    );
}
