//! Two shards on a wire in memory do what two hosts do.
mod cost;

use core::net::SocketAddr;
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};

use super::testutil::{Two, address_v6, shard};
use super::*;
use crate::device::pair::{PairConfig, local};
use crate::device::{Capabilities, Device, DeviceStats, FramePart, RxFrame, TxFrame};
use crate::tcp::Config;
use crate::time::{Duration, Instant};
use crate::zbuf::{Pool, Slice};

fn config() -> Config {
    Config {
        nodelay: true,
        ..Config::default()
    }
}

/// A connection from end 1 to end 0, accepted.
fn connected(two: &mut Two, server: SocketAddr, client: SocketAddr) -> (ListenId, ConnId, ConnId) {
    let now = two.now;
    let listen = two.ends[0].listen(server, false, 16, &config(), 7).unwrap();
    let ours = two.ends[1]
        .connect(now, client, server, &config(), 9)
        .unwrap();
    two.settle();
    assert!(two.wakeups[0].contains(&Wakeup {
        token: 7,
        edge: Ready::IN
    }));
    assert!(
        two.wakeups[1]
            .iter()
            .any(|w| w.token == 9 && w.edge.contains(Ready::OUT))
    );
    let accepted = two.ends[0].accept(listen, 8).unwrap();
    assert_eq!((accepted.local, accepted.remote), (server, client));
    (listen, accepted.conn, ours)
}

fn send(two: &mut Two, end: usize, id: ConnId, bytes: &[u8]) -> Result<usize, SendError> {
    let now = two.now;
    two.ends[end].send(now, id, &[IoSlice::new(bytes)], false)
}

fn recv(two: &mut Two, end: usize, id: ConnId, room: usize) -> Result<Vec<u8>, RecvError> {
    let mut buf = vec![0; room];
    let now = two.now;
    let n = two.ends[end].recv(
        now,
        id,
        &mut [IoSliceMut::new(&mut buf)],
        RecvMode::default(),
    )?;
    buf.truncate(n);
    Ok(buf)
}

/// Moves `total` bytes from end `from` to the other, and checks each.
fn transfer(two: &mut Two, from: usize, ids: [ConnId; 2], total: usize) {
    let to = 1 - from;
    let pattern: Vec<u8> = (0..total).map(|i| (i * 31 + i / 251) as u8).collect();
    let (mut sent, mut got) = (0, Vec::new());
    while got.len() < total {
        match send(two, from, ids[from], &pattern[sent..]) {
            Ok(n) => sent += n,
            Err(SendError::WouldBlock | SendError::NoMemory) => {}
            Err(e) => panic!("{e:?}"),
        }
        two.run_for(Duration::from_millis(1));
        match recv(two, to, ids[to], 100_000) {
            Ok(bytes) => got.extend(bytes),
            Err(RecvError::WouldBlock) => {}
            Err(e) => panic!("{e:?}"),
        }
    }
    assert_eq!(got, pattern);
}

#[test]
fn four_kilobytes_each_way_take_six_frames_and_no_pure_acknowledgment() {
    let mut two = Two::new(1500);
    let (_, s, c) = connected(&mut two, Two::at(0, 80), Two::at(1, 61440));
    let message = [0x5a; 4096];
    // Past the quick acknowledgments of a young connection.
    for round in 0..40 {
        let before = two.ends.each_ref().map(|e| e.counters().segments_out);
        // As two event loops do: the application runs whenever its end has something for it.
        send(&mut two, 1, c, &message).unwrap();
        two.turn(1);
        two.turn(0);
        assert_eq!(recv(&mut two, 0, s, 8192).unwrap().len(), 4096);
        send(&mut two, 0, s, &message).unwrap();
        two.turn(0);
        two.turn(1);
        assert_eq!(recv(&mut two, 1, c, 8192).unwrap().len(), 4096);
        let after = two.ends.each_ref().map(|e| e.counters().segments_out);
        if round > 20 {
            assert_eq!(
                [after[0] - before[0], after[1] - before[1]],
                [3, 3],
                "round {round}"
            );
        }
    }
}

#[test]
fn bulk_both_ways_is_intact_on_both_families_and_mtus() {
    for mtu in [1500, 9000, 1280] {
        for v6 in [false, true] {
            let mut two = Two::new(mtu);
            let at = |n, port| {
                if v6 {
                    SocketAddr::new(address_v6(n), port)
                } else {
                    Two::at(n, port)
                }
            };
            let (_, s, c) = connected(&mut two, at(0, 80), at(1, 61440));
            transfer(&mut two, 0, [s, c], 3_000_000);
            transfer(&mut two, 1, [s, c], 3_000_000);
        }
    }
}

