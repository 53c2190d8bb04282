//! The zero-copy calls and the inline loop of `luna.h`: one behaviour suite (`behave.c`) run in
//! every mode, and the examples, built with sanitizers.

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

use common::netns::{NetnsPair, checked};
use common::proc::{Proc, wait_until};
use common::require::turn;

const PORT: u16 = 7008;
const PATIENCE: Duration = Duration::from_secs(170);

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

/// Compiles a program; a warning is an error.
fn compile(source: &str, library: &Path, more: &[&str]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = library.join(Path::new(source).file_stem().expect("a name"));
    checked(
        Command::new("cc")
            .args(["-O1", "-g", "-Wall", "-Wextra", "-Werror"])
            .args(more)
            .arg("-I")
            .arg(root.join("include"))
            .arg("-o")
            .arg(&program)
            .arg(root.join(source))
            .arg("-L")
            .arg(library)
            .args(["-lluna", "-pthread"]),
    );
    program
}

/// A server in namespace `a`: on luna in a mode, or on the kernel.
fn server(
    pair: &NetnsPair,
    program: &Path,
    library: &Path,
    words: &[&str],
    mode: Option<&str>,
) -> Proc {
    let mut command = pair.a.command(&program.to_string_lossy());
    command.args(words).env("LD_LIBRARY_PATH", library);
    if let Some(mode) = mode {
        command
            .env("LUNA_STRICT", "1")
            .env("LUNA_MODE", mode)
            .env("LUNA_DEV", format!("xdp:{}", pair.a_end.interface))
            .env("LUNA_LISTEN", PORT.to_string());
    }
    let mut server = Proc::start(command);
    wait_until("the program to listen", || {
        assert!(server.ended().is_none(), "{}", server.report());
        server.stdout().contains("listening")
    });
    server
}

/// Runs the suite against a server of this flavour.
fn behaves(flavour: &str, mode: Option<&str>) {
    let Some(_turn) = turn(&["cc"]) else { return };
    let pair = NetnsPair::new(1500);
    let folder = library();
    let program = compile("capi-tests/c/behave.c", folder.path(), &["-D_GNU_SOURCE"]);
    let (port, address) = (PORT.to_string(), pair.a_end.v4.to_string());
    let words = ["server", flavour, &address, &port];
    let mut serving = server(&pair, &program, folder.path(), &words, mode);
    let mut command = pair.b.command(&program.to_string_lossy());
    let expected = if mode.is_some() {
        "accelerated"
    } else {
        "kernel"
    };
    command
        .args(["client", &address, &port, expected])
        .env("LD_LIBRARY_PATH", folder.path());
    let mut client = Proc::start(command);
    let status = client.wait(PATIENCE);
    assert!(
        status.success() && serving.ended().is_none(),
        "{flavour} {mode:?}: client: {}\nserver: {}",
        client.report(),
        serving.report()
    );
    println!("{flavour} {mode:?}: {}", client.stdout());
    assert!(serving.terminate().success(), "{}", serving.report());
}

#[test]
fn inline_behaves() {
    behaves("inline", Some("batch"));
}

#[test]
fn batch_behaves() {
    behaves("epoll", Some("batch"));
}

#[test]
fn dedicated_behaves() {
    behaves("epoll", Some("dedicated"));
}

#[test]
fn a_loop_beside_dedicated_threads_behaves() {
    behaves("inline", Some("dedicated"));
}

#[test]
fn a_loop_on_the_kernel_behaves() {
    behaves("inline", None);
}

#[test]
fn zero_copy_calls_on_the_kernel_behave() {
    behaves("epoll", None);
}

/// Sends `bytes` to the example and compares what comes back.
fn echoes(pair: &NetnsPair, bytes: &[u8]) {
    let address = pair.a_end.v4;
    let back = pair.b.enter(|| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect((address, PORT)).expect("connect");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a time limit");
        let mut back = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut stream = &stream;
                stream.write_all(bytes).expect("send");
                stream
                    .shutdown(std::net::Shutdown::Write)
                    .expect("shutdown");
            });
            (&mut &stream).read_to_end(&mut back).expect("receive");
        });
        stream.flush().expect("flush");
        back
    });
    assert!(
        back == bytes,
        "{} of {} bytes came back",
        back.len(),
        bytes.len()
    );
}

fn example(source: &str) {
    let Some(_turn) = turn(&["cc"]) else { return };
    let pair = NetnsPair::new(1500);
    let folder = library();
    let sanitized = ["-std=c11", "-Wpedantic", "-fsanitize=address,undefined"];
    let program = compile(source, folder.path(), &sanitized);
    let (port, address) = (PORT.to_string(), pair.a_end.v4.to_string());
    let bytes: Vec<u8> = (0..3_000_000u32)
        .map(|i| (i * 31 + i / 251) as u8)
        .collect();
    for mode in [None, Some("batch"), Some("dedicated")] {
        let mut serving = server(&pair, &program, folder.path(), &[&address, &port], mode);
        echoes(&pair, &bytes);
        echoes(&pair, b"x");
        assert!(serving.terminate().success(), "{}", serving.report());
        assert_eq!(serving.stderr(), "", "{source} {mode:?}");
        let expected = match mode {
            None => "in 0 (copied 0) out 0 (copied 0)",
            Some(_) => "in 3000001 (copied 0) out 3000001 (copied 0)",
        };
        assert!(serving.stdout().contains(expected), "{}", serving.report());
    }
}

#[test]
fn the_zero_copy_example_echoes() {
    example("examples-c/zecho.c");
}

#[test]
fn the_loop_example_echoes() {
    example("examples-c/loop_echo.c");
}
