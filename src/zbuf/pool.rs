//! A shard's share of the area: a contiguous run of zones, each formatted for one object size
//! when that size first needs it.

use core::ptr::NonNull;
use core::sync::atomic::Ordering;
use std::sync::Arc;

use thiserror::Error;

use super::area::{Area, FreeError};
use super::layout::{
    CLASSES, OBJECT_BYTES, OBJECT_COUNT, POOL_ZONES_MAX, ZONE_BYTES, class_for, object_at,
};
use super::slice::{Loan, Slice};
use super::zone::{self, Core, Ctx, Lent, Place, Returned};

/// Room in front of what an application allocates, for the headers of Ethernet, IP and TCP.
const HEADROOM: usize = 128;
/// So many objects are worth waking those for who wait for one.
const FEW_OBJECTS: usize = 8;

/// What a pool is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// How many zones of 2 MiB it gets. They are contiguous, so that a link can be told of them
    /// as one range.
    pub zones: usize,
    /// How many of them to format for each class at once; the others go to the class that first
    /// runs out.
    pub initial_zones: [usize; CLASSES],
    /// How many zones each class may have at most.
    pub max_zones: [usize; CLASSES],
    /// The size of the objects that a link receives into: 2048 or 4096 bytes.
    pub rx_object_bytes: usize,
    /// [`Pool::low_water`] begins below this many free objects of that size. What is queued for
    /// sending leaves the link twice as many.
    pub low_water_objects: usize,
    /// Make the pages present now and not when they are first used. (A link that registers the
    /// pool does that anyway.)
    pub populate: bool,
}

impl Default for PoolConfig {
    /// 64 MiB, received into by 2 KiB objects, low at 512 of them (half a ring of 1,024).
    fn default() -> Self {
        Self {
            zones: 32,
            initial_zones: [1, 0, 0, 0],
            max_zones: [usize::MAX; CLASSES],
            rx_object_bytes: 2048,
            low_water_objects: 512,
            populate: true,
        }
    }
}

/// Why there is no pool.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PoolError {
    /// The configuration contradicts itself.
    #[error("packet pool: {0}")]
    Config(&'static str),
    /// The area has no such run of zones left.
    #[error("packet pool: {wanted} contiguous zones of 2 MiB wanted, {free} free in all")]
    Exhausted {
        /// How many the configuration asks for.
        wanted: usize,
        /// How many the area has, not necessarily side by side.
        free: usize,
    },
}

/// The state of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassStats {
    /// The size of its objects.
    pub object_bytes: usize,
    /// Zones formatted for it.
    pub zones: usize,
    /// Objects in those zones.
    pub objects: usize,
    /// Of them, free.
    pub free: usize,
}

/// One shard's zones and their free objects.
///
/// Like the slices that it gives out, a pool belongs to the thread that holds its shard's lock:
///
/// ```compile_fail
/// fn send<T: Send>() {}
/// send::<luna::zbuf::Pool>();
/// ```
///
/// Slices may outlive it. If any do, its zones stay taken until the process ends.
#[derive(Debug)]
pub struct Pool {
    area: Arc<Area>,
    core: NonNull<Core>,
    /// The number in the area of the first zone.
    first_zone: usize,
    config: PoolConfig,
    rx_class: usize,
    /// Objects to receive into that links' rings hold: see [`Pool::reserve_rx`].
    rx_reserved: usize,
    /// The classes of the zones formatted so far, in their order.
    formatted: Vec<u8>,
    zones_of: [usize; CLASSES],
}

/// Where an offset in the pool's memory leads.
struct Located<'a> {
    place: Place,
    class: usize,
    /// From the object's start.
    offset: usize,
    ctx: &'a Ctx,
}

