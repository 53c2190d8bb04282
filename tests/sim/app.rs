//! An application: writes one stream, reads another and checks every byte of it.
//!
//! It is edge-triggered: where it found no room, or nothing to read, it waits for the event, so
//! that an event that does not come is a run that does not end.

use luna::tcp::{Connection, Event, Payload, State};
use luna::time::{Duration, Instant};

use crate::bytes::Bytes;
use crate::rng::Rng;

/// What the application does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Bytes that it writes.
    pub(crate) write: u64,
    /// Bytes that it will be sent.
    pub(crate) expect: u64,
    /// At most this many per call.
    pub(crate) write_chunk: u64,
    pub(crate) read_chunk: u64,
    /// After a call it may do nothing for up to this long.
    pub(crate) pause_ppm: u32,
    pub(crate) pause: Duration,
    /// Writes nothing before it has read the end of what it is sent.
    pub(crate) answer: bool,
    /// Closes its writing half as soon as all is written; else it closes once it has also read
    /// everything.
    pub(crate) half_close: bool,
    /// Writes without waiting for the handshake.
    pub(crate) early: bool,
    /// Ends the connection the hard way once it has transferred this many bytes: by aborting,
    /// or by closing while there is something to read.
    pub(crate) abort_at: Option<u64>,
}

