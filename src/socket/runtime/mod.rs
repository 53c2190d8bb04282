//! The process's shards: when they start, who turns them, and what the socket layer asks of
//! them.
//!
//! Nothing is opened before the first socket is promoted ([`mod@start`]). From then on
//! application threads turn the shards while they wait ([`mod@crew`], [`mod@wait`]), and a steward
//! thread does while they are away ([`steward`]). The child of a fork starts from nothing.
//!
//! Lock order: a description's watchers → an epoll set → a description's own lock → a shard.
//! No lock of these is held while a shard's wakeups are delivered.
#![forbid(unsafe_code)]

pub(crate) mod block;
pub(crate) mod crew;
pub(crate) mod dedicated;
pub(crate) mod engine;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod lane;
mod place;
mod start;
pub(crate) mod steward;
#[cfg(test)]
mod tests;
pub(crate) mod thread;
pub(crate) mod wait;
pub(crate) mod wake;

use core::net::{IpAddr, SocketAddr};
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicBool, Ordering};

use self::crew::Crew;
use self::place::Place;
use self::thread::with_me;
use super::description::Pin;
use super::reason::Reason;
use crate::limits::SHARDS_MAX;
use crate::stack::{Ready, Shard};
use crate::sys::{Errno, Leaked};
use crate::tcp;
use crate::time::{Clock, Instant, SystemClock};
use crate::zbuf::Area;

pub use start::{prepare, start, start_after_parent};

/// What a started process has. Lives for ever: threads may be in the middle of it.
#[derive(Debug)]
pub(crate) struct Runtime {
    crew: Crew<Shard>,
    place: Place,
}

static RUNTIME: Leaked<Runtime> = Leaked::new();

/// Waits until a description has some readiness in `interest` (`ERR` and `HUP` always count).
/// For a listener the kernel half (`pin.fd()`) counts as `IN` too, and it works without shards.
///
/// # Errors
///
/// `EAGAIN` at the deadline, `EINTR` if a signal was handled, `EBADF` if the description is
/// closed.
pub fn wait(pin: &Pin, interest: Ready, deadline: Option<Instant>) -> Result<Ready, Errno> {
    match RUNTIME.get() {
        Some(runtime) => block::wait_on(&runtime.crew, pin, interest, deadline, super::ready),
        None => block::wait_in_kernel(pin, deadline),
    }
}

/// Something, of so many bytes, was queued on a shard by a call. In an event loop it is left to
/// the thread's next wait, which sends what all its events have queued together (LUNA §5.1,
/// batch-r2c), unless that is much and the link can overlap; elsewhere it is sent now.
#[inline]
pub fn after_write(shard: usize, bytes: usize) {
    let Some(runtime) = RUNTIME.get() else { return };
    with_me(|me| {
        if me.queued(shard, bytes, runtime.crew.manner.defer_bytes_max) {
            runtime.crew.flush(me, shard);
        }
    });
}

/// A non-blocking call found nothing. True: the shard has been turned, look again. A program
/// that asks without ever waiting would otherwise see only what the steward brings.
pub fn turn_for(shard: usize) -> bool {
    let Some(runtime) = RUNTIME.get() else {
        return false;
    };
    let Some(lane) = runtime.crew.lanes().get(shard) else {
        return false;
    };
    with_me(|me| {
        let turn = me.missed();
        if turn {
            me.turns();
            runtime.crew.turn_lane(me, lane, SystemClock.now());
        }
        turn
    })
}

/// Runs `f` on a shard; `None` if the runtime is not up.
#[inline]
pub fn with_shard<R: Send>(index: usize, f: impl FnOnce(&mut Shard) -> R + Send) -> Option<R> {
    RUNTIME.get()?.crew.lanes().get(index)?.with(f)
}

/// The shard whose memory an address lies in, and the area that this memory is part of.
#[inline]
pub(crate) fn memory_at(address: usize) -> Option<(usize, &'static Area)> {
    let lanes = RUNTIME.get()?.crew.lanes().iter().enumerate();
    lanes
        .filter_map(|(index, lane)| Some((index, lane.memory()?)))
        .find(|(_, memory)| memory.contains(address))
        .map(|(index, memory)| (index, &*memory.area))
}

