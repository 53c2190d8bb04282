//! The four rings that a process shares with the kernel through an AF_XDP socket.
//!
//! Each ring has one producer and one consumer, one of them the kernel. [`Producer`] and
//! [`Consumer`] are our end; indices run freely and wrap at 2³². Nothing here knows what an
//! entry means.
//!
//! The kernel is trusted to move its own index by no more than the ring holds: an index that
//! says otherwise stops the ring (it looks empty, or full) instead of being followed.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use rustix::net::xdp::{XdpDesc, XdpRingFlags, XdpRingOffset};

/// What a ring may hold: plain numbers, for which every bit pattern is a value.
///
/// # Safety
///
/// Implementors have no invalid bit patterns, no padding that matters and no drop glue.
pub(super) unsafe trait Entry: Copy {}

// SAFETY: a number.
unsafe impl Entry for u64 {}
// SAFETY: three numbers; its flags type keeps unknown bits.
unsafe impl Entry for XdpDesc {}

/// A shared mapping, unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    start: NonNull<c_void>,
    length: usize,
}

impl Mapping {
    fn of_socket(fd: BorrowedFd<'_>, length: usize, offset: u64) -> rustix::io::Result<Self> {
        // SAFETY: the kernel chooses the address, so no other mapping is touched.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                fd,
                offset,
            )?
        };
        // A mapping keeps the socket alive: a child of `fork` must not, once its parent is gone
        // or has let go of the queue. It does not use the rings.
        // SAFETY: the range is the mapping made above.
        let _child_keeps_it = unsafe { madvise(start, length, Advice::LinuxDontFork) };
        let start = NonNull::new(start).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { start, length })
    }

    /// A pointer to `bytes` bytes at `offset`, aligned for `T`.
    fn at<T>(&self, offset: u64, bytes: usize) -> rustix::io::Result<NonNull<T>> {
        let offset = usize::try_from(offset).map_err(|_| rustix::io::Errno::OVERFLOW)?;
        let end = offset
            .checked_add(bytes)
            .ok_or(rustix::io::Errno::OVERFLOW)?;
        if end > self.length || !offset.is_multiple_of(align_of::<T>()) {
            return Err(rustix::io::Errno::INVAL);
        }
        // SAFETY: `offset` is within the mapping, checked above.
        Ok(unsafe { self.start.byte_add(offset) }.cast())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the ring that points into it is being dropped.
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.length) };
        debug_assert!(unmapped.is_ok(), "munmap of a ring: {unmapped:?}");
    }
}

/// What both ends of a ring consist of. The pointers lead into `_mapping`.
#[derive(Debug)]
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: Option<NonNull<AtomicU32>>,
    entries: NonNull<T>,
    size: u32,
    _mapping: Mapping,
    _entries: PhantomData<T>,
}

// SAFETY: the pointers lead into memory that the ring owns, and are used only through `&self`
// or `&mut self`; what is shared with the kernel is accessed atomically or handed over by the
// index protocol. Not `Sync`: our end has one user at a time.
unsafe impl<T: Entry + Send> Send for Ring<T> {}

impl<T: Entry> Ring<T> {
    fn new(mapping: Mapping, offsets: &XdpRingOffset, size: u32) -> rustix::io::Result<Self> {
        if !size.is_power_of_two() {
            return Err(rustix::io::Errno::INVAL);
        }
        let bytes = size as usize * size_of::<T>();
        Ok(Self {
            producer: mapping.at(offsets.producer, size_of::<AtomicU32>())?,
            consumer: mapping.at(offsets.consumer, size_of::<AtomicU32>())?,
            flags: match offsets.flags {
                Some(offset) => Some(mapping.at(offset, size_of::<AtomicU32>())?),
                None => None,
            },
            entries: mapping.at(offsets.desc, bytes)?,
            size,
            _mapping: mapping,
            _entries: PhantomData,
        })
    }

