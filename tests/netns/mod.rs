//! Two network namespaces joined by a veth pair, as the control plane's tests name things.

use std::io::Write;
use std::process::Stdio;

use luna::wire::Mac;

use crate::common::netns::Netns;
use crate::common::require;

/// A namespace with `v0` (10.9.0.1/24, fd09::1/64) and a peer with `v1` (.2 and ::2).
pub(crate) struct Pair {
    near: Netns,
    far: Netns,
}

impl Pair {
    /// `None`, with the reason printed, where namespaces can't be made; a failure under CI.
    pub(crate) fn new() -> Option<Self> {
        if !require::root() {
            return None;
        }
        let (near, far) = (Netns::new("near"), Netns::new("far"));
        let other = far.name();
        near.ip(&[
            "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", other,
        ]);
        far.ip(&["link", "set", "v1", "address", "02:00:00:00:00:02"]);
        near.ip(&["link", "set", "v0", "up"]);
        far.ip(&["link", "set", "v1", "up"]);
        near.ip(&["addr", "add", "10.9.0.1/24", "dev", "v0"]);
        near.ip(&["addr", "add", "fd09::1/64", "dev", "v0", "nodad"]);
        far.ip(&["addr", "add", "10.9.0.2/24", "dev", "v1"]);
        far.ip(&["addr", "add", "fd09::2/64", "dev", "v1", "nodad"]);
        Some(Self { near, far })
    }

    /// The link-layer address of the far end.
    pub(crate) fn peer_mac(&self) -> Mac {
        Mac([2, 0, 0, 0, 0, 2])
    }

    /// Runs `f` on a thread inside the near namespace.
    pub(crate) fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.near.enter(f)
    }

    /// Runs `ip` in the near namespace and returns what it printed.
    pub(crate) fn ip(&self, args: &[&str]) -> String {
        self.near.ip(args)
    }

    /// Runs `ip` in the near namespace; returns whether the kernel did it.
    pub(crate) fn try_ip(&self, args: &[&str]) -> bool {
        let output = self.near.command("ip").args(args).output().unwrap();
        output.status.success()
    }

    /// Runs `ip` in the far namespace and returns what it printed.
    pub(crate) fn peer_ip(&self, args: &[&str]) -> String {
        self.far.ip(args)
    }

    /// Runs a batch of `ip` commands in the near namespace.
    pub(crate) fn ip_batch(&self, commands: &str) {
        let mut ip = self.near.command("ip");
        let mut child = ip
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(commands.as_bytes()).unwrap();
        drop(input);
        assert!(child.wait().unwrap().success());
    }

    /// Writes a file below `/proc/sys` in the near namespace.
    pub(crate) fn sysctl(&self, path: &str, value: &str) {
        self.near.sysctl(path, value);
    }

    /// Writes a file below `/proc/sys` in the far namespace.
    pub(crate) fn peer_sysctl(&self, path: &str, value: &str) {
        self.far.sysctl(path, value);
    }
}
