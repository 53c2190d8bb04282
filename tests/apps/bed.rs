//! Where a program is tested: two namespaces, a server's and a client's, and what is counted.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::common::luna::{self, Run, Stack};
use super::common::measure::KernelTcp;
use super::common::netns::{NetnsPair, checked};
use super::common::proc::{PATIENCE, Proc};
use super::common::require::{Turn, turn};

/// Debian's Python, whatever else is installed.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// What the kernel's TCP may see of a test in which everything is luna's: the odd reset.
pub(crate) const QUIET: u64 = 60;

/// Two namespaces, a folder that every user may read, and the machine to ourselves.
pub(crate) struct Bed {
    pub(crate) pair: NetnsPair,
    pub(crate) folder: tempfile::TempDir,
    _turn: Turn,
}

impl Bed {
    /// `None`: the reason has been printed, and the test should return.
    pub(crate) fn new(programs: &[&str], queues: u32) -> Option<Self> {
        if !luna::available() {
            return None;
        }
        let turn = turn(programs)?;
        let permissions = Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new()
            .prefix("luna-apps-")
            .permissions(permissions)
            .tempdir()
            .expect("create a folder");
        Some(Self {
            pair: NetnsPair::with_queues(1500, queues),
            folder,
            _turn: turn,
        })
    }

    /// The server's address with a port.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.pair.a_end.v4.into(), port)
    }

    /// The folder, or a file in it.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    /// Writes a file into the folder.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        if let Some(parent) = Path::new(&path).parent() {
            std::fs::create_dir_all(parent).expect("create a folder");
        }
        std::fs::write(&path, content).expect("write a file");
        path
    }

    /// A luna stack for servers on `ports` of the server's end.
    pub(crate) fn serving(&self, ports: &str) -> Run {
        Run::listen(&self.pair.a_end.interface, ports)
    }

    /// A luna stack for clients of everything at the server's end.
    pub(crate) fn calling(&self) -> Run {
        let rule = format!("{}/32", self.pair.a_end.v4);
        Run::connect(&self.pair.b_end.interface, rule)
    }

    /// Starts a server on luna.
    pub(crate) fn server(&self, run: Run, words: &[&str]) -> Proc {
        let mut command = Stack::Luna(run).command(&self.pair.a, words[0]);
        command.args(&words[1..]).current_dir(self.folder.path());
        Proc::start(command)
    }

    /// The commands of a client on each stack.
    pub(crate) fn clients(&self, words: &[&str]) -> [(&'static str, Command); 2] {
        [Stack::Kernel, Stack::Luna(self.calling())].map(|stack| {
            let mut command = stack.command(&self.pair.b, words[0]);
            command.args(&words[1..]).current_dir(self.folder.path());
            (stack.name(), command)
        })
    }

    /// Runs a client on each stack to its successful end; the outputs.
    pub(crate) fn both(&self, words: &[&str]) -> [String; 2] {
        self.clients(words)
            .map(|(_, command)| Proc::start(command).succeed(PATIENCE * 2))
    }

    /// Runs `work`, and asserts that the kernel's TCP of the server's end saw nothing of it.
    pub(crate) fn quiet<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let before = KernelTcp::of(&self.pair.a);
        let result = work();
        let segments = KernelTcp::of(&self.pair.a).segments_since(&before);
        println!("{what}: the kernel's TCP at the server saw {segments} segments");
        assert!(
            segments < QUIET,
            "{what}: {segments} segments on the kernel"
        );
        result
    }

    /// What `luna ss -a` shows of the programs in our namespaces: it knows those of the whole
    /// machine.
    pub(crate) fn sockets(&self) -> String {
        let pids: String = [&self.pair.a, &self.pair.b]
            .map(|netns| checked(Command::new("ip").args(["netns", "pids", netns.name()])))
            .concat();
        let is_ours = |word: &str| {
            let pid = word.rsplit_once('/').map(|(_, pid)| pid);
            pid.is_some_and(|pid| pids.split_whitespace().any(|ours| ours == pid))
        };
        let listing = luna::luna_in(&self.pair.a, &["ss", "-a"]);
        let lines = listing.lines();
        lines
            .filter(|line| line.split_whitespace().any(is_ours))
            .flat_map(|line| [line, "\n"])
            .collect()
    }

    /// Waits until `luna ss -a` shows `count` lines with all of `words`.
    pub(crate) fn wait_for_sockets(&self, count: usize, words: &[&str]) {
        super::common::proc::wait_until(&format!("{count} sockets {words:?}"), || {
            let listing = self.sockets();
            let fits = |line: &&str| words.iter().all(|word| line.contains(word));
            listing.lines().filter(fits).count() >= count
        });
    }

    /// A key and a certificate for the server's address.
    pub(crate) fn certificate(&self) {
        let mut command = Command::new("openssl");
        command.current_dir(self.folder.path());
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt"]);
        command.args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
        command.args([
            "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=luna",
        ]);
        command.args([
            "-addext",
            &format!("subjectAltName=IP:{}", self.pair.a_end.v4),
        ]);
        checked(&mut command);
        let readable = Permissions::from_mode(0o644);
        std::fs::set_permissions(self.path("key.pem"), readable).expect("let workers read it");
    }
}

/// Bytes that look like nothing else.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..length).map(next).collect()
}

/// One request on a connection of its own; the body, or what went wrong.
pub(crate) fn fetch(target: SocketAddr, path: &str) -> Result<Vec<u8>, String> {
    let told = |error: std::io::Error| error.to_string();
    let mut socket = TcpStream::connect_timeout(&target, PATIENCE).map_err(told)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(told)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: luna\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).map_err(told)?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).map_err(told)?;
    let split = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let split = split.ok_or_else(|| format!("{} bytes of an answer", answer.len()))?;
    if !answer.starts_with(b"HTTP/1.1 200") && !answer.starts_with(b"HTTP/1.0 200") {
        return Err(String::from_utf8_lossy(&answer[..split]).into_owned());
    }
    Ok(answer.split_off(split + 4))
}

/// How long a load runs.
pub(crate) const LOAD: Duration = Duration::from_secs(4);
