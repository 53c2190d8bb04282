//! Two network namespaces joined by a veth pair, with addresses known at compile time.
//!
//! ```text
//! side 0: luna0  10.9.0.1/24  fd00:9::1/64  02:00:00:00:09:01
//! side 1: luna1  10.9.0.2/24  fd00:9::2/64  02:00:00:00:09:02
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::common::netns::Netns;
use crate::common::require;

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
    sides: [Netns; 2],
}

impl NetnsPair {
    /// A link with this MTU and one queue each way. `None`, after saying why, where the test has
    /// no privilege for it; in CI that is a failure.
    pub(crate) fn new(mtu_bytes: u32) -> Option<Self> {
        Self::with_queues(mtu_bytes, 1)
    }

    /// The same with more queues each way.
    pub(crate) fn with_queues(mtu_bytes: u32, queues: u32) -> Option<Self> {
        if !require::root() {
            return None;
        }
        let pair = Self {
            sides: [Netns::new("side0"), Netns::new("side1")],
        };
        pair.join(mtu_bytes, queues);
        Some(pair)
    }

    /// Runs `work` on a thread of its own inside a side's namespace and waits for it. Programs
    /// that it starts are inside, too.
    pub(crate) fn run_in<R: Send>(&self, side: usize, work: impl FnOnce() -> R + Send) -> R {
        self.sides[side].enter(work)
    }

    /// Starts `work` on a thread of its own inside a side's namespace.
    pub(crate) fn spawn_in<'scope, 'env, R: Send + 'scope>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        side: usize,
        work: impl FnOnce() -> R + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, R> {
        scope.spawn(move || self.sides[side].enter(work))
    }

    /// Runs a command line (split at blanks, no quoting) inside a side's namespace; panics with
    /// its output if it fails.
    pub(crate) fn command(&self, side: usize, line: &str) -> String {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (program, arguments) = words.split_first().expect("a command");
        self.sides[side].run(program, arguments)
    }

    fn join(&self, mtu_bytes: u32, queues: u32) {
        let ([a, b], other) = (INTERFACES, self.sides[1].name());
        let q = format!("numrxqueues {queues} numtxqueues {queues}");
        let add = format!("ip link add {a} {q} type veth peer name {b} {q} netns {other}");
        self.command(0, &add);
        for (side, interface) in INTERFACES.into_iter().enumerate() {
            let host = side + 1;
            for line in [
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

/// Calls `condition`, which moves frames, without a pause until it is true; panics with `what`
/// after ten seconds.
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
