//! What can be set on a connection, with the defaults and where they come from.
//!
//! Knows nothing of how options are named by the socket layer.
#![forbid(unsafe_code)]

use std::rc::Rc;

use super::congestion::CongestionControl;
use super::ecn::EcnUse;
use crate::limits::MSS_FLOOR_BYTES;
use crate::time::Duration;

/// RFC 9293 §3.7.1 (MUST-15): the MSS to assume of an IPv4 peer that sends no option.
pub const MSS_DEFAULT_V4: u16 = 536;
/// RFC 9293 §3.7.1 (MUST-15): the MSS to assume of an IPv6 peer that sends no option.
pub const MSS_DEFAULT_V6: u16 = 1220;
/// A buffer larger than this could not be told apart from its own past on a 32-bit sequence
/// circle (RFC 7323 §2.3: the window must stay below 2^30).
pub const BUFFER_BYTES_MAX: u32 = 1 << 30;

/// The two ports of a connection; addresses are the stack's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// Ours.
    pub local: u16,
    /// The peer's.
    pub remote: u16,
}

/// When to ask a silent peer whether it is still there (RFC 9293 §3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Probes without an answer after which the connection is given up.
    pub count: u8,
}

impl Default for Keepalive {
    /// Linux's values; the first is RFC 9293's "no less than two hours".
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(7200),
            interval: Duration::from_secs(75),
            count: 9,
        }
    }
}

/// Everything that can be set on a connection. Connections share it until one changes its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The MSS we announce: what our link takes, less the fixed IP and TCP headers.
    pub mss_local: u16,
    /// The MSS we assume of a peer that announces none ([`MSS_DEFAULT_V4`], [`MSS_DEFAULT_V6`]).
    pub mss_default: u16,
    /// The smallest MSS we honour from a peer.
    pub mss_min: u16,
    /// Most bytes of data in a segment that the link cuts into segments of the MSS (TSO); 0 = the
    /// link does not cut.
    pub tso_bytes_max: u32,
    /// Bytes that may be held for the application and for reassembly together, to begin with.
    pub rcv_buf_bytes: u32,
    /// … and at most, when much arrives and is read.
    pub rcv_buf_max_bytes: u32,
    /// Bytes that may be held for the peer, sent or not, whatever the congestion window.
    pub snd_buf_bytes: u32,
    /// … and at most, when two congestion windows are more.
    pub snd_buf_max_bytes: u32,
    /// Retransmission timeout before there is a measurement (RFC 6298 §2.1).
    pub rto_initial: Duration,
    /// Floor of the retransmission timeout (RFC 6298 §2.4; LUNA §9 inside a data centre).
    pub rto_min: Duration,
    /// Ceiling of the retransmission timeout (RFC 6298 §2.5).
    pub rto_max: Duration,
    /// How long an acknowledgment may wait for data to travel with; zero sends it at once.
    pub delayed_ack: Duration,
    /// How long the peer may hold an acknowledgment back when a single segment is outstanding:
    /// how much later its loss is suspected (RFC 8985 §7.2).
    pub max_ack_delay: Duration,
    /// Send small segments even while others are unacknowledged (disables Nagle).
    pub nodelay: bool,
    /// Send only full segments until it is taken away.
    pub cork: bool,
    /// Probe a silent peer.
    pub keepalive: Option<Keepalive>,
    /// Give up when data stays unacknowledged for this long (RFC 5482's USER TIMEOUT, local
    /// part). Replaces `retries`.
    pub user_timeout: Option<Duration>,
    /// Retransmissions of a SYN before the attempt is given up.
    pub syn_retries: u8,
    /// Retransmissions of a SYN-ACK before the attempt is given up.
    pub syn_ack_retries: u8,
    /// Retransmissions of data before the connection is given up (R2 of RFC 9293 §3.8.3).
    pub retries: u8,
    /// The same once the application has let go of the connection.
    pub orphan_retries: u8,
    /// 2 MSL: how long TIME-WAIT lasts.
    pub time_wait: Duration,
    /// How long FIN-WAIT-2 may last once the application has let go of the connection.
    pub fin_wait_2: Duration,
    /// Offer window scaling (RFC 7323 §2).
    pub window_scale: bool,
    /// Offer selective acknowledgment (RFC 2018).
    pub sack: bool,
    /// Offer timestamps (RFC 7323 §3).
    pub timestamps: bool,
    /// Use explicit congestion notification (RFC 3168). DCTCP asks for it in any case.
    pub ecn: EcnUse,
    /// How the congestion window moves.
    pub congestion: CongestionControl,
    /// Spread a window's segments over the round trip.
    pub pacing: bool,
    /// The fastest that data may leave, in bytes per second (`SO_MAX_PACING_RATE`); 0 and
    /// [`RATE_UNLIMITED`](super::RATE_UNLIMITED): no limit.
    pub max_pacing_rate: u64,
    /// Makes the limit on challenge ACKs unpredictable (RFC 5961 §7); mixed with the initial
    /// sequence number, so one value per process is enough.
    pub seed: u64,
}

