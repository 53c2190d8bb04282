//! A host of a single connection: the protocol alone, with real headers and checksums.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use luna::tcp::listener::{ListenDisposition, Listener};
use luna::tcp::time_wait::{TimeWait, TimeWaitDecision};
use luna::tcp::{
    Config, Connection, Disposition, Event, Payload, Pieces, Ports, SegmentIn, SegmentOut, State,
    reset_for,
};
use luna::time::{Duration, Instant};
use luna::wire::checksum::Checksum;
use luna::wire::{Ecn, SeqNum, TcpHeader};

use crate::app::App;
use crate::bytes::Bytes;
use crate::rng::Rng;
use crate::world::Host;

/// The pseudo-header's addresses; any two will do.
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const TCP: u8 = 6;

/// More segments than this in one turn are a stack that does not stop.
const SEGMENTS_PER_TURN_MAX: usize = 100_000;

/// How a host begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Connect,
    Listen,
}

/// Everything about a host that a scenario chooses.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) role: Role,
    pub(crate) iss: SeqNum,
    pub(crate) ts_offset: u32,
    /// Hand TIME-WAIT over to the compact record.
    pub(crate) compact_time_wait: bool,
    /// Cut received payloads into pieces.
    pub(crate) cut: bool,
    /// Change settings of the running connection, in so many turns of a million.
    pub(crate) fiddle_ppm: u32,
}

/// A host of a single connection.
pub(crate) struct TcpHost {
    setup: Setup,
    ports: Ports,
    conn: Option<Connection<Bytes>>,
    time_wait: Option<TimeWait>,
    listener: Listener,
    accepted: bool,
    pub(crate) app: App,
    ring: Vec<Vec<u8>>,
    rng: Rng,
    /// What `check` saw last: acknowledged bytes.
    acked: u64,
}

impl TcpHost {
    pub(crate) fn new(setup: Setup, now: Instant, app: App, rng: Rng) -> Self {
        let stream = app.stream();
        let (local, remote) = if stream == 0 {
            (50_000, 80)
        } else {
            (80, 50_000)
        };
        let ports = Ports { local, remote };
        let conn = (setup.role == Role::Connect)
            .then(|| Connection::connect(&setup.config, ports, setup.iss, setup.ts_offset, now));
        Self {
            setup,
            ports,
            conn,
            time_wait: None,
            listener: Listener::new(1),
            accepted: false,
            app,
            ring: Vec::new(),
            rng,
            acked: 0,
        }
    }

    fn on_packet(&mut self, now: Instant, packet: &[u8], send: &mut dyn FnMut(Vec<u8>)) {
        let Some(packet) = Self::segment(packet) else {
            return;
        };
        let Ok((header, header_len)) = TcpHeader::parse(packet) else {
            return;
        };
        let data = &packet[header_len..];
        if let Some(tw) = &mut self.time_wait {
            match tw.on_segment(now, &header, data.len() as u32) {
                TimeWaitDecision::Ack(ack) => send(emit(&ack, &[])),
                TimeWaitDecision::Ignore => {}
                // Nobody here ever connects twice, so what may open a successor is an old
                // duplicate whose timestamps the record can't know to be old.
                TimeWaitDecision::Reuse { .. } => {}
            }
            return;
        }
        if self.conn.is_none() && !self.accepted && self.setup.role == Role::Listen {
            self.on_listen_packet(now, &header, data.len() as u32, send);
            return;
        }
        let Some(conn) = &mut self.conn else {
            if let Some(reset) = reset_for(&header, data.len() as u32) {
                send(emit(&reset, &[]));
            }
            return;
        };
        let mut payload = cut(data, self.setup.cut, &mut self.rng);
        let payload_len = data.len() as u32;
        let segment = SegmentIn {
            header: &header,
            payload: &mut payload,
            payload_len,
            ecn: Ecn::NotEct,
        };
        match conn.on_segment(now, segment) {
            Disposition::Continue | Disposition::Reopen => {}
            Disposition::Reset(reset) => send(emit(&reset, &[])),
            Disposition::Orphan => {
                if let Some(reset) = reset_for(&header, payload_len) {
                    send(emit(&reset, &[]));
                }
            }
        }
    }

