//! The inline loop and sending by reference, on two shards joined in memory.

use std::io::{IoSlice, IoSliceMut};

use super::testutil::Two;
use super::*;
use crate::device::Pieces;
use crate::tcp::Config;
use crate::time::{Duration, Instant};
use crate::zbuf::Slice;

/// What the application was told, in words.
#[derive(Debug, Default)]
struct Echo {
    told: Vec<String>,
    /// Echo what arrives, with these marks.
    marks: Option<u64>,
    close_at_once: bool,
    conns: Vec<ConnId>,
    held: Vec<Slice>,
}

impl App for Echo {
    fn accepted(&mut self, _: Instant, _: &mut Shard, listener: u64, new: Accepted) -> u64 {
        self.told.push(format!("accepted {listener}"));
        self.conns.push(new.conn);
        self.conns.len() as u64
    }
    fn connected(
        &mut self,
        _: Instant,
        _: &mut Shard,
        conn: ConnId,
        token: u64,
        result: Result<(), ConnError>,
    ) {
        self.told.push(format!("connected {token} {result:?}"));
        self.conns.push(conn);
    }
    fn readable(
        &mut self,
        now: Instant,
        shard: &mut Shard,
        conn: ConnId,
        token: u64,
        pieces: &mut Pieces,
    ) {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.told.push(format!("readable {token} {bytes}"));
        assert_eq!(
            shard.turn(now),
            TurnReport::default(),
            "no turn inside a turn"
        );
        if self.close_at_once {
            shard.close(now, conn, Close::Graceful);
            return;
        }
        for piece in pieces.drain(..) {
            let len = piece.len();
            let mark = self.marks.as_mut().map_or(0, |next| {
                *next += 1;
                *next
            });
            assert_eq!(shard.send_slice(conn, piece, mark, false), Ok(len));
        }
    }
    fn writable(&mut self, _: Instant, _: &mut Shard, _: ConnId, token: u64) {
        self.told.push(format!("writable {token}"));
    }
    fn completed(
        &mut self,
        _: Instant,
        _: &mut Shard,
        _: ConnId,
        token: u64,
        completions: &[Completion],
    ) {
        for one in completions {
            let how = one
                .error
                .map_or("ok".to_owned(), |error| format!("{error:?}"));
            self.told
                .push(format!("completed {token} {} {how}", one.mark));
        }
    }
    fn closed(
        &mut self,
        _: Instant,
        _: &mut Shard,
        _: ConnId,
        token: u64,
        error: Option<ConnError>,
    ) {
        self.told.push(format!("closed {token} {error:?}"));
    }
}

fn config() -> Config {
    Config {
        nodelay: true,
        ..Config::default()
    }
}

fn server(two: &mut Two) -> ListenId {
    let id = two.ends[0]
        .listen(Two::at(0, 80), false, 16, &config(), 7)
        .unwrap();
    two.ends[0].adopt_listener(id, 70);
    id
}

fn client(two: &mut Two, app: &mut Inline<Echo>, port: u16) -> ConnId {
    let now = two.now;
    let conn = two.ends[1]
        .connect(now, Two::at(1, port), Two::at(0, 80), &config(), 9)
        .unwrap();
    two.settle_with(app);
    conn
}

fn send(two: &mut Two, id: ConnId, bytes: &[u8]) {
    let now = two.now;
    let sent = two.ends[1].send(now, id, &[IoSlice::new(bytes)], false);
    assert_eq!(sent, Ok(bytes.len()));
}

fn recv(two: &mut Two, id: ConnId) -> Result<Vec<u8>, RecvError> {
    let mut buf = vec![0; 1 << 20];
    let now = two.now;
    let mode = RecvMode::default();
    let n = two.ends[1].recv(now, id, &mut [IoSliceMut::new(&mut buf)], mode)?;
    buf.truncate(n);
    Ok(buf)
}

