//! The area: all zones of the process in one contiguous range, and the way from a pointer that an
//! application hands us to the object that it points into (LUNA §6.1).
//!
//! Pointers from outside are not trusted: they are compared with the range, and the zone's class
//! is looked up in a table of the area's own, before anything is read through them.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use super::backing::{Backing, Mapping};
use super::layout::{ID_OBJECT_BITS, OBJECT_BYTES, ZONE_BYTES, object_at};
use super::zone::{Core, Ctx, Lent, Place};

/// Most zones of an area: 64 GiB.
const AREA_ZONES_MAX: usize = 1 << 15;

/// A contiguous range of 2 MiB zones, from which pools take theirs.
#[derive(Debug)]
pub struct Area {
    mapping: Mapping,
    slots: Box<[Slot]>,
    /// Which zones belong to a pool. Taken when a pool is made or dropped, never on a packet's
    /// way.
    taken: Mutex<Box<[bool]>>,
    foreign: AtomicU64,
    already_free: AtomicU64,
}

/// What the area knows of a zone without reading it.
#[derive(Debug, Default)]
struct Slot {
    /// 0: not formatted; otherwise the class + 1.
    class: AtomicU8,
    core: AtomicPtr<Core>,
}

/// Why there is no area.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AreaError {
    /// The size makes no sense.
    #[error("packet memory must be between 2 MiB and 64 GiB, not {bytes} bytes")]
    Size {
        /// What was asked for.
        bytes: usize,
    },
    /// The kernel refused, even ordinary pages.
    #[error("cannot map {bytes} bytes of packet memory: {source}")]
    Map {
        /// What was asked for, rounded up.
        bytes: usize,
        /// The kernel's answer.
        source: rustix::io::Errno,
    },
}

/// Why a pointer was not freed. Either is counted ([`Area::misuse`]) and changes nothing else.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FreeError {
    /// It does not point into an object of this area.
    #[error("the pointer is not into a packet buffer")]
    Foreign,
    /// The application holds no reference to the object that it points into.
    #[error("the packet buffer is not held (freed twice?)")]
    AlreadyFree,
}

/// How often [`FreeError`]s were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misuse {
    /// [`FreeError::Foreign`].
    pub foreign: u64,
    /// [`FreeError::AlreadyFree`].
    pub already_free: u64,
}

impl Area {
    /// An area of at least `bytes`, rounded up to whole zones, on the best memory there is:
    /// reserved hugepages, else transparent ones, else ordinary pages. [`Area::backing`] tells
    /// which; the caller owes the operator a line if it is not the first.
    ///
    /// # Errors
    /// [`AreaError`]. Never a signal, now or later: see the module on backing.
    pub fn new(bytes: usize) -> Result<Arc<Self>, AreaError> {
        Self::with_backing(bytes, Backing::HugeTlb)
    }

    /// The same on nothing better than `best`.
    ///
    /// # Errors
    /// [`AreaError`].
    pub fn with_backing(bytes: usize, best: Backing) -> Result<Arc<Self>, AreaError> {
        let zones = bytes.div_ceil(ZONE_BYTES);
        if zones == 0 || zones > AREA_ZONES_MAX {
            return Err(AreaError::Size { bytes });
        }
        let bytes = zones * ZONE_BYTES;
        let mapping =
            Mapping::new(bytes, best).map_err(|source| AreaError::Map { bytes, source })?;
        Ok(Arc::new(Self {
            mapping,
            slots: (0..zones).map(|_| Slot::default()).collect(),
            taken: Mutex::new(vec![false; zones].into_boxed_slice()),
            foreign: AtomicU64::new(0),
            already_free: AtomicU64::new(0),
        }))
    }

    /// What kind of pages it is on.
    pub fn backing(&self) -> Backing {
        self.mapping.backing()
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.mapping.bytes()
    }

    /// How many zones it has.
    pub fn zones(&self) -> usize {
        self.slots.len()
    }

    /// How many zones belong to no pool.
    pub fn zones_free(&self) -> usize {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.iter().filter(|taken| !**taken).count()
    }

