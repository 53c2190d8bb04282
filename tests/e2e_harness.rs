//! The harness checked against the kernel alone: if these fail, no other end-to-end result means
//! anything.

#![cfg(feature = "cli")]
#![allow(
    clippy::expect_used,
    reason = "a helper that fails is the test failing"
)]

mod common;

use std::process::Command;
use std::time::Duration;

use common::luna::Stack;
use common::measure::{KernelTcp, Usage, median};
use common::netns::{Family, Netns, NetnsPair, NetnsRoute};
use common::proc::{Proc, connects, wait_until};
use common::require::turn;
use common::stream::{self, Io, Outcome, Server, client, run_client};
use sha2::{Digest, Sha256};

/// The generator and the hash of the C peer against independent ones.
#[test]
fn the_peer_generates_and_hashes_what_it_claims() {
    for (bytes, seed) in [(0, 1), (1, 2), (64, 3), (65_536, 4), (1_000_003, u64::MAX)] {
        let mut state: u64 = seed;
        let words = std::iter::repeat_with(|| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ z >> 31).to_le_bytes()
        });
        let expected: Vec<u8> = words.flatten().take(bytes).collect();
        let expected: String = Sha256::digest(&expected)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut command = Command::new(stream::program());
        let output = command
            .args(["selftest", &bytes.to_string(), &seed.to_string()])
            .output();
        let output = output.expect("run the peer");
        let outcome = Outcome::one(&String::from_utf8_lossy(&output.stdout));
        assert_eq!(
            outcome.text("sha256"),
            expected,
            "{bytes} bytes of seed {seed}"
        );
    }
}

