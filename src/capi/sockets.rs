//! The life of a socket: `socket`, `bind`, `listen`, `accept`, `connect`, names and options.

use core::ffi::{c_int, c_void};

use libc::{sockaddr, socklen_t};

use super::macros::{ended, entry, forward};
use super::memory;
use crate::socket::description::Kind;
use crate::socket::{self, addr::Encoded, calls, connect, listener};
use crate::sys::{self, Errno};

/// The longest option value that is looked at.
const VALUE_BYTES_MAX: usize = 4096;

/// `socket(2)`. TCP sockets of either family may become luna's at `luna_listen` or
/// `luna_connect`; until then, and all others for good, they are the kernel's.
///
/// # Safety
///
/// None: any arguments are fine.
///
/// # Errors
///
/// Those of `socket(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    entry!({ calls::socket(domain, kind, protocol) })
}

/// `bind(2)`.
///
/// # Safety
///
/// As for `bind(2)`.
///
/// # Errors
///
/// Those of `bind(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_bind(fd: c_int, addr: *const sockaddr, addrlen: socklen_t) -> c_int {
    let Some(pin) = socket::pin_checked(fd) else {
        return ended(forward!(bind, fd, addr, addrlen));
    };
    entry!({
        match pin.kind() {
            // The kernel's word, also on what is wrong with the address. A listener and a
            // connected twin are bound there.
            Kind::Provisional | Kind::Kernel | Kind::Listener => {
                // SAFETY: the caller's contract.
                if let Ok(address) = unsafe { memory::address(addr, addrlen) } {
                    calls::permit_bind(&pin, address);
                }
                forward!(bind, fd, addr, addrlen).map(|_| 0)
            }
            Kind::Stream | Kind::Dead => {
                // SAFETY: the caller's contract.
                let address = unsafe { memory::address(addr, addrlen) }?;
                calls::bind_again(&pin, address).map(|()| 0)
            }
            Kind::Epoll => Err(Errno::NOTSOCK),
        }
    })
}

/// `listen(2)`. A socket on one of luna's ports and addresses listens on the stack as well as
/// on the kernel; whatever keeps it from doing so is reported on stderr, and is no error.
///
/// # Safety
///
/// None: any arguments are fine.
///
/// # Errors
///
/// Those of `listen(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_listen(fd: c_int, backlog: c_int) -> c_int {
    let Some(pin) = socket::pin_checked(fd) else {
        return ended(forward!(listen, fd, backlog));
    };
    entry!({ listener::listen(&pin, backlog).map(|()| 0) })
}

/// `accept(2)`: connections of the stack and of the kernel, in turn.
///
/// # Safety
///
/// As for `accept(2)`.
///
/// # Errors
///
/// Those of `accept(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_accept(
    fd: c_int,
    addr: *mut sockaddr,
    addrlen: *mut socklen_t,
) -> c_int {
    // SAFETY: the caller's contract.
    unsafe { luna_accept4(fd, addr, addrlen, 0) }
}

/// `accept4(2)`: connections of the stack and of the kernel, in turn.
///
/// # Safety
///
/// As for `accept4(2)`.
///
/// # Errors
///
/// Those of `accept4(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_accept4(
    fd: c_int,
    addr: *mut sockaddr,
    addrlen: *mut socklen_t,
    flags: c_int,
) -> c_int {
    let pin = socket::pin_checked(fd);
    let Some(pin) = pin.filter(|pin| pin.kind() != Kind::Kernel) else {
        return entry!({
            let accepted = forward!(accept4, fd, addr, addrlen, flags)? as c_int;
            socket::forget_number(accepted);
            Ok(accepted)
        });
    };
    entry!({
        if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
            return Err(Errno::INVAL);
        }
        match pin.kind() {
            Kind::Listener => {}
            Kind::Epoll => return Err(Errno::NOTSOCK),
            _ => return Err(Errno::INVAL),
        }
        let accepted = listener::accept(&pin, flags)?;
        // SAFETY: the caller's contract.
        match unsafe { memory::store_address(&accepted.peer, addr, addrlen) } {
            Ok(()) => Ok(accepted.fd),
            Err(errno) => {
                socket::close::close(accepted.fd)?;
                Err(errno)
            }
        }
    })
}

/// `connect(2)`. A destination that `LUNA_CONNECT` names is reached over the stack.
///
/// # Safety
///
/// As for `connect(2)`.
///
/// # Errors
///
/// Those of `connect(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_connect(
    fd: c_int,
    addr: *const sockaddr,
    addrlen: socklen_t,
) -> c_int {
    let Some(pin) = socket::pin_checked(fd).filter(|pin| pin.kind() != Kind::Kernel) else {
        return ended(forward!(connect, fd, addr, addrlen));
    };
    entry!({
        // SAFETY: the caller's contract.
        let address = unsafe { memory::address(addr, addrlen) }?;
        connect::connect(&pin, address).map(|()| 0)
    })
}

