//! Outgoing connections: whether they are ours, from which port, and what `connect(2)` says.
//!
//! The kernel socket that the application made becomes the placeholder of the client port: it
//! is bound to it, so that nobody else gets it.
#![forbid(unsafe_code)]

use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::os::fd::RawFd;

use super::cell::Phase;
use super::description::{Kind, Pin, StreamName};
use super::options::{Int, OptionSet};
use super::reason::Reason;
use super::{
    addr, blocking, close, description, errno, fork, listener, placeholder, policy, report,
    runtime, stream,
};
use crate::stack::{Close, Ready};
use crate::sys::{self, Errno, ForkMutex};
use crate::tcp;

/// How many of our sockets hold each port. The first takes it from the kernel for itself; the
/// others share it with the first, for connections to other peers.
static HOLDERS: [AtomicU32; 1 << 16] = [const { AtomicU32::new(0) }; 1 << 16];
static RANDOM: AtomicU64 = AtomicU64::new(0);
/// Random numbers from the kernel that are not used yet, and how many.
static RESERVE: ForkMutex<([u64; 32], usize)> = ForkMutex::new(([0; 32], 0));

/// `connect(2)` on a descriptor that is in the table.
///
/// # Errors
///
/// Those of `connect(2)` on TCP.
pub fn connect(pin: &Pin, address: &[u8]) -> Result<(), Errno> {
    match pin.kind() {
        Kind::Listener | Kind::Dead | Kind::Stream
            if address.len() < size_of::<libc::sa_family_t>() =>
        {
            Err(Errno::INVAL)
        }
        Kind::Kernel => sys::connect(pin.fd(), address),
        Kind::Dead => Err(Errno::ISCONN),
        Kind::Epoll => Err(Errno::NOTSOCK),
        Kind::Listener if addr::family(address) == Some(libc::AF_UNSPEC) => {
            // The kernel's way to end a listener without closing it.
            sys::connect(pin.fd(), address)?;
            listener::close(pin);
            Ok(())
        }
        Kind::Listener => Err(Errno::ISCONN),
        Kind::Provisional => start(pin, address),
        Kind::Stream => again(pin, address),
    }
}

/// A new connection without a kernel socket, for who has not made one: where the kernel does not
/// know the link, there is no port to take from it. Without waiting, and with one option on.
/// `None`: this is not for luna, or takes a kernel socket.
///
/// # Errors
///
/// Those of `socket(2)` and `connect(2)`.
pub fn without_socket(address: &[u8], option: (i32, i32)) -> Option<Result<RawFd, Errno>> {
    let shown = addr::decode(address)?;
    let remote = addr::canonical(shown);
    let ip = remote.ip();
    let special = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
    if special || remote.port() == 0 || !policy::get().connect.matches(remote) {
        return None;
    }
    if fork::is_foreign_process() {
        return None;
    }
    fork::arm();
    fork::check();
    // What is wrong is told where a kernel connection is the way out.
    runtime::start().ok()?;
    if runtime::shares_ports() || runtime::client_ports().is_none() {
        return None;
    }
    let source = runtime::source_for(ip).ok()?;
    let mut options = placeholder::untouched().clone();
    options.store(option.0, option.1, &1_i32.to_ne_bytes());
    Some(open_without_socket(shown, remote, source, options))
}

fn open_without_socket(
    shown: SocketAddr,
    remote: SocketAddr,
    source: IpAddr,
    options: OptionSet,
) -> Result<RawFd, Errno> {
    let fd = placeholder::tombstone(true)?;
    super::forget_number(fd);
    let begin = || {
        let pin = description::create(Kind::Provisional)?;
        pin.socket.lock().family = match shown.is_ipv6() {
            true => libc::AF_INET6,
            false => libc::AF_INET,
        };
        pin.change_status_flag(libc::O_NONBLOCK, true);
        pin.attach(fd)?;
        let place = Place {
            ip: source,
            port: None,
            options,
            has_twin: false,
        };
        open(&pin, remote, &place)
    };
    begin().map(|()| fd).inspect_err(|_| {
        let _closed = close::close(fd);
    })
}

/// `connect` on a socket that has been promoted before.
fn again(pin: &Pin, address: &[u8]) -> Result<(), Errno> {
    if addr::family(address) == Some(libc::AF_UNSPEC) {
        disconnect(pin);
        pin.wake(Ready::OUT | Ready::HUP);
        return Ok(());
    }
    let phase = pin.socket.lock().phase;
    match phase {
        Phase::Connected => Err(Errno::ISCONN),
        Phase::Connecting => outcome(pin, Errno::ALREADY),
        Phase::Idle if addr::decode(address).is_none() => {
            let known = matches!(addr::family(address), Some(libc::AF_INET | libc::AF_INET6));
            Err(if known {
                Errno::INVAL
            } else {
                Errno::AFNOSUPPORT
            })
        }
        Phase::Idle => start(pin, address),
    }
}

