//! One host on a wire whose other end the test holds: the real shard (ingress, listeners, flow
//! table, timers, egress, checksums) with frames in and out as bytes, on a virtual clock.
//!
//! The only file here that knows the shapes of the device layer.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that can't go on fails"
)]

pub(crate) mod frame;
pub(crate) mod lane;
pub(crate) mod net;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use luna::control::{ControlHandle, Neighbour, NeighbourState, Tables};
use luna::device::pair::{LocalEnd, PairConfig, local};
use luna::device::{Device, Pieces, RxFrame, TxFrame};
use luna::stack::{Shard, ShardParts, Wakeup};
use luna::time::{Duration, Instant};
use luna::wire::Mac;
use luna::zbuf::{Area, Pool, PoolConfig, Slice};

/// The host's interface, as its control plane counts.
const IFINDEX: u32 = 2;
/// What one turn's header part can hold.
const HEADER_BYTES: usize = 54;
/// More turns than this without rest are a stack that does not stop.
const TURNS_MAX: usize = 100_000;

/// The host's hardware address.
pub(crate) const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The test's.
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The address of the host (0) or of the test's end (1), and others on the same link.
pub(crate) fn address(v6: bool, n: u8) -> IpAddr {
    if v6 {
        IpAddr::from([0xfd00, 9, 0, 0, 0, 0, 0, u16::from(n) + 1])
    } else {
        IpAddr::from([10, 9, 0, n + 1])
    }
}

/// What the host's control plane knows: one link, and the test's end on it.
pub(crate) fn tables(mtu: u32, path_mtu: Option<u32>, peer: Option<[u8; 6]>) -> Tables {
    tables_of(0, mtu, path_mtu, peer)
}

/// The same for either end (0 or 1) of a link between two hosts.
pub(crate) fn tables_of(own: u8, mtu: u32, path_mtu: Option<u32>, peer: Option<[u8; 6]>) -> Tables {
    let mac = if own == 0 { OUR_MAC } else { PEER_MAC };
    let mut tables = Tables::builder()
        .ethernet(IFINDEX, "wire0", Mac(mac), mtu)
        .address(IFINDEX, address(false, own), 16)
        .address(IFINDEX, address(true, own), 64);
    for v6 in [false, true] {
        if let Some(mac) = peer {
            let known = Neighbour::Known(Mac(mac), NeighbourState::Reachable);
            tables = tables.neighbour(IFINDEX, address(v6, 1 - own), known);
        }
        if let Some(mtu) = path_mtu {
            let len = if v6 { 128 } else { 32 };
            tables = tables.route_mtu((address(v6, 1 - own), len), mtu);
        }
    }
    tables.build()
}

/// The host and its wire.
pub(crate) struct Host {
    pub(crate) shard: Shard,
    pub(crate) now: Instant,
    pub(crate) control: Arc<ControlHandle>,
    pub(crate) mtu: u32,
    peer: LocalEnd,
    pool: std::rc::Rc<std::cell::RefCell<Pool>>,
    wakeups: Vec<Wakeup>,
    received: Vec<RxFrame>,
    /// What the host sent, and when.
    pub(crate) sent: VecDeque<(Instant, Vec<u8>)>,
}

/// How the host is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// Which end of the link: 0, or 1 where two hosts face each other.
    pub(crate) own: u8,
    pub(crate) mtu: u32,
    pub(crate) zones: usize,
    pub(crate) secret: [u8; 32],
    pub(crate) start: Instant,
    /// Frames that the wire holds.
    pub(crate) ring_frames: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            own: 0,
            mtu: 1500,
            zones: 6,
            secret: [7; 32],
            start: Instant::from_nanos(10_000_000_000),
            ring_frames: 4096,
        }
    }
}

thread_local! {
    /// Memory is costly to make present, so hosts that live one after another share it.
    static AREA: std::cell::RefCell<Option<Arc<Area>>> = const { std::cell::RefCell::new(None) };
    static PEER: std::rc::Rc<std::cell::RefCell<Pool>> =
        std::rc::Rc::new(std::cell::RefCell::new(pool(4)));
}

/// Zones of an area that hosts share.
const AREA_ZONES: usize = 32;