#[test]
fn an_inline_echo_copies_nothing_and_answers_within_the_packet() {
    let mut two = Two::new(1500);
    let mut app = Inline(Echo::default());
    server(&mut two);
    let c = client(&mut two, &mut app, 61440);
    assert_eq!(app.0.told, ["accepted 70"]);
    let message: Vec<u8> = (0..4096).map(|i| (i % 251) as u8).collect();
    send(&mut two, c, &message);
    two.settle_with(&mut app);
    assert_eq!(recv(&mut two, c), Ok(message));
    assert_eq!(
        app.0.told[1..],
        ["readable 1 1448", "readable 1 1448", "readable 1 1200"]
    );
    let counters = *two.ends[0].counters();
    assert_eq!((counters.bytes_in, counters.bytes_out), (4096, 4096));
    assert_eq!(
        (counters.bytes_copied_in, counters.bytes_copied_out),
        (0, 0)
    );
    let copying = *two.ends[1].counters();
    assert_eq!(
        (copying.bytes_copied_in, copying.bytes_copied_out),
        (4096, 4096)
    );
    assert!(two.wakeups[0].is_empty(), "no events of the other kind");
}

#[test]
fn the_end_is_told_once_and_leaves_nothing() {
    let mut two = Two::new(1500);
    let mut app = Inline(Echo::default());
    server(&mut two);
    let c = client(&mut two, &mut app, 61440);
    let now = two.now;
    two.ends[1].shutdown_write(now, c);
    two.settle_with(&mut app);
    assert_eq!(app.0.told[1..], ["readable 1 0"], "half closed");
    let s = app.0.conns[0];
    assert_eq!(two.ends[0].inline_token(s), Some(1));
    two.ends[0].close(now, s, Close::Graceful);
    two.settle_with(&mut app);
    assert_eq!(two.ends[0].inline_token(s), None);
    assert_eq!(
        app.0.told.len(),
        2,
        "a close of one's own is not told: {:?}",
        app.0.told
    );
    assert_eq!(two.ends[0].population(), (0, 0));
    assert_eq!(recv(&mut two, c), Ok(vec![]));
}

#[test]
fn each_mark_completes_once_whatever_happens() {
    for how in ["acknowledged", "reset", "aborted", "closed"] {
        let mut two = Two::new(1500);
        let mut app = Inline(Echo {
            marks: Some(100),
            ..Echo::default()
        });
        server(&mut two);
        let c = client(&mut two, &mut app, 61440);
        send(&mut two, c, &[7; 3000]);
        // The server's answers are on the wire, and unacknowledged.
        two.turn(1);
        two.turn_with(0, &mut app);
        let now = two.now;
        let s = app.0.conns[0];
        match how {
            "reset" => two.ends[1].close(now, c, Close::Abort),
            "aborted" => two.ends[0].close(now, s, Close::Abort),
            "closed" => two.ends[0].close(now, s, Close::Graceful),
            _ => {}
        }
        two.settle_with(&mut app);
        for _ in 0..5 {
            two.now += Duration::from_millis(50);
            two.settle_with(&mut app);
        }
        let mut done: Vec<_> = app
            .0
            .told
            .iter()
            .filter(|t| t.starts_with("completed"))
            .collect();
        done.sort();
        let ok = matches!(how, "acknowledged" | "closed");
        let fate = match how {
            "reset" => "Reset",
            "aborted" => "Aborted",
            _ => "ok",
        };
        assert_eq!(done.len(), 3, "{how}: {:?}", app.0.told);
        for (mark, line) in (101..).zip(done) {
            assert_eq!(*line, format!("completed 1 {mark} {fate}"), "{how}");
        }
        let closed = app
            .0
            .told
            .iter()
            .filter(|t| t.starts_with("closed"))
            .count();
        assert_eq!(closed, usize::from(how == "reset"), "{how}: {ok}");
        two.ends[1].close(now, c, Close::Graceful);
        two.settle_with(&mut app);
    }
}

