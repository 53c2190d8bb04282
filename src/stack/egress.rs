//! From what connections want to send to frames in the device's ring.
#![forbid(unsafe_code)]

use core::net::IpAddr;

use super::counters::Drop;
use super::link::Hop;
use super::shard::{Mark, Shard, Slot};
use super::template::Template;
use crate::control::RouteError;
use crate::limits::{RX_BURST_FRAMES, SEGMENTS_PER_VISIT, TX_QUEUE_FRAMES};
use crate::tcp::{SegmentOut, State};
use crate::time::Instant;
use crate::zbuf::Slice;

impl Shard {
    /// Polls every connection that may have something to send and hands the frames to the
    /// device. Returns how many frames it took.
    pub(super) fn egress(&mut self, now: Instant) -> usize {
        let mut dirty = core::mem::take(&mut self.dirty);
        if self.looks_ahead() {
            // No more than the caches hold: of a long list the rest is for another time.
            for &index in dirty.iter().take(RX_BURST_FRAMES) {
                self.look_ahead_sending(index);
            }
        }
        let mut visited = 0;
        for &index in &dirty {
            if self.tx.len() >= TX_QUEUE_FRAMES {
                break;
            }
            visited += 1;
            self.transmit(now, index);
        }
        // What was marked meanwhile, or could not be visited, is for the next time.
        dirty.drain(..visited);
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
        if self.tx.is_empty() {
            return 0;
        }
        self.device.tx_burst(&mut self.pool, &mut self.tx)
    }

    /// Begins to fetch what sending needs besides of a connection that has been written to.
    #[inline]
    fn look_ahead_sending(&self, index: u32) {
        if self
            .slots
            .at(index)
            .is_some_and(|slot| slot.conn.unsent_bytes() > 0)
        {
            self.slots.prefetch(index, Slot::SENDING);
        }
    }

    /// Sends what the application has answered while it was called; nothing else, so that the
    /// acknowledgment of half a request does not leave before the answer that carries it.
    pub(super) fn send_answers(&mut self, now: Instant) {
        if self.inbox.answered.is_empty() {
            return;
        }
        let mut answered = core::mem::take(&mut self.inbox.answered);
        for index in answered.drain(..) {
            if self.tx.len() >= TX_QUEUE_FRAMES {
                break;
            }
            self.transmit(now, index);
        }
        self.inbox.answered = answered;
        if !self.tx.is_empty() {
            self.device.tx_burst(&mut self.pool, &mut self.tx);
        }
    }

    /// Sends what one connection has to send, re-arms its timer, and lets it go if it is over;
    /// nothing if it has been visited since it was marked, as one that has answered twice.
    fn transmit(&mut self, now: Instant, index: u32) {
        let Some(slot) = self.slots.at_mut(index) else {
            return;
        };
        if !slot.marks.contains(Mark::DIRTY) {
            return;
        }
        slot.marks.remove(Mark::DIRTY);
        let ends = (slot.local.ip(), slot.remote.ip());
        if self.link.is_stale(&slot.hop) {
            self.learn_path(now, index);
        }
        for _ in 0..SEGMENTS_PER_VISIT {
            let Some(slot) = self.slots.at_mut(index) else {
                return;
            };
            let Some(segment) = slot.conn.poll_transmit(now) else {
                self.settle(now, index);
                return;
            };
            let answers = !slot.conn.is_unanswered();
            let hop = (self.link).hop(now, ends.0, ends.1, answers, &mut slot.hop);
            let obstacle = match hop {
                Hop::Ready(template) => {
                    self.stats.segments_out += u64::from(segment.segments());
                    self.stats.retransmits += u64::from(segment.retransmission);
                    let offload = self.capabilities.tx_checksum;
                    let cut = segment.segment_bytes;
                    let (header, payload) = (&segment.header, segment.payload);
                    let mut frame = template.frame(header, payload, segment.ecn, offload, cut);
                    frame.alone = segment.alone;
                    self.tx.push_back(frame);
                    continue;
                }
                Hop::Unreachable(e) => Some(*e),
                // Only when our own question has gone unanswered, and only to give up connecting.
                Hop::Unresolved(ip) => (segment.retransmission
                    && slot.conn.state() == State::SynSent
                    && self.link.neighbour_failed(*ip))
                .then_some(RouteError::Unreachable),
            };
            if let Some(e) = obstacle {
                self.unreachable(now, index, e);
                self.settle(now, index);
                return;
            }
            let hop = hop.clone();
            self.stats.segments_out += u64::from(segment.segments());
            self.stats.retransmits += u64::from(segment.retransmission);
            self.send_frame(now, ends, &hop, segment);
        }
        self.mark_dirty(index);
    }

    /// Builds a frame around a segment and queues it for the device, or behind its neighbour.
    pub(super) fn send_frame(
        &mut self,
        now: Instant,
        ends: (IpAddr, IpAddr),
        hop: &Hop,
        segment: SegmentOut<Slice>,
    ) {
        let offload = self.capabilities.tx_checksum;
        let (header, payload) = (&segment.header, segment.payload);
        let frame =
            |of: &Template| of.frame(header, payload, segment.ecn, offload, segment.segment_bytes);
        match hop {
            Hop::Ready(template) => self.tx.push_back(frame(template)),
            Hop::Unresolved(ip) => {
                let frame = frame(&self.link.blank_template(ends.0, ends.1));
                self.link.wait_for_neighbour(now, *ip, frame);
            }
            Hop::Unreachable(_) => self.stats.count_drop(Drop::NoRoute),
        }
    }

    /// There is no way to the peer at the moment. That ends an attempt to connect, and is only a
    /// setback for a connection that was open.
    ///
    //= RFC 9293 §3.9.2.2
    //# "Since these Unreachable messages indicate soft error conditions, a TCP implementation
    //# MUST NOT abort the connection (MUST-56)"
    fn unreachable(&mut self, now: Instant, index: u32, why: RouteError) {
        self.stats.count_drop(Drop::NoRoute);
        let Some(slot) = self.slots.at_mut(index) else {
            return;
        };
        if slot.conn.state() == State::SynSent {
            slot.error = Some(match why {
                RouteError::Unreachable => super::ConnError::HostUnreachable,
                _ => super::ConnError::NetUnreachable,
            });
            slot.conn.abort(now);
            while slot.conn.poll_transmit(now).is_some() {}
            self.after_input(now, index);
        }
    }
}
