//! What one request and its response may cost between two shards on a wire in memory: frames,
//! allocations, copies.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails is the test failing"
)]

use core::net::{IpAddr, SocketAddr};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};

use luna::control::{ControlHandle, Neighbour, NeighbourState, Tables};
use luna::device::pair::{LocalEnd, PairConfig, local};
use luna::stack::{ConnId, RecvMode, Shard, ShardParts};
use luna::tcp::Config;
use luna::time::{Duration, Instant};
use luna::wire::Mac;
use luna::zbuf::{Area, Pool, PoolConfig};

const IFINDEX: u32 = 2;
const MESSAGE: usize = 4096;

thread_local! {
    /// Allocations of this thread.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending counts no more.
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: caller.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, n + 1])
}

fn shard(own: u8, device: LocalEnd) -> Shard {
    let mac = |n: u8| Mac([2, 0, 0, 0, 0, n + 1]);
    let peer = Neighbour::Known(mac(1 - own), NeighbourState::Reachable);
    let tables = Tables::builder()
        .ethernet(IFINDEX, "pair0", mac(own), 1500)
        .address(IFINDEX, address(own), 24)
        .neighbour(IFINDEX, address(1 - own), peer)
        .build();
    let area = Area::new(16 << 21).expect("memory");
    let config = PoolConfig {
        zones: 16,
        ..PoolConfig::default()
    };
    Shard::new(ShardParts {
        device: Box::new(device),
        pool: Pool::new(&area, config).expect("pool"),
        control: ControlHandle::from_static(tables),
        ifindex: IFINDEX,
        secret: [own + 1; 32],
        discovery: None,
        partial_checksums: false,
        now: Instant::ZERO,
    })
}

/// A server (0) and a client (1) with one connection.
struct Two {
    ends: [Shard; 2],
    conns: [ConnId; 2],
    now: Instant,
    wakeups: Vec<luna::stack::Wakeup>,
    buffer: Vec<u8>,
}

impl Two {
    fn connected(wire: PairConfig) -> Self {
        let (one, other) = local(wire);
        let mut ends = [shard(0, one), shard(1, other)];
        let now = Instant::ZERO;
        let config = Config {
            nodelay: true,
            ..Config::default()
        };
        let server = SocketAddr::new(address(0), 80);
        let client = SocketAddr::new(address(1), 61440);
        let listener = ends[0]
            .listen(server, false, 16, &config, 1)
            .expect("listen");
        let ours = ends[1]
            .connect(now, client, server, &config, 2)
            .expect("connect");
        for _ in 0..4 {
            ends[1].turn(now);
            ends[0].turn(now);
        }
        let theirs = ends[0]
            .accept(listener, 3)
            .expect("an established connection")
            .conn;
        Self {
            ends,
            conns: [theirs, ours],
            now,
            wakeups: Vec::new(),
            buffer: vec![0x5a; 2 * MESSAGE],
        }
    }

    fn turn(&mut self, end: usize) {
        self.ends[end].turn(self.now);
        self.ends[end].take_wakeups(&mut self.wakeups);
        self.wakeups.clear();
    }

    /// A request and its response, as two event loops make them.
    fn exchange(&mut self) {
        self.now += Duration::from_micros(10);
        for (from, to) in [(1, 0), (0, 1)] {
            let message = [IoSlice::new(&self.buffer[..MESSAGE])];
            let sent = self.ends[from].send(self.now, self.conns[from], &message, false);
            assert_eq!(sent, Ok(MESSAGE));
            self.turn(from);
            self.turn(to);
            let room = &mut [IoSliceMut::new(&mut self.buffer)];
            let got = self.ends[to].recv(self.now, self.conns[to], room, RecvMode::default());
            assert_eq!(got, Ok(MESSAGE));
        }
    }

    fn frames(&self) -> u64 {
        self.ends
            .iter()
            .map(|end| end.device_stats().tx_frames)
            .sum()
    }

    fn doorbells(&self) -> u64 {
        self.ends
            .iter()
            .map(|end| end.device_stats().doorbells)
            .sum()
    }
}

#[test]
fn an_exchange_takes_six_frames_two_doorbells_and_no_allocation() {
    for checksum_offload in [false, true] {
        let mut two = Two::connected(PairConfig {
            checksum_offload,
            by_reference: true,
            ..PairConfig::default()
        });
        // Past the quick acknowledgments of a young connection, and with every list grown.
        for _ in 0..1000 {
            two.exchange();
        }
        let (frames, doorbells) = (two.frames(), two.doorbells());
        let allocations = ALLOCATIONS.get();
        const EXCHANGES: u64 = 2000;
        for _ in 0..EXCHANGES {
            two.exchange();
        }
        // Three segments carry a message; each direction's acknowledgment rides on the other's.
        assert_eq!(two.frames() - frames, 6 * EXCHANGES);
        assert_eq!(two.doorbells() - doorbells, 2 * EXCHANGES);
        assert_eq!(ALLOCATIONS.get() - allocations, 0);
        let copied: u64 = two.ends.iter().map(|e| e.device_stats().bytes_copied).sum();
        assert_eq!(copied, 0, "the wire passes payload by reference");
    }
}

/// A filter that lets a process do nothing but end.
fn forbid_system_calls() {
    // Loads the number of the call; allows one; kills for any other.
    let instruction = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_exit_group as u32,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_KILL_PROCESS,
        ),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: flags; and a filter that lives through the call, which copies it.
    let answers = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter,
            ),
        ]
    };
    assert_eq!(answers, [0, 0], "the filter is in place");
}

/// How a child process ends that runs the exchange and then `after`, and from there on may call
/// nothing but `exit_group`: 0 if all went well.
///
/// The two shards are made in the child: packet memory is not inherited.
fn exchange_without_system_calls(after: fn()) -> libc::c_int {
    // SAFETY: the child touches nothing that another thread could have been at: it makes what it
    // uses, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let done = std::panic::catch_unwind(|| {
            let mut two = Two::connected(PairConfig {
                by_reference: true,
                ..PairConfig::default()
            });
            for _ in 0..1000 {
                two.exchange();
            }
            forbid_system_calls();
            let frames = two.frames();
            for _ in 0..2000 {
                two.exchange();
            }
            after();
            (two.frames() - frames, two)
        });
        let code = match &done {
            Ok((12_000, _)) => 0,
            Ok(_) => 2,
            Err(_) => 3,
        };
        // SAFETY: ends the process, without a destructor that would give memory back.
        unsafe { libc::_exit(code) };
    }
    assert!(child > 0, "fork");
    let mut status = 0;
    // SAFETY: a child of ours, and room for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

#[test]
fn an_exchange_makes_no_system_call() {
    assert_eq!(exchange_without_system_calls(|| ()), 0, "as waitpid says");
    // One call more, and the filter strikes.
    let status = exchange_without_system_calls(|| {
        // SAFETY: no arguments.
        let _never = unsafe { libc::getppid() };
    });
    assert_eq!(libc::WTERMSIG(status), libc::SIGSYS);
}
