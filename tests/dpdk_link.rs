//! Links through DPDK: virtual ports that need no hardware, on memory without hugepages.
//!
//! DPDK starts once per process, so everything that needs it fresh is in one test.

#![cfg(feature = "dpdk")]
#![allow(
    clippy::expect_used,
    reason = "a helper that fails is the test failing"
)]

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use luna::device::dpdk::{DpdkConfig, DpdkPort, DpdkQueue};
use luna::device::{Device, FramePart, Pieces, RxFrame, TxFrame};
use luna::time::{Clock as _, Duration, SystemClock};
use luna::zbuf::{Area, Pool, PoolConfig};

/// DPDK is one per process, and not made for tests that run side by side. Whoever comes first
/// starts it, and finds out what that does to the calling thread.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    START.get_or_init(|| {
        let before = Thread::now();
        drop(DpdkPort::open(&config("net_null9", 1500, 1)).expect("a port"));
        [before, Thread::now()]
    });
    turn
}

static START: OnceLock<[Thread; 2]> = OnceLock::new();

/// What DPDK could have changed of a thread.
#[derive(Debug, PartialEq, Eq)]
struct Thread {
    affinity: Vec<usize>,
    name: String,
    blocked: String,
}

impl Thread {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("status");
        let line = status.lines().find(|line| line.starts_with("SigBlk:"));
        let set = rustix::thread::sched_getaffinity(None).expect("affinity");
        Self {
            affinity: (0..rustix::thread::CpuSet::MAX_CPU)
                .filter(|cpu| set.is_set(*cpu))
                .collect(),
            name: std::fs::read_to_string("/proc/thread-self/comm").expect("a name"),
            blocked: line.expect("a mask").to_owned(),
        }
    }
}

fn config(devargs: &str, mtu: u16, queues: u16) -> DpdkConfig {
    DpdkConfig {
        devargs: devargs.to_owned(),
        is_pci: false,
        mtu,
        queues,
    }
}

fn pool() -> Pool {
    let area = Area::new(16 << 21).expect("memory");
    let config = PoolConfig {
        zones: 16,
        ..PoolConfig::default()
    };
    Pool::new(&area, config).expect("a pool")
}

fn open(devargs: &str, mtu: u16, pool: &mut Pool) -> DpdkQueue {
    let port = DpdkPort::open(&config(devargs, mtu, 1)).expect("a port");
    let queue = port.queue(0, pool).expect("a queue");
    port.start().expect("a start");
    queue
}

fn frame(pool: &mut Pool, header: &[u8], payload: &[&[u8]]) -> TxFrame {
    let mut frame = TxFrame {
        header: header.iter().copied().collect(),
        payload: Pieces::new(),
        checksum_offload: false,
        segment_bytes: 0,
        alone: false,
    };
    for piece in payload {
        frame.payload.push(pool.copy_in(piece).expect("memory"));
    }
    frame
}

fn bytes(frame: &RxFrame) -> Vec<u8> {
    frame
        .pieces
        .iter()
        .flat_map(|piece| piece.as_bytes().to_vec())
        .collect()
}

fn exchange(queue: &mut DpdkQueue, pool: &mut Pool, frames: Vec<TxFrame>) -> Vec<Vec<u8>> {
    let mut sending = VecDeque::from(frames);
    let mut received = Vec::new();
    while !sending.is_empty() {
        assert!(
            queue.tx_burst(pool, &mut sending) > 0,
            "the port takes nothing"
        );
        queue.flush(pool);
        queue.rx_burst(pool, &mut received, 64);
    }
    while queue.rx_burst(pool, &mut received, 64) > 0 {}
    // What was received has been let go of: its senders' pieces are complete.
    queue.flush(pool);
    received.iter().map(bytes).collect()
}

/// How many threads there are whose names begin so. They are DPDK's, and take no signal of the
/// application's.
fn threads_take_no_signals(prefixes: &[&str]) -> usize {
    let mut own = 0;
    for task in std::fs::read_dir("/proc/self/task")
        .expect("tasks")
        .flatten()
    {
        let text = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if prefixes
            .iter()
            .any(|prefix| text("comm").starts_with(prefix))
        {
            own += 1;
            let status = text("status");
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
            let blocked = u64::from_str_radix(blocked.expect("a mask").trim(), 16).expect("hex");
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGCHLD] {
                assert_ne!(blocked & 1 << (signal - 1), 0, "signal {signal}: {status}");
            }
        }
    }
    own
}

