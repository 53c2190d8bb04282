//! Tests of the statistics board.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;

fn info() -> BoardInfo {
    BoardInfo {
        pid: std::process::id(),
        started_s: 1_700_000_000,
        device: "xdp:eth0".into(),
        program: "redis-server".into(),
        shards: 2,
        dedicated: true,
        state: RunState::KernelOnly,
        state_reason: Reason::NoPrivilege,
        rows_refused: 0,
    }
}

fn board() -> (Board, Reader) {
    let board = Board::create(&info(), 300).unwrap();
    assert!(board.fd() >= 300);
    let reader = Reader::open(&PathBuf::from(format!("/proc/self/fd/{}", board.fd()))).unwrap();
    (board, reader)
}

fn row(n: u64) -> SocketRow {
    let local = "10.0.0.1:6379".parse().unwrap();
    let remote = "10.0.0.2:61440".parse().unwrap();
    let mut row = SocketRow::new(RowState::Established, Reason::Accelerated, local, remote);
    row.bytes_in = n;
    row.bytes_out = n;
    row.srtt_us = n as u32;
    row
}

#[test]
fn a_reader_sees_what_was_written() {
    let (board, reader) = board();
    assert_eq!(reader.info(), info());
    let mut counters = Counters {
        rx_frames: 7,
        ..Counters::default()
    };
    counters.neighbour_requests = 9;
    board.publish(1, &counters);
    board.publish(100_000, &counters);
    assert_eq!(
        (reader.counters(0), reader.counters(1)),
        (Counters::default(), counters)
    );
    assert_eq!(Counters::from_array(counters.to_array()), counters);

    let first = board.claim().unwrap();
    let second = board.claim().unwrap();
    assert!(reader.rows().is_empty(), "claimed but not written");
    board.update(first, &row(1));
    board.update(second, &row(2));
    assert_eq!(reader.rows(), [row(1), row(2)]);
    board.release(first);
    assert_eq!(reader.rows(), [row(2)]);
    assert_eq!(board.claim(), Some(first), "a released row is used again");
    board.set_state(RunState::Running, Reason::Accelerated);
    assert_eq!(reader.info().state, RunState::Running);
}

#[test]
fn a_full_table_refuses_and_says_so() {
    let (board, reader) = board();
    let rows: HashSet<RowId> = (0..shm::ROWS_MAX).map(|_| board.claim().unwrap()).collect();
    assert_eq!(rows.len(), shm::ROWS_MAX);
    assert_eq!(board.claim(), None);
    assert_eq!(reader.info().rows_refused, 1);
    let some = rows.into_iter().next().unwrap();
    board.release(some);
    assert_eq!(board.claim(), Some(some));
}

#[test]
fn others_can_not_write_or_shrink() {
    let (board, _) = board();
    let path = format!("/proc/self/fd/{}", board.fd());
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    assert!(file.set_len(0).is_err());
    assert!(std::os::unix::fs::FileExt::write_at(&file, b"x", 0).is_err());
}

#[test]
fn something_else_is_not_a_board() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Reader::open(file.path()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    file.as_file().set_len(1 << 30).unwrap();
    assert!(Reader::open(file.path()).is_err());
}

/// A row is never seen half-written, and rows never belong to two threads.
#[test]
fn readers_and_writers_at_once() {
    let (board, reader) = board();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3_u64)
            .map(|thread| {
                let board = &board;
                scope.spawn(move || {
                    for n in 0..20_000_u64 {
                        let mine = board.claim().unwrap();
                        board.update(mine, &row(n << 2 | thread));
                        board.update(mine, &row(n << 2 | thread));
                        board.release(mine);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for seen in reader.rows() {
                    assert_eq!(seen, row(seen.bytes_in));
                }
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reader.rows().is_empty());
}

#[test]
fn this_process_is_found() {
    let (board, _) = board();
    let found = discover::find().unwrap();
    let own: Vec<_> = found
        .processes
        .iter()
        .filter(|p| p.pid == std::process::id())
        .collect();
    assert_eq!(own.len(), 1);
    drop(board);
}

#[test]
fn names_are_unique() {
    let reasons: HashSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(reasons.len(), Reason::ALL.len());
    for reason in Reason::ALL {
        assert_eq!(Reason::from_code(*reason as u8), *reason);
        assert!(reason.help().ends_with('.'), "{}", reason.help());
    }
    assert_eq!(Reason::from_code(200), Reason::Undecided);
    let states: HashSet<&str> = RowState::ALL.iter().map(|state| state.name()).collect();
    assert_eq!(states.len(), RowState::ALL.len());
    assert_eq!(Counters::NAMES.len(), Counters::HELP.len());
}

proptest! {
    #[test]
    fn rows_round_trip(
        state in 0..RowState::ALL.len(), reason in 0..Reason::ALL.len(), shard: u16, fd: i32,
        local: std::net::SocketAddr, remote: std::net::SocketAddr,
        wide: [u64; 2], narrow: [u32; 8],
    ) {
        let [retransmits, srtt_us, rttvar_us, cwnd_bytes, ssthresh_bytes, mss_bytes, recv_queue,
            send_queue] = narrow;
        let (local, remote) = (plain(local), plain(remote));
        let [bytes_in, bytes_out] = wide;
        let row = SocketRow {
            state: RowState::ALL[state], reason: Reason::ALL[reason], shard, fd, local, remote,
            bytes_in, bytes_out, retransmits, srtt_us, rttvar_us, cwnd_bytes, ssthresh_bytes,
            mss_bytes, recv_queue, send_queue,
        };
        prop_assert_eq!(SocketRow::from_words(&row.to_words()), Some(row));
    }

    #[test]
    fn any_words_are_readable(words: [u64; row::ROW_WORDS]) {
        let _ = SocketRow::from_words(&words);
    }
}

/// Flow label and scope are not kept.
fn plain(address: std::net::SocketAddr) -> std::net::SocketAddr {
    std::net::SocketAddr::new(address.ip(), address.port())
}

/// Not a benchmark, only a bound that a mistake would break. It prints what it measured.
#[test]
fn an_update_is_cheap() {
    let (board, _) = board();
    let (mine, row, rounds) = (board.claim().unwrap(), row(1), 100_000_u64);
    let clock = crate::time::SystemClock;
    let mut best = u64::MAX;
    for _ in 0..10 {
        let start = crate::time::Clock::now(&clock);
        for n in 0..rounds {
            board.update(
                mine,
                std::hint::black_box(&SocketRow { bytes_in: n, ..row }),
            );
        }
        let spent = crate::time::Clock::now(&clock)
            .saturating_since(start)
            .as_nanos();
        best = best.min(spent * 1000 / rounds);
    }
    println!("update: {}.{:03} ns", best / 1000, best % 1000);
    assert!(best < 1_000_000, "{best} ps");
}