    /// Maps the ring of `size` entries at page offset `page` of the socket `fd`.
    fn of_socket(
        fd: BorrowedFd<'_>,
        page: u64,
        offsets: &XdpRingOffset,
        size: u32,
    ) -> rustix::io::Result<Self> {
        let entries = usize::try_from(offsets.desc).map_err(|_| rustix::io::Errno::OVERFLOW)?;
        let length = entries + size as usize * size_of::<T>();
        Self::new(Mapping::of_socket(fd, length, page)?, offsets, size)
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: points into the mapping, which lives as long as `self` (checked in `new`).
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn need_wakeup(&self) -> bool {
        // SAFETY: as above.
        let flags = self
            .flags
            .map_or(0, |flags| unsafe { flags.as_ref() }.load(Ordering::Relaxed));
        XdpRingFlags::from_bits_retain(flags).contains(XdpRingFlags::XDP_RING_NEED_WAKEUP)
    }

    fn slot(&self, index: u32) -> NonNull<T> {
        // SAFETY: masked to the ring's size, for which `new` found room in the mapping.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }
}

/// Our end of a ring that the kernel consumes: fill and transmit.
#[derive(Debug)]
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// Where the next entry goes; ahead of the shared index until [`Producer::submit`].
    head: u32,
    /// The kernel's index when last looked at.
    tail: u32,
}

impl<T: Entry> Producer<T> {
    /// Maps a ring of the socket `fd`.
    pub(super) fn of_socket(
        fd: BorrowedFd<'_>,
        page: u64,
        offsets: &XdpRingOffset,
        size: u32,
    ) -> rustix::io::Result<Self> {
        Ok(Self {
            ring: Ring::of_socket(fd, page, offsets, size)?,
            head: 0,
            tail: 0,
        })
    }

    /// How many entries fit now, at most. Looks at the kernel's index only if it knows of fewer
    /// than `wanted`.
    pub(super) fn room(&mut self, wanted: u32) -> u32 {
        let known = self
            .ring
            .size
            .saturating_sub(self.head.wrapping_sub(self.tail));
        if known >= wanted {
            return known;
        }
        // Acquire: the kernel has read the entries before this index, they may be overwritten.
        self.tail = self.ring.consumer().load(Ordering::Acquire);
        self.ring
            .size
            .saturating_sub(self.head.wrapping_sub(self.tail))
    }

    /// Writes an entry, invisible to the kernel before [`Producer::submit`]. False if full.
    #[must_use]
    pub(super) fn push(&mut self, entry: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        // SAFETY: the slot is inside the ring, and `room` says that the kernel has no use for it
        // until we move the producer index over it.
        unsafe { self.ring.slot(self.head).write(entry) };
        self.head = self.head.wrapping_add(1);
        true
    }

    /// Shows the kernel all entries pushed so far.
    pub(super) fn submit(&mut self) {
        // Release: the entries' contents become visible before the index.
        self.ring.producer().store(self.head, Ordering::Release);
    }

    /// How many pushed entries the kernel has not taken yet.
    pub(super) fn outstanding(&mut self) -> u32 {
        self.tail = self.ring.consumer().load(Ordering::Acquire);
        self.head.wrapping_sub(self.tail)
    }

    /// Whether the kernel must be told to look at the ring.
    pub(super) fn need_wakeup(&self) -> bool {
        self.ring.need_wakeup()
    }
}

/// Our end of a ring that the kernel produces: receive and completion.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    /// The next entry to take; ahead of the shared index until [`Consumer::release`].
    tail: u32,
    /// The kernel's index when last looked at.
    head: u32,
}

impl<T: Entry> Consumer<T> {
    /// Maps a ring of the socket `fd`.
    pub(super) fn of_socket(
        fd: BorrowedFd<'_>,
        page: u64,
        offsets: &XdpRingOffset,
        size: u32,
    ) -> rustix::io::Result<Self> {
        Ok(Self {
            ring: Ring::of_socket(fd, page, offsets, size)?,
            tail: 0,
            head: 0,
        })
    }

