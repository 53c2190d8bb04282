//! What the application and the stack ask of a connection.
#![forbid(unsafe_code)]

use super::super::config::{Config, Keepalive};
use super::super::congestion::CongestionControl;
use super::super::info::{Counters, Info, TimeWaitSeed, TimeWaitStamps};
use super::super::payload::Payload;
use super::super::recovery::Phase;
use super::super::state::{Input, State};
use super::super::timers::Timer;
use super::{Connection, Event, Flags};
use crate::time::{Duration, Instant};
use crate::wire::SeqNum;

/// Writing.
impl<P: Payload> Connection<P> {
    /// Bytes that can be written now. Zero once the sending side is closed.
    pub fn send_space(&self) -> usize {
        if !self.may_write() {
            return 0;
        }
        (self.send_buffer() as usize).saturating_sub(self.bytes_queued())
    }

    /// Bytes that are written and not acknowledged.
    #[inline]
    pub fn bytes_queued(&self) -> usize {
        self.tx.queue.len()
    }

    fn may_write(&self) -> bool {
        !self.tx.fin
            && !self.flags.intersects(Flags::ORPHAN | Flags::CLOSE_QUEUED)
            && matches!(
                self.state,
                State::SynSent | State::SynReceived | State::Established | State::CloseWait
            )
    }

    /// Whether enough room is free that it is worth waking a writer: a third of the buffer, as
    /// on Linux. [`Event::Writable`] is raised when this becomes true
    /// again after a write that left it false.
    pub fn is_writable(&self) -> bool {
        self.may_write() && self.send_space() >= self.send_buffer() as usize / 3
    }

    /// Writes a payload without copying it. `more`: the application will write again at once,
    /// so a segment that is not full may wait (MSG_MORE).
    ///
    /// # Errors
    /// Gives the payload back if it is longer than [`send_space`](Self::send_space).
    pub fn push(&mut self, payload: P, more: bool) -> Result<(), P> {
        if payload.len() > self.send_space() {
            self.flags |= Flags::WRITER_WAITS;
            return Err(payload);
        }
        self.tx.queue.push(payload);
        self.on_written(more);
        Ok(())
    }

    /// Copies what fits into the spare room of the last payload written, and returns how many
    /// bytes that was. Push a fresh payload for the rest.
    pub fn append(&mut self, bytes: &[u8], more: bool) -> usize {
        let room = self.send_space();
        let n = bytes
            .get(..room.min(bytes.len()))
            .map_or(0, |b| self.tx.queue.append(b));
        if n > 0 {
            self.on_written(more);
        }
        n
    }

    fn on_written(&mut self, more: bool) {
        self.tx.on_written(more);
        if !self.is_writable() {
            self.flags |= Flags::WRITER_WAITS;
        }
    }

    /// Bytes in the last payload written, as far as they are unacknowledged. To fill it up with
    /// [`append`](Self::append) makes sense while it is shorter than a segment.
    pub fn tail_len(&self) -> usize {
        self.tx.queue.tail_len()
    }

    /// The application will write no more, or nobody will read what it writes.
    pub fn is_send_closed(&self) -> bool {
        self.tx.fin
            || self.flags.intersects(Flags::ORPHAN | Flags::CLOSE_QUEUED)
            || self.state == State::Closed
    }

    /// The sequence number after the last byte written.
    pub fn write_seq(&self) -> SeqNum {
        self.tx.queue.end()
    }

    /// Everything before this sequence number is acknowledged.
    pub fn acked_seq(&self) -> SeqNum {
        self.tx.una
    }

    /// The application found no room: [`Event::Writable`] is to follow.
    pub fn want_write(&mut self) {
        self.flags |= Flags::WRITER_WAITS;
    }

    /// Payload bytes of a full segment: Eff.snd.MSS of RFC 9293 §3.7.1.
    pub fn mss(&self) -> u32 {
        self.mss
    }

    /// Tells a writer that found too little room when there is enough.
    pub(super) fn wake_writer(&mut self) {
        if self.flags.contains(Flags::WRITER_WAITS) && self.is_writable() {
            self.flags -= Flags::WRITER_WAITS;
            self.raise(Event::Writable);
        }
    }

    /// Takes back what an earlier write said with `more`: what is queued may go.
    pub fn flush(&mut self) {
        self.tx.on_written(false);
    }

    /// Bytes written and never sent.
    pub fn unsent_bytes(&self) -> usize {
        self.tx.unsent() as usize
    }

