//! `splice` between a pipe and a connection of luna's, by copying.
//!
//! Nothing is lost on the way: bytes leave the pipe, or the connection, only when the other side
//! has taken them.

use core::ptr;

use libc::{c_int, c_uint, c_void, iovec, off_t, pollfd, size_t, ssize_t};

use crate::hook::{self, Failure as _, errno, fail};
use crate::io_calls::real;
use crate::libluna::Libluna;

/// What is moved at most: a pipe's usual size.
const BYTES_MAX: usize = 64 * 1024;

const FLAGS: c_uint =
    libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MORE | libc::SPLICE_F_GIFT;

/// One end of the call.
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub(crate) fd: c_int,
    pub(crate) offset: *mut off_t,
}

/// The call, one end of which is a connection of luna's (or was, when it was looked at).
pub(crate) fn splice(
    luna: &Libluna,
    input: End,
    output: End,
    len: size_t,
    flags: c_uint,
) -> ssize_t {
    if len == 0 {
        return 0;
    }
    if flags & !FLAGS != 0 {
        return fail(libc::EINVAL);
    }
    let (from_pipe, to_pipe) = (is_pipe(input.fd), is_pipe(output.fd));
    let (pipe, socket) = if from_pipe {
        (input, output)
    } else {
        (output, input)
    };
    if !from_pipe && !to_pipe {
        return fail(libc::EINVAL);
    }
    if !pipe.offset.is_null() {
        return fail(libc::ESPIPE);
    }
    if !socket.offset.is_null() {
        return fail(libc::EINVAL);
    }
    let mut bytes = vec![0; len.min(BYTES_MAX)];
    if from_pipe {
        to_socket(luna, input.fd, output.fd, &mut bytes, flags)
    } else {
        from_socket(luna, input.fd, output.fd, &mut bytes, flags)
    }
}

fn is_pipe(fd: c_int) -> bool {
    // SAFETY: a command without an argument.
    let size = unsafe { crate::fd_calls::real::fcntl(fd, libc::F_GETPIPE_SZ, 0) };
    size > 0
}

/// Looks at what is in the pipe, sends it, and takes out what was sent.
fn to_socket(
    luna: &Libluna,
    pipe: c_int,
    socket: c_int,
    bytes: &mut [u8],
    flags: c_uint,
) -> ssize_t {
    let mut copies = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(copies.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return -1;
    }
    let [copy, copy_in] = copies;
    let at = bytes.as_mut_ptr().cast::<c_void>();
    let more = if flags & libc::SPLICE_F_MORE != 0 {
        libc::MSG_MORE
    } else {
        0
    };
    // SAFETY: descriptors that are ours or the caller's, and a buffer of this length.
    let sent = unsafe {
        let seen = libc::tee(pipe, copy_in, bytes.len(), flags & libc::SPLICE_F_NONBLOCK);
        if seen > 0 {
            let seen = real::read(copy, at, seen as size_t);
            (luna.send)(socket, at, seen.max(0) as size_t, more)
        } else {
            seen
        }
    };
    let number = errno();
    for end in copies {
        // SAFETY: ours, and not used again.
        unsafe { crate::fd_calls::real::close(end) };
    }
    if sent > 0 {
        // SAFETY: as above: so much is in the pipe.
        unsafe { real::read(pipe, at, sent as size_t) };
    }
    hook::set_errno(number);
    sent
}

/// Looks at what has arrived, writes it to the pipe, and takes off what was written.
fn from_socket(
    luna: &Libluna,
    socket: c_int,
    pipe: c_int,
    bytes: &mut [u8],
    flags: c_uint,
) -> ssize_t {
    // SAFETY: a command without an argument.
    let status = unsafe { crate::fd_calls::real::fcntl(pipe, libc::F_GETFL, 0) };
    let may_wait = flags & libc::SPLICE_F_NONBLOCK == 0 && status & libc::O_NONBLOCK == 0;
    let at = bytes.as_mut_ptr().cast::<c_void>();
    // SAFETY: the caller's socket and a buffer of this length.
    let seen = unsafe { (luna.recv)(socket, at, bytes.len(), libc::MSG_PEEK) };
    if seen.is_failure() || seen == 0 {
        return seen;
    }
    let part = iovec {
        iov_base: at,
        iov_len: seen as size_t,
    };
    let written = loop {
        // SAFETY: the caller's pipe and a part of the buffer.
        let written = unsafe { real::pwritev2(pipe, &part, 1, -1, libc::RWF_NOWAIT) };
        if !(written.is_failure() && errno() == libc::EAGAIN && may_wait) {
            break written;
        }
        let mut entry = pollfd {
            fd: pipe,
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: one entry.
        if unsafe { crate::event_calls::real::poll(&mut entry, 1, -1) }.is_failure() {
            return -1;
        }
    };
    if written > 0 {
        let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
        // SAFETY: without a buffer, nothing is stored.
        unsafe { (luna.recv)(socket, ptr::null_mut(), written as size_t, flags) };
    }
    written
}
