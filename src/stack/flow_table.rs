//! From a packet's addresses and ports to the connection it belongs to.
#![forbid(unsafe_code)]

use core::hash::{BuildHasher, Hash, Hasher};
use core::net::{IpAddr, SocketAddr};

use foldhash::fast::FixedState;

use crate::limits::{CONNECTIONS_PER_SHARD, TIME_WAIT_MAX};
use crate::sys;

/// A connection's name: both ends. IPv4 addresses are held mapped, so that one table serves both
/// families and comparing is four words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct FlowKey {
    local: u128,
    remote: u128,
    ports: u32,
}

fn to_bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => 0xffff_0000_0000 | u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

impl FlowKey {
    /// The name of the connection between our end and theirs.
    pub(super) fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            local: to_bits(local.ip()),
            remote: to_bits(remote.ip()),
            ports: (u32::from(local.port()) << 16) | u32::from(remote.port()),
        }
    }
}

impl Hash for FlowKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (local, remote) = (self.local as u64, self.remote as u64);
        // All of an IPv4 key is in two words: what the mapping adds is the same in each.
        state.write_u64((local << 32) | u64::from(self.ports));
        state.write_u64(remote);
        let high = ((self.local >> 64) as u64, (self.remote >> 64) as u64);
        if high != (0, 0) {
            state.write_u64(local ^ high.0.rotate_left(32));
            state.write_u64(high.1);
        }
    }
}

impl core::fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{:x}:{} {:x}:{}",
            self.local,
            self.ports >> 16,
            self.remote,
            self.ports & 0xffff
        )
    }
}

/// What a flow is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// A connection: its index in the slab.
    Connection(u32),
    /// A record in TIME-WAIT: its index in that slab.
    TimeWait(u32),
}

impl Flow {
    const TIME_WAIT: u32 = 1 << 31;

    const fn pack(self) -> u32 {
        match self {
            Self::Connection(index) => index,
            Self::TimeWait(index) => index | Self::TIME_WAIT,
        }
    }

    const fn unpack(bits: u32) -> Self {
        match bits & Self::TIME_WAIT {
            0 => Self::Connection(bits),
            _ => Self::TimeWait(bits & !Self::TIME_WAIT),
        }
    }
}

const _: () = assert!(CONNECTIONS_PER_SHARD < 1 << 31 && TIME_WAIT_MAX < 1 << 31);

/// A word of the table: the hash, and below it the flow's number and one.
const fn word(hash: u32, flow: Flow) -> u64 {
    (hash as u64) << 32 | (flow.pack() + 1) as u64
}

const fn flow_of(word: u64) -> Flow {
    Flow::unpack((word as u32).wrapping_sub(1))
}

/// Nothing, and nothing that belongs here is further on.
const FREE: u64 = 0;
/// Nothing any more; what belongs here may be further on.
const GONE: u64 = u32::MAX as u64;
/// Words of a cache line.
const LINE: usize = 8;

/// A hash whose line is on its way from memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sought(u32);

/// The table: lines of eight words each, a name in the first line with room from its own on.
///
/// A word does not hold the name: that is where the flow's state is. So a lookup takes one cache
/// line, whose address follows from the hash alone and can be fetched ahead; two names may have the
/// same hash, and whoever asks is asked back whether a flow is the one. The hash is keyed per
/// process, so that a peer cannot choose colliding ports.
#[derive(Debug)]
pub(super) struct FlowTable {
    words: Vec<u64>,
    /// Where the first line begins, on a boundary of cache lines.
    skew: usize,
    /// The number of lines, a power of two, less one.
    mask: u32,
    live: usize,
    /// Words that are not [`FREE`].
    used: usize,
    hasher: FixedState,
}

impl FlowTable {
    /// An empty table with room for `capacity` flows before it has to grow.
    pub(super) fn new(key: u64, capacity: usize) -> Self {
        let mut table = Self {
            words: Vec::new(),
            skew: 0,
            mask: 0,
            live: 0,
            used: 0,
            hasher: FixedState::with_seed(key),
        };
        table.resize(capacity);
        table
    }

    /// Begins anew with room for `flows`: of eight words five, so that nearly all are found in
    /// their own line.
    fn resize(&mut self, flows: usize) {
        let lines = (flows.div_ceil(5)).next_power_of_two();
        let mut words = Vec::with_capacity((lines + 1) * LINE);
        sys::advise_huge(words.spare_capacity_mut());
        words.resize((lines + 1) * LINE, FREE);
        self.skew = words.as_ptr().align_offset(LINE * size_of::<u64>()) % LINE;
        self.words = words;
        self.mask = (lines - 1) as u32;
        (self.live, self.used) = (0, 0);
    }

    fn is_full(&self) -> bool {
        self.used * 8 >= (self.mask as usize + 1) * LINE * 5
    }

    #[inline]
    fn hash(&self, key: &FlowKey) -> u32 {
        (self.hasher.hash_one(key) >> 32) as u32
    }

    #[inline]
    fn line(&self, at: u32) -> Option<&[u64; LINE]> {
        let first = self.skew + at as usize * LINE;
        self.words.get(first..)?.first_chunk()
    }

    #[inline]
    fn line_mut(&mut self, at: u32) -> Option<&mut [u64; LINE]> {
        let first = self.skew + at as usize * LINE;
        self.words.get_mut(first..)?.first_chunk_mut()
    }

    /// Begins to fetch what [`candidate`](Self::candidate) will look at.
    #[inline]
    pub(super) fn seek(&self, key: &FlowKey) -> Sought {
        let hash = self.hash(key);
        if let Some(line) = self.line(hash & self.mask) {
            sys::prefetch(line);
        }
        Sought(hash)
    }

