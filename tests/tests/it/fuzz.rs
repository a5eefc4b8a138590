//! The fuzz targets without libFuzzer: their seeds, each seed cut at every byte, and seeded mutations of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gateway_fuzz::TARGETS;

/// Mutated inputs for each target.
const MUTATIONS: u32 = 1_500;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("fuzz")
}

fn names_in(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|entry| {
            let path = entry.path();
            path.file_stem().unwrap().to_string_lossy().into_owned()
        })
        .collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder().join("corpus").join(target))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

/// A small generator: the same numbers on every machine.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

fn mutate(numbers: &mut Numbers, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[numbers.below(seeds.len())].clone();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len() + 1);
        match numbers.below(5) {
            0 => bytes.insert(at, b"\0\r\n\"\\{}[]:,./%*@ 0aA\xff"[numbers.below(21)]),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            3 => {
                let other = &seeds[numbers.below(seeds.len())];
                let from = numbers.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let end = (at + numbers.below(24)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

#[test]
fn each_target_has_its_binary_and_its_seeds() {
    let named: BTreeSet<String> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    assert_eq!(named.len(), TARGETS.len());
    assert_eq!(names_in(&folder().join("fuzz_targets")), named);
    assert_eq!(names_in(&folder().join("corpus")), named);
    let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    for target in TARGETS {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{}.rs\"", target.name)));
        assert!(seeds(target.name).len() >= 5, "{}", target.name);
    }
}

#[test]
fn seeds_and_their_mutations_break_no_promise() {
    for target in TARGETS {
        let seeds = seeds(target.name);
        let run = |bytes: &[u8]| {
            if let Err(cause) = std::panic::catch_unwind(|| (target.run)(bytes)) {
                panic!(
                    "target {} with {:?}: {cause:?}",
                    target.name,
                    String::from_utf8_lossy(bytes)
                );
            }
        };
        for seed in &seeds {
            for end in 0..=seed.len() {
                run(&seed[..end]);
            }
        }
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for _ in 0..MUTATIONS {
            run(&mutate(&mut numbers, &seeds));
        }
    }
}
