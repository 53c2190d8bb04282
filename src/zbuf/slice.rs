//! A counted reference to some bytes of one object.

use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::layout::{OBJECT_BYTES, ZONE_BYTES};
use super::zone::{Ctx, Lent, MAGIC, Place};

/// Some bytes of an object, and one reference to it.
///
/// Cloning takes another reference, dropping gives it back. Slices of one object may overlap.
/// All positions are clamped to the slice: none of the methods panics.
///
/// A slice belongs to the thread that holds its shard's lock. It cannot be sent:
///
/// ```compile_fail
/// fn send<T: Send>() {}
/// send::<luna::zbuf::Slice>();
/// ```
///
/// Invariants: the object exists for as long as the slice; the bytes lie in the object's
/// `data_start..used_end`; `class` and `index` are the object's own.
pub struct Slice {
    start: NonNull<u8>,
    len: u32,
    /// Not computed from `start`: an empty slice may begin where the next object does.
    index: u16,
    class: u8,
}

const _: () = assert!(size_of::<Slice>() == 16 && size_of::<Option<Slice>>() == 16);

impl Slice {
    /// # Safety
    /// `place` is an object of class `class` of a formatted zone; `offset` + `len` lies within
    /// it and within `data_start..used_end`; one reference passes from the caller to the slice.
    pub(super) unsafe fn from_parts(place: Place, class: usize, offset: usize, len: u32) -> Self {
        // SAFETY: caller.
        let object = unsafe { place.object(class) };
        // SAFETY: caller: within the object.
        let start = unsafe { object.add(offset) };
        Self {
            start,
            len,
            index: place.index as u16,
            class: class as u8,
        }
    }

