//! One ring of a memif link: which descriptors are ours, and what they describe.
//!
//! The client owns a ring's head and the server its tail, whichever way the frames go: on the ring
//! to the server the client produces at the head, on the ring to the client it offers empty
//! buffers there. What the peer writes into a ring is a claim: it is checked before it is used.
#![forbid(unsafe_code)]

use core::sync::atomic::{Ordering, fence};

use super::fd::Handle;
use super::region::Region;

const COOKIE: u32 = 0x03E3_1F20;
const AT_FLAGS: usize = 4;
const AT_HEAD: usize = 6;
const AT_TAIL: usize = 64;
const AT_DESCRIPTORS: usize = 128;
const DESCRIPTOR_BYTES: usize = 16;
/// In a ring's flags: its consumer polls, and wants no interrupt.
const MASK_INTERRUPT: u16 = 1;
/// In a descriptor's flags: the frame goes on in the next one.
const MORE: u16 = 1;

/// The largest ring: 16,384 descriptors.
pub(super) const LOG2_MAX: u8 = 14;

/// How much memory a ring takes, without its buffers.
pub(super) const fn ring_bytes(log2: u8) -> usize {
    AT_DESCRIPTORS + (DESCRIPTOR_BYTES << log2)
}

/// The peer has broken the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// A descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) flags: u16,
    pub(super) region: u16,
    pub(super) len: u32,
    pub(super) offset: u32,
}

impl Descriptor {
    pub(super) fn has_more(self) -> bool {
        self.flags & MORE != 0
    }

    fn from_words([a, b]: [u64; 2]) -> Self {
        let ([f0, f1, r0, r1, l0, l1, l2, l3], [o0, o1, o2, o3, ..]) =
            (a.to_ne_bytes(), b.to_ne_bytes());
        Self {
            flags: u16::from_ne_bytes([f0, f1]),
            region: u16::from_ne_bytes([r0, r1]),
            len: u32::from_ne_bytes([l0, l1, l2, l3]),
            offset: u32::from_ne_bytes([o0, o1, o2, o3]),
        }
    }

    fn to_words(self) -> [u64; 2] {
        let ([f0, f1], [r0, r1], [l0, l1, l2, l3], [o0, o1, o2, o3]) = (
            self.flags.to_ne_bytes(),
            self.region.to_ne_bytes(),
            self.len.to_ne_bytes(),
            self.offset.to_ne_bytes(),
        );
        [
            u64::from_ne_bytes([f0, f1, r0, r1, l0, l1, l2, l3]),
            u64::from_ne_bytes([o0, o1, o2, o3, 0, 0, 0, 0]),
        ]
    }
}

/// Which end of which direction we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// A server's: reads or fills what the client's head offers, and moves the tail.
    Server,
    /// A client's, of the ring to the server.
    ClientSends,
    /// A client's, of the ring from the server.
    ClientReceives,
}

/// One end of one ring.
#[derive(Debug)]
pub(super) struct Ring {
    end: End,
    /// Where it is, in which region.
    region: usize,
    base: usize,
    size: u16,
    /// Descriptors before this one we are done with, but for…
    own: u16,
    /// …those that the peer has not been told of yet.
    told: u16,
    /// The peer's index when we last looked.
    seen: u16,
    /// Raised to wake the ring's consumer.
    event: Handle,
    /// The consumer was told of something, and may be asleep.
    ring_bell: bool,
}

impl Ring {
    /// The end of a ring that is laid out in `regions[region]` at `base`; `None` if that is none.
    pub(super) fn new(
        end: End,
        regions: &[Region],
        (region, base): (usize, usize),
        log2: u8,
        event: Handle,
    ) -> Option<Self> {
        let memory = regions.get(region)?;
        if log2 > LOG2_MAX || !base.is_multiple_of(64) || !memory.holds(base, ring_bytes(log2)) {
            return None;
        }
        if end == End::Server && memory.u32_at(base)?.load(Ordering::Acquire) != COOKIE {
            return None;
        }
        Some(Self {
            end,
            region,
            base,
            size: 1 << log2,
            own: 0,
            told: 0,
            seen: 0,
            event,
            ring_bell: false,
        })
    }

    /// Writes an empty ring, as a client does before it shows it to the server.
    pub(super) fn lay_out(memory: &Region, base: usize) {
        let store = |at: usize, value: u16| {
            if let Some(word) = memory.u16_at(base + at) {
                word.store(value, Ordering::Relaxed);
            }
        };
        store(AT_FLAGS, MASK_INTERRUPT);
        store(AT_HEAD, 0);
        store(AT_TAIL, 0);
        if let Some(cookie) = memory.u32_at(base) {
            cookie.store(COOKIE, Ordering::Release);
        }
    }