fn pool(zones: usize) -> Pool {
    let config = PoolConfig {
        zones,
        ..PoolConfig::default()
    };
    AREA.with_borrow_mut(|area| {
        // A host that ended with data in its queues has kept its zones.
        if let Some(area) = area
            && let Ok(pool) = Pool::new(area, config)
        {
            return pool;
        }
        let fresh = Area::new(zones.max(AREA_ZONES) << 21).expect("memory");
        let pool = Pool::new(&fresh, config).expect("a pool");
        *area = Some(fresh);
        pool
    })
}

impl Host {
    pub(crate) fn new(setup: Setup) -> Self {
        let wire = PairConfig {
            frame_bytes_max: setup.mtu as usize + 14,
            ring_frames: setup.ring_frames,
            ..PairConfig::default()
        };
        let (ours, peer) = local(wire);
        let control = ControlHandle::from_static(tables_of(
            setup.own,
            setup.mtu,
            None,
            Some(if setup.own == 0 { PEER_MAC } else { OUR_MAC }),
        ));
        let shard = Shard::new(ShardParts {
            device: Box::new(ours),
            pool: pool(setup.zones),
            control: Arc::clone(&control),
            ifindex: IFINDEX,
            secret: setup.secret,
            discovery: None,
            partial_checksums: false,
            now: setup.start,
        });
        Self {
            shard,
            now: setup.start,
            control,
            mtu: setup.mtu,
            peer,
            pool: PEER.with(std::rc::Rc::clone),
            wakeups: Vec::new(),
            received: Vec::new(),
            sent: VecDeque::new(),
        }
    }

    /// Puts a frame on the wire. The host sees it at its next turn.
    pub(crate) fn put(&mut self, frame: &[u8]) {
        let pool = &mut self.pool.borrow_mut();
        let (header, mut rest) = frame.split_at(frame.len().min(HEADER_BYTES));
        let mut payload = Pieces::new();
        while !rest.is_empty() {
            let n = rest.len().min(2048);
            payload.push(pool.copy_in(&rest[..n]).expect("memory of the peer"));
            rest = &rest[n..];
        }
        let mut frames = VecDeque::from([TxFrame {
            header: header.iter().copied().collect(),
            payload,
            checksum_offload: false,
            segment_bytes: 0,
            alone: false,
        }]);
        let taken = self.peer.tx_burst(pool, &mut frames);
        assert_eq!(taken, 1, "the wire is full");
        self.peer.flush(pool);
    }

    /// One turn of the host.
    pub(crate) fn turn(&mut self) -> bool {
        let idle = self.shard.turn(self.now).is_idle();
        self.shard.take_wakeups(&mut self.wakeups);
        self.collect();
        idle
    }

    pub(crate) fn collect(&mut self) {
        let pool = &mut self.pool.borrow_mut();
        while self.peer.rx_burst(pool, &mut self.received, 64) > 0 {}
        for frame in self.received.drain(..) {
            let bytes: Vec<u8> = frame
                .pieces
                .iter()
                .flat_map(|piece: &Slice| piece.as_bytes().iter().copied())
                .collect();
            self.sent.push_back((self.now, bytes));
        }
    }

    /// Turns the host until it has nothing to do, without letting time pass.
    pub(crate) fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.turn() {
                return;
            }
        }
        panic!("the host does not come to rest at {:?}", self.now);
    }

    /// Lets time pass until `until`, turning the host at each of its deadlines; stops early
    /// when it has sent something, if `stop` says so.
    pub(crate) fn advance(&mut self, until: Instant, stop: bool) {
        self.settle();
        while !stop || self.sent.is_empty() {
            let at = self.shard.next_deadline();
            if at > until {
                self.now = self.now.max(until);
                return;
            }
            self.now = at.max(self.now + Duration::from_micros(1)).min(until);
            self.settle();
            if self.now >= until {
                return;
            }
        }
    }

    /// Lets `span` pass.
    pub(crate) fn run_for(&mut self, span: Duration) {
        let until = self.now + span;
        self.advance(until, false);
        self.settle();
    }

    /// Gives a frame to the host at once and lets it answer.
    pub(crate) fn give(&mut self, frame: &[u8]) {
        self.put(frame);
        self.settle();
    }

    /// What readiness the host has announced since the last time.
    pub(crate) fn take_wakeups(&mut self) -> Vec<Wakeup> {
        std::mem::take(&mut self.wakeups)
    }
}
