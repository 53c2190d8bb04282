//! The lock around a shard.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
#[allow(
    clippy::disallowed_types,
    reason = "taken once per turn or call, not per packet"
)]
use std::sync::{Mutex, MutexGuard, TryLockError};

use thiserror::Error;

/// A `T` that may hold [`super::Slice`]s, and the lock that keeps them to one thread at a time.
///
/// `T` is made inside ([`ShardCell::new`] runs its closure), used inside and dropped inside. What
/// goes in and what comes out must be [`Send`], which a slice or a pool is not: so no reference
/// that is counted with plain arithmetic is ever touched without the lock.
///
/// What the type system does not prevent: a closure that parks a clone of a slice in a
/// *thread-local* (no `Send` is asked of those). Nothing in this crate keeps slices, pools or
/// anything with a plain count in thread-locals, and nothing may. Nor may `T` hold what must be
/// dropped by the thread that made it (a guard of another lock).
#[derive(Debug)]
pub struct ShardCell<T> {
    inner: Mutex<Inside<T>>,
    /// Whose turn it is, as the address of a thread-local; 0 if nobody's.
    holder: AtomicUsize,
    /// The contents, while whoever is inside has stepped back to run foreign code
    /// ([`ShardCell::suspend`]). Only the holder's thread reads or writes it.
    suspended: AtomicPtr<T>,
    /// How many threads wait to come in.
    waiting: AtomicUsize,
}

/// Why a shard could not be entered.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ShardError {
    /// A closure panicked inside; the shard's state may be half-changed.
    #[error("the shard is unusable since a panic inside it")]
    Poisoned,
    /// The calling thread is inside already (a callback has called back).
    #[error("the shard is being used by this very thread")]
    Reentered,
}

/// See the argument at its `unsafe impl`.
#[derive(Debug)]
struct Inside<T>(T);

// SAFETY: `Inside` is private and reached only with the mutex held. `T` was built by a closure
// that was `Send`, under the only access there was, and every closure since was `Send` and
// returned something `Send`: so whatever in `T` is not `Send` (plain counts shared between
// slices, pool and objects; `Rc`s) is shared only among parts of `T`, all of which move between
// threads together, and the mutex orders those moves. The one way around is a thread-local, see
// `ShardCell`. Objects' contexts are reached from elsewhere through atomics only (`Area`).
unsafe impl<T> Send for Inside<T> {}

thread_local! {
    /// Its address tells threads apart.
    static ME: u8 = const { 0 };
}

fn me() -> usize {
    ME.with(|me| ptr::from_ref(me).addr())
}