#[test]
fn the_start_leaves_the_calling_thread_as_it_was() {
    let _turn = turn();
    let [before, after] = START.get().expect("it has started");
    assert_eq!(before, after);
    let own = threads_take_no_signals(&["eal-"]);
    assert!(own > 0, "DPDK has a thread for interrupts");
    let mut pool = pool();
    let mut queue = open("net_null7", 1500, &mut pool);
    assert!(queue.must_be_polled() && queue.wait_fds().is_empty());
    queue.close(&mut pool);
    drop(queue);
    assert_eq!(pool.objects_in_use(), 0);
}

#[test]
fn frames_come_back_from_a_ring_whole_and_nothing_is_lost() {
    let _turn = turn();
    let mut pool = pool();
    let mut queue = open("net_ring0", 9000, &mut pool);
    let body: Vec<u8> = (0..8000_u32).map(|i| i as u8).collect();
    let (a, b) = body.split_at(3000);
    let expected = [
        vec![1; 60],
        [&[2; 54], a].concat(),
        [&[3; 54], a, b].concat(),
    ];
    for _ in 0..200 {
        let frames = vec![
            frame(&mut pool, &[1; 60], &[]),
            frame(&mut pool, &[2; 54], &[a]),
            frame(&mut pool, &[3; 54], &[a, b]),
        ];
        assert_eq!(exchange(&mut queue, &mut pool, frames), expected);
    }
    let stats = queue.stats();
    assert_eq!((stats.tx_frames, stats.rx_frames), (600, 600));
    assert_eq!(stats.tx_bytes, stats.rx_bytes);
    queue.close(&mut pool);
    drop(queue);
    assert_eq!(pool.objects_in_use(), 0);
}

#[test]
fn a_header_goes_in_front_of_its_payload() {
    let _turn = turn();
    let mut pool = pool();
    let mut queue = open("net_ring1", 1500, &mut pool);
    let mut payload = pool.alloc_with_headroom(1400, 128).expect("memory");
    payload.append(&[9; 1400]);
    let mut one = frame(&mut pool, &[4; 54], &[]);
    one.payload.push(payload);
    let before = pool.objects_in_use();
    let frames = vec![one.clone()];
    let got = exchange(&mut queue, &mut pool, frames);
    assert_eq!(got, [[&[4_u8; 54][..], &[9; 1400]].concat()]);
    assert_eq!(
        pool.objects_in_use(),
        before,
        "only the payload is kept, by us"
    );
    assert_eq!(one.payload[0].tx_inflight(), 0);
    queue.close(&mut pool);
}

#[test]
fn each_queue_has_its_own_frames() {
    let _turn = turn();
    let port = DpdkPort::open(&config("net_ring2", 1500, 2)).expect("a port");
    let mut pools = [pool(), pool()];
    let mut queues: Vec<DpdkQueue> = pools
        .iter_mut()
        .enumerate()
        .map(|(number, pool)| port.queue(number as u16, pool).expect("a queue"))
        .collect();
    port.start().expect("a start");
    for (number, (queue, pool)) in queues.iter_mut().zip(&mut pools).enumerate() {
        let own = frame(pool, &[number as u8; 60], &[]);
        let frames = vec![own];
        let mut sending = VecDeque::from(frames);
        assert_eq!(queue.tx_burst(pool, &mut sending), 1);
    }
    for (number, (queue, pool)) in queues.iter_mut().zip(&mut pools).enumerate() {
        let mut got = Vec::new();
        queue.rx_burst(pool, &mut got, 64);
        assert_eq!(
            got.iter().map(bytes).collect::<Vec<_>>(),
            [[number as u8; 60]]
        );
        drop(got);
    }
    for (queue, pool) in queues.iter_mut().zip(&mut pools) {
        queue.close(pool);
        assert_eq!(pool.objects_in_use(), 0);
    }
}

#[test]
fn received_objects_are_replaced_for_as_long_as_there_are_any() {
    let _turn = turn();
    let mut pool = pool();
    // Makes up frames without end.
    let mut queue = open("net_null0", 1500, &mut pool);
    let mut total = 0;
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut got = Vec::new();
        total += queue.rx_burst(&mut pool, &mut got, 64);
        held.extend(got.pop());
    }
    assert_eq!(total, 6400);
    assert_eq!(
        queue.stats().bytes_copied,
        0,
        "they lie where the driver put them"
    );
    drop(held);
    // Who holds everything starves the port, and nothing worse.
    let mut held = Vec::new();
    while queue.rx_burst(&mut pool, &mut held, 64) > 0 {}
    assert!(held.len() > 2000);
    held.clear();
    assert!(
        queue.rx_burst(&mut pool, &mut held, 64) > 0 || {
            // The first burst only fetched new objects.
            queue.rx_burst(&mut pool, &mut held, 64) > 0
        }
    );
    drop(held);
    queue.close(&mut pool);
    drop(queue);
    assert_eq!(pool.objects_in_use(), 0);
}

