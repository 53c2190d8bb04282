//! The items of a set and the queue of those that may be ready, without allocation once warm.
#![forbid(unsafe_code)]

use crate::socket::description::DescriptionId;
use std::os::fd::RawFd;

/// "No item."
pub(super) const NONE: u32 = u32::MAX;

/// Where an item's readiness comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// A kernel socket that may yet become ours; it is registered in the kernel's set, and
    /// nothing is queued here.
    Kernel,
    /// A socket of ours.
    Luna,
    /// A listener of ours, whose kernel half is registered in the inner epoll descriptor.
    Both,
}

/// One registration.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// The descriptor under which it was registered.
    pub(super) fd: RawFd,
    pub(super) description: DescriptionId,
    /// The mask and the flags, as in the kernel's `struct epitem`.
    pub(super) events: u32,
    /// The application's.
    pub(super) data: u64,
    pub(super) side: Side,
    /// The kernel's half of a listener has reported; ask it.
    pub(super) kernel_hint: bool,
    /// Under which the description's list of watchers has it.
    pub(super) key: u64,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    item: Option<Item>,
    queued: bool,
    previous: u32,
    next: u32,
}

/// Slots with generations, and a doubly linked queue through them.
#[derive(Debug)]
pub(super) struct Items {
    slots: Vec<Slot>,
    free: Vec<u32>,
    head: u32,
    tail: u32,
    queued: u32,
}

impl Default for Items {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            head: NONE,
            tail: NONE,
            queued: 0,
        }
    }
}

/// Names an item: slot and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) index: u32,
    generation: u32,
}

impl Handle {
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self {
            index: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

impl Items {
    pub(super) fn insert(&mut self, item: Item) -> Handle {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.item = Some(item);
        Handle {
            index,
            generation: slot.generation,
        }
    }

    pub(super) fn remove(&mut self, handle: Handle) -> Option<Item> {
        self.get(handle)?;
        self.unlink(handle.index);
        let slot = self.slots.get_mut(handle.index as usize)?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(handle.index);
        slot.item.take()
    }

    pub(super) fn get(&self, handle: Handle) -> Option<&Item> {
        let slot = self.slots.get(handle.index as usize)?;
        if slot.generation == handle.generation {
            slot.item.as_ref()
        } else {
            None
        }
    }

    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut Item> {
        let slot = self.slots.get_mut(handle.index as usize)?;
        if slot.generation == handle.generation {
            slot.item.as_mut()
        } else {
            None
        }
    }

    pub(super) fn handles(&self) -> Vec<Handle> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.item.is_some())
            .map(|(index, slot)| Handle {
                index: index as u32,
                generation: slot.generation,
            })
            .collect()
    }

    /// How many items are queued.
    pub(super) fn queued(&self) -> u32 {
        self.queued
    }

    /// Puts an item at the end of the queue if it is not queued.
    pub(super) fn push_back(&mut self, handle: Handle) {
        let tail = self.tail;
        let index = handle.index;
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        if slot.queued {
            return;
        }
        slot.queued = true;
        slot.previous = tail;
        slot.next = NONE;
        match self.slots.get_mut(tail as usize) {
            Some(last) => last.next = index,
            None => self.head = index,
        }
        self.tail = index;
        self.queued += 1;
    }

    /// Takes the item at the front of the queue off it.
    pub(super) fn pop_front(&mut self) -> Option<Handle> {
        let index = self.head;
        let generation = self.slots.get(index as usize)?.generation;
        self.unlink(index);
        Some(Handle { index, generation })
    }

    fn unlink(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        if !slot.queued {
            return;
        }
        slot.queued = false;
        let (previous, next) = (slot.previous, slot.next);
        match self.slots.get_mut(previous as usize) {
            Some(before) => before.next = next,
            None => self.head = next,
        }
        match self.slots.get_mut(next as usize) {
            Some(after) => after.previous = previous,
            None => self.tail = previous,
        }
        self.queued -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(data: u64) -> Item {
        let description = DescriptionId::from_bits(1 << 32).unwrap();
        Item {
            fd: 0,
            description,
            events: 0,
            data,
            side: Side::Luna,
            kernel_hint: false,
            key: 0,
        }
    }

    proptest! {
        #[test]
        fn queue_is_first_in_first_out(
            steps in proptest::collection::vec((0..4_u8, 0..8_usize), 0..200),
        ) {
            let mut items = Items::default();
            let mut alive: Vec<Handle> = Vec::new();
            let mut queue: Vec<Handle> = Vec::new();
            for (number, (step, which)) in steps.into_iter().enumerate() {
                let chosen = alive.get(which % alive.len().max(1)).copied();
                match (step, chosen) {
                    (0, _) => alive.push(items.insert(item(number as u64))),
                    (1, Some(handle)) => {
                        items.push_back(handle);
                        if !queue.contains(&handle) {
                            queue.push(handle);
                        }
                    }
                    (2, Some(handle)) => {
                        prop_assert!(items.remove(handle).is_some());
                        prop_assert!(items.get(handle).is_none());
                        alive.retain(|h| *h != handle);
                        queue.retain(|h| *h != handle);
                    }
                    _ => {
                        let expected = (!queue.is_empty()).then(|| queue.remove(0));
                        prop_assert_eq!(items.pop_front(), expected);
                    }
                }
                prop_assert_eq!(items.queued() as usize, queue.len());
            }
        }
    }
}