/// `shutdown(2)`.
///
/// # Safety
///
/// None: any arguments are fine.
///
/// # Errors
///
/// Those of `shutdown(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_shutdown(fd: c_int, how: c_int) -> c_int {
    let Some(pin) = socket::pin_checked(fd) else {
        return ended(forward!(shutdown, fd, how));
    };
    entry!({ calls::shutdown(&pin, how).map(|()| 0) })
}

/// `getsockname(2)`.
///
/// # Safety
///
/// As for `getsockname(2)`.
///
/// # Errors
///
/// Those of `getsockname(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_getsockname(
    fd: c_int,
    addr: *mut sockaddr,
    addrlen: *mut socklen_t,
) -> c_int {
    let Some(name) = socket::pin_checked(fd).and_then(|pin| calls::local_name(&pin)) else {
        return ended(forward!(getsockname, fd, addr, addrlen));
    };
    // SAFETY: the caller's contract.
    entry!({ unsafe { store_name(&name, addr, addrlen) } })
}

/// `getpeername(2)`.
///
/// # Safety
///
/// As for `getpeername(2)`.
///
/// # Errors
///
/// Those of `getpeername(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_getpeername(
    fd: c_int,
    addr: *mut sockaddr,
    addrlen: *mut socklen_t,
) -> c_int {
    let ours = |kind| matches!(kind, Kind::Stream | Kind::Dead);
    let Some(pin) = socket::pin_checked(fd).filter(|pin| ours(pin.kind())) else {
        return ended(forward!(getpeername, fd, addr, addrlen));
    };
    entry!({
        let name = calls::peer_name(&pin)?;
        // SAFETY: the caller's contract.
        unsafe { store_name(&name, addr, addrlen) }
    })
}

/// # Safety
///
/// As for `getsockname(2)`.
unsafe fn store_name(
    name: &Encoded,
    addr: *mut sockaddr,
    addrlen: *mut socklen_t,
) -> Result<c_int, Errno> {
    if addr.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: the caller's contract.
    unsafe { memory::store_address(name, addr, addrlen) }.map(|()| 0)
}

/// `getsockopt(2)`.
///
/// # Safety
///
/// As for `getsockopt(2)`.
///
/// # Errors
///
/// Those of `getsockopt(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    let ours = |kind| matches!(kind, Kind::Stream | Kind::Dead);
    let Some(pin) = socket::pin_checked(fd).filter(|pin| ours(pin.kind())) else {
        return ended(forward!(getsockopt, fd, level, name, value, len));
    };
    entry!({
        // SAFETY: the caller's contract.
        let room = unsafe { memory::room(len) }?;
        let mut shown = vec![0; room.min(VALUE_BYTES_MAX)];
        let written = calls::option(&pin, level, name, &mut shown)?;
        if value.is_null() && written > 0 {
            return Err(Errno::FAULT);
        }
        if written > 0 {
            let bytes = written.min(shown.len());
            // SAFETY: the caller announced room for so much, and `value` is not null.
            unsafe { core::ptr::copy_nonoverlapping(shown.as_ptr(), value.cast(), bytes) };
        }
        // SAFETY: checked for null by `room`.
        unsafe { len.write(written as socklen_t) };
        Ok(0)
    })
}

/// `setsockopt(2)`.
///
/// # Safety
///
/// As for `setsockopt(2)`.
///
/// # Errors
///
/// Those of `setsockopt(2)`; `ENOPROTOOPT` for what the stack can't honour (`TCP_ULP`,
/// `TCP_MD5SIG`, `TCP_REPAIR`, socket filters).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    let Some(pin) = socket::pin_checked(fd).filter(|pin| pin.kind() != Kind::Epoll) else {
        return ended(forward!(setsockopt, fd, level, name, value, len));
    };
    entry!({
        if pin.kind() == Kind::Provisional || pin.kind() == Kind::Kernel {
            forward!(setsockopt, fd, level, name, value, len)?;
            let mut cell = pin.socket.lock();
            cell.options_touched.note(level, name);
            if pin.kind() == Kind::Provisional {
                cell.options.note(fd, level, name);
            }
            return Ok(0);
        }
        let len = usize::try_from(len.cast_signed()).map_err(|_| Errno::INVAL)?;
        // SAFETY: the caller's contract.
        let value = unsafe { memory::bytes(value, len.min(VALUE_BYTES_MAX)) }?;
        calls::set_option(&pin, level, name, value).map(|()| 0)
    })
}

/// `sockatmark(3)`: there is no urgent data on a luna connection.
///
/// # Safety
///
/// None: any arguments are fine.
///
/// # Errors
///
/// Those of `sockatmark(3)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_sockatmark(fd: c_int) -> c_int {
    let mut answer: c_int = 0;
    if socket::pin_checked(fd).is_some_and(|pin| pin.kind() == Kind::Stream) {
        return 0;
    }
    let result = forward!(ioctl, fd, calls::SIOCATMARK, &raw mut answer);
    match result {
        Ok(_) => answer,
        Err(errno) => {
            sys::set_errno(errno);
            -1
        }
    }
}
