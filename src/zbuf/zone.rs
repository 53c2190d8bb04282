//! A zone in memory: its header, the contexts of its objects, and the objects.
//!
//! Owns the layout in memory (through pointers) and the free lists. Which zones there are and
//! who may take from them is the pool's business.

use core::cell::{Cell, RefCell};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::layout::{
    CLASSES, CTX_BYTES, HEADER_BYTES, ID_NONE, ID_OBJECT_BITS, OBJECT_BYTES, OBJECT_COUNT,
    OBJECT_SHIFT, OBJECT_START, ZONE_BYTES,
};

/// "lunazone".
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"lunazone");

/// The head of each zone, written once when the zone is formatted.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Header {
    pub(super) magic: u64,
    /// What the link calls the zone's first byte, if that is not its offset in the pool's memory.
    /// AF_XDP uses offsets: zero.
    pub(super) iova_base: u64,
    /// The zone's offset in its pool's memory.
    pub(super) umem_offset: u64,
    pub(super) object_start: u32,
    pub(super) object_bytes: u32,
    pub(super) object_count: u32,
    pub(super) class: u32,
    /// The zone's number in its pool.
    pub(super) number: u32,
    pub(super) core: *const Core,
}

const _: () = assert!(size_of::<Header>() <= HEADER_BYTES);

/// What is known of one object.
#[repr(C, align(32))]
#[derive(Debug)]
pub(super) struct Ctx {
    /// References: slices, descriptors in flight, and one for all that an application holds.
    /// Zero: the object is free. `u32::MAX`: more than can be counted, never free again.
    pub(super) refs: Cell<u32>,
    /// No slice covers bytes of the object in front of this.
    pub(super) data_start: Cell<u32>,
    /// No slice covers bytes of the object from here on.
    pub(super) used_end: Cell<u32>,
    /// Transmit descriptors that the link has not finished with: fewer than a ring has.
    pub(super) tx_inflight: Cell<u16>,
    /// How many times a callback of the application, on the thread that holds the pool's lock,
    /// has the object before it without a reference of its own. ([`super::Slice::expose`])
    pub(super) exposed: Cell<u16>,
    /// The next object of the free list or of the remote list; an object is never on both,
    /// because what is on the remote list has a reference.
    pub(super) next: AtomicU32,
    /// On whose account the application holds the object; 0: on nobody's.
    pub(super) account: Cell<u32>,
    /// References that an application holds, see [`Lent`].
    pub(super) lent: AtomicU64,
}

const _: () = assert!(size_of::<Ctx>() == CTX_BYTES);

/// The two halves of [`Ctx::lent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lent {
    /// References that the application may still free.
    pub(super) held: u32,
    /// Plain references that the pool's owner must drop when it drains the remote list.
    pub(super) returned: u32,
}

impl Lent {
    pub(super) const fn unpack(word: u64) -> Self {
        Self {
            held: word as u32,
            returned: (word >> 32) as u32,
        }
    }

    pub(super) const fn pack(self) -> u64 {
        self.held as u64 | (self.returned as u64) << 32
    }
}

/// The objects of one size: all that are free, in all zones of that size.
///
/// LUNA keeps a list per zone. One list per size instead gives out the object freed last, whose
/// context and bytes are in the cache, wherever it lies.
#[derive(Debug)]
pub(super) struct ClassList {
    pub(super) head: Cell<u32>,
    pub(super) free: Cell<u32>,
    pub(super) total: Cell<u32>,
}

/// What the zones of a pool point to. Outlives the pool if objects do.
#[derive(Debug)]
pub(super) struct Core {
    /// The first byte of the pool's memory.
    pub(super) base: NonNull<u8>,
    pub(super) lists: [ClassList; CLASSES],
    /// Objects that applications have freed: a stack linked through [`Ctx::next`]. Any thread
    /// pushes; the pool's owner takes all at once, so that nothing can be popped under a pusher
    /// (no ABA problem).
    pub(super) remote: AtomicU32,
    /// Plain references that stand for what applications hold.
    pub(super) lent: Cell<u32>,
    /// What applications have given back of what they held on somebody's account.
    pub(super) returned: RefCell<Vec<Returned>>,
}

/// Bytes that an application has given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    /// Whose account they were on.
    pub account: u32,
    /// How many: whole objects.
    pub bytes: u32,
}

