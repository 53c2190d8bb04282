//! What shards hold of the control plane: the current tables and a way to ask the kernel.
#![forbid(unsafe_code)]

use core::net::IpAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

use super::asker::{Asker, Question};
use super::notices::Notices;
use super::tables::{Neighbour, NeighbourEntry, Tables};
use crate::limits;
use crate::time::{Duration, Instant};

/// The kernel sends its solicitations one second apart (`retrans_time_ms`): asking more often
/// changes nothing.
pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(1);

/// An entry stays reachable for at least half of `base_reachable_time_ms`, 15 s by default;
/// confirming more often than that keeps it from ever going stale.
pub const CONFIRM_INTERVAL: Duration = Duration::from_secs(10);

/// Shared by the thread that owns the mirror and all shards.
#[derive(Debug)]
pub struct ControlHandle {
    generation: AtomicU64,
    tables: Mutex<Arc<Tables>>,
    /// None if the tables were filled by hand.
    asker: Option<Mutex<Asker>>,
    resolve: Mutex<Pacer>,
    confirm: Mutex<Pacer>,
    probe: Mutex<Pacer>,
    notices: Notices,
}

impl ControlHandle {
    /// A handle on tables that only [`ControlHandle::publish`] changes: for links that have no
    /// kernel twin, and for tests.
    pub fn from_static(tables: Tables) -> Arc<Self> {
        Arc::new(Self::new(tables, None))
    }

    pub(super) fn new(tables: Tables, asker: Option<Asker>) -> Self {
        Self {
            generation: AtomicU64::new(1),
            tables: Mutex::new(Arc::new(tables)),
            asker: asker.map(Mutex::new),
            resolve: Mutex::new(Pacer::new(RESOLVE_INTERVAL)),
            confirm: Mutex::new(Pacer::new(CONFIRM_INTERVAL)),
            probe: Mutex::new(Pacer::new(RESOLVE_INTERVAL)),
            notices: Notices::default(),
        }
    }

    /// What routers have said.
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    /// Grows whenever the tables change; never zero. Whoever sees a new value calls
    /// [`ControlHandle::tables`].
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The current tables.
    pub fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other tables in the place of the current ones.
    pub fn publish(&self, tables: Tables) {
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(tables);
        // After the tables: who sees the new number finds tables at least as new.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Enters or removes a neighbour in the current tables.
    pub(super) fn set_neighbour(&self, ifindex: u32, ip: IpAddr, neighbour: Option<Neighbour>) {
        let mut current = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tables = Tables::clone(&current);
        let neighbours = Arc::make_mut(&mut tables.neighbours);
        match neighbour {
            Some(neighbour) => neighbours.insert((ifindex, ip), NeighbourEntry(neighbour)),
            None => neighbours.remove(&(ifindex, ip)),
        };
        *current = Arc::new(tables);
        drop(current);
        // As in `publish`.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Asks the kernel to find out (again) a neighbour's address: when it is unknown and when it
    /// has failed. The answer arrives as a new generation. Returns whether it was asked: not if
    /// that was less than [`RESOLVE_INTERVAL`] ago, nor for an entry that the administrator fixed.
    pub fn request_resolve(&self, now: Instant, ifindex: u32, ip: IpAddr) -> bool {
        // NTF_USE on a permanent entry would make the kernel forget that it is permanent.
        let fixed = match self.tables().neighbour(ifindex, ip) {
            Neighbour::Known(_, state) => state.is_fixed(),
            _ => false,
        };
        !fixed && self.paced(&self.resolve, now, Question::Resolve, (ifindex, ip))
    }

    /// A neighbour that was asked for is known: if it is lost again, it may be asked for at once.
    pub fn note_resolved(&self, ifindex: u32, ip: IpAddr) {
        let mut pacer = self.resolve.lock().unwrap_or_else(PoisonError::into_inner);
        pacer.last.remove(&(ifindex, ip));
    }

    /// Tells the kernel that a neighbour answers: when our data through it is acknowledged. Takes
    /// a lock, so not for every segment: once per connection and [`CONFIRM_INTERVAL`] is enough.
    /// Returns whether it was told: not if that was less than [`CONFIRM_INTERVAL`] ago, nor for an
    /// entry that is not known or that the administrator fixed.
    pub fn request_confirm(&self, now: Instant, ifindex: u32, ip: IpAddr) -> bool {
        let ages = match self.tables().neighbour(ifindex, ip) {
            Neighbour::Known(_, state) => !state.is_fixed(),
            _ => false,
        };
        ages && self.paced(&self.confirm, now, Question::Confirm, (ifindex, ip))
    }

    /// Doubts a neighbour: what was sent there goes unanswered. The kernel asks it three times, a
    /// second apart, and then everybody; what it finds arrives as a new generation. Returns whether
    /// it was asked: not if that was less than [`RESOLVE_INTERVAL`] ago, nor for an entry that is
    /// not known or that the administrator fixed.
    pub fn request_probe(&self, now: Instant, ifindex: u32, ip: IpAddr) -> bool {
        let ages = match self.tables().neighbour(ifindex, ip) {
            Neighbour::Known(_, state) => !state.is_fixed(),
            _ => false,
        };
        ages && self.paced(&self.probe, now, Question::Probe, (ifindex, ip))
    }

    fn paced(
        &self,
        pacer: &Mutex<Pacer>,
        now: Instant,
        question: Question,
        neighbour: (u32, IpAddr),
    ) -> bool {
        let Some(asker) = &self.asker else {
            return false;
        };
        let mut pacer = pacer.lock().unwrap_or_else(PoisonError::into_inner);
        if !pacer.admit(now, neighbour) {
            return false;
        }
        drop(pacer);
        let mut asker = asker.lock().unwrap_or_else(PoisonError::into_inner);
        // A refusal is as good as a lost solicitation: we shall ask again.
        asker.ask(question, neighbour.0, neighbour.1)
    }

    /// What the kernel knows of the MTU in bytes of the path to `dst`.
    pub(super) fn path_mtu(&self, dst: IpAddr) -> Option<u32> {
        let asker = self.asker.as_ref()?;
        let mut asker = asker.lock().unwrap_or_else(PoisonError::into_inner);
        asker.path_mtu(dst)
    }

    /// The descriptors that it asks by.
    pub(super) fn fds(&self) -> Vec<RawFd> {
        let asker = self.asker.as_ref();
        asker.map_or_else(Vec::new, |asker| {
            let asker = asker.lock().unwrap_or_else(PoisonError::into_inner);
            asker.fds().collect()
        })
    }
}

/// Admits each key once per interval, with bounded memory.
#[derive(Debug)]
struct Pacer {
    interval: Duration,
    last: HashMap<(u32, IpAddr), Instant>,
    /// When a full table may be searched for what has expired: looking at each request would
    /// make a full table a slow one.
    next_sweep: Instant,
}

impl Pacer {
    fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: HashMap::new(),
            next_sweep: Instant::ZERO,
        }
    }

