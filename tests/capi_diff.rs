//! The differential runner: each case of `capi-tests/c/diff` on the kernel, through the `luna_`
//! functions, and under the preload library. What it prints must be the same three times.

#![cfg(all(feature = "cli", feature = "xdp"))]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail the test"
)]

mod common;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::luna::luna;
use common::netns::{Netns, NetnsPair, checked};
use common::proc::Proc;
use common::require::turn;
use common::transcript::{Known, Transcript};

const PORT: u16 = 7007;
/// Ours as well: `SPARE_PORT` of the cases.
const SPARE: u16 = PORT + 5;
/// At the peer, where SYNs vanish: `SILENT_PORT` of the cases.
const SILENT: u16 = PORT + 4;
const PATIENCE: Duration = Duration::from_secs(120);
/// A case that hangs or crashes ends its run; the next run goes on behind it, so many times.
const RUNS_MAX: usize = 20;
/// How many cases there must be.
const CASES_MIN: usize = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Kernel,
    /// Linked with `libluna.so`, its calls renamed.
    Linked,
    /// The kernel's binary under `libluna_preload.so`.
    Preloaded,
}

/// Who watches what the cases do to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    Nobody,
    /// The address and undefined-behaviour sanitizers, in the cases' own code.
    Sanitizers,
    /// Valgrind, in the libraries too.
    Valgrind,
}

/// What valgrind says of memory that is misused. That arguments of system calls are wrong is left
/// out: many are, on purpose, and the kernel's answer to them is what the cases are about.
const MISUSES: [&str; 8] = [
    "Invalid read",
    "Invalid write",
    "Invalid free",
    "Mismatched free",
    "Conditional jump",
    "Use of uninitialised",
    "Source and destination overlap",
    "Process terminating",
];
/// How many times slower it may be.
const VALGRIND_PATIENCE: u32 = 10;

/// The programs of the cases, built in a folder of their own.
struct Programs {
    folder: tempfile::TempDir,
    /// Where the libraries are.
    libraries: PathBuf,
    watch: Watch,
}

