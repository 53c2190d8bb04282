//! System calls on descriptor numbers. A number may be closed or reused by the application at
//! any moment, as with any C program: the worst that follows is an error or an operation on
//! another file, never a memory error, which is why these functions are safe.

use core::ffi::c_int;
use std::os::fd::RawFd;

use syscalls::Sysno;

use super::{Errno, raw};

/// Room for any socket address that we handle (`struct sockaddr_storage`).
pub const SOCKADDR_BYTES_MAX: usize = 128;

fn word(value: c_int) -> usize {
    value as isize as usize
}

fn descriptor(result: Result<usize, Errno>) -> Result<RawFd, Errno> {
    result.map(|number| number as RawFd)
}

/// `close(2)`.
pub fn close(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: no pointers.
    unsafe { raw(Sysno::close, [word(fd), 0, 0, 0, 0, 0]) }.map(drop)
}

/// `close_range(2)`.
pub fn close_range(first: u32, last: u32, flags: u32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    unsafe {
        raw(
            Sysno::close_range,
            [first as usize, last as usize, flags as usize, 0, 0, 0],
        )
    }
    .map(drop)
}

/// `dup(2)`.
pub fn dup(fd: RawFd) -> Result<RawFd, Errno> {
    // SAFETY: no pointers.
    descriptor(unsafe { raw(Sysno::dup, [word(fd), 0, 0, 0, 0, 0]) })
}

/// `dup3(2)`.
pub fn dup3(from: RawFd, to: RawFd, flags: c_int) -> Result<RawFd, Errno> {
    // SAFETY: no pointers.
    descriptor(unsafe { raw(Sysno::dup3, [word(from), word(to), word(flags), 0, 0, 0]) })
}

/// `fcntl(2)` with a command whose argument is a number (or none).
fn fcntl_number(fd: RawFd, command: c_int, argument: c_int) -> Result<c_int, Errno> {
    // SAFETY: the commands that this file passes take no pointer.
    unsafe {
        raw(
            Sysno::fcntl,
            [word(fd), word(command), word(argument), 0, 0, 0],
        )
    }
    .map(|value| value as c_int)
}

/// `F_DUPFD` or, if `cloexec`, `F_DUPFD_CLOEXEC`.
pub fn dup_from(fd: RawFd, least: c_int, cloexec: bool) -> Result<RawFd, Errno> {
    fcntl_number(
        fd,
        if cloexec {
            libc::F_DUPFD_CLOEXEC
        } else {
            libc::F_DUPFD
        },
        least,
    )
}

/// The numbers of all open descriptors, the one that looks included; none without `/proc`.
pub fn open_descriptors() -> impl Iterator<Item = RawFd> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// `F_GETFL`.
pub fn status_flags(fd: RawFd) -> Result<c_int, Errno> {
    fcntl_number(fd, libc::F_GETFL, 0)
}

/// `F_SETFL`.
pub fn set_status_flags(fd: RawFd, flags: c_int) -> Result<(), Errno> {
    fcntl_number(fd, libc::F_SETFL, flags).map(drop)
}

/// `F_GETFD`.
pub fn descriptor_flags(fd: RawFd) -> Result<c_int, Errno> {
    fcntl_number(fd, libc::F_GETFD, 0)
}

/// `F_SETFD`.
pub fn set_descriptor_flags(fd: RawFd, flags: c_int) -> Result<(), Errno> {
    fcntl_number(fd, libc::F_SETFD, flags).map(drop)
}

/// `socket(2)`.
pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> Result<RawFd, Errno> {
    // SAFETY: no pointers.
    descriptor(unsafe {
        raw(
            Sysno::socket,
            [word(domain), word(kind), word(protocol), 0, 0, 0],
        )
    })
}

/// `listen(2)`.
pub fn listen(fd: RawFd, backlog: c_int) -> Result<(), Errno> {
    // SAFETY: no pointers.
    unsafe { raw(Sysno::listen, [word(fd), word(backlog), 0, 0, 0, 0]) }.map(drop)
}

/// `shutdown(2)`.
pub fn shutdown(fd: RawFd, how: c_int) -> Result<(), Errno> {
    // SAFETY: no pointers.
    unsafe { raw(Sysno::shutdown, [word(fd), word(how), 0, 0, 0, 0]) }.map(drop)
}