impl Default for Config {
    /// RFC values where an RFC has one, else Linux's.
    fn default() -> Self {
        Self {
            mss_local: 1460,
            mss_default: MSS_DEFAULT_V4,
            mss_min: MSS_FLOOR_BYTES,
            tso_bytes_max: 0,
            rcv_buf_bytes: 256 << 10,
            // The maxima of tcp_rmem and tcp_wmem.
            rcv_buf_max_bytes: 6 << 20,
            snd_buf_bytes: 1 << 20,
            snd_buf_max_bytes: 4 << 20,
            //= RFC 6298 §2.1
            //# "the sender SHOULD set RTO <- 1 second"
            rto_initial: Duration::from_secs(1),
            // Linux's floor. RFC 6298 §2.4 asks for a second but allows less where clocks are
            // fine; the stack lowers it further towards peers of the same data centre.
            rto_min: Duration::from_millis(200),
            //= RFC 6298 §2.5
            //# "A maximum value MAY be placed on RTO provided it is at least 60 seconds."
            rto_max: Duration::from_secs(120),
            delayed_ack: Duration::from_millis(1),
            // Linux's ceiling; RFC 9293 §3.8.6.3 allows half a second.
            max_ack_delay: Duration::from_millis(200),
            nodelay: false,
            cork: false,
            //= RFC 9293 §3.8.4
            //# "keep-alives ... MUST default to off"
            keepalive: None,
            user_timeout: None,
            // 1 + 2 + ... + 64 + 120 + 120 s: RFC 9293 §3.8.3 asks for three minutes (MUST-23).
            syn_retries: 7,
            syn_ack_retries: 5,
            // Linux's tcp_retries2: minutes of backing off, beyond the 100 s of SHLD-11.
            retries: 15,
            orphan_retries: 8,
            time_wait: Duration::from_secs(60),
            fin_wait_2: Duration::from_secs(60),
            window_scale: true,
            sack: true,
            timestamps: true,
            ecn: EcnUse::Accept,
            congestion: CongestionControl::NewReno,
            pacing: false,
            max_pacing_rate: 0,
            seed: 0,
        }
    }
}

impl Config {
    /// The timeouts for a peer in the same data centre (LUNA §9).
    #[must_use]
    pub fn for_data_centre(mut self) -> Self {
        self.rto_min = Duration::from_millis(4);
        // A SYN is answered by a stack, not by a program: within a round trip, or not at all.
        self.rto_initial = Duration::from_millis(100);
        // Ours is one, and the shard may be away for another. What a peer's longer one costs is
        // a probe, or a timeout that is then taken back.
        self.max_ack_delay = Duration::from_millis(2);
        self
    }

    /// A receive buffer of this size from beginning to end (`SO_RCVBUF`).
    pub fn set_receive_buffer(&mut self, bytes: u32) {
        (self.rcv_buf_bytes, self.rcv_buf_max_bytes) = (bytes, bytes);
    }

    /// A send buffer of this size from beginning to end (`SO_SNDBUF`).
    pub fn set_send_buffer(&mut self, bytes: u32) {
        (self.snd_buf_bytes, self.snd_buf_max_bytes) = (bytes, bytes);
    }

    /// Forces values that would break the protocol back into its limits.
    #[must_use]
    pub fn sanitized(mut self) -> Self {
        self.sanitize();
        self
    }

    /// The same in place.
    pub fn sanitize(&mut self) {
        self.mss_min = self.mss_min.max(MSS_FLOOR_BYTES);
        self.mss_local = self.mss_local.max(self.mss_min);
        self.mss_default = self.mss_default.max(self.mss_min);
        self.rcv_buf_max_bytes = self.rcv_buf_max_bytes.clamp(1, BUFFER_BYTES_MAX);
        self.snd_buf_max_bytes = self.snd_buf_max_bytes.clamp(1, BUFFER_BYTES_MAX);
        self.rcv_buf_bytes = self.rcv_buf_bytes.clamp(1, self.rcv_buf_max_bytes);
        self.snd_buf_bytes = self.snd_buf_bytes.clamp(1, self.snd_buf_max_bytes);
        // A zero timeout would spin.
        self.rto_min = self.rto_min.max(Duration::from_micros(100));
        self.rto_max = self.rto_max.max(self.rto_min);
        self.rto_initial = self.rto_initial.max(self.rto_min).min(self.rto_max);
    }
}

/// A [`Config`] within the protocol's limits, shared by the connections that were made with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedConfig(Rc<Config>);

impl From<&Config> for SharedConfig {
    fn from(config: &Config) -> Self {
        Self(Rc::new(config.clone().sanitized()))
    }
}

impl From<&Self> for SharedConfig {
    fn from(config: &Self) -> Self {
        config.clone()
    }
}

impl core::ops::Deref for SharedConfig {
    type Target = Config;
    #[inline]
    fn deref(&self) -> &Config {
        &self.0
    }
}

impl SharedConfig {
    /// Changes it for this owner alone.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Config)) {
        let config = Rc::make_mut(&mut self.0);
        change(config);
        config.sanitize();
    }
}