impl Programs {
    fn build(watch: Watch) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let libraries = luna().parent().expect("a folder").to_owned();
        let soname = folder.path().join("libluna.so.0");
        for link in [folder.path().join("libluna.so"), soname] {
            std::os::unix::fs::symlink(libraries.join("libluna.so"), link).expect("a link");
        }
        let programs = Self {
            folder,
            libraries,
            watch,
        };
        programs.compile(Way::Kernel);
        programs.compile(Way::Linked);
        programs
    }

    fn path(&self, way: Way) -> PathBuf {
        let linked = way == Way::Linked;
        self.folder
            .path()
            .join(if linked { "linked" } else { "plain" })
    }

    /// A warning is an error, but for those about arguments that are wrong on purpose.
    fn compile(&self, way: Way) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let sources = root.join("capi-tests/c/diff");
        let mut compiler = Command::new("cc");
        compiler.args(["-D_GNU_SOURCE", "-g", "-Wall", "-Wextra", "-Werror"]);
        compiler.args(["-Wno-stringop-overflow", "-Wno-stringop-overread"]);
        compiler.args(["-Wno-nonnull", "-Wno-unused-result", "-pthread"]);
        if self.watch == Watch::Sanitizers {
            compiler.args(["-O1", "-fsanitize=address,undefined"]);
            compiler.arg("-fno-sanitize-recover=undefined");
        } else {
            // The checked variants of calls are called as well.
            compiler.args(["-O2", "-D_FORTIFY_SOURCE=2"]);
        }
        let mut files: Vec<PathBuf> = std::fs::read_dir(sources)
            .expect("the sources")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|end| end == "c"))
            .collect();
        files.sort();
        compiler.args(files).arg("-o").arg(self.path(way));
        if way == Way::Linked {
            compiler.arg("-DDIFF_LUNA");
            compiler.arg("-I").arg(root.join("include"));
            compiler.arg("-L").arg(self.folder.path()).arg("-lluna");
        }
        checked(&mut compiler);
    }

    fn command(&self, pair: &NetnsPair, way: Way, control: &Path, filter: Option<&str>) -> Command {
        let program = self.path(way).to_string_lossy().into_owned();
        let mut command = if self.watch == Watch::Valgrind && way != Way::Kernel {
            let mut command = pair.a.command("valgrind");
            command.args(["--quiet", "--fair-sched=yes"]);
            command.arg(format!(
                "--suppressions={}/capi-tests/valgrind.supp",
                env!("CARGO_MANIFEST_DIR")
            ));
            command.arg(program);
            command
        } else {
            pair.a.command(&program)
        };
        command.arg("test").arg(control);
        command.arg(pair.b_end.v4.to_string());
        command.arg(pair.b_end.v6.to_string());
        command.arg(PORT.to_string()).args(filter);
        if way != Way::Kernel {
            command
                .env("LUNA_STRICT", "1")
                .env("LUNA_DEV", format!("xdp:{}", pair.a_end.interface))
                .env("LUNA_LISTEN", format!("{PORT},{SPARE}"))
                .env(
                    "LUNA_CONNECT",
                    format!("{},[{}]", pair.b_end.v4, pair.b_end.v6),
                );
        }
        // The stack's own memory is not of the sanitizer's concern.
        command.env("ASAN_OPTIONS", "detect_leaks=0");
        match way {
            Way::Kernel => {}
            Way::Linked => {
                command.env("LD_LIBRARY_PATH", self.folder.path());
            }
            Way::Preloaded => {
                let library = self.libraries.join("libluna_preload.so");
                command.env("LD_PRELOAD", library);
            }
        }
        command
    }

    /// Runs the cases, in as many runs as it takes.
    fn run(&self, pair: &NetnsPair, way: Way, filter: Option<&str>) -> (Transcript, u64) {
        let mut all = Transcript::default();
        let mut streams = 0;
        let mut from = filter.map(str::to_owned);
        let mut ends = String::new();
        for number in 0..RUNS_MAX {
            let control = self.folder.path().join(format!("{way:?}.{number}"));
            let _old = std::fs::remove_file(&control);
            let mut peer = pair.b.command(&self.path(Way::Kernel).to_string_lossy());
            peer.arg("peer").arg(&control);
            peer.arg(pair.a_end.v4.to_string());
            peer.arg(pair.a_end.v6.to_string());
            peer.arg(PORT.to_string())
                .env("ASAN_OPTIONS", "detect_leaks=0");
            let mut peer = Proc::start(peer);
            let mut test = Proc::start(self.command(pair, way, &control, from.as_deref()));
            let patience = match self.watch {
                Watch::Valgrind => PATIENCE * VALGRIND_PATIENCE,
                Watch::Nobody | Watch::Sanitizers => PATIENCE,
            };
            let status = test.wait(patience);
            peer.kill();
            let misused = self.watch == Watch::Valgrind && is_memory_misused(&test.stderr());
            assert!(!misused, "{way:?}: {}", test.report());
            let mut text = test.stdout();
            streams += streams_of(&test.stderr());
            let last = text.rsplit("\n== ").next().unwrap_or_default();
            let last = last.lines().next().unwrap_or_default().to_owned();
            if !status.success() {
                let how = match status.signal() {
                    Some(signal) => format!("ended by signal {signal}"),
                    None => format!("ended with {:?}", status.code()),
                };
                let end = format!("  {how}: {}\n", test.stderr().trim());
                text.push_str(&end);
                ends.push_str(&format!("== {last}\n{end}"));
                kill_all_in(&pair.a);
            }
            all.add(&text);
            if status.success() {
                return (all, streams);
            }
            assert!(
                all.len() > 0 && filter.is_none(),
                "{way:?}: {}",
                test.report()
            );
            from = Some(format!("after:{last}"));
        }
        panic!("{way:?}: {RUNS_MAX} cases have ended their runs:\n{ends}");
    }
}

/// A case that has ended its run may have left children, which hold the link's queue: the next run
/// would find none, nor the one after it.
fn kill_all_in(netns: &Netns) {
    let pids = checked(Command::new("ip").args(["netns", "pids", netns.name()]));
    for pid in pids.split_whitespace() {
        let _gone_already = Command::new("kill").args(["-KILL", pid]).status();
    }
}

/// How many connections the stack had, by the program's own account.
fn streams_of(report: &str) -> u64 {
    report
        .lines()
        .filter_map(|line| {
            line.rsplit_once("streams on the stack ")?
                .1
                .parse::<u64>()
                .ok()
        })
        .sum()
}

