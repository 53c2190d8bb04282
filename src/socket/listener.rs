//! Listeners: one queue for the application, fed by the shards and by the kernel.
//!
//! A listener of ours is also a real kernel listener, over the application's own descriptor:
//! the port is visibly taken, and clients that do not come over the device (loopback, the
//! host's own addresses) are served as before. The kernel half is non-blocking once promoted,
//! for no call may be held up by one half while the other has a connection; what the
//! application thinks of `O_NONBLOCK` is kept in the description.
//!
//! In a program that makes listeners for its workers (`LUNA_PREFORK`), the luna half is made when
//! a process first uses the listener (waits on it, or accepts), not by `listen`: the master needs
//! none, nor does `nginx -t`.
#![forbid(unsafe_code)]

use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU32, Ordering};
use std::os::fd::RawFd;
use std::sync::Arc;

use super::addr::{self, Encoded};
use super::description::{self, DescriptionId, Kind, Pin, StreamName};
use super::options::{Int, OptionSet, Touched};
use super::reason::Reason;
use super::{cell::Phase, placeholder, policy, publish, report, runtime, table};
use crate::limits::ACCEPT_QUEUE_MAX;
use crate::stack::{Accepted, ListenId, OpenError, Ready};
use crate::sys::{self, Errno, ForkMutex};
use crate::time::{Duration, Instant};

/// After this many connections of ours the kernel's queue is looked at first.
const OURS_IN_A_ROW: u32 = 16;

/// How often a worker tries to get a queue.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// The luna half of one listening address. Sockets that share the address by `SO_REUSEPORT`
/// share the group: each may accept what arrives, all are woken.
#[derive(Debug)]
pub struct Group {
    local: SocketAddr,
    dual_stack: bool,
    reuse_port: bool,
    ids: Vec<(usize, ListenId)>,
    /// The description whose token the shards were given. No descriptor names it.
    anchor: Pin,
    members: ForkMutex<Vec<DescriptionId>>,
    next_shard: AtomicU32,
}

impl Group {
    /// The shards that listen, and as what.
    pub(super) fn listen_ids(&self) -> &[(usize, ListenId)] {
        &self.ids
    }
}

static GROUPS: ForkMutex<Vec<Arc<Group>>> = ForkMutex::new(Vec::new());

/// A connection handed to the application.
#[derive(Debug)]
pub struct NewSocket {
    /// Its descriptor.
    pub fd: RawFd,
    /// The peer, as the listener's family shows it.
    pub peer: Encoded,
}

/// `listen(2)` on a descriptor that is in the table.
///
/// # Errors
///
/// What the kernel's `listen` answers; `EINVAL` on a stream.
pub fn listen(pin: &Pin, backlog: i32) -> Result<(), Errno> {
    match pin.kind() {
        Kind::Stream | Kind::Dead => return Err(Errno::INVAL),
        Kind::Epoll => return Err(Errno::NOTSOCK),
        Kind::Kernel | Kind::Provisional | Kind::Listener => {}
    }
    let (has_group, old) = {
        let cell = pin.socket.lock();
        (cell.group.is_some(), pin.kind())
    };
    let is_master = policy::forks_workers();
    // Before the kernel listens: the stack takes a while to start, and the kernel would get the
    // connections that come meanwhile.
    let wish = match old {
        Kind::Provisional | Kind::Listener if !has_group => Some(wish(pin).and_then(|wish| {
            if !is_master {
                start(pin, &wish)?;
            }
            Ok(wish)
        })),
        _ => None,
    };
    sys::listen(pin.fd(), backlog)?;
    let limit = backlog.cast_unsigned().min(ACCEPT_QUEUE_MAX as u32);
    pin.socket.lock().backlog = limit;
    match wish {
        None => each_shard(pin, |shard, id| shard.set_backlog(id, limit)),
        Some(wish) => {
            let result = wish.and_then(|wish| {
                prepare(pin, &wish)?;
                if is_master && runtime::shards() == 0 {
                    pin.set_reason(Reason::NotUsedYet);
                    pin.socket.lock().is_pending = true;
                    return Ok(());
                }
                promote(pin, &wish, limit)
            });
            match result {
                Ok(()) => {}
                // Its kernel half is non-blocking, so it stays in our care.
                Err(reason) if pin.kind() == Kind::Listener => pin.set_reason(reason),
                Err(reason) => pin.set_kernel(reason),
            }
            if result == Err(Reason::ForkPerConnection) {
                publish::present();
            }
        }
    }
    Ok(())
}

