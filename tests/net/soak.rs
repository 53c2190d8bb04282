//! A day of everything at once in virtual time: loss, duplicates, reordering, outages, neighbours
//! that come and go, connections that open, talk, idle with keepalive, stop reading, close, abort
//! and are forgotten. Afterwards nothing may be left: no connection, no TIME-WAIT record, no
//! object of packet memory, no timer, no memory.
//!
//! `LUNA_SOAK_HOURS` sets the length of the day (24).

use std::net::SocketAddr;

use luna::stack::{Close, ConnId, ListenId};
use luna::tcp::{Config, Keepalive};
use luna::time::{Duration, Instant};

use crate::host::lane::Conditions;
use crate::host::net::Net;
use crate::host::{OUR_MAC, PEER_MAC, address, tables_of};
use crate::recovery::{read, write};

/// Connections at a time.
const PAIRS: usize = 24;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }
}

#[derive(Default)]
struct Day {
    listener: Option<ListenId>,
    /// Ours, and what the other end has accepted.
    ours: Vec<ConnId>,
    theirs: Vec<ConnId>,
    next_port: u16,
    opened: u64,
    bytes: u64,
}

fn config(rng: &mut Rng) -> Config {
    Config {
        rto_min: Duration::from_millis([4, 200][rng.below(2) as usize]),
        nodelay: rng.below(2) == 0,
        timestamps: rng.below(4) > 0,
        sack: rng.below(4) > 0,
        rcv_buf_max_bytes: 4096 << rng.below(8),
        keepalive: (rng.below(2) == 0).then_some(Keepalive {
            idle: Duration::from_secs(120),
            interval: Duration::from_secs(10),
            count: 4,
        }),
        user_timeout: (rng.below(3) == 0).then_some(Duration::from_secs(90)),
        ..Config::default()
    }
}

impl Day {
    fn open(&mut self, net: &mut Net, rng: &mut Rng) {
        self.next_port = 61440 + (self.next_port + 1) % 4000;
        let at = |n, port| SocketAddr::new(address(false, n), port);
        let now = net.now;
        let opened =
            net.hosts[0]
                .shard
                .connect(now, at(0, self.next_port), at(1, 80), &config(rng), 7);
        if let Ok(conn) = opened {
            self.opened += 1;
            self.ours.push(conn);
        }
    }

    /// Something happens to somebody.
    fn step(&mut self, net: &mut Net, rng: &mut Rng) {
        while let Some(accepted) = self
            .listener
            .and_then(|id| net.hosts[1].shard.accept(id, 8))
        {
            self.theirs.push(accepted.conn);
        }
        if self.ours.len() < PAIRS {
            self.open(net, rng);
        }
        let side = rng.below(2) as usize;
        let list = if side == 0 { &self.ours } else { &self.theirs };
        let Some(conn) = list.get(rng.below(list.len() as u64) as usize).copied() else {
            return;
        };
        let now = net.now;
        let gone = net.hosts[side]
            .shard
            .info(conn)
            .is_none_or(|i| i.tcp.state.name() == "CLOSED");
        let shard = &mut net.hosts[side].shard;
        match rng.below(40) {
            _ if gone => {
                shard.close(now, conn, Close::Graceful);
                self.forget(side, conn);
            }
            0 => {
                shard.close(now, conn, Close::Graceful);
                self.forget(side, conn);
            }
            1 if rng.below(4) == 0 => {
                shard.close(now, conn, Close::Abort);
                self.forget(side, conn);
            }
            2 => shard.shutdown_write(now, conn),
            3 => shard.configure(now, conn, &config(rng)),
            4..=20 => {
                let len = 1 + rng.below(6000) as usize;
                write(net, side, conn, &vec![5; len]);
            }
            21..=38 => self.bytes += read(net, side, conn) as u64,
            _ => {}
        }
    }

    fn forget(&mut self, side: usize, conn: ConnId) {
        let list = if side == 0 {
            &mut self.ours
        } else {
            &mut self.theirs
        };
        list.retain(|c| *c != conn);
    }

