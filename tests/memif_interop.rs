//! memif with another implementation at the other end: DPDK's testpmd sends back what it gets.

#![allow(
    clippy::expect_used,
    reason = "a helper that fails is the test failing"
)]

mod common;

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;

use common::proc::{Proc, wait_until};
use common::require::{find_program, skip};
use luna::device::memif::{Memif, MemifConfig, MemifRole};
use luna::device::{Device, Pieces, TxFrame};
use luna::zbuf::{Area, Pool, PoolConfig};

const FRAMES: usize = 2000;

/// testpmd on one port, every frame back to where it came from, on memory without hugepages.
fn testpmd(program: &str, socket: &Path, role: &str) -> Proc {
    // It forwards until it has read a line: its input is a pipe that it holds both ends of.
    let fifo = socket.with_extension("fifo");
    let script = "mkfifo \"$1\" && exec 3<>\"$1\" && shift && exec \"$@\" <&3";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(fifo).arg(program);
    let device = format!(
        "--vdev=net_memif0,role={role},socket={},socket-abstract=no",
        socket.display()
    );
    command.args(["--lcores=0@0,1@0", "--no-pci", "--no-telemetry", &device]);
    command.args(["--no-huge", "--no-shconf", "-m", "256", "--"]);
    // What comes before it forwards is sent back, too.
    command.args([
        "--forward-mode=io",
        "--total-num-mbufs=8192",
        "--no-flush-rx",
    ]);
    Proc::start(command)
}

fn pool() -> Pool {
    let area = Area::new(16 << 21).expect("memory");
    let config = PoolConfig {
        zones: 16,
        ..PoolConfig::default()
    };
    Pool::new(&area, config).expect("a pool")
}

/// An Ethernet frame of a protocol of nobody's, with its number in it.
fn frame(pool: &mut Pool, number: usize) -> TxFrame {
    let mut header = [0_u8; 14];
    header[12..].copy_from_slice(&[0x88, 0xb5]);
    let mut frame = TxFrame {
        header: header.into_iter().collect(),
        payload: Pieces::new(),
        checksum_offload: false,
        segment_bytes: 0,
        alone: false,
    };
    let body: Vec<u8> = (0..46 + number % 1400)
        .map(|i| (i + number) as u8)
        .collect();
    let (a, b) = body.split_at(body.len() / 2);
    for part in [a, b] {
        frame.payload.push(pool.copy_in(part).expect("memory"));
    }
    frame
}

fn bytes(header: &[u8], pieces: &Pieces) -> Vec<u8> {
    let payload = pieces.iter().flat_map(|piece| piece.as_bytes().to_vec());
    header.iter().copied().chain(payload).collect()
}

/// Sends frames and waits for each to come back, some at a time.
fn exchange(link: &mut Memif, pool: &mut Pool) {
    let (mut sent, mut received) = (VecDeque::new(), 0);
    let mut number = 0;
    let mut waiting = VecDeque::new();
    wait_until("all frames to come back", || {
        while sent.len() < 64 && number < FRAMES {
            let next = frame(pool, number);
            sent.push_back(bytes(&next.header, &next.payload));
            waiting.push_back(next);
            number += 1;
        }
        // A client offers no buffers before it polls.
        link.tx_burst(pool, &mut waiting);
        link.flush(pool);
        let mut frames = Vec::new();
        link.rx_burst(pool, &mut frames, 64);
        for frame in frames {
            let expected = sent.pop_front().expect("no more than were sent");
            assert_eq!(bytes(&[], &frame.pieces), expected);
            assert!(!frame.checksum_ok, "nobody vouches for a stranger's frames");
            received += 1;
        }
        received == FRAMES
    });
}

#[test]
fn testpmd_sends_our_frames_back_at_either_end() {
    let Some(program) = find_program("dpdk-testpmd") else {
        return skip("dpdk-testpmd is not installed (`make deps` installs it)");
    };
    let folder = tempfile::tempdir().expect("make a directory");
    for (own, role) in [(MemifRole::Server, "client"), (MemifRole::Client, "server")] {
        let socket = folder.path().join(role);
        let config = MemifConfig::new(&socket.to_string_lossy(), own, 1500);
        let mut pool = pool();
        let mut link = Memif::open(&config).expect("a link");
        let mut peer = testpmd(&program, &socket, role);
        wait_until("testpmd to connect", || {
            assert!(peer.ended().is_none(), "{}", peer.report());
            link.is_up()
        });
        exchange(&mut link, &mut pool);
        peer.kill();
        wait_until("its end to be noticed", || !link.is_up());
        assert_eq!(pool.objects_in_use(), 0);
    }
}