fn each_shard(pin: &Pin, f: impl Fn(&mut crate::stack::Shard, ListenId) + Send + Sync) {
    let group = pin.socket.lock().group.clone();
    for &(shard, id) in group.iter().flat_map(|group| &group.ids) {
        let _runs = runtime::with_shard(shard, |shard| f(shard, id));
    }
}

/// Where a listener wants to be.
struct Wish {
    local: SocketAddr,
    shown_ip: IpAddr,
}

/// Whether a bound socket is to be ours when it listens.
fn wish(pin: &Pin) -> Result<Wish, Reason> {
    let raw = sys::getsockname(pin.fd()).map_err(|_| Reason::Unsupported)?;
    let shown = addr::decode(raw.as_bytes()).ok_or(Reason::Unsupported)?;
    let local = addr::canonical(shown);
    if !policy::get().listen.contains(local.port()) {
        return Err(Reason::PortNotListed);
    }
    if local.ip().is_loopback() {
        return Err(Reason::AddressNotOurs);
    }
    if is_bound_elsewhere(pin) {
        return Err(Reason::AddressNotOurs);
    }
    if policy::forks_for_connections() {
        report::notice(&format!(
            "port {} stays on the kernel: this program serves each connection from a forked \
             child (LUNA_FORKING)",
            local.port()
        ));
        return Err(Reason::ForkPerConnection);
    }
    Ok(Wish {
        local,
        shown_ip: shown.ip(),
    })
}

/// Whether `SO_BINDTODEVICE` says that a socket is for another interface than the device's. (Known
/// only when the stack runs; until then, loopback is.)
pub(super) fn is_bound_elsewhere(pin: &Pin) -> bool {
    let mut name = [0; libc::IFNAMSIZ];
    let mut len = Ok(0);
    if pin.socket.lock().options_touched.is_any() {
        len = sys::getsockopt(pin.fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &mut name);
    }
    let name = name.get(..len.unwrap_or(0)).unwrap_or_default();
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    match runtime::shards() {
        0 => name == b"lo",
        _ => !runtime::is_device_interface(name),
    }
}

/// Starts the stack for a listener, if it has not been. Only then it is known whether the
/// listener's address is the device's.
fn start(pin: &Pin, wish: &Wish) -> Result<(), Reason> {
    let started = if pin.reason() == Reason::ChildProcess {
        runtime::start_after_parent()
    } else {
        runtime::start()
    };
    started.map_err(|cause| not_started(pin, &cause))?;
    let ip = wish.local.ip();
    let is_ours = ip.is_unspecified() || runtime::is_device_address(ip);
    if !is_ours || is_bound_elsewhere(pin) {
        return Err(Reason::AddressNotOurs);
    }
    Ok(())
}

/// Tells why the stack did not start.
fn not_started(pin: &Pin, cause: &str) -> Reason {
    let cause = format!("all sockets stay on the kernel: {cause}");
    if pin.reason() == Reason::ChildProcess {
        // The parent may have the device, rightly: no reason to fail, even in strict tests.
        report::notice(&format!("process {}: {cause}", sys::getpid()));
        return Reason::ChildProcess;
    }
    report::fallback(&cause);
    Reason::NotStarted
}

