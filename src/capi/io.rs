//! `read`, `write` and their relatives.

use core::ffi::{c_int, c_uint, c_void};
use std::io::IoSlice;

use libc::{iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t, timespec};

use super::macros::{ended, entry, forward};
use super::memory::{self, VECTORS_MAX};
use crate::socket::description::{Kind, Pin, pin_active};
use crate::socket::reason::Reason;
use crate::socket::{self, fork, runtime, sendfile, stream};
use crate::sys::Errno;

/// The stream behind a descriptor. All else, luna's listeners and epoll sets included, gets the
/// kernel's answer.
#[inline]
pub(super) fn stream_behind(fd: c_int) -> Option<Pin> {
    let pin = pin_active(fd)?;
    fork::check();
    (pin.kind() == Kind::Stream).then_some(pin)
}

fn moved(count: usize) -> Result<ssize_t, Errno> {
    ssize_t::try_from(count).map_err(|_| Errno::INVAL)
}

fn vector_count(count: c_int) -> Result<usize, Errno> {
    usize::try_from(count)
        .ok()
        .filter(|&count| count <= VECTORS_MAX)
        .ok_or(Errno::INVAL)
}

/// `read(2)` on any descriptor.
///
/// # Safety
///
/// As for `read(2)`.
///
/// # Errors
///
/// Those of `read(2)`, and on a luna connection those of `recv(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_read(fd: c_int, buf: *mut c_void, count: size_t) -> ssize_t {
    let Some(pin) = stream_behind(fd) else {
        return ended(forward!(read, fd, buf, count));
    };
    entry!({
        if count == 0 {
            return Ok(0);
        }
        // SAFETY: the caller's contract.
        let received = unsafe { memory::filled(buf, count, |bufs| stream::recv(&pin, bufs, 0)) };
        moved(received?)
    })
}

/// `readv(2)` on any descriptor.
///
/// # Safety
///
/// As for `readv(2)`.
///
/// # Errors
///
/// Those of `readv(2)`, and on a luna connection those of `recv(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_readv(fd: c_int, iov: *const iovec, iovcnt: c_int) -> ssize_t {
    let Some(pin) = stream_behind(fd) else {
        return ended(forward!(readv, fd, iov, iovcnt));
    };
    entry!({
        let count = vector_count(iovcnt)?;
        let receive = |bufs: &mut [std::io::IoSliceMut<'_>]| {
            if bufs.is_empty() {
                Ok(0)
            } else {
                stream::recv(&pin, bufs, 0)
            }
        };
        // SAFETY: the caller's contract.
        moved(unsafe { memory::filled_vectors(iov, count, receive) }?)
    })
}

/// `recv(2)` on any descriptor.
///
/// # Safety
///
/// As for `recv(2)`.
///
/// # Errors
///
/// Those of `recv(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_recv(
    fd: c_int,
    buf: *mut c_void,
    count: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the caller's contract; no address is asked for.
    unsafe {
        luna_recvfrom(
            fd,
            buf,
            count,
            flags,
            core::ptr::null_mut(),
            core::ptr::null_mut(),
        )
    }
}

/// `recvfrom(2)` on any descriptor. As on any TCP socket, no address is stored: its length
/// becomes zero.
///
/// # Safety
///
/// As for `recvfrom(2)`.
///
/// # Errors
///
/// Those of `recvfrom(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_recvfrom(
    fd: c_int,
    buf: *mut c_void,
    count: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addrlen: *mut socklen_t,
) -> ssize_t {
    let Some(pin) = stream_behind(fd) else {
        return ended(forward!(recvfrom, fd, buf, count, flags, addr, addrlen));
    };
    entry!({
        // With MSG_TRUNC nothing is stored, so the buffer may be missing.
        let discards = flags & libc::MSG_TRUNC != 0;
        let received = if discards && buf.is_null() {
            discard(&pin, count, flags)?
        } else {
            // SAFETY: the caller's contract.
            unsafe { memory::filled(buf, count, |bufs| stream::recv(&pin, bufs, flags)) }?
        };
        if !addr.is_null() {
            // SAFETY: the caller's contract.
            unsafe { memory::room(addrlen) }?;
            // SAFETY: checked for null by `room`.
            unsafe { addrlen.write(0) };
        }
        moved(received)
    })
}

/// `MSG_TRUNC` without a buffer: receives into nothing, a piece at a time.
fn discard(pin: &Pin, count: usize, flags: c_int) -> Result<usize, Errno> {
    let mut scratch = vec![0; count.min(64 * 1024)];
    stream::recv(pin, &mut [std::io::IoSliceMut::new(&mut scratch)], flags)
}

