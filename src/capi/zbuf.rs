//! Packet buffers: `malloc` and `free` for memory that the link can send from.

use core::ffi::{c_int, c_void};

use libc::ssize_t;

use super::macros::entry;
use crate::socket::{self, buffers};

/// The largest buffer that there is, in bytes.
pub const LUNA_ZBUF_BYTES_MAX: usize = 65536;

const _: () = assert!(LUNA_ZBUF_BYTES_MAX == crate::zbuf::OBJECT_BYTES_MAX);

/// A buffer of at least `size` bytes (at most `LUNA_ZBUF_BYTES_MAX`), with one reference, the
/// caller's. Its contents are what its last owner in this process left.
///
/// It comes from the memory of the shard that the calling thread turns, and can be sent without
/// a copy on that shard's connections. The first call starts the stack, if `LUNA_DEV` is set.
/// Where there is no stack, or its memory is nearly used up, the buffer is of ordinary memory:
/// it works everywhere, and is copied when it is sent.
///
/// Any thread; also from a loop's callback.
///
/// # Safety
///
/// None: any size is fine.
///
/// # Errors
///
/// Null, and `EMSGSIZE` for more than `LUNA_ZBUF_BYTES_MAX`, or `ENOMEM`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_zbuf_alloc(size: usize) -> *mut c_void {
    entry!({ buffers::alloc(size).map(|loan| loan.as_ptr().cast()) })
}

/// As `luna_zbuf_alloc`, in the memory that what is sent on `fd` need not be copied from. With
/// one shard there is no difference.
///
/// # Safety
///
/// None: any arguments are fine.
///
/// # Errors
///
/// As `luna_zbuf_alloc`. A descriptor that is not luna's is no error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_zbuf_alloc_for(fd: c_int, size: usize) -> *mut c_void {
    entry!({
        let shard = socket::pin_checked(fd).and_then(|pin| pin.stream());
        let loan = match shard {
            Some(name) => buffers::alloc_on(Some(name.shard), size),
            None => buffers::alloc_apart(size),
        };
        loan.map(|loan| loan.as_ptr().cast())
    })
}

/// Gives back one reference to the buffer that `ptr` points into (anywhere into it). With the
/// last reference, the stack's included, the buffer is free. Null is fine.
///
/// Any thread, at any time: also after the connection that it came from is closed.
///
/// # Safety
///
/// None: any address is fine; nothing is read through one that is not into a buffer.
///
/// # Errors
///
/// `EFAULT` if `ptr` is not into a buffer; `EINVAL` if the application holds no reference to the
/// buffer (freed twice). Both are counted (`luna_stats`) and change nothing. A second free goes
/// unnoticed only when the buffer has been given to the application again meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_zbuf_free(ptr: *const c_void) -> c_int {
    if ptr.is_null() {
        return 0;
    }
    entry!({ buffers::free(ptr.cast()).map(|()| 0) })
}

/// Takes one more reference to a buffer that the caller holds, or that was lent to a loop's
/// callback and is to be kept after it. `ptr` may point anywhere into it.
///
/// # Safety
///
/// None: any address is fine.
///
/// # Errors
///
/// As `luna_zbuf_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_zbuf_ref(ptr: *const c_void) -> c_int {
    entry!({ buffers::keep(ptr.cast()).map(|()| 0) })
}

/// How many bytes there are from `ptr` to the end of the buffer that it points into.
///
/// # Safety
///
/// None: any address is fine.
///
/// # Errors
///
/// `EFAULT` if `ptr` is not into a buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_zbuf_size(ptr: *const c_void) -> ssize_t {
    entry!({ buffers::room(ptr.cast()).map(|bytes| bytes as ssize_t) })
}

/// 1 if the caller's reference is the only one, so that it may write to the buffer; 0 if there
/// are others: a connection has yet to send it or to see it acknowledged, the link has yet to
/// finish reading it, or the application has taken a second reference.
///
/// # Safety
///
/// None: any address is fine.
///
/// # Errors
///
/// As `luna_zbuf_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_zbuf_writable(ptr: *const c_void) -> c_int {
    entry!({ buffers::is_writable(ptr.cast()).map(c_int::from) })
}