/// Takes a listening kernel socket into our care: it becomes non-blocking, and what it is to the
/// application is kept by us.
fn prepare(pin: &Pin, wish: &Wish) -> Result<(), Reason> {
    let flags = sys::status_flags(pin.fd()).unwrap_or(0);
    if let Err(errno) = sys::set_status_flags(pin.fd(), flags | libc::O_NONBLOCK) {
        report::fallback(&format!(
            "port {}: cannot prepare the listener: {errno}",
            wish.local.port()
        ));
        return Err(Reason::Unsupported);
    }
    if pin.kind() == Kind::Provisional {
        pin.set_status_flags(flags);
    }
    let options = read_options(pin);
    {
        let mut cell = pin.socket.lock();
        cell.has_twin = true;
        cell.identity = sys::identity(pin.fd()).unwrap_or_default();
        cell.options = options;
        cell.local = Some(wish.local);
    }
    pin.set_kind(Kind::Listener);
    pin.each_watcher(|watcher| watcher.promoted(Kind::Listener));
    Ok(())
}

/// Makes a listener ours as well. Starts the stack.
fn promote(pin: &Pin, wish: &Wish, backlog: u32) -> Result<(), Reason> {
    let &Wish { local, shown_ip } = wish;
    start(pin, wish)?;
    let options = read_options(pin);
    let dual_stack = shown_ip.is_ipv6() && !options.is_on(Int::V6Only);
    let group = join(pin, local, dual_stack, &options, backlog)?;
    {
        let mut cell = pin.socket.lock();
        cell.options = options;
        cell.group = Some(group);
        cell.options_touched = Touched::default();
    }
    pin.set_reason(Reason::Accelerated);
    table::touch();
    Ok(())
}

/// The options of a kernel socket that is about to be promoted.
pub(super) fn read_options(pin: &Pin) -> OptionSet {
    let cell = pin.socket.lock();
    if cell.options_touched.is_any() {
        let mut options = OptionSet::read(pin.fd());
        options.keep_others(&cell.options);
        return options;
    }
    let untouched = match cell.family {
        libc::AF_INET6 => placeholder::untouched_v6(),
        _ => placeholder::untouched(),
    };
    untouched.clone().reread(pin.fd(), cell.options_touched)
}

/// Finds or makes the group for an address and adds the description to it.
fn join(
    pin: &Pin,
    local: SocketAddr,
    dual_stack: bool,
    options: &OptionSet,
    backlog: u32,
) -> Result<Arc<Group>, Reason> {
    let reuse_port = options.is_on(Int::ReusePort);
    let mut groups = GROUPS.lock();
    let shared = groups
        .iter()
        .find(|group| group.local == local && group.dual_stack == dual_stack)
        .filter(|group| reuse_port && group.reuse_port)
        .cloned();
    if let Some(group) = shared {
        group.members.lock().push(pin.id());
        return Ok(group);
    }
    let group = open(pin, local, dual_stack, options, backlog).map(Arc::new)?;
    groups.push(Arc::clone(&group));
    Ok(group)
}

/// Listens on every shard and steers the port to them.
fn open(
    pin: &Pin,
    local: SocketAddr,
    dual_stack: bool,
    options: &OptionSet,
    backlog: u32,
) -> Result<Group, Reason> {
    let anchor = description::create(Kind::Listener).map_err(|_| Reason::Refused)?;
    let config = options.apply(&runtime::base_config(None), placeholder::untouched());
    let mut group = Group {
        local,
        dual_stack,
        reuse_port: options.is_on(Int::ReusePort),
        ids: Vec::new(),
        members: ForkMutex::new(vec![pin.id()]),
        next_shard: AtomicU32::new(0),
        anchor,
    };
    let token = group.anchor.id().to_bits();
    for shard in 0..runtime::shards() {
        let listening = runtime::with_shard(shard, |shard| {
            shard.listen(local, dual_stack, backlog, &config, token)
        });
        match listening.unwrap_or(Err(OpenError::TableFull)) {
            Ok(id) => group.ids.push((shard, id)),
            Err(cause) => {
                close_shards(&group);
                report::fallback(&format!(
                    "port {} stays on the kernel: {cause}",
                    local.port()
                ));
                return Err(Reason::Refused);
            }
        }
    }
    if let Err(cause) = runtime::steer_port(local.port()) {
        close_shards(&group);
        report::fallback(&format!(
            "port {} stays on the kernel: {cause}",
            local.port()
        ));
        return Err(Reason::Refused);
    }
    Ok(group)
}

