//! `luna knb` over loopback, on the kernel's stack: each kind of load, its output, and the C
//! program that speaks with it. (On luna's stack it is what `make bench` runs.)
#![cfg(feature = "cli")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;

struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    port: u16,
}

/// A port that nobody listens on now, nor on the one after it. Each call gives others, below the
/// range that the kernel takes the ports of clients from: those of the tests that run beside this
/// one cannot take it before its server does.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    (0..1000)
        .find_map(|_| {
            let port = NEXT.fetch_add(2, Ordering::Relaxed);
            TcpListener::bind(("127.0.0.1", port)).ok()?;
            TcpListener::bind(("127.0.0.1", port + 1)).ok()?;
            Some(port)
        })
        .expect("two free ports in a row")
}

impl Server {
    fn start(mut command: Command, port: u16, ready: &str) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the server");
        let mut out = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        out.read_line(&mut line).expect("read");
        assert!(line.contains(ready), "{line}");
        Self { child, out, port }
    }

    fn knb(threads: u16) -> Self {
        let port = free_port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_luna"));
        command.args([
            "knb",
            "server",
            "--json",
            "--until-eof",
            "--threads",
            &threads.to_string(),
        ]);
        command.args(["--address", &format!("127.0.0.1:{port}")]);
        Self::start(command, port, "ready")
    }

    /// Runs a client; its JSON.
    fn ask(&self, words: &[&str]) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_luna"))
            .args([
                "knb",
                "client",
                "--json",
                "--seconds",
                "0.2",
                "--warmup",
                "0.05",
            ])
            .arg(format!("127.0.0.1:{}", self.port))
            .args(words)
            .output()
            .expect("run the client");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {said}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// The server's own count, at its end.
    fn end(mut self) -> Value {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.out.read_to_string(&mut text).expect("read");
        assert!(self.child.wait().expect("wait").success());
        serde_json::from_str(text.trim()).expect("JSON")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn count(result: &Value, key: &str) -> u64 {
    result[key].as_u64().expect(key)
}

#[test]
fn a_mesh_of_threads_exchanges_messages_of_all_sizes() {
    let server = Server::knb(2);
    let mesh = [
        "--threads",
        "2",
        "--server-threads",
        "2",
        "-c",
        "3",
        "-d",
        "4",
    ];
    for size in ["1", "64", "4096", "300000"] {
        let result = server.ask(&[&mesh[..], &["--size", size]].concat());
        assert!(count(&result, "requests") > 0, "{result}");
        let quantiles = result["cdf"].as_array().expect("a distribution");
        let times: Vec<f64> = quantiles
            .iter()
            .map(|pair| pair[0].as_f64().unwrap())
            .collect();
        assert!(times.is_sorted() && times[0] > 0.0, "{times:?}");
    }
    let served = server.end();
    // Two threads by two, three between each pair, four runs.
    assert_eq!(count(&served, "connections"), 48);
}

#[test]
fn short_connections_are_one_exchange_each() {
    let server = Server::knb(1);
    let result = server.ask(&["--short", "--size", "64", "-c", "2"]);
    let requests = count(&result, "requests");
    assert!(requests > 0);
    let served = server.end();
    assert!(
        count(&served, "connections") >= requests,
        "{served} {result}"
    );
    assert!(count(&served, "answers") >= requests, "{served} {result}");
}

#[test]
fn an_open_loop_makes_its_requests() {
    let server = Server::knb(1);
    let result = server.ask(&["--rate", "500", "-c", "2"]);
    // 100 were due in the window, and each of them counts, answered or not.
    assert_eq!(
        count(&result, "requests") + count(&result, "unanswered"),
        100,
        "{result}"
    );
}

#[test]
fn a_server_that_is_not_knb_is_an_error() {
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("listen");
    let liar = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let _asked = stream.read(&mut [0; 100]);
        std::io::Write::write_all(&mut stream, &[0; 4096]).expect("answer");
        let _end = stream.read_to_end(&mut Vec::new());
    });
    let output = Command::new(env!("CARGO_BIN_EXE_luna"))
        .args([
            "knb",
            "client",
            "--json",
            "--seconds",
            "0.2",
            &format!("127.0.0.1:{port}"),
        ])
        .output()
        .expect("run the client");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("wrong payload"),
        "{said}"
    );
    liar.join().expect("the server");
}

#[test]
fn the_c_program_speaks_the_same() {
    let folder = tempfile::tempdir().expect("folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples-c/knb.c");
    let program = folder.path().join("knb");
    let compile = Command::new("cc")
        .args([
            "-std=c11", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-DKERNEL", "-o",
        ])
        .args([&program, &source])
        .status()
        .expect("run cc");
    assert!(compile.success());
    let headers = Command::new("cc")
        .args([
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Wshadow",
            "-Werror",
            "-fsyntax-only",
            "-I",
        ])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
        .arg(&source)
        .status()
        .expect("run cc");
    assert!(headers.success(), "with luna.h");

    let port = free_port();
    let mut command = Command::new(&program);
    command.args(["server", "--port", &port.to_string()]);
    let server = Server::start(command, port, "ready");
    assert!(count(&server.ask(&["-c", "2", "-d", "3"]), "requests") > 0);

    let server = Server::knb(1);
    let output = Command::new(&program)
        .args(["client", "127.0.0.1", "--port", &server.port.to_string()])
        .args(["--connections", "2", "--iodepth", "3", "--seconds", "0.2"])
        .output()
        .expect("run the client");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.starts_with("requests="),
        "{text}"
    );
}