impl<T> ShardCell<T> {
    /// A cell around what `build` makes.
    pub fn new(build: impl FnOnce() -> T + Send) -> Self {
        Self {
            inner: Mutex::new(Inside(build())),
            holder: AtomicUsize::new(0),
            suspended: AtomicPtr::new(ptr::null_mut()),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Likewise, if it can be made.
    ///
    /// # Errors
    /// Those of `build`.
    pub fn try_new<E: Send>(build: impl FnOnce() -> Result<T, E> + Send) -> Result<Self, E> {
        Ok(Self {
            inner: Mutex::new(Inside(build()?)),
            holder: AtomicUsize::new(0),
            suspended: AtomicPtr::new(ptr::null_mut()),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Runs `f` on the contents, after waiting for its turn.
    ///
    /// A panic in `f` passes through, and the cell is unusable from then on.
    ///
    /// # Errors
    /// [`ShardError`]; `f` has not run.
    #[inline]
    pub fn with<R: Send>(&self, f: impl FnOnce(&mut T) -> R + Send) -> Result<R, ShardError> {
        let me = me();
        // Only we ourselves can have written our own address. In a callback of an event loop
        // this is all there is: no atomic read-modify-write.
        if self.holder.load(Ordering::Relaxed) == me {
            return self.reenter(f);
        }
        let guard = match self.inner.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(_)) => return Err(ShardError::Poisoned),
            Err(TryLockError::WouldBlock) => {
                self.waiting.fetch_add(1, Ordering::Relaxed);
                let guard = self.inner.lock();
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                guard.map_err(|_| ShardError::Poisoned)?
            }
        };
        Ok(self.run(me, guard, f))
    }

    /// Runs `f` on the contents if nobody else is inside; `None` if somebody is.
    pub fn try_with<R: Send>(
        &self,
        f: impl FnOnce(&mut T) -> R + Send,
    ) -> Option<Result<R, ShardError>> {
        let me = me();
        if self.holder.load(Ordering::Relaxed) == me {
            // Its own thread may be inside without having stepped back.
            return self.reenter(f).ok().map(Ok);
        }
        match self.inner.try_lock() {
            Ok(guard) => Some(Ok(self.run(me, guard, f))),
            Err(TryLockError::Poisoned(_)) => Some(Err(ShardError::Poisoned)),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// From inside, where `contents` is what the cell holds: runs `foreign`, during which this
    /// thread may come in again ([`ShardCell::with`]), as callbacks of an event loop do.
    /// `contents` must be in order, and may have changed when it returns.
    #[inline]
    pub fn suspend<R>(&self, contents: &mut T, foreign: impl FnOnce() -> R) -> R {
        let outer = self.suspended.swap_plainly(ptr::from_mut(contents));
        let restore = Restore(&self.suspended, outer);
        let result = foreign();
        drop(restore);
        result
    }

    /// Whether another thread waits to come in: whoever stays inside for long should let it.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }

    fn reenter<R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R, ShardError> {
        // Taken for as long as `f` runs, so that there is never a second way in.
        let contents = self.suspended.swap_plainly(ptr::null_mut());
        let restore = Restore(&self.suspended, contents);
        // SAFETY: null, or made from the `&mut T` that `suspend`, further up this very thread's
        // stack, borrows until its `foreign` returns, inside of which we are; it is null while
        // another `with` uses it.
        let inside = unsafe { contents.as_mut() }.ok_or(ShardError::Reentered)?;
        let result = f(inside);
        drop(restore);
        Ok(result)
    }

    fn run<R>(
        &self,
        me: usize,
        mut guard: MutexGuard<'_, Inside<T>>,
        f: impl FnOnce(&mut T) -> R,
    ) -> R {
        self.holder.store(me, Ordering::Relaxed);
        // Declared after `guard`, so dropped before it, also when `f` panics.
        let mark = Mark(&self.holder);
        let result = f(&mut guard.0);
        drop(mark);
        result
    }
}

/// A swap that only the holder's thread makes, so it need not be atomic.
trait SwapPlainly<T> {
    fn swap_plainly(&self, new: *mut T) -> *mut T;
}

impl<T> SwapPlainly<T> for AtomicPtr<T> {
    #[inline]
    fn swap_plainly(&self, new: *mut T) -> *mut T {
        let old = self.load(Ordering::Relaxed);
        self.store(new, Ordering::Relaxed);
        old
    }
}

/// Puts a pointer back, also when what happens meanwhile panics.
struct Restore<'a, T>(&'a AtomicPtr<T>, *mut T);

impl<T> Drop for Restore<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(self.1, Ordering::Relaxed);
    }
}

/// Takes the holder's name off the door.
struct Mark<'a>(&'a AtomicUsize);

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_code_comes_in_again_and_only_one_at_a_time() {
        let cell = ShardCell::new(|| 1);
        let seen = cell.with(|outer| {
            *outer += 1;
            assert_eq!(cell.with(|_| ()), Err(ShardError::Reentered));
            cell.suspend(outer, || {
                let inner = cell.with(|inner| {
                    *inner += 1;
                    assert_eq!(cell.with(|_| ()), Err(ShardError::Reentered));
                    cell.suspend(inner, || assert_eq!(cell.with(|third| *third), Ok(3)));
                    *inner
                });
                assert_eq!(inner, Ok(3));
            });
            assert_eq!(cell.try_with(|_| ()), None);
            *outer
        });
        assert_eq!(seen, Ok(3));
        assert_eq!(cell.with(|value| *value), Ok(3));
    }

    #[test]
    fn another_thread_waits_while_foreign_code_runs() {
        let cell = ShardCell::new(|| 0);
        std::thread::scope(|scope| {
            cell.with(|outer| {
                let other = scope.spawn(|| cell.with(|value| *value));
                cell.suspend(outer, || {
                    while !cell.is_wanted() {
                        std::thread::yield_now();
                    }
                    cell.with(|inner| *inner = 7).unwrap();
                });
                other
            })
            .map(|other| assert_eq!(other.join().unwrap(), Ok(7)))
            .unwrap();
        });
    }
}
