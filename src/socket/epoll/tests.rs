use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::wait::wait_with;
use super::{Set, change, create};
use crate::socket::description::{self, DescriptionId, Kind, Pin, release};
use crate::socket::runtime::crew::{Crew, Manner};
use crate::socket::runtime::fake::{self, FakeShard, Hired, Link, SOON, attach, socket};
use crate::socket::runtime::wait::Patience;
use crate::socket::table;
use crate::stack::Ready;
use crate::sys::{self, EpollEvent, Errno, OwnFd};
use crate::time::{Duration, Instant};

const ADD: i32 = libc::EPOLL_CTL_ADD;
const MOD: i32 = libc::EPOLL_CTL_MOD;
const DEL: i32 = libc::EPOLL_CTL_DEL;
const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;
const RDHUP: u32 = libc::EPOLLRDHUP as u32;
const HUP: u32 = libc::EPOLLHUP as u32;
const ET: u32 = libc::EPOLLET as u32;
const ONESHOT: u32 = libc::EPOLLONESHOT as u32;
const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;

const NOW: Patience = Patience::For(Duration::ZERO);

fn event(events: u32, data: u64) -> EpollEvent {
    EpollEvent { events, data }
}

/// A shard, a link to it, and a set whose descriptor is open.
struct Bench {
    crew: Arc<Crew<FakeShard>>,
    link: Link,
    set: Arc<Set>,
    epfd: RawFd,
}

impl Bench {
    fn new() -> Self {
        Self::with(Manner {
            spin: Duration::from_micros(5),
            ..Manner::default()
        })
    }

    fn with(manner: Manner) -> Self {
        let (crew, mut links) = fake::crew(1, manner);
        let (epfd, set) = create(libc::EPOLL_CLOEXEC).unwrap();
        Self {
            crew,
            link: links.remove(0),
            set,
            epfd,
        }
    }

    fn wait(&self, room: usize, patience: Patience) -> Result<Vec<(u32, u64)>, Errno> {
        self.wait_on(&self.set, room, patience)
    }

    fn wait_on(
        &self,
        set: &Arc<Set>,
        room: usize,
        patience: Patience,
    ) -> Result<Vec<(u32, u64)>, Errno> {
        let mut events = vec![EpollEvent::default(); room];
        let count = wait_with(&self.crew, set, &mut events, patience, None)?;
        Ok(events
            .iter()
            .take(count)
            .map(|event| (event.events, event.data))
            .collect())
    }

    fn now(&self) -> Vec<(u32, u64)> {
        self.wait(8, NOW).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.set.close();
        let _ = sys::close(self.epfd);
    }
}

fn set_level(pin: &Pin, level: Ready) {
    fake::set_level(pin.id().to_bits(), level);
}

#[test]
fn level_edge_and_oneshot() {
    let bench = Bench::new();
    let pins = [socket(), socket(), socket()];
    let fds = pins.each_ref().map(attach);
    for (at, flags) in [0, ET, ONESHOT].into_iter().enumerate() {
        let wanted = event(IN | flags, at as u64);
        change(&bench.set, ADD, fds[at], Some(&pins[at]), Some(wanted)).unwrap();
    }
    assert_eq!(bench.now(), []);
    for pin in &pins {
        bench.link.send(pin.id(), Ready::IN);
    }
    assert_eq!(bench.now(), [(IN, 0), (IN, 1), (IN, 2)]);
    assert_eq!(bench.now(), [(IN, 0)], "level only");
    for pin in &pins {
        bench.link.send(pin.id(), Ready::IN);
    }
    assert_eq!(bench.now(), [(IN, 0), (IN, 1)], "level, and a new edge");
    let again = event(IN | ONESHOT, 22);
    change(&bench.set, MOD, fds[2], Some(&pins[2]), Some(again)).unwrap();
    assert_eq!(
        bench.now(),
        [(IN, 0), (IN, 22)],
        "armed again, and still ready"
    );
    set_level(&pins[0], Ready::empty());
    assert_eq!(bench.now(), []);
    bench.link.send(pins[2].id(), Ready::HUP);
    assert_eq!(bench.now(), [], "disarmed for hang-ups too");
}

