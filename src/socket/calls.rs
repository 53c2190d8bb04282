//! The calls that are neither data nor life cycle: making a socket, its names, options, flags
//! and ioctls.
#![forbid(unsafe_code)]

use core::net::SocketAddr;
use std::os::fd::RawFd;

use libc::{IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET};

use super::addr::{self, Encoded};
use super::description::{self, Kind, Pin};
use super::options::{self, Int};
use super::{fork, listener, placeholder, policy, runtime, stream, tcp_info};
use crate::sys::{self, Errno};

const SO_INCOMING_NAPI_ID: i32 = 56;
const SO_COOKIE: i32 = 57;
/// The longest option value that is answered.
const VALUE_BYTES_MAX: usize = 512;

/// `socket(2)`: always a kernel socket; one that may be promoted later is entered in the table.
///
/// # Errors
///
/// Those of `socket(2)`.
pub fn socket(domain: i32, kind: i32, protocol: i32) -> Result<RawFd, Errno> {
    let fd = sys::socket(domain, kind, protocol)?;
    let is_tcp = matches!(domain, libc::AF_INET | libc::AF_INET6)
        && kind & 0xf == libc::SOCK_STREAM
        && matches!(protocol, 0 | IPPROTO_TCP);
    if !is_tcp || !policy::get().is_wanted || fork::is_foreign_process() {
        super::forget_number(fd);
        return Ok(fd);
    }
    fork::arm();
    fork::check();
    if let Ok(pin) = description::create(Kind::Provisional) {
        pin.socket.lock().family = domain;
        // A number beyond the table stays an ordinary kernel socket.
        let _entered = pin.attach(fd);
    }
    Ok(fd)
}

// ---- names ----

/// `getsockname(2)` for what the kernel does not know; `None`: ask the kernel.
pub fn local_name(pin: &Pin) -> Option<Encoded> {
    match pin.kind() {
        Kind::Stream | Kind::Dead => {
            let cell = pin.socket.lock();
            Some(addr::encode(cell.local?, cell.family))
        }
        Kind::Provisional | Kind::Kernel | Kind::Listener | Kind::Epoll => None,
    }
}

/// `getpeername(2)`.
///
/// # Errors
///
/// `ENOTCONN` before and after the connection.
pub fn peer_name(pin: &Pin) -> Result<Encoded, Errno> {
    if pin.kind() != Kind::Stream {
        return Err(Errno::NOTCONN);
    }
    if !stream::info(pin).is_some_and(|info| stream::is_open(&info)) {
        return Err(Errno::NOTCONN);
    }
    let cell = pin.socket.lock();
    let remote: SocketAddr = cell.remote.ok_or(Errno::NOTCONN)?;
    Ok(addr::encode(remote, cell.family))
}

/// `bind(2)` on a connection, or on what is left of one: always an error, and the kernel's if it
/// would not have taken the address from anybody.
///
/// # Errors
///
/// Those of `bind(2)`; `EINVAL` for a good address. (Linux lets a socket whose connection is over
/// be bound again; ours keeps its port.)
pub fn bind_again(pin: &Pin, address: &[u8]) -> Result<(), Errno> {
    let mut address = address.to_vec();
    // Not a port that is in use: the family and the address are what is tried.
    if let Some(port) = address.get_mut(2..4) {
        port.fill(0);
    }
    let family = pin.socket.lock().family;
    let trial = sys::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)?;
    let result = sys::bind(trial, &address);
    sys::close(trial)?;
    result.and(Err(Errno::INVAL))
}

/// `shutdown(2)`.
///
/// # Errors
///
/// `EINVAL` for an unknown `how`, `ENOTCONN` if there is no connection.
pub fn shutdown(pin: &Pin, how: i32) -> Result<(), Errno> {
    if pin.kind() == Kind::Epoll {
        return Err(Errno::NOTSOCK);
    }
    if !matches!(how, libc::SHUT_RD | libc::SHUT_WR | libc::SHUT_RDWR) {
        return Err(Errno::INVAL);
    }
    match pin.kind() {
        Kind::Provisional | Kind::Kernel => sys::shutdown(pin.fd(), how),
        Kind::Listener => listener::shutdown(pin, how),
        Kind::Stream => stream::shutdown(pin, how),
        // The placeholder may be shared: a shutdown there would be seen by all.
        Kind::Dead => Err(Errno::NOTCONN),
        Kind::Epoll => Err(Errno::NOTSOCK),
    }
}