impl Pool {
    /// Takes zones from `area`.
    ///
    /// # Errors
    /// [`PoolError`]; nothing is taken then.
    pub fn new(area: &Arc<Area>, config: PoolConfig) -> Result<Self, PoolError> {
        let initial = config
            .initial_zones
            .iter()
            .try_fold(0usize, |sum, n| sum.checked_add(*n));
        if config.zones == 0 || config.zones > POOL_ZONES_MAX {
            return Err(PoolError::Config("the number of zones is out of range"));
        }
        if initial.is_none_or(|initial| initial > config.zones) {
            return Err(PoolError::Config("more zones to format than there are"));
        }
        if !matches!(config.rx_object_bytes, 2048 | 4096) {
            return Err(PoolError::Config(
                "objects to receive into have 2048 or 4096 bytes",
            ));
        }
        let rx_class = class_for(config.rx_object_bytes).unwrap_or(0);
        let first_zone = area
            .take_zones(config.zones)
            .ok_or_else(|| PoolError::Exhausted {
                wanted: config.zones,
                free: area.zones_free(),
            })?;
        if config.populate {
            area.populate(first_zone, config.zones);
        }
        // SAFETY: `take_zones` gave us these zones of the mapping.
        let base = unsafe { area.base().add(first_zone * ZONE_BYTES) };
        let core = NonNull::from(Box::leak(Box::new(Core::new(base))));
        let mut pool = Self {
            area: Arc::clone(area),
            core,
            first_zone,
            config,
            rx_class,
            rx_reserved: 0,
            formatted: Vec::with_capacity(config.zones),
            zones_of: [0; CLASSES],
        };
        for (class, zones) in config.initial_zones.into_iter().enumerate() {
            for _ in 0..zones {
                pool.add_zone(class);
            }
        }
        Ok(pool)
    }

    /// A whole object of at least `min_bytes`, or if there is none, of the next sizes: an empty
    /// slice at its start, to be filled with [`Slice::append`]. `None` if `min_bytes` exceeds every
    /// class or the pool is exhausted. For links and the stack itself: what they take soon comes
    /// back, so they may have what [`Pool::alloc_to_send`] leaves.
    #[inline]
    pub fn alloc(&mut self, min_bytes: usize) -> Option<Slice> {
        self.alloc_with_headroom(min_bytes, 0)
    }

    /// The same with `headroom` bytes in front of the slice, for [`Slice::write_headroom`].
    #[inline]
    pub fn alloc_with_headroom(&mut self, min_bytes: usize, headroom: usize) -> Option<Slice> {
        let first = class_for(min_bytes.checked_add(headroom)?)?;
        (first..CLASSES).find_map(|class| self.object(class, headroom))
    }

    #[inline]
    fn object(&mut self, class: usize, headroom: usize) -> Option<Slice> {
        let place = self.take(class, headroom)?;
        // SAFETY: a new object with one reference, ours; empty and within it.
        Some(unsafe { Slice::from_parts(place, class, headroom, 0) })
    }

    /// A copy of `bytes` in an object of their own.
    pub fn copy_in(&mut self, bytes: &[u8]) -> Option<Slice> {
        let mut slice = self.alloc(bytes.len())?;
        slice.append(bytes);
        Some(slice)
    }

    /// An object for a link to receive into: its offset in the pool's memory. The reference is
    /// the link's, until [`Pool::slice_from_received`] or [`Pool::drop_umem`].
    #[inline]
    pub fn alloc_rx(&mut self) -> Option<u64> {
        let place = self.take(self.rx_class, 0)?;
        // SAFETY: a new object with one reference, ours; empty and within it.
        let slice = unsafe { Slice::from_parts(place, self.rx_class, 0, 0) };
        Some(slice.into_umem())
    }

    /// Says that a link's ring will hold `objects` to receive into: so much more memory is kept
    /// from what is queued for sending, up to half of the pool.
    pub fn reserve_rx(&mut self, objects: usize) {
        self.rx_reserved = self.rx_reserved.saturating_add(objects);
    }

    /// An object for what an application sends: of at least `min_bytes`, or if there is none, of
    /// the next sizes. Leaves the link what it needs to receive: else those who send would have
    /// everything, and the acknowledgments that set it free would find no object.
    #[inline]
    pub fn alloc_to_send(&mut self, min_bytes: usize, headroom: usize) -> Option<Slice> {
        let first = class_for(min_bytes.checked_add(headroom)?)?;
        (first..CLASSES).find_map(|class| {
            if class == self.rx_class && !self.leaves_enough() {
                return None;
            }
            self.object(class, headroom)
        })
    }

