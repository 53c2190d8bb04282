//! The built library, loaded into C programs: what it exports, that it is not there as long as it
//! is not asked for, and that with a stand-in for `libluna.so` every call goes where it should.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The library under test. Cargo does not build a package's cdylib for its tests.
fn preload_library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let own = std::env::current_exe().unwrap();
        let profile = own.parent().and_then(Path::parent).unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "build",
            "--quiet",
            "--package",
            "luna_preload",
            "--target-dir",
        ]);
        build.arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(
            build
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .unwrap()
                .success()
        );
        profile.join("libluna_preload.so")
    })
}

/// A directory with the preload library, and `libluna.so` if asked for.
fn directory(with_libluna: bool) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(
        preload_library(),
        directory.path().join("libluna_preload.so"),
    )
    .unwrap();
    if with_libluna {
        let library = directory.path().join("libluna.so");
        compile(
            &["-shared", "-fPIC", "-fvisibility=hidden"],
            "fake_libluna.c",
            &library,
        );
    }
    directory
}

fn compile(options: &[&str], source: &str, output: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/c")
        .join(source);
    let compiled = Command::new("cc")
        .args(["-O1", "-Wall", "-Wno-unused-result", "-pthread"])
        .args(options)
        .arg(&source)
        .arg("-o")
        .arg(output)
        .args(["-ldl"])
        .status()
        .unwrap();
    assert!(compiled.success(), "{}", source.display());
}

fn program(directory: &Path, source: &str) -> PathBuf {
    let program = directory.join(source.trim_end_matches(".c"));
    compile(&[], source, &program);
    program
}

fn run(program: &Path, directory: Option<&Path>, environment: &[(&str, &str)]) -> Output {
    // A call that never returns is a failure of the test, not of the machine.
    let mut command = Command::new("timeout");
    command.args(["60", "env"]).stdin(Stdio::null());
    command.args(
        environment
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    if let Some(directory) = directory {
        let library = directory.join("libluna_preload.so");
        command.arg(format!("LD_PRELOAD={}", library.display()));
    }
    command.arg(program);
    command.args(directory.map(|directory| directory.join("libluna.so")));
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    let status = output.status.code().unwrap_or(-1);
    format!("{}{status}", String::from_utf8_lossy(&output.stdout))
}

#[test]
fn exports_exactly_the_listed_symbols() {
    let listed = include_str!("../symbols.txt");
    let listed: Vec<&str> = listed.lines().collect();
    let output = Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(preload_library())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut exported: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    exported.sort_unstable();
    assert_eq!(
        exported, listed,
        "preload/symbols.txt and the library differ"
    );
}

/// Not configured, disabled, and configured without `libluna.so`: no difference to be seen.
#[test]
fn is_transparent_when_inactive() {
    let directory = directory(false);
    let program = program(directory.path(), "passthrough.c");
    let expected = stdout(&run(&program, None, &[]));
    assert!(expected.contains("cancelled 1"), "{expected}");

    let environments: [&[(&str, &str)]; 3] = [
        &[],
        &[("LUNA_DEV", "xdp:lo"), ("LUNA_DISABLE", "1")],
        &[("LUNA_LISTEN", "80")],
    ];
    for environment in environments {
        let output = run(&program, Some(directory.path()), environment);
        assert_eq!(stdout(&output), expected, "{environment:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "",
            "{environment:?}"
        );
    }

    let output = run(&program, Some(directory.path()), &[("LUNA_DEV", "xdp:lo")]);
    assert_eq!(stdout(&output), expected);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.contains("stay on the kernel") && stderr.contains("libluna.so"),
        "{stderr}"
    );

    let strict = [("LUNA_DEV", "xdp:lo"), ("LUNA_STRICT", "1")];
    let output = run(&program, Some(directory.path()), &strict);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
}

/// With luna active but the kernel behind every call, the same program sees the same results.
#[test]
fn is_transparent_when_active() {
    let directory = directory(true);
    let program = program(directory.path(), "passthrough.c");
    // Documented: a thread that sleeps inside luna is cancelled when it next makes a call.
    let skip = ("SKIP_EPOLL_CANCEL", "1");
    let expected = stdout(&run(&program, None, &[skip]));
    let output = run(
        &program,
        Some(directory.path()),
        &[("LUNA_DEV", "xdp:lo"), skip],
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    // Documented, too: nothing can be spliced from or to a socket of luna's.
    let without_splice = |text: &str| {
        let lines = text.lines();
        let lines = lines.filter(|l| !l.starts_with("splice") && !l.starts_with("sendfile"));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(without_splice(&stdout(&output)), without_splice(&expected));
}

#[test]
fn routes_calls_by_descriptor() {
    let directory = directory(true);
    let program = program(directory.path(), "routing.c");
    let output = run(
        &program,
        Some(directory.path()),
        &[("LUNA_CONFIG", "/nonexistent")],
    );
    assert_eq!(stdout(&output), "ok\n0");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// Not a benchmark, only a bound that a mistake would break: the macro's part of a call that is
/// passed through. It prints what it measured (`--nocapture`).
#[test]
fn pass_through_is_cheap() {
    let directory = directory(true);
    let program = program(directory.path(), "cost.c");
    let cost = |directory: Option<&Path>, environment: &[(&str, &str)]| -> f64 {
        let output = run(&program, directory, environment);
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    let bare = cost(None, &[]);
    let inactive = cost(Some(directory.path()), &[]);
    let active = cost(Some(directory.path()), &[("LUNA_DEV", "xdp:lo")]);
    println!("close(-1): {bare} ns, inactive {inactive} ns, active {active} ns");
    assert!(inactive - bare < 50.0, "{bare} ns became {inactive} ns");
}