#[test]
fn closing_leaves_nothing_behind() {
    let mut two = Two::new(1500);
    let (listen, s, c) = connected(&mut two, Two::at(0, 80), Two::at(1, 61440));
    send(&mut two, 1, c, b"bye").unwrap();
    let now = two.now;
    two.ends[1].close(now, c, Close::Graceful);
    two.settle();
    assert_eq!(recv(&mut two, 0, s, 10).unwrap(), b"bye");
    assert_eq!(recv(&mut two, 0, s, 10).unwrap(), b"");
    let ready = two.ends[0].ready(s);
    assert!(ready.contains(Ready::IN | Ready::RDHUP | Ready::OUT) && !ready.contains(Ready::HUP));
    two.ends[0].close(now, s, Close::Graceful);
    two.ends[0].close_listener(now, listen);
    two.settle();
    assert_eq!(
        two.ends[1].population(),
        (0, 1),
        "TIME-WAIT at the end that closed first"
    );
    assert_eq!(two.ends[0].population(), (0, 0));
    two.run_for(Duration::from_secs(61));
    for end in &mut two.ends {
        assert_eq!(end.population(), (0, 0));
        assert_eq!(end.next_deadline(), Instant::FAR_FUTURE);
        assert_eq!(end.objects_in_use(), 0);
    }
}

#[test]
fn congestion_control_can_be_changed_on_an_open_connection() {
    let mut two = Two::new(1500);
    let (_, _, c) = connected(&mut two, Two::at(0, 80), Two::at(1, 61440));
    assert_eq!(two.ends[1].info(c).unwrap().tcp.congestion, "reno");
    let other = Config {
        congestion: crate::tcp::CongestionControl::Cubic,
        ..config()
    };
    let now = two.now;
    two.ends[1].configure(now, c, &other);
    assert_eq!(two.ends[1].info(c).unwrap().tcp.congestion, "cubic");
}

#[test]
fn a_closed_port_refuses() {
    let mut two = Two::new(1500);
    let now = two.now;
    let c = two.ends[1]
        .connect(now, Two::at(1, 61440), Two::at(0, 81), &config(), 9)
        .unwrap();
    two.settle();
    assert!(two.ends[1].ready(c).contains(Ready::ERR | Ready::HUP));
    assert_eq!(two.ends[1].take_error(c), Some(ConnError::Refused));
    assert_eq!(two.ends[1].take_error(c), None);
    two.ends[1].close(now, c, Close::Graceful);
    two.settle();
    assert_eq!(two.ends[1].population(), (0, 0));
}

#[test]
fn closing_a_listener_resets_what_was_not_accepted() {
    let mut two = Two::new(1500);
    let now = two.now;
    let listen = two.ends[0]
        .listen(Two::at(0, 80), false, 16, &config(), 7)
        .unwrap();
    let c = two.ends[1]
        .connect(now, Two::at(1, 61440), Two::at(0, 80), &config(), 9)
        .unwrap();
    two.settle();
    assert_eq!(two.ends[0].listener_queue(listen), Some((1, 16)));
    two.ends[0].close_listener(now, listen);
    two.settle();
    assert_eq!(two.ends[1].take_error(c), Some(ConnError::Reset));
    assert_eq!(two.ends[0].population(), (0, 0));
}

#[test]
fn closing_a_listener_forgets_handshakes_silently() {
    let mut two = Two::new(1500);
    let now = two.now;
    let listen = two.ends[0]
        .listen(Two::at(0, 80), false, 16, &config(), 7)
        .unwrap();
    two.ends[1]
        .connect(now, Two::at(1, 61440), Two::at(0, 80), &config(), 9)
        .unwrap();
    two.turn(1);
    two.turn(0);
    assert_eq!(two.ends[0].population(), (1, 0));
    let sent = two.ends[0].counters().segments_out;
    two.ends[0].close_listener(now, listen);
    two.turn(0);
    assert_eq!(two.ends[0].population(), (0, 0));
    assert_eq!(two.ends[0].counters().segments_out, sent);
    assert_eq!(two.ends[0].next_deadline(), Instant::FAR_FUTURE);
}

#[test]
fn a_full_accept_queue_drops_syns() {
    let mut two = Two::new(1500);
    let now = two.now;
    let listen = two.ends[0]
        .listen(Two::at(0, 80), false, 1, &config(), 7)
        .unwrap();
    for port in 0..4 {
        let from = Two::at(1, 61440 + port);
        two.ends[1]
            .connect(now, from, Two::at(0, 80), &config(), u64::from(port))
            .unwrap();
        two.settle();
    }
    assert_eq!(two.ends[0].listener_queue(listen), Some((2, 1)));
    assert_eq!(
        two.ends[0].counters().drops[Drop::ListenOverflow as usize],
        2
    );
}

