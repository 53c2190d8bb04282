//! Two hosts with a bad link between them, on one virtual clock.

use luna::time::{Duration, Instant};

use super::lane::{Conditions, Lane};
use super::{Host, Setup};

/// The two and what is between them.
pub(crate) struct Net {
    pub(crate) hosts: [Host; 2],
    /// From host 0 to 1, and back.
    pub(crate) lanes: [Lane; 2],
    pub(crate) now: Instant,
    pub(crate) frames: u64,
}

impl Net {
    pub(crate) fn new(conditions: Conditions, seed: u64) -> Self {
        let start = Instant::from_nanos(10_000_000_000);
        let host = |own: u8| {
            Host::new(Setup {
                own,
                zones: 8,
                secret: [own.wrapping_add(seed as u8); 32],
                start,
                ..Setup::default()
            })
        };
        Self {
            hosts: [host(0), host(1)],
            lanes: [
                Lane::new(conditions, seed),
                Lane::new(conditions, seed ^ 0xabcd),
            ],
            now: start,
            frames: 0,
        }
    }

    /// Ends connections at once, so that the memory of this run can serve the next.
    pub(crate) fn finish(mut self, conns: [luna::stack::ConnId; 2]) {
        for (host, conn) in self.hosts.iter_mut().zip(conns) {
            host.shard.close(self.now, conn, luna::stack::Close::Abort);
        }
        self.lanes.iter_mut().for_each(Lane::clear);
        self.pump();
        self.lanes.iter_mut().for_each(Lane::clear);
    }

    pub(crate) fn set(&mut self, change: impl Fn(&mut Conditions)) {
        for lane in &mut self.lanes {
            change(&mut lane.conditions);
        }
    }

    /// Moves what the hosts have sent into the link.
    fn pump(&mut self) {
        for (host, lane) in self.hosts.iter_mut().zip(&mut self.lanes) {
            host.now = self.now;
            host.settle();
            while let Some((_, frame)) = host.sent.pop_front() {
                self.frames += 1;
                lane.put(self.now.as_nanos(), frame);
            }
        }
    }

    fn next_at(&self) -> Instant {
        let lanes = self
            .lanes
            .iter()
            .filter_map(Lane::next_at)
            .map(Instant::from_nanos);
        let hosts = self.hosts.iter().map(|h| h.shard.next_deadline());
        lanes.chain(hosts).min().unwrap_or(Instant::FAR_FUTURE)
    }

    /// Lets time pass until `until`; `app` runs whenever something has happened, and says whether
    /// to go on.
    pub(crate) fn run(&mut self, until: Instant, mut app: impl FnMut(&mut Self) -> bool) {
        self.pump();
        loop {
            if !app(self) {
                return;
            }
            self.pump();
            let next = self.next_at();
            if next > until {
                self.now = until;
                self.pump();
                return;
            }
            self.now = next.max(self.now + Duration::from_nanos(1000)).min(until);
            for to in 0..2 {
                while let Some(frame) = self.lanes[1 - to].take(self.now.as_nanos()) {
                    self.hosts[to].now = self.now;
                    self.hosts[to].put(&frame);
                }
            }
            self.pump();
            if self.now >= until {
                return;
            }
        }
    }
}