/// The byte at an offset of the stream that a side sends.
fn byte_at(stream: u64, offset: u64) -> u8 {
    ((offset + stream).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// The application.
#[derive(Debug)]
pub(crate) struct App {
    plan: Plan,
    rng: Rng,
    /// The number of the stream it writes; the peer's is the other of 0 and 1.
    stream: u64,
    pub(crate) written: u64,
    pub(crate) read: u64,
    pub(crate) eof: bool,
    connected: bool,
    may_write: bool,
    may_read: bool,
    shut: bool,
    closed: bool,
    pub(crate) ended: Option<Event>,
    /// Waits for an event, not for the time.
    idle: bool,
    resume_at: Instant,
}

impl App {
    pub(crate) fn new(plan: Plan, stream: u64, rng: Rng) -> Self {
        Self {
            plan,
            rng,
            stream,
            written: 0,
            read: 0,
            eof: false,
            connected: plan.early,
            may_write: true,
            may_read: false,
            shut: false,
            closed: false,
            ended: None,
            idle: false,
            resume_at: Instant::ZERO,
        }
    }

    pub(crate) fn on_event(&mut self, event: Event) {
        self.idle = false;
        match event {
            Event::Connected => self.connected = true,
            Event::Readable | Event::PeerClosed => self.may_read = true,
            Event::Writable => self.may_write = true,
            Event::Refused | Event::Reset | Event::TimedOut => self.ended = Some(event),
            Event::TimeWait | Event::Closed => {}
        }
    }

    /// 0 on side A, 1 on side B.
    pub(crate) fn stream(&self) -> u64 {
        self.stream
    }

    /// Has transferred everything both ways and said goodbye.
    pub(crate) fn is_finished(&self) -> bool {
        self.closed
    }

    pub(crate) fn resume_at(&self) -> Instant {
        if self.closed || self.ended.is_some() || self.idle || !self.connected {
            Instant::FAR_FUTURE
        } else {
            self.resume_at
        }
    }

    fn is_through(&self) -> bool {
        self.written == self.plan.write && self.eof && !self.closed
    }

    /// Does what it can. Returns whether it called the connection.
    pub(crate) fn run(&mut self, now: Instant, conn: &mut Connection<Bytes>) -> bool {
        if now < self.resume_at() {
            return false;
        }
        let mut called = false;
        // Some of both before a pause, so that neither direction starves the other.
        loop {
            let read = self.may_read && !self.eof && self.read_some(conn);
            let written = self.may_write && !self.shut && self.write_some(now, conn);
            called |= read | written;
            if !read && !written {
                break;
            }
            let abort = self
                .plan
                .abort_at
                .is_some_and(|at| self.written + self.read >= at);
            if abort {
                break;
            }
            if self.rng.chance(self.plan.pause_ppm) {
                let ns = self.rng.below(self.plan.pause.as_nanos());
                self.resume_at = now + Duration::from_nanos(ns);
                return true;
            }
        }
        self.idle = true;
        let opening = conn.state() == State::SynSent;
        if !opening
            && self
                .plan
                .abort_at
                .is_some_and(|at| self.written + self.read >= at)
        {
            self.closed = true;
            if conn.readable_bytes() > 0 {
                conn.close(now)
            } else {
                conn.abort(now)
            }
            return true;
        }
        if self.is_through() {
            self.closed = true;
            conn.close(now);
            called = true;
        }
        called
    }

    fn read_some(&mut self, conn: &mut Connection<Bytes>) -> bool {
        let max = self.rng.between(1, self.plan.read_chunk) as usize;
        let stream = 1 - self.stream;
        let n = if self.rng.chance(500_000) {
            let Some(piece) = conn.pop_piece(max) else {
                return self.on_nothing_to_read(conn);
            };
            assert!(
                piece.len() <= max && !piece.is_empty(),
                "popped {} of {max}",
                piece.len()
            );
            check(stream, self.read, piece.as_bytes());
            piece.len()
        } else {
            let mut seen = 0;
            for piece in conn.peek_pieces() {
                let bytes = piece.as_bytes();
                let take = bytes.len().min(max - seen);
                check(stream, self.read + seen as u64, &bytes[..take]);
                seen += take;
            }
            if seen == 0 {
                return self.on_nothing_to_read(conn);
            }
            assert_eq!(conn.consume(seen), seen);
            seen
        };
        self.read += n as u64;
        assert!(self.read <= self.plan.expect, "received more than was sent");
        true
    }

    fn on_nothing_to_read(&mut self, conn: &Connection<Bytes>) -> bool {
        assert_eq!(conn.readable_bytes(), 0);
        self.may_read = false;
        if conn.recv_finished() {
            assert_eq!(self.read, self.plan.expect, "the stream ends early");
            self.eof = true;
        }
        self.eof
    }

    fn write_some(&mut self, now: Instant, conn: &mut Connection<Bytes>) -> bool {
        if self.plan.answer && !self.eof {
            return false;
        }
        let left = self.plan.write - self.written;
        if left == 0 {
            // Closing an attempt to connect gives it up.
            let opening = conn.state() == State::SynSent;
            if !opening && (self.plan.half_close || self.eof) {
                self.shut = true;
                // Closing does it as well.
                if self.plan.half_close {
                    conn.shutdown_write(now);
                }
                return true;
            }
            return false;
        }
        let room = conn.send_space() as u64;
        if room == 0 || (!conn.is_writable() && self.rng.chance(500_000)) {
            // Asking for room is what makes the connection tell when there is some.
            let _ = conn
                .push(Bytes::from(vec![0; room as usize + 1]), false)
                .unwrap_err();
            self.may_write = false;
            return false;
        }
        let len = self
            .rng
            .between(1, self.plan.write_chunk)
            .min(left)
            .min(room);
        let bytes: Vec<u8> = (0..len)
            .map(|i| byte_at(self.stream, self.written + i))
            .collect();
        let more = len < left && self.rng.chance(100_000);
        let appended = if self.rng.chance(500_000) {
            conn.append(&bytes, more)
        } else {
            0
        };
        assert!(appended <= bytes.len());
        let rest = bytes[appended..].to_vec();
        if !rest.is_empty() {
            let payload = Bytes::with_room(rest, self.plan.write_chunk as usize);
            conn.push(payload, more).unwrap();
        }
        self.written += len;
        true
    }
}

#[track_caller]
fn check(stream: u64, offset: u64, bytes: &[u8]) {
    let wrong = (offset..)
        .zip(bytes)
        .find(|(at, byte)| **byte != byte_at(stream, *at));
    assert_eq!(wrong, None, "the first wrong byte of stream {stream}");
}
