//! `struct tcp_info` of a connection of ours.
//!
//! Fields that the stack does not keep are zero; what belongs to the kernel socket's options
//! (pacing limits) is not shown.
#![forbid(unsafe_code)]

use crate::stack::ConnInfo;
use crate::tcp::State;

/// The length of the struct in Linux 6.18.
pub const TCP_INFO_BYTES: usize = 280;

/// Linux's number of a state (`include/net/tcp_states.h`).
pub const fn state_number(state: State) -> u8 {
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynReceived => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait => 6,
        State::Closed => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Closing => 11,
    }
}

/// Puts values at their offsets.
struct Writer {
    bytes: [u8; TCP_INFO_BYTES],
}

impl Writer {
    fn put(&mut self, offset: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(offset..offset + value.len()) {
            place.copy_from_slice(value);
        }
    }
}

/// The struct's bytes.
pub fn encode(info: Option<&ConnInfo>) -> [u8; TCP_INFO_BYTES] {
    let mut out = Writer {
        bytes: [0; TCP_INFO_BYTES],
    };
    let state = info.map_or(State::Closed, |info| info.tcp.state);
    out.put(0, &[state_number(state)]);
    out.bytes
}

/// The MSS towards the peer, for `TCP_MAXSEG`.
pub fn send_mss(info: &ConnInfo) -> Option<i32> {
    let _ = info;
    None
}
