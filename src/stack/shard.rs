//! One stack instance: the run-to-completion turn and the tables it works on.
#![forbid(unsafe_code)]

use core::net::SocketAddr;
use core::ops::Range;
use std::collections::VecDeque;
use std::sync::Arc;

use bitflags::bitflags;
use hashbrown::HashMap;

use super::api::{ConnError, Ready, TurnReport, Wakeup};
use super::configs::Configs;
use super::counters::Counters;
use super::dispatch::{Batch, Dispatch, Inbox};
use super::flow_table::{Flow, FlowKey, FlowTable};
use super::link::{HopCache, Link};
use super::listeners::Listener;
use super::parts::Continued;
use super::slab::{self, CacheLine, Slab};
use super::streams::has_its_share;
use super::time_wait::TimeWaits;
use super::timer_wheel::TimerWheel;
use super::zero_copy::{Completion, Marks};
use crate::control::{ControlHandle, Discovery};
use crate::device::{
    Capabilities, Device, DeviceStats, FRAME_PIECES_MAX, FramePart, Gone, RxFrame, TxFrame,
};
use crate::limits::{CONNECTIONS_PER_SHARD, LISTENERS_MAX, RX_BURST_FRAMES};
use crate::tcp::isn::IsnGenerator;
use crate::tcp::time_wait::TimeWait;
use crate::tcp::{Connection, Event, State};
use crate::time::{Duration, Instant};
use crate::zbuf::{Pool, Slice};

/// Under a flood that fills every batch, timers still run this often.
const TIMERS_AT_LEAST_EVERY: Duration = Duration::from_millis(5);
/// A frame of 64 KiB in 2 KiB objects comes in this many parts at most, and is never torn apart.
const PARTS_MAX: usize = 64 / 2 / FRAME_PIECES_MAX + 3;
/// So many bytes of answers do not wait for the end of the turn.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// How long to sleep at first, and at most, on a device that wakes nobody.
const POLL_EVERY_FIRST: Duration = Duration::from_micros(50);
const POLL_EVERY_MAX: Duration = Duration::from_millis(1);
/// How many flows the table has room for before it first grows.
const FLOWS_INITIAL: usize = 4096;

bitflags! {
    /// What the shard remembers about a connection besides the protocol's own state.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Mark: u16 {
        /// It is on the list of those to be polled for segments.
        const DIRTY = 1;
        /// It is on the list of those with a wakeup to report.
        const WOKEN = 2;
        /// The application has let go of it.
        const DETACHED = 4;
        /// The application has not taken it from the accept queue yet.
        const EMBRYONIC = 8;
        /// The application has shut down reading.
        const READ_SHUT = 16;
        /// The handshake was completed at some time.
        const CONNECTED = 32;
        /// A send found no memory: wake it when there is some.
        const STARVED = 64;
        /// An inline loop is told what happens to it ([`super::dispatch`]).
        const INLINE = 128;
        /// The application knows that it is connected, or that it will not be.
        const ANNOUNCED = 256;
        /// The application has been told of the end of the stream.
        const END_TOLD = 512;
        /// The application does not want to be told of bytes.
        const PAUSED = 1024;
        /// A send by reference did not take everything.
        const WANTS_ROOM = 2048;
        /// What was sent has marks that are not acknowledged.
        const MARKED = 4096;
    }
}

/// A connection with what the shard knows about it. What a packet touches comes first.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Slot {
    pub(super) marks: Mark,
    pub(super) edges: Ready,
    pub(super) error: Option<ConnError>,
    /// Bytes of packet memory that the application holds of what has arrived here.
    pub(super) lent_bytes: u32,
    pub(super) token: u64,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) hop: HopCache,
    pub(super) conn: Connection<Slice>,
    /// Made when the application first marks what it sends.
    pub(super) completions: Option<Box<Marks>>,
    /// The listener it came from, while it has not been accepted.
    pub(super) listener: u32,
}

impl Slot {
    const CONN: usize = core::mem::offset_of!(Self, conn);
    /// What of it a packet with data and its acknowledgment touch.
    pub(super) const RECEIVING: Range<usize> = 0..Self::CONN + Connection::<Slice>::RECEIVING_END;
    /// What else data that is sent, and its acknowledgment, touch.
    pub(super) const SENDING: Range<usize> = Self::CONN + Connection::<Slice>::SENDING.start
        ..Self::CONN + Connection::<Slice>::SENDING.end;
}

const _: () = assert!(
    slab::value_at(Slot::CONN).is_multiple_of(CacheLine::BYTES),
    "the sequence state, two cache lines long, begins with one"
);
const _: () = assert!(
    slab::value_at(Slot::RECEIVING.end) <= 9 * CacheLine::BYTES,
    "what a packet touches of its connection is nine cache lines"
);