    /// So many objects to receive into are not given to those who send.
    fn kept(&self) -> usize {
        match self.rx_reserved {
            // There is no link.
            0 => 0,
            _ => self.config.low_water_objects * 2,
        }
    }

    /// Whether there are others to receive into than those that are kept for the link.
    fn leaves_enough(&self) -> bool {
        let kept = self.kept();
        let free = self.core().lists[self.rx_class].free.get() as usize;
        // With none free `take` looks for what other threads have given back.
        kept == 0 || free > kept || self.available(self.rx_class) > kept
    }

    /// Whether less than a quarter of the memory is free: then nobody should add to much that he
    /// has.
    #[inline]
    pub fn is_short(&self) -> bool {
        let spare = self.config.zones - self.formatted.len();
        spare * 4 < self.config.zones && self.free_bytes() * 4 < self.config.zones * ZONE_BYTES
    }

    fn free_bytes(&self) -> usize {
        let spare = self.config.zones - self.formatted.len();
        let lists = self.core().lists.iter().zip(OBJECT_BYTES);
        let free: usize = lists
            .map(|(list, bytes)| list.free.get() as usize * bytes)
            .sum();
        spare * ZONE_BYTES + free
    }

    /// Whether [`Pool::alloc_to_send`] has a few objects of some size to give. Those who found
    /// none may try again.
    pub fn may_send(&self) -> bool {
        (0..CLASSES).any(|class| {
            let kept = match class == self.rx_class {
                true => self.kept(),
                false => 0,
            };
            self.available(class) >= kept + OBJECT_COUNT[class].min(FEW_OBJECTS)
        })
    }

    /// How many more objects of class `class` there can be: free ones, and those of zones that
    /// it may still take.
    pub fn available(&self, class: usize) -> usize {
        let (Some(list), Some(have)) = (self.core().lists.get(class), self.zones_of.get(class))
        else {
            return 0;
        };
        let may = self.config.max_zones[class].saturating_sub(*have);
        list.free.get() as usize + self.spare_zones(class).min(may) * OBJECT_COUNT[class]
    }

    /// Zones that a class may still take. A zone stays with its class, so what the link will need
    /// is kept for it from the beginning, and what it lacks now.
    fn spare_zones(&self, class: usize) -> usize {
        let spare = self.config.zones - self.formatted.len();
        if class == self.rx_class || self.rx_reserved == 0 {
            return spare;
        }
        let count = OBJECT_COUNT[self.rx_class];
        let needed = self.rx_reserved + self.config.low_water_objects * 3;
        let zones = needed.div_ceil(count).min(self.config.zones / 2);
        let from_the_beginning = zones.saturating_sub(self.zones_of[self.rx_class]);
        let free = self.core().lists[self.rx_class].free.get() as usize;
        let now = self.kept().saturating_sub(free).div_ceil(count);
        spare.saturating_sub(from_the_beginning.max(now))
    }

    /// Whether the link is at risk of running out of objects to receive into: then copy small
    /// payloads out of received objects rather than hold those.
    pub fn low_water(&self) -> bool {
        // Most turns need only the one comparison.
        let free = self.core().lists[self.rx_class].free.get() as usize;
        free < self.config.low_water_objects
            && self.available(self.rx_class) < self.config.low_water_objects
    }

    /// The size of the objects that a link receives into.
    pub fn rx_object_bytes(&self) -> usize {
        OBJECT_BYTES[self.rx_class]
    }

    /// Frees what applications gave back from other threads; returns how many objects that
    /// were. Called once per turn; costs one load if there are none.
    #[inline]
    pub fn drain_remote(&mut self) -> usize {
        // SAFETY: `&mut self` is only to be had with the lock held.
        unsafe { self.core().drain_remote() }
    }