fn start(pin: &Pin, address: &[u8]) -> Result<(), Errno> {
    let held = pin.socket.lock().held_port;
    let Some(shown) = addr::decode(address) else {
        // What it is, or what is wrong with it, is the kernel's to say.
        return sys::connect(pin.fd(), address);
    };
    let remote = addr::canonical(shown);
    let place = match place(pin, shown, remote, held) {
        Ok(place) => place,
        Err(_) if held.is_some() => {
            // The kernel can't connect from a port whose packets come to us.
            return Err(Errno::ADDRNOTAVAIL);
        }
        Err(reason) => {
            pin.set_kernel(reason);
            return sys::connect(pin.fd(), address);
        }
    };
    open(pin, remote, &place)?;
    if pin.is_nonblocking() {
        // Also if the answer is there already: the first call never has it.
        return Err(Errno::INPROGRESS);
    }
    outcome(pin, Errno::INPROGRESS)
}

/// Where a connection of ours starts.
struct Place {
    ip: IpAddr,
    /// Decided by the application's `bind`, or by an earlier attempt.
    port: Option<u16>,
    options: OptionSet,
    /// The descriptor is a kernel socket.
    has_twin: bool,
}

/// Decides whether a connection is ours.
fn place(
    pin: &Pin,
    shown: SocketAddr,
    remote: SocketAddr,
    held: Option<u16>,
) -> Result<Place, Reason> {
    if !policy::get().connect.matches(remote) || remote.port() == 0 {
        return Err(Reason::NoRule);
    }
    let ip = remote.ip();
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        return Err(Reason::LocalDestination);
    }
    let family = pin.socket.lock().family;
    if shown.is_ipv6() != (family == libc::AF_INET6) {
        return Err(Reason::Unsupported);
    }
    if let Err(cause) = runtime::start() {
        report::fallback(&format!("all sockets stay on the kernel: {cause}"));
        return Err(Reason::NotStarted);
    }
    if held.is_none() && listener::is_bound_elsewhere(pin) {
        return Err(Reason::BoundElsewhere);
    }
    let source = runtime::source_for(ip)?;
    let options = if held.is_some() {
        pin.socket.lock().options.clone()
    } else {
        listener::read_options(pin)
    };
    let maps_v4 = shown.is_ipv6() && remote.is_ipv4();
    if maps_v4 && options.is_on(Int::V6Only) {
        return Err(Reason::Unsupported);
    }
    if let Some(port) = held {
        return Ok(Place {
            ip: source,
            port: Some(port),
            options,
            has_twin: true,
        });
    }
    let bound = sys::getsockname(pin.fd())
        .ok()
        .and_then(|raw| addr::decode(raw.as_bytes()));
    let bound = addr::canonical(bound.ok_or(Reason::Unsupported)?);
    let ip = match bound.ip() {
        any if any.is_unspecified() => source,
        ip if ip.is_ipv4() == source.is_ipv4() && runtime::is_device_address(ip) => ip,
        _ => return Err(Reason::BoundElsewhere),
    };
    let leased = runtime::client_ports().ok_or(Reason::NoClientPort)?;
    let port = match bound.port() {
        0 => None,
        port if leased.contains(&port) => Some(port),
        _ => return Err(Reason::BoundElsewhere),
    };
    Ok(Place {
        ip,
        port,
        options,
        has_twin: true,
    })
}