fn close_shards(group: &Group) {
    let now = runtime::now();
    for &(index, id) in &group.ids {
        let _runs = runtime::with_shard(index, |shard| shard.close_listener(now, id));
        runtime::after_write(index, 0);
    }
}

/// Takes a description out of its group. The last one closes it.
fn leave(pin: &Pin, group: &Arc<Group>) {
    let mut groups = GROUPS.lock();
    let is_last = {
        let mut members = group.members.lock();
        members.retain(|&member| member != pin.id());
        members.is_empty()
    };
    if is_last {
        groups.retain(|other| !Arc::ptr_eq(other, group));
        drop(groups);
        // New connections are the kernel's from here on: another listener may be there for them.
        runtime::unsteer_port(group.local.port());
        close_shards(group);
    }
}

/// The listeners on a port that have a luna half.
pub(super) fn members_at(port: u16) -> Vec<DescriptionId> {
    let groups = GROUPS.lock();
    let at = groups.iter().filter(|group| group.local.port() == port);
    at.flat_map(|group| group.members.lock().clone()).collect()
}

/// Ends the luna half of a listener.
pub(super) fn close(pin: &Pin) {
    let group = pin.socket.lock().group.take();
    if let Some(group) = group {
        leave(pin, &group);
    }
}

/// `shutdown(2)` on a listener: ends it if `how` includes reading, and wakes who waits in
/// `accept`. The kernel lets it listen again, and so do we.
pub(super) fn shutdown(pin: &Pin, how: i32) -> Result<(), Errno> {
    sys::shutdown(pin.fd(), how)?;
    if how != libc::SHUT_WR {
        close(pin);
        // The kernel half, now unconnected, says the rest: `accept` gives EINVAL.
        pin.wake(Ready::IN | Ready::OUT | Ready::HUP);
    }
    Ok(())
}

/// Tells the sockets of a group that something may be accepted.
pub(super) fn wake_members(anchor: &Pin, edge: Ready) {
    let members = {
        let groups = GROUPS.lock();
        let group = groups.iter().find(|group| group.anchor.id() == anchor.id());
        group.map(|group| group.members.lock().clone())
    };
    for pin in members
        .iter()
        .flatten()
        .filter_map(|&member| description::pin(member))
    {
        pin.wake(edge);
    }
}

/// Readiness of the luna half.
pub fn ready(pin: &Pin) -> Ready {
    let group = pin.socket.lock().group.clone();
    let mut ready = Ready::empty();
    for &(shard, id) in group.iter().flat_map(|group| &group.ids) {
        ready |= runtime::with_shard(shard, |shard| shard.listener_ready(id)).unwrap_or_default();
    }
    ready
}

/// `accept4(2)` on a listener.
///
/// # Errors
///
/// Those of `accept(2)`. `EBADF` if the listener is closed meanwhile.
pub fn accept(pin: &Pin, flags: i32) -> Result<NewSocket, Errno> {
    if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
        return Err(Errno::INVAL);
    }
    revive(pin);
    let mut deadline = None;
    loop {
        match try_accept(pin, flags) {
            Err(Errno::AGAIN) if !pin.is_nonblocking() => {}
            result => return result,
        }
        let deadline = *deadline.get_or_insert_with(|| {
            pin.socket
                .lock()
                .options
                .rcv_timeout
                .map(|limit| runtime::now() + limit)
        });
        super::blocking::wait(pin, Ready::IN, deadline)?;
    }
}

