//! Network namespaces joined by veth pairs, driven by `ip` and `nft`.
//!
//! Names carry the process id and a counter, so tests of several trees can run side by side,
//! interface names included. A namespace is removed with its processes when its value is
//! dropped; what a killed test run left behind is swept away by the next one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::LinkNameSpaceType;

/// A network namespace of this test, with loopback up.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes an empty namespace; `role` ends up in its name, for whoever looks at `ip netns`.
    pub fn new(role: &str) -> Self {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let name = format!("luna-{}-{}-{role}", std::process::id(), unique());
        ip(&["netns", "add", &name]);
        let netns = Self { name };
        netns.ip(&["link", "set", "lo", "up"]);
        // Duplicate address detection would keep IPv6 addresses unusable for a second.
        netns.sysctl("net/ipv6/conf/default/accept_dad", "0");
        netns.sysctl("net/ipv6/conf/all/accept_dad", "0");
        netns
    }

    /// The name that `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside, as the same process (`ip netns exec` replaces itself).
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `ip -n NAME ARGS…`; fails the test if it fails.
    pub fn ip(&self, args: &[&str]) -> String {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend_from_slice(args);
        ip(&all)
    }

    /// Runs a program inside to its end and returns its output; fails the test if it fails.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        checked(self.command(program).args(args))
    }

    /// Sets a sysctl of the namespace, named by its path below `/proc/sys`.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{name}");
        self.enter(move || std::fs::write(&path, value).expect("set a sysctl of a namespace"));
    }

    /// Runs a closure on a thread of its own inside the namespace: sockets that it opens belong
    /// there for good, and are the kernel's.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(format!("/run/netns/{}", self.name)).expect("open a netns");
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                rustix::thread::move_into_link_name_space(
                    file.as_fd(),
                    Some(LinkNameSpaceType::Network),
                )
                .expect("enter a network namespace");
                work()
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Drops `percent` % of the TCP packets that this namespace forwards, both ways.
    pub fn drop_forwarded(&self, percent: u32) {
        let rules = format!(
            "add table inet loss; \
             add chain inet loss forward {{ type filter hook forward priority 0; }}; \
             add rule inet loss forward meta l4proto tcp \
             numgen random mod 100 < {percent} counter drop"
        );
        self.run("nft", &[&rules]);
    }

    /// How many packets `drop_forwarded` has dropped.
    pub fn dropped(&self) -> u64 {
        let listing = self.run("nft", &["list", "chain", "inet", "loss", "forward"]);
        let words: Vec<&str> = listing.split_whitespace().collect();
        let at = words
            .iter()
            .position(|word| *word == "packets")
            .expect("a counter in the chain");
        words[at + 1].parse().expect("a packet count")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// One end of a link: where it is and what it is called there.
#[derive(Clone, Debug)]
pub struct End {
    /// The interface's name.
    pub interface: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl End {
    /// The address of one family.
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// Which Internet protocol a test uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Two namespaces joined by one veth pair, addresses assigned, carrier up.
#[derive(Debug)]
pub struct NetnsPair {
    /// By convention the server's side.
    pub a: Netns,
    /// By convention the client's side.
    pub b: Netns,
    /// A's end of the link.
    pub a_end: End,
    /// B's end of the link.
    pub b_end: End,
}

impl NetnsPair {
    /// Makes the pair with the given MTU.
    pub fn new(mtu: u32) -> Self {
        Self::with_queues(mtu, 1)
    }

    /// Makes the pair with so many receive and transmit queues at each end.
    pub fn with_queues(mtu: u32, queues: u32) -> Self {
        let (a, b) = (Netns::new("a"), Netns::new("b"));
        let (a_end, b_end) = join(&a, &b, 1, mtu, queues);
        Self { a, b, a_end, b_end }
    }
}

/// A – middle – B: the middle routes between two veth pairs. Loss can only be made there when
/// both ends are luna's, because nft sees no frame that AF_XDP sends or receives.
#[derive(Debug)]
pub struct NetnsRoute {
    /// By convention the server's side.
    pub a: Netns,
    /// The router.
    pub middle: Netns,
    /// By convention the client's side.
    pub b: Netns,
    /// A's end of its link to the middle.
    pub a_end: End,
    /// B's end of its link to the middle.
    pub b_end: End,
    /// The middle's end of its link to B.
    pub b_router: End,
}

impl NetnsRoute {
    /// Makes the three namespaces; both links have the given MTU.
    pub fn new(mtu: u32) -> Self {
        let (a, middle, b) = (Netns::new("a"), Netns::new("m"), Netns::new("b"));
        let (a_end, a_router) = join(&a, &middle, 1, mtu, 1);
        let (b_end, b_router) = join(&b, &middle, 2, mtu, 1);
        middle.sysctl("net/ipv4/ip_forward", "1");
        middle.sysctl("net/ipv6/conf/all/forwarding", "1");
        for (netns, router) in [(&a, &a_router), (&b, &b_router)] {
            netns.ip(&["route", "add", "default", "via", &router.v4.to_string()]);
            netns.ip(&[
                "-6",
                "route",
                "add",
                "default",
                "via",
                &router.v6.to_string(),
            ]);
        }
        // A kernel sender would hand the router 64 KiB super-packets, each lost as a whole.
        for (netns, end) in [
            (&a, &a_end),
            (&b, &b_end),
            (&middle, &a_router),
            (&middle, &b_router),
        ] {
            netns.ip(&["link", "set", "dev", &end.interface, "gso_max_segs", "1"]);
        }
        Self {
            a,
            middle,
            b,
            a_end,
            b_end,
            b_router,
        }
    }
}

/// Joins two namespaces by a veth pair with addresses of network `number`.
fn join(a: &Netns, b: &Netns, number: u8, mtu: u32, queues: u32) -> (End, End) {
    // At most 15 characters: "l4194304n123a".
    let stem = format!("l{}n{}", std::process::id(), unique());
    let ends = [('a', a, 1), ('b', b, 2)].map(|(letter, netns, host)| {
        let end = End {
            interface: format!("{stem}{letter}"),
            v4: Ipv4Addr::new(10, 77, number, host),
            v6: Ipv6Addr::new(0xfd77, 0, 0, number.into(), 0, 0, 0, host.into()),
        };
        (netns, end)
    });
    let [(_, a_end), (_, b_end)] = &ends;
    let mtu = mtu.to_string();
    let queues = queues.to_string();
    ip(&[
        "link",
        "add",
        &a_end.interface,
        "mtu",
        &mtu,
        "netns",
        a.name(),
        "numrxqueues",
        &queues,
        "numtxqueues",
        &queues,
        "type",
        "veth",
        "peer",
        "name",
        &b_end.interface,
        "mtu",
        &mtu,
        "netns",
        b.name(),
        "numrxqueues",
        &queues,
        "numtxqueues",
        &queues,
    ]);
    for (netns, end) in &ends {
        netns.ip(&[
            "address",
            "add",
            &format!("{}/24", end.v4),
            "dev",
            &end.interface,
        ]);
        let v6 = format!("{}/64", end.v6);
        netns.ip(&["address", "add", &v6, "dev", &end.interface, "nodad"]);
        netns.ip(&["link", "set", "dev", &end.interface, "up"]);
    }
    for (netns, end) in &ends {
        super::proc::wait_until("the link to have a carrier", || {
            netns
                .ip(&["link", "show", "dev", &end.interface])
                .contains("LOWER_UP")
        });
    }
    let [(_, a_end), (_, b_end)] = ends;
    (a_end, b_end)
}

fn unique() -> u32 {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    COUNTER.fetch_add(1, Ordering::Relaxed)
}

fn ip(args: &[&str]) -> String {
    checked(Command::new("ip").args(args))
}

/// Runs a command to its end; fails the test, with its output, if it fails.
pub fn checked(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed ({}): {stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// Ends whatever runs in a namespace (only our own processes are ever put there), then the
/// namespace; its links go with it. Reports instead of panicking: it runs while unwinding.
fn remove(name: &str) {
    if let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() {
        for pid in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            // A process that has just ended by itself is no news.
            let _ = Command::new("kill").args(["-KILL", pid]).output();
        }
    }
    match Command::new("ip").args(["netns", "del", name]).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            eprintln!(
                "removing {name}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Err(error) => eprintln!("removing {name}: {error}"),
    }
}

/// Removes the namespaces of test runs whose process no longer exists.
fn sweep() {
    let Ok(folder) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in folder.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        if parts.next() != Some("luna") {
            continue;
        }
        let Some(pid) = parts.next().and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
            remove(&name);
        }
    }
}
