//! Open file descriptions: what descriptor numbers share, and what outlives them while a call
//! is in progress.
//!
//! Descriptions live in a type-stable slab: its chunks are never freed, so a reference to a
//! slot is always good, and a generation tells whether it is still the one that was meant. What
//! a call does for long is bracketed by a [`Pin`]: a slot is not reused while one exists, even
//! if another thread closes the last descriptor.
//!
//! Knows what kinds of descriptions there are, not what calls do with them.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::os::fd::RawFd;
use std::sync::Arc;

use once_cell::race::OnceBox;

use super::cell::SocketCell;
use super::reason::Reason;
use super::{epoll, listener, table};
use crate::limits::{DESCRIPTION_CHUNK_ENTRIES, DESCRIPTIONS_MAX};
use crate::stack::{ConnId, Ready};
use crate::sys::{Errno, ForkMutex};

/// The name of a description: slot and generation. Its 64 bits are the token that shards and
/// epoll sets carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DescriptionId {
    generation: u32,
    index: u32,
}

impl DescriptionId {
    /// From a token. Zero is none.
    #[inline]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        let id = Self {
            generation: (bits >> 32) as u32,
            index: bits as u32,
        };
        if id.generation == 0 { None } else { Some(id) }
    }

    /// As a token, never zero.
    #[inline]
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }
}

/// What a description is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A kernel TCP socket that may yet be promoted. Calls go to the kernel.
    Provisional = 0,
    /// A kernel socket for good. Calls go to the kernel; the entry only keeps the reason.
    Kernel = 1,
    /// Listens on luna's shards and, over the application's own descriptor, on the kernel.
    Listener = 2,
    /// A connection of a shard.
    Stream = 3,
    /// A stream of the parent process, seen from a child of `fork`: calls go to the
    /// placeholder, which answers `EPIPE` and `ENOTCONN`.
    Dead = 4,
    /// An epoll set.
    Epoll = 5,
}

impl Kind {
    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Kernel,
            2 => Self::Listener,
            3 => Self::Stream,
            4 => Self::Dead,
            5 => Self::Epoll,
            _ => Self::Provisional,
        }
    }

    /// Whether calls on it are served by luna. The others are forwarded to the kernel as if
    /// the number were not in the table.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Listener | Self::Stream | Self::Epoll)
    }
}

/// Someone who watches descriptions: an epoll set's entry for one. Called without any of this
/// module's locks held.
pub trait Watcher: Send + Sync {
    /// Readiness of these kinds arose. True: an exclusive watcher takes care of it, other
    /// exclusive ones need not be told.
    fn wake(&self, edge: Ready) -> bool;
    /// Only one of the exclusive watchers is told of a wakeup (`EPOLLEXCLUSIVE`).
    fn is_exclusive(&self) -> bool {
        false
    }
    /// A provisional socket became luna's. A set that had registered the kernel socket must
    /// drop that registration for a stream (the kernel socket is a mere placeholder from now
    /// on) and keep it for a listener (its kernel half goes on accepting).
    fn promoted(&self, kind: Kind);
    /// The last descriptor was closed.
    fn closed(&self);
}

/// The status flags of descriptions whose kernel file does not hold them for us: those that
/// `F_SETFL` changes on a socket.
pub const STATUS_MASK: u32 =
    (libc::O_NONBLOCK | libc::O_ASYNC | libc::O_APPEND | libc::O_NOATIME) as u32;

/// A bit beside them that no `O_…` has: see [`Description::has_completions`].
const HAS_COMPLETIONS: u32 = 1 << 31;

/// A slot of the slab.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Description {
    /// `generation << 32 | references`; references are descriptors and pins; none: free.
    life: AtomicU64,
    /// The connection of a stream: see [`StreamName`].
    stream: AtomicU64,
    /// Descriptors that name it.
    descriptors: AtomicU32,
    status: AtomicU32,
    /// Counts wakes, for sleepers (a futex word).
    events: AtomicU32,
    /// Threads that sleep on `events`.
    sleepers: AtomicU32,
    watched: AtomicU32,
    /// `SO_RCVLOWAT`.
    low_water: AtomicU32,
    kind: AtomicU8,
    reason: AtomicU8,
    /// What only slow calls look at.
    pub socket: ForkMutex<SocketCell>,
    watchers: ForkMutex<Watchers>,
    set: ForkMutex<Option<Arc<epoll::Set>>>,
}