    /// The network changes.
    fn weather(net: &mut Net, rng: &mut Rng) {
        let conditions = Conditions {
            loss_ppm: [0, 0, 1_000, 30_000, 200_000][rng.below(5) as usize],
            duplicate_ppm: [0, 5_000][rng.below(2) as usize],
            reorder_ppm: [0, 20_000][rng.below(2) as usize],
            delay_ns: [50_000, 1_000_000, 40_000_000][rng.below(3) as usize],
            bits_per_second: 100_000_000,
            queue_bytes: 100_000,
            cut: rng.below(8) == 0,
        };
        net.set(|c| *c = conditions);
        for (own, mac) in [(0, PEER_MAC), (1, OUR_MAC)] {
            let known = (rng.below(6) > 0).then_some(mac);
            net.hosts[own]
                .control
                .publish(tables_of(own as u8, 1500, None, known));
        }
    }
}

fn resident_pages() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_day_leaves_nothing_behind() {
    let hours: u64 = std::env::var("LUNA_SOAK_HOURS").map_or(24, |h| h.parse().unwrap());
    let mut net = Net::new(Conditions::default(), 3);
    let mut rng = Rng(11);
    let mut day = Day::default();
    let at = SocketAddr::new(address(false, 1), 80);
    let objects = [0, 1].map(|n: usize| net.hosts[n].shard.objects_in_use());
    let listener = net.hosts[1]
        .shard
        .listen(at, false, 16, &config(&mut rng), 1)
        .unwrap();
    day.listener = Some(listener);
    let start = net.now;
    let end = start + Duration::from_secs(hours * 3600);
    let mut after_an_hour = 0;
    while net.now < end {
        let since = net.now.saturating_since(start).as_secs();
        if since.is_multiple_of(300) {
            Day::weather(&mut net, &mut rng);
        }
        if after_an_hour == 0 && since >= 3600 {
            after_an_hour = resident_pages();
        }
        // A burst of activity, then some quiet.
        for _ in 0..4 {
            day.step(&mut net, &mut rng);
            let until = net.now + Duration::from_millis(20);
            net.run(until, |_| true);
        }
        let quiet = Instant::from_nanos((net.now.as_nanos() / 1_000_000_000 + 4) * 1_000_000_000);
        net.run(quiet, |_| true);
        let held = [day.ours.len(), day.theirs.len()];
        for (host, held) in net.hosts.iter().zip(held) {
            let (connections, _) = host.shard.population();
            // Orphans end within minutes; there can't be many.
            assert!(
                connections <= held + 200,
                "{connections} connections, {held} held"
            );
        }
    }
    let grown = resident_pages().saturating_sub(after_an_hour.max(1)) * 4;
    // The evening: a good link, everybody goes home, and the last timers run out.
    net.set(|c| *c = Conditions::default());
    for own in 0..2 {
        let mac = if own == 0 { PEER_MAC } else { OUR_MAC };
        net.hosts[own]
            .control
            .publish(tables_of(own as u8, 1500, None, Some(mac)));
    }
    let now = net.now;
    for (side, list) in [(0, &day.ours), (1, &day.theirs)] {
        for conn in list {
            net.hosts[side].shard.close(now, *conn, Close::Graceful);
        }
    }
    net.hosts[1].shard.close_listener(now, listener);
    let evening = net.now + Duration::from_secs(7200);
    net.run(evening, |_| true);
    println!(
        "{hours} h: {} connections, {} bytes, {} frames, {grown} KiB more than after an hour",
        day.opened, day.bytes, net.frames
    );
    for (host, objects) in net.hosts.iter().zip(objects) {
        assert_eq!(
            host.shard.population(),
            (0, 0),
            "connections, TIME-WAIT records"
        );
        assert_eq!(
            host.shard.objects_in_use(),
            objects,
            "objects of packet memory"
        );
        assert_eq!(host.shard.next_deadline(), Instant::FAR_FUTURE, "timers");
    }
    assert!(day.opened > hours * 10, "only {} connections", day.opened);
    assert!(
        hours < 2 || grown < 8 * 1024,
        "{grown} KiB more than after the first hour"
    );
}
