//! One connection: the transmission control block of RFC 9293 §3.3.1 and what acts on it.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the block itself, birth, state changes, events |
//! | `open.rs` | handshake segments in, option negotiation |
//! | `input.rs` | segments in |
//! | `ack.rs` | acknowledgments in, round-trip times |
//! | `loss.rs` | losses: detection, repair, and taking it back |
//! | `output.rs` | segments out |
//! | `buffers.rs` | how much may be held |
//! | `pacing.rs` | the rate at which they leave |
//! | `timeouts.rs` | timers |
//! | `api.rs` | what the application and the stack call |
#![forbid(unsafe_code)]

mod ack;
mod api;
mod buffers;
mod input;
mod loss;
mod open;
mod output;
mod pacing;
mod path;
mod timeouts;

use core::ops::Range;

use bitflags::bitflags;

use buffers::ReceiveBuffer;

use super::challenge::ChallengeLimit;
use super::config::{Ports, SharedConfig};
use super::congestion::Controller;
use super::ecn::EcnState;
use super::info::{Counters, Volume};
use super::pacer::Pacer;
use super::path_mtu::PathMtu;
use super::payload::Payload;
use super::rack::Rack;
use super::receiver::Receiver;
use super::recovery::Recovery;
use super::rtt::RttEstimator;
use super::scoreboard::Scoreboard;
use super::sender::Sender;
use super::state::{Input, State};
use super::telemetry::TelemetryState;
use super::timers::{Timer, Timers};
use crate::time::{Duration, Instant};
use crate::wire::{SeqNum, TcpHeader};

/// What a connection has to tell its owner.
///
/// Each is pending at most once, and [`Connection::poll_event`] hands them out in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Event {
    /// The handshake is complete.
    Connected,
    /// There is something to read: data, or the end of it.
    Readable,
    /// There is room to write again.
    Writable,
    /// The peer will send no more; everything it sent can be read.
    PeerClosed,
    /// The peer refused our SYN.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// The peer did not answer for too long.
    TimedOut,
    /// TIME-WAIT: what is left of the connection fits into a
    /// [`TimeWaitSeed`](super::TimeWaitSeed).
    TimeWait,
    /// CLOSED: nothing more will come in or go out. The slot may be freed once nothing is
    /// left to read.
    Closed,
}

impl Event {
    const ALL: [Self; 9] = [
        Self::Connected,
        Self::Readable,
        Self::Writable,
        Self::PeerClosed,
        Self::Refused,
        Self::Reset,
        Self::TimedOut,
        Self::TimeWait,
        Self::Closed,
    ];

    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

bitflags! {
    /// Yes-or-no facts about a connection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Flags: u16 {
        /// Timestamps were agreed (Snd.TS.OK).
        const TIMESTAMPS = 1 << 0;
        /// SACK was agreed.
        const SACK = 1 << 1;
        /// Window scaling was agreed.
        const SCALING = 1 << 2;
        /// A SYN or SYN-ACK is to be sent (again).
        const SYN_PENDING = 1 << 3;
        /// A reset is to be sent.
        const RST_PENDING = 1 << 4;
        /// An acknowledgment is to be sent in this turn.
        const ACK_NOW = 1 << 5;
        /// A window or keepalive probe is to be sent.
        const PROBE_PENDING = 1 << 6;
        /// Small segments go at once (no Nagle).
        const NODELAY = 1 << 7;
        /// Small segments have waited long enough.
        const FLUSH = 1 << 8;
        /// The application has let go: nobody will read or write any more.
        const ORPHAN = 1 << 9;
        /// We sent the first SYN.
        const ACTIVE = 1 << 10;
        /// The application found no room to write.
        const WRITER_WAITS = 1 << 11;
        /// CLOSE was called before the handshake was complete.
        const CLOSE_QUEUED = 1 << 12;
        /// Our SYN has left more than once, so its acknowledgment can't be timed.
        const SYN_RESENT = 1 << 14;
        /// The peer's SYN carried our options' counterparts (for a SYN-ACK).
        const PASSIVE_OPTIONS = 1 << 13;
        /// Only full segments go.
        const CORK = 1 << 15;
    }
}