#[test]
fn one_buffer_goes_to_many_connections() {
    let mut two = Two::new(1500);
    let mut app = Inline(Echo::default());
    server(&mut two);
    let clients: Vec<_> = (0..50)
        .map(|i| client(&mut two, &mut app, 61440 + i))
        .collect();
    let mut block = two.ends[0].pool_mut().alloc(65536).unwrap();
    let bytes: Vec<u8> = (0..65536).map(|i| (i % 253) as u8).collect();
    assert_eq!(block.append(&bytes), 65536);
    app.0.held.push(block);
    let servers = app.0.conns.clone();
    for s in &servers {
        let share = app.0.held[0].clone();
        assert_eq!(two.ends[0].send_slice(*s, share, 1, false), Ok(65536));
    }
    let mut got = vec![Vec::new(); clients.len()];
    for _ in 0..2000 {
        two.settle_with(&mut app);
        for (c, got) in clients.iter().zip(&mut got) {
            if let Ok(part) = recv(&mut two, *c) {
                got.extend(part);
            }
        }
        if got.iter().all(|got| got.len() == bytes.len()) {
            break;
        }
        two.now += Duration::from_millis(1);
    }
    assert!(got.iter().all(|got| *got == bytes));
    two.now += Duration::from_millis(50);
    two.settle_with(&mut app);
    let done = app.0.told.iter().filter(|t| t.ends_with(" 1 ok")).count();
    assert_eq!(done, clients.len());
    assert!(app.0.held[0].is_unique(), "nobody refers to it any more");
    assert_eq!(two.ends[0].counters().bytes_copied_out, 0);
}

#[test]
fn a_connection_may_be_closed_in_its_own_callback() {
    let mut two = Two::new(1500);
    let mut app = Inline(Echo {
        close_at_once: true,
        ..Echo::default()
    });
    server(&mut two);
    let c = client(&mut two, &mut app, 61440);
    send(&mut two, c, &[1; 10_000]);
    two.settle_with(&mut app);
    assert_eq!(app.0.told.len(), 2, "{:?}", app.0.told);
    assert_eq!(two.ends[0].population().0, 0);
    two.now += Duration::from_millis(10);
    two.settle_with(&mut app);
    assert!(
        recv(&mut two, c).is_ok_and(|bytes| bytes.is_empty()),
        "its FIN"
    );
}

#[test]
fn a_full_buffer_says_how_much_it_took_and_calls_when_there_is_room() {
    let mut two = Two::new(1500);
    let mut app = Inline(Echo::default());
    server(&mut two);
    let c = client(&mut two, &mut app, 61440);
    let s = app.0.conns[0];
    let block = two.ends[0].pool_mut().copy_in(&[3; 65536]).unwrap();
    let mut total = 0;
    loop {
        match two.ends[0].send_slice(s, block.clone(), 0, false) {
            Ok(taken) => total += taken,
            Err(error) => {
                assert_eq!(error, SendError::WouldBlock);
                break;
            }
        }
    }
    assert!(total > 65536);
    let mut got = 0;
    for _ in 0..5000 {
        two.settle_with(&mut app);
        got += recv(&mut two, c).map_or(0, |bytes| bytes.len());
        if got == total {
            break;
        }
        two.now += Duration::from_millis(1);
    }
    assert_eq!(got, total);
    assert!(
        app.0.told.contains(&"writable 1".to_owned()),
        "{:?}",
        app.0.told
    );
}

#[test]
fn a_connect_that_fails_is_told_and_gone() {
    let mut two = Two::new(1500);
    let mut app = Inline(Echo::default());
    let now = two.now;
    let c = two.ends[0]
        .connect(now, Two::at(0, 61440), Two::at(1, 81), &config(), 5)
        .unwrap();
    two.ends[0].adopt(c, 5, false);
    two.settle_with(&mut app);
    assert_eq!(app.0.told, ["connected 5 Err(Refused)"]);
    assert_eq!(two.ends[0].population(), (0, 0));
}

