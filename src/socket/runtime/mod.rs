//! Who turns the shards, and when (stub; the signatures are what the socket layer calls).

pub(crate) mod block;
pub(crate) mod crew;
pub(crate) mod engine;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod lane;
pub(crate) mod steward;
#[cfg(test)]
mod tests;
pub(crate) mod thread;
pub(crate) mod wait;
pub(crate) mod wake;

use core::net::{IpAddr, SocketAddr};
use core::ops::RangeInclusive;

use super::description::Pin;
use super::reason::Reason;
use crate::stack::{Ready, Shard};
use crate::sys::Errno;
use crate::tcp;
use crate::time::Instant;

/// Starts the shards if they are not up. A failure is final for this process (it is reported
/// once by the caller, which gets the cause as one line).
pub fn start() -> Result<(), String> {
    Err("not built in".into())
}

/// Waits until a description has some readiness in `interest` (`ERR` and `HUP` always count),
/// the deadline passes (`EAGAIN`), a signal arrives (`EINTR`) or the description is closed
/// (`EBADF`). For a listener the kernel half (`pin.fd()`) counts as `IN` too, and it works
/// without shards.
pub fn wait(pin: &Pin, interest: Ready, deadline: Option<Instant>) -> Result<Ready, Errno> {
    let _ = (pin, interest, deadline);
    Err(Errno::AGAIN)
}

/// Something was queued on a shard by a call: send now, or leave it to this thread's next
/// `epoll_wait`.
pub fn after_write(shard: usize) {
    let _ = shard;
}

/// Runs `f` on a shard; `None` if the runtime is not up.
pub fn with_shard<R: Send>(index: usize, f: impl FnOnce(&mut Shard) -> R + Send) -> Option<R> {
    let _ = (index, f);
    None
}

/// How many shards there are; 0 before the start.
pub fn shards() -> usize {
    0
}

/// The present.
pub fn now() -> Instant {
    use crate::time::Clock;
    crate::time::SystemClock.now()
}

/// Whether an address is one of the device's.
pub fn is_device_address(ip: IpAddr) -> bool {
    let _ = ip;
    false
}

/// The source address for connections to `remote`, if the way there is over the device;
/// otherwise why not (`LocalDestination`, `OtherRoute`).
pub fn source_for(remote: IpAddr) -> Result<IpAddr, Reason> {
    let _ = remote;
    Err(Reason::OtherRoute)
}

/// The client ports that this process has leased.
pub fn client_ports() -> Option<RangeInclusive<u16>> {
    None
}

/// The shard that receives what `remote` sends to the client port of `local`.
pub fn client_shard(local: SocketAddr, remote: SocketAddr) -> usize {
    let _ = (local, remote);
    0
}

/// Steers a listening port to the shards (counted: as often as it is unsteered).
pub fn steer_port(port: u16) -> Result<(), String> {
    let _ = port;
    Ok(())
}

/// Undoes one [`steer_port`].
pub fn unsteer_port(port: u16) {
    let _ = port;
}

/// The settings of a connection before its socket's options are applied: MSS of the link,
/// timeouts of the configuration.
pub fn base_config(remote: Option<IpAddr>) -> tcp::Config {
    let _ = remote;
    tcp::Config::default()
}

/// Before a `fork`, in the thread that calls it.
pub fn before_fork() {}
/// After a `fork`, in the parent.
pub fn after_fork_parent() {}
/// After a `fork`, in the child: forgets the parent's shards without touching them.
pub fn after_fork_child() {}

/// The crew, once the runtime is up.
pub(crate) fn crew() -> Option<&'static crew::Crew<Shard>> {
    None
}
pub(crate) fn level(pin: &Pin) -> Ready { let _ = pin; Ready::empty() }
pub(crate) fn flush_deferred() {
    if let Some(crew) = crew() {
        thread::with_me(|me| crew.flush_deferred(me));
    }
}