    /// Bytes written and not acknowledged, sent or not (`SIOCOUTQ`). Like Linux, counts our FIN.
    pub fn unacked_bytes(&self) -> usize {
        self.tx.queue.len() + usize::from(self.tx.fin && !self.tx.fin_acked())
    }
}

/// Reading.
impl<P: Payload> Connection<P> {
    /// Bytes that can be read now.
    pub fn readable_bytes(&self) -> usize {
        self.rx.readable()
    }

    /// What can be read, in order, without taking it.
    pub fn peek_pieces(&self) -> impl Iterator<Item = &P> {
        self.rx.pieces()
    }

    /// Takes at most `max` bytes that lie in one piece, without copying.
    pub fn pop_piece(&mut self, max: usize) -> Option<P> {
        let piece = self.rx.pop(max);
        if piece.is_some() {
            self.on_read();
        }
        piece
    }

    /// Drops `n` bytes that have been read by [`peek_pieces`](Self::peek_pieces); returns how
    /// many there were.
    pub fn consume(&mut self, n: usize) -> usize {
        let done = self.rx.consume(n);
        if done > 0 {
            self.on_read();
        }
        done
    }

    pub(super) fn on_read(&mut self) {
        if self.state.may_receive_data() && self.rx.wants_window_update() {
            self.flags |= Flags::ACK_NOW;
        }
    }

    /// The peer has closed and everything that it sent has been read.
    pub fn recv_finished(&self) -> bool {
        self.rx.fin_received() && self.rx.readable() == 0
    }

    /// The peer has closed, whether or not everything has been read.
    pub fn peer_closed(&self) -> bool {
        self.rx.fin_received()
    }
}

/// Closing.
impl<P: Payload> Connection<P> {
    /// The application will write no more: FIN follows what has been written.
    pub fn shutdown_write(&mut self, now: Instant) {
        match self.state {
            //= RFC 9293 §3.10.4
            //# "If no SENDs have been issued ... otherwise, queue for processing after entering
            //#  ESTABLISHED state."
            State::SynReceived => self.flags |= Flags::CLOSE_QUEUED,
            State::SynSent => self.transition(Input::Close, now),
            State::Established | State::CloseWait => {
                self.tx.fin = true;
                self.transition(Input::Close, now);
            }
            _ => {}
        }
    }

    /// The application lets go of the connection: it will neither write nor read. What has
    /// been written is still delivered, unless something received was never read: then the
    /// peer is reset.
    pub fn close(&mut self, now: Instant) {
        self.flags |= Flags::ORPHAN;
        if self.rx.readable() > 0 && !matches!(self.state, State::TimeWait | State::Closed) {
            //= RFC 9293 §3.6.1
            //# "If such a host issues a CLOSE call while received data is still pending in the
            //#  TCP connection ... its TCP implementation SHOULD send a RST to show that data
            //#  was lost (SHLD-3)."
            self.reset_peer(now);
            return;
        }
        self.shutdown_write(now);
        if self.state == State::FinWait2 {
            self.timers.arm(Timer::Linger, now + self.config.fin_wait_2);
        }
    }

    /// Ends the connection now (ABORT of RFC 9293 §3.10.5): the peer is reset, and what has
    /// been written and not delivered is lost.
    pub fn abort(&mut self, now: Instant) {
        self.flags |= Flags::ORPHAN;
        match self.state {
            //= RFC 9293 §3.10.5
            //# "Respond with "ok" and delete the TCB, enter CLOSED state, and return."
            State::Closing | State::LastAck | State::TimeWait => {
                self.transition(Input::Delete, now);
            }
            _ => self.reset_peer(now),
        }
    }
}

/// Options and observation.
impl<P: Payload> Connection<P> {
    /// The settings, except for [`set_nodelay`](Self::set_nodelay) and
    /// [`set_cork`](Self::set_cork).
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Disables or enables Nagle's algorithm. Disabling lets waiting data go.
    pub fn set_nodelay(&mut self, on: bool) {
        self.flags.set(Flags::NODELAY, on);
    }

    /// Corks or uncorks. Uncorking lets waiting data go.
    pub fn set_cork(&mut self, on: bool) {
        if self.flags.contains(Flags::CORK) && !on {
            self.flush();
        }
        self.flags.set(Flags::CORK, on);
    }