/// Starts the handshake.
fn open(pin: &Pin, remote: SocketAddr, place: &Place) -> Result<(), Errno> {
    let family = pin.socket.lock().family;
    let local = match place.port {
        Some(port) => SocketAddr::new(place.ip, port),
        None => take_port(pin, place, remote, family)?,
    };
    let first_time = pin.kind() == Kind::Provisional;
    if first_time && place.has_twin {
        pin.set_status_flags(sys::status_flags(pin.fd()).unwrap_or(0));
    }
    {
        let mut cell = pin.socket.lock();
        cell.has_twin = place.has_twin;
        cell.identity = match place.has_twin {
            true => sys::identity(pin.fd()).unwrap_or_default(),
            false => (0, placeholder::tombstone_inode()),
        };
        cell.options = place.options.clone();
        // As every connection of Linux's begins.
        let on = 1_i32.to_ne_bytes();
        cell.options
            .store(libc::IPPROTO_TCP, libc::TCP_QUICKACK, &on);
        cell.local = Some(local);
        cell.remote = Some(remote);
        cell.phase = Phase::Connecting;
        cell.pending = None;
        cell.read_over = false;
    }
    pin.set_low_water(place.options.int(Int::RcvLowWater));
    let base = runtime::base_config(Some(remote.ip()));
    let config = place.options.apply(&base, placeholder::untouched());
    let shard = runtime::client_shard(local, remote);
    let token = pin.id().to_bits();
    let now = runtime::now();
    let opened = runtime::with_shard(shard, |shard| {
        shard.connect(now, local, remote, &config, token)
    });
    match opened {
        Some(Ok(conn)) => {
            pin.set_reason(Reason::Accelerated);
            pin.set_stream(StreamName { shard, conn });
        }
        failed => {
            pin.socket.lock().phase = Phase::Idle;
            return Err(match failed {
                Some(Err(cause)) => errno::of_open(cause),
                _ => Errno::NETUNREACH,
            });
        }
    }
    if first_time {
        pin.each_watcher(|watcher| watcher.promoted(Kind::Stream));
    }
    runtime::after_write(shard, 0);
    Ok(())
}

/// What `connect` answers now: waits for the end of the handshake unless it must not, in which
/// case the answer is `pending`.
fn outcome(pin: &Pin, pending: Errno) -> Result<(), Errno> {
    let mut deadline = None;
    loop {
        let state = stream::info(pin).map_or(tcp::State::Closed, |info| info.tcp.state);
        match state {
            tcp::State::SynSent | tcp::State::SynReceived => {}
            tcp::State::Closed => {
                let error = stream::take_error(pin).unwrap_or(Errno::CONNABORTED);
                give_up(pin);
                return Err(error);
            }
            _ => {
                pin.socket.lock().phase = Phase::Connected;
                return Ok(());
            }
        }
        if pin.is_nonblocking() {
            return Err(pending);
        }
        let deadline = *deadline
            .get_or_insert_with(|| blocking::deadline(pin.socket.lock().options.snd_timeout));
        match blocking::wait(pin, Ready::OUT, deadline) {
            Ok(_) => {}
            Err(Errno::AGAIN) => return Err(pending),
            Err(errno) => return Err(errno),
        }
    }
}

/// Ends an attempt, or a connection, of a socket that lives on.
pub(super) fn give_up(pin: &Pin) {
    if let Some(name) = pin.stream() {
        let now = runtime::now();
        let _runs = runtime::with_shard(name.shard, |shard| {
            shard.close(now, name.conn, Close::Abort);
            // At once: the next attempt may be between the same two ends.
            shard.flush(now);
        });
    }
    let mut cell = pin.socket.lock();
    cell.phase = Phase::Idle;
    cell.remote = None;
    cell.pending = None;
    cell.read_over = false;
}

/// As `tcp_disconnect()`: a connection that was cut short leaves `ECONNRESET` to be reported,
/// and one that had failed what it failed with.
pub(super) fn disconnect(pin: &Pin) {
    use tcp::State::{CloseWait, Established, FinWait1, FinWait2, SynReceived, SynSent};
    let state = stream::info(pin).map(|info| info.tcp.state);
    let unreported = stream::take_error(pin);
    give_up(pin);
    let was_cut = matches!(
        state,
        Some(SynSent | SynReceived | Established | CloseWait | FinWait1 | FinWait2)
    );
    pin.socket.lock().pending = if was_cut {
        Some(Errno::CONNRESET)
    } else {
        unreported
    };
}

// ---- client ports ----

