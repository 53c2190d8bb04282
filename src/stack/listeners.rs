//! Listening: from a SYN to a connection that waits to be accepted.
#![forbid(unsafe_code)]

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

use super::api::{Accepted, ConnId, ListenId, OpenError, Ready, Wakeup};
use super::counters::Drop;
use super::flow_table::{Flow, FlowKey};
use super::ingress::{Arrived, default_mss, is_bare_syn};
use super::link::HopCache;
use super::shard::{Mark, Shard, Slot};
use super::slab::SlabKey;
use crate::limits::{ACCEPT_QUEUE_MAX, SYN_QUEUE_MAX};
use crate::tcp::{Config, Connection, Ports, TimeWaitDecision};
use crate::time::Instant;
use crate::wire::TcpFlags;

/// No listener.
pub(super) const NO_LISTENER: u32 = u32::MAX;
/// IPv4 and IPv6 headers without options, and TCP's.
const HEADERS_V4: u32 = 40;
const HEADERS_V6: u32 = 60;

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Listener {
    local: SocketAddr,
    dual_stack: bool,
    backlog: usize,
    config: Config,
    token: u64,
    /// Connections whose handshake is not complete.
    half_open: usize,
    /// Complete ones, oldest first.
    queue: VecDeque<u32>,
}

impl Listener {
    fn matches(&self, to: SocketAddr) -> bool {
        let any = self.local.ip().is_unspecified();
        let family = self.local.is_ipv4() == to.is_ipv4();
        self.local.port() == to.port()
            && (self.local.ip() == to.ip() || any && (family || self.dual_stack && to.is_ipv4()))
    }

    fn is_full(&self) -> bool {
        // Linux lets the queue grow to one more than the backlog.
        self.queue.len() > self.backlog
    }
}

impl Shard {
    /// Listens on `local` (an unspecified address listens on all of the link's; with
    /// `dual_stack` an unspecified IPv6 address also on IPv4). The queue holds `backlog`
    /// connections.
    ///
    /// # Errors
    /// [`OpenError::AddressInUse`] if this very address is listened on already;
    /// [`OpenError::TableFull`].
    pub fn listen(
        &mut self,
        local: SocketAddr,
        dual_stack: bool,
        backlog: u32,
        config: &Config,
        token: u64,
    ) -> Result<ListenId, OpenError> {
        let same_port = self.listeners_by_port.get(&local.port());
        let mut others = same_port.into_iter().flatten();
        if others.any(|i| self.listeners.at(*i).is_some_and(|l| l.local == local)) {
            return Err(OpenError::AddressInUse);
        }
        let listener = Listener {
            local,
            dual_stack,
            backlog: (backlog as usize).min(ACCEPT_QUEUE_MAX),
            config: config.clone(),
            token,
            half_open: 0,
            queue: VecDeque::new(),
        };
        let key = self.listeners.insert(listener).map_err(|_| OpenError::TableFull)?;
        self.listeners_by_port.entry(local.port()).or_default().push(key.index);
        Ok(ListenId { index: key.index, generation: key.generation })
    }

    /// Changes how many connections may wait.
    pub fn set_backlog(&mut self, id: ListenId, backlog: u32) {
        if let Some(listener) = self.listeners.get_mut(listener_key(id)) {
            listener.backlog = (backlog as usize).min(ACCEPT_QUEUE_MAX);
        }
    }

    /// Gives the oldest established connection of the queue and makes `token` its name.
    pub fn accept(&mut self, id: ListenId, token: u64) -> Option<Accepted> {
        let listener = self.listeners.get_mut(listener_key(id))?;
        let index = listener.queue.pop_front()?;
        let key = self.slots.key_at(index)?;
        let slot = self.slots.at_mut(index)?;
        slot.token = token;
        slot.listener = NO_LISTENER;
        slot.marks.remove(Mark::EMBRYONIC);
        Some(Accepted {
            conn: ConnId { index: key.index, generation: key.generation },
            local: slot.local,
            remote: slot.remote,
        })
    }

    /// [`Ready::IN`] if there is a connection to accept.
    pub fn listener_ready(&self, id: ListenId) -> Ready {
        match self.listeners.get(listener_key(id)) {
            Some(listener) if !listener.queue.is_empty() => Ready::IN,
            _ => Ready::empty(),
        }
    }

    /// How many connections wait to be accepted, and how many may.
    pub fn listener_queue(&self, id: ListenId) -> Option<(usize, usize)> {
        self.listeners.get(listener_key(id)).map(|l| (l.queue.len(), l.backlog))
    }

    /// Stops listening and resets what was not accepted.
    pub fn close_listener(&mut self, now: Instant, id: ListenId) {
        if self.listeners.get(listener_key(id)).is_none() {
            return;
        }
        let Some(listener) = self.listeners.remove(id.index) else { return };
        let port = listener.local.port();
        if let Some(same_port) = self.listeners_by_port.get_mut(&port) {
            same_port.retain(|i| *i != id.index);
            if same_port.is_empty() {
                self.listeners_by_port.remove(&port);
            }
        }
        let children: Vec<u32> = self
            .slots
            .indices()
            .filter(|i| self.slots.at(*i).is_some_and(|s| s.listener == id.index))
            .collect();
        for index in children {
            let Some(slot) = self.slots.at_mut(index) else { continue };
            slot.listener = NO_LISTENER;
            slot.marks.remove(Mark::EMBRYONIC);
            slot.marks.insert(Mark::DETACHED);
            slot.conn.abort(now);
            self.after_input(now, index);
        }
    }

