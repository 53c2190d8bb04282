//! From a loop to the application's C functions.

use core::ffi::{c_int, c_void};
use std::os::fd::RawFd;

use arrayvec::ArrayVec;

use super::loops::{LunaLoopFunction, LunaLoopWatcher, luna_loop, luna_loop_callbacks};
use super::zio::{luna_zcompletion, luna_ziov};
use crate::socket::event_loop::{Callbacks, Loop};
use crate::socket::zero_copy::{Completion, Received};

/// Pieces and completions that are told together.
const AT_ONCE: usize = 32;

/// The application's table. Whoever gave it vouches that it, and what it names, stays good, and
/// may be called from the loop's thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct C {
    table: *const luna_loop_callbacks,
}

// SAFETY: a pointer that the application lets us use from the loop's thread, whichever it is.
unsafe impl Send for C {}

impl C {
    pub(super) fn new(table: *const luna_loop_callbacks) -> Self {
        Self { table }
    }

    fn table(&self) -> &luna_loop_callbacks {
        // SAFETY: the application vouches for the table for as long as its sockets are the loop's.
        unsafe { &*self.table }
    }
}

/// A function of C with its argument.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    function: unsafe extern "C" fn(*mut luna_loop, *mut c_void),
    user: *mut c_void,
}

impl Function {
    pub(super) fn new(function: LunaLoopFunction, user: *mut c_void) -> Option<Self> {
        function.map(|function| Self { function, user })
    }
}

/// The same for descriptors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watcher {
    function: unsafe extern "C" fn(*mut luna_loop, c_int, u32, *mut c_void),
    user: *mut c_void,
}

impl Watcher {
    pub(super) fn new(function: LunaLoopWatcher, user: *mut c_void) -> Option<Self> {
        function.map(|function| Self { function, user })
    }
}

/// Either.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    Function(Function),
    Watcher(Watcher),
}

// SAFETY: the application vouches that its function may be called with its argument from the
// loop's thread.
unsafe impl Send for Task {}

impl From<Function> for Task {
    fn from(function: Function) -> Self {
        Self::Function(function)
    }
}

impl From<Watcher> for Task {
    fn from(watcher: Watcher) -> Self {
        Self::Watcher(watcher)
    }
}

fn at(from: &Loop<C>) -> *mut luna_loop {
    from.context() as *mut luna_loop
}

fn pointer(user: usize) -> *mut c_void {
    user as *mut c_void
}

impl Callbacks for C {
    type Task = Task;

    fn accepted(self, from: &Loop<Self>, listener: u64, user: usize, conn: u64) -> usize {
        match self.table().accepted {
            // SAFETY: the application's function, called as it has been told.
            Some(call) => unsafe { call(at(from), listener, pointer(user), conn) as usize },
            None => 0,
        }
    }

    fn connected(self, from: &Loop<Self>, conn: u64, user: usize, error: i32) {
        if let Some(call) = self.table().connected {
            // SAFETY: as above.
            unsafe { call(at(from), conn, pointer(user), error) };
        }
    }

    fn readable(self, from: &Loop<Self>, conn: u64, user: usize, pieces: &[Received]) {
        let Some(call) = self.table().readable else {
            return;
        };
        if pieces.is_empty() {
            // SAFETY: as above; there are no elements.
            unsafe { call(at(from), conn, pointer(user), core::ptr::null(), 0) };
        }
        for some in pieces.chunks(AT_ONCE) {
            let iov: ArrayVec<luna_ziov, AT_ONCE> = some.iter().map(luna_ziov::of).collect();
            let count = iov.len() as c_int;
            // SAFETY: as above; the elements live for the call.
            unsafe { call(at(from), conn, pointer(user), iov.as_ptr(), count) };
        }
    }

    fn writable(self, from: &Loop<Self>, conn: u64, user: usize) {
        if let Some(call) = self.table().writable {
            // SAFETY: as above.
            unsafe { call(at(from), conn, pointer(user)) };
        }
    }

    fn completed(self, from: &Loop<Self>, conn: u64, user: usize, done: &[Completion]) {
        let Some(call) = self.table().completed else {
            return;
        };
        for some in done.chunks(AT_ONCE) {
            let all: ArrayVec<luna_zcompletion, AT_ONCE> =
                some.iter().map(|&one| one.into()).collect();
            let count = all.len() as c_int;
            // SAFETY: as above; the elements live for the call.
            unsafe { call(at(from), conn, pointer(user), all.as_ptr(), count) };
        }
    }

    fn closed(self, from: &Loop<Self>, conn: u64, user: usize, error: i32) {
        if let Some(call) = self.table().closed {
            // SAFETY: as above.
            unsafe { call(at(from), conn, pointer(user), error) };
        }
    }

    fn run(task: Task, from: &Loop<Self>) {
        if let Task::Function(Function { function, user }) = task {
            // SAFETY: as above.
            unsafe { function(at(from), user) };
        }
    }

    fn ready(task: Task, from: &Loop<Self>, fd: RawFd, events: u32) {
        if let Task::Watcher(Watcher { function, user }) = task {
            // SAFETY: as above.
            unsafe { function(at(from), fd, events, user) };
        }
    }
}
