//! The shard's TIME-WAIT records: what is left of connections whose block has been freed.
#![forbid(unsafe_code)]

use core::net::SocketAddr;
use std::collections::VecDeque;

use super::flow_table::{Flow, FlowKey, FlowTable};
use super::slab::{Slab, SlabKey};
use crate::limits::TIME_WAIT_MAX;
use crate::tcp::time_wait::TimeWait;
use crate::time::Instant;

/// One record.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) key: FlowKey,
    pub(super) local_port: u16,
    pub(super) state: TimeWait,
}

/// All of them. They expire in the order in which they came, but for those that were re-armed
/// meanwhile: these are found out and put behind when their place comes up.
#[derive(Debug)]
pub(super) struct TimeWaits {
    records: Slab<Record>,
    order: VecDeque<(Instant, SlabKey)>,
}

impl TimeWaits {
    pub(super) fn new() -> Self {
        Self {
            records: Slab::new(TIME_WAIT_MAX),
            order: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn at_mut(&mut self, index: u32) -> Option<&mut Record> {
        self.records.at_mut(index)
    }

    /// Whether the record at `index` has this name.
    pub(super) fn has_name(&self, index: u32, key: &FlowKey) -> bool {
        self.records.at(index).is_some_and(|r| r.key == *key)
    }

    /// Keeps a record and names it in `flows`, where nothing has its name. When there is no room
    /// the oldest gives way: better a short TIME-WAIT than refusing connections.
    pub(super) fn insert(
        &mut self,
        flows: &mut FlowTable,
        now: Instant,
        ends: (SocketAddr, SocketAddr),
        state: TimeWait,
    ) {
        let expires = state.expires_at(now);
        let key = FlowKey::new(ends.0, ends.1);
        let record = Record {
            key,
            local_port: ends.0.port(),
            state,
        };
        let record = match self.records.insert(record) {
            Ok(slot) => {
                flows.insert(&key, Flow::TimeWait(slot.index));
                self.order.push_back((expires, slot));
                return;
            }
            Err(record) => record,
        };
        while let Some((_, oldest)) = self.order.pop_front() {
            if self.records.get(oldest).is_some() {
                self.remove(flows, oldest.index);
                break;
            }
        }
        if let Ok(slot) = self.records.insert(record) {
            flows.insert(&key, Flow::TimeWait(slot.index));
            self.order.push_back((expires, slot));
        }
    }

    /// Forgets one record.
    pub(super) fn remove(&mut self, flows: &mut FlowTable, index: u32) -> Option<Record> {
        let record = self.records.remove(index)?;
        flows.remove(&record.key, Flow::TimeWait(index));
        Some(record)
    }

    /// Forgets the records whose time is over.
    pub(super) fn expire(&mut self, now: Instant, flows: &mut FlowTable) {
        while let Some(&(at, slot)) = self.order.front() {
            if at > now {
                return;
            }
            self.order.pop_front();
            let Some(record) = self.records.get(slot) else {
                continue;
            };
            if record.state.is_expired(now) {
                self.remove(flows, slot.index);
            } else {
                self.order.push_back((record.state.expires_at(now), slot));
            }
        }
    }

    /// When [`TimeWaits::expire`] has something to do next.
    pub(super) fn next_deadline(&self) -> Instant {
        self.order
            .front()
            .map_or(Instant::FAR_FUTURE, |(at, _)| *at)
    }

    /// Whether any record has this local port.
    pub(super) fn uses_port(&self, port: u16) -> bool {
        self.records
            .indices()
            .any(|i| self.records.at(i).is_some_and(|r| r.local_port == port))
    }
}
