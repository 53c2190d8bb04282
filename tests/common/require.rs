//! What a test needs from the machine, and what it does when that is missing.
//!
//! On a developer's machine a test that lacks root or a program says so and passes; in CI
//! (`CI=true`) the same lack is a failure, so that nothing is skipped unseen.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};

/// The guard of a test that may run: no two tests that load the machine run at once, neither in
/// one test binary nor in two that were started side by side.
pub struct Turn {
    _in_process: MutexGuard<'static, ()>,
    _between_processes: std::fs::File,
}

/// Checks for root and `programs`, then waits for this test's turn. `None`: the reason has been
/// printed and the test should return.
pub fn turn(programs: &[&str]) -> Option<Turn> {
    if let Some(reason) = missing(programs) {
        skip(&reason);
        return None;
    }
    static IN_PROCESS: Mutex<()> = Mutex::new(());
    let in_process = IN_PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e.lock");
    let file = std::fs::File::create(&path).expect("create the lock file of the e2e tests");
    flock(&file, FlockOperation::LockExclusive).expect("lock the e2e tests' lock file");
    Some(Turn {
        _in_process: in_process,
        _between_processes: file,
    })
}

/// Says why a test did not run; fails instead where everything has to run.
pub fn skip(reason: &str) {
    if std::env::var("CI").is_ok_and(|value| value == "true") {
        panic!("CI must run every test, but {reason}");
    }
    eprintln!("skipped: {reason}");
}

/// Whether network namespaces can be made; if not, the reason has been printed and the test should
/// return. For tests that load nothing and so need no turn.
pub fn root() -> bool {
    let missing = missing(&[]);
    if let Some(reason) = &missing {
        skip(reason);
    }
    missing.is_none()
}

fn missing(programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    let always = ["ip", "nft"];
    let absent = always
        .iter()
        .chain(programs)
        .find(|name| find_program(name).is_none())?;
    Some(format!(
        "the program `{absent}` is not installed (`make deps` installs it)"
    ))
}

/// The full path of a program, looked up where Debian installs programs.
pub fn find_program(name: &str) -> Option<String> {
    [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .iter()
    .map(|folder| format!("{folder}/{name}"))
    .find(|path| Path::new(path).exists())
}