#[test]
fn errors_are_linux() {
    let bench = Bench::new();
    let pin = socket();
    let fd = attach(&pin);
    let wanted = Some(event(IN, 1));
    let ctl = |op, wanted| change(&bench.set, op, fd, Some(&pin), wanted);
    assert_eq!(ctl(MOD, wanted), Err(Errno::NOENT));
    assert_eq!(ctl(DEL, None), Err(Errno::NOENT));
    assert_eq!(ctl(77, wanted), Err(Errno::INVAL));
    assert_eq!(ctl(ADD, None), Err(Errno::FAULT));
    assert_eq!(ctl(ADD, wanted), Ok(()));
    assert_eq!(ctl(ADD, wanted), Err(Errno::EXIST));
    assert_eq!(ctl(MOD, Some(event(IN | EXCLUSIVE, 1))), Err(Errno::INVAL));
    assert_eq!(ctl(DEL, None), Ok(()));
    assert_eq!(
        ctl(ADD, Some(event(RDHUP | EXCLUSIVE, 1))),
        Err(Errno::INVAL)
    );
    assert_eq!(ctl(ADD, Some(event(IN | EXCLUSIVE, 1))), Ok(()));
    assert_eq!(
        ctl(MOD, wanted),
        Err(Errno::INVAL),
        "exclusive ones cannot be modified"
    );
    let kernel = |op, fd, wanted| change(&bench.set, op, fd, None, wanted);
    assert_eq!(kernel(ADD, 987_654_321, wanted), Err(Errno::BADF));
    assert_eq!(kernel(ADD, bench.epfd, wanted), Err(Errno::INVAL));
    let file = std::fs::File::open("/proc/self/status").unwrap();
    assert!(matches!(
        kernel(ADD, file.as_raw_fd(), wanted),
        Err(Errno::PERM)
    ));
    let dead = description::create(Kind::Dead).unwrap();
    assert_eq!(
        change(&bench.set, ADD, 5, Some(&dead), wanted),
        Err(Errno::PERM)
    );
    assert_eq!(
        super::wait(&bench.set, &mut [], None, None),
        Err(Errno::INVAL)
    );
}

#[test]
fn many_sets_and_duplicates_of_one_socket() {
    let bench = Bench::new();
    let other = Bench::new();
    let pin = socket();
    let fd = attach(&pin);
    assert!(pin.reserve());
    let copy = fd + 50_000_000;
    pin.publish(copy);
    change(&bench.set, ADD, fd, Some(&pin), Some(event(IN, 1))).unwrap();
    change(&bench.set, ADD, copy, Some(&pin), Some(event(IN | ET, 2))).unwrap();
    change(
        &other.set,
        ADD,
        fd,
        Some(&pin),
        Some(event(IN | ONESHOT, 3)),
    )
    .unwrap();
    bench.link.send(pin.id(), Ready::IN);
    assert_eq!(bench.now(), [(IN, 1), (IN, 2)]);
    assert_eq!(other.now(), [(IN, 3)]);
    release(table::remove(fd).unwrap());
    assert_eq!(
        bench.now(),
        [(IN, 1)],
        "the description lives on, as in the kernel"
    );
    release(table::remove(copy).unwrap());
    assert_eq!(bench.now(), []);
    assert!(!bench.set.has_luna_items() && !other.set.has_luna_items());
}