#[derive(Default)]
struct Watchers(Vec<(u64, Arc<dyn Watcher>)>);

impl core::fmt::Debug for Watchers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} watchers", self.0.len())
    }
}

/// Which connection of which shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamName {
    /// The shard's index.
    pub shard: usize,
    /// The connection there.
    pub conn: ConnId,
}

impl StreamName {
    const fn to_bits(self) -> u64 {
        (self.conn.generation as u64) << 32
            | (self.shard as u64 & 0xff) << 24
            | (self.conn.index as u64 & 0x00ff_ffff)
    }

    const fn from_bits(bits: u64) -> Self {
        Self {
            shard: (bits >> 24) as usize & 0xff,
            conn: ConnId {
                index: bits as u32 & 0x00ff_ffff,
                generation: (bits >> 32) as u32,
            },
        }
    }
}

type Chunk = [Description; DESCRIPTION_CHUNK_ENTRIES];

const CHUNKS: usize = DESCRIPTIONS_MAX / DESCRIPTION_CHUNK_ENTRIES;

static SLAB: [OnceBox<Chunk>; CHUNKS] = [const { OnceBox::new() }; CHUNKS];
/// Slots that have been used and are free.
static FREE: ForkMutex<Vec<u32>> = ForkMutex::new(Vec::new());
/// Slots below this have been used.
static NEXT: AtomicU32 = AtomicU32::new(0);

fn slot(index: u32) -> Option<&'static Description> {
    let index = index as usize;
    SLAB.get(index / DESCRIPTION_CHUNK_ENTRIES)?
        .get()?
        .get(index % DESCRIPTION_CHUNK_ENTRIES)
}

fn fresh_slot() -> Option<(u32, &'static Description)> {
    if let Some(index) = FREE.lock().pop() {
        return Some((index, slot(index)?));
    }
    let index = NEXT
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            ((next as usize) < DESCRIPTIONS_MAX).then_some(next + 1)
        })
        .ok()?;
    let chunk = SLAB.get(index as usize / DESCRIPTION_CHUNK_ENTRIES)?;
    let chunk = chunk.get_or_init(|| Box::new(core::array::from_fn(|_| Description::default())));
    Some((
        index,
        chunk.get(index as usize % DESCRIPTION_CHUNK_ENTRIES)?,
    ))
}

/// Makes a description without descriptors.
///
/// # Errors
///
/// `ENFILE` if there are too many.
pub fn create(kind: Kind) -> Result<Pin, Errno> {
    let (index, description) = fresh_slot().ok_or(Errno::NFILE)?;
    let old = (description.life.load(Ordering::Relaxed) >> 32) as u32;
    // Generation 0 is the mark of "none"; a fresh slot has it.
    let generation = if old == u32::MAX { 1 } else { old + 1 };
    description.kind.store(kind as u8, Ordering::Relaxed);
    description.reason.store(0, Ordering::Relaxed);
    description.status.store(0, Ordering::Relaxed);
    description.low_water.store(1, Ordering::Relaxed);
    description.stream.store(0, Ordering::Relaxed);
    description
        .life
        .store(u64::from(generation) << 32 | 1, Ordering::Release);
    Ok(Pin {
        description,
        id: DescriptionId { generation, index },
        fd: -1,
    })
}

/// Keeps a description from being freed, and remembers by which descriptor it was found.
#[derive(Debug)]
pub struct Pin {
    description: &'static Description,
    id: DescriptionId,
    fd: RawFd,
}

/// Pins the description behind a descriptor.
#[inline]
pub fn pin_fd(fd: RawFd) -> Option<Pin> {
    let mut pin = pin(table::lookup(fd)?)?;
    pin.fd = fd;
    Some(pin)
}

/// Pins the description behind a descriptor if luna serves calls on it.
#[inline]
pub fn pin_active(fd: RawFd) -> Option<Pin> {
    let id = table::lookup(fd)?;
    // Not pinned yet: if the slot changes its owner meanwhile, either answer is right, for the
    // descriptor has been closed during this call.
    if !slot(id.index)?.kind().is_active() {
        return None;
    }
    let mut pin = pin(id)?;
    pin.fd = fd;
    Some(pin)
}