    /// Starts, changes or stops probing a silent peer.
    pub fn set_keepalive(&mut self, keepalive: Option<Keepalive>, now: Instant) {
        self.config.change(|c| c.keepalive = keepalive);
        if self.state.is_synchronized() && self.state != State::TimeWait {
            self.arm_keepalive(now);
        }
    }

    /// Changes the congestion control (`TCP_CONGESTION`); the window stays as it is.
    pub fn set_congestion(&mut self, control: CongestionControl) {
        if control != self.config.congestion {
            self.config.change(|c| c.congestion = control);
        }
        self.congestion.set_control(control);
        self.choose_pacing();
    }

    /// Sets how long data may stay unacknowledged (`TCP_USER_TIMEOUT`).
    pub fn set_user_timeout(&mut self, timeout: Option<Duration>) {
        self.config.change(|c| c.user_timeout = timeout);
    }

    /// Sets how long an acknowledgment may wait for data to travel with.
    pub fn set_delayed_ack(&mut self, delay: Duration) {
        self.config.change(|c| c.delayed_ack = delay);
    }

    /// Acknowledges the next segments at once (`TCP_QUICKACK`), or stops doing so.
    pub fn set_quick_ack(&mut self, on: bool) {
        self.ack.quick = if on { super::QUICK_ACKS } else { 0 };
        if on && self.timers.is_armed(Timer::DelayedAck) {
            self.flags |= Flags::ACK_NOW;
        }
    }

    /// Sets the bounds of the retransmission timeout.
    pub fn set_rto_bounds(&mut self, floor: Duration, ceiling: Duration) {
        self.config.change(|c| {
            c.rto_min = floor;
            c.rto_max = ceiling;
        });
        self.rtt
            .set_bounds(self.config.rto_min, self.config.rto_max);
    }

    /// Sets how long FIN-WAIT-2 lasts without an application (`TCP_LINGER2`).
    pub fn set_fin_wait_2(&mut self, timeout: Duration) {
        self.config.change(|c| c.fin_wait_2 = timeout);
    }

    /// Sets how often a SYN is sent again (`TCP_SYNCNT`).
    pub fn set_syn_retries(&mut self, retries: u8) {
        self.config.change(|c| c.syn_retries = retries);
    }

    /// Counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A snapshot.
    pub fn info(&self) -> Info {
        let scaling = self.flags.contains(Flags::SCALING);
        Info {
            state: self.state,
            congestion: self.congestion.control().name(),
            snd_mss: self.mss,
            rcv_mss: self.rx.mss,
            srtt: self.rtt.srtt(),
            rttvar: self.rtt.rttvar(),
            min_rtt: self.rtt.min_rtt(),
            rto: self.rtt.rto(),
            backoffs: self.recovery.timeouts,
            cwnd: self.congestion.cwnd(),
            lost: self.scoreboard.lost_bytes(),
            reordering: self.rack.reordering_seen(),
            ssthresh: self.congestion.ssthresh(),
            pacing_rate: self.pacing_rate(),
            max_pacing_rate: self.rate_limit(),
            recovering: self.recovery.phase != Phase::Open,
            snd_wnd: self.tx.wnd,
            rcv_wnd: self.rx.window(),
            unacked: self.tx.flight(),
            sacked: self.scoreboard.sacked_bytes(),
            unsent: self.tx.unsent(),
            readable: u32::try_from(self.rx.readable()).unwrap_or(u32::MAX),
            snd_wscale: scaling.then_some(self.tx.shift),
            rcv_wscale: scaling.then_some(self.rx.shift),
            sack: self.flags.contains(Flags::SACK),
            timestamps: self.flags.contains(Flags::TIMESTAMPS),
            ecn: self.ecn.agreed,
            volume: self.volume,
            counters: self.counters,
        }
    }

    /// What the compact record that replaces this connection in TIME-WAIT needs to know.
    pub fn time_wait_seed(&self) -> TimeWaitSeed {
        let stamps = TimeWaitStamps {
            recent: self.stamps.recent,
            recent_at: self.stamps.recent_at,
            offset: self.stamps.offset,
            last_value: self.stamps.last_value,
        };
        TimeWaitSeed {
            ports: self.ports,
            snd_nxt: self.tx.nxt,
            rcv_nxt: self.rx.nxt,
            rcv_wnd: self.rx.window(),
            rcv_wscale: self.rx.shift,
            timestamps: self.flags.contains(Flags::TIMESTAMPS).then_some(stamps),
            until: self.timers.at(Timer::Linger),
            duration: self.config.time_wait,
        }
    }
}
