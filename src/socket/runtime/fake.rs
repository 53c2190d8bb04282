//! A shard that is a queue of wakeups behind an eventfd, for tests of who turns and who sleeps.

use std::collections::{HashMap, VecDeque};
use std::os::fd::RawFd;
use std::sync::{Arc, Condvar, Mutex};

use super::crew::{Crew, Manner};
use super::engine::Engine;
use super::lane::Lane;
use super::steward::{self, Chores};
use crate::socket::description::{self, DescriptionId, Kind, Pin};
use crate::stack::{Ready, TurnReport, Wakeup};
use crate::sys::{self, OwnFd};
use crate::time::{Clock, Duration, Instant, SystemClock};
use crate::zbuf::ShardCell;

/// How long a test may wait for something that will happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct Wire {
    frames: VecDeque<Wakeup>,
    turns: u64,
    flushes: u64,
    turner: Option<std::thread::ThreadId>,
    taker: Option<std::thread::ThreadId>,
    deadline: Option<Instant>,
    fired: u64,
}

/// The link of a fake shard: what a test puts in arrives as wakeups at the next turn.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    wire: Arc<(Mutex<Wire>, Condvar)>,
    event: Arc<OwnFd>,
}

impl Link {
    /// A frame that makes something of the description ready.
    pub(crate) fn send(&self, id: DescriptionId, edge: Ready) {
        self.wire.0.lock().unwrap().frames.push_back(Wakeup {
            token: id.to_bits(),
            edge,
        });
        sys::eventfd_raise(self.event.fd());
    }

    pub(crate) fn turns(&self) -> u64 {
        self.wire.0.lock().unwrap().turns
    }

    pub(crate) fn flushes(&self) -> u64 {
        self.wire.0.lock().unwrap().flushes
    }

    pub(crate) fn fired(&self) -> u64 {
        self.wire.0.lock().unwrap().fired
    }

    /// Who turned it last when there was a frame.
    pub(crate) fn taker(&self) -> Option<std::thread::ThreadId> {
        self.wire.0.lock().unwrap().taker
    }

    pub(crate) fn turner(&self) -> Option<std::thread::ThreadId> {
        self.wire.0.lock().unwrap().turner
    }

    /// Waits until `done` says so.
    pub(crate) fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = SystemClock.now() + SOON;
        while !done(self) {
            assert!(SystemClock.now() < end, "{what} does not happen");
            let wire = self.wire.0.lock().unwrap();
            let _ = self
                .wire
                .1
                .wait_timeout(wire, std::time::Duration::from_micros(200))
                .unwrap();
        }
    }
}

#[derive(Debug)]
pub(crate) struct FakeShard {
    link: Link,
    fds: [RawFd; 1],
    out: Vec<Wakeup>,
}

impl FakeShard {
    /// Something is to be done at `deadline`.
    pub(crate) fn set_timer(&mut self, deadline: Instant) {
        self.link.wire.0.lock().unwrap().deadline = Some(deadline);
    }
}

impl Engine for FakeShard {
    fn turn(&mut self, now: Instant) -> TurnReport {
        let mut wire = self.link.wire.0.lock().unwrap();
        wire.turns += 1;
        wire.turner = Some(std::thread::current().id());
        if wire.deadline.is_some_and(|deadline| deadline <= now) {
            wire.deadline = None;
            wire.fired += 1;
        }
        let rx_frames = wire.frames.len();
        if rx_frames > 0 {
            wire.taker = wire.turner;
        }
        self.out.extend(wire.frames.drain(..));
        self.link.wire.1.notify_all();
        TurnReport {
            rx_frames,
            ..TurnReport::default()
        }
    }

    fn flush(&mut self, _now: Instant) -> TurnReport {
        self.link.wire.0.lock().unwrap().flushes += 1;
        TurnReport::default()
    }

    fn next_deadline(&self) -> Instant {
        self.link
            .wire
            .0
            .lock()
            .unwrap()
            .deadline
            .unwrap_or(Instant::FAR_FUTURE)
    }

