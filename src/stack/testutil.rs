//! Two shards on a wire in memory: for unit tests, benches and the instruction count.
#![forbid(unsafe_code)]

use core::net::{IpAddr, SocketAddr};

use super::{Dispatch, Shard, ShardParts, Wakeup};
use crate::control::{ControlHandle, Neighbour, NeighbourState, Tables};
use crate::device::Device;
use crate::device::pair::{PairConfig, local};
use crate::time::{Duration, Instant};
use crate::wire::Mac;
use crate::zbuf::{Area, Pool, PoolConfig};

const IFINDEX: u32 = 2;

/// The address of end `n` (0 or 1).
pub fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, n + 1])
}

/// The IPv6 address of end `n` (0 or 1).
pub fn address_v6(n: u8) -> IpAddr {
    IpAddr::from([0xfd00, 9, 0, 0, 0, 0, 0, u16::from(n) + 1])
}

fn tables(own: u8, mtu: u32) -> Tables {
    let peer = 1 - own;
    let mac = |n: u8| Mac([2, 0, 0, 0, 0, n + 1]);
    let known = Neighbour::Known(mac(peer), NeighbourState::Reachable);
    Tables::builder()
        .ethernet(IFINDEX, "pair0", mac(own), mtu)
        .address(IFINDEX, address(own), 24)
        .address(IFINDEX, address_v6(own), 64)
        .neighbour(IFINDEX, address(peer), known)
        .neighbour(IFINDEX, address_v6(peer), known)
        .build()
}

/// A shard at end `own` of a link of this MTU, with a memory of `zones` × 2 MiB.
pub fn shard(own: u8, mtu: u32, zones: usize, device: Box<dyn Device>) -> Shard {
    let area = Area::new(zones << 21).expect("memory");
    let config = PoolConfig {
        zones,
        ..PoolConfig::default()
    };
    Shard::new(ShardParts {
        device,
        pool: Pool::new(&area, config).expect("pool"),
        control: ControlHandle::from_static(tables(own, mtu)),
        ifindex: IFINDEX,
        secret: [own + 1; 32],
        discovery: None,
        partial_checksums: false,
        now: Instant::ZERO,
    })
}

/// A pool of its own.
#[cfg(test)]
pub(crate) fn pool() -> Pool {
    let area = Area::new(1 << 21).expect("memory");
    let config = PoolConfig {
        zones: 1,
        ..PoolConfig::default()
    };
    Pool::new(&area, config).expect("pool")
}

/// Two shards and their clock.
#[derive(Debug)]
pub struct Two {
    /// The ends.
    pub ends: [Shard; 2],
    /// The present of both.
    pub now: Instant,
    /// What each has reported.
    pub wakeups: [Vec<Wakeup>; 2],
}

impl Two {
    /// Joined by a wire of this MTU.
    pub fn new(mtu: u32) -> Self {
        Self::joined_by(PairConfig {
            frame_bytes_max: mtu as usize + 14,
            ..PairConfig::default()
        })
    }

    /// Joined by this wire.
    pub fn joined_by(wire: PairConfig) -> Self {
        let mtu = wire.frame_bytes_max as u32 - 14;
        let (a, b) = local(wire);
        let ends = [
            shard(0, mtu, 16, Box::new(a)),
            shard(1, mtu, 16, Box::new(b)),
        ];
        Self {
            ends,
            now: Instant::ZERO,
            wakeups: [Vec::new(), Vec::new()],
        }
    }

    /// Where end `n` is, at `port`.
    pub fn at(n: u8, port: u16) -> SocketAddr {
        SocketAddr::new(address(n), port)
    }

    /// Turns end `n` once.
    pub fn turn(&mut self, n: usize) {
        if let (Some(end), Some(wakeups)) = (self.ends.get_mut(n), self.wakeups.get_mut(n)) {
            end.turn(self.now);
            end.take_wakeups(wakeups);
        }
    }

    /// Turns end `n` once, calling an application.
    pub fn turn_with<D: Dispatch>(&mut self, n: usize, dispatch: &mut D) {
        if let (Some(end), Some(wakeups)) = (self.ends.get_mut(n), self.wakeups.get_mut(n)) {
            end.turn_with(self.now, dispatch);
            end.take_wakeups(wakeups);
        }
    }

    /// As [`Two::settle`], where end 0 has an inline application.
    pub fn settle_with<D: Dispatch>(&mut self, dispatch: &mut D) {
        for _ in 0..10_000 {
            let [a, b] = &mut self.ends;
            let mut idle = a.turn_with(self.now, dispatch).is_idle();
            idle &= b.turn(self.now).is_idle() && !a.has_inline_work();
            for (end, wakeups) in self.ends.iter_mut().zip(&mut self.wakeups) {
                end.take_wakeups(wakeups);
            }
            if idle {
                return;
            }
        }
        panic!("two shards talk for ever");
    }

    /// Turns both ends in turn until neither does anything, without letting time pass.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut idle = true;
            for (end, wakeups) in self.ends.iter_mut().zip(&mut self.wakeups) {
                idle &= end.turn(self.now).is_idle();
                end.take_wakeups(wakeups);
            }
            if idle {
                return;
            }
        }
        panic!("two shards talk for ever");
    }

    /// Lets time pass, turning both ends at each of their deadlines.
    pub fn run_for(&mut self, span: Duration) {
        let until = self.now + span;
        self.settle();
        loop {
            let next = self.ends.iter().map(Shard::next_deadline).min();
            match next {
                Some(at) if at <= until => self.now = at.max(self.now + Duration::from_micros(1)),
                _ => break,
            }
            self.settle();
        }
        self.now = until;
        self.settle();
    }
}