fn is_memory_misused(report: &str) -> bool {
    let mut lines = report.lines().filter(|line| line.starts_with("=="));
    lines.any(|line| MISUSES.iter().any(|misuse| line.contains(misuse)))
}

fn pair() -> NetnsPair {
    let pair = NetnsPair::new(1500);
    let rule =
        format!("add rule inet silent in meta l4proto {{ tcp, udp }} th dport {SILENT} drop");
    for command in [
        "add table inet silent",
        "add chain inet silent in { type filter hook input priority 0; }",
        &rule,
    ] {
        pair.b.run("nft", &[command]);
    }
    pair
}

/// How often a case that differs is tried again. The kernel's own transcripts differ when a segment
/// comes a moment later; what luna does differently, it does each time.
const TRIES: usize = 3;

fn compare(watch: Watch, filter: Option<&str>, ways: &[Way]) {
    let programs = Programs::build(watch);
    let pair = pair();
    let (kernel, on_stack) = programs.run(&pair, Way::Kernel, filter);
    assert_eq!(on_stack, 0, "the kernel's run was on luna");
    let known = Known::read(include_str!("../capi-tests/known.txt"));
    let mut report = String::new();
    for &way in ways {
        let (ours, streams) = programs.run(&pair, way, filter);
        assert!(streams > 0, "{way:?}: nothing was accelerated");
        println!(
            "{way:?}: {} cases, {streams} streams on the stack",
            ours.len()
        );
        // Calls that libluna has no function for are the preload library's alone.
        let hooked = |name: &str| way == Way::Linked && name.starts_with("hooked/");
        let mut differences = kernel.differences(&ours, &known, hooked);
        differences.retain(|difference| {
            let case = difference.lines().next();
            !(0..TRIES).any(|_| {
                let [kernel, ours] = [Way::Kernel, way].map(|way| programs.run(&pair, way, case).0);
                kernel.differences(&ours, &known, hooked).is_empty()
            })
        });
        if !differences.is_empty() {
            let count = differences.len();
            report += &format!("{way:?}: {count} differences\n{}\n", differences.join("\n"));
        }
    }
    assert!(report.is_empty(), "{report}");
    if filter.is_none() {
        assert!(kernel.len() >= CASES_MIN, "only {} cases", kernel.len());
        for pattern in known.patterns() {
            assert!(kernel.names(pattern), "{pattern} names no case");
        }
    }
}

#[test]
fn every_case_answers_alike() {
    let Some(_turn) = turn(&["cc"]) else { return };
    let filter = std::env::var("LUNA_DIFF").ok();
    compare(
        Watch::Nobody,
        filter.as_deref(),
        &[Way::Linked, Way::Preloaded],
    );
}

/// Under the address and undefined-behaviour sanitizers: buffers that are overrun, by a call that
/// writes more than it was given room for, are found. (The preload library cannot come before the
/// sanitizer's own.)
#[test]
fn no_call_writes_where_it_should_not() {
    let Some(_turn) = turn(&["cc"]) else { return };
    compare(Watch::Sanitizers, None, &[Way::Linked]);
}

/// Under valgrind, which sees inside the libraries, through both ways in: slow, so only in
/// `make soak` (`LUNA_VALGRIND=1`).
#[test]
fn valgrind_finds_nothing() {
    if std::env::var_os("LUNA_VALGRIND").is_none() {
        eprintln!("skipped: LUNA_VALGRIND is not set");
        return;
    }
    let Some(_turn) = turn(&["cc", "valgrind"]) else {
        return;
    };
    let filter = std::env::var("LUNA_DIFF").ok();
    let programs = Programs::build(Watch::Valgrind);
    let pair = pair();
    for way in [Way::Linked, Way::Preloaded] {
        // What the cases answer is compared elsewhere: here, most are late.
        let (ours, streams) = programs.run(&pair, way, filter.as_deref());
        println!(
            "{way:?}: {} cases, {streams} streams on the stack",
            ours.len()
        );
        assert!(streams > 0, "{way:?}: nothing was accelerated");
        assert!(filter.is_some() || ours.len() >= CASES_MIN, "{way:?}");
    }
}