#[test]
fn exclusive_wakes_one_of_the_sets() {
    let bench = Bench::new();
    let others: Vec<_> = (0..3).map(|_| create(0).unwrap()).collect();
    let pin = socket();
    let fd = attach(&pin);
    for (_, set) in &others {
        change(
            set,
            ADD,
            fd,
            Some(&pin),
            Some(event(IN | ET | EXCLUSIVE, 7)),
        )
        .unwrap();
    }
    let got = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (_, set) in &others {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let step = Patience::For(Duration::from_millis(20));
                    got.fetch_add(bench.wait_on(set, 4, step).unwrap().len(), Ordering::SeqCst);
                }
            });
        }
        for round in 1..=20 {
            bench.link.until("all wait", |_| {
                others
                    .iter()
                    .all(|(_, set)| set.waiters.load(Ordering::SeqCst) != 0)
            });
            bench.link.send(pin.id(), Ready::IN);
            bench
                .link
                .until("one event", |_| got.load(Ordering::SeqCst) >= round);
        }
        over.store(true, Ordering::SeqCst);
    });
    // A set that nobody waits on at that instant passes the event on, so a few more than
    // twenty are possible; three times as many would be no exclusion.
    assert!((20..30).contains(&got.load(Ordering::SeqCst)), "{got:?}");
    for (fd, set) in others {
        set.close();
        sys::close(fd).unwrap();
    }
}

#[test]
fn each_event_goes_to_one_of_the_threads_of_a_set() {
    let bench = Bench::with(Manner {
        spin: Duration::ZERO,
        ..Manner::default()
    });
    let _steward = Hired::new(&bench.crew);
    let pins: Vec<Pin> = (0..8).map(|_| socket()).collect();
    for pin in &pins {
        let wanted = event(IN | ET, pin.id().to_bits());
        change(&bench.set, ADD, attach(pin), Some(pin), Some(wanted)).unwrap();
    }
    let got = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while got.load(Ordering::SeqCst) < 400 {
                    let step = Patience::For(Duration::from_millis(20));
                    for (events, data) in bench.wait(1, step).unwrap() {
                        assert_eq!(events, IN);
                        fake::set_level(data, Ready::empty());
                        got.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        for round in 0..50 {
            for pin in &pins {
                bench.link.send(pin.id(), Ready::IN);
            }
            bench.link.until("all events", |_| {
                got.load(Ordering::SeqCst) >= (round + 1) * 8
            });
        }
    });
    assert_eq!(got.load(Ordering::SeqCst), 400, "none twice");
}

#[test]
fn sleepers_are_woken_by_either_side_by_changes_and_by_signals() {
    for spin in [Duration::ZERO, Duration::from_micros(50)] {
        let bench = Bench::with(Manner {
            spin,
            ..Manner::default()
        });
        let pin = socket();
        let fd = attach(&pin);
        let kernel = OwnFd::eventfd().unwrap();
        change(&bench.set, ADD, fd, Some(&pin), Some(event(IN | ET, 1))).unwrap();
        change(&bench.set, ADD, kernel.fd(), None, Some(event(IN | ET, 2))).unwrap();
        let sleep_and = |act: &dyn Fn()| {
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| bench.wait(4, Patience::For(SOON)));
                bench
                    .link
                    .until("sleep", |_| bench.crew.lanes()[0].is_slept_on());
                act();
                waiter.join().unwrap().unwrap()
            })
        };
        assert_eq!(
            sleep_and(&|| bench.link.send(pin.id(), Ready::IN)),
            [(IN, 1)]
        );
        assert_eq!(sleep_and(&|| sys::eventfd_raise(kernel.fd())), [(IN, 2)]);
        set_level(&pin, Ready::OUT);
        let out = event(OUT, 3);
        let modify = || change(&bench.set, MOD, fd, Some(&pin), Some(out)).unwrap();
        assert_eq!(sleep_and(&modify), [(OUT, 3)]);
    }
}

#[test]
fn neither_side_starves_the_other() {
    let bench = Bench::new();
    let pins: Vec<Pin> = (0..6).map(|_| socket()).collect();
    for (at, pin) in pins.iter().enumerate() {
        change(
            &bench.set,
            ADD,
            attach(pin),
            Some(pin),
            Some(event(IN, at as u64)),
        )
        .unwrap();
        set_level(pin, Ready::IN);
        bench.link.send(pin.id(), Ready::IN);
    }
    let kernel = OwnFd::eventfd().unwrap();
    change(&bench.set, ADD, kernel.fd(), None, Some(event(IN, 100))).unwrap();
    sys::eventfd_raise(kernel.fd());
    for room in [1, 2, 4] {
        let mut seen = [0_u32; 101];
        for _ in 0..300 {
            for (_, data) in bench.wait(room, Patience::For(SOON)).unwrap() {
                seen[data as usize] += 1;
            }
        }
        let least = seen.iter().take(6).min().copied().unwrap();
        assert!(least >= 10 && seen[100] >= 10, "room {room}: {seen:?}");
    }
}