/// Pins a description by its name, unless it is gone.
#[inline]
pub fn pin(id: DescriptionId) -> Option<Pin> {
    let description = slot(id.index)?;
    let mut seen = description.life.load(Ordering::Relaxed);
    loop {
        if (seen >> 32) as u32 != id.generation || seen as u32 == 0 {
            return None;
        }
        match description.life.compare_exchange_weak(
            seen,
            seen + 1,
            Ordering::Acquire,
            Ordering::Relaxed,
        ) {
            Ok(_) => {
                return Some(Pin {
                    description,
                    id,
                    fd: -1,
                });
            }
            Err(now) => seen = now,
        }
    }
}

/// Tells those who wait for or watch a description that something happened there. A token that
/// has gone stale is ignored.
pub fn wake(token: u64, edge: Ready) {
    let Some(pin) = DescriptionId::from_bits(token).and_then(pin) else {
        return;
    };
    if pin.kind() == Kind::Listener && pin.is_closed() {
        // The anchor of a group of listeners.
        listener::wake_members(&pin, edge);
    } else {
        pin.wake(edge);
    }
}

impl core::ops::Deref for Pin {
    type Target = Description;
    #[inline]
    fn deref(&self) -> &Description {
        self.description
    }
}

impl Clone for Pin {
    fn clone(&self) -> Self {
        self.description.life.fetch_add(1, Ordering::Relaxed);
        Self {
            description: self.description,
            id: self.id,
            fd: self.fd,
        }
    }
}

impl Drop for Pin {
    #[inline]
    fn drop(&mut self) {
        let before = self.description.life.fetch_sub(1, Ordering::Release);
        if before as u32 == 1 {
            self.free();
        }
    }
}

impl Pin {
    /// The description's name.
    #[inline]
    pub fn id(&self) -> DescriptionId {
        self.id
    }

    /// The descriptor by which it was found; -1 if it was found by name.
    #[inline]
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// Adds a descriptor to it, which the kernel has just made. A number that the table still
    /// has from a descriptor that the kernel closed behind our back is taken over.
    ///
    /// # Errors
    ///
    /// `EMFILE` if the number is beyond the table (the caller closes it).
    pub fn attach(&self, fd: RawFd) -> Result<(), Errno> {
        if !table::in_reach(fd) {
            return Err(Errno::MFILE);
        }
        self.description.descriptors.fetch_add(1, Ordering::Relaxed);
        self.publish(fd);
        Ok(())
    }

    /// Reserves a descriptor on a description that still has one: it can't be torn down until
    /// [`Pin::publish`] or [`Pin::give_up`]. False: it is closed already.
    pub fn reserve(&self) -> bool {
        self.description
            .descriptors
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count != 0).then_some(count + 1)
            })
            .is_ok()
    }

    /// Enters a reserved descriptor.
    pub fn publish(&self, fd: RawFd) {
        self.description.life.fetch_add(1, Ordering::Relaxed);
        if let Some(stale) = table::insert(fd, self.id) {
            release(stale);
        }
    }

    /// Gives a reserved descriptor back, unused.
    pub fn give_up(&self) {
        if self.description.descriptors.fetch_sub(1, Ordering::AcqRel) == 1 {
            super::close::last(self);
        }
    }

    #[cold]
    fn free(&self) {
        core::sync::atomic::fence(Ordering::Acquire);
        let description = self.description;
        *description.socket.lock() = SocketCell::default();
        description.watchers.lock().0.clear();
        description.watched.store(0, Ordering::Relaxed);
        let set = description.set.lock().take();
        drop(set);
        FREE.lock().push(self.id.index);
    }
}

/// Takes one descriptor away from a description. The one who takes the last tears it down.
pub fn release(id: DescriptionId) {
    let Some(pin) = pin(id) else { return };
    if pin.descriptors.fetch_sub(1, Ordering::AcqRel) == 1 {
        super::close::last(&pin);
    }
    // The descriptor's own reference; ours is dropped after it.
    pin.description.life.fetch_sub(1, Ordering::Release);
}

impl Description {
    /// What it is now.
    #[inline]
    pub fn kind(&self) -> Kind {
        Kind::from_code(self.kind.load(Ordering::Acquire))
    }

    /// Changes what it is. What the kind needs (a stream's name) was stored before.
    pub fn set_kind(&self, kind: Kind) {
        self.kind.store(kind as u8, Ordering::Release);
    }

    /// Why it is on the kernel.
    pub fn reason(&self) -> Reason {
        Reason::from_code(self.reason.load(Ordering::Relaxed))
    }

