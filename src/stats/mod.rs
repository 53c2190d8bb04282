//! What the stack counts, and the memory in which other processes can read it.
//!
//! Owns the counters of a shard (plain numbers that their shard adds to), the reason codes, and the
//! statistics board: a memory file that `luna ss` and `luna stat` find through `/proc`, and that
//! is gone with the process. It does not know where the numbers come from.

pub mod discover;
mod reason;
mod row;
pub mod shm;

#[cfg(test)]
mod tests;

pub use reason::Reason;
pub use row::{RowState, SocketRow};
pub use shm::{Board, BoardInfo, Reader, RowId, RunState};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// The counters of one shard and its device queue. All but the gauges (said of each) only
        /// grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)*
        }

        impl Counters {
            /// The names, in the order of [`to_array`](Self::to_array).
            pub const NAMES: [&'static str; COUNTERS] = [$(stringify!($name)),*];
            /// What each one says.
            pub const HELP: [&'static str; COUNTERS] = [$(concat!($($doc),+)),*];

            /// The values.
            pub const fn to_array(&self) -> [u64; COUNTERS] {
                [$(self.$name),*]
            }

            /// From the values.
            pub const fn from_array(values: [u64; COUNTERS]) -> Self {
                let [$($name),*] = values;
                Self { $($name),* }
            }
        }

        /// How many counters there are.
        pub const COUNTERS: usize = [$(stringify!($name)),*].len();
    };
}

counters! {
    /// Frames received.
    rx_frames,
    /// Bytes received, with Ethernet headers.
    rx_bytes,
    /// Frames that are not well-formed Ethernet, IP or TCP.
    rx_malformed,
    /// Frames with a wrong checksum.
    rx_checksum,
    /// Segments to which no socket belongs.
    rx_no_socket,
    /// Frames that the device dropped because it had no buffer.
    rx_no_buffer,
    /// Frames sent.
    tx_frames,
    /// Bytes sent, with Ethernet headers.
    tx_bytes,
    /// Frames that waited because the device's ring was full.
    tx_full,
    /// Turns that found work.
    turns,
    /// Turns that found none.
    idle_turns,
    /// Times that a thread slept until something came.
    sleeps,
    /// Turns that the steward made because the program was away.
    steward_turns,
    /// Connections now (a gauge).
    connections,
    /// Listeners now (a gauge).
    listeners,
    /// Connections in TIME-WAIT now (a gauge).
    time_wait,
    /// Connections that the program opened.
    opened,
    /// Connections that the program accepted.
    accepted,
    /// SYNs dropped because the listener's queue of half-open connections was full.
    syn_drops,
    /// SYNs answered with a cookie.
    syn_cookies,
    /// Handshakes that ended because the accept queue was full.
    accept_overflows,
    /// RST segments received.
    resets_in,
    /// RST segments sent.
    resets_out,
    /// Segments sent again.
    retransmits,
    /// Retransmission timeouts.
    timeouts,
    /// Segments that arrived out of order.
    out_of_order,
    /// Challenge ACKs sent (RFC 5961).
    challenge_acks,
    /// Buffers in use now (a gauge).
    buffers_used,
    /// Buffers of the pool (a gauge).
    buffers_total,
    /// Times that no buffer was free.
    buffers_missing,
    /// Neighbours that were asked for.
    neighbour_requests,
}
