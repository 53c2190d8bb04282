//! Calls that move bytes.

use libc::{
    c_int, c_uint, c_void, iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t,
    timespec,
};

use crate::hook::{self, Failure as _, hooks};
use crate::libluna::Libluna;
use crate::splice::{self, End};

hooks! {
    fn read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t = |luna| {
        // SAFETY: the caller's arguments, unchanged; so in every hook below.
        luna.on_blocking(fd, || unsafe { (luna.read)(fd, buf, len) })
    }

    fn __read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t = |luna| {
        // SAFETY: as above.
        unsafe { ours::read(luna, fd, buf, len) }
    }

    // The checked variants of `_FORTIFY_SOURCE`: an overflow is left to the real function, which
    // ends the process with its own message.
    fn __read_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t) -> ssize_t = |luna| {
        // SAFETY: as above.
        if len > room { None } else { unsafe { ours::read(luna, fd, buf, len) } }
    }

    fn write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t = |luna| {
        // SAFETY: as above.
        luna.on_blocking(fd, || unsafe { (luna.write)(fd, buf, len) })
    }

    fn __write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t = |luna| {
        // SAFETY: as above.
        unsafe { ours::write(luna, fd, buf, len) }
    }

    fn readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t = |luna| {
        // SAFETY: as above.
        luna.on_blocking(fd, || unsafe { (luna.readv)(fd, iov, count) })
    }

    fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t = |luna| {
        // SAFETY: as above.
        luna.on_blocking(fd, || unsafe { (luna.writev)(fd, iov, count) })
    }

    fn preadv2(fd: c_int, iov: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t
        = |luna| {
        // SAFETY: as above.
        unsafe { vector_at(luna, Direction::In, fd, (iov, count, offset, flags)) }
    }

    fn preadv64v2(fd: c_int, iov: *const iovec, count: c_int, offset: off_t, flags: c_int)
        -> ssize_t = |luna| {
        // SAFETY: as above.
        unsafe { ours::preadv2(luna, fd, iov, count, offset, flags) }
    }

    fn pwritev2(fd: c_int, iov: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t
        = |luna| {
        // SAFETY: as above.
        unsafe { vector_at(luna, Direction::Out, fd, (iov, count, offset, flags)) }
    }

    fn pwritev64v2(fd: c_int, iov: *const iovec, count: c_int, offset: off_t, flags: c_int)
        -> ssize_t = |luna| {
        // SAFETY: as above.
        unsafe { ours::pwritev2(luna, fd, iov, count, offset, flags) }
    }

    fn recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t = |luna| {
        // SAFETY: as above.
        luna.on_blocking(fd, || unsafe { (luna.recv)(fd, buf, len, flags) })
    }

    fn __recv_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t, flags: c_int) -> ssize_t
        = |luna| {
        // SAFETY: as above.
        if len > room { None } else { unsafe { ours::recv(luna, fd, buf, len, flags) } }
    }

    fn recvfrom(
        fd: c_int, buf: *mut c_void, len: size_t, flags: c_int,
        address: *mut sockaddr, address_len: *mut socklen_t,
    ) -> ssize_t = |luna| {
        luna.on_blocking(fd, || {
            // SAFETY: as above.
            unsafe { (luna.recvfrom)(fd, buf, len, flags, address, address_len) }
        })
    }

    fn __recvfrom_chk(
        fd: c_int, buf: *mut c_void, len: size_t, room: size_t, flags: c_int,
        address: *mut sockaddr, address_len: *mut socklen_t,
    ) -> ssize_t = |luna| {
        if len > room {
            return None;
        }
        // SAFETY: as above.
        unsafe { ours::recvfrom(luna, fd, buf, len, flags, address, address_len) }
    }

    fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t = |luna| {
        // SAFETY: as above.
        luna.on_blocking(fd, || unsafe { (luna.recvmsg)(fd, message, flags) })
    }

    fn recvmmsg(
        fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec,
    ) -> c_int = |luna| {
        luna.on_blocking(fd, || match luna.recvmmsg {
            // SAFETY: as above.
            Some(call) => unsafe { call(fd, messages, count, flags, timeout) },
            // SAFETY: as above.
            None => unsafe { recv_messages(luna, fd, messages, count, flags) },
        })
    }

    fn send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t = |luna| {
        // SAFETY: as above.
        luna.on_blocking(fd, || unsafe { (luna.send)(fd, buf, len, flags) })
    }

    fn __send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t = |luna| {
        // SAFETY: as above.
        unsafe { ours::send(luna, fd, buf, len, flags) }
    }

    fn sendto(
        fd: c_int, buf: *const c_void, len: size_t, flags: c_int,
        address: *const sockaddr, address_len: socklen_t,
    ) -> ssize_t = |luna| {
        luna.on_blocking(fd, || {
            // SAFETY: as above.
            unsafe { (luna.sendto)(fd, buf, len, flags, address, address_len) }
        })
    }

    fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t = |luna| {
        // SAFETY: as above.
        let call = || unsafe { (luna.sendmsg)(fd, message, flags) };
        // SAFETY: as above.
        if !luna.owns(fd) && !hook::is_inside() && unsafe { has_control(message) } {
            // It may hand on a connection of ours.
            return Some(hook::inside_blocking(call));
        }
        luna.on_blocking(fd, call)
    }

    fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int = |luna| {
        luna.on_blocking(fd, || match luna.sendmmsg {
            // SAFETY: as above.
            Some(call) => unsafe { call(fd, messages, count, flags) },
            // SAFETY: as above.
            None => unsafe { send_messages(luna, fd, messages, count, flags) },
        })
    }

    // From one of our sockets there is nothing to send: its placeholder gives the kernel's answer.
    fn sendfile(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t = |luna| {
        luna.on_blocking(out, || match luna.sendfile {
            // SAFETY: as above.
            Some(call) => unsafe { call(out, input, offset, count) },
            None => hook::fail(libc::EINVAL),
        })
    }

    fn sendfile64(out: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t
        = |luna| {
        // SAFETY: as above.
        unsafe { ours::sendfile(luna, out, input, offset, count) }
    }

    // The kernel can splice from and to what is only kept track of.
    fn splice(
        input: c_int, input_offset: *mut off_t, output: c_int, output_offset: *mut off_t,
        len: size_t, flags: c_uint,
    ) -> ssize_t = |luna| {
        if hook::is_inside() || !luna.serves(input) && !luna.serves(output) {
            return None;
        }
        let input = End { fd: input, offset: input_offset };
        let output = End { fd: output, offset: output_offset };
        Some(hook::inside_blocking(|| splice::splice(luna, input, output, len, flags)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

/// `preadv2` and `pwritev2`. On a socket an offset other than −1 is `ESPIPE`, which the
/// placeholder says by itself; without one they are `readv` and `writev` with flags.
unsafe fn vector_at(
    luna: &'static Libluna,
    direction: Direction,
    fd: c_int,
    (iov, count, offset, flags): (*const iovec, c_int, off_t, c_int),
) -> Option<ssize_t> {
    if offset != -1 {
        return None;
    }
    let own = if direction == Direction::In {
        luna.preadv2
    } else {
        luna.pwritev2
    };
    luna.on_blocking(fd, || {
        if let Some(call) = own {
            // SAFETY: the caller's arguments, unchanged.
            return unsafe { call(fd, iov, count, offset, flags) };
        }
        // Of the flags only this one has a meaning on a socket; the others are hints.
        let message_flags = if flags & libc::RWF_NOWAIT != 0 {
            libc::MSG_DONTWAIT
        } else {
            0
        };
        // SAFETY: an all-zero msghdr is a valid one.
        let mut message: msghdr = unsafe { core::mem::zeroed() };
        message.msg_iov = iov.cast_mut();
        message.msg_iovlen = count.max(0) as usize;
        // SAFETY: the caller's vector; neither call writes to the vector itself.
        unsafe {
            match direction {
                Direction::In => (luna.recvmsg)(fd, &mut message, message_flags),
                Direction::Out => (luna.sendmsg)(fd, &message, message_flags),
            }
        }
    })
}

/// `sendmmsg` out of `sendmsg`: an error after the first message is reported by the next call.
unsafe fn send_messages(
    luna: &'static Libluna,
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> c_int {
    for done in 0..count.min(libc::UIO_MAXIOV as c_uint) {
        // SAFETY: the caller gave `count` messages.
        let message = unsafe { &mut *messages.add(done as usize) };
        // SAFETY: one of the caller's messages.
        let sent = unsafe { (luna.sendmsg)(fd, &message.msg_hdr, flags) };
        if sent.is_failure() {
            return if done == 0 { -1 } else { done as c_int };
        }
        message.msg_len = sent as c_uint;
    }
    count.min(libc::UIO_MAXIOV as c_uint) as c_int
}

/// `recvmmsg` out of `recvmsg`. A stream socket has no message borders, and at its end every
/// message is empty. The timeout is looked at by the kernel only between messages, so that here,
/// where later messages never wait, it changes nothing.
unsafe fn recv_messages(
    luna: &'static Libluna,
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> c_int {
    let count = count.min(libc::UIO_MAXIOV as c_uint);
    for done in 0..count {
        let wait = if done == 0 { 0 } else { libc::MSG_DONTWAIT };
        // SAFETY: the caller gave `count` messages.
        let message = unsafe { &mut *messages.add(done as usize) };
        let flags = (flags & !libc::MSG_WAITFORONE) | wait;
        // SAFETY: one of the caller's messages.
        let received = unsafe { (luna.recvmsg)(fd, &mut message.msg_hdr, flags) };
        if received.is_failure() {
            return if done == 0 { -1 } else { done as c_int };
        }
        message.msg_len = received as c_uint;
    }
    count as c_int
}

/// # Safety
/// As for `sendmsg(2)`.
unsafe fn has_control(message: *const msghdr) -> bool {
    // SAFETY: null, or the caller vouches for it.
    unsafe { message.as_ref() }
        .is_some_and(|message| !message.msg_control.is_null() && message.msg_controllen > 0)
}
