//! The caller's memory: buffers, vectors, addresses.

use core::ffi::c_void;
use std::io::{IoSlice, IoSliceMut};

use arrayvec::ArrayVec;
use libc::{iovec, sockaddr, socklen_t, timespec};

use crate::socket::addr::Encoded;
use crate::sys::{Errno, SOCKADDR_BYTES_MAX};
use crate::time::Duration;

/// `MAX_RW_COUNT`: the most that one call moves.
const COUNT_MAX: usize = 0x7fff_f000;
/// `UIO_MAXIOV`
pub(super) const VECTORS_MAX: usize = 1024;
/// Vectors that are converted without an allocation.
const VECTORS_FEW: usize = 16;

/// A buffer to fill.
///
/// # Safety
///
/// `count` bytes at `buf` must be writable for the call, unless it is null.
pub(super) unsafe fn filled<R>(
    buf: *mut c_void,
    count: usize,
    f: impl FnOnce(&mut [IoSliceMut<'_>]) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let count = count.min(COUNT_MAX);
    if count == 0 {
        return f(&mut []);
    }
    if buf.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: the caller vouches for the range; bytes are only written through this slice.
    let bytes = unsafe { core::slice::from_raw_parts_mut(buf.cast::<u8>(), count) };
    f(&mut [IoSliceMut::new(bytes)])
}

/// A buffer to send.
///
/// # Safety
///
/// `count` bytes at `buf` must be readable for the call, unless it is null.
pub(super) unsafe fn bytes<'a>(buf: *const c_void, count: usize) -> Result<&'a [u8], Errno> {
    let count = count.min(COUNT_MAX);
    if count == 0 {
        return Ok(&[]);
    }
    if buf.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: the caller vouches for the range.
    Ok(unsafe { core::slice::from_raw_parts(buf.cast::<u8>(), count) })
}

/// The caller's array of vectors, with empty ones left out and the total cut to what one call
/// may move.
///
/// # Safety
///
/// `count` vectors at `vectors` must be readable for `'a`.
unsafe fn vectors<'a>(
    vectors: *const iovec,
    count: usize,
) -> Result<impl Iterator<Item = Result<(*mut c_void, usize), Errno>> + 'a, Errno> {
    let vectors = if count == 0 {
        &[]
    } else if vectors.is_null() {
        return Err(Errno::FAULT);
    } else {
        // SAFETY: not null, and the caller vouches for the range.
        unsafe { core::slice::from_raw_parts(vectors, count) }
    };
    let mut room = COUNT_MAX;
    Ok(vectors
        .iter()
        .filter(|vector| vector.iov_len != 0)
        .map_while(move |vector| {
            if isize::try_from(vector.iov_len).is_err() {
                return Some(Err(Errno::INVAL));
            }
            let len = vector.iov_len.min(room);
            room -= len;
            match (len, vector.iov_base.is_null()) {
                (0, _) => None,
                (_, true) => Some(Err(Errno::FAULT)),
                _ => Some(Ok((vector.iov_base, len))),
            }
        }))
}

/// Vectors to fill.
///
/// # Safety
///
/// `count` vectors at `array` must be readable, and what they name writable, for the call.
pub(super) unsafe fn filled_vectors<R>(
    array: *const iovec,
    count: usize,
    f: impl FnOnce(&mut [IoSliceMut<'_>]) -> Result<R, Errno>,
) -> Result<R, Errno> {
    // SAFETY: the caller vouches for the array.
    let all = unsafe { vectors(array, count) }?;
    let slices = all.map(|vector| {
        let (base, len) = vector?;
        // SAFETY: the caller vouches for what the vectors name. Overlapping ones are the
        // caller's own mistake, as with the system call: bytes are only written.
        let bytes = unsafe { core::slice::from_raw_parts_mut(base.cast::<u8>(), len) };
        Ok(IoSliceMut::new(bytes))
    });
    if count <= VECTORS_FEW {
        let mut slices = slices.collect::<Result<ArrayVec<_, VECTORS_FEW>, Errno>>()?;
        f(&mut slices)
    } else {
        let mut slices = slices.collect::<Result<Vec<_>, Errno>>()?;
        f(&mut slices)
    }
}

/// Vectors to send.
///
/// # Safety
///
/// `count` vectors at `array`, and what they name, must be readable for the call.
pub(super) unsafe fn sent_vectors<R>(
    array: *const iovec,
    count: usize,
    f: impl FnOnce(&[IoSlice<'_>]) -> Result<R, Errno>,
) -> Result<R, Errno> {
    // SAFETY: the caller vouches for the array.
    let all = unsafe { vectors(array, count) }?;
    let slices = all.map(|vector| {
        let (base, len) = vector?;
        // SAFETY: the caller vouches for what the vectors name.
        let bytes = unsafe { core::slice::from_raw_parts(base.cast::<u8>(), len) };
        Ok(IoSlice::new(bytes))
    });
    if count <= VECTORS_FEW {
        f(&slices.collect::<Result<ArrayVec<_, VECTORS_FEW>, Errno>>()?)
    } else {
        f(&slices.collect::<Result<Vec<_>, Errno>>()?)
    }
}

/// An address argument.
///
/// # Safety
///
/// `len` bytes at `address` must be readable for `'a`, unless it is null.
pub(super) unsafe fn address<'a>(
    address: *const sockaddr,
    len: socklen_t,
) -> Result<&'a [u8], Errno> {
    let len = len as usize;
    if len > SOCKADDR_BYTES_MAX {
        return Err(Errno::INVAL);
    }
    // SAFETY: the caller vouches for the range.
    unsafe { bytes(address.cast(), len) }
}

/// Stores an address as the kernel does: cut to the room there is, with its true length. With a
/// null `address` there is nothing to store.
///
/// # Safety
///
/// `len` must be null or point to a length, and `address` must be null or have that much room.
pub(super) unsafe fn store_address(
    encoded: &Encoded,
    address: *mut sockaddr,
    len: *mut socklen_t,
) -> Result<(), Errno> {
    if address.is_null() {
        return Ok(());
    }
    // SAFETY: the caller vouches for `len`.
    let room = unsafe { room(len) }?.min(encoded.len());
    // SAFETY: `address` has room for that much, and `len` is not null, as `room` has checked.
    unsafe {
        core::ptr::copy_nonoverlapping(encoded.as_ptr(), address.cast::<u8>(), room);
        len.write(encoded.len() as socklen_t);
    }
    Ok(())
}

/// The room that a value-result length announces.
///
/// # Safety
///
/// `len` must be null or point to a length.
pub(super) unsafe fn room(len: *const socklen_t) -> Result<usize, Errno> {
    if len.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: not null, and the caller vouches for it.
    let room = unsafe { len.read() };
    // The kernel reads it as an int.
    usize::try_from(room.cast_signed()).map_err(|_| Errno::INVAL)
}

/// A time span in the words of C, which must be a valid one.
pub(super) fn span(timeout: timespec) -> Result<Duration, Errno> {
    match (
        u64::try_from(timeout.tv_sec),
        u64::try_from(timeout.tv_nsec),
    ) {
        (Ok(seconds), Ok(nanos @ 0..1_000_000_000)) => {
            Ok(Duration::from_secs(seconds) + Duration::from_nanos(nanos))
        }
        _ => Err(Errno::INVAL),
    }
}