    fn on_listen_packet(
        &mut self,
        now: Instant,
        header: &TcpHeader,
        len: u32,
        send: &mut dyn FnMut(Vec<u8>),
    ) {
        match self.listener.on_segment(now, header, len) {
            ListenDisposition::Create => {
                let Setup {
                    config,
                    iss,
                    ts_offset,
                    ..
                } = &self.setup;
                let conn = Connection::accept(config, self.ports, *iss, *ts_offset, header, now);
                self.conn = Some(conn);
                self.listener.on_created();
                self.accepted = true;
            }
            ListenDisposition::Reset(reset) | ListenDisposition::CheckCookie(reset) => {
                send(emit(&reset, &[]));
            }
            ListenDisposition::Drop(_) | ListenDisposition::Cookie => {}
        }
    }

    /// Sends, tells the application, lets it act, until nothing changes.
    fn settle(&mut self, now: Instant, send: &mut dyn FnMut(Vec<u8>)) {
        for _ in 0..SEGMENTS_PER_TURN_MAX {
            let Some(conn) = &mut self.conn else { return };
            let mut busy = self.app.run(now, conn);
            if let Some(out) = conn.poll_transmit(now) {
                check_out(&out, self.ports);
                send(emit(&out.header, &gather(&out.payload)));
                busy = true;
            } else {
                while let Some(event) = conn.poll_event() {
                    busy = true;
                    self.app.on_event(event);
                    match event {
                        Event::TimeWait if self.setup.compact_time_wait => {
                            self.time_wait = Some(TimeWait::new(&conn.time_wait_seed(), now));
                        }
                        // What the application has not read yet must still be there.
                        Event::Closed => {}
                        _ => {}
                    }
                }
            }
            if !busy {
                return self.retire();
            }
        }
        panic!("more than {SEGMENTS_PER_TURN_MAX} actions in one turn");
    }

    /// What applications and networks do to a connection while it runs.
    fn fiddle(&mut self) {
        let Some(conn) = &mut self.conn else { return };
        let rng = &mut self.rng;
        let config = conn.config().clone();
        match rng.below(8) {
            0 => conn.set_path_mss(rng.between(40, u64::from(config.mss_local) + 1) as u16),
            1 => {
                let full = u64::from(config.rcv_buf_max_bytes);
                conn.set_receive_budget(rng.between(full.div_ceil(4), full) as u32);
            }
            2 => conn.set_nodelay(rng.chance(500_000)),
            3 => conn.set_cork(rng.chance(500_000)),
            4 => conn.flush(),
            5 => conn.set_quick_ack(rng.chance(500_000)),
            6 => conn.set_delayed_ack(Duration::from_millis(rng.below(50))),
            _ => conn.set_rto_bounds(
                Duration::from_millis(rng.between(1, 100)),
                Duration::from_millis(rng.between(100, 10_000)),
            ),
        }
    }

    /// Frees the connection once nobody needs it.
    fn retire(&mut self) {
        let Some(conn) = &self.conn else { return };
        let app_needs_it = !self.app.is_finished() && self.app.ended.is_none();
        let gone = conn.state() == State::Closed || self.time_wait.is_some();
        if gone && !app_needs_it {
            self.conn = None;
        }
    }
}

impl Host for TcpHost {
    fn receive(&mut self, _now: Instant, packet: Vec<u8>) {
        self.ring.push(packet);
    }

    fn turn(&mut self, now: Instant, send: &mut dyn FnMut(Vec<u8>)) {
        if self.time_wait.as_ref().is_some_and(|tw| tw.is_expired(now)) {
            self.time_wait = None;
        }
        for packet in core::mem::take(&mut self.ring) {
            self.on_packet(now, &packet, send);
        }
        if let Some(conn) = &mut self.conn
            && conn.poll_at() <= now
        {
            conn.on_timer(now);
        }
        if self.rng.chance(self.setup.fiddle_ppm) {
            self.fiddle();
        }
        self.settle(now, send);
    }

    fn forge(header: &TcpHeader, data: &[u8]) -> Vec<u8> {
        emit(header, data)
    }

