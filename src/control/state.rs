//! The working copy: applies decoded messages to [`Tables`] and decides what must be asked again.
//!
//! Pure: no socket, no clock. A dump is applied over what is there ("mark and sweep"): what the
//! dump, or a notification during it, did not mention is dropped at its end, so that look-ups
//! never see an empty table in between.
#![forbid(unsafe_code)]

use core::net::IpAddr;
use std::collections::HashSet;
use std::sync::Arc;

use super::message::{DumpKind, Update};
use super::tables::{Address, Link, Neighbour, NeighbourEntry, RouteEntry, RouteKey, Tables};
use crate::limits;

/// A set of [`DumpKind`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DumpSet(u8);

impl DumpSet {
    pub(super) const ALL: Self = Self(0b1_1111);

    pub(super) fn add(&mut self, kind: DumpKind) {
        self.0 |= 1 << kind as u8;
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Takes out the first, in the order of [`DumpKind::ALL`].
    pub(super) fn take_first(&mut self) -> Option<DumpKind> {
        let kind = DumpKind::ALL
            .into_iter()
            .find(|k| self.0 & (1 << *k as u8) != 0)?;
        self.0 &= !(1 << kind as u8);
        Some(kind)
    }
}

/// What identifies an entry of any table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Link(u32),
    Address(u32, IpAddr, u8),
    Route(RouteKey),
    Neighbour(u32, IpAddr),
}

/// A dump under way.
#[derive(Debug)]
struct Dump {
    kind: DumpKind,
    /// What was mentioned since it began.
    seen: HashSet<Key>,
    /// A policy rule was.
    rule_seen: bool,
}

/// Numbers that only grow, for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MirrorStats {
    /// Messages that could not be understood.
    pub malformed: u64,
    /// Entries not kept because a table was full.
    pub dropped: u64,
    /// Dumps of one table that ran to their end.
    pub dumps: u64,
    /// Times that the kernel told us that it had to drop notifications.
    pub overruns: u64,
    /// Requests that the kernel refused.
    pub refused: u64,
}

/// The working copy.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) tables: Tables,
    pub(super) stats: MirrorStats,
    /// Tables to be dumped again.
    pub(super) wanted: DumpSet,
    /// The tables differ from the last published ones in a way that matters.
    dirty: bool,
    /// Two routes had the same key: when one goes, only the kernel knows which one is left.
    shadowed_routes: bool,
    dump: Option<Dump>,
}

impl State {
    pub(super) fn begin_dump(&mut self, kind: DumpKind) {
        if kind == DumpKind::Routes {
            self.shadowed_routes = false;
        }
        self.dump = Some(Dump {
            kind,
            seen: HashSet::new(),
            rule_seen: false,
        });
    }

    /// Ends the running dump; what it did not mention is dropped if it was `complete`.
    pub(super) fn end_dump(&mut self, complete: bool) {
        let Some(dump) = self.dump.take() else { return };
        if !complete {
            return;
        }
        self.stats.dumps += 1;
        match dump.kind {
            DumpKind::Links => self.sweep_links(&dump.seen),
            DumpKind::Addresses => self.sweep_addresses(&dump.seen),
            DumpKind::Routes => self.sweep_routes(&dump.seen),
            DumpKind::Neighbours => self.sweep_neighbours(&dump.seen),
            DumpKind::Rules => self.set_policy_rules(dump.rule_seen),
        }
    }

    /// Whether there is something to publish; asking resets it.
    pub(super) fn take_dirty(&mut self) -> bool {
        core::mem::take(&mut self.dirty)
    }