    /// Puts it on the kernel, for a reason.
    pub fn set_kernel(&self, reason: Reason) {
        self.reason.store(reason as u8, Ordering::Relaxed);
        self.set_kind(Kind::Kernel);
    }

    /// Notes a reason without a change of kind.
    pub fn set_reason(&self, reason: Reason) {
        self.reason.store(reason as u8, Ordering::Relaxed);
    }

    /// The connection, if it is a stream.
    #[inline]
    pub fn stream(&self) -> Option<StreamName> {
        (self.kind() == Kind::Stream)
            .then(|| StreamName::from_bits(self.stream.load(Ordering::Acquire)))
    }

    /// Makes it a stream.
    pub fn set_stream(&self, name: StreamName) {
        self.stream.store(name.to_bits(), Ordering::Release);
        self.set_kind(Kind::Stream);
    }

    /// The epoll set, if it is one.
    pub fn set(&self) -> Option<Arc<epoll::Set>> {
        self.set.lock().clone()
    }

    /// Makes it an epoll set.
    pub fn put_set(&self, set: Arc<epoll::Set>) {
        *self.set.lock() = Some(set);
    }

    /// `O_NONBLOCK` is set.
    #[inline]
    pub fn is_nonblocking(&self) -> bool {
        self.status.load(Ordering::Relaxed) & libc::O_NONBLOCK as u32 != 0
    }

    /// The status flags that we hold.
    pub fn status_flags(&self) -> i32 {
        (self.status.load(Ordering::Relaxed) & STATUS_MASK).cast_signed()
    }

    /// Sets the status flags that we hold; others are ignored.
    pub fn set_status_flags(&self, flags: i32) {
        let flags = flags.cast_unsigned() & STATUS_MASK;
        let _always = self
            .status
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |status| {
                Some(status & !STATUS_MASK | flags)
            });
    }

    /// Notifications wait on the error queue.
    #[inline]
    pub fn has_completions(&self) -> bool {
        self.status.load(Ordering::Relaxed) & HAS_COMPLETIONS != 0
    }

    /// Says whether notifications wait on the error queue.
    pub fn set_has_completions(&self, any: bool) {
        if any {
            self.status.fetch_or(HAS_COMPLETIONS, Ordering::Relaxed);
        } else {
            self.status.fetch_and(!HAS_COMPLETIONS, Ordering::Relaxed);
        }
    }

    /// Sets or clears one status flag.
    pub fn change_status_flag(&self, flag: i32, on: bool) {
        let flag = flag.cast_unsigned() & STATUS_MASK;
        if on {
            self.status.fetch_or(flag, Ordering::Relaxed);
        } else {
            self.status.fetch_and(!flag, Ordering::Relaxed);
        }
    }

    /// The last descriptor has been closed: calls in progress return `EBADF`.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.descriptors.load(Ordering::Acquire) == 0
    }

    /// How many descriptors name it.
    pub fn descriptors(&self) -> u32 {
        self.descriptors.load(Ordering::Relaxed)
    }

    /// The futex word that counts wakes. A sleeper adds itself to [`Description::sleepers`],
    /// reads this, looks whether it must sleep, and sleeps for as long as this is unchanged.
    pub fn events(&self) -> &AtomicU32 {
        &self.events
    }

    /// How many threads sleep on [`Description::events`].
    pub fn sleepers(&self) -> &AtomicU32 {
        &self.sleepers
    }

    /// `SO_RCVLOWAT`: a blocking receive waits for so many bytes.
    #[inline]
    pub fn low_water(&self) -> usize {
        self.low_water.load(Ordering::Relaxed) as usize
    }

    /// Sets `SO_RCVLOWAT`.
    pub fn set_low_water(&self, bytes: i32) {
        self.low_water
            .store(bytes.max(1).unsigned_abs(), Ordering::Relaxed);
    }

    /// Tells sleepers and watchers.
    pub fn wake(&self, edge: Ready) {
        self.wake_sleepers();
        let mut taken = false;
        self.each_watcher(|watcher| {
            if !(taken && watcher.is_exclusive()) {
                taken |= watcher.wake(edge);
            }
        });
    }

    /// Wakes the threads that sleep on [`Description::events`].
    pub fn wake_sleepers(&self) {
        self.events.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) != 0 {
            let _woken = rustix::thread::futex::wake(
                &self.events,
                rustix::thread::futex::Flags::PRIVATE,
                i32::MAX as u32,
            );
        }
    }

    /// Adds a watcher under a key of its own (an epoll set uses one per entry).
    pub fn watch(&self, key: u64, watcher: Arc<dyn Watcher>) {
        let mut watchers = self.watchers.lock();
        watchers.0.push((key, watcher));
        self.watched
            .store(watchers.0.len() as u32, Ordering::Release);
    }

    /// Removes the watchers with this key.
    pub fn unwatch(&self, key: u64) {
        let mut gone = Vec::new();
        {
            let mut watchers = self.watchers.lock();
            gone.extend(watchers.0.extract_if(.., |(other, _)| *other == key));
            self.watched
                .store(watchers.0.len() as u32, Ordering::Release);
        }
        // Dropped outside of the lock: a watcher may own what comes back here.
        drop(gone);
    }

    /// Somebody watches.
    #[inline]
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire) != 0
    }

    /// Calls `f` for each watcher, without the lock held.
    pub fn each_watcher(&self, mut f: impl FnMut(&Arc<dyn Watcher>)) {
        match self.watched.load(Ordering::Acquire) {
            0 => {}
            1 => {
                let first = self
                    .watchers
                    .lock()
                    .0
                    .first()
                    .map(|(_, watcher)| watcher.clone());
                if let Some(watcher) = first {
                    f(&watcher);
                }
            }
            _ => {
                let all: Vec<_> = self
                    .watchers
                    .lock()
                    .0
                    .iter()
                    .map(|(_, watcher)| watcher.clone())
                    .collect();
                all.iter().for_each(f);
            }
        }
    }

    /// Takes all watchers away.
    pub fn take_watchers(&self) -> Vec<Arc<dyn Watcher>> {
        let all = core::mem::take(&mut self.watchers.lock().0);
        self.watched.store(0, Ordering::Release);
        all.into_iter().map(|(_, watcher)| watcher).collect()
    }
}

