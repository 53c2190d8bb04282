//! Two network namespaces joined by a veth pair.
//!
//! The namespaces have no names: they are held by descriptors of this process and vanish with
//! them, on a panic and on kill -9 too; and with a namespace its end of the veth pair vanishes.
//!
//! ```text
//! side 0: luna0  10.9.0.1/24  fd00:9::1/64  02:00:00:00:09:01
//! side 1: luna1  10.9.0.2/24  fd00:9::2/64  02:00:00:00:09:02
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// The interface of each side.
pub(crate) const INTERFACES: [&str; 2] = ["luna0", "luna1"];
/// The MAC address of each side.
pub(crate) const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 9, 1], [2, 0, 0, 0, 9, 2]];
/// The IPv4 address of each side.
pub(crate) const IPV4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2)];

/// The IPv4 address of a side.
pub(crate) fn address(side: usize) -> IpAddr {
    IPV4[side].into()
}

/// Two namespaces and the link between them.
#[derive(Debug)]
pub(crate) struct NetnsPair {
    namespaces: [OwnedFd; 2],
}

impl NetnsPair {
    /// A link with this MTU and one queue each way. `None`, after saying why, where the test has
    /// no privilege for it; in CI that is a failure.
    pub(crate) fn new(mtu_bytes: u32) -> Option<Self> {
        Self::with_queues(mtu_bytes, 1)
    }

    /// The same with more queues each way.
    pub(crate) fn with_queues(mtu_bytes: u32, queues: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            let reason = "needs root to make network namespaces";
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "in CI, this test {reason}"
            );
            eprintln!("skipped: {reason}");
            return None;
        }
        let pair = Self {
            namespaces: [new_namespace(), new_namespace()],
        };
        pair.join(mtu_bytes, queues);
        Some(pair)
    }

    /// Runs `work` on a thread of its own inside a side's namespace and waits for it. Programs
    /// that it starts are inside, too.
    pub(crate) fn run_in<R: Send>(&self, side: usize, work: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| match self.spawn_in(scope, side, work).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Starts `work` on a thread of its own inside a side's namespace.
    pub(crate) fn spawn_in<'scope, 'env, R: Send + 'scope>(
        &'env self,
        scope: &'scope std::thread::Scope<'scope, 'env>,
        side: usize,
        work: impl FnOnce() -> R + Send + 'scope,
    ) -> std::thread::ScopedJoinHandle<'scope, R> {
        scope.spawn(move || {
            enter(&self.namespaces[side]);
            work()
        })
    }

    /// Runs a command line (split at blanks, no quoting) inside a side's namespace; panics with
    /// its output if it fails.
    pub(crate) fn command(&self, side: usize, line: &str) -> String {
        self.run_in(side, || command(line))
    }

    fn join(&self, mtu_bytes: u32, queues: u32) {
        // `ip` names a namespace by a process, or a thread, that lives in it.
        let (tell, told) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            self.spawn_in(scope, 1, move || {
                tell.send(rustix::thread::gettid().as_raw_nonzero())
                    .unwrap();
                let _ = released.recv();
            });
            let thread = told.recv().unwrap();
            let [a, b] = INTERFACES;
            let q = format!("numrxqueues {queues} numtxqueues {queues}");
            self.command(
                0,
                &format!("ip link add {a} {q} type veth peer name {b} {q} netns {thread}"),
            );
            drop(release);
        });
        for (side, interface) in INTERFACES.into_iter().enumerate() {
            let host = side + 1;
            for line in [
                "ip link set lo up".to_owned(),
                format!("ip link set {interface} address 02:00:00:00:09:0{host}"),
                format!("ip link set {interface} mtu {mtu_bytes}"),
                format!("ip address add 10.9.0.{host}/24 dev {interface}"),
                format!("ip address add fd00:9::{host}/64 dev {interface} nodad"),
                format!("ip link set {interface} up"),
            ] {
                self.command(side, &line);
            }
        }
    }
}

fn new_namespace() -> OwnedFd {
    std::thread::spawn(|| {
        // SAFETY: a thread of its own that ends here; it shares no descriptors by this flag.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
            .expect("make a network namespace");
        rustix::fs::open(
            "/proc/thread-self/ns/net",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .expect("open the network namespace")
    })
    .join()
    .expect("the namespace's first thread")
}

fn enter(namespace: &OwnedFd) {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("enter a network namespace");
}

/// Runs a command line (split at blanks) in the namespace of the calling thread.
pub(crate) fn command(line: &str) -> String {
    let mut words = line.split_ascii_whitespace();
    let program = words.next().expect("a command");
    let output: Output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{line}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Calls `condition` until it is true; panics with `what` after ten seconds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    #[allow(clippy::disallowed_methods, reason = "a test's deadline")]
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        #[allow(clippy::disallowed_methods, reason = "a test's deadline")]
        let now = Instant::now();
        assert!(now < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}