#[test]
fn a_stale_id_is_an_error_and_no_other_connection() {
    let mut two = Two::new(1500);
    let (_, s, c) = connected(&mut two, Two::at(0, 80), Two::at(1, 61440));
    let now = two.now;
    two.ends[1].close(now, c, Close::Abort);
    two.settle();
    assert_eq!(
        recv(&mut two, 0, s, 1),
        Err(RecvError::Failed(ConnError::Reset))
    );
    two.ends[1]
        .connect(now, Two::at(1, 61441), Two::at(0, 80), &config(), 1)
        .unwrap();
    assert_eq!(send(&mut two, 1, c, b"x"), Err(SendError::Stale));
    assert_eq!(recv(&mut two, 1, c, 1), Err(RecvError::Stale));
}

#[test]
fn a_slow_reader_stops_the_writer_and_nothing_is_lost() {
    let mut two = Two::new(1500);
    let (_, s, c) = connected(&mut two, Two::at(0, 80), Two::at(1, 61440));
    let mut sent = 0;
    for _ in 0..200 {
        match send(&mut two, 1, c, &[1; 65536]) {
            Ok(n) => sent += n,
            Err(SendError::WouldBlock | SendError::NoMemory) => break,
            Err(e) => panic!("{e:?}"),
        }
        two.run_for(Duration::from_millis(2));
    }
    assert!(sent < 8 << 20, "buffers are bounded: {sent}");
    two.run_for(Duration::from_secs(30));
    let mut got = 0;
    while got < sent {
        match recv(&mut two, 0, s, 1 << 20) {
            Ok(bytes) => got += bytes.len(),
            Err(RecvError::WouldBlock) => two.run_for(Duration::from_secs(1)),
            Err(e) => panic!("{e:?}"),
        }
        two.settle();
    }
    assert_eq!(got, sent);
    assert!(two.wakeups[1].iter().any(|w| w.edge.contains(Ready::OUT)));
}

/// A wire whose frames arrive in parts of some hundred bytes, as a super-packet does that fills
/// more buffers than a frame may have pieces.
struct InParts<D>(D);

impl<D: Device> Device for InParts<D> {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn rx_burst(&mut self, pool: &mut Pool, frames: &mut Vec<RxFrame>, room: usize) -> usize {
        let mut whole = Vec::new();
        let received = self.0.rx_burst(pool, &mut whole, room);
        for frame in whole {
            let bytes: Vec<_> = frame.pieces.iter().flat_map(|p| cut(p, 700)).collect();
            let last = bytes.len() - 1;
            for (at, piece) in bytes.into_iter().enumerate() {
                let part = match at {
                    _ if last == 0 => FramePart::Whole,
                    0 => FramePart::First,
                    _ if at == last => FramePart::Last,
                    _ => FramePart::Middle,
                };
                frames.push(RxFrame {
                    pieces: [piece].into_iter().collect(),
                    checksum_ok: true,
                    part,
                });
            }
        }
        received
    }

    fn tx_burst(&mut self, pool: &mut Pool, frames: &mut VecDeque<TxFrame>) -> usize {
        self.0.tx_burst(pool, frames)
    }

    fn flush(&mut self, pool: &mut Pool) {
        self.0.flush(pool);
    }

    fn arm(&mut self) -> bool {
        self.0.arm()
    }

    fn wait_fds(&self) -> &[std::os::fd::RawFd] {
        self.0.wait_fds()
    }

    fn stats(&self) -> DeviceStats {
        self.0.stats()
    }
}

fn cut(piece: &Slice, bytes: usize) -> Vec<Slice> {
    let starts = (0..piece.len()).step_by(bytes);
    starts
        .map(|start| {
            let mut part = piece.clone();
            part.advance(start);
            part.truncate(bytes);
            part
        })
        .collect()
}

#[test]
fn a_segment_in_parts_is_the_segment() {
    let mtu = 9000;
    let (a, b) = local(PairConfig {
        frame_bytes_max: mtu as usize + 14,
        ..PairConfig::default()
    });
    let mut two = Two {
        ends: [
            shard(0, mtu, 16, Box::new(InParts(a))),
            shard(1, mtu, 16, Box::new(b)),
        ],
        now: Instant::ZERO,
        wakeups: [Vec::new(), Vec::new()],
    };
    let (_, s, c) = connected(&mut two, Two::at(0, 80), Two::at(1, 61440));
    transfer(&mut two, 1, [s, c], 3_000_000);
    transfer(&mut two, 0, [s, c], 3_000_000);
    // The end of the stream travels with the last bytes and counts once.
    send(&mut two, 1, c, &[7; 8000]).unwrap();
    let now = two.now;
    two.ends[1].shutdown_write(now, c);
    two.settle();
    assert_eq!(recv(&mut two, 0, s, 10_000).unwrap(), [7; 8000]);
    assert_eq!(recv(&mut two, 0, s, 10_000).unwrap(), []);
}