/// TS.Recent and its surroundings (RFC 7323 §4, §5).
#[derive(Clone, Copy, Debug)]
struct Stamps {
    recent: u32,
    recent_at: Instant,
    offset: u32,
    last_value: u32,
}

/// How eagerly to acknowledge.
#[derive(Clone, Copy, Debug)]
struct AckPolicy {
    /// Duplicate ACKs owed, one per segment that arrived out of order.
    dups: u8,
    /// Acknowledgments that are sent without delay because the peer may be in slow start.
    quick: u8,
}

/// A connection whose payload is stored in `P`.
///
/// Fields are in the order of how often a segment in steady state touches them: those before what
/// waits to be sent are two cache lines; data that is received and acknowledged touches no others
/// than those up to [`RECEIVING_END`](Self::RECEIVING_END). Then comes what sending needs besides,
/// and what is needed now and then.
#[derive(Debug)]
#[repr(C)]
pub struct Connection<P> {
    state: State,
    ack: AckPolicy,
    /// Probes sent since the peer was last heard.
    probes_unanswered: u8,
    flags: Flags,
    events: u16,
    /// Payload bytes of a full segment without SACK blocks: Eff.snd.MSS of RFC 9293 §3.7.1.
    mss: u32,
    ports: Ports,
    rx: Receiver<P>,
    tx: Sender<P>,
    timers: Timers,
    stamps: Stamps,
    last_in_at: Instant,
    last_out_at: Instant,
    receive_buffer: ReceiveBuffer,
    ecn: EcnState,
    telemetry: TelemetryState,
    /// The MSS option of the peer, or what we assume without one.
    mss_peer: u16,
    /// Retransmissions of our SYN.
    syn_timeouts: u8,
    persist_backoff: u8,
    /// Shared with other connections until something of it is changed on this one.
    config: SharedConfig,
    volume: Volume,
    /// First the window itself, which whoever writes looks at.
    congestion: Controller,
    recovery: Recovery,
    rtt: RttEstimator,
    scoreboard: Scoreboard,
    rack: Rack,
    /// When SND.UNA last moved, or data began to wait: where the user timeout counts from.
    progress_at: Instant,
    /// There only while the connection is paced.
    pacer: Option<Box<Pacer>>,
    path: PathMtu,
    /// SND.NXT when the use of the congestion window was last recorded.
    usage_mark: SeqNum,
    counters: Counters,
    iss: SeqNum,
    irs: SeqNum,
    /// [`Instant::FAR_FUTURE`]: not known, as after a SYN cookie.
    syn_sent_at: Instant,
    challenge: ChallengeLimit,
}

/// Linux's TCP_MAX_QUICKACKS.
const QUICK_ACKS: u8 = 16;
/// A connection that has been silent for this long keeps no storage for what it might queue.
const REST_AFTER: Duration = Duration::from_secs(1);

const CACHE_LINE_BYTES: usize = 64;
const _: () = assert!(
    core::mem::offset_of!(Connection<&[u8]>, tx) + core::mem::offset_of!(Sender<&[u8]>, queue)
        <= 2 * CACHE_LINE_BYTES,
    "the sequence state of a connection is two cache lines"
);

impl<P: Payload> Connection<P> {
    /// Data that arrives in order and is acknowledged, and data that is queued, touch the bytes of
    /// a connection up to here: they are worth fetching ahead.
    pub const RECEIVING_END: usize =
        core::mem::offset_of!(Self, congestion) + Controller::WINDOW_BYTES;
    /// The bytes that data which is sent, and its acknowledgment, touch besides.
    pub const SENDING: Range<usize> = Self::RECEIVING_END..core::mem::offset_of!(Self, counters);

    /// Opens actively: [`poll_transmit`](Self::poll_transmit) yields the SYN.
    ///
    /// `iss` and `ts_offset` must be unpredictable to outsiders (RFC 6528, RFC 7323 §5.4).
    pub fn connect(
        cfg: impl Into<SharedConfig>,
        ports: Ports,
        iss: SeqNum,
        ts_offset: u32,
        now: Instant,
    ) -> Self {
        let mut c = Self::new(cfg.into(), ports, iss, ts_offset, now);
        c.flags |= Flags::ACTIVE | Flags::SYN_PENDING;
        c.transition(Input::ActiveOpen, now);
        c
    }