    /// Applies one message. `in_dump`: it is an answer to the running dump's request.
    pub(super) fn apply(&mut self, update: Update, in_dump: bool) {
        match update {
            Update::Link(link) => self.put_link(link),
            Update::LinkGone(index) => self.remove_link(index),
            Update::Address(address) => self.put_address(address),
            Update::AddressGone(address) => self.remove_address(&address),
            Update::Route(key, entry, replaces) => {
                self.put_route(key, entry, replaces, in_dump);
            }
            Update::RouteGone(key, entry) => self.remove_route(key, &entry),
            Update::Neighbour(key, entry) => self.put_neighbour(key, entry),
            Update::NeighbourGone(key) => self.remove_neighbour(key),
            Update::Rule => {
                if let Some(dump) = &mut self.dump {
                    dump.rule_seen = true;
                }
                self.set_policy_rules(true);
            }
            Update::RuleGone => self.wanted.add(DumpKind::Rules),
            Update::Malformed => self.stats.malformed += 1,
            Update::Done(_) | Update::Ignored => {}
        }
    }

    fn mark(&mut self, key: Key) {
        if let Some(dump) = &mut self.dump {
            dump.seen.insert(key);
        }
    }

    fn full(&mut self) {
        self.stats.dropped += 1;
        self.dirty |= !self.tables.truncated;
        self.tables.truncated = true;
    }

    fn set_policy_rules(&mut self, on: bool) {
        self.dirty |= self.tables.policy_rules != on;
        self.tables.policy_rules = on;
    }

    fn put_link(&mut self, link: Link) {
        self.mark(Key::Link(link.index));
        let old = self.tables.links.get(&link.index);
        if old == Some(&link) {
            return;
        }
        if old.is_none() && self.tables.links.len() >= limits::LINKS_MAX {
            return self.full();
        }
        // The kernel flushes the IPv4 routes of a link that goes down without a word, and marks
        // next hops dead or alive as carriers come and go.
        if old.is_some_and(|old| (old.up, old.carrier) != (link.up, link.carrier)) {
            self.wanted.add(DumpKind::Routes);
        }
        Arc::make_mut(&mut self.tables.links).insert(link.index, link);
        self.dirty = true;
    }

    fn remove_link(&mut self, index: u32) {
        if self.tables.links.contains_key(&index) {
            Arc::make_mut(&mut self.tables.links).remove(&index);
            self.wanted.add(DumpKind::Routes);
            self.dirty = true;
        }
    }

    fn sweep_links(&mut self, seen: &HashSet<Key>) {
        let gone: Vec<u32> = self
            .tables
            .links
            .keys()
            .filter(|index| !seen.contains(&Key::Link(**index)))
            .copied()
            .collect();
        for index in gone {
            self.remove_link(index);
        }
    }

    fn position(&self, address: &Address) -> Option<usize> {
        self.tables
            .addresses
            .iter()
            .position(|a| address_key(a) == address_key(address))
    }

    fn put_address(&mut self, address: Address) {
        self.mark(address_key(&address));
        match self.position(&address) {
            Some(at) if self.tables.addresses.get(at) == Some(&address) => return,
            Some(at) => {
                if let Some(slot) = Arc::make_mut(&mut self.tables.addresses).get_mut(at) {
                    *slot = address;
                }
            }
            None if self.tables.addresses.len() >= limits::ADDRESSES_MAX => return self.full(),
            None => Arc::make_mut(&mut self.tables.addresses).push(address),
        }
        self.dirty = true;
    }

    fn remove_address(&mut self, address: &Address) {
        if let Some(at) = self.position(address) {
            Arc::make_mut(&mut self.tables.addresses).remove(at);
            // Routes that preferred this address go with it, without a word in IPv4.
            self.wanted.add(DumpKind::Routes);
            self.dirty = true;
        }
    }

    fn sweep_addresses(&mut self, seen: &HashSet<Key>) {
        if self
            .tables
            .addresses
            .iter()
            .any(|a| !seen.contains(&address_key(a)))
        {
            Arc::make_mut(&mut self.tables.addresses).retain(|a| seen.contains(&address_key(a)));
            self.dirty = true;
        }
    }

