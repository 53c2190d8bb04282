//! What the layer above does with a connection: open, send, receive, close, ask.
#![forbid(unsafe_code)]

use core::net::SocketAddr;
use std::io::{IoSlice, IoSliceMut};

use super::api::{
    Close, ConnError, ConnId, ConnInfo, OpenError, Ready, RecvError, RecvMode, SendError,
};
use super::link::HopCache;
use super::listeners::NO_LISTENER;
use super::shard::{Mark, Shard, Slot};
use super::slab::SlabKey;
use super::zero_copy::{may_send, nothing_to_read};
use crate::tcp::{Config, Connection, Payload, Ports, State};
use crate::time::Instant;
use crate::zbuf::{Pool, Slice};

/// Room in front of copied payload for Ethernet, IP and TCP headers, so that a segment that is
/// one object's payload goes out as one piece. A multiple of a cache line.
const HEADROOM: usize = 128;
/// What is taken of an application's bytes at a time where memory is short, with the headroom.
const FEW_BYTES: usize = 2048;
/// What a connection may queue in any case.
const SHARE_BYTES: usize = 64 << 10;

const fn slot_key(id: ConnId) -> SlabKey {
    SlabKey {
        index: id.index,
        generation: id.generation,
    }
}

impl Shard {
    /// Opens a connection from `local` (complete: address and port) to `remote`.
    ///
    /// # Errors
    /// [`OpenError::AddressInUse`] if this pair of ends is in use; [`OpenError::TableFull`].
    pub fn connect(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        config: &Config,
        token: u64,
    ) -> Result<ConnId, OpenError> {
        if self.flow(local, remote).is_some() {
            return Err(OpenError::AddressInUse);
        }
        let config = self.complete(config, local.ip(), remote.ip());
        let iss = self.isn.initial_sequence(now, local, remote);
        let ts_offset = self.isn.timestamp_offset(local, remote);
        let ports = Ports {
            local: local.port(),
            remote: remote.port(),
        };
        let slot = Slot {
            conn: Connection::connect(&config, ports, iss, ts_offset, now),
            token,
            marks: Mark::empty(),
            edges: Ready::empty(),
            error: None,
            listener: NO_LISTENER,
            local,
            remote,
            hop: HopCache::default(),
            completions: None,
            lent_bytes: 0,
        };
        let slab_key = self.slots.insert(slot).map_err(|_| OpenError::TableFull)?;
        self.name_connection(local, remote, slab_key.index);
        self.stats.active_opens += 1;
        self.mark_dirty(slab_key.index);
        Ok(ConnId {
            index: slab_key.index,
            generation: slab_key.generation,
        })
    }

    /// Whether this pair of ends is free: no connection and no TIME-WAIT record.
    pub fn tuple_is_free(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.flow(local, remote).is_none()
    }