    /// Whether `pointer` points anywhere into the area. From any thread.
    pub fn contains(&self, pointer: *const u8) -> bool {
        pointer.addr().wrapping_sub(self.base().addr().get()) < self.bytes()
    }

    /// Gives back one of the application's references to the object that `pointer` points into.
    /// From any thread; the object becomes free when its pool next drains its remote list.
    ///
    /// # Errors
    /// [`FreeError`], counted. A second free is detected unless the object was lent again since.
    pub fn free_ptr(&self, pointer: *const u8) -> Result<(), FreeError> {
        let found = self.find(pointer)?;
        let mut word = found.ctx.lent.load(Ordering::Relaxed);
        loop {
            let Lent { held, returned } = Lent::unpack(word);
            let Some(left) = held.checked_sub(1) else {
                return Err(self.count(FreeError::AlreadyFree));
            };
            // All of the application's references are one plain one: the last gives it back.
            let after = Lent {
                held: left,
                returned: returned.saturating_add((left == 0).into()),
            };
            // Release: what this thread wrote to the object happens before its reuse.
            match found.ctx.lent.compare_exchange_weak(
                word,
                after.pack(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) if left == 0 && returned == 0 => {
                    let core = found.slot.core.load(Ordering::Acquire);
                    // SAFETY: the plain reference that we are about to give back keeps the
                    // object alive, and so the core: `Pool::drop`.
                    if let Some(core) = unsafe { core.as_ref() } {
                        // SAFETY: `returned` went from 0 to 1 by our hand.
                        unsafe { core.push_remote(found.id(core), found.ctx) };
                    }
                    return Ok(());
                }
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// Takes another reference for the application to the object that `pointer` points into, of
    /// which it holds one already. From any thread.
    ///
    /// # Errors
    /// [`FreeError`], counted: `AlreadyFree` if it holds none.
    pub fn ref_ptr(&self, pointer: *const u8) -> Result<(), FreeError> {
        self.try_ref_ptr(pointer).map_err(|error| self.count(error))
    }

    /// The same, without counting an error: there may be another way.
    ///
    /// # Errors
    /// As [`Area::ref_ptr`].
    pub fn try_ref_ptr(&self, pointer: *const u8) -> Result<(), FreeError> {
        let found = self.look_up(pointer).ok_or(FreeError::Foreign)?;
        let raise = |word| {
            let Lent { held, returned } = Lent::unpack(word);
            let held = held.checked_add(1).filter(|_| held > 0)?;
            Some(Lent { held, returned }.pack())
        };
        match found
            .ctx
            .lent
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, raise)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(FreeError::AlreadyFree),
        }
    }

    /// How many bytes there are from `pointer` to the end of the object that it points into.
    /// From any thread; does not ask who holds the object.
    ///
    /// # Errors
    /// [`FreeError::Foreign`], counted.
    pub fn room_at(&self, pointer: *const u8) -> Result<usize, FreeError> {
        let found = self.find(pointer)?;
        // SAFETY: `find` gives existing objects.
        let object = unsafe { found.place.object(found.class) };
        Ok(OBJECT_BYTES[found.class] - (pointer.addr() - object.addr().get()))
    }

    /// How often an application freed what it could not free.
    pub fn misuse(&self) -> Misuse {
        Misuse {
            foreign: self.foreign.load(Ordering::Relaxed),
            already_free: self.already_free.load(Ordering::Relaxed),
        }
    }

    /// For the child of a fork: makes accesses to the area harmless (it reads as zeroes) where
    /// they would otherwise fault. One system call at most; nothing in the parent changes.
    ///
    /// # Errors
    /// The kernel's answer, if something else has taken the place: then slices must not be
    /// touched in this process.
    pub fn restore_after_fork(&self) -> std::io::Result<()> {
        self.mapping.restore_after_fork().map_err(Into::into)
    }

    /// Where `zones` zones from the one numbered `first` lie: start and length in bytes. What a
    /// pool of so many will register ([`super::Pool::umem`]), if it is the one to get these.
    pub fn region(&self, first: usize, zones: usize) -> (*mut u8, usize) {
        let start = self.base().as_ptr().wrapping_add(first * ZONE_BYTES);
        (start, zones * ZONE_BYTES)
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.mapping.base()
    }

    /// Takes `zones` contiguous zones; returns the first one's number.
    pub(super) fn take_zones(&self, zones: usize) -> Option<usize> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let first = taken
            .windows(zones)
            .position(|window| window.iter().all(|taken| !taken))?;
        taken.get_mut(first..first + zones)?.fill(true);
        Some(first)
    }