    /// The state of class `class`; zeroes if there is no such class.
    pub fn stats(&self, class: usize) -> ClassStats {
        let Some(list) = self.core().lists.get(class) else {
            return ClassStats::default();
        };
        ClassStats {
            object_bytes: OBJECT_BYTES[class],
            zones: self.zones_of[class],
            objects: list.total.get() as usize,
            free: list.free.get() as usize,
        }
    }

    /// How many objects are in use, in all classes.
    pub fn objects_in_use(&self) -> usize {
        let used = |list: &zone::ClassList| list.total.get().saturating_sub(list.free.get());
        self.core()
            .lists
            .iter()
            .map(|list| used(list) as usize)
            .sum()
    }

    /// How many objects the application holds, as far as [`Pool::drain_remote`] has seen.
    pub fn lent(&self) -> usize {
        self.core().lent.get() as usize
    }

    /// Gives what has been given back on accounts since the last call to `credit`.
    pub fn take_returned(&self, credit: impl FnMut(Returned)) {
        let mut all = self.core().returned.take();
        all.drain(..).for_each(credit);
        // Kept for its capacity.
        self.core().returned.replace(all);
    }

    /// Whether applications hold so much that what they are given from now on is to be a copy:
    /// half of all that the link could receive into.
    pub fn lends_too_much(&self) -> bool {
        self.lent() >= self.config.zones * OBJECT_COUNT[self.rx_class] / 2
    }

    /// The area that the pool's zones are of.
    pub fn area(&self) -> &Arc<Area> {
        &self.area
    }

    /// The pool's memory: start and length in bytes, both multiples of 2 MiB. What a link
    /// registers; offsets count from its start.
    pub fn umem(&self) -> (*mut u8, usize) {
        (self.core().base.as_ptr(), self.config.zones * ZONE_BYTES)
    }

    /// Whether `pointer` points into the pool's memory.
    pub fn owns(&self, pointer: *const u8) -> bool {
        let (base, bytes) = self.umem();
        pointer.addr().wrapping_sub(base.addr()) < bytes
    }

    /// The slice of `len` bytes at `offset` in the pool's memory, whose reference the link gives
    /// back; the converse of [`Slice::into_umem`]. `None` (and the reference is lost) if these
    /// are not bytes that somebody has written, of one object in use.
    ///
    /// # Safety
    /// The caller owns a reference to the object, as [`Slice::into_umem`] gave it.
    pub unsafe fn slice_from_umem(&mut self, offset: u64, len: usize) -> Option<Slice> {
        let at = self.locate(offset)?;
        let end = at.offset.checked_add(len)?;
        if at.offset < at.ctx.data_start.get() as usize || end > at.ctx.used_end.get() as usize {
            return None;
        }
        // SAFETY: within data_start..used_end, checked above; the reference is the caller's.
        Some(unsafe { Slice::from_parts(at.place, at.class, at.offset, len as u32) })
    }

    /// The slice of `len` bytes that a link has written at `offset` in the pool's memory, into
    /// an object from [`Pool::alloc_rx`]. What is in front of them becomes headroom. `None` (and
    /// the object is lost) if that is not within one object, or not one that only a link holds.
    ///
    /// # Safety
    /// The caller owns the object's reference, as [`Pool::alloc_rx`] gave it, and the link has
    /// finished writing.
    pub unsafe fn slice_from_received(&mut self, offset: u64, len: usize) -> Option<Slice> {
        let at = self.locate(offset)?;
        let end = at.offset.checked_add(len)?;
        if end > OBJECT_BYTES[at.class] || at.ctx.refs.get() != 1 {
            return None;
        }
        at.ctx.data_start.set(at.offset as u32);
        at.ctx.used_end.set(end as u32);
        // SAFETY: within data_start..used_end, just set; the only reference is the caller's.
        Some(unsafe { Slice::from_parts(at.place, at.class, at.offset, len as u32) })
    }

    /// Drops a link's reference to the object that `offset` lies in. False if there is no such
    /// object in use.
    ///
    /// # Safety
    /// The caller owns that reference, as [`Slice::into_umem`] or [`Pool::alloc_rx`] gave it.
    pub unsafe fn drop_umem(&mut self, offset: u64) -> bool {
        let Some(at) = self.locate(offset) else {
            return false;
        };
        // SAFETY: caller.
        unsafe { at.place.release(1) };
        true
    }