#[test]
fn what_cannot_be_is_one_line_that_says_what_to_do() {
    let _turn = turn();
    for (config, word) in [
        (config("net_nosuchthing0", 1500, 1), "find or make"),
        (config("net_ring3", 1500, 1000), "LUNA_SHARDS"),
        (config("net_ring4", 20, 1), "MTU can be"),
        (
            config("net_memif0,role=server", 1500, 1),
            "use memif:SOCKET",
        ),
        (
            config("net_vhost8,iface=/nowhere,ext-buffer=1", 1500, 1),
            "ext-buffer=1 is not",
        ),
    ] {
        let error = DpdkPort::open(&config).expect_err(word).to_string();
        assert!(error.contains(word) && !error.contains('\n'), "{error}");
        assert!(error.starts_with(&config.devargs), "{error}");
    }
}

/// Until something has come, or it is plain that nothing will.
fn await_frames(queue: &mut DpdkQueue, pool: &mut Pool, received: &mut Vec<RxFrame>) {
    let until = SystemClock.now() + Duration::from_secs(10);
    while received.is_empty() && SystemClock.now() < until {
        queue.rx_burst(pool, received, 64);
    }
}

#[test]
fn a_long_segment_crosses_vhost_whole_and_comes_in_parts() {
    let _turn = turn();
    let huge = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    let free = std::fs::read_to_string(huge).unwrap_or_default();
    if free.trim().parse().unwrap_or(0) >= 32 {
        // Between two processes they are no hindrance: tests/e2e_vhost.rs.
        println!(
            "skipped: on hugepages DPDK's two ends of vhost wait for each other in one process"
        );
        return;
    }
    let folder = tempfile::tempdir().expect("make a directory");
    let path = folder.path().join("link.sock");
    let (mut pool_a, mut pool_b) = (pool(), pool());
    let devargs = format!("net_vhost5,iface={},tso=1", path.display());
    let mut host = open(&devargs, 1500, &mut pool_a);
    let devargs = format!("net_virtio_user5,path={}", path.display());
    let mut guest = open(&devargs, 1500, &mut pool_b);
    assert!(threads_take_no_signals(&["vhost", "luna-eal"]) > 0);
    assert_eq!(host.capabilities().tso_bytes_max, 0, "vhost cannot");
    assert!(guest.capabilities().tso_bytes_max > 60_000);
    // Ethernet, IPv4 and TCP headers of a segment of 60,000 bytes, its sum unfinished.
    let body: Vec<u8> = (0..60_000_u32).map(|i| (i / 7) as u8).collect();
    let mut header = [0_u8; 54];
    header[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    header[16..18].copy_from_slice(&60_040_u16.to_be_bytes());
    header[22..24].copy_from_slice(&[64, 6]);
    header[46] = 5 << 4;
    let mut long = frame(
        &mut pool_b,
        &header,
        &body.chunks(15_000).collect::<Vec<_>>(),
    );
    (long.checksum_offload, long.segment_bytes) = (true, 1448);
    let mut got = Vec::new();
    // The host's end is up when it has seen to the guest's.
    let until = SystemClock.now() + Duration::from_secs(10);
    while got.is_empty() && SystemClock.now() < until {
        let mut sending = VecDeque::from([long.clone()]);
        guest.tx_burst(&mut pool_b, &mut sending);
        host.rx_burst(&mut pool_a, &mut got, 64);
    }
    let end = got.iter().position(|part| part.part == FramePart::Last);
    let parts = &got[..=end.expect("a last part")];
    assert_eq!(parts[0].part, FramePart::First);
    assert!(
        parts.iter().all(|part| part.checksum_ok),
        "the memory does not err"
    );
    let whole: Vec<u8> = parts.iter().flat_map(bytes).collect();
    assert_eq!(whole.len(), 54 + body.len());
    assert_eq!(whole[54..], body);
    // The other way: a frame of several pieces, copied out of the guest's memory into one.
    let reply = frame(&mut pool_a, &[7; 54], &[&body[..700], &body[700..1400]]);
    let mut sending = VecDeque::from([reply]);
    assert_eq!(host.tx_burst(&mut pool_a, &mut sending), 1);
    let mut back = Vec::new();
    await_frames(&mut guest, &mut pool_b, &mut back);
    assert_eq!(back.len(), 1);
    assert_eq!(back[0].pieces.len(), 1);
    assert_eq!(bytes(&back[0]), [&[7; 54], &body[..1400]].concat());
    drop((got, back, long));
    guest.close(&mut pool_b);
    host.close(&mut pool_a);
    drop((guest, host));
    assert_eq!(pool_a.objects_in_use(), 0);
    assert_eq!(pool_b.objects_in_use(), 0);
}