    /// The next entry, if the kernel has produced one.
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.head == self.tail && self.available() == 0 {
            return None;
        }
        // SAFETY: the slot is inside the ring, and the kernel wrote it before it moved its
        // index over it (loaded with Acquire); it will not write it again before `release`.
        let entry = unsafe { self.ring.slot(self.tail).read() };
        self.tail = self.tail.wrapping_add(1);
        Some(entry)
    }

    /// How many entries wait.
    pub(super) fn available(&mut self) -> u32 {
        let head = self.ring.producer().load(Ordering::Acquire);
        let waiting = head.wrapping_sub(self.tail);
        if waiting > self.ring.size {
            return 0;
        }
        self.head = head;
        waiting
    }

    /// Gives the slots of all popped entries back to the kernel.
    pub(super) fn release(&mut self) {
        // Release: our reads of the entries happen before the kernel overwrites them.
        self.ring.consumer().store(self.tail, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::mmap_anonymous;

    const OFFSETS: XdpRingOffset = XdpRingOffset {
        producer: 0,
        consumer: 64,
        desc: 192,
        flags: Some(128),
    };

    fn ring(size: u32) -> Ring<u64> {
        let length = 192 + size as usize * 8;
        // SAFETY: the kernel chooses the address.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let start = NonNull::new(start.unwrap()).unwrap();
        Ring::new(Mapping { start, length }, &OFFSETS, size).unwrap()
    }

    /// A ring whose two indices start at `index`, as seen by both of its ends.
    fn producer_at(index: u32, size: u32) -> Producer<u64> {
        let ring = ring(size);
        ring.producer().store(index, Ordering::Relaxed);
        ring.consumer().store(index, Ordering::Relaxed);
        Producer {
            ring,
            head: index,
            tail: index,
        }
    }

    #[test]
    fn a_producer_fills_up_and_goes_on_when_the_kernel_has_read() {
        for start in [0, u32::MAX - 1, u32::MAX] {
            let mut fill = producer_at(start, 4);
            for value in 0..4 {
                assert!(fill.push(value));
            }
            assert!(!fill.push(99));
            assert_eq!(
                fill.ring.producer().load(Ordering::Relaxed),
                start,
                "not yet visible"
            );
            fill.submit();
            assert_eq!(
                fill.ring.producer().load(Ordering::Relaxed),
                start.wrapping_add(4)
            );
            assert_eq!(fill.outstanding(), 4);

            // The kernel takes two.
            fill.ring
                .consumer()
                .store(start.wrapping_add(2), Ordering::Relaxed);
            assert_eq!(fill.room(1), 2);
            assert!(fill.push(4) && fill.push(5) && !fill.push(6));
            // SAFETY: the test is the only user of this memory.
            let values: Vec<u64> = (2..6)
                .map(|i| unsafe { fill.ring.slot(start.wrapping_add(i)).read() })
                .collect();
            assert_eq!(values, [2, 3, 4, 5]);
        }
    }

    #[test]
    fn a_consumer_takes_each_entry_once_and_in_order() {
        for start in [0, u32::MAX - 2] {
            let ring = ring(4);
            ring.producer().store(start, Ordering::Relaxed);
            let mut rx = Consumer {
                ring,
                tail: start,
                head: start,
            };
            let mut expected = 0;
            for round in 0..5 {
                let produced = start.wrapping_add(round * 3);
                for i in 0..3 {
                    let value = u64::from(round * 3 + i);
                    // SAFETY: as above.
                    unsafe { rx.ring.slot(produced.wrapping_add(i)).write(value) };
                }
                rx.ring
                    .producer()
                    .store(produced.wrapping_add(3), Ordering::Release);
                assert_eq!(rx.available(), 3);
                while let Some(value) = rx.pop() {
                    assert_eq!(value, expected);
                    expected += 1;
                }
                rx.release();
                assert_eq!(
                    rx.ring.consumer().load(Ordering::Relaxed),
                    produced.wrapping_add(3)
                );
            }
        }
    }

    #[test]
    fn a_nonsensical_kernel_index_is_not_followed() {
        let ring = ring(4);
        ring.producer().store(1000, Ordering::Relaxed);
        let mut rx = Consumer {
            ring,
            tail: 0,
            head: 0,
        };
        assert_eq!(rx.available(), 0);
        assert_eq!(rx.pop(), None);

        let mut fill = producer_at(0, 4);
        fill.ring.consumer().store(77, Ordering::Relaxed);
        assert!(fill.push(1));
        fill.tail = 77;
        assert_eq!(fill.room(4), 0);
        assert!(!fill.push(1));
    }

    #[test]
    fn offsets_outside_the_mapping_are_refused() {
        let mapping = ring(4)._mapping;
        let beyond = XdpRingOffset {
            desc: 200,
            ..OFFSETS
        };
        assert!(Ring::<u64>::new(mapping, &beyond, 4).is_err());
    }
}
