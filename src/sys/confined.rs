//! A value that is used by one thread at a time, for long, and by that thread again from within.

use core::cell::UnsafeCell;
use core::ops::Deref;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Holds a `T` that need not be [`Sync`]. The first thread to [`Confined::enter`] has it until
/// its last [`Entered`] is gone; meanwhile it may enter again, and nobody else can.
///
/// What lives in here may be used in a shard's lock and outside of it: like a thread-local, it
/// must never keep a `zbuf::Slice` (see `zbuf::ShardCell`).
#[derive(Debug, Default)]
pub struct Confined<T> {
    /// The thread that has it, as the address of a thread-local; 0: nobody.
    owner: AtomicUsize,
    /// How many [`Entered`] there are. Only the owner's.
    depth: UnsafeCell<u32>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only by the thread whose address is in `owner`; handing it from
// one to the next is ordered by `owner` (release, acquire), and allowed by `T: Send`.
unsafe impl<T: Send> Sync for Confined<T> {}
// SAFETY: owns a `T`.
unsafe impl<T: Send> Send for Confined<T> {}

thread_local! {
    /// Its address tells threads apart.
    static ME: u8 = const { 0 };
}

impl<T> Confined<T> {
    /// Nobody's yet.
    pub const fn new(value: T) -> Self {
        Self {
            owner: AtomicUsize::new(0),
            depth: UnsafeCell::new(0),
            value: UnsafeCell::new(value),
        }
    }

    /// The value, unless another thread has it.
    #[inline]
    pub fn enter(&self) -> Option<Entered<'_, T>> {
        let me = ME.with(|me| core::ptr::from_ref(me).addr());
        // Only we ourselves can have written our own address.
        if self.owner.load(Ordering::Relaxed) != me
            && self
                .owner
                .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
        {
            return None;
        }
        // SAFETY: we are the owner, and nothing else refers to it.
        unsafe { *self.depth.get() += 1 };
        Some(Entered {
            confined: self,
            _here: core::marker::PhantomData,
        })
    }
}

/// Access to a [`Confined`] value. Stays on its thread.
#[derive(Debug)]
pub struct Entered<'a, T> {
    confined: &'a Confined<T>,
    _here: core::marker::PhantomData<*const T>,
}

impl<T> Deref for Entered<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this thread is the owner for as long as `self` lives, and nobody ever makes a
        // `&mut T` out of it.
        unsafe { &*self.confined.value.get() }
    }
}

impl<T> Drop for Entered<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: we are the owner, and nothing else refers to it.
        let depth = unsafe { &mut *self.confined.depth.get() };
        *depth -= 1;
        if *depth == 0 {
            self.confined.owner.store(0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[test]
    fn one_thread_has_it_and_may_enter_again() {
        let confined = Confined::new(Cell::new(1));
        let outer = confined.enter().unwrap();
        let inner = confined.enter().unwrap();
        inner.set(2);
        drop(inner);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| confined.enter().is_none());
            assert!(other.join().unwrap());
        });
        assert_eq!(outer.get(), 2);
        drop(outer);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| confined.enter().map(|value| value.get()));
            assert_eq!(other.join().unwrap(), Some(2));
        });
    }
}
