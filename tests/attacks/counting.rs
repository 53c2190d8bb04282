//! An allocator that counts what the stack asks for while it works.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counted per thread.
pub(crate) struct Counting;

fn count(bytes: usize) {
    // A thread that ends has no counters any more.
    let _ = ON.try_with(|on| {
        if on.get() {
            CALLS.set(CALLS.get() + 1);
            BYTES.set(BYTES.get() + bytes as u64);
        }
    });
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Calls to the allocator and bytes asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) calls: u64,
    pub(crate) bytes: u64,
}

/// What `work` asks of the allocator.
pub(crate) fn asked<T>(work: impl FnOnce() -> T) -> (T, Asked) {
    let before = (CALLS.get(), BYTES.get());
    ON.set(true);
    let result = work();
    ON.set(false);
    let asked = Asked {
        calls: CALLS.get() - before.0,
        bytes: BYTES.get() - before.1,
    };
    (result, asked)
}
