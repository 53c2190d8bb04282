//! Both sides on luna's inline loop, without copying: the server sends back the very buffers that
//! a request arrived in; the client sends from buffers that hold the pattern.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use luna::capi::safe::inline::{Handler, Kept, Lent, Loop, Ops, Part};
use luna::sys::Errno;
use luna::time::{Clock as _, SystemClock};

use super::measure::{Load, Meter};
use super::message::{Asking, Hello, Pattern, Script, Serving};
use super::options::Failure;
use super::server::{Plan, Served};

const BACKLOG: i32 = 1024;
/// How long a turn may wait before the clock, or whether to end, is looked at.
const LOOK_MS: i32 = 100;
const SILENCE_NS_MAX: u64 = 10_000_000_000;
/// Buffers that are sent by one call.
const PARTS: usize = 64;

struct Echo<'a> {
    verify: bool,
    pattern: &'a Pattern,
    served: Served,
    conns: Vec<Option<Box<Answering>>>,
    free: Vec<usize>,
}

#[derive(Default)]
struct Answering {
    state: Serving,
    /// What arrived and is not sent back yet.
    pieces: VecDeque<Kept>,
}

/// Serves until it is told to stop.
pub(crate) fn serve(plan: &Plan<'_>) -> Result<Served, Failure> {
    let pattern = Pattern::new();
    let mut echo = Echo {
        verify: plan.verify,
        pattern: &pattern,
        served: Served::default(),
        conns: Vec::new(),
        free: Vec::new(),
    };
    // Loops over connections of this thread's, whose lifetime is that of a turn.
    let inline = Loop::<Echo<'_>>::new(plan.spin).map_err(Failure::call("luna_loop_create"))?;
    inline
        .listen(plan.address, BACKLOG, 0)
        .map_err(Failure::at("luna_loop_listen", plan.address))?;
    (plan.ready)();
    while !plan.stop.load(Ordering::Relaxed) {
        inline
            .turn(&mut echo, LOOK_MS)
            .map_err(Failure::call("luna_loop_turn"))?;
    }
    let open = echo.conns.iter().flatten();
    echo.served.answers += open.map(|conn| conn.state.answered()).sum::<u64>();
    Ok(echo.served)
}

impl Echo<'_> {
    fn end(&mut self, user: usize) {
        if let Some(conn) = self.conns.get_mut(user).and_then(Option::take) {
            self.served.answers += conn.state.answered();
            self.free.push(user);
        }
    }

    /// Sends back what complete requests consist of.
    fn answer(&mut self, ops: Ops<'_, Self>, user: usize, conn: u64) {
        let Some(answering) = self.conns.get_mut(user).and_then(Option::as_mut) else {
            return;
        };
        if !answering.send(ops, conn) {
            let _closed = ops.close(conn, true);
            return self.end(user);
        }
        if answering.state.is_over() {
            let _closed = ops.close(conn, false);
            self.end(user);
        }
    }
}

impl Answering {
    /// False if the connection is lost.
    fn send(&mut self, ops: Ops<'_, Echo<'_>>, conn: u64) -> bool {
        loop {
            match self.send_once(ops, conn) {
                None => return true,
                Some(Ok(count)) => self.sent(count),
                Some(Err(Errno::AGAIN | Errno::NOBUFS)) => return true,
                Some(Err(_)) => return false,
            }
        }
    }

    fn send_once(&self, ops: Ops<'_, Echo<'_>>, conn: u64) -> Option<Result<usize, Errno>> {
        let mut owed = self.state.owed() as usize;
        let mut parts = arrayvec::ArrayVec::<Part<'_>, PARTS>::new();
        for piece in &self.pieces {
            if owed == 0 || parts.is_full() {
                break;
            }
            let part = owed.min(piece.len());
            parts.push(piece.part(0, part));
            owed -= part;
        }
        (!parts.is_empty()).then(|| ops.send(conn, &parts))
    }

    fn sent(&mut self, count: usize) {
        self.state.sent(count);
        let mut left = count;
        while let Some(first) = self.pieces.front_mut() {
            if left < first.len() {
                first.advance(left);
                return;
            }
            left -= first.len();
            self.pieces.pop_front();
        }
    }

    fn take(&mut self, pattern: &Pattern, lent: Lent<'_>, verify: bool) -> Result<(), String> {
        for piece in lent.pieces() {
            let bytes = piece.bytes();
            let taken = self.state.received(pattern, bytes, verify);
            let payload = taken.map_err(|wrong| wrong.to_string())?;
            if payload.is_empty() {
                continue;
            }
            let mut kept = piece.keep().map_err(|errno| errno.to_string())?;
            kept.advance(bytes.len() - payload.len());
            self.pieces.push_back(kept);
        }
        Ok(())
    }
}

