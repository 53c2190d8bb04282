//! `struct tcp_info` of a connection of ours.
//!
//! Fields that the stack does not keep are zero.
#![forbid(unsafe_code)]

use crate::stack::ConnInfo;
use crate::tcp::{Info, RATE_UNLIMITED, State};
use crate::time::Duration;

/// The length of the struct in Linux 6.18.
pub const TCP_INFO_BYTES: usize = 280;

/// Linux's number of a state (`include/net/tcp_states.h`), as a socket shows it: in TIME-WAIT
/// Linux keeps the connection elsewhere, and the socket is closed.
pub const fn state_number(state: State) -> u8 {
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynReceived => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait | State::Closed => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Closing => 11,
    }
}

/// Puts values at their offsets (`include/uapi/linux/tcp.h`).
struct Writer {
    bytes: [u8; TCP_INFO_BYTES],
}

impl Writer {
    fn put(&mut self, offset: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(offset..offset + value.len()) {
            place.copy_from_slice(value);
        }
    }

    fn u32(&mut self, offset: usize, value: u64) {
        self.put(
            offset,
            &u32::try_from(value).unwrap_or(u32::MAX).to_ne_bytes(),
        );
    }

    fn u64(&mut self, offset: usize, value: u64) {
        self.put(offset, &value.to_ne_bytes());
    }
}

/// `TCPI_OPT_TIMESTAMPS`, `TCPI_OPT_SACK`, `TCPI_OPT_WSCALE`, `TCPI_OPT_ECN`
const OPTION_BITS: [u8; 4] = [1, 2, 4, 8];
/// `TCP_CA_Recovery`, `TCP_CA_Loss`
const CA_RECOVERY: u8 = 3;
const CA_LOSS: u8 = 4;
/// `TCP_INFINITE_SSTHRESH`
const SSTHRESH_INFINITE: u64 = 0x7fff_ffff;

/// The struct's bytes.
pub fn encode(info: Option<&ConnInfo>) -> [u8; TCP_INFO_BYTES] {
    let mut out = Writer {
        bytes: [0; TCP_INFO_BYTES],
    };
    match info {
        Some(info) => fill(&mut out, &info.tcp),
        None => out.put(0, &[state_number(State::Closed)]),
    }
    out.bytes
}

fn fill(out: &mut Writer, tcp: &Info) {
    let agreed = [tcp.timestamps, tcp.sack, tcp.snd_wscale.is_some(), tcp.ecn];
    let options = agreed
        .iter()
        .zip(OPTION_BITS)
        .filter(|(on, _)| **on)
        .map(|(_, bit)| bit);
    let ca_state = match (tcp.backoffs, tcp.recovering) {
        (1.., _) => CA_LOSS,
        (0, true) => CA_RECOVERY,
        (0, false) => 0,
    };
    let shift = |wscale: Option<u8>| wscale.unwrap_or(0) & 0xf;
    out.put(
        0,
        &[
            state_number(tcp.state),
            ca_state,
            tcp.backoffs,
            0,
            tcp.backoffs,
            options.sum(),
            shift(tcp.rcv_wscale) << 4 | shift(tcp.snd_wscale),
        ],
    );
    let mss = u64::from(tcp.snd_mss.max(1));
    let segments = |bytes: u32| u64::from(bytes).div_ceil(mss);
    out.u32(8, tcp.rto.as_micros());
    out.u32(16, u64::from(tcp.snd_mss));
    out.u32(20, u64::from(tcp.rcv_mss));
    out.u32(24, segments(tcp.unacked));
    out.u32(28, segments(tcp.sacked));
    // As the path's MTU must be for segments of this size, IPv4 assumed.
    let headers = if tcp.timestamps { 52 } else { 40 };
    out.u32(60, u64::from(tcp.snd_mss) + headers);
    out.u32(68, tcp.srtt.map_or(0, Duration::as_micros));
    out.u32(72, tcp.rttvar.as_micros());
    let ssthresh = segments(tcp.ssthresh).min(SSTHRESH_INFINITE);
    out.u32(
        76,
        if tcp.ssthresh >= i32::MAX as u32 {
            SSTHRESH_INFINITE
        } else {
            ssthresh
        },
    );
    out.u32(80, u64::from(tcp.cwnd) / mss);
    out.u32(96, u64::from(tcp.rcv_wnd));
    out.u32(100, tcp.counters.retransmits);
    fill_newer(out, tcp);
}

/// The fields that came after Linux 3.
fn fill_newer(out: &mut Writer, tcp: &Info) {
    out.u64(104, tcp.pacing_rate.unwrap_or(RATE_UNLIMITED));
    out.u64(112, tcp.max_pacing_rate);
    out.u64(120, tcp.volume.bytes_acked);
    out.u64(128, tcp.volume.bytes_in);
    out.u32(136, tcp.volume.segs_out);
    out.u32(140, tcp.volume.segs_in);
    out.u32(144, u64::from(tcp.unsent));
    out.u32(
        148,
        tcp.min_rtt.map_or(u64::from(u32::MAX), Duration::as_micros),
    );
    out.u64(200, tcp.volume.bytes_out + tcp.counters.bytes_retransmitted);
    out.u64(208, tcp.counters.bytes_retransmitted);
    out.u32(216, tcp.counters.dsacks_in);
    out.u32(224, tcp.counters.out_of_order_in);
    out.u32(228, u64::from(tcp.snd_wnd));
    out.u32(232, u64::from(tcp.rcv_wnd));
    out.put(
        240,
        &u16::try_from(tcp.counters.timeouts)
            .unwrap_or(u16::MAX)
            .to_ne_bytes(),
    );
}

/// The MSS towards the peer, for `TCP_MAXSEG`.
pub fn send_mss(info: &ConnInfo) -> Option<i32> {
    i32::try_from(info.tcp.snd_mss).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_those_of_the_c_struct() {
        // What the C library's older, shorter struct has, is where it says.
        use core::mem::offset_of;
        assert_eq!(offset_of!(libc::tcp_info, tcpi_rto), 8);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_snd_mss), 16);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_unacked), 24);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_rtt), 68);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_snd_cwnd), 80);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_rcv_space), 96);
        assert_eq!(offset_of!(libc::tcp_info, tcpi_total_retrans), 100);
    }

    #[test]
    fn no_connection_is_closed() {
        assert_eq!(encode(None)[0], 7);
    }
}