    /// Gives back what [`Area::take_zones`] took. The caller has seen to it that no object in
    /// them is in use. Pointers into them are foreign from now on; an application that is freeing
    /// a stale one at this very moment may still be counted as having freed twice.
    pub(super) fn return_zones(&self, first: usize, zones: usize) {
        for slot in self.slots.iter().skip(first).take(zones) {
            slot.class.store(0, Ordering::Release);
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(range) = taken.get_mut(first..first + zones) {
            range.fill(false);
        }
    }

    /// Makes pointers into zone `zone` acceptable, once it is formatted.
    pub(super) fn publish(&self, zone: usize, class: usize, core: NonNull<Core>) {
        if let Some(slot) = self.slots.get(zone) {
            slot.core.store(core.as_ptr(), Ordering::Relaxed);
            slot.class.store(class as u8 + 1, Ordering::Release);
        }
    }

    pub(super) fn populate(&self, first: usize, zones: usize) {
        // Hugetlb memory is present from the beginning.
        if self.backing() != Backing::HugeTlb {
            self.mapping
                .populate(first * ZONE_BYTES, zones * ZONE_BYTES);
        }
    }

    /// The object that an untrusted pointer points into (LUNA §6.1's translation).
    pub(super) fn find(&self, pointer: *const u8) -> Result<Found<'_>, FreeError> {
        self.look_up(pointer)
            .ok_or_else(|| self.count(FreeError::Foreign))
    }

    pub(super) fn count(&self, error: FreeError) -> FreeError {
        match error {
            FreeError::Foreign => &self.foreign,
            FreeError::AlreadyFree => &self.already_free,
        }
        .fetch_add(1, Ordering::Relaxed);
        error
    }

    fn look_up(&self, pointer: *const u8) -> Option<Found<'_>> {
        let offset = pointer.addr().checked_sub(self.base().addr().get())?;
        let number = offset / ZONE_BYTES;
        // Also the check against the area's end: there are as many slots as zones.
        let slot = self.slots.get(number)?;
        let class = usize::from(slot.class.load(Ordering::Acquire).checked_sub(1)?);
        let index = object_at(class, offset % ZONE_BYTES)?;
        // SAFETY: the zone is within the mapping.
        let zone = unsafe { self.base().add(number * ZONE_BYTES) };
        let place = Place { zone, index };
        // SAFETY: the class was published after the zone was formatted (acquire above), and
        // `object_at` gives numbers of existing objects only.
        let ctx = unsafe { place.ctx() };
        Some(Found {
            slot,
            class,
            place,
            ctx,
        })
    }
}

/// What [`Area::find`] found.
#[derive(Debug)]
pub(super) struct Found<'a> {
    slot: &'a Slot,
    pub(super) class: usize,
    pub(super) place: Place,
    pub(super) ctx: &'a Ctx,
}

impl Found<'_> {
    /// The object's number in its pool.
    fn id(&self, core: &Core) -> u32 {
        let zone = (self.place.zone.addr().get() - core.base.addr().get()) / ZONE_BYTES;
        (zone as u32) << ID_OBJECT_BITS | self.place.index as u32
    }

    pub(super) fn belongs_to(&self, core: NonNull<Core>) -> bool {
        self.slot.core.load(Ordering::Relaxed) == core.as_ptr()
    }
}

// `Found` hands out contexts (cells) but never leaves the module; `Area`'s own fields are `Sync`
// without further argument: its mapping is an address range, the rest atomics and a mutex. Plain
// cells of a context are accessed only by `Pool` and `Slice`, under the shard's lock; `free_ptr`
// and `ref_ptr` touch `lent` and `next` alone.
const _: () = {
    const fn sync<T: Send + Sync>() {}
    sync::<Area>();
};
