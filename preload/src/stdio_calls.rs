//! `fdopen`: streams of the C library over sockets of luna's.
//!
//! The C library's own streams read and write by calls that no hook sees, so a stream over a
//! socket of luna's is one of its "cookie" streams, whose reads and writes are ours. `fileno` of
//! such a stream would fail; the number is put where it looks for one, which the cookie's own
//! functions never use.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use std::sync::Once;

use libc::{FILE, c_char, c_int, c_void, off64_t, size_t, ssize_t};

use crate::hook::{self, hooks};
use crate::libluna::{self, Libluna};

/// `cookie_io_functions_t`
#[repr(C)]
struct CookieFunctions {
    read: unsafe extern "C" fn(*mut c_void, *mut c_char, size_t) -> ssize_t,
    write: unsafe extern "C" fn(*mut c_void, *const c_char, size_t) -> ssize_t,
    seek: Option<unsafe extern "C" fn(*mut c_void, *mut off64_t, c_int) -> c_int>,
    close: unsafe extern "C" fn(*mut c_void) -> c_int,
}

/// The beginning of glibc's `struct _IO_FILE` (`bits/types/struct_FILE.h`, unchanged since 2.1).
#[cfg(target_env = "gnu")]
#[repr(C)]
struct FileHead {
    flags: c_int,
    pointers: [*mut c_char; 11],
    markers: *mut c_void,
    chain: *mut c_void,
    fileno: c_int,
}

unsafe extern "C" {
    fn fopencookie(
        cookie: *mut c_void,
        mode: *const c_char,
        functions: CookieFunctions,
    ) -> *mut FILE;
    fn ftrylockfile(file: *mut FILE) -> c_int;
    fn funlockfile(file: *mut FILE);
}

hooks! {
    fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE = |luna| {
        if hook::is_inside() || !luna.owns(fd) || mode.is_null() {
            return None;
        }
        let functions = CookieFunctions { read, write, seek: None, close };
        let cookie = ptr::without_provenance_mut(fd as usize);
        // SAFETY: the caller's mode, which the C library checks; the functions take the cookie
        // for what it is, a number.
        let file = unsafe { fopencookie(cookie, mode, functions) };
        #[cfg(target_env = "gnu")]
        if !file.is_null() {
            // SAFETY: a stream that was just made, of this C library, which nobody else knows yet.
            unsafe { (*file.cast::<FileHead>()).fileno = fd };
        }
        remember(file);
        Some(file)
    }
}

/// Streams that may have something to write when the process ends: the C library writes it after
/// everything else, when luna's connections are closed. By descriptor modulo their number.
static STREAMS: [AtomicPtr<FILE>; 1024] = [const { AtomicPtr::new(ptr::null_mut()) }; 1024];
static AT_EXIT: Once = Once::new();

fn slot(fd: c_int) -> Option<&'static AtomicPtr<FILE>> {
    STREAMS.get(usize::try_from(fd).ok()? % STREAMS.len())
}

fn remember(file: *mut FILE) {
    AT_EXIT.call_once(|| {
        // SAFETY: a function that stays where it is: the library is never unloaded.
        let _ = unsafe { libc::atexit(flush_all) };
    });
    if file.is_null() {
        return;
    }
    // SAFETY: a stream that was just made.
    let fd = unsafe { libc::fileno(file) };
    if let Some(slot) = slot(fd) {
        slot.store(file, Ordering::Release);
    }
}

extern "C" fn flush_all() {
    for slot in &STREAMS {
        let file = slot.load(Ordering::Acquire);
        // SAFETY: it has not been closed: that takes it out. Who holds it is at work on it, and
        // is not waited for.
        if !file.is_null() && unsafe { ftrylockfile(file) } == 0 {
            // SAFETY: as above.
            unsafe {
                libc::fflush(file);
                funlockfile(file);
            }
        }
    }
}

/// The socket behind a cookie, if luna still has it.
fn socket(cookie: *mut c_void) -> (Option<&'static Libluna>, c_int) {
    let fd = cookie.addr() as c_int;
    (libluna::active().filter(|luna| luna.owns(fd)), fd)
}

unsafe extern "C" fn read(cookie: *mut c_void, buf: *mut c_char, len: size_t) -> ssize_t {
    let (luna, fd) = socket(cookie);
    // SAFETY: the C library's buffer.
    let ours =
        luna.and_then(|luna| unsafe { crate::io_calls::ours::read(luna, fd, buf.cast(), len) });
    // SAFETY: as above.
    ours.unwrap_or_else(|| unsafe { crate::io_calls::real::read(fd, buf.cast(), len) })
}

/// A cookie's write says 0 for an error.
unsafe extern "C" fn write(cookie: *mut c_void, buf: *const c_char, len: size_t) -> ssize_t {
    let (luna, fd) = socket(cookie);
    let ours =
        // SAFETY: the C library's buffer.
        luna.and_then(|luna| unsafe { crate::io_calls::ours::write(luna, fd, buf.cast(), len) });
    // SAFETY: as above.
    let result =
        ours.unwrap_or_else(|| unsafe { crate::io_calls::real::write(fd, buf.cast(), len) });
    result.max(0)
}

unsafe extern "C" fn close(cookie: *mut c_void) -> c_int {
    let (luna, fd) = socket(cookie);
    if let Some(slot) = slot(fd) {
        slot.store(ptr::null_mut(), Ordering::Release);
    }
    // SAFETY: a plain number.
    let ours = luna.and_then(|luna| unsafe { crate::fd_calls::ours::close(luna, fd) });
    // SAFETY: as above.
    ours.unwrap_or_else(|| unsafe { crate::fd_calls::real::close(fd) })
}