#[test]
fn a_set_in_a_set_is_ready_when_its_queue_is() {
    let bench = Bench::new();
    let nested = description::create(Kind::Epoll).unwrap();
    let (fd, set) = create(libc::EPOLL_CLOEXEC).unwrap();
    nested.put_set(Arc::clone(&set));
    for flags in [0, ET] {
        let wanted = Some(event(IN | flags, 9));
        change(&bench.set, ADD, fd, Some(&nested), wanted).unwrap();
        assert_eq!(
            change(&bench.set, ADD, fd, Some(&nested), wanted),
            Err(Errno::EXIST)
        );
        let pin = socket();
        change(&set, ADD, attach(&pin), Some(&pin), Some(event(IN, 5))).unwrap();
        assert_eq!(bench.now(), []);
        bench.link.send(pin.id(), Ready::IN);
        assert_eq!(bench.now(), [(IN, 9)]);
        let again = bench.now();
        assert_eq!(again.len(), usize::from(flags == 0), "{again:?}");
        bench.link.send(pin.id(), Ready::IN);
        assert_eq!(bench.now(), [(IN, 9)], "another edge");
        assert_eq!(bench.wait_on(&set, 4, NOW).unwrap(), [(IN, 5)]);
        set_level(&pin, Ready::empty());
        assert_eq!(bench.wait_on(&set, 4, NOW).unwrap(), []);
        assert_eq!(bench.now(), []);
        change(&bench.set, DEL, fd, Some(&nested), None).unwrap();
    }
    let own = description::create(Kind::Epoll).unwrap();
    own.put_set(Arc::clone(&bench.set));
    let wanted = Some(event(IN, 1));
    assert_eq!(
        change(&bench.set, ADD, bench.epfd, Some(&own), wanted),
        Err(Errno::INVAL)
    );
    change(&bench.set, ADD, fd, Some(&nested), wanted).unwrap();
    assert_eq!(
        change(&set, ADD, bench.epfd, Some(&own), wanted),
        Err(Errno::LOOP)
    );
    set.close();
    sys::close(fd).unwrap();
}

/// A kernel socket in the table, as `socket()` makes it.
fn provisional() -> (Pin, RawFd) {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0).unwrap();
    let pin = description::create(Kind::Provisional).unwrap();
    pin.attach(fd).unwrap();
    (pin, fd)
}

fn promote(pin: &Pin, kind: Kind) {
    pin.set_kind(kind);
    pin.each_watcher(|watcher| watcher.promoted(kind));
}

#[test]
fn a_promoted_socket_leaves_the_kernels_set() {
    let bench = Bench::new();
    let (pin, fd) = provisional();
    change(&bench.set, ADD, fd, Some(&pin), Some(event(IN | OUT, 4))).unwrap();
    let hung_up = bench.now();
    assert_eq!(
        hung_up,
        [(OUT | HUP, 4)],
        "an unconnected socket of the kernel"
    );
    change(&bench.set, MOD, fd, Some(&pin), Some(event(IN | OUT, 5))).unwrap();
    assert!(!bench.set.has_luna_items());
    set_level(&pin, Ready::empty());
    promote(&pin, Kind::Stream);
    assert!(bench.set.has_luna_items());
    assert_eq!(bench.now(), []);
    bench.link.send(pin.id(), Ready::OUT);
    assert_eq!(bench.now(), [(OUT, 5)], "the data of the last change");
    change(&bench.set, DEL, fd, Some(&pin), None).unwrap();
    assert_eq!(bench.now(), []);
    release(table::remove(fd).unwrap());
    sys::close(fd).unwrap();
}