    /// Copies as much of `bufs` as there is room for into the send queue. `more` says that the
    /// application is about to send more (`MSG_MORE`). The bytes leave at the next turn or flush.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send(
        &mut self,
        _now: Instant,
        id: ConnId,
        bufs: &[IoSlice<'_>],
        more: bool,
    ) -> Result<usize, SendError> {
        let slot = self.slots.get_mut(slot_key(id)).ok_or(SendError::Stale)?;
        may_send(slot)?;
        let wanted: usize = bufs.iter().map(|b| b.len()).sum();
        let mut room = slot.conn.send_space();
        if room == 0 && wanted > 0 {
            slot.conn.want_write();
            slot.marks.insert(Mark::WANTS_ROOM);
            return Err(SendError::WouldBlock);
        }
        let segment = slot.conn.mss() as usize;
        let link_cuts = self.capabilities.tso_bytes_max > segment;
        let mut sent = 0;
        'bufs: for buf in bufs {
            let mut rest: &[u8] = buf;
            while !rest.is_empty() {
                if room == 0 {
                    break 'bufs;
                }
                let offer = rest.get(..room.min(rest.len())).unwrap_or(rest);
                let mut taken = fill_tail(&mut slot.conn, offer, segment, more);
                if taken == 0 {
                    if has_its_share(&slot.conn, &self.pool) {
                        break 'bufs;
                    }
                    let (bytes, headroom) = match link_cuts && offer.len() > segment {
                        true => (long_piece(offer.len()), 0),
                        false => (segment, HEADROOM),
                    };
                    let Some((mut piece, bytes)) = piece(&mut self.pool, bytes, headroom) else {
                        break 'bufs;
                    };
                    let bytes = bytes.min(offer.len());
                    taken = piece.append(offer.get(..bytes).unwrap_or(offer));
                    if slot.conn.push(piece, more).is_err() {
                        break 'bufs;
                    }
                }
                room -= taken;
                sent += taken;
                rest = rest.get(taken..).unwrap_or(&[]);
            }
        }
        if sent == 0 && wanted > 0 {
            if !slot.marks.contains(Mark::STARVED) {
                slot.marks.insert(Mark::STARVED | Mark::WANTS_ROOM);
                self.starved.push(id.index);
            }
            return Err(SendError::NoMemory);
        }
        if sent < wanted {
            slot.conn.want_write();
            slot.marks.insert(Mark::WANTS_ROOM);
        }
        self.stats.bytes_out += sent as u64;
        self.stats.bytes_copied_out += sent as u64;
        self.mark_dirty(id.index);
        self.answered(id.index);
        Ok(sent)
    }

    /// Copies received bytes out; `Ok(0)` with room in `bufs` is the end of the stream.
    ///
    /// # Errors
    /// See [`RecvError`].
    pub fn recv(
        &mut self,
        _now: Instant,
        id: ConnId,
        bufs: &mut [IoSliceMut<'_>],
        mode: RecvMode,
    ) -> Result<usize, RecvError> {
        let slot = self.slots.get_mut(slot_key(id)).ok_or(RecvError::Stale)?;
        let readable = slot.conn.readable_bytes();
        if readable == 0 {
            return nothing_to_read(slot).map(|()| 0);
        }
        let wanted: usize = bufs.iter().map(|b| b.len()).sum();
        let received = if mode.discard {
            wanted.min(readable)
        } else {
            copy_out(slot.conn.peek_pieces(), bufs)
        };
        if !mode.peek {
            slot.conn.consume(received);
            self.stats.bytes_in += received as u64;
            self.stats.bytes_copied_in += received as u64;
            self.mark_dirty(id.index);
        }
        Ok(received)
    }

    /// Sends FIN after what is queued.
    pub fn shutdown_write(&mut self, now: Instant, id: ConnId) {
        if let Some(slot) = self.slots.get_mut(slot_key(id)) {
            slot.conn.shutdown_write(now);
            self.wake(id.index, Ready::OUT);
            self.after_input(now, id.index);
            self.answered(id.index);
        }
    }

    /// The application will read no more: reads that find nothing end at once. As on Linux, what
    /// arrives is still taken and acknowledged, and can be read.
    pub fn shutdown_read(&mut self, _now: Instant, id: ConnId) {
        if let Some(slot) = self.slots.get_mut(slot_key(id)) {
            slot.marks.insert(Mark::READ_SHUT);
            self.wake(id.index, Ready::IN | Ready::RDHUP);
        }
    }

    /// The application has let go: the connection ends by itself, its id is stale from now on.
    pub fn close(&mut self, now: Instant, id: ConnId, how: Close) {
        let Some(slot) = self.slots.get_mut(slot_key(id)) else {
            return;
        };
        slot.marks.insert(Mark::DETACHED);
        match how {
            Close::Graceful => slot.conn.close(now),
            Close::Abort => slot.conn.abort(now),
        }
        self.after_input(now, id.index);
        self.orphan_marks(id.index);
        self.answered(id.index);
    }

    /// What can be done with the connection now, by the rules of Linux's `tcp_poll`.
    pub fn ready(&self, id: ConnId) -> Ready {
        let Some(slot) = self.slots.get(slot_key(id)) else {
            return Ready::HUP | Ready::ERR;
        };
        let conn = &slot.conn;
        let state = conn.state();
        let mut ready = Ready::empty();
        let read_over = conn.peer_closed() || slot.marks.contains(Mark::READ_SHUT);
        let write_over = conn.is_send_closed();
        if slot.error.is_some() {
            ready |= Ready::ERR;
        }
        if state == State::Closed || read_over && write_over {
            ready |= Ready::HUP;
        }
        if read_over || state == State::Closed {
            ready |= Ready::IN | Ready::RDHUP;
        }
        if conn.readable_bytes() > 0 {
            ready |= Ready::IN;
        }
        match state {
            State::SynSent | State::SynReceived => {}
            State::Closed => ready |= Ready::OUT,
            _ if write_over => ready |= Ready::OUT,
            // Who found no memory is told when there is some.
            _ if conn.is_writable() && !slot.marks.contains(Mark::STARVED) => ready |= Ready::OUT,
            _ => {}
        }
        ready
    }

    /// Whether a connection that the application has let go of still has data or a FIN that its
    /// peer has not acknowledged.
    pub fn has_undelivered(&self) -> bool {
        self.slots.indices().any(|index| {
            self.slots.at(index).is_some_and(|slot| {
                slot.marks.contains(Mark::DETACHED)
                    && matches!(
                        slot.conn.state(),
                        State::SynReceived
                            | State::Established
                            | State::CloseWait
                            | State::FinWait1
                            | State::Closing
                            | State::LastAck
                    )
            })
        })
    }

    /// Takes the pending error (`SO_ERROR`).
    pub fn take_error(&mut self, id: ConnId) -> Option<ConnError> {
        self.slots.get_mut(slot_key(id))?.error.take()
    }

    /// What is known of a connection.
    pub fn info(&self, id: ConnId) -> Option<ConnInfo> {
        let slot = self.slots.get(slot_key(id))?;
        Some(ConnInfo {
            local: slot.local,
            remote: slot.remote,
            tcp: slot.conn.info(),
        })
    }

    /// Replaces the settings that can change during a connection's life.
    pub fn configure(&mut self, now: Instant, id: ConnId, config: &Config) {
        let Some(slot) = self.slots.get_mut(slot_key(id)) else {
            return;
        };
        let conn = &mut slot.conn;
        conn.set_nodelay(config.nodelay);
        conn.set_cork(config.cork);
        conn.set_keepalive(config.keepalive, now);
        conn.set_user_timeout(config.user_timeout);
        conn.set_congestion(config.congestion);
        conn.set_max_pacing_rate(config.max_pacing_rate);
        conn.set_delayed_ack(config.delayed_ack);
        conn.set_rto_bounds(config.rto_min, config.rto_max);
        conn.set_fin_wait_2(config.fin_wait_2);
        conn.set_syn_retries(config.syn_retries);
        conn.set_buffers(config);
        self.mark_dirty(id.index);
    }

    /// Bytes that can be read now (`SIOCINQ`).
    pub fn readable_bytes(&self, id: ConnId) -> usize {
        self.slots
            .get(slot_key(id))
            .map_or(0, |s| s.conn.readable_bytes())
    }

    /// Bytes not yet acknowledged (`SIOCOUTQ`), and of these not yet sent (`SIOCOUTQNSD`).
    pub fn unsent_bytes(&self, id: ConnId) -> (usize, usize) {
        self.slots
            .get(slot_key(id))
            .map_or((0, 0), |s| (s.conn.unacked_bytes(), s.conn.unsent_bytes()))
    }
}