/// The areas of all shards, each once.
pub(crate) fn areas() -> Vec<&'static Area> {
    let lanes = RUNTIME
        .get()
        .map_or(&[][..], |runtime| runtime.crew.lanes());
    let mut areas: Vec<&Area> = Vec::new();
    for memory in lanes.iter().filter_map(lane::Lane::memory) {
        if !areas
            .iter()
            .any(|other| core::ptr::eq(*other, &*memory.area))
        {
            areas.push(&memory.area);
        }
    }
    areas
}

/// The shard that the calling thread turns by preference; `None` before the start.
pub(crate) fn home_shard() -> Option<usize> {
    let lanes = RUNTIME.get()?.crew.lanes().len();
    Some(with_me(|me| me.home(lanes)))
}

/// How many shards there are; 0 before the start.
pub fn shards() -> usize {
    RUNTIME
        .get()
        .map_or(0, |runtime| runtime.crew.lanes().len())
}

/// The present.
#[inline]
pub fn now() -> Instant {
    SystemClock.now()
}

/// Whether an address is one of the device's.
pub fn is_device_address(ip: IpAddr) -> bool {
    RUNTIME
        .get()
        .is_some_and(|runtime| runtime.place.has_address(ip))
}

/// Whether a socket that is bound to an interface (`SO_BINDTODEVICE`) may be ours: it is bound to
/// none, or to the device's.
pub fn is_device_interface(name: &[u8]) -> bool {
    name.is_empty()
        || RUNTIME
            .get()
            .is_some_and(|runtime| runtime.place.is_interface(name))
}

/// The source address for connections to `remote`, if the way there is over the device.
///
/// # Errors
///
/// Why not: `LocalDestination`, `OtherRoute`; `NotStarted`.
pub fn source_for(remote: IpAddr) -> Result<IpAddr, Reason> {
    RUNTIME
        .get()
        .ok_or(Reason::NotStarted)?
        .place
        .source_for(remote)
}

/// Whether the kernel uses the link's addresses too, so that a client port must be taken from it.
pub fn shares_ports() -> bool {
    RUNTIME
        .get()
        .is_none_or(|runtime| runtime.place.shares_ports())
}

/// The client ports that this process has leased.
pub fn client_ports() -> Option<RangeInclusive<u16>> {
    RUNTIME.get()?.place.client_ports()
}

/// The shard that receives what `remote` sends to the client port of `local`. With several
/// shards the receive queue of a reply is the link's choice, and no port is leased.
pub fn client_shard(local: SocketAddr, remote: SocketAddr) -> usize {
    let _ = (local, remote);
    0
}

/// Steers a listening port to the shards (counted: as often as it is unsteered).
///
/// # Errors
///
/// One line that says what was refused.
pub fn steer_port(port: u16) -> Result<(), String> {
    let runtime = RUNTIME
        .get()
        .ok_or_else(|| "the stack is not running".to_owned())?;
    runtime.place.steer(port)
}

/// Whether a connection, a listener or a TIME-WAIT record of ours has this local port.
fn uses_port(port: u16) -> bool {
    (0..shards()).any(|index| with_shard(index, |shard| shard.uses_port(port)) == Some(true))
}

/// Whether a connection to this port of ours that has begun waits to be accepted.
fn is_awaited(port: u16) -> bool {
    (0..shards()).any(|index| with_shard(index, |shard| shard.has_unaccepted(port)) == Some(true))
}

/// Undoes one [`steer_port`]: the port's connections go on, new ones are the kernel's.
pub fn unsteer_port(port: u16) {
    if let Some(runtime) = RUNTIME.get() {
        runtime.place.unsteer(port);
    }
}

/// The settings of a connection before its socket's options are applied: MSS of the link,
/// timeouts of the configuration.
pub fn base_config(remote: Option<IpAddr>) -> tcp::Config {
    let mut config = tcp::Config::default();
    if let Some(runtime) = RUNTIME.get() {
        config.mss_local = runtime.place.mss(remote);
    }
    if let Some(settings) = &super::policy::get().config {
        config.congestion = settings.congestion;
        config.pacing = settings.pacing;
        if remote.is_some_and(|remote| settings.is_in_data_centre(remote)) {
            config = config.for_data_centre();
        }
    }
    config
}

/// Before a `fork`, in the thread that calls it. Nothing is locked: the child reads none of
/// what another thread may be changing.
pub fn before_fork() {}

