//! The protocol: RFC 9293 and its companions as a machine without input or output of its own.
//!
//! A [`Connection`] is told what happens (`on_segment`, `on_timer`, and what the application
//! calls) and is asked for what follows (`poll_transmit`, `poll_event`, `poll_at`). It reads no
//! clock, opens no socket, draws no random number and never looks at a payload byte; every call
//! that depends on time takes `now`.
//!
//! The order of a turn: `on_segment` for everything received, then `on_timer` if `poll_at` has
//! passed, then the application's calls, then `poll_transmit` until it has nothing more, then
//! `poll_event` likewise. Draining what was received before looking at timers matters: a turn
//! that comes late must not take an ACK that waits in the ring for a lost one. Acknowledgments
//! wait for `poll_transmit`, so one leaves per turn, or none if data carries it.
//!
//! This module must not know addresses, frames, descriptors, or where payload bytes live.
#![forbid(unsafe_code)]

mod challenge;
mod config;
mod congestion;
mod connection;
pub mod cookie;
mod ecn;
mod fifo;
mod info;
pub mod isn;
pub mod listener;
mod pacer;
mod path_mtu;
mod payload;
mod rack;
mod reassembly;
mod receiver;
mod recovery;
mod reset;
mod rtt;
mod scoreboard;
mod segment;
mod send_queue;
mod sender;
mod state;
mod telemetry;
#[cfg(test)]
pub(crate) mod testutil;
pub mod time_wait;
mod timers;

pub use config::{
    BUFFER_BYTES_MAX, Config, Keepalive, MSS_DEFAULT_V4, MSS_DEFAULT_V6, Ports, SharedConfig,
};
pub use congestion::CongestionControl;
pub use connection::{Connection, Event};
pub use ecn::EcnUse;
pub use info::{Counters, Info, TimeWaitSeed, TimeWaitStamps, Volume};
pub use pacer::RATE_UNLIMITED;
pub use path_mtu::RAISE_AFTER;
pub use payload::{Payload, Pieces};
pub use reset::reset_for;
pub use rtt::RttEstimator;
pub use segment::{Disposition, SegmentIn, SegmentOut};
pub use state::{Input, State};
