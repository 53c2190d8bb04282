//! An unmodified program on a port of DPDK's, and the kernel at the other end of it: `net_tap`,
//! whose kernel side is an interface like any other. Two stacks that know nothing of each other
//! but Ethernet: ARP, neighbour discovery and checksums included.

#![cfg(all(feature = "cli", feature = "dpdk"))]
#![allow(
    clippy::expect_used,
    reason = "a helper that fails is the test failing"
)]

mod common;

use std::net::IpAddr;

use common::luna::{Run, Stack};
use common::measure::KernelTcp;
use common::netns::Netns;
use common::proc::{PATIENCE, Proc, wait_until};
use common::require::turn;
use common::stream::{Io, Outcome, Server, client};

const PORT: u16 = 7000;
const MEBIBYTES: u64 = 16;

/// luna's end and the kernel's.
struct Ends {
    network: &'static str,
    prefix_len: u8,
}

impl Ends {
    fn luna(&self) -> IpAddr {
        format!("{}2", self.network).parse().expect("an address")
    }

    fn kernel(&self) -> IpAddr {
        format!("{}1", self.network).parse().expect("an address")
    }

    fn device(&self) -> String {
        let (ip, len) = (self.luna(), self.prefix_len);
        format!("eal:net_tap0,iface=dtap0,ip={ip}/{len}")
    }

    /// Gives the kernel's side its address, once luna has made the interface.
    fn set_up_kernel_side(&self, netns: &Netns) {
        wait_until("the tap interface to be there", || {
            netns
                .enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))
                .is_ok_and(|text| text.contains("dtap0"))
        });
        let address = format!("{}/{}", self.kernel(), self.prefix_len);
        netns.ip(&["address", "add", &address, "dev", "dtap0", "nodad"]);
        netns.ip(&["link", "set", "dtap0", "up"]);
    }
}

#[test]
fn the_kernel_and_luna_exchange_every_byte_over_a_tap() {
    let Some(_turn) = turn(&[]) else { return };
    for ends in [
        Ends {
            network: "10.78.0.",
            prefix_len: 24,
        },
        Ends {
            network: "fd78::",
            prefix_len: 64,
        },
    ] {
        let netns = Netns::new("dpdk");
        let mut server = Server {
            netns: &netns,
            stack: Stack::Luna(Run::listen(&ends.device(), PORT)),
            io: Io::Epoll,
            address: ends.luna(),
            port: PORT,
            connections: 1,
        }
        .start();
        ends.set_up_kernel_side(&netns);
        let bytes = (MEBIBYTES << 20).to_string();
        let mut command = client(&netns, &Stack::Kernel, "bulk", (ends.luna(), PORT));
        command.args(["--up", &bytes, "--down", &bytes, "--seed", "9"]);
        let before = KernelTcp::of(&netns);
        let mut sending = Proc::start(command);
        let at_client = Outcome::of_both(&mut sending, &mut server, &bytes);
        // Only the kernel's own end of the connection went through the kernel's TCP.
        let segments = KernelTcp::of(&netns).segments_since(&before);
        println!(
            "{}: {:.0} Mbit/s each way, {segments} kernel segments",
            ends.luna(),
            at_client.number("mbit")
        );
    }
}

#[test]
fn a_program_whose_port_is_not_to_be_had_runs_on_the_kernel() {
    let Some(_turn) = turn(&[]) else { return };
    let netns = Netns::new("dpdk");
    for (device, word) in [
        ("eal:net_nosuchthing0,ip=10.78.0.2/24", "find or make"),
        ("eal:net_null0", "add ip=ADDR/LEN"),
        ("eal:net_memif0,role=server,ip=10.78.0.2/24", "memif:SOCKET"),
    ] {
        let run = Run {
            interface: device.to_owned(),
            listen: PORT.to_string(),
            ..Run::default()
        };
        let mut server = Server {
            netns: &netns,
            stack: Stack::Luna(run),
            io: Io::Epoll,
            address: "0.0.0.0".parse().expect("an address"),
            port: PORT,
            connections: 1,
        }
        .start();
        let mut command = client(
            &netns,
            &Stack::Kernel,
            "rpc",
            ("127.0.0.1".parse().expect("an address"), PORT),
        );
        command.args(["--count", "10", "--request", "100", "--response", "100"]);
        Proc::start(command).succeed(PATIENCE);
        assert!(server.wait(PATIENCE).success(), "{}", server.report());
        let told = server.stderr();
        let lines: Vec<&str> = told
            .lines()
            .filter(|line| line.contains("kernel"))
            .collect();
        assert!(lines.len() == 1 && lines[0].contains(word), "{told}");
    }
}