/// No wrong memory access, leak or undefined arithmetic in the peer, whatever it waits with.
#[test]
fn the_peer_is_clean_under_the_sanitizers() {
    let Some(_turn) = turn(&[]) else { return };
    let flags = [
        "-O1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    ];
    let program = stream::compile("stream-sanitized", &flags);
    let program = program.to_string_lossy();
    let netns = Netns::new("asan");
    for io in [Io::Blocking, Io::Epoll, Io::Edge] {
        let mut command = netns.command(&program);
        command.args([
            "server",
            "--port",
            "7000",
            "--io",
            io.word(),
            "--connections",
            "4",
        ]);
        let mut server = Proc::start(command);
        wait_until("the server to listen", || {
            server.stdout().contains("listening")
        });
        for (mode, options) in [
            (
                "bulk",
                ["--up", "300001", "--down", "200003", "--connections", "2"],
            ),
            (
                "rpc",
                ["--count", "200", "--request", "64", "--response", "9000"],
            ),
            (
                "short",
                ["--count", "1", "--request", "9000", "--response", "64"],
            ),
        ] {
            let mut command = netns.command(&program);
            command.args([
                mode,
                "--host",
                "127.0.0.1",
                "--port",
                "7000",
                "--io",
                io.word(),
            ]);
            Proc::start({
                command.args(options).args(["--timeout", "30"]);
                command
            })
            .succeed(Duration::from_secs(40));
        }
        assert!(
            server.wait(Duration::from_secs(20)).success(),
            "{}",
            server.report()
        );
        assert_eq!(server.stderr(), "");
    }
}

/// A flipped byte, a lost connection and an early end must not pass for a good transfer.
#[test]
fn the_peer_notices_damage() {
    let Some(_turn) = turn(&[]) else { return };
    let netns = Netns::new("damage");
    let address = "127.0.0.1".parse().expect("an address");
    // The server sends more than this client expects: bytes after the digest's place.
    let server = Server {
        netns: &netns,
        stack: Stack::Kernel,
        io: Io::Epoll,
        address,
        port: 7000,
        connections: 0,
    };
    let mut running = server.start();
    netns.enter(|| {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", 7000)).expect("connect");
        let mut hello = b"luna-str".to_vec();
        for word in [1u64 << 32, 8 << 32 | 8, 1000, 0, 1] {
            hello.extend(word.to_be_bytes());
        }
        // 1,000 zero bytes are not what seed 1 stands for.
        hello.resize(hello.len() + 1000, 0);
        socket.write_all(&hello).expect("send");
        let mut rest = Vec::new();
        // The server closes with unread bytes about, so a reset is as good as an end.
        let _ = socket.read_to_end(&mut rest);
    });
    wait_until("the server to complain", || {
        running.stdout().contains("wrong_byte_at=0")
    });
    running.kill();
    let mut orphan = Proc::start(client(&netns, &Stack::Kernel, "rpc", (address, 7000)));
    assert_eq!(
        orphan.wait(Duration::from_secs(20)).code(),
        Some(3),
        "{}",
        orphan.report()
    );
    assert_eq!(Outcome::one(&orphan.stdout()).text("errno"), "ECONNREFUSED");
}

/// Namespaces, counters and processes behave as the other tests assume.
#[test]
fn the_namespaces_carry_traffic_and_vanish() {
    let Some(_turn) = turn(&["ping"]) else { return };
    let names = {
        let pair = NetnsPair::new(1500);
        let names = [pair.a.name().to_owned(), pair.b.name().to_owned()];
        for family in [Family::V4, Family::V6] {
            let address = pair.a_end.address(family);
            pair.b.run("ping", &["-c1", "-W2", &address.to_string()]);
            let server = Server {
                netns: &pair.a,
                stack: Stack::Kernel,
                io: Io::Epoll,
                address,
                port: 7000,
                connections: 1,
            };
            let mut running = server.start();
            let before = KernelTcp::of(&pair.a);
            let target = (address, 7000);
            let mut command = client(&pair.b, &Stack::Kernel, "rpc", target);
            let outcome = run_client({
                command.args(["--count", "500"]);
                command
            });
            assert_eq!(outcome.number("requests"), 500.0);
            assert!(outcome.number("p50_us") <= outcome.number("p99_us"));
            assert!(
                running.wait(Duration::from_secs(10)).success(),
                "{}",
                running.report()
            );
            let segments = KernelTcp::of(&pair.a).segments_since(&before);
            assert!(
                segments > 1000,
                "the kernel carried 500 requests in {segments} segments"
            );
        }
        assert!(!connects(&pair.b, (pair.a_end.v4, 9).into()));
        names
    };
    let left = Command::new("ip")
        .args(["netns", "list"])
        .output()
        .expect("list namespaces");
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(
        !names.iter().any(|name| left.contains(name)),
        "left behind: {left}"
    );
}

/// The middle namespace really drops, and the transfer really survives it.
#[test]
fn the_lossy_route_loses_packets() {
    let Some(_turn) = turn(&[]) else { return };
    let route = NetnsRoute::new(1500);
    route.middle.drop_forwarded(1);
    let address = route.a_end.address(Family::V4);
    let server = Server {
        netns: &route.a,
        stack: Stack::Kernel,
        io: Io::Blocking,
        address,
        port: 7000,
        connections: 1,
    };
    let mut running = server.start();
    let before = KernelTcp::of(&route.b);
    let mut command = client(&route.b, &Stack::Kernel, "bulk", (address, 7000));
    command.args(["--up", "4000000", "--down", "4000000", "--timeout", "60"]);
    let outcome = run_client(command);
    assert_eq!(outcome.number("received"), 4_000_000.0);
    assert!(
        running.wait(Duration::from_secs(10)).success(),
        "{}",
        running.report()
    );
    assert!(
        route.middle.dropped() >= 10,
        "{} packets dropped",
        route.middle.dropped()
    );
    assert!(KernelTcp::of(&route.b).retrans_segs > before.retrans_segs);
}

/// CPU time and context switches of a busy and of an idle process differ as they should.
#[test]
fn usage_tells_idle_from_busy() {
    let Some(_turn) = turn(&[]) else { return };
    let mut idle = Command::new("sleep");
    idle.arg("60");
    let mut busy = Command::new("sh");
    busy.args(["-c", "while :; do :; done"]);
    let (idle, busy) = (Proc::start(idle), Proc::start(busy));
    wait_until("the busy process to use 0.2 s", || {
        Usage::of(busy.pid()).cpu >= Duration::from_millis(200)
    });
    let idle = Usage::of(idle.pid());
    assert!(
        idle.cpu <= Duration::from_millis(20) && idle.switches < 100,
        "{idle:?}"
    );
    assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
}