/// Every description that is in use, for the child of a fork and for tools.
pub fn all() -> impl Iterator<Item = Pin> {
    (0..NEXT.load(Ordering::Acquire)).filter_map(|index| {
        let life = slot(index)?.life.load(Ordering::Acquire);
        pin(DescriptionId {
            generation: (life >> 32) as u32,
            index,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_name_pins_nothing() {
        let first = create(Kind::Kernel).unwrap();
        let id = first.id();
        assert_eq!(DescriptionId::from_bits(id.to_bits()), Some(id));
        assert!(pin(id).is_some());
        let second = first.clone();
        drop(first);
        assert!(pin(id).is_some(), "a clone keeps it");
        drop(second);
        assert!(pin(id).is_none());
        wake(id.to_bits(), Ready::IN);
    }

    #[test]
    fn a_stream_name_survives_packing() {
        let name = StreamName {
            shard: 255,
            conn: ConnId {
                index: 0x00ff_fffe,
                generation: u32::MAX,
            },
        };
        assert_eq!(StreamName::from_bits(name.to_bits()), name);
    }

    #[test]
    fn the_last_descriptor_closes_it_and_a_pin_keeps_the_slot() {
        let pin_a = create(Kind::Kernel).unwrap();
        let id = pin_a.id();
        let fd = 970_000_000;
        pin_a.attach(fd).unwrap();
        assert_eq!(pin_fd(fd).unwrap().id(), id);
        assert!(pin_a.reserve());
        pin_a.publish(fd + 1);
        release(table::remove(fd).unwrap());
        assert!(!pin_a.is_closed());
        release(table::remove(fd + 1).unwrap());
        assert!(pin_a.is_closed());
        assert!(!pin_a.reserve(), "no way back");
        let other = create(Kind::Kernel).unwrap();
        assert_ne!(other.id().index, id.index, "pinned, so not reused");
        drop(pin_a);
        assert!(pin(id).is_none());
    }

    #[test]
    fn threads_race_for_pins_and_the_end() {
        for round in 0..200 {
            let fd = 971_000_000 + round;
            let first = create(Kind::Kernel).unwrap();
            let id = first.id();
            first.attach(fd).unwrap();
            drop(first);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        for _ in 0..100 {
                            if let Some(pin) = pin_fd(fd) {
                                assert_eq!(pin.id(), id);
                            }
                        }
                    });
                }
                scope.spawn(|| table::remove(fd).map(release));
            });
            assert!(pin(id).is_none());
        }
    }
}