/// `recvmsg(2)` on any descriptor. A luna connection stores neither an address nor control
/// messages, as the kernel's TCP.
///
/// # Safety
///
/// As for `recvmsg(2)`.
///
/// # Errors
///
/// Those of `recvmsg(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t {
    let Some(pin) = stream_behind(fd) else {
        return ended(forward!(recvmsg, fd, msg, flags));
    };
    // SAFETY: the caller's contract.
    entry!({ moved(unsafe { receive_message(&pin, msg, flags) }?) })
}

/// # Safety
///
/// As for `recvmsg(2)`.
unsafe fn receive_message(pin: &Pin, msg: *mut msghdr, flags: c_int) -> Result<usize, Errno> {
    // SAFETY: the caller vouches for it, unless it is null.
    let msg = unsafe { msg.as_mut() }.ok_or(Errno::FAULT)?;
    if msg.msg_iovlen > VECTORS_MAX {
        return Err(Errno::MSGSIZE);
    }
    if flags & libc::MSG_ERRQUEUE != 0 {
        let completed = stream::take_completions(pin).ok_or(Errno::AGAIN)?;
        let family = pin.socket.lock().family;
        // SAFETY: the caller vouches for the room that the message announces.
        unsafe { notify(msg, family, completed) };
        return Ok(0);
    }
    // SAFETY: as above.
    let received = unsafe {
        memory::filled_vectors(msg.msg_iov, msg.msg_iovlen, |bufs| {
            stream::recv(pin, bufs, flags)
        })
    }?;
    if !msg.msg_name.is_null() {
        msg.msg_namelen = 0;
    }
    msg.msg_controllen = 0;
    msg.msg_flags = flags & libc::MSG_CMSG_CLOEXEC;
    Ok(received)
}

/// Writes the notification that sends with `MSG_ZEROCOPY` are complete (a `struct
/// sock_extended_err` and an address that names nobody), cut to the room there is.
///
/// # Safety
///
/// `msg_controllen` bytes at `msg_control` must be writable, unless it is null.
unsafe fn notify(msg: &mut msghdr, family: c_int, (first, last): (u32, u32)) {
    const ERROR_BYTES: usize = 16;
    const ORIGIN_ZEROCOPY: u8 = 5;
    const CODE_COPIED: u8 = 1;
    let (level, kind, address_bytes) = if family == libc::AF_INET6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 28)
    } else {
        (libc::IPPROTO_IP, libc::IP_RECVERR, 16)
    };
    let head = size_of::<libc::cmsghdr>();
    let len = head + ERROR_BYTES + address_bytes;
    let mut bytes = [0_u8; 64];
    let mut put = |at: usize, value: &[u8]| {
        for (to, from) in bytes.iter_mut().skip(at).zip(value) {
            *to = *from;
        }
    };
    put(0, &len.to_ne_bytes());
    put(8, &level.to_ne_bytes());
    put(12, &kind.to_ne_bytes());
    put(head + 4, &[ORIGIN_ZEROCOPY, 0, CODE_COPIED, 0]);
    put(head + 8, &first.to_ne_bytes());
    put(head + 12, &last.to_ne_bytes());
    msg.msg_flags = libc::MSG_ERRQUEUE;
    if !msg.msg_name.is_null() {
        msg.msg_namelen = 0;
    }
    let room = if msg.msg_control.is_null() {
        0
    } else {
        msg.msg_controllen
    };
    if room < len {
        msg.msg_flags |= libc::MSG_CTRUNC;
    }
    let written = if room < head { 0 } else { room.min(len) };
    if written > 0 {
        put(0, &written.to_ne_bytes());
        // SAFETY: the caller vouches for `room` bytes, and the source has more.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), msg.msg_control.cast::<u8>(), written);
        }
    }
    msg.msg_controllen = written.next_multiple_of(size_of::<usize>()).min(room);
}

/// `recvmmsg(2)` on any descriptor.
///
/// # Safety
///
/// As for `recvmmsg(2)`.
///
/// # Errors
///
/// Those of `recvmmsg(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_recvmmsg(
    fd: c_int,
    msgvec: *mut mmsghdr,
    vlen: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    let Some(pin) = stream_behind(fd) else {
        return ended(forward!(recvmmsg, fd, msgvec, vlen, flags, timeout));
    };
    entry!({
        // SAFETY: the caller vouches for it, unless it is null.
        let deadline = match unsafe { timeout.as_ref() } {
            Some(&limit) => Some(runtime::now() + memory::span(limit)?),
            None => None,
        };
        if let Some(errno) = stream::take_error(&pin) {
            return Err(errno);
        }
        let mut flags = flags;
        let mut done = 0;
        while done < vlen.min(VECTORS_MAX as c_uint) {
            // SAFETY: within the caller's array.
            let entry = unsafe { &mut *msgvec.add(done as usize) };
            let one_at_least = flags & libc::MSG_WAITFORONE != 0;
            // SAFETY: the caller's contract.
            let received =
                unsafe { receive_message(&pin, &mut entry.msg_hdr, flags & !libc::MSG_WAITFORONE) };
            match received {
                Ok(count) => entry.msg_len = count as c_uint,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
            done += 1;
            if one_at_least {
                flags |= libc::MSG_DONTWAIT;
            }
            if deadline.is_some_and(|end| runtime::now() >= end) {
                break;
            }
        }
        Ok(done.cast_signed())
    })
}