/// `bind(2)` to an address in the kernel's form.
pub fn bind(fd: RawFd, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: the kernel reads `len` bytes of a live slice.
    unsafe {
        raw(
            Sysno::bind,
            [word(fd), address.as_ptr() as usize, address.len(), 0, 0, 0],
        )
    }
    .map(drop)
}

/// `connect(2)` to an address in the kernel's form.
pub fn connect(fd: RawFd, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: as in `bind`.
    unsafe {
        raw(
            Sysno::connect,
            [word(fd), address.as_ptr() as usize, address.len(), 0, 0, 0],
        )
    }
    .map(drop)
}

/// An address in the kernel's form, and how many of its bytes are valid.
#[derive(Clone, Copy, Debug)]
pub struct RawAddress {
    bytes: [u8; SOCKADDR_BYTES_MAX],
    len: usize,
}

impl RawAddress {
    /// The valid bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

fn address_call(number: Sysno, fd: RawFd, flags: c_int) -> Result<(usize, RawAddress), Errno> {
    let mut bytes = [0_u8; SOCKADDR_BYTES_MAX];
    let mut len = SOCKADDR_BYTES_MAX as u32;
    // SAFETY: the kernel writes at most `len` bytes to `bytes`, and `len` itself.
    let value = unsafe {
        raw(
            number,
            [
                word(fd),
                bytes.as_mut_ptr() as usize,
                core::ptr::from_mut(&mut len) as usize,
                word(flags),
                0,
                0,
            ],
        )
    }?;
    Ok((
        value,
        RawAddress {
            bytes,
            len: len as usize,
        },
    ))
}

/// `getsockname(2)`.
pub fn getsockname(fd: RawFd) -> Result<RawAddress, Errno> {
    address_call(Sysno::getsockname, fd, 0).map(|(_, address)| address)
}

/// `getpeername(2)`.
pub fn getpeername(fd: RawFd) -> Result<RawAddress, Errno> {
    address_call(Sysno::getpeername, fd, 0).map(|(_, address)| address)
}

/// `accept4(2)`.
pub fn accept4(fd: RawFd, flags: c_int) -> Result<(RawFd, RawAddress), Errno> {
    address_call(Sysno::accept4, fd, flags).map(|(fd, address)| (fd as RawFd, address))
}

/// `getsockopt(2)` into a buffer; returns how many bytes the kernel wrote.
pub fn getsockopt(fd: RawFd, level: c_int, name: c_int, value: &mut [u8]) -> Result<usize, Errno> {
    let mut len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    // SAFETY: the kernel writes at most `len` bytes to the slice, and `len` itself.
    unsafe {
        raw(
            Sysno::getsockopt,
            [
                word(fd),
                word(level),
                word(name),
                value.as_mut_ptr() as usize,
                core::ptr::from_mut(&mut len) as usize,
                0,
            ],
        )
    }?;
    Ok(len as usize)
}

/// A `getsockopt` whose value is an `int`.
pub fn getsockopt_int(fd: RawFd, level: c_int, name: c_int) -> Result<c_int, Errno> {
    let mut value = [0_u8; 4];
    getsockopt(fd, level, name, &mut value)?;
    Ok(c_int::from_ne_bytes(value))
}

/// `setsockopt(2)`.
pub fn setsockopt(fd: RawFd, level: c_int, name: c_int, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: the kernel reads `len` bytes of a live slice.
    unsafe {
        raw(
            Sysno::setsockopt,
            [
                word(fd),
                word(level),
                word(name),
                value.as_ptr() as usize,
                value.len(),
                0,
            ],
        )
    }
    .map(drop)
}

/// The processor that the calling thread is on, or -1.
pub fn current_cpu() -> c_int {
    let mut cpu: libc::c_uint = 0;
    // SAFETY: the kernel writes the number to a live integer; the others are null and not used.
    let result = unsafe { raw(Sysno::getcpu, [(&raw mut cpu) as usize, 0, 0, 0, 0, 0]) };
    result.map_or(-1, |_| c_int::try_from(cpu).unwrap_or(-1))
}

/// `read(2)` into a buffer.
pub fn read(fd: RawFd, buf: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `len` bytes to a live slice.
    unsafe {
        raw(
            Sysno::read,
            [word(fd), buf.as_mut_ptr() as usize, buf.len(), 0, 0, 0],
        )
    }
}

/// `pread(2)` into a buffer.
pub fn pread(fd: RawFd, buf: &mut [u8], offset: i64) -> Result<usize, Errno> {
    // SAFETY: as in `read`.
    unsafe {
        raw(
            Sysno::pread64,
            [
                word(fd),
                buf.as_mut_ptr() as usize,
                buf.len(),
                offset as usize,
                0,
                0,
            ],
        )
    }
}

/// `write(2)`.
pub fn write(fd: RawFd, buf: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel reads `len` bytes of a live slice.
    unsafe {
        raw(
            Sysno::write,
            [word(fd), buf.as_ptr() as usize, buf.len(), 0, 0, 0],
        )
    }
}

/// Most buffers that [`send`] gives to the kernel at once.
const SEND_VECTORS_MAX: usize = 16;

/// `sendmsg(2)` of some buffers, the first few if there are many, with `MSG_NOSIGNAL` and
/// `MSG_DONTWAIT` besides `flags`.
///
/// # Errors
///
/// Those of `sendmsg(2)`.
pub fn send<'a>(
    fd: RawFd,
    buffers: impl Iterator<Item = &'a [u8]>,
    flags: c_int,
) -> Result<usize, Errno> {
    let mut vectors = arrayvec::ArrayVec::<libc::iovec, SEND_VECTORS_MAX>::new();
    for buffer in buffers.take(SEND_VECTORS_MAX) {
        vectors.push(libc::iovec {
            iov_base: buffer.as_ptr().cast_mut().cast(),
            iov_len: buffer.len(),
        });
    }
    // SAFETY: all zero is a message without a name, vectors or control.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = vectors.len();
    let flags = flags | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    let at = &raw const message as usize;
    // SAFETY: the kernel reads the message and live slices.
    unsafe { raw(Sysno::sendmsg, [word(fd), at, word(flags), 0, 0, 0]) }
}

