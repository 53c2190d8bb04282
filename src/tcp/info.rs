//! What a connection tells about itself: for `TCP_INFO`, tools, and the record that replaces it
//! in TIME-WAIT.
#![forbid(unsafe_code)]

use super::config::Ports;
use super::state::State;
use crate::time::{Duration, Instant};
use crate::wire::SeqNum;

/// How much has passed: counted with every segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Segments received.
    pub segs_in: u64,
    /// Segments sent.
    pub segs_out: u64,
    /// Payload bytes received in order.
    pub bytes_in: u64,
    /// Payload bytes sent for the first time.
    pub bytes_out: u64,
    /// Payload bytes of ours that the peer acknowledged.
    pub bytes_acked: u64,
}

/// Counters of what happens now and then in a connection's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Payload bytes sent again.
    pub bytes_retransmitted: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Expiries of the retransmission timer.
    pub timeouts: u64,
    /// Times fast recovery was entered.
    pub fast_recoveries: u64,
    /// Recoveries that turned out to have been for nothing, and were taken back.
    pub spurious_recoveries: u64,
    /// Times the tail was probed (RFC 8985).
    pub tail_probes: u64,
    /// Times the window was reduced because the path marked our packets (RFC 3168).
    pub ecn_reductions: u64,
    /// Window and keepalive probes sent.
    pub probes: u64,
    /// Duplicate acknowledgments received.
    pub dup_acks_in: u64,
    /// Reports of duplicate data received (RFC 2883).
    pub dsacks_in: u64,
    /// Segments that arrived ahead of their turn.
    pub out_of_order_in: u64,
    /// Segments dropped by PAWS.
    pub paws_drops: u64,
    /// Challenge acknowledgments sent (RFC 5961).
    pub challenge_acks: u64,
    /// Challenge acknowledgments not sent because of the limit.
    pub challenge_acks_limited: u64,
    /// Segments that arrived with the congestion-experienced mark.
    pub ce_in: u64,
}

/// A snapshot of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its state.
    pub state: State,
    /// The name of its congestion control.
    pub congestion: &'static str,
    /// Payload bytes of a full segment we send.
    pub snd_mss: u32,
    /// The largest segment received.
    pub rcv_mss: u32,
    /// Smoothed round-trip time.
    pub srtt: Option<Duration>,
    /// Its variation.
    pub rttvar: Duration,
    /// The smallest round-trip time measured.
    pub min_rtt: Option<Duration>,
    /// The retransmission timeout, back-off included.
    pub rto: Duration,
    /// Timeouts in a row.
    pub backoffs: u8,
    /// Congestion window, bytes.
    pub cwnd: u32,
    /// Slow start threshold, bytes.
    pub ssthresh: u32,
    /// Bytes per second at which data leaves, if it is paced.
    pub pacing_rate: Option<u64>,
    /// The limit set for that; [`RATE_UNLIMITED`](super::RATE_UNLIMITED) if there is none.
    pub max_pacing_rate: u64,
    /// Loss is being repaired.
    pub recovering: bool,
    /// The peer's window, bytes.
    pub snd_wnd: u32,
    /// Our window, bytes.
    pub rcv_wnd: u32,
    /// Bytes sent and not acknowledged.
    pub unacked: u32,
    /// Of those, bytes that the peer holds out of order.
    pub sacked: u32,
    /// Bytes taken for lost and not sent again yet.
    pub lost: u32,
    /// The path has been seen to reorder.
    pub reordering: bool,
    /// Bytes written and not sent.
    pub unsent: u32,
    /// Bytes received and not read.
    pub readable: u32,
    /// The shift of the peer's windows, if scaling was agreed.
    pub snd_wscale: Option<u8>,
    /// The shift of our windows, if scaling was agreed.
    pub rcv_wscale: Option<u8>,
    /// SACK was agreed.
    pub sack: bool,
    /// Timestamps were agreed.
    pub timestamps: bool,
    /// ECN was agreed.
    pub ecn: bool,
    /// How much has passed.
    pub volume: Volume,
    /// What has happened.
    pub counters: Counters,
}

/// The timestamps part of a [`TimeWaitSeed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWaitStamps {
    /// TS.Recent
    pub recent: u32,
    /// When TS.Recent was taken.
    pub recent_at: Instant,
    /// What to add to the clock's milliseconds to get a TSval.
    pub offset: u32,
    /// The last TSval sent.
    pub last_value: u32,
}

/// Everything that the compact TIME-WAIT record needs of the connection that it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWaitSeed {
    /// The ports.
    pub ports: Ports,
    /// SND.NXT
    pub snd_nxt: SeqNum,
    /// RCV.NXT
    pub rcv_nxt: SeqNum,
    /// The window in bytes that was last advertised.
    pub rcv_wnd: u32,
    /// Its shift.
    pub rcv_wscale: u8,
    /// Present if timestamps were agreed.
    pub timestamps: Option<TimeWaitStamps>,
    /// When TIME-WAIT ends.
    pub until: Instant,
    /// How long it lasts from the last segment on (2 MSL).
    pub duration: Duration,
}