/// Fills up the last piece written to the size of a segment, so that small writes share objects
/// and segments. A piece that has been sent already and is not tiny is left alone: a segment that
/// begins at its own object's start goes out as one piece.
fn fill_tail(conn: &mut Connection<Slice>, bytes: &[u8], segment: usize, more: bool) -> usize {
    const TINY: usize = 256;
    let tail = conn.tail_len();
    let worth_it = conn.unsent_bytes() > 0 || tail < TINY;
    let room = segment.saturating_sub(tail).min(bytes.len());
    match bytes.get(..room) {
        Some(part) if worth_it && tail > 0 && room > 0 => conn.append(part, more),
        _ => 0,
    }
}

/// How much of so many bytes goes into one object when the link cuts segments: a whole object of
/// the size that wastes little. No headroom: such links copy.
const fn long_piece(bytes: usize) -> usize {
    match bytes {
        0..=2048 => 2048,
        2049..=8192 => 4096,
        _ => 16384,
    }
}

/// Whether a connection has as much waiting to be sent as it may while memory is short. So those
/// that send little find some.
#[inline]
pub(super) fn has_its_share(conn: &Connection<Slice>, pool: &Pool) -> bool {
    pool.is_short() && conn.bytes_queued() >= SHARE_BYTES
}

/// An object for that many bytes, and how many it is to hold: where memory is short, fewer.
#[inline]
fn piece(pool: &mut Pool, bytes: usize, headroom: usize) -> Option<(Slice, usize)> {
    if let Some(piece) = pool.alloc_to_send(bytes, headroom) {
        return Some((piece, bytes));
    }
    let few = bytes.min(FEW_BYTES - headroom);
    Some((pool.alloc_to_send(few, headroom)?, few))
}

/// Copies pieces into buffers, in order, until either ends.
fn copy_out<'a, P: Payload + 'a>(
    pieces: impl Iterator<Item = &'a P>,
    bufs: &mut [IoSliceMut<'_>],
) -> usize {
    let mut copied = 0;
    let mut bufs = bufs.iter_mut();
    let mut room: &mut [u8] = &mut [];
    for piece in pieces {
        let mut rest = piece.as_bytes();
        while !rest.is_empty() {
            if room.is_empty() {
                match bufs.next() {
                    Some(buf) => room = buf,
                    None => return copied,
                }
                continue;
            }
            let n = room.len().min(rest.len());
            let (to, later) = core::mem::take(&mut room).split_at_mut(n);
            let (from, after) = rest.split_at(n);
            to.copy_from_slice(from);
            room = later;
            rest = after;
            copied += n;
        }
    }
    copied
}