/// What a shard is made of.
pub struct ShardParts {
    /// The link.
    pub device: Box<dyn Device>,
    /// The memory that the link receives into.
    pub pool: Pool,
    /// The control plane.
    pub control: Arc<ControlHandle>,
    /// The interface that the link belongs to, as the control plane counts.
    pub ifindex: u32,
    /// Random bytes from the kernel: keys of the flow hash and of sequence numbers.
    pub secret: [u8; 32],
    /// Who finds neighbours on a link that the kernel does not know.
    pub discovery: Option<Box<Discovery>>,
    /// Accept segments whose checksum a virtual link has left unfinished.
    pub partial_checksums: bool,
    /// The present.
    pub now: Instant,
}

/// One stack instance bound to one or more queue pairs of a device.
pub struct Shard {
    pub(super) device: Box<dyn Device>,
    pub(super) pool: Pool,
    pub(super) capabilities: Capabilities,
    pub(super) partial_checksums: bool,
    pub(super) link: Link,
    pub(super) slots: Slab<Slot, CacheLine>,
    pub(super) flows: FlowTable,
    pub(super) time_waits: TimeWaits,
    pub(super) listeners: Slab<Listener>,
    pub(super) listeners_by_port: HashMap<u16, Vec<u32>, foldhash::fast::FixedState>,
    pub(super) timers: TimerWheel,
    pub(super) isn: IsnGenerator,
    pub(super) seed: u64,
    pub(super) configs: Configs,
    pub(super) dirty: Vec<u32>,
    pub(super) woken: Vec<u32>,
    pub(super) starved: Vec<u32>,
    pub(super) listener_wakeups: Vec<Wakeup>,
    pub(super) tx: VecDeque<TxFrame>,
    pub(super) stats: Counters,
    pub(super) inbox: Inbox,
    /// Completions of connections that are not the application's any more.
    pub(super) orphans: VecDeque<Completion>,
    /// Where small payload is copied together while memory is short.
    pub(super) scrap: Option<Slice>,
    rx: Vec<RxFrame>,
    due: Vec<u32>,
    timers_ran: Instant,
    pub(super) continued: Option<Continued>,
    /// When a device that wakes nobody must be looked at again, and how long that is from then.
    poll_at: Instant,
    poll_every: Duration,
}

