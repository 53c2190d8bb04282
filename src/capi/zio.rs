//! Reading and writing without a copy.

use core::ffi::{c_int, c_void};

use core::slice;

use libc::{iovec, msghdr, ssize_t};

use super::io::stream_behind;
use super::macros::{entry, forward};
use super::memory::VECTORS_MAX;
use crate::socket::zero_copy::{self, Completion, Piece, Received};
use crate::socket::{self, buffers, fork};
use crate::sys::{self, Errno};

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

impl From<Completion> for luna_zcompletion {
    fn from(done: Completion) -> Self {
        Self {
            token: done.token,
            status: done.error.map_or(0, Errno::raw_os_error),
            flags: if done.copied { LUNA_Z_COPIED } else { 0 },
        }
    }
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
    entry!({
        let room = element_count(iovcnt)?;
        if flags & !libc::MSG_DONTWAIT != 0 {
            return Err(Errno::INVAL);
        }
        if iov.is_null() {
            return Err(Errno::FAULT);
        }
        // SAFETY: not null, and the caller vouches for the room; every bit pattern is valid.
        let iov = unsafe { slice::from_raw_parts_mut(iov, room) };
        if let Some(pin) = stream_behind(fd) {
            let pieces = zero_copy::recv(&pin, room, flags)?;
            for (place, piece) in iov.iter_mut().zip(&pieces) {
                *place = luna_ziov::of(piece);
            }
            return Ok(pieces.len() as c_int);
        }
        fork::check();
        let Some(piece) = read_kernel(fd, flags)? else {
            return Ok(0);
        };
        if let Some(place) = iov.first_mut() {
            *place = luna_ziov::of(&piece);
        }
        Ok(1)
    })
}

/// Reads into a buffer of our own; `None` at the end.
fn read_kernel(fd: c_int, flags: c_int) -> Result<Option<Received>, Errno> {
    let mut bytes = [0u8; KERNEL_READ_BYTES];
    let (none, at) = (core::ptr::null_mut::<c_void>(), bytes.as_mut_ptr());
    let received = match forward!(recvfrom, fd, at, KERNEL_READ_BYTES, flags, none, none) {
        Err(Errno::NOTSOCK) => forward!(read, fd, at, KERNEL_READ_BYTES),
        other => other,
    }?;
    let bytes = bytes.get(..received).unwrap_or(&[]);
    if bytes.is_empty() {
        return Ok(None);
    }
    let loan = buffers::copy_apart(bytes)?;
    Ok(Some(Received { loan, copied: true }))
}

/// How much of a kernel socket's bytes one call receives.
const KERNEL_READ_BYTES: usize = 16384;

impl luna_ziov {
    pub(super) fn of(piece: &Received) -> Self {
        Self {
            base: piece.loan.as_ptr().cast(),
            len: piece.loan.len(),
            token: 0,
            flags: if piece.copied { LUNA_Z_COPIED } else { 0 },
            reserved: 0,
        }
    }
}

fn element_count(count: c_int) -> Result<usize, Errno> {
    usize::try_from(count)
        .ok()
        .filter(|&count| (1..=VECTORS_MAX).contains(&count))
        .ok_or(Errno::INVAL)
}

/// Elements that are looked at without an allocation.
const FEW: usize = 16;

/// What the caller's elements say.
///
/// # Safety
///
/// `iov` must have `count` elements, each of readable memory, for `'a`.
pub(super) unsafe fn with_pieces<'a, R>(
    iov: *const luna_ziov,
    count: c_int,
    f: impl FnOnce(&[Piece<'a>]) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let count = element_count(count)?;
    if iov.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: not null, and the caller vouches for the range.
    let elements = unsafe { slice::from_raw_parts(iov, count) };
    let pieces = elements.iter().map(|element| {
        if element.base.is_null() && element.len != 0 {
            return Err(Errno::FAULT);
        }
        if isize::try_from(element.len).is_err() {
            return Err(Errno::INVAL);
        }
        let bytes = if element.len == 0 {
            &[]
        } else {
            // SAFETY: the caller vouches for what the elements name.
            unsafe { slice::from_raw_parts(element.base.cast::<u8>(), element.len) }
        };
        let token = element.token;
        Ok(Piece { bytes, token })
    });
    if count <= FEW {
        f(&pieces.collect::<Result<arrayvec::ArrayVec<_, FEW>, Errno>>()?)
    } else {
        f(&pieces.collect::<Result<Vec<_>, Errno>>()?)
    }
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
/// completion, which says so, is there at once. On the stack, bytes that are not in a buffer, or
/// in one of another shard, are copied too; the completion says so when they are acknowledged.
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
    entry!({
        if flags & !SEND_FLAGS != 0 {
            return Err(Errno::INVAL);
        }
        let send = |pieces: &[Piece<'_>]| match stream_behind(fd) {
            Some(pin) => zero_copy::send(&pin, pieces, flags),
            None => write_kernel(fd, pieces, flags),
        };
        // SAFETY: the caller's contract.
        let sent = unsafe { with_pieces(iov, iovcnt, send) }?;
        ssize_t::try_from(sent).map_err(|_| Errno::INVAL)
    })
}

/// What `luna_zwritev` understands.
pub(super) const SEND_FLAGS: c_int = libc::MSG_DONTWAIT | libc::MSG_MORE | libc::MSG_NOSIGNAL;

/// Writes, and completes what was written whole.
fn write_kernel(fd: c_int, pieces: &[Piece<'_>], flags: c_int) -> Result<usize, Errno> {
    fork::check();
    let vectors: Vec<iovec> = pieces
        .iter()
        .map(|piece| iovec {
            iov_base: piece.bytes.as_ptr().cast_mut().cast(),
            iov_len: piece.bytes.len(),
        })
        .collect();
    // SAFETY: all zero is a message without a name, vectors or control.
    let mut message: msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = vectors.as_ptr().cast_mut();
    message.msg_iovlen = vectors.len();
    let sent = match forward!(sendmsg, fd, &raw const message, flags) {
        Err(Errno::NOTSOCK) => forward!(writev, fd, vectors.as_ptr(), vectors.len()),
        other => other,
    }?;
    let mut end = 0;
    let whole = pieces.iter().take_while(|piece| {
        end += piece.bytes.len();
        end <= sent
    });
    zero_copy::completed_by_kernel(fd, whole.map(|piece| piece.token));
    Ok(sent)
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
    entry!({
        let max = usize::try_from(max).map_err(|_| Errno::INVAL)?;
        if completions.is_null() && max > 0 {
            return Err(Errno::FAULT);
        }
        let pin = if fd == zero_copy::CLOSED {
            None
        } else {
            sys::descriptor_flags(fd)?;
            socket::pin_checked(fd)
        };
        if max == 0 {
            return Ok(0);
        }
        // SAFETY: not null, and the caller vouches for the room; every bit pattern is valid.
        let places = unsafe { slice::from_raw_parts_mut(completions, max) };
        let mut places = places.iter_mut();
        let count = zero_copy::completions(fd, pin.as_ref(), max, |done| {
            if let Some(place) = places.next() {
                *place = done.into();
            }
        });
        Ok(c_int::try_from(count).unwrap_or(c_int::MAX))
    })
}