/// The process begins to use a listener: it waits on it or accepts.
///
/// A new listener, or one that was inherited over `fork`, has a kernel half only, and is given one
/// on shards of this process's own. So has one that a parent has kept for its children. A worker
/// for which there is no queue yet, because those that it relieves still have them, tries again.
pub fn revive(pin: &Pin) {
    let backlog = {
        let mut cell = pin.socket.lock();
        cell.is_used = true;
        if !cell.is_pending {
            return;
        }
        let now = runtime::now();
        if now < cell.retry_at {
            return;
        }
        cell.is_pending = false;
        cell.retry_at = now + RETRY_EVERY;
        cell.backlog
    };
    let Err(reason) = wish(pin).and_then(|wish| promote(pin, &wish, backlog)) else {
        return;
    };
    pin.set_reason(reason);
    pin.socket.lock().is_pending = reason == Reason::ChildProcess;
    if runtime::shards() == 0 {
        publish::present();
    }
}

/// As [`revive`], of any number: what `poll` and `select` do with theirs. Whether luna serves it.
pub fn begin_wait(fd: RawFd) -> bool {
    let Some(pin) = description::pin_active(fd) else {
        return false;
    };
    if pin.kind() == Kind::Listener {
        revive(&pin);
    }
    true
}

/// After a fork, in the parent: a listener that this process has not used is meant for its
/// children (a master and its workers). It is given up here, so that what arrives reaches the
/// kernel half that they share, or the shards of the child that uses it first. True: it was.
pub(super) fn after_fork_parent(pin: &Pin) -> bool {
    let group = {
        let mut cell = pin.socket.lock();
        if cell.is_used || cell.group.is_none() {
            return false;
        }
        cell.is_pending = true;
        cell.options_touched = Touched::ANY;
        cell.group.take()
    };
    if let Some(group) = group {
        leave(pin, &group);
    }
    true
}

/// Whether this process has inherited a listener over `fork`.
pub(super) fn is_worker() -> bool {
    description::all()
        .any(|pin| pin.kind() == Kind::Listener && pin.reason() == Reason::ChildProcess)
}

/// The ports that this process is to serve, as a worker, or keeps for workers, as their master.
pub(super) fn ports_of_workers() -> Vec<u16> {
    let listeners = description::all().filter(|pin| pin.kind() == Kind::Listener);
    let ports: std::collections::BTreeSet<u16> = listeners
        .filter_map(|pin| {
            let cell = pin.socket.lock();
            let theirs = cell.is_pending || pin.reason() == Reason::ChildProcess;
            cell.local.filter(|_| theirs).map(|local| local.port())
        })
        .collect();
    ports.into_iter().collect()
}

/// Whether any listener has shards.
pub(super) fn any() -> bool {
    !GROUPS.lock().is_empty()
}