impl core::fmt::Debug for Shard {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Shard")
            .field("connections", &self.slots.len())
            .field("time_wait", &self.time_waits.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl Shard {
    /// A shard with no connections.
    pub fn new(parts: ShardParts) -> Self {
        let ShardParts {
            device,
            mut pool,
            control,
            ifindex,
            secret,
            discovery,
            partial_checksums,
            now,
        } = parts;
        let mut words = [[0u8; 8]; 4];
        for (word, bytes) in words.iter_mut().zip(secret.chunks_exact(8)) {
            word.copy_from_slice(bytes);
        }
        let [isn_a, isn_b, flow_key, seed] = words.map(u64::from_ne_bytes);
        let mut isn_key = [0u8; 16];
        for (to, from) in isn_key
            .iter_mut()
            .zip([isn_a, isn_b].iter().flat_map(|w| w.to_ne_bytes()))
        {
            *to = from;
        }
        let hasher = foldhash::fast::FixedState::with_seed(flow_key);
        // Whatever the link, a burst of acknowledgments must find memory.
        pool.reserve_rx(RX_BURST_FRAMES);
        Self {
            capabilities: device.capabilities(),
            device,
            pool,
            partial_checksums,
            link: Link::new(control, ifindex, discovery),
            slots: Slab::new(CONNECTIONS_PER_SHARD),
            flows: FlowTable::new(flow_key, FLOWS_INITIAL),
            time_waits: TimeWaits::new(),
            listeners: Slab::new(LISTENERS_MAX),
            listeners_by_port: HashMap::with_hasher(hasher),
            timers: TimerWheel::new(now),
            isn: IsnGenerator::new(isn_key),
            seed,
            configs: Configs::default(),
            dirty: Vec::new(),
            woken: Vec::new(),
            starved: Vec::new(),
            listener_wakeups: Vec::new(),
            tx: VecDeque::new(),
            stats: Counters::default(),
            inbox: Inbox::default(),
            orphans: VecDeque::new(),
            scrap: None,
            rx: Vec::with_capacity(RX_BURST_FRAMES + PARTS_MAX),
            due: Vec::with_capacity(RX_BURST_FRAMES),
            timers_ran: now,
            continued: None,
            poll_at: Instant::FAR_FUTURE,
            poll_every: POLL_EVERY_FIRST,
        }
    }

    /// One run-to-completion turn (LUNA §5.1, batch-r2c): send what the application queued since
    /// the last one, receive a batch, run it through TCP packet by packet, fire timers. If that
    /// gives the application nothing to do, what TCP itself wants to say is sent at once;
    /// otherwise it waits for the application's answers, to travel with them.
    pub fn turn(&mut self, now: Instant) -> TurnReport {
        self.turn_with(now, &mut Batch)
    }

    /// As [`Shard::turn`], with an application that is called after each packet if it is an
    /// inline one (LUNA §5.1, inline-r2c): what it answers is handed to the device before the
    /// next packet is looked at; the doorbell is rung once. A device where nothing leaves before
    /// that, or where each frame costs a call, is given all the answers then: those on one
    /// connection may be one long frame. But many bytes of answers leave at once everywhere, so
    /// that the peer can begin with them.
    pub fn turn_with<D: Dispatch>(&mut self, now: Instant, dispatch: &mut D) -> TurnReport {
        if self.inbox.active {
            // The application, being called, turns us.
            return TurnReport::default();
        }
        self.stats.turns += 1;
        self.refresh(now);
        if self.pool.drain_remote() > 0 {
            self.credit_returned();
        }
        if D::INLINE {
            self.run_inline(now, dispatch, true);
        }
        let mut tx_frames = self.send_queued(now);
        let mut frames = core::mem::take(&mut self.rx);
        let received = self
            .device
            .rx_burst(&mut self.pool, &mut frames, RX_BURST_FRAMES);
        self.look_ahead(&frames);
        let at_once = !self.capabilities.leaves_at_flush;
        let mut gone = self.stats.bytes_out;
        for frame in frames.drain(..) {
            // All that answers one packet goes together.
            let ends = matches!(frame.part, FramePart::Whole | FramePart::Last);
            self.ingress(now, frame);
            if D::INLINE {
                self.run_inline(now, dispatch, ends && at_once);
                if ends && self.stats.bytes_out - gone >= ANSWER_BYTES_MAX {
                    gone = self.stats.bytes_out;
                    self.send_answers(now);
                    self.device.flush(&mut self.pool);
                }
            }
        }
        self.rx = frames;
        self.poll_at = Instant::FAR_FUTURE;
        if received > 0 {
            self.poll_every = POLL_EVERY_FIRST;
        }
        // A late turn drains the ring before it fires a timer: the acknowledgment may be in it.
        let drained = received < RX_BURST_FRAMES;
        if drained || now.saturating_since(self.timers_ran) > TIMERS_AT_LEAST_EVERY {
            self.run_timers(now);
        }
        self.wake_starved();
        if D::INLINE {
            self.run_inline(now, dispatch, true);
        }
        if self.woken.is_empty() && self.listener_wakeups.is_empty() {
            tx_frames += self.send_queued(now);
        } else {
            self.device.flush(&mut self.pool);
        }
        let report = TurnReport {
            rx_frames: received,
            tx_frames,
            more: !drained || !self.tx.is_empty() || !self.dirty.is_empty(),
        };
        self.stats.turns_idle += u64::from(report.is_idle());
        report
    }

    /// Sends what the calls since the last turn queued, without receiving.
    pub fn flush(&mut self, now: Instant) -> TurnReport {
        let tx_frames = self.send_queued(now);
        TurnReport {
            rx_frames: 0,
            tx_frames,
            more: !self.tx.is_empty() || !self.dirty.is_empty(),
        }
    }

    fn send_queued(&mut self, now: Instant) -> usize {
        if self.dirty.is_empty() && self.tx.is_empty() {
            return 0;
        }
        let sent = self.egress(now);
        self.device.flush(&mut self.pool);
        sent
    }

    /// Takes over changes of the control plane.
    pub(super) fn refresh(&mut self, now: Instant) {
        let changed = self.link.refresh();
        if changed || self.link.has_waiting() {
            self.link.release_waiting(now, &mut self.tx);
        }
        self.link.run_discovery(now, &mut self.tx);
        if self.link.has_notices() {
            self.take_notices(now);
        }
    }

    fn run_timers(&mut self, now: Instant) {
        self.timers_ran = now;
        let mut due = core::mem::take(&mut self.due);
        self.timers.expire(now, &mut due);
        if self.looks_ahead() {
            due.iter()
                .for_each(|index| self.slots.prefetch(*index, 0..size_of::<Slot>()));
        }
        for index in due.drain(..) {
            let Some(slot) = self.slots.at_mut(index) else {
                continue;
            };
            if slot.conn.poll_at() <= now {
                slot.conn.on_timer(now);
                self.after_input(now, index);
            } else {
                // A lazy timer: its deadline has moved since.
                let at = match slot.conn.poll_at() {
                    Instant::FAR_FUTURE => slot.conn.rest(now),
                    at => Some(at),
                };
                if let Some(at) = at {
                    self.timers.schedule(index, at);
                }
            }
        }
        self.due = due;
        self.time_waits.expire(now, &mut self.flows);
    }

    /// The next moment at which [`Shard::turn`] has something to do even if no frame arrives.
    pub fn next_deadline(&self) -> Instant {
        if !self.dirty.is_empty() || !self.tx.is_empty() {
            return Instant::ZERO;
        }
        let waiting = if self.link.has_waiting() {
            // The control plane announces a neighbour by its generation; look again soon.
            self.timers_ran + Duration::from_millis(1)
        } else {
            Instant::FAR_FUTURE
        };
        self.timers
            .next_deadline()
            .min(self.time_waits.next_deadline())
            .min(self.link.discovery_deadline())
            .min(self.poll_at)
            .min(waiting)
    }

    /// Prepares the device for sleep; false: frames are waiting, do not sleep.
    pub fn arm(&mut self) -> bool {
        if self.device.must_be_polled() {
            self.poll_at = self.timers_ran + self.poll_every;
            self.poll_every = (self.poll_every + self.poll_every).min(POLL_EVERY_MAX);
        }
        self.device.arm()
    }

    /// What to wait on for frames.
    pub fn wait_fds(&self) -> &[std::os::fd::RawFd] {
        self.device.wait_fds()
    }

    /// Moves the wakeups since the last call to the back of `out`.
    pub fn take_wakeups(&mut self, out: &mut Vec<Wakeup>) {
        out.append(&mut self.listener_wakeups);
        for index in self.woken.drain(..) {
            let Some(slot) = self.slots.at_mut(index) else {
                continue;
            };
            // An inline loop has taken it over meanwhile.
            if slot.marks.contains(Mark::INLINE) {
                continue;
            }
            slot.marks.remove(Mark::WOKEN);
            let edge = core::mem::take(&mut slot.edges);
            if !edge.is_empty() {
                out.push(Wakeup {
                    token: slot.token,
                    edge,
                });
            }
        }
    }

    /// Counters since the shard was made.
    pub fn counters(&self) -> &Counters {
        &self.stats
    }

    /// The device's counters.
    pub fn device_stats(&self) -> DeviceStats {
        self.device.stats()
    }

    /// The packet memory.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The packet memory, to allocate from.
    pub fn pool_mut(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// Lets go of the device, for good: nothing is received or sent any more.
    pub fn give_up_device(&mut self) {
        self.device = Box::new(Gone);
    }

    /// How many connections, half-open ones included, and how many TIME-WAIT records there are.
    pub fn population(&self) -> (usize, usize) {
        (self.slots.len(), self.time_waits.len())
    }

    /// Packet memory: objects in use.
    pub fn objects_in_use(&self) -> usize {
        self.pool.objects_in_use()
    }

    /// Whether any connection, listener or TIME-WAIT record has this local port.
    pub fn uses_port(&self, port: u16) -> bool {
        self.listeners_by_port.contains_key(&port)
            || self
                .slots
                .indices()
                .any(|i| self.slots.at(i).is_some_and(|s| s.local.port() == port))
            || self.time_waits.uses_port(port)
    }

    /// Marks a connection as having, perhaps, something to send.
    pub(super) fn mark_dirty(&mut self, index: u32) {
        if let Some(slot) = self.slots.at_mut(index)
            && !slot.marks.contains(Mark::DIRTY)
        {
            slot.marks.insert(Mark::DIRTY);
            self.dirty.push(index);
        }
    }

    /// Notes kinds of readiness that arose.
    pub(super) fn wake(&mut self, index: u32, edge: Ready) {
        let Some(slot) = self.slots.at_mut(index) else {
            return;
        };
        if slot.marks.intersects(Mark::DETACHED | Mark::EMBRYONIC) || edge.is_empty() {
            return;
        }
        slot.edges |= edge;
        if !slot.marks.contains(Mark::WOKEN) {
            slot.marks.insert(Mark::WOKEN);
            if slot.marks.contains(Mark::INLINE) {
                self.inbox.conns.push_back(index);
            } else {
                self.woken.push(index);
            }
        }
    }

    /// Looks at what a segment, a timer or a call has done to a connection.
    pub(super) fn after_input(&mut self, now: Instant, index: u32) {
        while let Some(slot) = self.slots.at_mut(index)
            && let Some(event) = slot.conn.poll_event()
        {
            self.on_event(now, index, event);
        }
        if self
            .slots
            .at(index)
            .is_some_and(|s| s.marks.contains(Mark::MARKED))
        {
            self.settle_marks(index);
        }
        self.mark_dirty(index);
    }

    fn on_event(&mut self, now: Instant, index: u32, event: Event) {
        let all = Ready::IN | Ready::OUT | Ready::HUP | Ready::RDHUP;
        let edge = match event {
            Event::Connected => {
                self.connected(now, index);
                Ready::OUT
            }
            Event::Readable => Ready::IN,
            Event::Writable => Ready::OUT,
            Event::PeerClosed => Ready::IN | Ready::RDHUP,
            Event::Reset => {
                // Linux's distinction: the peer had said that it would send no more.
                let finished = self.slots.at(index).is_some_and(|s| s.conn.peer_closed());
                let error = if finished {
                    ConnError::BrokenPipe
                } else {
                    ConnError::Reset
                };
                self.fail(index, error)
            }
            Event::Refused => self.fail(index, ConnError::Refused),
            Event::TimedOut => self.fail(index, ConnError::TimedOut),
            Event::TimeWait | Event::Closed => all,
        };
        self.wake(index, edge);
    }

    fn fail(&mut self, index: u32, error: ConnError) -> Ready {
        if let Some(slot) = self.slots.at_mut(index) {
            slot.error = Some(error);
        }
        Ready::all()
    }

    /// After a connection has said all it had to say: re-arms its timer, or lets it go.
    pub(super) fn settle(&mut self, now: Instant, index: u32) {
        let unborn = self.is_unborn(index);
        let Some(slot) = self.slots.at_mut(index) else {
            return;
        };
        let unwanted = slot.marks.contains(Mark::DETACHED);
        match slot.conn.state() {
            State::Closed if unwanted || unborn => self.forget(index),
            State::TimeWait if unwanted => self.retire(now, index),
            _ => {
                // A timer that was disarmed keeps its place in the wheel and is found idle there.
                let at = slot.conn.poll_at();
                if at != Instant::FAR_FUTURE {
                    self.timers.schedule(index, at);
                }
            }
        }
    }

    /// Frees a connection's block and keeps what TIME-WAIT needs.
    fn retire(&mut self, now: Instant, index: u32) {
        let Some(slot) = self.slots.at(index) else {
            return;
        };
        let ends = (slot.local, slot.remote);
        let record = TimeWait::new(&slot.conn.time_wait_seed(), now);
        self.forget(index);
        self.time_waits.insert(&mut self.flows, now, ends, record);
    }

    /// What has this name.
    #[inline]
    pub(super) fn flow(&self, local: SocketAddr, remote: SocketAddr) -> Option<Flow> {
        let key = FlowKey::new(local, remote);
        self.flows.get(&key, |flow| match flow {
            Flow::Connection(index) => self.slots.at(index).is_some_and(|slot| {
                // Nearly always; a scope, which is no part of the name, may differ.
                slot.remote == remote && slot.local == local
                    || FlowKey::new(slot.local, slot.remote) == key
            }),
            Flow::TimeWait(index) => self.time_waits.has_name(index, &key),
        })
    }

    /// Names a connection by its ends, in place of what had that name before.
    pub(super) fn name_connection(&mut self, local: SocketAddr, remote: SocketAddr, index: u32) {
        let key = FlowKey::new(local, remote);
        if let Some(old) = self.flow(local, remote) {
            self.flows.remove(&key, old);
        }
        self.flows.insert(&key, Flow::Connection(index));
    }

    /// Removes a connection from every table.
    pub(super) fn forget(&mut self, index: u32) {
        self.leave_listener(index);
        self.end_marks(index);
        self.timers.cancel(index);
        if let Some(slot) = self.slots.remove(index) {
            let key = FlowKey::new(slot.local, slot.remote);
            self.flows.remove(&key, Flow::Connection(index));
        }
    }

    /// Wakes those that found no memory to send from, when there is some again.
    fn wake_starved(&mut self) {
        if self.starved.is_empty() || !self.pool.may_send() {
            return;
        }
        let mut starved = core::mem::take(&mut self.starved);
        starved.retain(|&index| {
            let Some(slot) = self.slots.at_mut(index) else {
                return false;
            };
            if has_its_share(&slot.conn, &self.pool) {
                return true;
            }
            slot.marks.remove(Mark::STARVED);
            self.wake(index, Ready::OUT);
            false
        });
        self.starved = starved;
    }
}