    fn put_route(&mut self, key: RouteKey, entry: RouteEntry, replaces: bool, in_dump: bool) {
        let first_mention = match &mut self.dump {
            Some(dump) => dump.seen.insert(Key::Route(key)),
            None => true,
        };
        match self.tables.routes.entries.get(&key) {
            Some(old) if *old == entry => return,
            // The kernel uses the first of several with the same key, and dumps it first.
            Some(_) if in_dump && !first_mention => {
                self.shadowed_routes = true;
                return;
            }
            // Appended: before or after ours, or to its next hops; the kernel knows.
            Some(_) if !in_dump && !replaces => return self.wanted.add(DumpKind::Routes),
            None if self.tables.routes.entries.len() >= limits::ROUTES_MAX => return self.full(),
            _ => {}
        }
        Arc::make_mut(&mut self.tables.routes).insert(key, entry);
        self.dirty = true;
    }

    fn remove_route(&mut self, key: RouteKey, entry: &RouteEntry) {
        let Some(old) = self.tables.routes.entries.get(&key) else {
            return;
        };
        // One next hop of several, or one route of several.
        if self.shadowed_routes || !same_path(old, entry) {
            return self.wanted.add(DumpKind::Routes);
        }
        Arc::make_mut(&mut self.tables.routes).remove(&key);
        if let Some(dump) = &mut self.dump {
            dump.seen.remove(&Key::Route(key));
        }
        self.dirty = true;
    }

    fn sweep_routes(&mut self, seen: &HashSet<Key>) {
        let entries = &self.tables.routes.entries;
        let gone: Vec<RouteKey> = entries
            .keys()
            .filter(|key| !seen.contains(&Key::Route(**key)))
            .copied()
            .collect();
        if !gone.is_empty() {
            let routes = Arc::make_mut(&mut self.tables.routes);
            gone.iter().for_each(|key| routes.remove(key));
            self.dirty = true;
        }
    }

    fn put_neighbour(&mut self, key: (u32, IpAddr), entry: NeighbourEntry) {
        self.mark(Key::Neighbour(key.0, key.1));
        let old = self.tables.neighbours.get(&key);
        if old == Some(&entry) {
            return;
        }
        if old.is_none() && self.tables.neighbours.len() >= limits::NEIGHBOURS_MAX {
            return self.full();
        }
        // Nobody needs to hear of it when an address only ages or is confirmed, and on a busy
        // link that is nearly all that happens.
        self.dirty |= match (old.map_or(Neighbour::Unknown, |o| o.0), entry.0) {
            (Neighbour::Known(a, s), Neighbour::Known(b, t)) => {
                a != b || s.is_fixed() != t.is_fixed()
            }
            (a, b) => a != b,
        };
        Arc::make_mut(&mut self.tables.neighbours).insert(key, entry);
    }

    fn remove_neighbour(&mut self, key: (u32, IpAddr)) {
        if let Some(old) = self.tables.neighbours.get(&key) {
            self.dirty |= old.0 != Neighbour::Unknown;
            Arc::make_mut(&mut self.tables.neighbours).remove(&key);
        }
    }

    fn sweep_neighbours(&mut self, seen: &HashSet<Key>) {
        let keep = |key: &(u32, IpAddr)| seen.contains(&Key::Neighbour(key.0, key.1));
        if self.tables.neighbours.keys().any(|key| !keep(key)) {
            Arc::make_mut(&mut self.tables.neighbours).retain(|key, _| keep(key));
            self.dirty = true;
        }
    }
}

fn address_key(address: &Address) -> Key {
    Key::Address(address.ifindex, address.ip, address.prefix_len)
}

/// Whether a deletion message means this route: its next hops' liveness does not matter.
fn same_path(a: &RouteEntry, b: &RouteEntry) -> bool {
    a.kind == b.kind
        && a.hops.len() == b.hops.len()
        && a.hops
            .iter()
            .zip(&b.hops)
            .all(|(x, y)| (x.ifindex, x.gateway) == (y.ifindex, y.gateway))
}

#[cfg(test)]
mod tests;
