//! A table of slots with generations: an identifier of something gone never finds what came after.
#![forbid(unsafe_code)]

use crate::sys;

/// Where something is, and which of the things that were there it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SlabKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// The table. Grows up to its bound, chunk by chunk, and never shrinks: what is in it stays where
/// it is.
#[derive(Debug)]
pub(super) struct Slab<T> {
    /// The first chunk, which is all that most tables need.
    first: Vec<Entry<T>>,
    further: Vec<Vec<Entry<T>>>,
    /// Entries that have ever been used.
    entries: usize,
    free: Vec<u32>,
    max: usize,
}

/// What a chunk of a large table may take: a few huge pages.
const CHUNK_BYTES: usize = 32 << 20;

impl<T> Slab<T> {
    /// log2 of how many entries are in a chunk.
    const CHUNK_SHIFT: u32 = (CHUNK_BYTES / size_of::<Entry<T>>()).ilog2();
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
    fn entry(&self, index: u32) -> Option<&Entry<T>> {
        if let Some(entry) = self.first.get(index as usize) {
            return Some(entry);
        }
        let number = (index >> Self::CHUNK_SHIFT).checked_sub(1)?;
        let chunk = self.further.get(number as usize)?;
        chunk.get((index & Self::CHUNK_MASK) as usize)
    }

    #[inline]
    fn entry_mut(&mut self, index: u32) -> Option<&mut Entry<T>> {
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
            entry.value = Some(value);
            return Ok(SlabKey {
                index,
                generation: entry.generation,
            });
        }
        if self.entries >= self.max {
            return Err(value);
        }
        let index = self.entries as u32;
        if index & Self::CHUNK_MASK == 0 {
            self.add_chunk();
        }
        let chunk = self.further.last_mut().unwrap_or(&mut self.first);
        chunk.push(Entry {
            generation: 1,
            value: Some(value),
        });
        self.entries += 1;
        Ok(SlabKey {
            index,
            generation: 1,
        })
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
        let entry = self.entry(key.index)?;
        if entry.generation == key.generation {
            entry.value.as_ref()
        } else {
            None
        }
    }

    /// The thing, if it is still there.
    #[inline]
    pub(super) fn get_mut(&mut self, key: SlabKey) -> Option<&mut T> {
        let entry = self.entry_mut(key.index)?;
        if entry.generation == key.generation {
            entry.value.as_mut()
        } else {
            None
        }
    }

    /// Whatever is at `index` now: for tables of our own that are kept in step with this one.
    #[inline]
    pub(super) fn at(&self, index: u32) -> Option<&T> {
        self.entry(index)?.value.as_ref()
    }

    /// Whatever is at `index` now.
    #[inline]
    pub(super) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entry_mut(index)?.value.as_mut()
    }

    /// Whatever is at `index` will be needed soon.
    #[inline]
    pub(super) fn prefetch(&self, index: u32) {
        if let Some(entry) = self.entry(index) {
            sys::prefetch(entry);
        }
    }

    /// The key of whatever is at `index` now.
    pub(super) fn key_at(&self, index: u32) -> Option<SlabKey> {
        let entry = self.entry(index)?;
        entry.value.as_ref()?;
        Some(SlabKey {
            index,
            generation: entry.generation,
        })
    }

    /// Takes the thing out.
    pub(super) fn remove(&mut self, index: u32) -> Option<T> {
        let entry = self.entry_mut(index)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    /// All indices in use.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        (self.first.iter())
            .chain(self.further.iter().flatten())
            .enumerate()
            .filter(|(_, e)| e.value.is_some())
            .map(|(i, _)| i as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::new(1);
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
        let per_chunk = 1 << Slab::<Large>::CHUNK_SHIFT;
        let mut slab = Slab::<Large>::new(3 * per_chunk);
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
        assert!(slab.at(3 * per_chunk as u32).is_none());
        assert_eq!(slab.indices().count(), 3 * per_chunk);
    }
}