#[test]
fn promotion_reaches_a_thread_that_sleeps_and_one_that_adds() {
    let bench = Bench::new();
    for _ in 0..50 {
        let (pin, fd) = provisional();
        set_level(&pin, Ready::IN);
        let wanted = Some(event(IN, 6));
        std::thread::scope(|scope| {
            scope.spawn(|| promote(&pin, Kind::Stream));
            change(&bench.set, ADD, fd, Some(&pin), wanted).unwrap();
        });
        assert_eq!(bench.now(), [(IN, 6)]);
        release(table::remove(fd).unwrap());
        sys::close(fd).unwrap();
        assert_eq!(bench.now(), []);
    }
}

#[test]
fn both_halves_of_a_listener_report_once() {
    for flags in [0, ET, ONESHOT] {
        let bench = Bench::new();
        let twin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        twin.set_nonblocking(true).unwrap();
        let fd = sys::dup(twin.as_raw_fd()).unwrap();
        let pin = description::create(Kind::Provisional).unwrap();
        pin.attach(fd).unwrap();
        set_level(&pin, Ready::empty());
        change(&bench.set, ADD, fd, Some(&pin), Some(event(IN | flags, 8))).unwrap();
        promote(&pin, Kind::Listener);
        assert_eq!(bench.now(), []);
        let wait = || bench.wait(4, Patience::For(SOON)).unwrap();
        let _client = std::net::TcpStream::connect(twin.local_addr().unwrap()).unwrap();
        assert_eq!(wait(), [(IN, 8)]);
        let level = if flags == 0 { vec![(IN, 8)] } else { vec![] };
        assert_eq!(bench.now(), level);
        drop(twin.accept().unwrap());
        assert_eq!(bench.now(), []);
        if flags == ONESHOT {
            let again = Some(event(IN | flags, 8));
            change(&bench.set, MOD, fd, Some(&pin), again).unwrap();
        }
        bench.link.send(pin.id(), Ready::IN);
        assert_eq!(wait(), [(IN, 8)]);
        release(table::remove(fd).unwrap());
        sys::close(fd).unwrap();
        assert_eq!(bench.now(), []);
    }
}

#[test]
fn without_shards_the_kernels_half_of_a_listener_works() {
    let bench = Bench::new();
    let twin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let fd = sys::dup(twin.as_raw_fd()).unwrap();
    let pin = description::create(Kind::Listener).unwrap();
    pin.attach(fd).unwrap();
    set_level(&pin, Ready::empty());
    change(&bench.set, ADD, fd, Some(&pin), Some(event(IN, 8))).unwrap();
    let mut events = [EpollEvent::default(); 4];
    let mut wait = |ms| {
        super::wait(
            &bench.set,
            &mut events,
            Some(Duration::from_millis(ms)),
            None,
        )
    };
    assert_eq!(wait(0), Ok(0));
    assert_eq!(wait(2), Ok(0));
    let _client = std::net::TcpStream::connect(twin.local_addr().unwrap()).unwrap();
    assert_eq!(wait(20_000), Ok(1));
    assert_eq!(wait(0), Ok(1), "level");
    drop(twin.accept().unwrap());
    assert_eq!(wait(0), Ok(0));
    release(table::remove(fd).unwrap());
    sys::close(fd).unwrap();
}

mod differential {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::net::Shutdown;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Change { op: i32, which: usize, events: u32 },
        Arrive { which: usize },
        Drain { which: usize },
        Finish { which: usize },
        Wait { room: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        let events = (
            prop::sample::select(vec![0, IN, OUT, IN | OUT, IN | RDHUP, RDHUP]),
            prop::sample::select(vec![0, 0, ET, ONESHOT, ET | ONESHOT]),
        )
            .prop_map(|(mask, flags)| mask | flags);
        let which = 0..SOCKETS;
        prop_oneof![
            2 => (which.clone(), events.clone())
                .prop_map(|(which, events)| Step::Change { op: ADD, which, events }),
            2 => (which.clone(), events)
                .prop_map(|(which, events)| Step::Change { op: MOD, which, events }),
            1 => which.clone()
                .prop_map(|which| Step::Change { op: DEL, which, events: 0 }),
            4 => which.clone().prop_map(|which| Step::Arrive { which }),
            2 => which.clone().prop_map(|which| Step::Drain { which }),
            1 => which.prop_map(|which| Step::Finish { which }),
            5 => (1..4_usize).prop_map(|room| Step::Wait { room }),
        ]
    }

