//! A table of slots with generations: an identifier of something gone never finds what came after.
#![forbid(unsafe_code)]

use core::ops::Range;

use crate::sys;

/// Where something is, and which of the things that were there it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SlabKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// A place of the table.
#[derive(Debug)]
#[repr(C)]
struct Entry<T, A> {
    aligned: [A; 0],
    place: Place<T>,
}

/// What is at a place. Laid out so that whether it is taken is read in front of the thing, and
/// not wherever in it there are bits to spare.
#[derive(Debug)]
#[repr(u32)]
enum Place<T> {
    Free { generation: u32 },
    Taken { generation: u32, value: T },
}

impl<T> Place<T> {
    #[inline]
    const fn get(&self) -> Option<&T> {
        match self {
            Self::Taken { value, .. } => Some(value),
            Self::Free { .. } => None,
        }
    }

    #[inline]
    const fn get_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Taken { value, .. } => Some(value),
            Self::Free { .. } => None,
        }
    }

    #[inline]
    const fn generation(&self) -> u32 {
        let (Self::Free { generation } | Self::Taken { generation, .. }) = self;
        *generation
    }
}

/// Where in a taken place the thing's byte `at` is.
pub(super) const fn value_at(at: usize) -> usize {
    2 * size_of::<u32>() + at
}

/// As what a table's places are aligned of which each is to begin on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct CacheLine;

impl CacheLine {
    pub(super) const BYTES: usize = align_of::<Self>();
}

/// The table. Grows up to its bound, chunk by chunk, and never shrinks: what is in it stays where
/// it is. Its places are aligned as `A` is.
#[derive(Debug)]
pub(super) struct Slab<T, A = ()> {
    /// The first chunk, which is all that most tables need.
    first: Vec<Entry<T, A>>,
    further: Vec<Vec<Entry<T, A>>>,
    /// Entries that have ever been used.
    entries: usize,
    free: Vec<u32>,
    max: usize,
}

/// What a chunk of a large table may take: a few huge pages.
const CHUNK_BYTES: usize = 32 << 20;

impl<T, A> Slab<T, A> {
    /// log2 of how many entries are in a chunk.
    const CHUNK_SHIFT: u32 = (CHUNK_BYTES / size_of::<Entry<T, A>>()).ilog2();
    const CHUNK_MASK: u32 = (1 << Self::CHUNK_SHIFT) - 1;

    /// An empty table of at most `max` things.
    pub(super) fn new(max: usize) -> Self {
        Self {
            first: Vec::new(),
            further: Vec::new(),
            entries: 0,
            free: Vec::new(),
            max,
        }
    }