/// `preadv2(2)` on any descriptor. On a luna connection the offset must be −1.
///
/// # Safety
///
/// As for `preadv2(2)`.
///
/// # Errors
///
/// Those of `preadv2(2)`: `ESPIPE` for an offset on a connection.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_preadv2(
    fd: c_int,
    iov: *const iovec,
    iovcnt: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    let Some(pin) = stream_behind(fd) else {
        return ended(forward!(preadv2, fd, iov, iovcnt, offset, 0, flags));
    };
    entry!({
        let flags = positioned(offset, flags)?;
        let count = vector_count(iovcnt)?;
        let receive = |bufs: &mut [std::io::IoSliceMut<'_>]| {
            if bufs.is_empty() {
                Ok(0)
            } else {
                stream::recv(&pin, bufs, flags)
            }
        };
        // SAFETY: the caller's contract.
        moved(unsafe { memory::filled_vectors(iov, count, receive) }?)
    })
}

/// The flags of `preadv2` and `pwritev2` as those of `recvmsg` and `sendmsg`.
fn positioned(offset: off_t, flags: c_int) -> Result<c_int, Errno> {
    if offset != -1 {
        return Err(Errno::SPIPE);
    }
    match flags {
        0 => Ok(0),
        libc::RWF_NOWAIT => Ok(libc::MSG_DONTWAIT),
        _ => Err(Errno::OPNOTSUPP),
    }
}

/// `write(2)` on any descriptor.
///
/// # Safety
///
/// As for `write(2)`.
///
/// # Errors
///
/// Those of `write(2)`, and on a luna connection those of `send(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_write(fd: c_int, buf: *const c_void, count: size_t) -> ssize_t {
    let Some(pin) = stream_behind(fd) else {
        return ended(forward!(write, fd, buf, count));
    };
    entry!({
        // SAFETY: the caller's contract.
        let bytes = unsafe { memory::bytes(buf, count) }?;
        moved(stream::send(&pin, &[IoSlice::new(bytes)], 0)?)
    })
}

/// `writev(2)` on any descriptor.
///
/// # Safety
///
/// As for `writev(2)`.
///
/// # Errors
///
/// Those of `writev(2)`, and on a luna connection those of `send(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_writev(fd: c_int, iov: *const iovec, iovcnt: c_int) -> ssize_t {
    let Some(pin) = stream_behind(fd) else {
        return ended(forward!(writev, fd, iov, iovcnt));
    };
    entry!({
        let count = vector_count(iovcnt)?;
        // SAFETY: the caller's contract.
        moved(unsafe {
            memory::sent_vectors(iov, count, |bufs| {
                if bufs.is_empty() {
                    Ok(0)
                } else {
                    stream::send(&pin, bufs, 0)
                }
            })
        }?)
    })
}

/// `pwritev2(2)` on any descriptor. On a luna connection the offset must be −1.
///
/// # Safety
///
/// As for `pwritev2(2)`.
///
/// # Errors
///
/// Those of `pwritev2(2)`: `ESPIPE` for an offset on a connection.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_pwritev2(
    fd: c_int,
    iov: *const iovec,
    iovcnt: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    let Some(pin) = stream_behind(fd) else {
        return ended(forward!(pwritev2, fd, iov, iovcnt, offset, 0, flags));
    };
    entry!({
        let flags = positioned(offset, flags)?;
        let count = vector_count(iovcnt)?;
        // SAFETY: the caller's contract.
        moved(unsafe {
            memory::sent_vectors(iov, count, |bufs| {
                if bufs.is_empty() {
                    Ok(0)
                } else {
                    stream::send(&pin, bufs, flags)
                }
            })
        }?)
    })
}

/// `send(2)` on any descriptor.
///
/// # Safety
///
/// As for `send(2)`.
///
/// # Errors
///
/// Those of `send(2)`; `EOPNOTSUPP` for `MSG_OOB` on a luna connection.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_send(
    fd: c_int,
    buf: *const c_void,
    count: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the caller's contract; there is no address.
    unsafe { luna_sendto(fd, buf, count, flags, core::ptr::null(), 0) }
}

