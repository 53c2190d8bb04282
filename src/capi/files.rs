//! What all descriptors have: `close`, `dup`, `fcntl`, `ioctl`.

use core::ffi::{c_int, c_long, c_uint, c_ulong};

use super::macros::{ended, entry, forward};
use crate::socket::calls::{self, IoctlAnswer};
use crate::socket::description::{Kind, Pin};
use crate::socket::{self, close, duplicate, placeholder};
use crate::sys::{Errno, internal};

/// `close(2)`.
///
/// # Safety
///
/// None: any number is fine.
///
/// # Errors
///
/// Those of `close(2)`. `EBADF` for a descriptor that luna keeps for itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_close(fd: c_int) -> c_int {
    entry!({ close::close(fd).map(|()| 0) })
}

/// `close_range(2)`. Passes over the descriptors that luna keeps for itself.
///
/// # Safety
///
/// None: any numbers are fine.
///
/// # Errors
///
/// Those of `close_range(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    entry!({ close::close_range(first, last, flags.cast_unsigned()).map(|()| 0) })
}

/// `dup(2)`.
///
/// # Safety
///
/// None: any number is fine.
///
/// # Errors
///
/// Those of `dup(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_dup(fd: c_int) -> c_int {
    entry!({ duplicate::dup(fd) })
}

/// `dup2(2)`. Calls that wait on a luna socket that it replaces end.
///
/// # Safety
///
/// None: any numbers are fine.
///
/// # Errors
///
/// Those of `dup2(2)`. `EBUSY` where luna keeps a descriptor for itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_dup2(oldfd: c_int, newfd: c_int) -> c_int {
    entry!({ duplicate::dup2(oldfd, newfd) })
}

/// `dup3(2)`. Calls that wait on a luna socket that it replaces end.
///
/// # Safety
///
/// None: any numbers are fine.
///
/// # Errors
///
/// Those of `dup3(2)`. `EBUSY` where luna keeps a descriptor for itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_dup3(oldfd: c_int, newfd: c_int, flags: c_int) -> c_int {
    entry!({ duplicate::dup3(oldfd, newfd, flags) })
}

/// `fcntl(2)`, with one argument of the size of a pointer.
///
/// # Safety
///
/// As for `fcntl(2)` with this command.
///
/// # Errors
///
/// Those of `fcntl(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_fcntl(fd: c_int, cmd: c_int, arg: c_long) -> c_int {
    match cmd {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            let cloexec = cmd == libc::F_DUPFD_CLOEXEC;
            return entry!({ duplicate::dup_from(fd, arg as c_int, cloexec) });
        }
        libc::F_GETFL | libc::F_SETFL => {}
        F_SETOWN | F_GETOWN | F_SETSIG | F_GETSIG | F_SETOWN_EX | F_GETOWN_EX => {
            return match shared_placeholder(fd) {
                // SAFETY: the caller's contract.
                Some(pin) => entry!({ unsafe { owner(&pin, cmd, arg) } }),
                None => ended(forward!(fcntl, fd, cmd, arg)),
            };
        }
        _ => return ended(forward!(fcntl, fd, cmd, arg)),
    }
    let Some(pin) = socket::pin_checked(fd) else {
        return ended(forward!(fcntl, fd, cmd, arg));
    };
    entry!({
        if cmd == libc::F_GETFL {
            return calls::status_flags(&pin);
        }
        calls::set_status_flags(&pin, arg as c_int).map(|()| 0)
    })
}

const F_SETOWN: c_int = libc::F_SETOWN;
const F_GETOWN: c_int = libc::F_GETOWN;
// The C library hides these behind `_GNU_SOURCE`, and the libc crate does not have them.
const F_SETSIG: c_int = 10;
const F_GETSIG: c_int = 11;
const F_SETOWN_EX: c_int = 15;
const F_GETOWN_EX: c_int = 16;
/// `struct f_owner_ex`'s types.
const F_OWNER_PID: c_int = 1;
const F_OWNER_PGRP: c_int = 2;

/// The stream behind a number whose kernel file is shared with other streams.
fn shared_placeholder(fd: c_int) -> Option<Pin> {
    let pin = socket::pin_checked(fd)?;
    let is_shared = matches!(pin.kind(), Kind::Stream | Kind::Dead) && !pin.socket.lock().has_twin;
    is_shared.then_some(pin)
}

