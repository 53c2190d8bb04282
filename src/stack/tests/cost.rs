//! Counts what the processor executes while an inline application serves a request, by stepping
//! through it in a child process: no atomic operation, no system call, no allocation.

use std::io::{IoSlice, IoSliceMut};

use crate::device::Pieces;
use crate::stack::testutil::Two;
use crate::stack::*;
use crate::tcp::Config;
use crate::time::{Duration, Instant};

const MESSAGE: usize = 4096;
const COUNTED: usize = 2;

struct Echo;

impl App for Echo {
    fn accepted(&mut self, _: Instant, _: &mut Shard, _: u64, _: Accepted) -> u64 {
        1
    }
    fn connected(
        &mut self,
        _: Instant,
        _: &mut Shard,
        _: ConnId,
        _: u64,
        _: Result<(), ConnError>,
    ) {
    }
    fn readable(
        &mut self,
        _: Instant,
        shard: &mut Shard,
        conn: ConnId,
        _: u64,
        pieces: &mut Pieces,
    ) {
        for piece in pieces.drain(..) {
            shard.send_slice(conn, piece, 0, false).unwrap();
        }
    }
    fn closed(&mut self, _: Instant, _: &mut Shard, _: ConnId, _: u64, _: Option<ConnError>) {}
}

/// The server's turn alone, between two breakpoints if it is to be counted.
fn round(two: &mut Two, app: &mut Inline<Echo>, client: ConnId, counted: bool) {
    two.now += Duration::from_micros(10);
    let now = two.now;
    let message = [7; MESSAGE];
    let sent = two.ends[1].send(now, client, &[IoSlice::new(&message)], false);
    assert_eq!(sent, Ok(MESSAGE));
    two.turn(1);
    if counted {
        // SAFETY: a breakpoint; the parent, who steps, passes over it.
        unsafe { core::arch::asm!("int3") };
        two.ends[0].turn_with(now, app);
        // SAFETY: as above.
        unsafe { core::arch::asm!("int3") };
    } else {
        two.ends[0].turn_with(now, app);
    }
    two.turn(1);
    let mut buffer = [0; MESSAGE];
    let mode = RecvMode::default();
    let got = two.ends[1].recv(now, client, &mut [IoSliceMut::new(&mut buffer)], mode);
    assert_eq!((got, buffer == message), (Ok(MESSAGE), true));
    two.wakeups.iter_mut().for_each(Vec::clear);
}

fn child() {
    let mut two = Two::new(1500);
    let mut app = Inline(Echo);
    let config = Config {
        nodelay: true,
        ..Config::default()
    };
    let listener = two.ends[0]
        .listen(Two::at(0, 80), false, 16, &config, 7)
        .unwrap();
    two.ends[0].adopt_listener(listener, 70);
    let now = two.now;
    let client = two.ends[1]
        .connect(now, Two::at(1, 61440), Two::at(0, 80), &config, 9)
        .unwrap();
    two.settle_with(&mut app);
    for _ in 0..300 {
        round(&mut two, &mut app, client, false);
    }
    // SAFETY: both concern this process alone.
    unsafe {
        libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
        libc::raise(libc::SIGSTOP);
    }
    for _ in 0..COUNTED {
        round(&mut two, &mut app, client, true);
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    instructions: u64,
    atomics: u64,
    syscalls: u64,
    allocations: u64,
}

/// What the instruction whose bytes these are is.
fn classify(bytes: &[u8], count: &mut Count) {
    let mut at = 0;
    let mut locked = false;
    while let Some(0xf0 | 0xf2 | 0xf3 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64..=0x67) = bytes.get(at) {
        locked |= bytes[at] == 0xf0;
        at += 1;
    }
    if let Some(0x40..=0x4f) = bytes.get(at) {
        at += 1;
    }
    let exchanges = matches!(bytes.get(at), Some(0x86 | 0x87))
        && bytes.get(at + 1).is_some_and(|modrm| modrm >> 6 != 3);
    count.atomics += u64::from(locked || exchanges);
    count.syscalls += u64::from(bytes.get(at..at + 2) == Some(&[0x0f, 0x05]));
    count.instructions += 1;
}

struct Traced(libc::pid_t);

impl Traced {
    fn go(&self, request: libc::c_uint) -> i32 {
        let mut status = 0;
        // SAFETY: our own child, which is stopped; the status is a live integer.
        unsafe {
            libc::ptrace(request, self.0, 0, 0);
            libc::waitpid(self.0, &raw mut status, 0);
        }
        status
    }

    /// Where the stopped child is.
    fn at(&self) -> u64 {
        let rip = core::mem::offset_of!(libc::user_regs_struct, rip);
        // SAFETY: reads a register of the stopped child.
        unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, self.0, rip, 0) as u64 }
    }

    fn go_on_from(&self, at: u64) {
        let rip = core::mem::offset_of!(libc::user_regs_struct, rip);
        // SAFETY: sets a register of the stopped child.
        unsafe { libc::ptrace(libc::PTRACE_POKEUSER, self.0, rip, at) };
    }
}

/// The instruction at an address. The child's code is a copy of our own, at the same place.
fn instruction(at: u64) -> [u8; 16] {
    // SAFETY: the child executes this very code; it is followed by data of the same mapping.
    unsafe { (at as *const [u8; 16]).read_unaligned() }
}

fn allocators() -> Vec<u64> {
    let names = [
        c"malloc",
        c"calloc",
        c"realloc",
        c"aligned_alloc",
        c"posix_memalign",
        c"free",
    ];
    // SAFETY: names are C strings; the addresses are only compared.
    names
        .map(|name| unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) } as u64)
        .to_vec()
}

#[test]
#[cfg(target_arch = "x86_64")]
fn an_inline_request_takes_no_atomic_no_system_call_and_no_allocation() {
    let allocators = allocators();
    // SAFETY: the child has one thread, and ends without returning to the harness.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let ended = std::panic::catch_unwind(child);
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(ended.is_err())) };
    }
    let traced = Traced(pid);
    let mut status = 0;
    // SAFETY: our own child; the status is a live integer.
    unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) };
    assert!(libc::WIFSTOPPED(status), "{status:#x}");
    let mut count = Count::default();
    for _ in 0..COUNTED {
        // To the first breakpoint; it has been passed when the child stops.
        let status = traced.go(libc::PTRACE_CONT);
        assert!(libc::WIFSTOPPED(status), "the child ended: {status:#x}");
        loop {
            let at = traced.at();
            let bytes = instruction(at);
            if bytes[0] == 0xcc {
                traced.go_on_from(at + 1);
                break;
            }
            classify(&bytes, &mut count);
            count.allocations += u64::from(allocators.contains(&at));
            let status = traced.go(libc::PTRACE_SINGLESTEP);
            assert!(libc::WIFSTOPPED(status), "the child ended: {status:#x}");
        }
    }
    let status = traced.go(libc::PTRACE_CONT);
    assert!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        "{status:#x}"
    );
    println!("{COUNTED} requests of {MESSAGE} bytes, the server's side: {count:?}");
    assert!(count.instructions > 1000, "{count:?}");
    assert_eq!(
        (count.atomics, count.syscalls, count.allocations),
        (0, 0, 0),
        "{count:?}"
    );
}