impl Core {
    pub(super) fn new(base: NonNull<u8>) -> Self {
        let list = || ClassList {
            head: Cell::new(ID_NONE),
            free: Cell::new(0),
            total: Cell::new(0),
        };
        Self {
            base,
            lists: [list(), list(), list(), list()],
            remote: AtomicU32::new(ID_NONE),
            lent: Cell::new(0),
            returned: RefCell::new(Vec::new()),
        }
    }

    /// The place of object `id`.
    ///
    /// # Safety
    /// `id` is of an object of a formatted zone of this pool.
    pub(super) unsafe fn place(&self, id: u32) -> Place {
        let zone = (id >> ID_OBJECT_BITS) as usize;
        let index = id as usize & ((1 << ID_OBJECT_BITS) - 1);
        // SAFETY: the zone is part of the pool's memory (caller).
        let zone = unsafe { self.base.add(zone * ZONE_BYTES) };
        Place { zone, index }
    }

    /// Takes the object that was freed last.
    ///
    /// # Safety
    /// The caller holds the pool's lock.
    pub(super) unsafe fn take(&self, class: usize) -> Option<Place> {
        let list = self.lists.get(class)?;
        let id = list.head.get();
        if id == ID_NONE {
            return None;
        }
        // SAFETY: only `give` and `format` put numbers on the list, those of existing objects.
        let place = unsafe { self.place(id) };
        // SAFETY: as above.
        let ctx = unsafe { place.ctx() };
        list.head.set(ctx.next.load(Ordering::Relaxed));
        list.free.set(list.free.get().saturating_sub(1));
        Some(place)
    }

    /// Puts a free object in front of its list.
    ///
    /// # Safety
    /// The object is of a formatted zone of this pool of class `class`, is on no list, and nobody
    /// refers to it. The caller holds the pool's lock.
    pub(super) unsafe fn give(&self, class: usize, id: u32, ctx: &Ctx) {
        if let Some(list) = self.lists.get(class) {
            ctx.next.store(list.head.get(), Ordering::Relaxed);
            list.head.set(id);
            list.free.set(list.free.get().saturating_add(1));
        }
    }