    fn poll_at(&self) -> Instant {
        let conn = self.conn.as_ref().filter(|_| self.time_wait.is_none());
        let conn_at = conn.map_or(Instant::FAR_FUTURE, Connection::poll_at);
        let app_at = if self.conn.is_some() {
            self.app.resume_at()
        } else {
            Instant::FAR_FUTURE
        };
        // A record is only asked; what is left of the others' time does not matter here.
        conn_at.min(app_at)
    }

    fn check(&mut self, now: Instant) {
        let Some(conn) = self.conn.as_ref().filter(|_| self.time_wait.is_none()) else {
            return;
        };
        let info = conn.info();
        let config = conn.config();
        // A window field counts in units of its scale, so a promise may round up.
        let room = u64::from(config.rcv_buf_max_bytes) + (1 << info.rcv_wscale.unwrap_or(0));
        let readable = conn.readable_bytes() as u64;
        assert!(
            readable <= room,
            "{readable} readable bytes in a buffer of {room}"
        );
        if conn.state() == State::Closed {
            return;
        }
        // What is unacknowledged counts our FIN, as on Linux; the buffer holds bytes only.
        let fin = matches!(
            conn.state(),
            State::FinWait1 | State::Closing | State::LastAck
        );
        let queued = conn.unacked_bytes() - usize::from(fin);
        assert!(
            queued <= config.snd_buf_max_bytes as usize,
            "the send buffer overflows"
        );
        let acked = self.app.written - queued as u64;
        assert!(
            acked >= self.acked,
            "SND.UNA goes back: {} to {acked}",
            self.acked
        );
        self.acked = acked;
        let next = conn.poll_at();
        let outstanding = queued > 0 || info.unacked > 0;
        if outstanding || matches!(info.state, State::SynSent | State::SynReceived) {
            assert!(
                next < Instant::FAR_FUTURE,
                "no timer, and {queued} bytes queued: {info:?}"
            );
        }
        assert!(
            next >= now,
            "a timer of the past: {next:?} at {now:?} {info:?}"
        );
        assert!(info.snd_mss > 0 && info.cwnd >= info.snd_mss, "{info:?}");
    }

    fn is_done(&self) -> bool {
        self.conn.is_none() && (self.app.is_finished() || self.app.ended.is_some())
    }

    fn segment(packet: &[u8]) -> Option<&[u8]> {
        let mut sum = Checksum::pseudo_header(HERE, HERE, TCP, packet.len() as u32);
        sum.add(packet);
        (sum.finish() == 0).then_some(packet)
    }

    fn describe(&self) -> String {
        let state = self.conn.as_ref().map(|c| c.info());
        format!(
            "{:?}\n  {:?}\n  {:?}\n  {:?}",
            self.setup, self.app, state, self.time_wait
        )
    }
}

fn check_out(out: &SegmentOut<Bytes>, ports: Ports) {
    let len: usize = out.payload.iter().map(Payload::len).sum();
    assert_eq!(len, out.payload_len as usize);
    assert_eq!(
        (out.header.src_port, out.header.dst_port),
        (ports.local, ports.remote)
    );
}

fn gather(pieces: &Pieces<Bytes>) -> Vec<u8> {
    let pieces: Vec<&[u8]> = pieces.iter().map(Payload::as_bytes).collect();
    pieces.concat()
}

fn cut(data: &[u8], pieces: bool, rng: &mut Rng) -> Pieces<Bytes> {
    let mut out = Pieces::new();
    let mut rest = data;
    while !rest.is_empty() {
        let whole = !pieces || out.len() + 1 == out.capacity();
        let n = if whole {
            rest.len()
        } else {
            rng.between(1, rest.len() as u64) as usize
        };
        let (head, tail) = rest.split_at(n);
        out.push(Bytes::from(head.to_vec()));
        rest = tail;
    }
    out
}

/// Header and data with a good checksum.
fn emit(header: &TcpHeader, data: &[u8]) -> Vec<u8> {
    let len = (header.emitted_len() + data.len()) as u32;
    let mut bytes: ArrayVec<u8, 60> = ArrayVec::new();
    header.emit(0, &mut bytes);
    let mut sum = Checksum::pseudo_header(HERE, HERE, TCP, len);
    sum.add(&bytes);
    sum.add(data);
    bytes.clear();
    header.emit(sum.finish(), &mut bytes);
    [&bytes[..], data].concat()
}