impl Handler for Echo<'_> {
    fn accepted(&mut self, _: Ops<'_, Self>, _: usize, _: u64) -> usize {
        self.served.connections += 1;
        let conn = Some(Box::default());
        match self.free.pop().filter(|&user| user < self.conns.len()) {
            Some(user) => {
                if let Some(slot) = self.conns.get_mut(user) {
                    *slot = conn;
                }
                user
            }
            None => {
                self.conns.push(conn);
                self.conns.len() - 1
            }
        }
    }

    fn connected(&mut self, _: Ops<'_, Self>, _: usize, _: u64, _: i32) {}

    fn readable(&mut self, ops: Ops<'_, Self>, user: usize, conn: u64, lent: Lent<'_>) {
        let Some(answering) = self.conns.get_mut(user).and_then(Option::as_mut) else {
            return;
        };
        let is_end = lent.pieces().len() == 0;
        let outcome = answering.take(self.pattern, lent, self.verify);
        if let Err(error) = &outcome {
            crate::show::note(&format!("knb server: {error}"));
        }
        if is_end || outcome.is_err() {
            let _closed = ops.close(conn, outcome.is_err());
            return self.end(user);
        }
        self.answer(ops, user, conn);
    }

    fn writable(&mut self, ops: Ops<'_, Self>, user: usize, conn: u64) {
        self.answer(ops, user, conn);
    }

    fn closed(&mut self, _: Ops<'_, Self>, user: usize, _: u64, _: i32) {
        self.end(user);
    }
}

struct Asked {
    state: Asking,
    server: SocketAddr,
    id: u32,
    began: u64,
    is_connected: bool,
}

/// The asking side.
struct Client<'a> {
    load: &'a Load,
    meter: Meter<'a>,
    script: Script,
    /// The pattern, in a packet buffer: `None` where there is no such memory; then it is copied.
    buffer: Option<Kept>,
    scratch: Vec<u8>,
    /// By number: `user` of a connection is its place here. With each its handle.
    conns: Vec<(u64, Asked)>,
    connected: usize,
    turn: usize,
    last_heard: u64,
    failure: Option<Failure>,
}

fn now() -> u64 {
    SystemClock.now().as_nanos()
}

/// Runs one thread's share of a load.
pub(crate) fn ask<'a>(load: &'a Load, meter: Meter<'a>) -> Result<Meter<'a>, Failure> {
    let inline = Loop::<Client<'a>>::new(load.spin).map_err(Failure::call("luna_loop_create"))?;
    let mut client = Client {
        load,
        meter,
        script: Script::knb(load.size),
        buffer: None,
        scratch: Vec::new(),
        conns: Vec::new(),
        connected: 0,
        turn: 0,
        last_heard: now(),
        failure: None,
    };
    client.buffer = Kept::filled(client.script.buffer()).ok();
    client.run(&inline)?;
    Ok(client.meter)
}

impl<'a> Client<'a> {
    fn run(&mut self, inline: &Loop<Self>) -> Result<(), Failure> {
        let ops = inline.ops();
        for (id, server) in self.meter.connections(self.load) {
            let asked = self.asking(id, server);
            self.conns.push((0, asked));
            self.connect(ops, self.conns.len() - 1)?;
        }
        if !self.load.short {
            while self.connected < self.conns.len() {
                self.turn(inline, LOOK_MS)?;
            }
        }
        self.meter.start(now);
        if !self.load.short && self.load.interval_ns.is_none() {
            for index in 0..self.conns.len() {
                for _ in 0..self.load.iodepth {
                    self.ask(index, now());
                }
                self.transmit(ops, index);
            }
        }
        loop {
            let present = now();
            if self.meter.is_over(present) {
                return Ok(());
            }
            let timeout_ms = match self.load.interval_ns {
                Some(interval) => self.pace(ops, present, interval),
                None => LOOK_MS,
            };
            self.turn(inline, if self.load.spin { 0 } else { timeout_ms })?;
        }
    }

    fn asking(&self, id: u32, server: SocketAddr) -> Asked {
        let (size, short) = (self.load.size, self.load.short);
        let mut state = Asking::new(Hello { size, id, short });
        let began = now();
        if short {
            state.ask(&self.script, began);
        }
        Asked {
            state,
            server,
            id,
            began,
            is_connected: false,
        }
    }

    fn connect(&mut self, ops: Ops<'_, Self>, index: usize) -> Result<(), Failure> {
        let Some((handle, asked)) = self.conns.get_mut(index) else {
            return Ok(());
        };
        let server = asked.server;
        *handle = ops
            .connect(server, index)
            .map_err(Failure::at("luna_loop_connect", server))?;
        Ok(())
    }

    fn ask(&mut self, index: usize, start: u64) {
        if let Some((_, asked)) = self.conns.get_mut(index) {
            asked.state.ask(&self.script, start);
        }
    }

