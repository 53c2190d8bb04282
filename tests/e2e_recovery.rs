//! Links that fail under a transfer: the cable is pulled, the neighbour gets another address, the
//! routes and neighbours flap. The connection survives, and bytes flow again soon afterwards.
//!
//! luna's redis sends large values to a client on the kernel, so that the retransmissions are
//! luna's. `LUNA_RECOVERY_LONG=1` adds a cut of five seconds; `make soak` asks for it.

#![cfg(feature = "cli")]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a test measures by the wall clock, and its helpers fail it"
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::luna::{Ends, Stack};
use common::netns::NetnsPair;
use common::proc::{PATIENCE, Proc, wait_at_most, wait_until};
use common::redis::{self, PORT};
use common::require::turn;

const VALUE: usize = 1 << 20;
/// Linux's floor of the retransmission timeout, and luna's outside of a data centre.
const RTO_MIN: Duration = Duration::from_millis(200);
/// Resolving a neighbour whose answer is lost takes the kernel a second (`retrans_time_ms`); a
/// machine that is busy takes its time as well.
const SLACK: Duration = Duration::from_millis(1500);

/// What has arrived, when the last of it did, and the longest silence lately.
#[derive(Debug)]
struct Progress {
    bytes: u64,
    at: Instant,
    silence: Duration,
}

impl Progress {
    fn add(&mut self, bytes: usize) {
        let now = Instant::now();
        self.silence = self.silence.max(now - self.at);
        self.bytes += bytes as u64;
        self.at = now;
    }
}

/// A redis, and a client that asks it for the same value again and again and checks each byte.
struct Transfer {
    pair: NetnsPair,
    server: Proc,
    progress: Arc<Mutex<Progress>>,
    stop: Arc<AtomicBool>,
    client: Option<JoinHandle<std::io::Result<u64>>>,
}

