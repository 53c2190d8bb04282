//! What a loop's handles stand for.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use super::Callbacks;
use crate::stack::ConnId;
use crate::time::Duration;

/// A connection that is reached over its descriptor: a kernel socket, or a stream of a shard
/// that the loop does not own.
#[derive(Clone, Copy, Debug)]
pub(super) struct OverFd {
    pub(super) fd: RawFd,
    pub(super) connecting: bool,
    pub(super) paused: bool,
    pub(super) wants_room: bool,
    pub(super) end_told: bool,
}

/// What an entry is.
#[derive(Debug)]
pub(super) enum What<C: Callbacks> {
    /// A connection of the loop's own shard; the descriptor that holds its port, if it has one.
    Conn { id: ConnId, fd: Option<RawFd> },
    /// See [`OverFd`].
    Fd(OverFd),
    /// A listener.
    Listener { fd: RawFd },
    /// A descriptor of the application.
    Watch { fd: RawFd, task: C::Task },
    /// A timer.
    Timer {
        every: Option<Duration>,
        task: C::Task,
    },
}

impl<C: Callbacks> Clone for What<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C: Callbacks> Copy for What<C> {}

/// One socket, descriptor or timer.
#[derive(Debug)]
pub(super) struct Entry<C: Callbacks> {
    pub(super) what: What<C>,
    pub(super) callbacks: Option<C>,
    pub(super) user: usize,
    /// Tokens whose completion the application has not been told.
    pub(super) marks: u32,
    /// The application has closed it; the entry waits for its last completion.
    pub(super) closed: bool,
}

impl<C: Callbacks> Clone for Entry<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C: Callbacks> Copy for Entry<C> {}

#[derive(Debug)]
struct Place<C: Callbacks> {
    generation: u32,
    entry: Option<Entry<C>>,
}

/// Entries by handle: generation and index in one number, never 0.
#[derive(Debug)]
pub(super) struct Table<C: Callbacks> {
    places: Vec<Place<C>>,
    free: Vec<u32>,
}

impl<C: Callbacks> Table<C> {
    pub(super) const fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(super) fn insert(&mut self, entry: Entry<C>) -> u64 {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.places.push(Place {
                    generation: 1,
                    entry: None,
                });
                self.places.len() as u32 - 1
            }
        };
        let Some(place) = self.places.get_mut(index as usize) else {
            return 0;
        };
        place.entry = Some(entry);
        u64::from(place.generation) << 32 | u64::from(index)
    }

    /// The entry of a handle, also of one that the application has closed.
    #[inline]
    pub(super) fn any(&mut self, handle: u64) -> Option<&mut Entry<C>> {
        let place = self.places.get_mut(handle as u32 as usize)?;
        if place.generation != (handle >> 32) as u32 {
            return None;
        }
        place.entry.as_mut()
    }

    /// The entry of a handle that is the application's.
    #[inline]
    pub(super) fn live(&mut self, handle: u64) -> Option<&mut Entry<C>> {
        self.any(handle).filter(|entry| !entry.closed)
    }

    pub(super) fn remove(&mut self, handle: u64) -> Option<Entry<C>> {
        self.any(handle)?;
        let index = handle as u32;
        let place = self.places.get_mut(index as usize)?;
        // Wraps after four thousand million uses of one place.
        place.generation = place.generation.wrapping_add(1).max(1);
        self.free.push(index);
        place.entry.take()
    }

    /// Every handle, for the end.
    pub(super) fn handles(&self) -> Vec<u64> {
        let places = self.places.iter().zip(0u32..);
        places
            .filter(|(place, _)| place.entry.is_some())
            .map(|(place, index)| u64::from(place.generation) << 32 | u64::from(index))
            .collect()
    }

    /// Of the entries, whichever `wanted` is true of first.
    pub(super) fn find(&self, wanted: impl Fn(&What<C>) -> bool) -> Option<u64> {
        let places = self.places.iter().zip(0u32..);
        places
            .filter(|(place, _)| {
                place
                    .entry
                    .as_ref()
                    .is_some_and(|entry| wanted(&entry.what))
            })
            .map(|(place, index)| u64::from(place.generation) << 32 | u64::from(index))
            .next()
    }
}
