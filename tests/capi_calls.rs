//! The C calls on luna against the same program on the kernel, and what a forked child may do.

#![cfg(all(feature = "cli", feature = "xdp"))]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a test measures by the wall clock, and its helpers fail it"
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::netns::{Netns, NetnsPair, checked};
use common::proc::{Proc, wait_until};
use common::require::turn;

const PORT: u16 = 7007;
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with the library under the name that programs look for.
fn library() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let test = std::env::current_exe().expect("our own path");
    let built = test.parent().expect("a folder").join("libluna.so");
    for name in ["libluna.so", "libluna.so.0"] {
        std::os::unix::fs::symlink(&built, folder.path().join(name)).expect("a link");
    }
    folder
}

/// Compiles a program of `capi-tests/c`; a warning is an error.
fn compile(name: &str, library: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = library.join(name);
    checked(
        Command::new("cc")
            .args(["-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror"])
            .arg("-I")
            .arg(root.join("include"))
            .arg("-o")
            .arg(&program)
            .arg(root.join("capi-tests/c").join(format!("{name}.c")))
            .arg("-L")
            .arg(library)
            .args(["-lluna", "-pthread"]),
    );
    program
}

fn command(netns: &Netns, program: &Path, library: &Path, words: &[&str]) -> Command {
    let mut command = netns.command(&program.to_string_lossy());
    command.args(words).env("LD_LIBRARY_PATH", library);
    command
}

/// Puts a program's sockets on luna, or fails it.
fn on_luna(command: &mut Command, pair: &NetnsPair) {
    command
        .env("LUNA_STRICT", "1")
        .env("LUNA_DEV", format!("xdp:{}", pair.a_end.interface))
        .env("LUNA_LISTEN", PORT.to_string())
        .env("LUNA_CONNECT", pair.b_end.v4.to_string());
}

fn transcript(pair: &NetnsPair, program: &Path, library: &Path, luna: bool) -> String {
    let control = library.join(if luna { "luna.sock" } else { "kernel.sock" });
    let control = control.to_string_lossy().into_owned();
    let (port, server) = (PORT.to_string(), pair.a_end.v4.to_string());
    let words = ["peer", &control, &server, &port];
    let peer = Proc::start(command(&pair.b, program, library, &words));
    let client = pair.b_end.v4.to_string();
    let mut test = command(
        &pair.a,
        program,
        library,
        &["test", &control, &client, &port],
    );
    if luna {
        on_luna(&mut test, pair);
    }
    let text = Proc::start(test).succeed(PATIENCE);
    peer.succeed(PATIENCE);
    text
}

#[test]
fn the_calls_answer_as_the_kernels() {
    let Some(_turn) = turn(&["cc"]) else { return };
    let pair = NetnsPair::new(1500);
    let folder = library();
    let program = compile("calls", folder.path());
    let kernel = transcript(&pair, &program, folder.path(), false);
    let luna = transcript(&pair, &program, folder.path(), true);
    assert!(kernel.lines().count() > 500, "{kernel}");
    for (number, (kernel, luna)) in kernel.lines().zip(luna.lines()).enumerate() {
        assert_eq!(luna, kernel, "line {number}");
    }
    assert_eq!(luna.lines().count(), kernel.lines().count());
}

/// Runs `forks MODE` on luna, lets a client have its message echoed, and gives what it printed.
fn forks(mode: &str) -> String {
    let pair = NetnsPair::new(1500);
    let folder = library();
    let program = compile("forks", folder.path());
    let port = PORT.to_string();
    let mut forks = command(&pair.a, &program, folder.path(), &[mode, &port]);
    on_luna(&mut forks, &pair);
    let mut server = Proc::start(forks);
    wait_until("the program to listen", || {
        assert!(server.ended().is_none(), "{}", server.report());
        server.stdout().contains("listening")
    });
    let address = pair.a_end.v4;
    let echoed = pair.b.enter(move || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect((address, PORT)).expect("connect");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a time limit");
        stream.write_all(b"ping").expect("send");
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).expect("receive");
        bytes
    });
    assert_eq!(&echoed, b"ping");
    server.succeed(PATIENCE)
}

#[test]
fn a_child_leaves_its_parents_connections_alone() {
    let Some(_turn) = turn(&["cc"]) else { return };
    let text = forks("child");
    let expected = [
        "parent: accepted a stream",
        "child: dead recv -1 ENOTCONN",
        "child: send -1 EPIPE",
        "child: shutdown -1 ENOTCONN",
        "child: close 0, listener is a listener",
        "child ended with 7",
        "echoed on a stream, then 0",
    ];
    for line in expected {
        assert!(text.contains(line), "{line}\n---\n{text}");
    }
}

#[test]
fn a_worker_serves_what_its_master_listens_on() {
    let Some(_turn) = turn(&["cc"]) else { return };
    let text = forks("workers");
    assert!(text.contains("echoed on a stream, then 0"), "{text}");
    assert!(text.contains("worker ended with 0"), "{text}");
}
