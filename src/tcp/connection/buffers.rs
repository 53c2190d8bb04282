//! How much a connection may hold: buffers that begin small and follow the path.
//!
//! A window of less than the path holds leaves the path idle; memory promised to a peer that does
//! not use it is missing elsewhere. So the receive buffer doubles when what is read in a round trip
//! comes near to it, as Linux's dynamic right-sizing does, and the send buffer holds two
//! congestion windows: one on its way, and one to follow while the application wakes up.
#![forbid(unsafe_code)]

use super::super::config::Config;
use super::super::payload::Payload;
use super::Connection;
use crate::time::{Duration, Instant};
use crate::wire::SeqNum;

/// The buffer doubles when this part of it is read in a round trip: a sender in slow start doubles
/// twice before the window could hold it back.
const GROW_AT: u32 = 4;
/// A round trip is not taken to be shorter: the threads on both sides may be away for as long.
const ROUND_MIN: Duration = Duration::from_millis(1);

/// The receive buffer's size, and what decides about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceiveBuffer {
    /// Bytes that it may hold.
    bytes: u32,
    /// What somebody else allows (memory, or what the application holds of it).
    cap: u32,
    /// Where the application was when the present round began, and when that was.
    round_from: SeqNum,
    round_at: Instant,
}

impl ReceiveBuffer {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        Self {
            bytes: config.rcv_buf_bytes,
            cap: u32::MAX,
            round_from: SeqNum::default(),
            round_at: now,
        }
    }

    /// The first byte will be `nxt`.
    pub(super) fn begin(&mut self, nxt: SeqNum, now: Instant) {
        (self.round_from, self.round_at) = (nxt, now);
    }
}

impl<P: Payload> Connection<P> {
    /// Bytes that the receive buffer may hold now.
    pub fn receive_buffer(&self) -> u32 {
        self.receive_buffer.bytes
    }

    /// Bytes that the send buffer may hold now.
    pub fn send_buffer(&self) -> u32 {
        let (least, most) = (self.config.snd_buf_bytes, self.config.snd_buf_max_bytes);
        self.congestion.cwnd().saturating_mul(2).clamp(least, most)
    }

    /// Takes the sizes of `config`, within which the buffers move. The window scale was agreed in
    /// the handshake and stays, so the window may not reach all of a much larger buffer.
    pub fn set_buffers(&mut self, config: &Config) {
        let mine = &self.config;
        let sizes = |c: &Config| {
            let receive = (c.rcv_buf_bytes, c.rcv_buf_max_bytes);
            (receive, (c.snd_buf_bytes, c.snd_buf_max_bytes))
        };
        if sizes(mine) == sizes(config) {
            return;
        }
        self.config.change(|c| {
            c.rcv_buf_bytes = config.rcv_buf_bytes;
            c.rcv_buf_max_bytes = config.rcv_buf_max_bytes;
            c.snd_buf_bytes = config.snd_buf_bytes;
            c.snd_buf_max_bytes = config.snd_buf_max_bytes;
        });
        let (least, most) = (self.config.rcv_buf_bytes, self.config.rcv_buf_max_bytes);
        self.receive_buffer.bytes = self.receive_buffer.bytes.clamp(least, most);
        self.apply_budget();
        self.wake_writer();
    }

    /// Bounds what is buffered for reading, between nothing and the buffer. For memory pressure:
    /// the window closes as what was promised is used up, never abruptly.
    pub fn set_receive_budget(&mut self, bytes: u32) {
        self.receive_buffer.cap = bytes;
        self.apply_budget();
    }

    fn apply_budget(&mut self) {
        let ReceiveBuffer { bytes, cap, .. } = self.receive_buffer;
        self.rx.set_budget(bytes.min(cap));
        self.on_read();
    }

    /// Data has arrived: looks at how far the application has read before.
    #[inline]
    pub(super) fn watch_reads(&mut self, now: Instant) {
        let read = self
            .read_until()
            .distance_from(self.receive_buffer.round_from);
        if read >= self.receive_buffer.bytes / GROW_AT {
            self.judge_reads(now);
        }
    }

    /// The sequence number of the first byte that is not read.
    fn read_until(&self) -> SeqNum {
        self.rx.nxt - self.rx.readable() as u32
    }

    #[cold]
    fn judge_reads(&mut self, now: Instant) {
        let took = now.saturating_since(self.receive_buffer.round_at);
        let from = self.read_until();
        self.receive_buffer.begin(from, now);
        let round = self.rtt.srtt().unwrap_or(ROUND_MIN).max(ROUND_MIN);
        let bytes = self.receive_buffer.bytes;
        let more = bytes.saturating_mul(2).min(self.config.rcv_buf_max_bytes);
        if took <= round && more > bytes {
            self.receive_buffer.bytes = more;
            self.apply_budget();
        }
    }
}