/// Picks a free client port at random (RFC 6056 §3.3.1, algorithm 1) and takes it from the
/// kernel.
fn take_port(
    pin: &Pin,
    place: &Place,
    remote: SocketAddr,
    family: i32,
) -> Result<SocketAddr, Errno> {
    let ports = runtime::client_ports().ok_or(Errno::ADDRNOTAVAIL)?;
    let (first, last) = (u32::from(*ports.start()), u32::from(*ports.end()));
    let count = (last + 1).saturating_sub(first).max(1);
    let offset = offset_below(count);
    let mut reuses = place.options.is_on(Int::ReuseAddr);
    // First ports that nobody holds, then those that we hold for connections to other peers.
    for shared in [false, true] {
        for step in 0..count {
            let port = (first + (offset + step) % count) as u16;
            if (holders(port).load(Ordering::Relaxed) > 0) != shared {
                continue;
            }
            let local = SocketAddr::new(place.ip, port);
            let shard = runtime::client_shard(local, remote);
            let is_free = runtime::with_shard(shard, |shard| shard.tuple_is_free(local, remote));
            if is_free != Some(true) {
                continue;
            }
            let held = match runtime::shares_ports() {
                true => hold(pin.fd(), local, family, shared, &mut reuses),
                false => Ok(()),
            };
            match held {
                Ok(()) => {
                    holders(port).fetch_add(1, Ordering::Relaxed);
                    pin.socket.lock().held_port = Some(port);
                    return Ok(local);
                }
                Err(Errno::ADDRINUSE) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Err(Errno::ADDRNOTAVAIL)
}

/// Where the search for a port begins.
fn offset_below(count: u32) -> u32 {
    random() as u32 % count
}

fn holders(port: u16) -> &'static AtomicU32 {
    HOLDERS.get(usize::from(port)).unwrap_or(&HOLDERS[0])
}

/// Binds the application's kernel socket to a client port. Once bound it tolerates others of
/// ours there (`SO_REUSEADDR`), but the first is bound without, so that a port which any other
/// socket uses is passed over.
///
/// `reuses` says whether the option is on.
fn hold(
    fd: RawFd,
    local: SocketAddr,
    family: i32,
    shared: bool,
    reuses: &mut bool,
) -> Result<(), Errno> {
    let mut reuse = |on: bool| {
        if *reuses == on {
            return Ok(());
        }
        *reuses = on;
        let value = i32::from(on).to_ne_bytes();
        sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &value)
    };
    reuse(shared)?;
    sys::bind(fd, &addr::encode(local, family))?;
    reuse(true)
}

/// Gives the client port of a closed socket back.
pub(super) fn let_go_of_port(pin: &Pin) {
    if let Some(port) = pin.socket.lock().held_port.take() {
        holders(port).fetch_sub(1, Ordering::Relaxed);
    }
}

/// In the child of a fork: it is to draw other ports than its parent.
pub(super) fn after_fork_child() {
    RESERVE.lock().1 = 0;
}

/// A number that an off-path attacker can't guess cheaply.
fn random() -> u64 {
    let mut reserve = RESERVE.lock();
    let (numbers, left) = &mut *reserve;
    if *left == 0 {
        let mut seed = [0_u8; 256];
        let filled = rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::NONBLOCK);
        if filled == Ok(seed.len()) {
            for (number, bytes) in numbers.iter_mut().zip(seed.as_chunks().0) {
                *number = u64::from_ne_bytes(*bytes);
            }
            *left = numbers.len();
        }
    }
    if let Some(next) = left.checked_sub(1) {
        *left = next;
        return numbers.get(next).copied().unwrap_or_default();
    }
    // Early in the boot, before the kernel has entropy.
    RANDOM.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) ^ runtime::now().as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel_socket() -> RawFd {
        sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap()
    }

    /// RFC 6056 (CVE-2022-1012): every port of the range is as likely as any other, and so is
    /// every distance from the one before, also in the small range of one thread.
    #[test]
    fn ports_are_even_and_tell_nothing_about_the_next() {
        for count in [1024_u32, 4096, 1000] {
            let mut ports = vec![0_u32; count as usize];
            let mut steps = ports.clone();
            let mut last = offset_below(count);
            let draws = count * 100;
            for _ in 0..draws {
                let offset = offset_below(count);
                ports[offset as usize] += 1;
                steps[((offset + count - last) % count) as usize] += 1;
                last = offset;
            }
            for cells in [ports, steps] {
                // Chi-square: its mean is the number of cells less one, its deviation the root
                // of twice that; beyond six of them chance does not come.
                let chi: f64 = cells
                    .iter()
                    .map(|n| (f64::from(*n) - 100.0).powi(2) / 100.0)
                    .sum();
                let freedom = f64::from(count - 1);
                let off = (chi - freedom).abs() / (2.0 * freedom).sqrt();
                assert!(off < 6.0, "{count} ports: chi-square {chi:.0}");
            }
        }
    }

    #[test]
    fn a_port_is_held_against_others_and_shared_among_ours() {
        let (first, second, stranger) = (kernel_socket(), kernel_socket(), kernel_socket());
        let local = (0..2000_u16)
            .map(|step| SocketAddr::new([127, 0, 0, 1].into(), 61_440 + step))
            .find(|&local| hold(first, local, libc::AF_INET, false, &mut false).is_ok())
            .expect("a free port");
        assert_eq!(
            hold(second, local, libc::AF_INET, false, &mut false),
            Err(Errno::ADDRINUSE)
        );
        assert_eq!(hold(second, local, libc::AF_INET, true, &mut false), Ok(()));
        assert_eq!(
            sys::bind(stranger, &addr::encode(local, libc::AF_INET)),
            Err(Errno::ADDRINUSE)
        );
        for fd in [first, second, stranger] {
            sys::close(fd).unwrap();
        }
    }
}