#[test]
fn a_reader_that_pauses_is_told_later_and_loses_nothing() {
    let mut two = Two::new(1500);
    let mut app = Inline(Echo::default());
    server(&mut two);
    let c = client(&mut two, &mut app, 61440);
    let s = app.0.conns[0];
    two.ends[0].pause_reading(s, true);
    send(&mut two, c, b"later");
    two.settle_with(&mut app);
    assert_eq!(app.0.told.len(), 1);
    two.ends[0].pause_reading(s, false);
    two.settle_with(&mut app);
    assert_eq!(app.0.told[1], "readable 1 5");
    assert_eq!(recv(&mut two, c), Ok(b"later".to_vec()));
}

#[test]
fn the_other_kind_gets_its_wakeups_beside_an_inline_one() {
    let mut two = Two::new(1500);
    let mut app = Inline(Echo::default());
    server(&mut two);
    let now = two.now;
    let other = two.ends[0]
        .listen(Two::at(0, 81), false, 16, &config(), 55)
        .unwrap();
    let c = two.ends[1]
        .connect(now, Two::at(1, 61440), Two::at(0, 81), &config(), 9)
        .unwrap();
    two.settle_with(&mut app);
    assert!(two.wakeups[0].iter().any(|wakeup| wakeup.token == 55));
    let accepted = two.ends[0].accept(other, 56).unwrap();
    send(&mut two, c, b"x");
    two.settle_with(&mut app);
    assert!(two.wakeups[0].iter().any(|wakeup| wakeup.token == 56));
    assert!(app.0.told.is_empty());
    two.ends[0].adopt(accepted.conn, 99, true);
    two.settle_with(&mut app);
    assert_eq!(app.0.told, ["readable 99 1"], "adopted with what it has");
}

#[test]
fn what_the_application_holds_closes_the_window_and_its_return_opens_it() {
    let mut two = Two::new(1500);
    let now = two.now;
    let small = Config {
        rcv_buf_max_bytes: 64 << 10,
        ..config()
    };
    let id = two.ends[0]
        .listen(Two::at(0, 80), false, 16, &small, 7)
        .unwrap();
    let c = two.ends[1]
        .connect(now, Two::at(1, 61440), Two::at(0, 80), &config(), 9)
        .unwrap();
    two.settle();
    let s = two.ends[0].accept(id, 8).unwrap().conn;
    let bytes = [5; 1 << 16];
    let mut sent = 0;
    let mut held = Vec::new();
    for _ in 0..200 {
        sent += two.ends[1]
            .send(two.now, c, &[IoSlice::new(&bytes)], false)
            .unwrap_or(0);
        two.run_for(Duration::from_millis(1));
        while let Ok(Some(slice)) = two.ends[0].recv_slice(s) {
            held.push(two.ends[0].lend(s, slice));
        }
    }
    let total: usize = held.iter().map(|loan| loan.len()).sum();
    let lent = two.ends[0].lent_bytes(s);
    assert!(
        total < 70_000 && sent > total,
        "{total} of {sent} before the window closed"
    );
    assert!(lent as usize >= total && lent >= 60 << 10, "{lent}");
    assert_eq!(two.ends[0].pool().lent(), held.len());
    for loan in held.drain(..) {
        two.ends[0].pool().area().free_ptr(loan.as_ptr()).unwrap();
    }
    let mut later = 0;
    for _ in 0..2000 {
        two.run_for(Duration::from_millis(5));
        while let Ok(Some(slice)) = two.ends[0].recv_slice(s) {
            later += slice.len();
            let loan = two.ends[0].lend(s, slice);
            two.ends[0].pool().area().free_ptr(loan.as_ptr()).unwrap();
        }
        if total + later == sent {
            break;
        }
    }
    assert_eq!(total + later, sent);
    two.settle();
    assert_eq!(two.ends[0].lent_bytes(s), 0);
}