    fn pace(&mut self, ops: Ops<'_, Self>, present: u64, interval: f64) -> i32 {
        while let Some(due) = self.meter.due(present, interval) {
            let index = self.turn % self.conns.len().max(1);
            self.turn += 1;
            self.ask(index, due);
            self.transmit(ops, index);
        }
        let wait = self.meter.next_due(interval).saturating_sub(present) / 1_000_000;
        wait.min(LOOK_MS as u64) as i32
    }

    fn turn(&mut self, inline: &Loop<Self>, timeout_ms: i32) -> Result<(), Failure> {
        let something = inline
            .turn(self, timeout_ms)
            .map_err(Failure::call("luna_loop_turn"))?;
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let is_silent = !something && now().saturating_sub(self.last_heard) > SILENCE_NS_MAX;
        if is_silent && self.load.interval_ns.is_none() {
            return Err(Failure::Silence);
        }
        Ok(())
    }

    fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    fn transmit(&mut self, ops: Ops<'_, Self>, index: usize) {
        let Some((conn, asked)) = self.conns.get_mut(index) else {
            return;
        };
        if !asked.is_connected {
            return;
        }
        loop {
            let sent = match (&self.buffer, asked.state.place(&self.script)) {
                (_, Some((_, 0))) => return,
                (Some(buffer), Some((from, len))) => ops.send(*conn, &[buffer.part(from, len)]),
                _ => {
                    let pending = asked.state.pending(&self.script, &mut self.scratch);
                    if pending.is_empty() {
                        return;
                    }
                    ops.write(*conn, pending)
                }
            };
            match sent {
                Ok(count) => asked.state.sent(count),
                Err(Errno::AGAIN | Errno::NOBUFS) => return,
                Err(errno) => return self.fail(Failure::call("luna_loop_send")(errno)),
            }
        }
    }

    fn take(&mut self, index: usize, lent: Lent<'_>) -> Result<(), Failure> {
        let Some((_, asked)) = self.conns.get_mut(index) else {
            return Ok(());
        };
        // Read when something is complete by it.
        let mut present = None;
        for piece in lent.pieces() {
            let (meter, short, mut answers) = (&mut self.meter, self.load.short, 0);
            let taken =
                asked
                    .state
                    .received(&self.script, piece.bytes(), self.load.verify, |start| {
                        answers += 1;
                        let present = *present.get_or_insert_with(now);
                        if !short {
                            meter.record(start, present);
                        }
                    });
            taken.map_err(Failure::Wrong)?;
            if !short && self.load.interval_ns.is_none() {
                for _ in 0..answers {
                    asked.state.ask(&self.script, present.unwrap_or_default());
                }
            }
        }
        if let Some(present) = present {
            self.last_heard = present;
        }
        Ok(())
    }

    /// The server closed: what a short connection is to come to.
    fn ended(&mut self, ops: Ops<'_, Self>, index: usize) {
        let Some((_, asked)) = self.conns.get(index) else {
            return;
        };
        if !self.load.short || asked.state.under_way() > 0 {
            return self.fail(Failure::Closed);
        }
        let (present, began, id, server) = (now(), asked.began, asked.id, asked.server);
        self.meter.record(began, present);
        self.last_heard = present;
        if self.meter.is_over(present) {
            return;
        }
        let next = self.asking(id, server);
        if let Some(slot) = self.conns.get_mut(index) {
            *slot = (0, next);
        }
        if let Err(failure) = self.connect(ops, index) {
            self.fail(failure);
        }
    }
}

impl Handler for Client<'_> {
    fn accepted(&mut self, _: Ops<'_, Self>, _: usize, _: u64) -> usize {
        0
    }

    fn connected(&mut self, ops: Ops<'_, Self>, user: usize, _: u64, error: i32) {
        let Some((_, asked)) = self.conns.get_mut(user) else {
            return;
        };
        if error != 0 {
            let failure = Failure::at("connect", asked.server);
            return self.fail(failure(Errno::from_raw_os_error(error)));
        }
        asked.is_connected = true;
        self.connected += 1;
        self.transmit(ops, user);
    }

    fn readable(&mut self, ops: Ops<'_, Self>, user: usize, conn: u64, lent: Lent<'_>) {
        if lent.pieces().len() == 0 {
            let _closed = ops.close(conn, false);
            return self.ended(ops, user);
        }
        match self.take(user, lent) {
            Ok(()) => self.transmit(ops, user),
            Err(failure) => self.fail(failure),
        }
    }

    fn writable(&mut self, ops: Ops<'_, Self>, user: usize, _: u64) {
        self.transmit(ops, user);
    }

    fn closed(&mut self, ops: Ops<'_, Self>, user: usize, _: u64, error: i32) {
        if error != 0 {
            return self.fail(Failure::call("a connection")(Errno::from_raw_os_error(
                error,
            )));
        }
        self.ended(ops, user);
    }
}