    /// A transmit descriptor at `offset` (anywhere in its object, also in the headroom) is
    /// complete: ends what [`Slice::into_tx`] began. False if the object has none in flight.
    ///
    /// # Safety
    /// The caller owns the descriptor's reference, as [`Slice::into_tx`] gave it.
    pub unsafe fn tx_complete(&mut self, offset: u64) -> bool {
        let Some(at) = self.locate(offset) else {
            return false;
        };
        let Some(inflight) = at.ctx.tx_inflight.get().checked_sub(1) else {
            return false;
        };
        at.ctx.tx_inflight.set(inflight);
        // SAFETY: caller.
        unsafe { at.place.release(1) };
        true
    }

    /// A slice of `len` bytes at `pointer` in an object that the application holds: for sending
    /// them without a copy. The application keeps its reference.
    ///
    /// # Errors
    /// [`FreeError`], counted: `Foreign` if these are not `len` bytes of one object of this pool
    /// ([`Pool::owns`]), `AlreadyFree` if the application does not hold it.
    pub fn slice_from_lent(&mut self, pointer: *const u8, len: usize) -> Result<Slice, FreeError> {
        let found = self.area.find(pointer)?;
        // SAFETY: `find` gives existing objects.
        let object = unsafe { found.place.object(found.class) };
        let offset = pointer.addr() - object.addr().get();
        if !found.belongs_to(self.core)
            || len > OBJECT_BYTES[found.class] - offset
            || offset < found.ctx.data_start.get() as usize
        {
            return Err(self.area.count(FreeError::Foreign));
        }
        let held = Lent::unpack(found.ctx.lent.load(Ordering::Acquire)).held;
        if held == 0 && found.ctx.exposed.get() == 0 {
            return Err(self.area.count(FreeError::AlreadyFree));
        }
        // The application's plain reference cannot go while we are here: draining needs the lock.
        found.ctx.refs.set(found.ctx.refs.get().saturating_add(1));
        // SAFETY: within data_start (checked) and the object's end, where `lend` put used_end;
        // the reference is the one just taken.
        Ok(unsafe { Slice::from_parts(found.place, found.class, offset, len as u32) })
    }

    /// A new object that holds at least `bytes`, with one reference, which is the application's.
    /// `None` if `bytes` exceeds every class or the pool is exhausted.
    ///
    /// The bytes are what the object's last owner left there: of this process.
    pub fn lend_new(&mut self, bytes: usize) -> Option<Loan> {
        // Where a header fits in front without taking the next size, a segment from the object's
        // start leaves as one piece.
        let headroom = match (class_for(bytes), class_for(bytes.checked_add(HEADROOM)?)) {
            (Some(plain), Some(roomy)) if plain == roomy => HEADROOM,
            _ => 0,
        };
        Some(self.alloc_to_send(bytes, headroom)?.lend())
    }

    /// Whether the application, which holds the object that `pointer` points into, may write to
    /// it: it holds one reference, and nobody else any (a send queue, the link).
    ///
    /// # Errors
    /// [`FreeError`], counted: `AlreadyFree` if the application does not hold it.
    pub fn is_writable(&self, pointer: *const u8) -> Result<bool, FreeError> {
        let found = self.area.find(pointer)?;
        if !found.belongs_to(self.core) {
            return Err(self.area.count(FreeError::Foreign));
        }
        let held = Lent::unpack(found.ctx.lent.load(Ordering::Acquire)).held;
        match held.saturating_add(found.ctx.exposed.get().into()) {
            0 => Err(self.area.count(FreeError::AlreadyFree)),
            held => Ok(held == 1 && found.ctx.refs.get() == 1),
        }
    }