/// `sendto(2)` on any descriptor. A connection ignores the address.
///
/// # Safety
///
/// As for `sendto(2)`.
///
/// # Errors
///
/// Those of `sendto(2)`; `EOPNOTSUPP` for `MSG_OOB` on a luna connection.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_sendto(
    fd: c_int,
    buf: *const c_void,
    count: size_t,
    flags: c_int,
    addr: *const sockaddr,
    addrlen: socklen_t,
) -> ssize_t {
    let Some(pin) = stream_behind(fd) else {
        leave_to_fast_open(fd, flags);
        return ended(forward!(sendto, fd, buf, count, flags, addr, addrlen));
    };
    entry!({
        // SAFETY: the caller's contract.
        let bytes = unsafe { memory::bytes(buf, count) }?;
        moved(stream::send(&pin, &[IoSlice::new(bytes)], flags)?)
    })
}

/// A send with `MSG_FASTOPEN` connects a socket behind our back: it is the kernel's from then on.
fn leave_to_fast_open(fd: c_int, flags: c_int) {
    if flags & libc::MSG_FASTOPEN != 0
        && let Some(pin) = socket::pin_checked(fd)
        && pin.kind() == Kind::Provisional
    {
        pin.set_kernel(Reason::Unsupported);
    }
}

/// `sendmsg(2)` on any descriptor. A connection ignores address and control messages.
///
/// # Safety
///
/// As for `sendmsg(2)`.
///
/// # Errors
///
/// Those of `sendmsg(2)`; `EOPNOTSUPP` for `MSG_OOB` on a luna connection.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
    let Some(pin) = stream_behind(fd) else {
        leave_to_fast_open(fd, flags);
        // SAFETY: the caller's contract.
        unsafe { note_passed(msg) };
        return ended(forward!(sendmsg, fd, msg, flags));
    };
    // SAFETY: the caller's contract.
    entry!({ moved(unsafe { send_message(&pin, msg, flags) }?) })
}

/// Looks for connections of ours among the descriptors that a message hands on.
///
/// # Safety
///
/// As for `sendmsg(2)`.
unsafe fn note_passed(msg: *const msghdr) {
    // SAFETY: the caller vouches for the message and its control part; the macros stay within it.
    unsafe {
        if msg.is_null() || (*msg).msg_control.is_null() {
            return;
        }
        let mut at = libc::CMSG_FIRSTHDR(msg);
        while let Some(header) = at.as_ref() {
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let bytes = header.cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
                let fds = libc::CMSG_DATA(at).cast::<c_int>();
                for index in 0..bytes / size_of::<c_int>() {
                    socket::passing::on_sent(fds.add(index).read_unaligned());
                }
            }
            at = libc::CMSG_NXTHDR(msg, at);
        }
    }
}

/// # Safety
///
/// As for `sendmsg(2)`.
unsafe fn send_message(pin: &Pin, msg: *const msghdr, flags: c_int) -> Result<usize, Errno> {
    // SAFETY: the caller vouches for it, unless it is null.
    let msg = unsafe { msg.as_ref() }.ok_or(Errno::FAULT)?;
    if msg.msg_iovlen > VECTORS_MAX {
        return Err(Errno::MSGSIZE);
    }
    // SAFETY: as above.
    unsafe {
        memory::sent_vectors(msg.msg_iov, msg.msg_iovlen, |bufs| {
            stream::send(pin, bufs, flags)
        })
    }
}

/// `sendmmsg(2)` on any descriptor.
///
/// # Safety
///
/// As for `sendmmsg(2)`.
///
/// # Errors
///
/// Those of `sendmmsg(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_sendmmsg(
    fd: c_int,
    msgvec: *mut mmsghdr,
    vlen: c_uint,
    flags: c_int,
) -> c_int {
    let Some(pin) = stream_behind(fd) else {
        return ended(forward!(sendmmsg, fd, msgvec, vlen, flags));
    };
    entry!({
        let mut done = 0;
        while done < vlen.min(VECTORS_MAX as c_uint) {
            // SAFETY: within the caller's array.
            let entry = unsafe { &mut *msgvec.add(done as usize) };
            // SAFETY: the caller's contract.
            match unsafe { send_message(&pin, &entry.msg_hdr, flags) } {
                Ok(count) => entry.msg_len = count as c_uint,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
            done += 1;
        }
        Ok(done.cast_signed())
    })
}

/// `sendfile(2)` to any descriptor. To a luna connection it copies once.
///
/// # Safety
///
/// As for `sendfile(2)`.
///
/// # Errors
///
/// Those of `sendfile(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_sendfile(
    out_fd: c_int,
    in_fd: c_int,
    offset: *mut off_t,
    count: size_t,
) -> ssize_t {
    let Some(pin) = stream_behind(out_fd) else {
        return ended(forward!(sendfile, out_fd, in_fd, offset, count));
    };
    entry!({
        // SAFETY: the caller vouches for it, unless it is null.
        let offset = unsafe { offset.as_mut() };
        moved(sendfile::sendfile(&pin, in_fd, offset, count)?)
    })
}
