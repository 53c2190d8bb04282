//! One socket in the statistics, and its form in shared memory.
#![forbid(unsafe_code)]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Reason;

macro_rules! states {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal $name:literal,)*) => {
        /// The state of a socket, in the words of `ss`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum RowState {
            $($(#[doc = $doc])+ $variant = $code,)*
        }

        impl RowState {
            /// Every state.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The name that tools print.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

states! {
    /// Made, and neither listening nor connected.
    Unconnected = 1 "UNCONN",
    /// `LISTEN`.
    Listen = 2 "LISTEN",
    /// `SYN-SENT`.
    SynSent = 3 "SYN-SENT",
    /// `SYN-RECEIVED`.
    SynReceived = 4 "SYN-RECV",
    /// `ESTABLISHED`.
    Established = 5 "ESTAB",
    /// `FIN-WAIT-1`.
    FinWait1 = 6 "FIN-WAIT-1",
    /// `FIN-WAIT-2`.
    FinWait2 = 7 "FIN-WAIT-2",
    /// `CLOSE-WAIT`.
    CloseWait = 8 "CLOSE-WAIT",
    /// `CLOSING`.
    Closing = 9 "CLOSING",
    /// `LAST-ACK`.
    LastAck = 10 "LAST-ACK",
    /// `TIME-WAIT`.
    TimeWait = 11 "TIME-WAIT",
    /// Over, but still open as a descriptor.
    Closed = 12 "CLOSED",
}

/// A socket, as `luna ss` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketRow {
    /// Its state.
    pub state: RowState,
    /// Why it is on the stack or on the kernel.
    pub reason: Reason,
    /// The shard that owns it (0 for one on the kernel).
    pub shard: u16,
    /// The lowest of its descriptors; −1 after the last was closed.
    pub fd: i32,
    /// Our end.
    pub local: SocketAddr,
    /// Their end; port 0 if there is none.
    pub remote: SocketAddr,
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes sent and acknowledged.
    pub bytes_out: u64,
    /// Segments sent again.
    pub retransmits: u32,
    /// Smoothed round-trip time in microseconds.
    pub srtt_us: u32,
    /// Its variation in microseconds.
    pub rttvar_us: u32,
    /// Congestion window in bytes.
    pub cwnd_bytes: u32,
    /// Slow-start threshold in bytes; `u32::MAX` if not set.
    pub ssthresh_bytes: u32,
    /// Segment size to the peer in bytes.
    pub mss_bytes: u32,
    /// Bytes to be read, or connections to be accepted.
    pub recv_queue: u32,
    /// Bytes not yet acknowledged, or the backlog.
    pub send_queue: u32,
}

/// Words of a row after its sequence number.
pub(super) const ROW_WORDS: usize = 15;

impl SocketRow {
    /// A socket of which only the addresses are known.
    pub const fn new(
        state: RowState,
        reason: Reason,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Self {
        Self {
            state,
            reason,
            shard: 0,
            fd: -1,
            local,
            remote,
            bytes_in: 0,
            bytes_out: 0,
            retransmits: 0,
            srtt_us: 0,
            rttvar_us: 0,
            cwnd_bytes: 0,
            ssthresh_bytes: u32::MAX,
            mss_bytes: 0,
            recv_queue: 0,
            send_queue: 0,
        }
    }

    pub(super) const fn to_words(self) -> [u64; ROW_WORDS] {
        let (local_high, local_low) = address_words(self.local.ip());
        let (remote_high, remote_low) = address_words(self.remote.ip());
        let head = self.state as u64
            | (self.reason as u64) << 8
            | (self.local.is_ipv4() as u64) << 16
            | (self.remote.is_ipv4() as u64) << 17
            | (self.shard as u64) << 32;
        let ports = self.local.port() as u64
            | (self.remote.port() as u64) << 16
            | (self.fd as u32 as u64) << 32;
        [
            head,
            ports,
            local_high,
            local_low,
            remote_high,
            remote_low,
            self.bytes_in,
            self.bytes_out,
            pair(self.retransmits, self.mss_bytes),
            pair(self.srtt_us, self.rttvar_us),
            pair(self.cwnd_bytes, self.ssthresh_bytes),
            pair(self.recv_queue, self.send_queue),
            0,
            0,
            0,
        ]
    }

    /// `None` for a free row, and for one that this version does not understand.
    pub(super) fn from_words(words: &[u64; ROW_WORDS]) -> Option<Self> {
        let &[
            head,
            ports,
            lh,
            ll,
            rh,
            rl,
            bytes_in,
            bytes_out,
            losses,
            rtt,
            windows,
            queues,
            ..,
        ] = words;
        let local = address(head >> 16 & 1 == 1, lh, ll);
        let remote = address(head >> 17 & 1 == 1, rh, rl);
        Some(Self {
            state: RowState::from_code(head as u8)?,
            reason: Reason::from_code((head >> 8) as u8),
            shard: (head >> 32) as u16,
            fd: (ports >> 32) as u32 as i32,
            local: SocketAddr::new(local, ports as u16),
            remote: SocketAddr::new(remote, (ports >> 16) as u16),
            bytes_in,
            bytes_out,
            retransmits: losses as u32,
            mss_bytes: (losses >> 32) as u32,
            srtt_us: rtt as u32,
            rttvar_us: (rtt >> 32) as u32,
            cwnd_bytes: windows as u32,
            ssthresh_bytes: (windows >> 32) as u32,
            recv_queue: queues as u32,
            send_queue: (queues >> 32) as u32,
        })
    }
}

const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

const fn address_words(address: IpAddr) -> (u64, u64) {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_bits() as u128,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    ((bits >> 64) as u64, bits as u64)
}

const fn address(is_ipv4: bool, high: u64, low: u64) -> IpAddr {
    if is_ipv4 {
        IpAddr::V4(Ipv4Addr::from_bits(low as u32))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits((high as u128) << 64 | low as u128))
    }
}