    /// How many things are in it.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.entries - self.free.len()
    }

    #[inline]
    fn entry(&self, index: u32) -> Option<&Entry<T, A>> {
        if let Some(entry) = self.first.get(index as usize) {
            return Some(entry);
        }
        let number = (index >> Self::CHUNK_SHIFT).checked_sub(1)?;
        let chunk = self.further.get(number as usize)?;
        chunk.get((index & Self::CHUNK_MASK) as usize)
    }

    #[inline]
    fn entry_mut(&mut self, index: u32) -> Option<&mut Entry<T, A>> {
        if (index as usize) < self.first.len() {
            return self.first.get_mut(index as usize);
        }
        let number = (index >> Self::CHUNK_SHIFT).checked_sub(1)?;
        let chunk = self.further.get_mut(number as usize)?;
        chunk.get_mut((index & Self::CHUNK_MASK) as usize)
    }

    /// Puts a thing in; gives it back when the table is full.
    pub(super) fn insert(&mut self, value: T) -> Result<SlabKey, T> {
        if let Some(index) = self.free.pop()
            && let Some(entry) = self.entry_mut(index)
        {
            let generation = entry.place.generation();
            entry.place = Place::Taken { generation, value };
            return Ok(SlabKey { index, generation });
        }
        if self.entries >= self.max {
            return Err(value);
        }
        let index = self.entries as u32;
        if index & Self::CHUNK_MASK == 0 {
            self.add_chunk();
        }
        let chunk = self.further.last_mut().unwrap_or(&mut self.first);
        let generation = 1;
        chunk.push(Entry {
            aligned: [],
            place: Place::Taken { generation, value },
        });
        self.entries += 1;
        Ok(SlabKey { index, generation })
    }

    #[cold]
    fn add_chunk(&mut self) {
        let left = self.max - self.entries;
        let mut chunk = Vec::with_capacity(left.min(1 << Self::CHUNK_SHIFT));
        // Whoever looks one up in a large table is to miss the cache only, not the TLB as well.
        sys::advise_huge(chunk.spare_capacity_mut());
        match self.entries {
            0 => self.first = chunk,
            _ => self.further.push(chunk),
        }
    }

    /// The thing, if it is still there.
    #[inline]
    pub(super) fn get(&self, key: SlabKey) -> Option<&T> {
        let place = &self.entry(key.index)?.place;
        place.get().filter(|_| place.generation() == key.generation)
    }

    /// The thing, if it is still there.
    #[inline]
    pub(super) fn get_mut(&mut self, key: SlabKey) -> Option<&mut T> {
        match &mut self.entry_mut(key.index)?.place {
            Place::Taken { generation, value } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// Whatever is at `index` now: for tables of our own that are kept in step with this one.
    #[inline]
    pub(super) fn at(&self, index: u32) -> Option<&T> {
        self.entry(index)?.place.get()
    }

    /// Whatever is at `index` now.
    #[inline]
    pub(super) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entry_mut(index)?.place.get_mut()
    }

    /// These bytes of whatever is at `index` will be needed soon.
    #[inline]
    pub(super) fn prefetch(&self, index: u32, bytes: Range<usize>) {
        if let Some(entry) = self.entry(index) {
            sys::prefetch_bytes(entry, value_at(bytes.start)..value_at(bytes.end));
        }
    }

    /// The key of whatever is at `index` now.
    pub(super) fn key_at(&self, index: u32) -> Option<SlabKey> {
        match self.entry(index)?.place {
            Place::Taken { generation, .. } => Some(SlabKey { index, generation }),
            Place::Free { .. } => None,
        }
    }

    /// Takes the thing out.
    pub(super) fn remove(&mut self, index: u32) -> Option<T> {
        let place = &mut self.entry_mut(index)?.place;
        place.get()?;
        let generation = place.generation().wrapping_add(1);
        match core::mem::replace(place, Place::Free { generation }) {
            Place::Taken { value, .. } => {
                self.free.push(index);
                Some(value)
            }
            Place::Free { .. } => None,
        }
    }

    /// All indices in use.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        (self.first.iter())
            .chain(self.further.iter().flatten())
            .enumerate()
            .filter(|(_, entry)| entry.place.get().is_some())
            .map(|(i, _)| i as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::<_>::new(1);
        let a = slab.insert("a").unwrap();
        assert_eq!(slab.insert("b"), Err("b"));
        assert_eq!(slab.remove(a.index), Some("a"));
        let c = slab.insert("c").unwrap();
        assert_eq!(a.index, c.index);
        assert_eq!(slab.get(a), None);
        assert_eq!(slab.get(c), Some(&"c"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn what_is_in_it_stays_where_it_is_while_it_grows() {
        // A few hundred in a chunk.
        type Large = [u8; 64 << 10];
        fn place(large: &Large) -> *const Large {
            large
        }
        let per_chunk = 1 << Slab::<Large, CacheLine>::CHUNK_SHIFT;
        let mut slab = Slab::<Large, CacheLine>::new(3 * per_chunk);
        let mut keys = Vec::new();
        for n in 0..3 * per_chunk {
            let key = slab.insert([n as u8; 64 << 10]).unwrap();
            assert_eq!((key.index as usize, slab.len()), (n, n + 1));
            keys.push((key, slab.get(key).map(place)));
        }
        assert!(slab.insert([0; 64 << 10]).is_err());
        for (n, (key, was)) in keys.iter().enumerate() {
            assert_eq!(slab.get(*key).map(place), *was);
            assert_eq!(slab.at_mut(key.index).map(|large| large[7]), Some(n as u8));
        }
        assert!(slab.first.as_ptr().cast::<CacheLine>().is_aligned());
        assert!(slab.at(3 * per_chunk as u32).is_none());
        assert_eq!(slab.indices().count(), 3 * per_chunk);
    }
}