    /// How many bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: the slice's invariants; bytes covered by a slice change only through
        // `bytes_mut`, which needs the object's only reference, by the link before it hands the
        // object over, and by an application that writes to what it has already sent, which its
        // API forbids.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len()) }
    }

    /// The bytes, to be changed; `None` while anybody else refers to the object: another slice,
    /// a descriptor in flight or an application.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        if !self.is_unique() {
            return None;
        }
        // SAFETY: the slice's invariants; it is the only reference and it is borrowed.
        Some(unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len as usize) })
    }

    /// Whether this is the object's only reference, counting those of the link and of the
    /// application.
    #[inline]
    pub fn is_unique(&self) -> bool {
        self.ctx().refs.get() == 1
    }

    /// Cuts off and returns the first `n` bytes.
    #[inline]
    #[must_use]
    pub fn split_to(&mut self, n: usize) -> Self {
        let mut head = self.clone();
        head.truncate(n);
        self.advance(n);
        head
    }

    /// Shortens to `n` bytes.
    #[inline]
    pub fn truncate(&mut self, n: usize) {
        self.len = n.min(self.len()) as u32;
    }

    /// Drops the first `n` bytes.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.len());
        // SAFETY: at most the slice's end.
        self.start = unsafe { self.start.add(n) };
        self.len -= n as u32;
    }

    /// Another slice, of this one's bytes `start..end`.
    #[inline]
    #[must_use]
    pub fn sub(&self, start: usize, end: usize) -> Self {
        let mut part = self.clone();
        part.truncate(end);
        part.advance(start);
        part
    }

    /// Adds as many of `bytes` as fit after the slice's end; returns how many. Adds none if this
    /// slice does not end where the object's used part ends: what follows is somebody else's.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let ctx = self.ctx();
        let end = self.offset() + self.len();
        // Wiped in a forked child, every count is zero: not ours to write.
        if ctx.used_end.get() as usize != end || ctx.refs.get() == 0 {
            return 0;
        }
        let n = bytes.len().min(self.object_bytes().saturating_sub(end));
        // SAFETY: `end` <= used_end <= the object's size, checked above.
        let to = unsafe { self.start.add(self.len()) };
        // SAFETY: `n` bytes fit into the object; no slice covers bytes from `used_end` on, so
        // neither `bytes` nor any `as_bytes` overlaps them.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), n) };
        ctx.used_end.set((end + n) as u32);
        self.len += n as u32;
        n
    }

    /// How many bytes [`Slice::append`] would take now.
    pub fn spare_capacity(&self) -> usize {
        let end = self.offset() + self.len();
        if self.ctx().used_end.get() as usize == end {
            self.object_bytes() - end
        } else {
            0
        }
    }

    /// Extends this slice by `next` if that is the same object's bytes right after this one's;
    /// otherwise gives it back.
    ///
    /// # Errors
    /// `next`, unchanged.
    pub fn join(&mut self, next: Self) -> Result<(), Self> {
        // SAFETY: at most the slice's end.
        let end = unsafe { self.start.add(self.len()) };
        // Zones are disjoint, so one object's end is another's start only within a zone.
        if end != next.start || self.index != next.index || self.zone() != next.zone() {
            return Err(next);
        }
        self.len += next.len;
        Ok(())
    }

    /// Room in front of the slice for headers, to be written with [`Slice::write_headroom`]:
    /// zero unless the slice begins at the object's data and the link is not reading from it.
    pub fn headroom(&self) -> usize {
        let (ctx, offset) = (self.ctx(), self.offset());
        if ctx.tx_inflight.get() == 0 && ctx.data_start.get() as usize == offset {
            offset
        } else {
            0
        }
    }

    /// Makes what is in front of the slice headroom, if this is the object's only reference: so
    /// an answer that is written over a request has room for its headers where the request's
    /// were.
    #[inline]
    pub fn claim_front(&mut self) {
        if self.is_unique() {
            self.ctx().data_start.set(self.offset() as u32);
        }
    }

    /// Writes `header` right in front of the slice, which itself does not change, and returns
    /// where the header begins in the pool's memory. `None` if there is not that much
    /// [`Slice::headroom`].
    ///
    /// No slice ever covers the headroom, so only the link sees it; it is given again, hence
    /// overwritten, once no descriptor of the object is in flight.
    pub fn write_headroom(&mut self, header: &[u8]) -> Option<u64> {
        if header.is_empty() || header.len() > self.headroom() || self.ctx().refs.get() == 0 {
            return None;
        }
        // SAFETY: the headroom lies in the object, in front of `data_start`.
        let to = unsafe { self.start.sub(header.len()) };
        // SAFETY: no slice, hence neither `header` nor any `as_bytes`, covers bytes in front of
        // `data_start`; no descriptor is in flight.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(header).cast(), header.len()) };
        Some(self.umem_offset() - header.len() as u64)
    }

    /// Where the slice begins in the pool's memory, as devices count ([`super::Pool::umem`]).
    #[inline]
    pub fn umem_offset(&self) -> u64 {
        // SAFETY: the slice's object is in a formatted zone.
        let header = unsafe { self.place().header() };
        header.umem_offset + self.offset_in_zone() as u64
    }

    /// The slice as (offset in the pool's memory, length) pieces, none of which crosses a
    /// multiple of `chunk_bytes` (a power of two): a descriptor of AF_XDP's aligned mode must
    /// not.
    pub fn chunks(&self, chunk_bytes: usize) -> Chunks {
        let chunk_bytes = chunk_bytes as u64;
        Chunks {
            offset: self.umem_offset(),
            left: self.len,
            chunk_bytes: chunk_bytes.max(1),
        }
    }

    /// Gives the slice's reference to a link, which will know it by the returned offset in the
    /// pool's memory (an interior one). [`super::Pool::slice_from_umem`] or
    /// [`super::Pool::drop_umem`] takes it back.
    #[must_use]
    pub fn into_umem(self) -> u64 {
        let slice = ManuallyDrop::new(self);
        slice.addressable().1
    }

    /// The same for a transmit descriptor: also marks the object as being read by the link, until
    /// [`super::Pool::tx_complete`] of an address in it.
    #[must_use]
    pub fn into_tx(self) -> u64 {
        let ctx = self.ctx();
        ctx.tx_inflight.set(ctx.tx_inflight.get().saturating_add(1));
        self.into_umem()
    }

    /// How many transmit descriptors of this object are in flight.
    pub fn tx_inflight(&self) -> u32 {
        self.ctx().tx_inflight.get().into()
    }

    /// Gives the slice's reference to the application, which returns it with
    /// [`super::Area::free_ptr`] of any address in the object, from any thread.
    ///
    /// Nothing is appended to the object afterwards: the rest of it is the application's.
    /// Returns where the slice began.
    #[must_use]
    pub fn lend(self) -> Loan {
        self.lend_on(0).0
    }

    /// As [`Slice::lend`], on the account of whoever `account` is (0: nobody): when the object
    /// is given back, that account is told of it ([`super::Pool::take_returned`]). Also returns
    /// how many bytes went on the account: the whole object, or nothing if the application has
    /// it already.
    #[must_use]
    pub fn lend_on(self, account: u32) -> (Loan, u32) {
        let slice = ManuallyDrop::new(self);
        let (ctx, place) = (slice.ctx(), slice.place());
        ctx.used_end.set(slice.object_bytes() as u32);
        let seal = |word| {
            let lent = Lent::unpack(word);
            Some(
                Lent {
                    held: lent.held.saturating_add(1),
                    ..lent
                }
                .pack(),
            )
        };
        let before = match ctx
            .lent
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, seal)
        {
            Ok(word) | Err(word) => Lent::unpack(word),
        };
        if before.held > 0 {
            // The application had its plain reference already, and keeps it: `held` is now at
            // least two, so no free elsewhere can give it up before we let go of ours.
            // SAFETY: `slice` owned a reference and will not drop it; slices exist only where
            // the lock is held.
            unsafe { place.release(1) };
        } else {
            // SAFETY: the slice's object is in a formatted zone.
            let header = unsafe { place.header() };
            if header.magic == MAGIC {
                // SAFETY: `core` outlives the zone's objects: `Pool::drop`.
                let lent = unsafe { &(*header.core).lent };
                lent.set(lent.get().saturating_add(1));
            }
        }
        // One that was given back and not collected yet stays on its old account until it is.
        let is_new = before.held == 0 && account != 0 && ctx.account.get() == 0;
        if is_new {
            ctx.account.set(account);
        }
        let loan = Loan {
            start: slice.addressable().0,
            len: slice.len(),
        };
        let charged = if is_new {
            slice.object_bytes() as u32
        } else {
            0
        };
        (loan, charged)
    }

    /// Shows the bytes to the application for the time of a callback, without a reference and
    /// without an atomic operation: it may send them ([`super::Pool::slice_from_lent`]) or keep
    /// them ([`super::Pool::lend_exposed`]) until [`Slice::withdraw`].
    pub fn expose(&self) -> Loan {
        let ctx = self.ctx();
        ctx.exposed.set(ctx.exposed.get().saturating_add(1));
        ctx.used_end.set(self.object_bytes() as u32);
        Loan {
            start: self.addressable().0,
            len: self.len(),
        }
    }

    /// Ends one [`Slice::expose`].
    pub fn withdraw(&self) {
        let ctx = self.ctx();
        ctx.exposed.set(ctx.exposed.get().saturating_sub(1));
    }

    /// The slice's start and its offset in the pool's memory, moved back by one if that is the
    /// object's end, so that both are addresses of this object.
    fn addressable(&self) -> (NonNull<u8>, u64) {
        let back = usize::from(self.offset() == self.object_bytes());
        // SAFETY: `back` is 1 only at the object's end, never at its start.
        let start = unsafe { self.start.sub(back) };
        (start, self.umem_offset() - back as u64)
    }

    #[inline]
    fn object_bytes(&self) -> usize {
        OBJECT_BYTES[usize::from(self.class)]
    }

    #[inline]
    fn zone(&self) -> NonNull<u8> {
        // The end of a zone's last object may be the zone's end, so an empty slice may begin
        // there. Contexts stand in front of the objects: no slice begins at a zone's start.
        let inside = (self.start.addr().get() - 1) & !(ZONE_BYTES - 1);
        // SAFETY: the zone's address is in the same mapping, and not null.
        unsafe { NonNull::new_unchecked(self.start.as_ptr().with_addr(inside)) }
    }

    #[inline]
    fn place(&self) -> Place {
        Place {
            zone: self.zone(),
            index: usize::from(self.index),
        }
    }

    #[inline]
    fn ctx(&self) -> &Ctx {
        // SAFETY: the slice's object exists.
        unsafe { self.place().ctx() }
    }

    #[inline]
    fn offset_in_zone(&self) -> usize {
        self.start.addr().get() - self.zone().addr().get()
    }

    /// Where in its object the slice begins.
    #[inline]
    fn offset(&self) -> usize {
        // SAFETY: the slice's object exists and is of this class.
        let object = unsafe { self.place().object(usize::from(self.class)) };
        self.start.addr().get() - object.addr().get()
    }
}