/// Who is told of input by which signal. Remembered for the connection, for the kernel's file
/// stands for others too; the kernel judges, on a socket of our own. No signal is ever sent.
///
/// # Safety
///
/// As for `fcntl(2)` with this command.
unsafe fn owner(pin: &Pin, cmd: c_int, arg: c_long) -> Result<c_int, Errno> {
    let (family, (owner, signal)) = {
        let cell = pin.socket.lock();
        (cell.family, cell.owner)
    };
    match cmd {
        F_GETOWN => return Ok(owner),
        F_GETSIG => return Ok(signal),
        F_GETOWN_EX => {
            let told: *mut [c_int; 2] = arg as *mut [c_int; 2];
            if told.is_null() {
                return Err(Errno::FAULT);
            }
            let kind = if owner < 0 { F_OWNER_PGRP } else { F_OWNER_PID };
            // SAFETY: not null, and the command takes a pointer to two ints.
            unsafe { told.write_unaligned([kind, owner.saturating_abs()]) };
            return Ok(0);
        }
        _ => {}
    }
    let told = placeholder::with_judge(family, |judge| {
        forward!(fcntl, judge, cmd, arg)?;
        let told = (
            forward!(fcntl, judge, F_GETOWN, 0)? as c_int,
            forward!(fcntl, judge, F_GETSIG, 0)? as c_int,
        );
        forward!(fcntl, judge, F_SETOWN, 0)?;
        forward!(fcntl, judge, F_SETSIG, 0)?;
        Ok(told)
    })?;
    let mut cell = pin.socket.lock();
    if cmd == F_SETSIG {
        cell.owner.1 = told.1;
    } else {
        cell.owner.0 = told.0;
    }
    Ok(0)
}

/// `ioctl(2)`, with one argument of the size of a pointer.
///
/// # Safety
///
/// As for `ioctl(2)` with this request.
///
/// # Errors
///
/// Those of `ioctl(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_ioctl(fd: c_int, request: c_ulong, arg: c_long) -> c_int {
    // The kernel looks at 32 bits; sign extension by the caller must not matter.
    let request = request & 0xffff_ffff;
    let ours = |kind| matches!(kind, Kind::Stream | Kind::Listener | Kind::Dead);
    let Some(pin) = socket::pin_checked(fd).filter(|pin| ours(pin.kind())) else {
        return ended(forward!(ioctl, fd, request, arg));
    };
    entry!({
        let pointer = arg as *mut c_int;
        let owns = matches!(request, FIOSETOWN | SIOCSPGRP | FIOGETOWN | SIOCGPGRP);
        if let Some(pin) = owns.then(|| shared_placeholder(fd)).flatten() {
            if pointer.is_null() {
                return Err(Errno::FAULT);
            }
            if matches!(request, FIOGETOWN | SIOCGPGRP) {
                let owner = pin.socket.lock().owner.0;
                // SAFETY: these requests take a pointer to an int, which is not null.
                unsafe { pointer.write_unaligned(owner) };
                return Ok(0);
            }
            // SAFETY: as above.
            let owner = unsafe { pointer.read_unaligned() };
            // SAFETY: the command takes a number.
            return unsafe { self::owner(&pin, F_SETOWN, c_long::from(owner)) };
        }
        let flag = match request {
            libc::FIONBIO => libc::O_NONBLOCK,
            libc::FIOASYNC => libc::O_ASYNC,
            _ => 0,
        };
        if flag != 0 {
            if pointer.is_null() {
                return Err(Errno::FAULT);
            }
            // SAFETY: these requests take a pointer to an int, which is not null.
            pin.change_status_flag(flag, unsafe { pointer.read_unaligned() } != 0);
            return Ok(0);
        }
        match calls::ioctl_int(&pin, request)? {
            IoctlAnswer::Int(_) if pointer.is_null() => Err(Errno::FAULT),
            IoctlAnswer::Int(value) => {
                // SAFETY: as above.
                unsafe { pointer.write_unaligned(value) };
                Ok(0)
            }
            IoctlAnswer::Forward => forward!(ioctl, fd, request, arg).map(|value| value as c_int),
        }
    })
}

const FIOSETOWN: c_ulong = 0x8901;
const SIOCSPGRP: c_ulong = 0x8902;
const FIOGETOWN: c_ulong = 0x8903;
const SIOCGPGRP: c_ulong = 0x8904;

/// Whether a descriptor is one of those that luna keeps for itself.
///
/// # Safety
///
/// None: any number is fine. Leaves `errno` alone.
///
/// # Errors
///
/// None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_fd_internal(fd: c_int) -> c_int {
    c_int::from(internal::is_internal(fd))
}

/// The lowest number, from `fd` on, that luna knows: one of the application's that it keeps
/// track of, or one that it keeps for itself. −1 if there is none. For loops that close
/// everything.
///
/// # Safety
///
/// None: any number is fine. Leaves `errno` alone.
///
/// # Errors
///
/// None: −1 means "none".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_fd_next(fd: c_int) -> c_int {
    let first = u32::try_from(fd).unwrap_or(0);
    let tracked = socket::table::ours(first, u32::MAX)
        .next()
        .map(|(fd, _)| fd);
    let kept = internal::internal_fds()
        .into_iter()
        .find(|kept| kept.cast_unsigned() >= first);
    match (tracked, kept) {
        (Some(tracked), Some(kept)) => tracked.min(kept),
        (one, other) => one.or(other).unwrap_or(-1),
    }
}
