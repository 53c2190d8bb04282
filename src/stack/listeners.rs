//! Listening: from a SYN to a connection that waits to be accepted.
#![forbid(unsafe_code)]

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

use super::api::{Accepted, ConnId, ListenId, OpenError, Ready, Wakeup};
use super::counters::Drop;
use super::ingress::{Arrived, default_mss};
use super::link::HopCache;
use super::shard::{Mark, Shard, Slot};
use super::slab::SlabKey;
use crate::tcp::listener::{HandshakeDone, ListenDisposition, ListenDrop};
use crate::tcp::time_wait::TimeWaitDecision;
use crate::tcp::{Config, Connection, Ports, SharedConfig, State, cookie, listener};
use crate::time::Instant;
use crate::wire::SeqNum;
use crate::zbuf::Slice;

/// No listener.
pub(super) const NO_LISTENER: u32 = u32::MAX;

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Listener {
    local: SocketAddr,
    dual_stack: bool,
    config: Config,
    token: u64,
    /// How many connections are on their way in.
    accounting: listener::Listener,
    /// Those that wait to be accepted, oldest first.
    queue: VecDeque<u32>,
    /// An inline loop accepts.
    inline: bool,
}

impl Listener {
    /// An inline loop accepts from now on; returns how many wait already.
    pub(super) fn make_inline(&mut self, token: u64) -> usize {
        self.inline = true;
        self.token = token;
        self.queue.len()
    }

    /// The token of an inline listener.
    pub(super) fn inline_token(&self) -> Option<u64> {
        self.inline.then_some(self.token)
    }

