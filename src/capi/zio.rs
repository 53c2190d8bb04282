//! Reading and writing without a copy.

use core::ffi::{c_int, c_void};

use libc::ssize_t;

use super::macros::entry;
use crate::sys::Errno;

/// Some bytes of one packet buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types, reason = "a C name")]
pub struct luna_ziov {
    /// The first byte, anywhere in a buffer.
    pub base: *mut c_void,
    /// How many bytes, all of them in that buffer.
    pub len: usize,
    /// Sending: comes back in exactly one `luna_zcompletion`; 0: none is wanted. Received: 0.
    pub token: u64,
    /// Received: `LUNA_Z_COPIED` if the bytes were copied on their way. Sending: 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

/// What became of a sent buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(non_camel_case_types, reason = "a C name")]
pub struct luna_zcompletion {
    /// That of the `luna_ziov`.
    pub token: u64,
    /// 0: the peer has acknowledged the bytes (a kernel socket: the kernel has taken them).
    /// Otherwise an errno: the connection ended before that.
    pub status: i32,
    /// `LUNA_Z_COPIED` if the bytes were copied, so the buffer has been free since the call.
    pub flags: u32,
}

/// The bytes were copied.
pub const LUNA_Z_COPIED: u32 = 1;

/// Receives without copying: fills up to `iovcnt` elements with what has arrived, in order, and
/// returns how many. 0 is the end of the stream.
///
/// Each element is one reference of the caller's to its buffer, to be given back with
/// `luna_zbuf_free`, from any thread, whenever; it outlives the connection. The bytes may be
/// changed, and reused for the reply, while `luna_zbuf_writable` says so. What the application
/// holds counts against the connection's receive window.
///
/// Works on every descriptor that can be read: what is not on the stack is read into buffers,
/// and marked `LUNA_Z_COPIED`; so is what arrived when packet memory was short.
///
/// `flags`: `MSG_DONTWAIT` or 0. Blocks like `recv` otherwise, until there is something.
///
/// # Safety
///
/// `iov` must have room for `iovcnt` elements.
///
/// # Errors
///
/// Those of `recv(2)`; `EINVAL` for another flag or an `iovcnt` outside 1–1024; `ENOMEM`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_zreadv(
    fd: c_int,
    iov: *mut luna_ziov,
    iovcnt: c_int,
    flags: c_int,
) -> c_int {
    let _ = (fd, iov, iovcnt, flags);
    entry!({ Err(Errno::NOSYS) })
}

/// Sends without copying: takes a reference to each buffer until the peer has acknowledged it
/// and the link has finished reading it. The caller keeps its own, and frees it when it likes;
/// the bytes must not change until the completion. The same buffer may be sent on any number of
/// connections.
///
/// Returns how many *bytes* were taken, of as many elements from the first on; the last of these
/// perhaps in part. An element's token is taken with its last byte: send the rest as an element
/// with the same token. An element that was not taken is as if it had never been given.
///
/// Works on every descriptor that can be written: elsewhere the bytes are copied, and the
/// completion, which says so, is there at once. Bytes that are not in a buffer, or in one of
/// another shard, are copied too.
///
/// `flags`: `MSG_DONTWAIT`, `MSG_MORE`, `MSG_NOSIGNAL`.
///
/// # Safety
///
/// `iov` must have `iovcnt` elements, each of readable memory.
///
/// # Errors
///
/// Those of `send(2)`; `EINVAL` for another flag, an `iovcnt` outside 1–1024, or a buffer that
/// the caller does not hold; `ENOBUFS` if too many completions have not been fetched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_zwritev(
    fd: c_int,
    iov: *const luna_ziov,
    iovcnt: c_int,
    flags: c_int,
) -> ssize_t {
    let _ = (fd, iov, iovcnt, flags);
    entry!({ Err(Errno::NOSYS) })
}

/// Fetches completions of what was sent with a token on `fd`, up to `max`; returns how many.
/// Never blocks. `fd` −1: those of connections whose descriptor has been closed since.
///
/// # Safety
///
/// `completions` must have room for `max` elements.
///
/// # Errors
///
/// `EBADF`, `EFAULT`, `EINVAL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_zcompletions(
    fd: c_int,
    completions: *mut luna_zcompletion,
    max: c_int,
) -> c_int {
    let _ = (fd, completions, max);
    entry!({ Err(Errno::NOSYS) })
}