/// Two ends, the first of which has little memory.
fn poor() -> Two {
    use super::testutil::shard;
    use crate::device::pair::{PairConfig, local};
    let (a, b) = local(PairConfig::default());
    Two {
        ends: [
            shard(0, 1500, 1, Box::new(a)),
            shard(1, 1500, 16, Box::new(b)),
        ],
        now: Instant::ZERO,
        wakeups: [Vec::new(), Vec::new()],
    }
}

fn open(two: &mut Two, listener: ListenId, port: u16) -> (ConnId, ConnId) {
    let now = two.now;
    let c = two.ends[1]
        .connect(now, Two::at(1, port), Two::at(0, 80), &config(), 9)
        .unwrap();
    two.settle();
    (two.ends[0].accept(listener, 1).unwrap().conn, c)
}

fn read_all(two: &mut Two, id: ConnId, got: &mut Vec<u8>) {
    while let Ok(Some(slice)) = two.ends[0].recv_slice(id) {
        got.extend_from_slice(&slice);
    }
}

#[test]
fn unread_connections_leave_the_link_enough_to_receive_into() {
    let mut two = poor();
    let listener = two.ends[0]
        .listen(Two::at(0, 80), false, 64, &config(), 7)
        .unwrap();
    let lazy: Vec<_> = (0..30)
        .map(|i| open(&mut two, listener, 61440 + i))
        .collect();
    let (s, c) = open(&mut two, listener, 62000);
    let block: Vec<u8> = (0..200_000).map(|i| (i % 251) as u8).collect();
    let mut sent = vec![0; lazy.len()];
    for round in 0..300 {
        for ((_, client), sent) in lazy.iter().zip(&mut sent) {
            let rest = &block[*sent..];
            *sent += two.ends[1]
                .send(two.now, *client, &[IoSlice::new(rest)], false)
                .unwrap_or(0);
        }
        two.run_for(Duration::from_millis(1));
        send(&mut two, c, b"still alive?");
        two.run_for(Duration::from_millis(1));
        let mut got = Vec::new();
        read_all(&mut two, s, &mut got);
        assert_eq!(got, b"still alive?", "round {round}");
    }
    let dropped = two.ends[0].counters().drops[Drop::Memory as usize];
    assert!(dropped > 0, "memory was never short");
    let mut got = vec![Vec::new(); lazy.len()];
    for _ in 0..20_000 {
        for (((server, client), got), sent) in lazy.iter().zip(&mut got).zip(&mut sent) {
            read_all(&mut two, *server, got);
            let rest = &block[*sent..];
            *sent += two.ends[1]
                .send(two.now, *client, &[IoSlice::new(rest)], false)
                .unwrap_or(0);
        }
        if got.iter().all(|got| got.len() == block.len()) {
            break;
        }
        two.run_for(Duration::from_millis(10));
    }
    assert!(got.iter().all(|got| *got == block), "nothing is lost");
}

#[test]
fn small_payloads_share_objects_while_memory_is_short() {
    let mut two = poor();
    let listener = two.ends[0]
        .listen(Two::at(0, 80), false, 2000, &config(), 7)
        .unwrap();
    let held = (0..600).map(|_| two.ends[0].pool_mut().alloc(2048).unwrap());
    let _held: Vec<Slice> = held.collect();
    assert!(two.ends[0].pool().low_water());
    let all: Vec<_> = (0..200)
        .map(|i| open(&mut two, listener, 61440 + i))
        .collect();
    let before = two.ends[0].objects_in_use();
    for (_, client) in &all {
        send(&mut two, *client, &[3; 100]);
        two.settle();
    }
    let took = two.ends[0].objects_in_use() - before;
    assert!(
        took <= 200 / 20 + 1,
        "{took} objects for 200 payloads of 100 bytes"
    );
    for (server, _) in &all {
        let mut got = Vec::new();
        read_all(&mut two, *server, &mut got);
        assert_eq!(got, [3; 100]);
    }
}
