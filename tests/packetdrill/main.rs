//! Transcripts: scripts in the manner of packetdrill against the whole stack (frames, checksums,
//! listeners, timers) on a virtual clock. The scripts are in `cases/`; `README.md` there tells
//! how to read and write them.
//!
//! `LUNA_PKT=sack/` runs only the cases whose path or name contains the text.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that can't go on fails"
)]

mod calls;
#[path = "../host/mod.rs"]
mod host;
mod matrix;
mod run;
mod script;
mod text;

use std::path::{Path, PathBuf};

use run::Run;

fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![cases()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packetdrill/cases")
}

fn shown(file: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    file.strip_prefix(root)
        .unwrap_or(file)
        .display()
        .to_string()
}

#[test]
fn scripts() {
    let wanted = std::env::var("LUNA_PKT").unwrap_or_default();
    let mut failures = Vec::new();
    let mut count = 0;
    for file in files("pkt") {
        let text = std::fs::read_to_string(&file).unwrap();
        for case in script::cases(file, &text) {
            let name = format!("{}: {}", shown(&case.file), case.name);
            if !name.contains(&wanted) {
                continue;
            }
            count += 1;
            if let Err(failure) = Run::case(&case) {
                failures.push(format!(
                    "{}:{}: {}\n   script: {}\n   {}",
                    shown(&case.file),
                    failure.line,
                    case.name,
                    failure.text,
                    failure.what
                ));
            }
        }
    }
    println!("{count} cases");
    assert!(
        failures.is_empty(),
        "{} of {count} cases fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(
        !wanted.is_empty() || count >= 300,
        "only {count} cases were found"
    );
}