    /// Adds an object to the remote list. Any thread.
    ///
    /// # Safety
    /// The caller has raised the object's `returned` from zero.
    pub(super) unsafe fn push_remote(&self, id: u32, ctx: &Ctx) {
        let mut head = self.remote.load(Ordering::Relaxed);
        loop {
            ctx.next.store(head, Ordering::Relaxed);
            // Release: whoever takes the list sees `next`.
            match self
                .remote
                .compare_exchange_weak(head, id, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Drops the references that applications gave back. Returns how many objects were on the
    /// list.
    ///
    /// # Safety
    /// The caller holds the pool's lock.
    pub(super) unsafe fn drain_remote(&self) -> usize {
        if self.remote.load(Ordering::Relaxed) == ID_NONE {
            return 0;
        }
        let mut drained = 0;
        let mut accounts = self.returned.take();
        let mut id = self.remote.swap(ID_NONE, Ordering::Acquire);
        while id != ID_NONE {
            // SAFETY: only `push_remote` puts numbers on the list, those of existing objects.
            let place = unsafe { self.place(id) };
            // SAFETY: as above.
            if unsafe { place.header() }.magic != MAGIC {
                // Wiped in a forked child: every link would lead to object 0, for ever.
                break;
            }
            // SAFETY: as above.
            let ctx = unsafe { place.ctx() };
            // First the link, then the count: from then on another thread may push it again.
            id = ctx.next.load(Ordering::Relaxed);
            let before = ctx.lent.fetch_and(u64::from(u32::MAX), Ordering::AcqRel);
            let returned = Lent::unpack(before).returned;
            let account = ctx.account.take();
            if account != 0 {
                // SAFETY: as above.
                let bytes = unsafe { place.header() }.object_bytes;
                accounts.push(Returned { account, bytes });
            }
            self.lent.set(self.lent.get().saturating_sub(returned));
            // SAFETY: each of `returned` stands for a plain reference of the application's,
            // which it has given up; we hold the lock.
            unsafe { place.release(returned) };
            drained += 1;
        }
        self.returned.replace(accounts);
        drained
    }
}

/// Where an object's context and bytes are: its zone and its number therein.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) zone: NonNull<u8>,
    pub(super) index: usize,
}

impl Place {
    /// # Safety
    /// The zone is formatted and has an object of that number. Contexts live as long as the
    /// area's mapping, which outlives all that refers to it.
    pub(super) unsafe fn ctx<'a>(self) -> &'a Ctx {
        // SAFETY: contexts follow the header, in a formatted zone they are initialised, and they
        // are only ever accessed through `&Ctx` (cells and atomics).
        unsafe {
            self.zone
                .add(HEADER_BYTES + self.index * CTX_BYTES)
                .cast::<Ctx>()
                .as_ref()
        }
    }

    /// # Safety
    /// The zone is formatted.
    pub(super) unsafe fn header<'a>(self) -> &'a Header {
        // SAFETY: a formatted zone begins with its header, which is not written again.
        unsafe { self.zone.cast::<Header>().as_ref() }
    }

    /// The object's first byte.
    ///
    /// # Safety
    /// The zone is of class `class` and has an object of that number.
    pub(super) unsafe fn object(self, class: usize) -> NonNull<u8> {
        // SAFETY: within the zone by `OBJECT_COUNT`.
        unsafe {
            self.zone
                .add(OBJECT_START[class] + (self.index << OBJECT_SHIFT[class]))
        }
    }

    /// Drops `count` references, and the object with the last.
    ///
    /// # Safety
    /// The zone is formatted, the caller owns that many references to the object and holds the
    /// pool's lock.
    pub(super) unsafe fn release(self, count: u32) {
        // SAFETY: caller.
        let ctx = unsafe { self.ctx() };
        let refs = ctx.refs.get();
        // Zero is a context wiped in a forked child, MAX one that lost count: leave alone.
        if refs == 0 || refs == u32::MAX {
            return;
        }
        let left = refs.saturating_sub(count);
        ctx.refs.set(left);
        if left == 0 {
            // SAFETY: the last reference is gone.
            unsafe { self.free(ctx) };
        }
    }

    /// # Safety
    /// The object's reference count has just become zero; the caller holds the pool's lock.
    unsafe fn free(self, ctx: &Ctx) {
        // SAFETY: an object that had references is in a formatted zone.
        let header = unsafe { self.header() };
        // Wiped in a forked child after all.
        if header.magic != MAGIC {
            return;
        }
        let id = header.number << ID_OBJECT_BITS | self.index as u32;
        // SAFETY: `core` outlives the zone's objects: `Pool::drop`.
        let core = unsafe { &*header.core };
        // SAFETY: caller.
        unsafe { core.give(header.class as usize, id, ctx) };
    }
}

/// Makes a zone out of 2 MiB and puts its objects on their free list, lowest address first.
///
/// # Safety
/// `core.base` + `number` zones is [`ZONE_BYTES`] of writable memory, aligned to that, which
/// nobody refers to. `core` stays at its address for as long as the zone is in use. The caller
/// holds the pool's lock.
pub(super) unsafe fn format(core: &Core, number: u32, class: usize) {
    // SAFETY: caller.
    let zone = unsafe { core.base.add(number as usize * ZONE_BYTES) };
    let header = Header {
        magic: MAGIC,
        iova_base: 0,
        umem_offset: u64::from(number) * ZONE_BYTES as u64,
        object_start: OBJECT_START[class] as u32,
        object_bytes: OBJECT_BYTES[class] as u32,
        object_count: OBJECT_COUNT[class] as u32,
        class: class as u32,
        number,
        core: ptr::from_ref(core),
    };
    // SAFETY: aligned and in bounds; nobody refers to the zone.
    unsafe { zone.cast::<Header>().write(header) };
    for index in (0..OBJECT_COUNT[class]).rev() {
        let place = Place { zone, index };
        // SAFETY: as above. The memory is zero or a former context, both valid: all zero is a
        // free object. Written field by field because a stray `free_ptr` of a stale pointer may
        // be reading `lent`.
        let ctx = unsafe { place.ctx() };
        ctx.refs.set(0);
        ctx.tx_inflight.set(0);
        ctx.lent.store(0, Ordering::Relaxed);
        let id = number << ID_OBJECT_BITS | index as u32;
        // SAFETY: a new object of this pool that nobody refers to.
        unsafe { core.give(class, id, ctx) };
    }
    let list = &core.lists[class];
    list.total
        .set(list.total.get().saturating_add(OBJECT_COUNT[class] as u32));
}