/// Before a `bind(2)` to `address`: on a link without a kernel twin the kernel does not know our
/// address, and would refuse it.
pub fn permit_bind(pin: &Pin, address: &[u8]) {
    const IP_FREEBIND: i32 = 15;
    const IPV6_FREEBIND: i32 = 78;
    let own = policy::get()
        .config
        .as_ref()
        .and_then(|config| config.device.own_address());
    let wanted = addr::decode(address).map(addr::canonical);
    if own.is_some() && own == wanted.map(|wanted| wanted.ip()) {
        let (level, name) = if addr::family(address) == Some(libc::AF_INET6) {
            (IPPROTO_IPV6, IPV6_FREEBIND)
        } else {
            (libc::IPPROTO_IP, IP_FREEBIND)
        };
        // An old kernel without the option answers the `bind` itself.
        let _ = sys::setsockopt(pin.fd(), level, name, &1_i32.to_ne_bytes());
    }
}

// ---- options ----

/// `setsockopt(2)` on a socket that the kernel alone does not serve.
///
/// # Errors
///
/// Those of `setsockopt(2)`; `ENOPROTOOPT` for what luna can't honour.
pub fn set_option(pin: &Pin, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    match pin.kind() {
        Kind::Epoll => Err(Errno::NOTSOCK),
        Kind::Provisional | Kind::Kernel => {
            pin.socket.lock().options_touched.note(level, name);
            sys::setsockopt(pin.fd(), level, name, value)
        }
        Kind::Listener => {
            sys::setsockopt(pin.fd(), level, name, value)?;
            let mut shown = [0; VALUE_BYTES_MAX];
            let len = sys::getsockopt(pin.fd(), level, name, &mut shown).unwrap_or(0);
            let mut cell = pin.socket.lock();
            cell.options
                .store(level, name, shown.get(..len).unwrap_or_default());
            // The shards' listeners keep what they were told: see `accept`.
            cell.options_touched.note(level, name);
            Ok(())
        }
        Kind::Stream | Kind::Dead => set_stream_option(pin, level, name, value),
    }
}

fn set_stream_option(pin: &Pin, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    if (level, name) == (IPPROTO_IPV6, libc::IPV6_V6ONLY) {
        // As on any bound socket.
        return Err(Errno::INVAL);
    }
    let (has_twin, family, mut options) = {
        let cell = pin.socket.lock();
        (cell.has_twin, cell.family, cell.options.clone())
    };
    if has_twin {
        options.set(pin.fd(), level, name, value)?;
    } else {
        placeholder::with_judge(family, |judge| options.set(judge, level, name, value))?;
    }
    let remote = {
        let mut cell = pin.socket.lock();
        cell.options = options.clone();
        cell.remote
    };
    pin.set_low_water(options.int(Int::RcvLowWater));
    if let Some(stream) = pin.stream() {
        let base = runtime::base_config(remote.map(|remote| remote.ip()));
        let config = options.apply(&base, placeholder::untouched());
        let now = runtime::now();
        let _runs = runtime::with_shard(stream.shard, |shard| {
            shard.configure(now, stream.conn, &config);
        });
        // Taking TCP_CORK away, or setting TCP_NODELAY, may release a segment.
        runtime::after_write(stream.shard, 0);
    }
    Ok(())
}

/// `getsockopt(2)` into `out`; returns the length that the call reports.
///
/// # Errors
///
/// Those of `getsockopt(2)`.
pub fn option(pin: &Pin, level: i32, name: i32, out: &mut [u8]) -> Result<usize, Errno> {
    let value = match pin.kind() {
        Kind::Epoll => return Err(Errno::NOTSOCK),
        Kind::Provisional | Kind::Kernel | Kind::Listener => {
            return sys::getsockopt(pin.fd(), level, name, out);
        }
        Kind::Stream | Kind::Dead => stream_option(pin, level, name, out.len())?,
    };
    match value {
        Some(value) => {
            let len = value.len().min(out.len());
            for (to, from) in out.iter_mut().zip(value) {
                *to = from;
            }
            Ok(len)
        }
        None if pin.socket.lock().has_twin => sys::getsockopt(pin.fd(), level, name, out),
        None => placeholder::ask(level, name, out),
    }
}

