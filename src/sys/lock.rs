//! A mutex that a `fork` in another thread cannot leave held in the child.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex;

/// How often this process image has been forked: a lock that was taken in an earlier epoch was
/// taken by a thread that does not exist here.
static EPOCH: AtomicU32 = AtomicU32::new(0);

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;
const STATE: u32 = 3;
const SPINS: u32 = 64;

/// The number of the current epoch.
pub fn fork_epoch() -> u32 {
    EPOCH.load(Ordering::Relaxed)
}

/// Begins a new epoch. To be called in the child of a fork, when it has one thread.
pub fn fork_epoch_advance() {
    EPOCH.fetch_add(1, Ordering::Relaxed);
}

/// A futex mutex whose state carries the fork epoch in which it was taken.
///
/// A lock found held from before the fork is taken over, and its contents, which the lost
/// thread may have left half changed, are replaced by the default (and leaked).
#[derive(Debug, Default)]
pub struct ForkMutex<T> {
    /// `epoch << 2 | state`
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, of which there is one at a time.
unsafe impl<T: Send> Send for ForkMutex<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for ForkMutex<T> {}

impl<T> ForkMutex<T> {
    /// An open lock.
    pub const fn new(value: T) -> Self {
        Self {
            word: AtomicU32::new(FREE),
            value: UnsafeCell::new(value),
        }
    }
}

impl<T: Default> ForkMutex<T> {
    /// Waits for the lock.
    #[inline]
    pub fn lock(&self) -> ForkMutexGuard<'_, T> {
        let epoch = fork_epoch() << 2;
        let seen = self.word.load(Ordering::Relaxed);
        if seen & STATE == FREE
            && self
                .word
                .compare_exchange(seen, epoch | HELD, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        {
            return ForkMutexGuard { lock: self };
        }
        self.lock_slow(epoch)
    }

    #[cold]
    fn lock_slow(&self, epoch: u32) -> ForkMutexGuard<'_, T> {
        let mut take = HELD;
        let mut spins = 0;
        loop {
            let seen = self.word.load(Ordering::Relaxed);
            let orphaned = seen & STATE != FREE && seen & !STATE != epoch;
            if seen & STATE == FREE || orphaned {
                let taken = self.word.compare_exchange(
                    seen,
                    epoch | take,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                );
                if taken.is_ok() {
                    if orphaned {
                        // SAFETY: we hold the lock. The old value may be half changed, so it is
                        // overwritten without being dropped.
                        unsafe { self.value.get().write(T::default()) };
                    }
                    return ForkMutexGuard { lock: self };
                }
                continue;
            }
            if spins < SPINS {
                spins += 1;
                core::hint::spin_loop();
                continue;
            }
            take = CONTENDED;
            if seen & STATE == HELD
                && self
                    .word
                    .compare_exchange(
                        seen,
                        epoch | CONTENDED,
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    )
                    .is_err()
            {
                continue;
            }
            // An error (the word has changed, a signal) means: look again.
            let _ = futex::wait(&self.word, futex::Flags::PRIVATE, epoch | CONTENDED, None);
        }
    }
}

impl<T> ForkMutex<T> {
    fn unlock(&self) {
        let epoch = fork_epoch() << 2;
        if self.word.swap(epoch | FREE, Ordering::Release) & STATE == CONTENDED {
            let _woken = futex::wake(&self.word, futex::Flags::PRIVATE, 1);
        }
    }
}

/// The right to use what the lock guards.
#[derive(Debug)]
pub struct ForkMutexGuard<'a, T> {
    lock: &'a ForkMutex<T>,
}

impl<T> Deref for ForkMutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard is the only one, and it lends the value for its own life at most.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for ForkMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for ForkMutexGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn excludes_each_other() {
        let lock = Arc::new(ForkMutex::new(0_u64));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let lock = Arc::clone(&lock);
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        *lock.lock() += 1;
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*lock.lock(), 80_000);
    }

    #[test]
    fn a_lock_of_a_lost_thread_is_taken_over() {
        let lock = ForkMutex::new(7_u64);
        lock.word.store(
            (fork_epoch().wrapping_sub(1) << 2) | HELD,
            Ordering::Relaxed,
        );
        assert_eq!(
            *lock.lock(),
            0,
            "what the lost thread may have torn is gone"
        );
        *lock.lock() = 3;
        assert_eq!(*lock.lock(), 3);
    }
}