    /// A flow that may be the one sought: what is not in its own line is not found.
    #[inline]
    pub(super) fn candidate(&self, Sought(hash): Sought) -> Option<Flow> {
        let line = self.line(hash & self.mask)?;
        let word = line.iter().find(|word| is_of(**word, hash))?;
        Some(flow_of(*word))
    }

    /// The flow of this name; `is` says whether it is one's.
    #[inline]
    pub(super) fn get(&self, key: &FlowKey, is: impl Fn(Flow) -> bool) -> Option<Flow> {
        let hash = self.hash(key);
        let mut at = hash & self.mask;
        for _ in 0..=self.mask {
            let line = self.line(at)?;
            for word in line {
                if is_of(*word, hash) && is(flow_of(*word)) {
                    return Some(flow_of(*word));
                }
            }
            if line.contains(&FREE) {
                return None;
            }
            at = (at + 1) & self.mask;
        }
        None
    }

    /// Gives a name to a flow. Nothing else may have it.
    pub(super) fn insert(&mut self, key: &FlowKey, flow: Flow) {
        if self.is_full() {
            self.rebuild();
        }
        let hash = self.hash(key);
        self.put(word(hash, flow));
    }

    fn put(&mut self, word: u64) {
        let mut at = (word >> 32) as u32 & self.mask;
        // There is room: it is not full.
        for _ in 0..=self.mask {
            let line = self.line_mut(at);
            let place = line.and_then(|l| l.iter_mut().find(|w| matches!(**w, FREE | GONE)));
            if let Some(place) = place {
                let fresh = *place == FREE;
                *place = word;
                self.live += 1;
                self.used += usize::from(fresh);
                return;
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Makes room: twice as much, unless much of it was taken by what is gone.
    #[cold]
    fn rebuild(&mut self) {
        let old = core::mem::take(&mut self.words);
        self.resize((self.live + 1) * 2);
        let taken = old.into_iter().filter(|w| !matches!(*w, FREE | GONE));
        taken.for_each(|word| self.put(word));
    }

    /// Forgets a name if it still stands for `flow`.
    pub(super) fn remove(&mut self, key: &FlowKey, flow: Flow) {
        let hash = self.hash(key);
        let old = word(hash, flow);
        let mut at = hash & self.mask;
        for _ in 0..=self.mask {
            let Some(line) = self.line_mut(at) else {
                return;
            };
            let last = line.contains(&FREE);
            if let Some(place) = line.iter_mut().find(|w| **w == old) {
                // Only out of a line that was never full nothing can have been put further on.
                *place = if last { FREE } else { GONE };
                self.live -= 1;
                self.used -= usize::from(last);
                return;
            }
            if last {
                return;
            }
            at = (at + 1) & self.mask;
        }
    }

    /// How many flows there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.live
    }
}

#[inline]
fn is_of(word: u64, hash: u32) -> bool {
    (word >> 32) as u32 == hash && !matches!(word, FREE | GONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_do_not_collide_and_removal_is_exact() {
        let mut t = FlowTable::new(1, 8);
        let v4 = FlowKey::new(
            "10.0.0.1:80".parse().unwrap(),
            "10.0.0.2:4000".parse().unwrap(),
        );
        let v6 = FlowKey::new("[::1]:80".parse().unwrap(), "[::2]:4000".parse().unwrap());
        let is = |flow| move |other: Flow| other == flow;
        let (one, two, later) = (Flow::Connection(1), Flow::Connection(2), Flow::TimeWait(7));
        t.insert(&v4, one);
        t.insert(&v6, two);
        assert_eq!(t.get(&v4, is(one)), Some(one));
        t.insert(&v4, later);
        t.remove(&v4, one);
        assert_eq!(t.get(&v4, is(later)), Some(later));
        assert_eq!(
            t.get(&v4, is(one)),
            None,
            "of the same hash, and yet another"
        );
        t.remove(&v4, later);
        assert_eq!(t.get(&v4, |_| true), None);
        assert_eq!(t.len(), 1);
    }

    fn key(n: u32) -> FlowKey {
        let local = SocketAddr::from(([10, 0, 0, 1], 80));
        let remote = ([10, 1, (n >> 8) as u8, n as u8], 4000);
        FlowKey::new(local, remote.into())
    }

    proptest::proptest! {
        /// With hashes of which many are alike, so that lines run over.
        #[test]
        fn finds_what_a_map_finds(
            steps in proptest::collection::vec((0..400_u32, proptest::bool::ANY), 0..3000),
            capacity in 1..300_usize,
        ) {
            let mut table = FlowTable::new(7, capacity);
            let mut model = std::collections::BTreeMap::new();
            for (at, (n, put)) in steps.into_iter().enumerate() {
                let known = model.get(&n).copied();
                let is = |flow| Some(flow) == known;
                proptest::prop_assert_eq!(table.get(&key(n), is), known);
                match known {
                    None if put => {
                        let flow = Flow::Connection(at as u32);
                        table.insert(&key(n), flow);
                        model.insert(n, flow);
                    }
                    Some(flow) if !put => {
                        table.remove(&key(n), flow);
                        model.remove(&n);
                    }
                    _ => table.remove(&key(n), Flow::TimeWait(0)),
                }
                proptest::prop_assert_eq!(table.len(), model.len());
            }
            for n in 0..400 {
                let known = model.get(&n).copied();
                proptest::prop_assert_eq!(table.get(&key(n), |f| Some(f) == known), known);
            }
            // Nothing is where it is not looked for.
            let words = table.words.iter().filter(|w| !matches!(**w, FREE | GONE));
            proptest::prop_assert_eq!(words.count(), model.len());
        }
    }
}