/// The value of a stream's option; `None`: the kernel's answer will do.
fn stream_option(pin: &Pin, level: i32, name: i32, room: usize) -> Result<Option<Vec<u8>>, Errno> {
    let int = |value: i32| Ok(Some(value.to_ne_bytes().to_vec()));
    match (level, name) {
        (SOL_SOCKET, libc::SO_ERROR) => int(stream::take_error(pin).map_or(0, Errno::raw_os_error)),
        (SOL_SOCKET, libc::SO_DOMAIN) => int(pin.socket.lock().family),
        (SOL_SOCKET, libc::SO_TYPE) => int(libc::SOCK_STREAM),
        (SOL_SOCKET, libc::SO_PROTOCOL) => int(IPPROTO_TCP),
        (SOL_SOCKET, libc::SO_ACCEPTCONN | SO_INCOMING_NAPI_ID) => int(0),
        (SOL_SOCKET, libc::SO_INCOMING_CPU) => int(sys::current_cpu()),
        (SOL_SOCKET, SO_COOKIE) => {
            if room < 8 {
                return Err(Errno::INVAL);
            }
            Ok(Some(pin.id().to_bits().to_ne_bytes().to_vec()))
        }
        (SOL_SOCKET, libc::SO_PEERNAME) => {
            let peer = peer_name(pin)?;
            if peer.len() < room {
                return Err(Errno::INVAL);
            }
            Ok(Some(peer.to_vec()))
        }
        (IPPROTO_TCP, libc::TCP_INFO) => {
            Ok(Some(tcp_info::encode(stream::info(pin).as_ref()).to_vec()))
        }
        (SOL_SOCKET, libc::SO_MAX_PACING_RATE) if room < 8 => {
            // As Linux: a reader of the older, shorter value gets as much of it as fits.
            let rate = pin.socket.lock().options.pacing_limit();
            let rate = u32::try_from(rate).unwrap_or(u32::MAX);
            Ok(Some(rate.to_ne_bytes().to_vec()))
        }
        (IPPROTO_TCP, libc::TCP_CONGESTION) => {
            let chosen = pin.socket.lock().options.congestion;
            let control = chosen.unwrap_or_else(|| runtime::base_config(None).congestion);
            Ok(Some(options::congestion_value(control)))
        }
        (IPPROTO_TCP, libc::TCP_MAXSEG) => {
            let open = stream::info(pin).filter(stream::is_open);
            match open.and_then(|info| tcp_info::send_mss(&info)) {
                Some(mss) => int(mss),
                _ => Ok(pin.socket.lock().options.value(level, name)),
            }
        }
        _ if options::is_refused(level, name) && level == IPPROTO_TCP => Err(Errno::NOPROTOOPT),
        _ => {
            let cell = pin.socket.lock();
            let is_v6 = cell.family == libc::AF_INET6;
            if level == IPPROTO_IPV6 && !is_v6 {
                return Ok(None);
            }
            Ok(cell.options.value(level, name))
        }
    }
}

// ---- flags and ioctls ----

/// `F_GETFL`.
///
/// # Errors
///
/// `EBADF`.
pub fn status_flags(pin: &Pin) -> Result<i32, Errno> {
    let kernel = sys::status_flags(pin.fd())?;
    match pin.kind() {
        Kind::Stream | Kind::Listener | Kind::Dead => {
            Ok(kernel & !description::STATUS_MASK.cast_signed() | pin.status_flags())
        }
        Kind::Provisional | Kind::Kernel | Kind::Epoll => Ok(kernel),
    }
}

/// `F_SETFL`. Never reaches a kernel file that others share.
///
/// # Errors
///
/// What the kernel answers.
pub fn set_status_flags(pin: &Pin, flags: i32) -> Result<(), Errno> {
    match pin.kind() {
        // No socket can do without the page cache.
        Kind::Stream | Kind::Listener | Kind::Dead if flags & libc::O_DIRECT != 0 => {
            Err(Errno::INVAL)
        }
        Kind::Stream | Kind::Listener | Kind::Dead => {
            pin.set_status_flags(flags);
            Ok(())
        }
        Kind::Provisional | Kind::Kernel | Kind::Epoll => sys::set_status_flags(pin.fd(), flags),
    }
}

/// What an ioctl that we know tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoctlAnswer {
    /// This `int`, to be stored where the argument points.
    Int(i32),
    /// Not ours to answer: the kernel's.
    Forward,
}

/// The ioctls that ask a stream for a number.
///
/// # Errors
///
/// `EINVAL` on a listener, as Linux.
pub fn ioctl_int(pin: &Pin, request: u64) -> Result<IoctlAnswer, Errno> {
    let known = matches!(
        request,
        libc::FIONREAD | libc::TIOCOUTQ | SIOCOUTQNSD | SIOCATMARK
    );
    match (known, pin.kind()) {
        (true, Kind::Stream) => {}
        (true, Kind::Listener) if request != SIOCATMARK => return Err(Errno::INVAL),
        _ => return Ok(IoctlAnswer::Forward),
    }
    let Some(name) = pin.stream() else {
        return Ok(IoctlAnswer::Forward);
    };
    let value = match request {
        libc::FIONREAD => runtime::with_shard(name.shard, |shard| shard.readable_bytes(name.conn)),
        libc::TIOCOUTQ => runtime::with_shard(name.shard, |shard| shard.unsent_bytes(name.conn).0),
        SIOCOUTQNSD => runtime::with_shard(name.shard, |shard| shard.unsent_bytes(name.conn).1),
        _ => Some(0),
    };
    Ok(IoctlAnswer::Int(
        i32::try_from(value.unwrap_or(0)).unwrap_or(i32::MAX),
    ))
}

/// Bytes that were not sent at all.
pub const SIOCOUTQNSD: u64 = 0x894b;
/// Whether the next byte is the urgent one.
pub const SIOCATMARK: u64 = 0x8905;