/// After a `fork`, in the parent, which keeps `ports` for its children.
pub fn after_fork_parent(ports: &[u16]) {
    if shards() == 0 {
        start::relieve_workers(ports);
    }
}

/// After a `fork`, in the child: forgets the parent's shards without touching them, and closes
/// this process's copies of their descriptors, which would keep the link's queues and program
/// alive after the parent.
pub fn after_fork_child() {
    if let Some(runtime) = RUNTIME.get() {
        RUNTIME.clear();
        runtime.place.close_inherited();
    }
    start::reset();
    for claim in &CLAIMS {
        claim.store(false, Ordering::Relaxed);
    }
    for pin in super::description::all() {
        if let Some(set) = pin.set() {
            set.after_fork_in_child();
        }
    }
}

/// Lets go of the device, if no socket of this process uses it, so that a child may take it. The
/// next start is from nothing. The memory is not given back.
pub fn retire() {
    let Some(runtime) = RUNTIME.get() else { return };
    RUNTIME.clear();
    runtime.crew.stop();
    // It looks at descriptors that are closed below, whose numbers may be somebody else's then.
    runtime.crew.await_steward();
    for lane in runtime.crew.lanes() {
        let _ended = lane.with(Shard::give_up_device);
    }
    runtime.place.close();
    start::reset();
}

/// Which shards have an event loop.
static CLAIMS: [AtomicBool; SHARDS_MAX] = [const { AtomicBool::new(false) }; SHARDS_MAX];

/// Reserves a shard for an event loop: `number`, counted from 0, or the first that has none.
/// `None`: there is none to be had; in dedicated mode, never.
pub(crate) fn claim_shard(number: Option<usize>) -> Option<usize> {
    if RUNTIME.get()?.crew.manner.dedicated {
        return None;
    }
    let mut wanted = (0..shards()).filter(|index| number.is_none_or(|number| number == *index));
    wanted.find(|index| {
        let claim = CLAIMS.get(*index);
        claim.is_some_and(|claim| !claim.swap(true, Ordering::AcqRel))
    })
}

/// The loop is gone.
pub(crate) fn unclaim_shard(number: usize) {
    if let Some(claim) = CLAIMS.get(number) {
        claim.store(false, Ordering::Release);
    }
}

/// Whether this thread is in a callback of an event loop of ours.
pub fn is_in_callback() -> bool {
    with_me(|me| me.is_in_callback())
}

/// The crew, once the runtime is up.
pub(crate) fn crew() -> Option<&'static Crew<Shard>> {
    RUNTIME.get().map(|runtime| &runtime.crew)
}

/// Sends what this thread has left for its next turn: it waits elsewhere.
pub(crate) fn flush_deferred() {
    if let Some(runtime) = RUNTIME.get() {
        with_me(|me| runtime.crew.flush_deferred(me));
    }
}

/// Runs the process on these shards, without a link to the world, in the place of whatever it
/// ran on.
#[cfg(any(test, feature = "testutil"))]
#[allow(clippy::expect_used, reason = "for tests and benches only")]
pub(crate) fn start_on<const N: usize>(build: [Box<dyn FnOnce() -> Shard + Send>; N]) {
    use crate::control::{ControlHandle, Tables};
    use crate::zbuf::ShardCell;

    #[derive(Debug)]
    struct Nowhere;
    impl place::Steer for Nowhere {
        fn take_port(&mut self, _port: u16) -> std::io::Result<()> {
            Ok(())
        }
        fn close_port(&mut self, _port: u16) -> std::io::Result<()> {
            Ok(())
        }
        fn give_port(&mut self, _port: u16) -> std::io::Result<()> {
            Ok(())
        }
        fn set_addresses(&mut self, _addresses: &[IpAddr]) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lanes = build
        .into_iter()
        .map(|build| lane::Lane::new(ShardCell::new(build)))
        .collect();
    let crew = Crew::new(lanes, crew::Manner::default()).expect("descriptors");
    let control = ControlHandle::from_static(Tables::builder().build());
    let place = Place::new(
        control,
        0,
        "nowhere".to_owned(),
        Box::new(Nowhere),
        place::Leases::default(),
        Vec::new(),
    );
    RUNTIME.set(Box::leak(Box::new(Runtime { crew, place })));
}