    const SOCKETS: usize = 3;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// The same steps on socket pairs of the kernel and on items of ours give the same
        /// errors and the same events in the same order.
        #[test]
        fn equals_the_kernel(steps in prop::collection::vec(step(), 1..60)) {
            let bench = Bench::new();
            let kernel = OwnFd::epoll().unwrap();
            let mut pairs: Vec<(UnixStream, UnixStream)> =
                (0..SOCKETS).map(|_| UnixStream::pair().unwrap()).collect();
            let pins: Vec<Pin> = (0..SOCKETS).map(|_| socket()).collect();
            let fds: Vec<RawFd> = pins.iter().map(attach).collect();
            let mut finished = [false; SOCKETS];
            for (ours, _) in &pairs {
                ours.set_nonblocking(true).unwrap();
            }
            for pin in &pins {
                set_level(pin, Ready::OUT);
            }
            for step in steps {
                match step {
                    Step::Change { op, which, events } => {
                        let wanted = Some(event(events, which as u64));
                        let fd = pairs[which].0.as_raw_fd();
                        prop_assert_eq!(
                            change(&bench.set, op, fds[which], Some(&pins[which]), wanted),
                            sys::epoll_ctl(kernel.fd(), op, fd, wanted),
                            "{:?}", step
                        );
                    }
                    Step::Arrive { which } if !finished[which] => {
                        pairs[which].1.write_all(b"x").unwrap();
                        bench.link.send(pins[which].id(), Ready::IN);
                        let _ = bench.wait_on(&idle(), 1, NOW);
                    }
                    Step::Drain { which } => {
                        let mut all = [0; 256];
                        while pairs[which].0.read(&mut all).is_ok_and(|n| n != 0) {}
                        let level = match finished[which] {
                            true => Ready::IN | Ready::OUT | Ready::RDHUP,
                            false => Ready::OUT,
                        };
                        set_level(&pins[which], level);
                    }
                    Step::Finish { which } if !finished[which] => {
                        finished[which] = true;
                        pairs[which].1.shutdown(Shutdown::Write).unwrap();
                        // The kernel does not say what has changed then.
                        bench.link.send(pins[which].id(), Ready::all());
                        let _ = bench.wait_on(&idle(), 1, NOW);
                    }
                    Step::Arrive { .. } | Step::Finish { .. } => {}
                    Step::Wait { room } => {
                        let mut events = vec![EpollEvent::default(); room];
                        let count =
                            sys::epoll_wait(kernel.fd(), &mut events, Some(0), None).unwrap();
                        let expected: Vec<(u32, u64)> =
                            events.iter().take(count).map(|e| (e.events, e.data)).collect();
                        prop_assert_eq!(bench.wait(room, NOW).unwrap(), expected);
                    }
                }
            }
            for fd in fds {
                release(table::remove(fd).unwrap());
            }
        }
    }

    /// A set with nothing in it: waiting on it only turns the shard.
    fn idle() -> Arc<Set> {
        use std::sync::OnceLock;
        static IDLE: OnceLock<Arc<Set>> = OnceLock::new();
        Arc::clone(IDLE.get_or_init(|| create(libc::EPOLL_CLOEXEC).unwrap().1))
    }
}

#[test]
fn stale_names_are_nothing() {
    assert_eq!(
        super::level_of(DescriptionId::from_bits(u64::MAX - 5).unwrap()),
        Ready::empty()
    );
    let _ = Instant::ZERO;
}