impl Transfer {
    fn start(ends: Ends) -> Self {
        let pair = NetnsPair::new(1500);
        let (stack, _) = ends.stacks(&pair.a_end, &pair.b_end, PORT);
        let server = redis::start(&pair.a, &stack, PORT);
        let target = SocketAddr::new(pair.a_end.v4.into(), PORT);
        let socket = pair
            .b
            .enter(|| TcpStream::connect_timeout(&target, PATIENCE))
            .expect("connect to redis");
        let progress = Arc::new(Mutex::new(Progress {
            bytes: 0,
            at: Instant::now(),
            silence: Duration::ZERO,
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, over) = (Arc::clone(&progress), Arc::clone(&stop));
        let client = std::thread::spawn(move || read_values(socket, &seen, &over));
        let transfer = Self {
            pair,
            server,
            progress,
            stop,
            client: Some(client),
        };
        transfer.more_than(4 * VALUE as u64, PATIENCE);
        assert_eq!(
            matches!(stack, Stack::Luna(_)),
            ends.server,
            "the stack that was asked for"
        );
        transfer
    }

    fn bytes(&self) -> u64 {
        self.progress.lock().expect("no reader has failed").bytes
    }

    fn more_than(&self, bytes: u64, patience: Duration) {
        wait_at_most(patience, "bytes to flow", || {
            let ended = self.client.as_ref().is_some_and(JoinHandle::is_finished);
            assert!(!ended, "the connection is lost: {}", self.server.report());
            self.bytes() > bytes
        });
    }

    /// How long after `repaired` the first new byte was read.
    fn first_byte(&self, before: u64, repaired: Instant) -> Duration {
        self.more_than(before, PATIENCE * 3);
        let at = self.progress.lock().expect("no reader has failed").at;
        at.saturating_duration_since(repaired)
    }

    fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let client = self.client.take().expect("it runs until now");
        let values = client.join().expect("the reader does not panic");
        let values = values.expect("the connection survives");
        assert!(self.server.ended().is_none(), "{}", self.server.report());
        values
    }
}

/// Reads until `stop`; returns how many values came whole.
fn read_values(
    socket: TcpStream,
    progress: &Mutex<Progress>,
    stop: &AtomicBool,
) -> std::io::Result<u64> {
    socket.set_read_timeout(Some(PATIENCE * 3))?;
    let mut writer = socket.try_clone()?;
    let mut reader = BufReader::with_capacity(1 << 16, socket);
    let value: Vec<u8> = (0..VALUE).map(|i| b'a' + (i * 7 % 23) as u8).collect();
    write!(writer, "*3\r\n$3\r\nSET\r\n$1\r\nv\r\n${VALUE}\r\n")?;
    writer.write_all(&value)?;
    writer.write_all(b"\r\n")?;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    assert_eq!(line, "+OK\r\n");
    let mut piece = vec![0; 1 << 14];
    let mut values = 0;
    // Two requests are under way, so that there is always an answer being sent.
    writer.write_all(b"GET v\r\n")?;
    while !stop.load(Ordering::Relaxed) {
        writer.write_all(b"GET v\r\n")?;
        line.clear();
        reader.read_line(&mut line)?;
        assert_eq!(line, format!("${VALUE}\r\n"));
        let mut at = 0;
        while at < VALUE {
            let room = piece.len().min(VALUE - at);
            let n = reader.read(&mut piece[..room])?;
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            assert_eq!(
                &piece[..n],
                &value[at..at + n],
                "byte {at} of value {values}"
            );
            at += n;
            let mut progress = progress.lock().expect("nobody panics with it");
            progress.add(n);
        }
        let mut end = [0; 2];
        reader.read_exact(&mut end)?;
        values += 1;
    }
    Ok(values)
}

fn set_link(transfer: &Transfer, state: &str) {
    let interface = &transfer.pair.b_end.interface;
    transfer
        .pair
        .b
        .ip(&["link", "set", "dev", interface, state]);
}

/// Bytes that were under way when the link went down have been read.
fn drained(transfer: &Transfer) -> u64 {
    let mut before = transfer.bytes();
    let mut quiet = Instant::now();
    wait_until("what was under way to be read", || {
        let now = transfer.bytes();
        if now != before {
            (before, quiet) = (now, Instant::now());
        }
        quiet.elapsed() > Duration::from_millis(20)
    });
    before
}

fn cut(transfer: &Transfer, outage: Duration) -> Duration {
    let started = Instant::now();
    set_link(transfer, "down");
    let before = drained(transfer);
    // The outage is the thing measured against, so it lasts as long as it says.
    std::thread::sleep(outage.saturating_sub(started.elapsed()));
    set_link(transfer, "up");
    let outage = started.elapsed();
    let first = transfer.first_byte(before, Instant::now());
    // The retransmission after an outage is never further away than twice the time since the
    // first one, which is at most the outage and a timeout.
    let bound = (outage + RTO_MIN) * 2 + SLACK;
    assert!(first <= bound, "{first:?} after {outage:?}");
    first
}

fn row(stack: &str, what: &str, first: Duration) {
    println!("| {stack} | {what} | {:.0} |", first.as_secs_f64() * 1000.0);
}

fn cuts(ends: Ends, name: &str) {
    if !ends.runnable() {
        return;
    }
    let Some(_turn) = turn(&["redis-server"]) else {
        return;
    };
    let mut outages = vec![50, 50, 50, 500, 500];
    if std::env::var_os("LUNA_RECOVERY_LONG").is_some() {
        outages.push(5000);
    }
    let transfer = Transfer::start(ends);
    for outage in outages {
        let first = cut(&transfer, Duration::from_millis(outage));
        row(name, &format!("cut {outage} ms"), first);
        transfer.more_than(transfer.bytes() + 4 * VALUE as u64, PATIENCE);
    }
    assert!(transfer.finish() > 0);
}

/// The neighbour gets another hardware address five times, `announced` as after a fail-over or
/// not, as after an exchange of the card; the longest silence is what it costs.
fn moved(ends: Ends, name: &str, announced: bool, bound: Duration) {
    if !ends.runnable() {
        return;
    }
    let Some(_turn) = turn(&["redis-server"]) else {
        return;
    };
    let transfer = Transfer::start(ends);
    let value = if announced { "1" } else { "0" };
    let notify = "net/ipv4/conf/all/arp_notify";
    transfer.pair.b.sysctl(notify, value);
    let interface = &transfer.pair.b_end.interface;
    for last in 1..=5 {
        let address = format!("02:00:00:00:77:0{last}");
        let link = ["link", "set", "dev", interface, "address", &address];
        transfer.progress.lock().expect("it runs").silence = Duration::ZERO;
        transfer.pair.b.ip(&link);
        transfer.more_than(transfer.bytes() + 4 * VALUE as u64, PATIENCE * 3);
        let silence = transfer.progress.lock().expect("it runs").silence;
        let how = if announced {
            "announced"
        } else {
            "not announced"
        };
        row(name, &format!("neighbour's address, {how}"), silence);
        assert!(silence < bound, "{silence:?}");
        let known = transfer.pair.a.ip(&["neigh"]);
        assert!(known.contains(&address), "{known}");
    }
    assert!(transfer.finish() > 0);
}

/// Adds and removes thousands of routes and neighbours a second beside the one in use.
fn flapping(ends: Ends, name: &str) {
    if !ends.runnable() {
        return;
    }
    let Some(_turn) = turn(&["redis-server"]) else {
        return;
    };
    let transfer = Transfer::start(ends);
    let interface = &transfer.pair.a_end.interface;
    let mut batch = String::new();
    for _ in 0..4 {
        for (verb, extra) in [
            ("add", " lladdr 02:00:00:00:00:99 nud reachable"),
            ("del", ""),
        ] {
            for i in 0..500 {
                let (hi, lo) = (i / 250, i % 250);
                batch += &format!("route {verb} 198.18.{hi}.{lo}/32 dev {interface}\n");
                batch += &format!("neigh {verb} 203.0.{hi}.{lo} dev {interface}{extra}\n");
            }
        }
    }
    let changes = batch.lines().count();
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("flaps-{}-{name}", std::process::id()));
    std::fs::write(&file, batch).expect("write the batch");
    let path = file.to_string_lossy().into_owned();
    let before = transfer.bytes();
    let started = Instant::now();
    let mut done = 0;
    while started.elapsed() < Duration::from_secs(3) {
        transfer.pair.a.ip(&["-batch", &path]);
        done += changes;
    }
    let took = started.elapsed().as_secs_f64();
    std::fs::remove_file(&file).expect("remove the batch");
    let flowed = transfer.bytes() - before;
    let rate = done as f64 / took;
    println!("| {name} | {rate:.0} changes a second | {flowed} bytes meanwhile |");
    assert!(rate > 1000.0, "only {rate:.0} changes a second");
    assert!(flowed > 4 * VALUE as u64, "only {flowed} bytes flowed");
    assert!(transfer.finish() > 0);
}

#[test]
fn the_kernel_recovers_from_cuts() {
    cuts(Ends::NEITHER, "kernel");
}

#[test]
fn luna_recovers_from_cuts() {
    cuts(Ends::SERVER, "luna");
}

const BRIEF: Duration = Duration::from_secs(2);
/// After two unanswered retransmissions the kernel asks the old address three times, a second
/// apart, and then, with the next retransmission, everybody.
const LONG: Duration = Duration::from_secs(15);

#[test]
fn the_kernel_follows_a_neighbour() {
    moved(Ends::NEITHER, "kernel", true, BRIEF);
    moved(Ends::NEITHER, "kernel", false, LONG);
}

#[test]
fn luna_follows_a_neighbour() {
    moved(Ends::SERVER, "luna", true, BRIEF);
    moved(Ends::SERVER, "luna", false, LONG);
}

#[test]
fn the_kernel_survives_flapping_routes() {
    flapping(Ends::NEITHER, "kernel");
}

#[test]
fn luna_survives_flapping_routes() {
    flapping(Ends::SERVER, "luna");
}