    fn admit(&mut self, now: Instant, key: (u32, IpAddr)) -> bool {
        if let Some(last) = self.last.get(&key)
            && now.saturating_since(*last) < self.interval
        {
            return false;
        }
        if self.last.len() >= limits::NEIGHBOURS_MAX {
            if now < self.next_sweep {
                return false;
            }
            let interval = self.interval;
            self.next_sweep = now + interval;
            self.last
                .retain(|_, last| now.saturating_since(*last) < interval);
            if self.last.len() >= limits::NEIGHBOURS_MAX {
                return false;
            }
        }
        self.last.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Mac;

    #[test]
    fn pacer_admits_once_per_interval_and_stays_bounded() {
        let mut pacer = Pacer::new(Duration::from_secs(1));
        let key = |i: u32| (1, IpAddr::from(i.to_be_bytes()));
        let t = Instant::from_nanos;
        assert!(pacer.admit(t(0), key(0)));
        assert!(!pacer.admit(t(999_999_999), key(0)));
        assert!(pacer.admit(t(1_000_000_000), key(0)));
        for i in 0..2 * limits::NEIGHBOURS_MAX as u32 {
            let _ = pacer.admit(t(1_000_000_000), key(i));
        }
        assert_eq!(pacer.last.len(), limits::NEIGHBOURS_MAX);
        assert!(pacer.admit(t(2_000_000_000), key(u32::MAX)));
        assert_eq!(pacer.last.len(), 1);
    }

    #[test]
    fn publishing_changes_the_generation_and_the_tables() {
        let handle = ControlHandle::from_static(Tables::default());
        let before = handle.generation();
        handle.publish(
            Tables::builder()
                .ethernet(3, "e", Mac([0; 6]), 1500)
                .build(),
        );
        assert_ne!(handle.generation(), before);
        assert!(handle.tables().link(3).is_some());
        assert!(!handle.request_resolve(Instant::ZERO, 3, [10, 0, 0, 1].into()));
    }
}