    /// Gives the application a reference to the object that `pointer` points into, which is
    /// before it in a callback ([`Slice::expose`]), on an account, as [`Slice::lend_on`] does;
    /// returns the bytes that went on it.
    ///
    /// # Errors
    /// [`FreeError`], counted.
    pub fn lend_exposed(&self, pointer: *const u8, account: u32) -> Result<u32, FreeError> {
        let found = self.area.find(pointer)?;
        if !found.belongs_to(self.core) {
            return Err(self.area.count(FreeError::Foreign));
        }
        if found.ctx.exposed.get() == 0 {
            return Err(self.area.count(FreeError::AlreadyFree));
        }
        found.ctx.refs.set(found.ctx.refs.get().saturating_add(1));
        let start = found.ctx.data_start.get() as usize;
        // SAFETY: an object in use; empty and within it; the reference is the one just taken.
        let slice = unsafe { Slice::from_parts(found.place, found.class, start, 0) };
        let (_the_application_has_its_address, charged) = slice.lend_on(account);
        Ok(charged)
    }

    fn core(&self) -> &Core {
        // SAFETY: made in `new`, freed in `drop` at the earliest.
        unsafe { self.core.as_ref() }
    }

    /// An object with one reference, whose data are empty at `headroom`.
    #[inline]
    fn take(&mut self, class: usize, headroom: usize) -> Option<Place> {
        // SAFETY: `&mut self` is only to be had with the lock held.
        let place = match unsafe { self.core().take(class) } {
            Some(place) => place,
            None => self.take_slowly(class)?,
        };
        // SAFETY: the free list holds existing objects only.
        let ctx = unsafe { place.ctx() };
        ctx.refs.set(1);
        ctx.exposed.set(0);
        ctx.data_start.set(headroom as u32);
        ctx.used_end.set(headroom as u32);
        Some(place)
    }

    #[cold]
    fn take_slowly(&mut self, class: usize) -> Option<Place> {
        if self.drain_remote() > 0 {
            // SAFETY: as in `take`.
            let place = unsafe { self.core().take(class) };
            if place.is_some() {
                return place;
            }
        }
        if !self.add_zone(class) {
            return None;
        }
        // SAFETY: as in `take`.
        unsafe { self.core().take(class) }
    }

    fn add_zone(&mut self, class: usize) -> bool {
        let number = self.formatted.len();
        if self.spare_zones(class) == 0 || self.zones_of[class] >= self.config.max_zones[class] {
            return false;
        }
        // SAFETY: zone `number` is one of ours and has not been formatted, so nobody refers to
        // it; the core lives until no object is in use.
        unsafe { zone::format(self.core(), number as u32, class) };
        self.formatted.push(class as u8);
        self.zones_of[class] += 1;
        self.area
            .publish(self.first_zone + number, class, self.core);
        true
    }

    /// The object in use that byte `offset` of the pool's memory is of.
    #[inline]
    fn locate(&self, offset: u64) -> Option<Located<'_>> {
        let number = usize::try_from(offset / ZONE_BYTES as u64).ok()?;
        let class = usize::from(*self.formatted.get(number)?);
        let in_zone = (offset % ZONE_BYTES as u64) as usize;
        let index = object_at(class, in_zone)?;
        // SAFETY: the zone is one of ours.
        let zone = unsafe { self.core().base.add(number * ZONE_BYTES) };
        let place = Place { zone, index };
        // SAFETY: the zone is formatted and `object_at` gives existing objects only.
        let ctx = unsafe { place.ctx() };
        let offset = in_zone
            - super::layout::OBJECT_START[class]
            - (index << super::layout::OBJECT_SHIFT[class]);
        (ctx.refs.get() > 0).then_some(Located {
            place,
            class,
            offset,
            ctx,
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.drain_remote();
        if self.objects_in_use() == 0 {
            self.area.return_zones(self.first_zone, self.config.zones);
            // SAFETY: made by `Box::leak` in `new`. Only objects in use lead to it: slices by
            // their zones' headers, other threads in `free_ptr` by an object whose plain
            // reference they have yet to give back.
            drop(unsafe { Box::from_raw(self.core.as_ptr()) });
        } else {
            // Somebody will still read, write or free: keep memory and core for ever.
            core::mem::forget(Arc::clone(&self.area));
        }
    }
}
