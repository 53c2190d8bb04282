//! From a packet's addresses and ports to the connection it belongs to.
#![forbid(unsafe_code)]

use core::hash::{BuildHasher, Hash, Hasher};
use core::net::{IpAddr, SocketAddr};

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

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

/// The table. The hash is keyed per process, so that a peer cannot choose colliding ports.
#[derive(Debug)]
pub(super) struct FlowTable {
    table: HashTable<(FlowKey, Flow)>,
    hasher: FixedState,
}

impl FlowTable {
    /// An empty table with room for `capacity` flows before it has to grow.
    pub(super) fn new(key: u64, capacity: usize) -> Self {
        Self {
            table: HashTable::with_capacity(capacity),
            hasher: FixedState::with_seed(key),
        }
    }

    /// The flow of this name.
    #[inline]
    pub(super) fn get(&self, key: &FlowKey) -> Option<Flow> {
        let hash = self.hasher.hash_one(key);
        self.table
            .find(hash, |(k, _)| k == key)
            .map(|(_, flow)| *flow)
    }

    /// Gives a name to a flow, in place of what had it before.
    pub(super) fn insert(&mut self, key: FlowKey, flow: Flow) {
        let hash = self.hasher.hash_one(key);
        match self
            .table
            .entry(hash, |(k, _)| *k == key, |(k, _)| self.hasher.hash_one(k))
        {
            Entry::Occupied(mut e) => e.get_mut().1 = flow,
            Entry::Vacant(e) => {
                e.insert((key, flow));
            }
        }
    }

    /// Forgets a name if it still stands for `flow`.
    pub(super) fn remove(&mut self, key: &FlowKey, flow: Flow) {
        let hash = self.hasher.hash_one(key);
        if let Ok(entry) = self.table.find_entry(hash, |(k, f)| k == key && *f == flow) {
            entry.remove();
        }
    }

    /// How many flows there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
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
        t.insert(v4, Flow::Connection(1));
        t.insert(v6, Flow::Connection(2));
        assert_eq!(t.get(&v4), Some(Flow::Connection(1)));
        t.insert(v4, Flow::TimeWait(7));
        t.remove(&v4, Flow::Connection(1));
        assert_eq!(t.get(&v4), Some(Flow::TimeWait(7)));
        t.remove(&v4, Flow::TimeWait(7));
        assert_eq!(t.get(&v4), None);
        assert_eq!(t.len(), 1);
    }
}
