//! Two network namespaces joined by a veth pair, deleted when dropped.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use luna::wire::Mac;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A namespace with `v0` (10.9.0.1/24, fd09::1/64) and a peer with `v1` (.2 and ::2).
pub(crate) struct Pair {
    near: String,
    far: String,
}

impl Pair {
    /// `None`, with the reason printed, where namespaces can't be made; a failure under CI.
    pub(crate) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(
                std::env::var_os("CI").is_none(),
                "must run as root under CI"
            );
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let base = format!("lunact{}-{serial}", std::process::id());
        let pair = Self {
            near: format!("{base}a"),
            far: format!("{base}b"),
        };
        ip(&["netns", "add", &pair.near]);
        ip(&["netns", "add", &pair.far]);
        // Only for the tests' speed: duplicate address detection takes a second or two.
        for (ns, sysctl) in [
            (&pair.near, "all"),
            (&pair.far, "all"),
            (&pair.near, "default"),
            (&pair.far, "default"),
        ] {
            write_sysctl(ns, &format!("net/ipv6/conf/{sysctl}/accept_dad"), "0");
        }
        pair.ip(&[
            "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", &pair.far,
        ]);
        pair.peer_ip(&["link", "set", "v1", "address", "02:00:00:00:00:02"]);
        pair.ip(&["link", "set", "lo", "up"]);
        pair.ip(&["link", "set", "v0", "up"]);
        pair.peer_ip(&["link", "set", "v1", "up"]);
        pair.ip(&["addr", "add", "10.9.0.1/24", "dev", "v0"]);
        pair.ip(&["addr", "add", "fd09::1/64", "dev", "v0", "nodad"]);
        pair.peer_ip(&["addr", "add", "10.9.0.2/24", "dev", "v1"]);
        pair.peer_ip(&["addr", "add", "fd09::2/64", "dev", "v1", "nodad"]);
        Some(pair)
    }

    /// The link-layer address of the far end.
    pub(crate) fn peer_mac(&self) -> Mac {
        Mac([2, 0, 0, 0, 0, 2])
    }

    /// Runs `f` on a thread inside the near namespace.
    pub(crate) fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        enter(&self.near, f)
    }

    /// Runs `ip` in the near namespace and returns what it printed.
    pub(crate) fn ip(&self, args: &[&str]) -> String {
        ip(&[&["-n", &self.near], args].concat())
    }

    /// Runs `ip` in the near namespace; returns whether the kernel did it.
    pub(crate) fn try_ip(&self, args: &[&str]) -> bool {
        let out = Command::new("ip")
            .args(["-n", &self.near])
            .args(args)
            .output()
            .unwrap();
        out.status.success()
    }

    /// Runs `ip` in the far namespace and returns what it printed.
    pub(crate) fn peer_ip(&self, args: &[&str]) -> String {
        ip(&[&["-n", &self.far], args].concat())
    }

    /// Runs a batch of `ip` commands in the near namespace.
    pub(crate) fn ip_batch(&self, commands: &str) {
        let mut child = Command::new("ip")
            .args(["-n", &self.near, "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(commands.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Writes a file below `/proc/sys` in the near namespace.
    pub(crate) fn sysctl(&self, path: &str, value: &str) {
        write_sysctl(&self.near, path, value);
    }

    /// Writes a file below `/proc/sys` in the far namespace.
    pub(crate) fn peer_sysctl(&self, path: &str, value: &str) {
        write_sysctl(&self.far, path, value);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for ns in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

fn enter<T: Send>(ns: &str, f: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{ns}")).unwrap();
    std::thread::scope(|scope| {
        let body = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            f()
        };
        match scope.spawn(body).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn write_sysctl(ns: &str, path: &str, value: &str) {
    // The network part of /proc/sys shows the namespace of the thread that opens it.
    enter(ns, || {
        std::fs::write(format!("/proc/sys/{path}"), value).unwrap()
    });
}

/// Runs `ip` and returns what it printed; fails the test if it does.
#[track_caller]
pub(crate) fn ip(args: &[&str]) -> String {
    let out = Command::new("ip").args(args).output().unwrap();
    assert!(
        out.status.success(),
        "ip {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}
