//! The C peer `examples-c/stream.c`: built once per test run, started as server or client, its
//! result lines taken apart.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::luna::Stack;
use super::netns::{Netns, checked};
use super::proc::{PATIENCE, Proc, wait_until};

/// How the peer waits for its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// Blocking calls, a thread for each direction.
    Blocking,
    /// Non-blocking calls, level-triggered epoll.
    Epoll,
    /// Non-blocking calls, edge-triggered epoll.
    Edge,
}

impl Io {
    /// The word for `--io`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Blocking => "blocking",
            Self::Epoll => "epoll",
            Self::Edge => "edge",
        }
    }
}

/// The built program, compiled as strictly as the repository promises.
pub fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| compile("stream", &["-O2"]))
}

/// Compiles `examples-c/stream.c` with extra flags; a warning is an error.
pub fn compile(name: &str, flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples-c/stream.c");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let built = folder.join(name);
    // Another test binary may be running the old one: replace it, don't write into it.
    let fresh = folder.join(format!("{name}.{}", std::process::id()));
    let mut command = Command::new("cc");
    command.args([
        "-std=c11",
        "-g",
        "-Wall",
        "-Wextra",
        "-Wshadow",
        "-Wconversion",
        "-Werror",
    ]);
    checked(
        command
            .args(flags)
            .arg("-o")
            .arg(&fresh)
            .arg(&source)
            .arg("-pthread"),
    );
    std::fs::rename(&fresh, &built).expect("put the built program into place");
    built
}

/// Where a server listens, and on which stack.
#[derive(Clone, Debug)]
pub struct Server<'a> {
    /// The namespace it runs in.
    pub netns: &'a Netns,
    /// The stack it runs on.
    pub stack: Stack,
    /// How it waits.
    pub io: Io,
    /// The address that it binds.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Ends after so many connections; 0 = never.
    pub connections: u32,
}

impl Server<'_> {
    /// Starts it and waits until it listens.
    pub fn start(&self) -> Proc {
        let (address, port) = (self.address.to_string(), self.port.to_string());
        let connections = self.connections.to_string();
        let mut command = self.stack.command(self.netns, &program().to_string_lossy());
        command.args([
            "server",
            "--bind",
            &address,
            "--port",
            &port,
            "--io",
            self.io.word(),
        ]);
        command.args(["--connections", &connections, "--timeout", "600"]);
        let mut server = Proc::start(command);
        wait_until("the stream server to listen", || {
            assert!(server.ended().is_none(), "{}", server.report());
            server.stdout().contains("listening")
        });
        server
    }
}

/// A client command: `mode` is `bulk`, `rpc` or `short`; the caller adds what is particular.
pub fn client(netns: &Netns, stack: &Stack, mode: &str, target: (IpAddr, u16)) -> Command {
    let mut command = stack.command(netns, &program().to_string_lossy());
    command.args([
        mode,
        "--host",
        &target.0.to_string(),
        "--port",
        &target.1.to_string(),
    ]);
    command
}

/// The key=value words of one result line.
#[derive(Clone, Debug)]
pub struct Outcome(HashMap<String, String>);

impl Outcome {
    /// The result lines in a program's output.
    pub fn all(output: &str) -> Vec<Self> {
        output
            .lines()
            .filter(|line| line.starts_with("result="))
            .map(Self::parse)
            .collect()
    }

    /// The only result line in a program's output.
    pub fn one(output: &str) -> Self {
        let mut all = Self::all(output);
        assert_eq!(all.len(), 1, "one result line in: {output}");
        all.remove(0)
    }

    /// Waits for a client and then its server to end well, each with the other's `bytes`; the
    /// client's.
    pub fn of_both(client: &mut Proc, server: &mut Proc, bytes: &str) -> Self {
        let mebibytes = bytes.parse::<u64>().expect("a number of bytes") >> 20;
        let ended = client.wait(PATIENCE + Duration::from_secs(120 + mebibytes));
        assert!(
            ended.success(),
            "client: {}\nserver: {}",
            client.report(),
            server.report()
        );
        assert!(server.wait(PATIENCE).success(), "{}", server.report());
        let at_client = Self::one(&client.stdout());
        at_client.assert_matches(&Self::one(&server.stdout()), bytes);
        at_client
    }

    /// Each end sent and received as many bytes, and they were the other's.
    pub fn assert_matches(&self, other: &Self, bytes: &str) {
        for (one, other) in [(self, other), (other, self)] {
            assert_eq!(one.text("sent"), bytes);
            assert_eq!(one.text("received"), bytes);
            assert_eq!(one.text("sent_sha256"), other.text("received_sha256"));
        }
    }

    fn parse(line: &str) -> Self {
        let words = line
            .split_whitespace()
            .filter_map(|word| word.split_once('='));
        Self(
            words
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    /// A value; the test fails if it is not there.
    pub fn text(&self, key: &str) -> &str {
        self.0
            .get(key)
            .unwrap_or_else(|| panic!("no {key}= in {:?}", self.0))
    }

    /// A number; the test fails if it is not there.
    pub fn number(&self, key: &str) -> f64 {
        self.text(key)
            .parse()
            .unwrap_or_else(|_| panic!("{key}= is no number in {:?}", self.0))
    }
}

/// Runs a client to its successful end and returns its only result.
pub fn run_client(command: Command) -> Outcome {
    Outcome::one(&Proc::start(command).succeed(PATIENCE + Duration::from_secs(600)))
}