impl Clone for Slice {
    #[inline]
    fn clone(&self) -> Self {
        let ctx = self.ctx();
        // Sticks at the top: an object with that many references is lost, not misused.
        ctx.refs.set(ctx.refs.get().saturating_add(1));
        Self {
            start: self.start,
            len: self.len,
            index: self.index,
            class: self.class,
        }
    }
}

impl Drop for Slice {
    #[inline]
    fn drop(&mut self) {
        let ctx = self.ctx();
        let refs = ctx.refs.get();
        // Neither the last one, nor zero (a forked child's), nor stuck.
        if refs.wrapping_sub(2) < u32::MAX - 2 {
            ctx.refs.set(refs - 1);
        } else {
            // SAFETY: the slice's reference goes; slices exist only where the lock is held.
            unsafe { self.place().release(1) };
        }
    }
}

impl core::ops::Deref for Slice {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl core::fmt::Debug for Slice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // SAFETY: the slice's object is in a formatted zone.
        let header = unsafe { self.place().header() };
        debug_assert!(header.magic == MAGIC || header.magic == 0);
        f.debug_struct("Slice")
            .field("zone", &header.number)
            .field("object", &self.index)
            .field("offset", &self.offset())
            .field("len", &self.len)
            .field("refs", &self.ctx().refs.get())
            .finish()
    }
}

/// Bytes that the application holds: what [`Slice::lend`] gave it. A number, not a reference:
/// dropping it gives nothing back.
#[derive(Clone, Copy, Debug)]
pub struct Loan {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address and a length; reading or writing through it is the application's business.
unsafe impl Send for Loan {}

impl Loan {
    /// Where the bytes begin; an address in their object.
    pub fn as_ptr(self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// How many bytes.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// See [`Slice::chunks`].
#[derive(Clone, Debug)]
pub struct Chunks {
    offset: u64,
    left: u32,
    chunk_bytes: u64,
}

impl Iterator for Chunks {
    /// Offset in the pool's memory, length in bytes.
    type Item = (u64, u32);

    fn next(&mut self) -> Option<(u64, u32)> {
        if self.left == 0 {
            return None;
        }
        let room = self.chunk_bytes - self.offset % self.chunk_bytes;
        let piece = (self.offset, u64::from(self.left).min(room) as u32);
        self.offset += u64::from(piece.1);
        self.left -= piece.1;
        Some(piece)
    }
}