    /// Opens passively, answering `syn`: [`poll_transmit`](Self::poll_transmit) yields the
    /// SYN-ACK.
    pub fn accept(
        cfg: impl Into<SharedConfig>,
        ports: Ports,
        iss: SeqNum,
        ts_offset: u32,
        syn: &TcpHeader,
        now: Instant,
    ) -> Self {
        let mut c = Self::new(cfg.into(), ports, iss, ts_offset, now);
        c.negotiate(syn, now);
        c.tx.set_window(syn.seq, iss, u32::from(syn.window));
        c.flags |= Flags::SYN_PENDING;
        c.transition(Input::PassiveOpen, now);
        c
    }

    /// Like [`accept`](Self::accept) for a SYN whose SYN-ACK has been sent by other means (a
    /// compact half-open record, a SYN cookie). Feed it the ACK that completes the handshake.
    ///
    /// Of `syn` only the sequence number, the window and the options are looked at.
    /// `syn_ack_sent_at` gives the round-trip time, unless it is not known or the SYN-ACK was
    /// retransmitted `retransmissions` times.
    #[allow(
        clippy::too_many_arguments,
        reason = "the fields of a half-open record"
    )]
    pub fn accept_after_syn_ack(
        cfg: impl Into<SharedConfig>,
        ports: Ports,
        iss: SeqNum,
        ts_offset: u32,
        syn: &TcpHeader,
        syn_ack_sent_at: Option<Instant>,
        retransmissions: u8,
        now: Instant,
    ) -> Self {
        let mut c = Self::accept(cfg, ports, iss, ts_offset, syn, now);
        c.flags -= Flags::SYN_PENDING;
        c.tx.nxt = iss + 1;
        let _ = c.rx.advertise_unscaled();
        c.syn_sent_at = syn_ack_sent_at.unwrap_or(Instant::FAR_FUTURE);
        c.syn_timeouts = retransmissions;
        c.flags.set(Flags::SYN_RESENT, retransmissions > 0);
        c.timers.arm(Timer::Retransmit, now + c.rtt.rto());
        c
    }

    fn new(cfg: SharedConfig, ports: Ports, iss: SeqNum, ts_offset: u32, now: Instant) -> Self {
        let mut flags = Flags::empty();
        flags.set(Flags::NODELAY, cfg.nodelay);
        flags.set(Flags::CORK, cfg.cork);
        let shift = if cfg.window_scale {
            open::window_shift(cfg.rcv_buf_max_bytes)
        } else {
            0
        };
        let mss_assumed = u32::from(cfg.mss_default.min(cfg.mss_local));
        Self {
            state: State::Closed,
            ack: AckPolicy {
                dups: 0,
                quick: QUICK_ACKS,
            },
            flags,
            events: 0,
            mss: mss_assumed,
            rx: Receiver::new(cfg.rcv_buf_bytes, shift, mss_assumed),
            tx: Sender::new(iss),
            timers: Timers::new(),
            stamps: Stamps {
                recent: 0,
                recent_at: now,
                offset: ts_offset,
                last_value: 0,
            },
            last_in_at: now,
            last_out_at: now,
            receive_buffer: ReceiveBuffer::new(&cfg, now),
            progress_at: now,
            usage_mark: iss,
            recovery: Recovery::new(iss),
            congestion: Controller::new(cfg.congestion, mss_assumed, false),
            rtt: RttEstimator::new(&cfg),
            scoreboard: Scoreboard::new(),
            rack: Rack::new(iss),
            ecn: EcnState::new(iss),
            telemetry: TelemetryState::default(),
            volume: Volume::default(),
            counters: Counters::default(),
            ports,
            iss,
            irs: SeqNum::default(),
            syn_sent_at: now,
            syn_timeouts: 0,
            probes_unanswered: 0,
            persist_backoff: 0,
            mss_peer: cfg.mss_default,
            path: PathMtu::new(cfg.mss_local),
            pacer: None,
            challenge: ChallengeLimit::new(
                cfg.seed ^ (u64::from(iss.get()) << 32) ^ u64::from(ts_offset),
            ),
            config: cfg,
        }
    }

    /// The retransmission timer has expired more than once without any answer: whoever is on the
    /// way may not be there any more.
    #[inline]
    pub fn is_unanswered(&self) -> bool {
        !self.tx.is_quiet() && self.has_timed_out_twice()
    }

    /// Apart, so that nothing is read of it where it is not asked.
    #[inline(never)]
    fn has_timed_out_twice(&self) -> bool {
        self.recovery.timeouts > 1
    }

    /// The state.
    #[inline]
    pub fn state(&self) -> State {
        self.state
    }

    /// The ports.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The next thing to tell, until there is nothing.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.events == 0 {
            return None;
        }
        let event = *Event::ALL.get(self.events.trailing_zeros() as usize)?;
        // Whoever frees the connection must have polled its last segment first.
        let owed = Flags::RST_PENDING | Flags::ACK_NOW;
        if matches!(event, Event::TimeWait | Event::Closed) && self.flags.intersects(owed) {
            return None;
        }
        self.events &= !event.bit();
        Some(event)
    }

    /// The earliest time at which [`on_timer`](Self::on_timer) has something to do;
    /// [`Instant::FAR_FUTURE`] if there is no such time.
    #[inline]
    pub fn poll_at(&self) -> Instant {
        self.timers.earliest()
    }

    /// To be called now and then while [`poll_at`](Self::poll_at) has nothing: a connection that
    /// rests gives back the storage of its queues. Says when to call again if it is too early.
    pub fn rest(&mut self, now: Instant) -> Option<Instant> {
        let board = &self.scoreboard;
        if !(self.tx.queue.has_storage() || self.rx.has_storage() || board.has_storage()) {
            return None;
        }
        let at = self.last_in_at.max(self.last_out_at) + REST_AFTER;
        if now < at {
            return Some(at);
        }
        self.tx.queue.shrink();
        self.rx.shrink();
        self.scoreboard.shrink();
        None
    }

    #[inline]
    fn raise(&mut self, event: Event) {
        self.events |= event.bit();
    }

    /// Changes the state, if the table says so, and does what belongs to entering the new one.
    fn transition(&mut self, input: Input, now: Instant) {
        let Some(next) = self.state.next(input) else {
            return;
        };
        self.state = next;
        match next {
            State::Established => self.on_established(now),
            State::FinWait2 if self.flags.contains(Flags::ORPHAN) => {
                self.timers.arm(Timer::Linger, now + self.config.fin_wait_2);
            }
            State::TimeWait => {
                self.timers.disarm_all();
                self.timers.arm(Timer::Linger, now + self.config.time_wait);
                self.raise(Event::TimeWait);
            }
            State::Closed => self.on_closed(),
            _ => {}
        }
    }

    fn on_closed(&mut self) {
        self.timers.disarm_all();
        self.tx.queue.clear();
        self.scoreboard.clear();
        self.ack.dups = 0;
        self.flags -= Flags::SYN_PENDING | Flags::ACK_NOW | Flags::PROBE_PENDING | Flags::FLUSH;
        self.raise(Event::Closed);
    }

    /// Ends the connection because of something that `event` names.
    #[cold]
    fn fail(&mut self, event: Event, now: Instant) {
        if self.state != State::Closed {
            self.raise(event);
            self.transition(Input::Delete, now);
        }
    }

    /// Ends the connection and tells the peer (RFC 9293 §3.10.5).
    #[cold]
    fn reset_peer(&mut self, now: Instant) {
        //= RFC 9293 §3.10.5
        //# "Send a reset segment: <SEQ=SND.NXT><CTL=RST> ... all segments queued for transmission
        //#  (except for the RST formed above) or retransmission should be flushed."
        if self.state.is_synchronized() || self.state == State::SynReceived {
            self.flags |= Flags::RST_PENDING;
        }
        self.transition(Input::Delete, now);
    }
}

#[cfg(test)]
mod tests;