/// `lseek(2)`.
pub fn lseek(fd: RawFd, offset: i64, whence: c_int) -> Result<i64, Errno> {
    // SAFETY: no pointers.
    unsafe {
        raw(
            Sysno::lseek,
            [word(fd), offset as usize, word(whence), 0, 0, 0],
        )
    }
    .map(|position| position as i64)
}

/// Device and inode of a descriptor's file: what tells our placeholder from a stranger that got
/// its number.
pub fn identity(fd: RawFd) -> Result<(u64, u64), Errno> {
    // SAFETY: all-zero bytes are a valid `struct stat`.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: the kernel writes one `struct stat`.
    unsafe {
        raw(
            Sysno::fstat,
            [
                word(fd),
                core::ptr::from_mut(&mut stat) as usize,
                0,
                0,
                0,
                0,
            ],
        )
    }?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The events that `poll(2)` reports for one descriptor now, without waiting.
pub fn poll_now(fd: RawFd, events: i16) -> Result<i16, Errno> {
    let mut entry = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    let zero = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: one pollfd and one timespec, both live; no signal mask.
    unsafe {
        raw(
            Sysno::ppoll,
            [
                core::ptr::from_mut(&mut entry) as usize,
                1,
                core::ptr::from_ref(&zero) as usize,
                0,
                0,
                0,
            ],
        )
    }?;
    Ok(entry.revents)
}

/// The kernel's process id (a `vfork` child has its own).
pub fn getpid() -> u32 {
    rustix::process::getpid()
        .as_raw_nonzero()
        .get()
        .cast_unsigned()
}

/// Sends a signal to the calling thread.
pub fn raise(signal: c_int) {
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    // SAFETY: no pointers. Our own thread exists, so there is nothing to fail.
    let _cannot_fail = unsafe {
        raw(
            Sysno::tgkill,
            [getpid() as usize, word(thread), word(signal), 0, 0, 0],
        )
    };
}

/// The limit on descriptor numbers that `fcntl(F_DUPFD)` and `dup2` obey (`RLIMIT_NOFILE`).
pub fn descriptor_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX)
}