    pub(super) fn event(&self) -> &Handle {
        &self.event
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    pub(super) fn next(&self) -> u16 {
        self.own
    }

    fn at(&self, index: u16) -> usize {
        self.base + AT_DESCRIPTORS + DESCRIPTOR_BYTES * usize::from(index & (self.size - 1))
    }

    /// How many descriptors from [`Ring::next`] on are ours; looks again only if fewer than
    /// `enough` were left of the last look.
    #[inline]
    pub(super) fn available(&mut self, regions: &[Region], enough: u16) -> Result<u16, Broken> {
        let left = self.count();
        if left >= enough {
            return Ok(left);
        }
        let at = if self.end == End::Server {
            AT_HEAD
        } else {
            AT_TAIL
        };
        self.seen = regions
            .get(self.region)
            .and_then(|memory| memory.u16_at(self.base + at))
            .map_or(self.seen, |index| index.load(Ordering::Acquire));
        let count = self.count();
        if count > self.size {
            Err(Broken)
        } else {
            Ok(count)
        }
    }

    fn count(&self) -> u16 {
        let offered = match self.end {
            // The tail is how far the server has got; the rest of the ring is free.
            End::ClientSends => self.seen.wrapping_add(self.size),
            End::Server | End::ClientReceives => self.seen,
        };
        offered.wrapping_sub(self.own)
    }

    #[inline]
    pub(super) fn descriptor(&self, regions: &[Region], index: u16) -> Option<Descriptor> {
        let words = regions.get(self.region)?.load_pair(self.at(index))?;
        Some(Descriptor::from_words(words))
    }

    #[inline]
    pub(super) fn prefetch(&self, regions: &[Region], index: u16) {
        if let Some(memory) = regions.get(self.region) {
            memory.prefetch(self.at(index));
        }
    }

    /// Writes a descriptor; `more`: the frame goes on in the next one.
    #[inline]
    pub(super) fn describe(
        &self,
        regions: &[Region],
        index: u16,
        mut descriptor: Descriptor,
        more: bool,
    ) {
        descriptor.flags = if more { MORE } else { 0 };
        if let Some(memory) = regions.get(self.region) {
            memory.store_pair(self.at(index), descriptor.to_words());
        }
    }

    /// Goes on to `index`. The peer learns of it with [`Ring::publish`].
    #[inline]
    pub(super) fn advance_to(&mut self, index: u16) {
        self.own = index;
    }

    /// Tells the peer how far we have got; whether there was anything to tell.
    #[inline]
    pub(super) fn publish(&mut self, regions: &[Region]) -> bool {
        if self.told == self.own {
            return false;
        }
        self.told = self.own;
        self.show(regions);
        true
    }

    /// A client shows the server its empty buffers, at first.
    pub(super) fn show(&self, regions: &[Region]) {
        let (at, value) = match self.end {
            End::Server => (AT_TAIL, self.own),
            End::ClientSends => (AT_HEAD, self.own),
            End::ClientReceives => (AT_HEAD, self.own.wrapping_add(self.size)),
        };
        if let Some(memory) = regions.get(self.region)
            && let Some(index) = memory.u16_at(self.base + at)
        {
            index.store(value, Ordering::Release);
        }
    }

    /// Of a sending end: the receiver is to be woken, if it sleeps.
    #[inline]
    pub(super) fn bell_is_due(&mut self) {
        self.ring_bell = true;
    }

    /// Wakes the receiver if it may be asleep; whether that took a system call.
    #[inline]
    pub(super) fn ring_if_asleep(&mut self, regions: &[Region]) -> bool {
        if !self.ring_bell {
            return false;
        }
        self.ring_bell = false;
        // Pairs with the fence in `unmask`: either the receiver sees our frames before it sleeps,
        // or we see that it wants to be woken.
        fence(Ordering::SeqCst);
        let asleep = self
            .flags(regions)
            .is_some_and(|flags| flags & MASK_INTERRUPT == 0);
        if asleep {
            self.event.raise();
        }
        asleep
    }

    fn flags(&self, regions: &[Region]) -> Option<u16> {
        let memory = regions.get(self.region)?;
        Some(memory.u16_at(self.base + AT_FLAGS)?.load(Ordering::Relaxed))
    }

    fn set_flags(&self, regions: &[Region], flags: u16) {
        if let Some(memory) = regions.get(self.region)
            && let Some(word) = memory.u16_at(self.base + AT_FLAGS)
        {
            word.store(flags, Ordering::Relaxed);
        }
    }

    /// Of a receiving end: wants no interrupts any more.
    pub(super) fn mask(&self, regions: &[Region]) {
        self.set_flags(regions, MASK_INTERRUPT);
    }

    /// Of a receiving end: wants an interrupt when something comes. Look once more afterwards.
    pub(super) fn unmask(&self, regions: &[Region]) {
        self.set_flags(regions, 0);
        fence(Ordering::SeqCst);
    }
}
