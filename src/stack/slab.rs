//! A table of slots with generations: an identifier of something gone never finds what came after.
#![forbid(unsafe_code)]

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

/// The table. Grows up to its bound and never shrinks.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    max: usize,
}

impl<T> Slab<T> {
    /// An empty table of at most `max` things.
    pub(super) fn new(max: usize) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            max,
        }
    }

    /// How many things are in it.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Puts a thing in; gives it back when the table is full.
    pub(super) fn insert(&mut self, value: T) -> Result<SlabKey, T> {
        if let Some(index) = self.free.pop()
            && let Some(entry) = self.entries.get_mut(index as usize)
        {
            entry.value = Some(value);
            return Ok(SlabKey {
                index,
                generation: entry.generation,
            });
        }
        if self.entries.len() >= self.max {
            return Err(value);
        }
        let index = self.entries.len() as u32;
        self.entries.push(Entry {
            generation: 1,
            value: Some(value),
        });
        Ok(SlabKey {
            index,
            generation: 1,
        })
    }

    /// The thing, if it is still there.
    pub(super) fn get(&self, key: SlabKey) -> Option<&T> {
        let entry = self.entries.get(key.index as usize)?;
        if entry.generation == key.generation {
            entry.value.as_ref()
        } else {
            None
        }
    }

    /// The thing, if it is still there.
    pub(super) fn get_mut(&mut self, key: SlabKey) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation == key.generation {
            entry.value.as_mut()
        } else {
            None
        }
    }

    /// Whatever is at `index` now: for tables of our own that are kept in step with this one.
    pub(super) fn at(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize)?.value.as_ref()
    }

    /// Whatever is at `index` now.
    pub(super) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries.get_mut(index as usize)?.value.as_mut()
    }

    /// The key of whatever is at `index` now.
    pub(super) fn key_at(&self, index: u32) -> Option<SlabKey> {
        let entry = self.entries.get(index as usize)?;
        entry.value.as_ref()?;
        Some(SlabKey {
            index,
            generation: entry.generation,
        })
    }

    /// Takes the thing out.
    pub(super) fn remove(&mut self, index: u32) -> Option<T> {
        let entry = self.entries.get_mut(index as usize)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    /// All indices in use.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        self.entries
            .iter()
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
}
