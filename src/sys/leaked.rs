//! A global that is set once per process and forgotten by the child of a fork.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// Holds a reference that lives for ever, or nothing. Reading it is one load; unlike a
/// `OnceLock` it can be emptied, and no fork can leave it half set.
#[derive(Debug)]
pub struct Leaked<T: 'static>(AtomicPtr<T>);

impl<T: Sync> Leaked<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// What it holds.
    #[inline]
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: the pointer is null or came from a `&'static T` in `set`; `T` is `Sync`, so
        // any thread may share it.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Puts `value` in.
    pub fn set(&self, value: &'static T) {
        self.0
            .store(ptr::from_ref(value).cast_mut(), Ordering::Release);
    }

    /// Forgets what it held.
    pub fn clear(&self) {
        self.0.store(ptr::null_mut(), Ordering::Release);
    }
}

impl<T: Sync> Default for Leaked<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_and_forgets() {
        static VALUE: u32 = 7;
        let cell = Leaked::new();
        assert_eq!(cell.get(), None);
        cell.set(&VALUE);
        assert_eq!(cell.get(), Some(&7));
        cell.clear();
        assert_eq!(cell.get(), None);
    }
}