    fn arm(&mut self) -> bool {
        let wire = self.link.wire.0.lock().unwrap();
        sys::eventfd_clear(self.link.event.fd());
        wire.frames.is_empty()
    }

    fn wait_fds(&self) -> &[RawFd] {
        &self.fds
    }

    fn take_wakeups(&mut self, out: &mut Vec<Wakeup>) {
        out.append(&mut self.out);
    }

    fn deliver(wakeup: Wakeup) {
        // Errors and hang-ups only as edges: the kernel's wakeups sometimes name everything.
        let arisen = wakeup.edge - Ready::ERR - Ready::HUP;
        set_level(wakeup.token, level_of_bits(wakeup.token) | arisen);
        description::wake(wakeup.token, wakeup.edge);
    }
}

pub(crate) fn crew(lanes: usize, manner: Manner) -> (Arc<Crew<FakeShard>>, Vec<Link>) {
    let links: Vec<Link> = (0..lanes)
        .map(|_| Link {
            wire: Arc::default(),
            event: Arc::new(OwnFd::eventfd().unwrap()),
        })
        .collect();
    let lanes = links
        .iter()
        .map(|link| {
            let fds = [link.event.fd()];
            let link = link.clone();
            Lane::new(ShardCell::new(move || FakeShard {
                link,
                fds,
                out: Vec::new(),
            }))
        })
        .collect();
    (Arc::new(Crew::new(lanes, manner).unwrap()), links)
}

struct NoChores;

impl Chores for NoChores {
    fn fds(&self, _fds: &mut Vec<RawFd>) {}

    fn run(&mut self) {}
}

/// A steward that ends with the test.
pub(crate) struct Hired(Arc<Crew<FakeShard>>, Option<std::thread::JoinHandle<()>>);

impl Hired {
    pub(crate) fn new(crew: &Arc<Crew<FakeShard>>) -> Self {
        let thread = steward::start(Arc::clone(crew), Box::new(NoChores)).unwrap();
        Self(Arc::clone(crew), Some(thread))
    }
}

impl Drop for Hired {
    fn drop(&mut self) {
        self.0.stop();
        if let Some(thread) = self.1.take() {
            thread.join().unwrap();
        }
    }
}

/// Shards' own threads, which end with the test.
pub(crate) struct Dedicated(Arc<Crew<FakeShard>>, Vec<std::thread::JoinHandle<()>>);

impl Dedicated {
    pub(crate) fn new(crew: &Arc<Crew<FakeShard>>) -> Self {
        Self(Arc::clone(crew), super::dedicated::start(crew).unwrap())
    }
}

impl Drop for Dedicated {
    fn drop(&mut self) {
        self.0.stop();
        for thread in self.1.drain(..) {
            thread.join().unwrap();
        }
    }
}

static LEVELS: Mutex<Option<HashMap<u64, Ready>>> = Mutex::new(None);

/// Makes a description of a test ready for this, without an event.
pub(crate) fn set_level(token: u64, level: Ready) {
    LEVELS
        .lock()
        .unwrap()
        .get_or_insert_default()
        .insert(token, level);
}

pub(crate) fn level(id: DescriptionId) -> Option<Ready> {
    LEVELS.lock().unwrap().as_ref()?.get(&id.to_bits()).copied()
}

fn level_of_bits(token: u64) -> Ready {
    DescriptionId::from_bits(token)
        .and_then(level)
        .unwrap_or(Ready::empty())
}

/// A socket of ours without a shard: its level is what a test says.
pub(crate) fn socket() -> Pin {
    let pin = description::create(Kind::Stream).unwrap();
    set_level(pin.id().to_bits(), Ready::empty());
    pin
}

/// It gets a descriptor number that no test shares.
pub(crate) fn attach(pin: &Pin) -> RawFd {
    use core::sync::atomic::{AtomicI32, Ordering};
    static NEXT: AtomicI32 = AtomicI32::new(800_000_000);
    let fd = NEXT.fetch_add(1, Ordering::Relaxed);
    pin.attach(fd).unwrap();
    fd
}