    fn find_listener(&self, to: SocketAddr) -> Option<u32> {
        let candidates = self.listeners_by_port.get(&to.port())?;
        let matching =
            |i: &&u32| self.listeners.at(**i).is_some_and(|listener| listener.matches(to));
        // An exact address wins over a wildcard.
        candidates
            .iter()
            .filter(matching)
            .min_by_key(|i| self.listeners.at(**i).is_some_and(|l| l.local.ip().is_unspecified()))
            .copied()
    }

    /// A segment for no connection that we know of (RFC 9293 §3.10.7.1 and §3.10.7.2).
    pub(super) fn segment_for_listener(&mut self, now: Instant, arrived: Arrived) {
        let Some(listener) = self.find_listener(arrived.local) else {
            self.reset(now, &arrived);
            return;
        };
        if !is_bare_syn(&arrived.header) {
            //= RFC 9293 §3.10.7.2
            //# "Any acknowledgment is bad if it arrives on a connection still in the LISTEN
            //# state. An acceptable reset segment should be formed"
            if arrived.header.flags.contains(TcpFlags::ACK) {
                self.reset(now, &arrived);
            }
            return;
        }
        self.open_passively(now, listener, &arrived);
    }

    fn open_passively(&mut self, now: Instant, index: u32, arrived: &Arrived) {
        let Some(listener) = self.listeners.at(index) else { return };
        // As Linux: a SYN that finds a queue full is dropped, and its sender tries again.
        if listener.is_full() || listener.half_open >= SYN_QUEUE_MAX {
            self.stats.count_drop(Drop::ListenOverflow);
            return;
        }
        let config = self.complete(&listener.config, arrived.local.ip(), arrived.remote.ip());
        let (local, remote) = (arrived.local, arrived.remote);
        let iss = self.isn.isn(now, local, remote);
        let ts_offset = self.isn.timestamp_offset(local, remote);
        let ports = Ports { local: local.port(), remote: remote.port() };
        let conn = Connection::accept(&config, ports, iss, ts_offset, &arrived.header, now);
        let slot = Slot {
            conn,
            token: 0,
            marks: Mark::EMBRYONIC,
            edges: Ready::empty(),
            error: None,
            listener: index,
            local,
            remote,
            hop: HopCache::default(),
        };
        let Ok(key) = self.slots.insert(slot) else {
            self.stats.count_drop(Drop::TableFull);
            return;
        };
        if let Some(listener) = self.listeners.at_mut(index) {
            listener.half_open += 1;
        }
        self.flows.insert(FlowKey::new(local, remote), Flow::Connection(key.index));
        self.after_input(now, key.index);
    }

    /// A listener's or an application's settings, completed by what the way to the peer gives.
    pub(super) fn complete(&self, config: &Config, local: IpAddr, remote: IpAddr) -> Config {
        let mut config = config.clone();
        let headers = if local.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
        let frame_room = self.capabilities.frame_bytes_max.saturating_sub(14) as u32;
        let mtu = self.link.path_mtu(remote).min(frame_room);
        let mss = mtu.saturating_sub(headers).min(u32::from(u16::MAX)) as u16;
        config.mss_local = config.mss_local.min(mss);
        config.mss_default = default_mss(local);
        config.seed = self.seed;
        config
    }

    /// The handshake of a connection is complete.
    pub(super) fn connected(&mut self, _now: Instant, index: u32) {
        let Some(slot) = self.slots.at_mut(index) else { return };
        slot.marks.insert(Mark::CONNECTED);
        if slot.listener == NO_LISTENER {
            return;
        }
        self.stats.passive_opens += 1;
        let listener = slot.listener;
        if let Some(listener) = self.listeners.at_mut(listener) {
            listener.half_open = listener.half_open.saturating_sub(1);
            listener.queue.push_back(index);
            self.listener_wakeups.push(Wakeup { token: listener.token, edge: Ready::IN });
        }
    }

    /// Whether a connection died before it was established and nobody will ever ask for it.
    pub(super) fn is_unborn(&self, index: u32) -> bool {
        self.slots.at(index).is_some_and(|slot| {
            slot.marks.contains(Mark::EMBRYONIC) && !slot.marks.contains(Mark::CONNECTED)
        })
    }

    /// A connection goes away: its listener must not count or give it out any more.
    pub(super) fn leave_listener(&mut self, index: u32) {
        let Some(slot) = self.slots.at(index) else { return };
        let connected = slot.marks.contains(Mark::CONNECTED);
        if let Some(listener) = self.listeners.at_mut(slot.listener) {
            if connected {
                listener.queue.retain(|i| *i != index);
            } else {
                listener.half_open = listener.half_open.saturating_sub(1);
            }
        }
    }

    /// A segment for a connection in TIME-WAIT whose block has been freed.
    pub(super) fn segment_for_time_wait(&mut self, now: Instant, index: u32, arrived: Arrived) {
        let Some(record) = self.time_waits.at_mut(index) else { return };
        match record.state.on_segment(now, &arrived.header, arrived.payload_len) {
            TimeWaitDecision::Ignore => {}
            TimeWaitDecision::Reply(header) => {
                self.reply(now, arrived.local, arrived.remote, &header);
            }
            TimeWaitDecision::Reuse => {
                if self.find_listener(arrived.local).is_some() {
                    self.time_waits.remove(&mut self.flows, index);
                    self.segment_for_listener(now, arrived);
                }
            }
        }
    }
}

pub(super) const fn listener_key(id: ListenId) -> SlabKey {
    SlabKey { index: id.index, generation: id.generation }
}
