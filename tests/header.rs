//! The committed header is the one that the sources give, and compilers take it.
//! `LUNA_BLESS=1` rewrites it.

#![allow(clippy::unwrap_used, reason = "a test fails where a helper of it does")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The header that the sources give.
fn generated() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    let entries = std::fs::read_dir(root().join("src/capi")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    // cbindgen follows its `mod` lines, and would give everything twice.
    paths.retain(|path| path.file_name().is_none_or(|name| name != "mod.rs"));
    paths.sort();
    for path in paths {
        builder = builder.with_src(path);
    }
    let mut bytes = Vec::new();
    builder.generate().unwrap().write(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_committed_header_is_current() {
    let path = root().join("include/luna.h");
    let generated = generated();
    if std::env::var_os("LUNA_BLESS").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "include/luna.h differs from src/capi: run this test with LUNA_BLESS=1 and look at \
         the difference"
    );
}

#[test]
fn everything_is_declared_once() {
    let header = generated();
    let mut names: Vec<&str> = header
        .lines()
        .filter(|line| !line.starts_with("//") && !line.starts_with(' '))
        .filter_map(|line| {
            let words = line.strip_suffix('{').unwrap_or(line).trim_end();
            match words.split_once('(') {
                Some((before, _)) => before.rsplit([' ', '*']).next(),
                None => words.strip_prefix("#define ")?.split(' ').next(),
            }
        })
        .filter(|name| name.starts_with("luna_") || name.starts_with("LUNA_"))
        .collect();
    let all = names.len();
    assert!(all > 50, "{names:?}");
    names.sort_unstable();
    names.dedup();
    assert_eq!(all, names.len(), "something is declared twice");
}

fn compiles(compiler: &str, extension: &str, options: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join(format!("use.{extension}"));
    let program = "#include <luna.h>\nint main(void) { return luna_socket(0, 0, 0) + 1; }\n";
    std::fs::write(&source, program).unwrap();
    std::fs::write(directory.path().join("luna.h"), generated()).unwrap();
    let output = Command::new(compiler)
        .args(options)
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", "-o"])
        .arg(directory.path().join("use.o"))
        .arg("-I")
        .arg(directory.path())
        .arg(&source)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_header_is_c_without_warnings() {
    compiles("cc", "c", &["-std=c11"]);
    compiles("cc", "c", &["-std=gnu17", "-Wstrict-prototypes"]);
}

#[test]
fn the_header_is_cpp_without_warnings() {
    compiles("c++", "cpp", &["-std=c++11"]);
}

/// The functions that the shared library exports.
fn exported(library: &Path) -> Vec<String> {
    let output = Command::new("nm")
        .args(["--dynamic", "--defined-only", "--format=posix"])
        .arg(library)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut names: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().join("libluna.so")
}

#[test]
fn the_library_exports_what_is_listed() {
    let path = root().join("capi-tests/symbols.txt");
    let exported = exported(&library());
    if std::env::var_os("LUNA_BLESS").is_some() {
        std::fs::write(&path, exported.join("\n") + "\n").unwrap();
    }
    let listed = std::fs::read_to_string(&path).unwrap_or_default();
    let listed: Vec<&str> = listed.lines().collect();
    assert_eq!(
        listed, exported,
        "capi-tests/symbols.txt: LUNA_BLESS=1 rewrites it"
    );
    let header = generated();
    for name in exported {
        assert!(
            header.contains(&format!("{name}(")),
            "{name} is not in the header"
        );
    }
}

#[test]
fn the_library_has_its_name() {
    let output = Command::new("readelf")
        .arg("-d")
        .arg(library())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("[libluna.so.0]"), "{text}");
}