fn try_accept(pin: &Pin, flags: i32) -> Result<NewSocket, Errno> {
    let (group, turn, family) = {
        let mut cell = pin.socket.lock();
        cell.turn = cell.turn.wrapping_add(1);
        (cell.group.clone(), cell.turn, cell.family)
    };
    let kernel_first = turn.is_multiple_of(OURS_IN_A_ROW);
    if kernel_first {
        match accept_from_kernel(pin, flags) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    if let Some(group) = &group {
        match accept_from_shards(pin, group, family, flags) {
            Err(Errno::AGAIN) if pin.is_nonblocking() && turn_for(group) => {
                match accept_from_shards(pin, group, family, flags) {
                    Err(Errno::AGAIN) => {}
                    result => return result,
                }
            }
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    if pin.is_closed() {
        return Err(Errno::BADF);
    }
    if kernel_first {
        Err(Errno::AGAIN)
    } else {
        accept_from_kernel(pin, flags)
    }
}

/// Turns the group's shards for a program that asks without waiting; false: its next wait will.
fn turn_for(group: &Group) -> bool {
    group.ids.iter().fold(false, |turned, &(shard, _)| {
        turned | runtime::turn_for(shard)
    })
}

fn accept_from_kernel(pin: &Pin, flags: i32) -> Result<NewSocket, Errno> {
    let (fd, raw) = sys::accept4(pin.fd(), flags)?;
    super::forget_number(fd);
    // The entry only says why: calls go to the kernel, also if there is no room for it.
    if let Ok(accepted) = description::create(Kind::Kernel) {
        accepted.set_kernel(Reason::AcceptedByKernel);
        let _without_entry = accepted.attach(fd);
    }
    let mut peer = Encoded::new();
    let _fits = peer.try_extend_from_slice(raw.as_bytes());
    Ok(NewSocket { fd, peer })
}

fn accept_from_shards(
    pin: &Pin,
    group: &Group,
    family: i32,
    flags: i32,
) -> Result<NewSocket, Errno> {
    let count = group.ids.len();
    let first = group.next_shard.fetch_add(1, Ordering::Relaxed) as usize;
    for step in 0..count {
        let Some(&(shard, id)) = group.ids.get((first + step) % count) else {
            continue;
        };
        let waiting = runtime::with_shard(shard, |shard| shard.listener_ready(id));
        if !waiting.is_some_and(|ready| ready.contains(Ready::IN)) {
            continue;
        }
        match take_one(pin, shard, id, family, flags) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Makes a descriptor first: if there is none, the connection stays in the queue, as on Linux.
fn take_one(
    pin: &Pin,
    shard: usize,
    id: ListenId,
    family: i32,
    flags: i32,
) -> Result<NewSocket, Errno> {
    let fd = placeholder::tombstone(flags & libc::SOCK_CLOEXEC != 0)?;
    super::forget_number(fd);
    let close = |errno| {
        let _closed = sys::close(fd);
        errno
    };
    let stream = description::create(Kind::Provisional).map_err(close)?;
    let token = stream.id().to_bits();
    let accepted = runtime::with_shard(shard, |shard| shard.accept(id, token)).flatten();
    let Some(Accepted {
        conn,
        local,
        remote,
    }) = accepted
    else {
        return Err(close(Errno::AGAIN));
    };
    let (mut options, are_newer) = {
        let listener = pin.socket.lock();
        (listener.options.clone(), listener.options_touched.is_some())
    };
    // The one option that Linux resets.
    options.store(libc::SOL_SOCKET, libc::SO_PRIORITY, &0_i32.to_ne_bytes());
    if are_newer {
        // Set since `listen`, so the shards' listeners have not heard of them.
        let base = runtime::base_config(Some(remote.ip()));
        let config = options.apply(&base, placeholder::untouched());
        let now = runtime::now();
        let _runs = runtime::with_shard(shard, |shard| shard.configure(now, conn, &config));
    }
    {
        stream.set_low_water(options.int(Int::RcvLowWater));
        let mut cell = stream.socket.lock();
        cell.family = family;
        cell.options = options;
        cell.phase = Phase::Connected;
        cell.local = Some(local);
        cell.remote = Some(remote);
        cell.identity = (0, placeholder::tombstone_inode());
    }
    stream.change_status_flag(libc::O_NONBLOCK, flags & libc::SOCK_NONBLOCK != 0);
    stream.set_reason(Reason::Accelerated);
    stream.set_stream(StreamName { shard, conn });
    if let Err(errno) = stream.attach(fd) {
        super::close::stream(&stream);
        return Err(close(errno));
    }
    Ok(NewSocket {
        fd,
        peer: addr::encode(remote, family),
    })
}

/// In the child of a fork: listeners keep their kernel half, and may be promoted again.
pub(super) fn after_fork_child(pin: &Pin) {
    let mut cell = pin.socket.lock();
    // The group is the parent's, as are its shards: it is let go of, not closed.
    cell.group = None;
    cell.is_pending = true;
    cell.retry_at = Instant::ZERO;
    cell.is_used = false;
    cell.options_touched = Touched::ANY;
    drop(cell);
    pin.set_reason(Reason::ChildProcess);
}

/// In the child of a fork: there is no group yet.
pub(super) fn forget_groups() {
    GROUPS.lock().clear();
}
