//! The lock around a shard.

use core::sync::atomic::{AtomicUsize, Ordering};
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
    ME.with(|me| core::ptr::from_ref(me).addr())
}

impl<T> ShardCell<T> {
    /// A cell around what `build` makes.
    pub fn new(build: impl FnOnce() -> T + Send) -> Self {
        Self {
            inner: Mutex::new(Inside(build())),
            holder: AtomicUsize::new(0),
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
        })
    }

    /// Runs `f` on the contents, after waiting for its turn.
    ///
    /// A panic in `f` passes through, and the cell is unusable from then on.
    ///
    /// # Errors
    /// [`ShardError`]; `f` has not run.
    pub fn with<R: Send>(&self, f: impl FnOnce(&mut T) -> R + Send) -> Result<R, ShardError> {
        let me = me();
        let guard = match self.inner.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(_)) => return Err(ShardError::Poisoned),
            Err(TryLockError::WouldBlock) => {
                // Only we ourselves can have written our own address.
                if self.holder.load(Ordering::Relaxed) == me {
                    return Err(ShardError::Reentered);
                }
                self.inner.lock().map_err(|_| ShardError::Poisoned)?
            }
        };
        Ok(self.run(me, guard, f))
    }

    /// Runs `f` on the contents if nobody else is inside; `None` if somebody is.
    pub fn try_with<R: Send>(
        &self,
        f: impl FnOnce(&mut T) -> R + Send,
    ) -> Option<Result<R, ShardError>> {
        match self.inner.try_lock() {
            Ok(guard) => Some(Ok(self.run(me(), guard, f))),
            Err(TryLockError::Poisoned(_)) => Some(Err(ShardError::Poisoned)),
            Err(TryLockError::WouldBlock) => None,
        }
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

/// Takes the holder's name off the door.
struct Mark<'a>(&'a AtomicUsize);

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
