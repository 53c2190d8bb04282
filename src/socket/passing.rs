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

/// A descriptor, maybe of a connection of ours, is about to be sent to somebody.
pub fn on_sent(fd: RawFd) {
    let Some(pin) = description::pin_active(fd).filter(|pin| pin.kind() == Kind::Stream) else {
        return;
    };
    let local = pin.socket.lock().local;
    let Some(port) = local.map(|local| local.port()) else {
        return;
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
}
