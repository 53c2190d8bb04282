//! Connections that a program hands to another process as descriptors (`SCM_RIGHTS`).
//!
//! A connection of ours lives in this process; who receives its descriptor has a placeholder. The
//! program will go on like that (a master that accepts for its workers, as node's `cluster` does),
//! so from the first time on the kernel serves the listeners of that port: its connections can be
//! handed on.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use super::description::{self, Kind};
use super::reason::Reason;
use super::{listener, publish, report};

/// A descriptor is about to be sent to somebody. Whether it is a connection of ours.
pub fn is_sent(fd: RawFd) -> bool {
    let Some(pin) = description::pin_active(fd).filter(|pin| pin.kind() == Kind::Stream) else {
        return false;
    };
    let local = pin.socket.lock().local;
    let Some(port) = local.map(|local| local.port()) else {
        return true;
    };
    let members = listener::members_at(port);
    for member in members.into_iter().filter_map(description::pin) {
        listener::close(&member);
        member.set_reason(Reason::PassesConnections);
    }
    report::notice(&format!(
        "port {port} stays on the kernel from here on: this program hands connections to another \
         process, which cannot have those of luna; the one that it has just sent is lost"
    ));
    publish::present();
    true
}
