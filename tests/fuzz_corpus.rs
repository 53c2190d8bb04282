//! The fuzz targets on a stable toolchain: the committed corpus, and mutations of it.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "../fuzz/calls.rs"]
mod calls;
#[path = "../fuzz/entries.rs"]
mod entries;
mod host;
#[path = "../fuzz/host.rs"]
mod shard;

use std::path::{Path, PathBuf};

/// Mutations per target, shared by the files of its corpus. `LUNA_FUZZ_ROUNDS` asks for so many
/// per file instead.
const MUTATIONS: usize = 30_000;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    files
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % n.max(1)
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 => bytes.insert(at, self.below(256) as u8),
                1 => bytes.truncate(at),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                4 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                _ => {
                    let from = self.below(other.len());
                    let to = from + self.below(other.len() - from + 1);
                    let piece = other[from..to].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes.truncate(4096);
    }
}

/// Says which input it was while a panic unwinds.
struct Running<'a>(&'a Path, &'a [u8]);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let out = std::env::temp_dir().join("luna-fuzz-failure");
            let _ = std::fs::write(&out, self.1);
            eprintln!(
                "from {}; the input is in {}",
                self.0.display(),
                out.display()
            );
        }
    }
}

fn replay(target: &str, entry: fn(&[u8])) {
    let files = corpus(target);
    let few = MUTATIONS.div_ceil(files.len());
    let rounds = std::env::var("LUNA_FUZZ_ROUNDS").map_or(few, |n| n.parse().unwrap());
    let mut rng = Rng(1);
    for (path, bytes) in &files {
        let running = Running(path, bytes);
        entry(bytes);
        drop(running);
        for _ in 0..rounds {
            let mut bytes = bytes.clone();
            let other = rng.below(files.len());
            rng.mutate(&mut bytes, &files[other].1);
            let running = Running(path, &bytes);
            entry(&bytes);
            drop(running);
        }
    }
}

#[test]
fn wire() {
    replay("wire", entries::wire);
}

#[test]
fn segments() {
    replay("segments", entries::segments);
}

#[test]
fn unconnected() {
    replay("unconnected", entries::unconnected);
}

#[test]
fn netlink() {
    replay("netlink", entries::netlink);
}

#[test]
fn options() {
    replay("options", shard::options);
}

#[test]
fn host() {
    replay("host", shard::host);
}

#[test]
fn calls() {
    replay("calls", calls::calls);
}