    fn matches(&self, to: SocketAddr) -> bool {
        let any = self.local.ip().is_unspecified();
        let family = self.local.is_ipv4() == to.is_ipv4();
        self.local.port() == to.port()
            && (self.local.ip() == to.ip() || any && (family || self.dual_stack && to.is_ipv4()))
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
            config: config.clone(),
            token,
            accounting: listener::Listener::new(i32::try_from(backlog).unwrap_or(-1)),
            queue: VecDeque::new(),
            inline: false,
        };
        let key = self
            .listeners
            .insert(listener)
            .map_err(|_| OpenError::TableFull)?;
        self.listeners_by_port
            .entry(local.port())
            .or_default()
            .push(key.index);
        Ok(ListenId {
            index: key.index,
            generation: key.generation,
        })
    }

    /// Changes how many connections may wait.
    pub fn set_backlog(&mut self, id: ListenId, backlog: u32) {
        if let Some(listener) = self.listeners.get_mut(listener_key(id)) {
            listener
                .accounting
                .set_backlog(i32::try_from(backlog).unwrap_or(-1));
        }
    }

    /// Gives the oldest established connection of the queue and makes `token` its name.
    pub fn accept(&mut self, id: ListenId, token: u64) -> Option<Accepted> {
        let listener = self.listeners.get_mut(listener_key(id))?;
        let index = listener.queue.pop_front()?;
        listener.accounting.on_accepted();
        let key = self.slots.key_at(index)?;
        let slot = self.slots.at_mut(index)?;
        slot.token = token;
        slot.listener = NO_LISTENER;
        slot.marks.remove(Mark::EMBRYONIC);
        Some(Accepted {
            conn: ConnId {
                index: key.index,
                generation: key.generation,
            },
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

    /// How many listeners there are.
    pub fn listener_count(&self) -> usize {
        self.listeners.len()
    }

    /// How many connections wait to be accepted, and how many may.
    pub fn listener_queue(&self, id: ListenId) -> Option<(u32, u32)> {
        let listener = self.listeners.get(listener_key(id))?;
        Some((listener.accounting.waiting(), listener.accounting.backlog()))
    }

    /// Whether connections to this port have begun, and have not been accepted.
    pub fn has_unaccepted(&self, port: u16) -> bool {
        let listeners = self.listeners_by_port.get(&port);
        let mut listeners = listeners.into_iter().flatten();
        listeners.any(|index| {
            self.listeners.at(*index).is_some_and(|listener| {
                listener.accounting.half_open() > 0 || !listener.queue.is_empty()
            })
        })
    }

    /// Stops listening and resets what was not accepted. Handshakes that are not complete are
    /// forgotten, as the kernel's are: a SYN that is sent again may find another listener.
    pub fn close_listener(&mut self, now: Instant, id: ListenId) {
        if self.listeners.get(listener_key(id)).is_none() {
            return;
        }
        let Some(listener) = self.listeners.remove(id.index) else {
            return;
        };
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
            let Some(slot) = self.slots.at_mut(index) else {
                continue;
            };
            slot.listener = NO_LISTENER;
            slot.marks.remove(Mark::EMBRYONIC);
            slot.marks.insert(Mark::DETACHED);
            if slot.conn.state() == State::SynReceived {
                self.forget(index);
                continue;
            }
            slot.conn.abort(now);
            self.after_input(now, index);
        }
    }

    pub(super) fn find_listener(&self, to: SocketAddr) -> Option<u32> {
        let candidates = self.listeners_by_port.get(&to.port())?;
        let matching = |i: &&u32| {
            self.listeners
                .at(**i)
                .is_some_and(|listener| listener.matches(to))
        };
        // An exact address wins over a wildcard.
        candidates
            .iter()
            .filter(matching)
            .min_by_key(|i| {
                self.listeners
                    .at(**i)
                    .is_some_and(|l| l.local.ip().is_unspecified())
            })
            .copied()
    }

    /// A segment for no connection that we know of (RFC 9293 §3.10.7.1 and §3.10.7.2). A
    /// successor of a connection in TIME-WAIT must not begin before `iss_min`.
    pub(super) fn segment_for_listener(
        &mut self,
        now: Instant,
        arrived: &mut Arrived,
        iss_min: Option<SeqNum>,
    ) {
        let Some(index) = self.find_listener(arrived.local) else {
            self.reset(now, arrived);
            return;
        };
        let Some(listener) = self.listeners.at(index) else {
            return;
        };
        match listener
            .accounting
            .on_segment(now, &arrived.header, arrived.payload_len)
        {
            ListenDisposition::Drop(ListenDrop::AcceptQueueFull) => {
                self.stats.count_drop(Drop::ListenOverflow);
            }
            ListenDisposition::Drop(_) => {}
            ListenDisposition::Reset(header) => {
                self.stats.resets_out += 1;
                self.reply(now, arrived.local, arrived.remote, &header);
            }
            ListenDisposition::Create => self.open_passively(now, index, arrived, iss_min),
            ListenDisposition::Cookie => self.send_cookie(now, index, arrived),
            ListenDisposition::CheckCookie(reset) => {
                self.open_from_cookie(now, index, arrived, &reset);
            }
        }
    }

    fn open_passively(
        &mut self,
        now: Instant,
        index: u32,
        arrived: &Arrived,
        iss_min: Option<SeqNum>,
    ) {
        let Some(listener) = self.listeners.at(index) else {
            return;
        };
        let (local, remote) = (arrived.local, arrived.remote);
        let config = listener.config.clone();
        let config = self.complete(&config, local.ip(), remote.ip());
        let iss = self.isn.initial_sequence(now, local, remote);
        let iss = iss_min.map_or(iss, |min| min.latest(iss));
        let ts_offset = self.isn.timestamp_offset(local, remote);
        let ports = Ports {
            local: local.port(),
            remote: remote.port(),
        };
        let conn = Connection::accept(&config, ports, iss, ts_offset, &arrived.header, now);
        if let Some(child) = self.insert_child(index, conn, arrived) {
            if let Some(listener) = self.listeners.at_mut(index) {
                listener.accounting.on_created();
            }
            self.after_input(now, child);
        }
    }

    fn insert_child(
        &mut self,
        listener: u32,
        conn: Connection<Slice>,
        arrived: &Arrived,
    ) -> Option<u32> {
        let slot = Slot {
            conn,
            token: 0,
            marks: Mark::EMBRYONIC,
            edges: Ready::empty(),
            error: None,
            listener,
            local: arrived.local,
            remote: arrived.remote,
            hop: HopCache::default(),
            completions: None,
            lent_bytes: 0,
        };
        let Ok(key) = self.slots.insert(slot) else {
            self.stats.count_drop(Drop::TableFull);
            return None;
        };
        self.name_connection(arrived.local, arrived.remote, key.index);
        Some(key.index)
    }

    /// Too many handshakes are under way: answers a SYN and keeps nothing (RFC 4987 §3.6).
    #[cold]
    fn send_cookie(&mut self, now: Instant, index: u32, arrived: &Arrived) {
        let (local, remote) = (arrived.local, arrived.remote);
        let Some(listener) = self.listeners.at_mut(index) else {
            return;
        };
        listener.accounting.on_cookie_sent(now);
        let config = listener.config.clone();
        let config = self.complete(&config, local.ip(), remote.ip());
        let offset = self.isn.timestamp_offset(local, remote);
        let baked = cookie::bake(&self.isn, now, (local, remote), &arrived.header, offset);
        let ports = Ports {
            local: local.port(),
            remote: remote.port(),
        };
        let mut conn: Connection<Slice> = Connection::accept(
            &config,
            ports,
            baked.iss,
            baked.ts_offset,
            &arrived.header,
            now,
        );
        if let Some(syn_ack) = conn.poll_transmit(now) {
            self.stats.cookies_out += 1;
            let mut cache = HopCache::default();
            let hop = self
                .link
                .hop(now, local.ip(), remote.ip(), true, &mut cache)
                .clone();
            let ends = (local.ip(), remote.ip());
            self.send_frame(now, ends, &hop, syn_ack);
        }
    }

    #[cold]
    fn open_from_cookie(
        &mut self,
        now: Instant,
        index: u32,
        arrived: &mut Arrived,
        reset: &crate::wire::TcpHeader,
    ) {
        let (local, remote) = (arrived.local, arrived.remote);
        let Some(found) = cookie::check(&self.isn, now, (local, remote), &arrived.header) else {
            self.stats.resets_out += 1;
            self.reply(now, local, remote, reset);
            return;
        };
        let Some(listener) = self.listeners.at_mut(index) else {
            return;
        };
        if listener.accounting.is_accept_queue_full() {
            self.stats.count_drop(Drop::ListenOverflow);
            return;
        }
        listener.accounting.on_created();
        let config = listener.config.clone();
        let config = self.complete(&config, local.ip(), remote.ip());
        let ts_offset = self.isn.timestamp_offset(local, remote);
        let ports = Ports {
            local: local.port(),
            remote: remote.port(),
        };
        let conn = Connection::accept_after_syn_ack(
            &config, ports, found.iss, ts_offset, &found.syn, None, 0, now,
        );
        match self.insert_child(index, conn, arrived) {
            Some(child) => self.segment_for_connection(now, child, arrived),
            None => {
                if let Some(listener) = self.listeners.at_mut(index) {
                    listener.accounting.on_handshake_failed();
                }
            }
        }
    }

    /// A listener's or an application's settings, completed by what the way to the peer gives.
    pub(super) fn complete(
        &mut self,
        config: &Config,
        local: IpAddr,
        remote: IpAddr,
    ) -> SharedConfig {
        let mut config = config.clone();
        config.mss_local = config.mss_local.min(self.link_mss(local, remote));
        config.mss_default = default_mss(local);
        config.tso_bytes_max = self.capabilities.tso_bytes_max as u32;
        config.seed = self.seed;
        config.sanitize();
        self.configs.share(config)
    }

    /// The handshake of a connection is complete.
    pub(super) fn connected(&mut self, _now: Instant, index: u32) {
        let Some(slot) = self.slots.at_mut(index) else {
            return;
        };
        slot.marks.insert(Mark::CONNECTED);
        if slot.listener == NO_LISTENER {
            return;
        }
        self.stats.passive_opens += 1;
        let slot_listener = slot.listener;
        if let Some(listener) = self.listeners.at_mut(slot_listener) {
            // The SYN was only taken because there was room; a queue that filled up since may
            // grow past its bound by the handshakes that were under way.
            if listener.accounting.on_handshake_done() == HandshakeDone::QueueFull {
                listener.accounting.force_queued();
            }
            listener.queue.push_back(index);
            if listener.inline {
                self.inbox.listeners.push_back(slot_listener);
                return;
            }
            self.listener_wakeups.push(Wakeup {
                token: listener.token,
                edge: Ready::IN,
            });
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
        let Some(slot) = self.slots.at(index) else {
            return;
        };
        let connected = slot.marks.contains(Mark::CONNECTED);
        if let Some(listener) = self.listeners.at_mut(slot.listener) {
            if connected {
                listener.queue.retain(|i| *i != index);
                listener.accounting.on_accepted();
            } else {
                listener.accounting.on_handshake_failed();
            }
        }
    }

    /// A segment for a connection in TIME-WAIT whose block has been freed.
    pub(super) fn segment_for_time_wait(
        &mut self,
        now: Instant,
        index: u32,
        arrived: &mut Arrived,
    ) {
        let Some(record) = self.time_waits.at_mut(index) else {
            return;
        };
        match record
            .state
            .on_segment(now, &arrived.header, arrived.payload_len)
        {
            TimeWaitDecision::Ignore => {}
            TimeWaitDecision::Ack(header) => {
                self.reply(now, arrived.local, arrived.remote, &header);
            }
            TimeWaitDecision::Reuse { iss_min } => {
                if self.find_listener(arrived.local).is_some() {
                    self.time_waits.remove(&mut self.flows, index);
                    self.segment_for_listener(now, arrived, Some(iss_min));
                } else if let Some(record) = self.time_waits.at_mut(index)
                    && let TimeWaitDecision::Ack(header) = record.state.stay(now)
                {
                    self.reply(now, arrived.local, arrived.remote, &header);
                }
            }
        }
    }
}

pub(super) const fn listener_key(id: ListenId) -> SlabKey {
    SlabKey {
        index: id.index,
        generation: id.generation,
    }
}
