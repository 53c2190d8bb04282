//! SYN cookies (RFC 4987 §3.6): a handshake that keeps no state until its last ACK.
//!
//! The initial sequence number of the SYN-ACK is a keyed hash that also holds the peer's MSS,
//! rounded down; the low bits of the timestamp hold the other options, so that a peer without
//! timestamps gets neither window scaling nor SACK. The same bits as Linux's, save that the hash
//! covers the options too: an answer that changed them is no answer.
#![forbid(unsafe_code)]

use core::net::SocketAddr;

use super::isn::{IsnGenerator, Purpose};
use super::listener::COOKIE_LIFETIME;
use crate::time::Instant;
use crate::wire::{SeqNum, TcpFlags, TcpHeader, TcpOptions, Timestamps};

/// The MSS values that a cookie can express, smallest first: common ones (RFC 4987 §3.6 leaves
/// them open), those of 1500-byte links with and without tunnels, and of jumbo frames.
const MSS_TABLE: [u16; 8] = [48, 536, 1220, 1300, 1380, 1440, 1460, 8940];

/// A period is half a cookie's lifetime: one is good in that in which it was made and the next.
const PERIOD_SECS: u64 = COOKIE_LIFETIME.as_secs() / 2;

/// Bits of the timestamp that hold options: four of window scale, one of SACK.
const OPTION_BITS: u32 = 5;
const OPTION_MASK: u32 = (1 << OPTION_BITS) - 1;
const NO_SCALE: u32 = 15;
const SACK: u32 = 16;

/// What to answer a SYN with: parameters for [`Connection::accept`](super::Connection::accept),
/// of which only the SYN-ACK is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Baked {
    /// The initial sequence number.
    pub iss: SeqNum,
    /// What to add to the clock's milliseconds at this moment to get the timestamp. Never more
    /// than the offset that the connection will have, so that its timestamps grow.
    pub ts_offset: u32,
}

/// What a cookie brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The initial sequence number that we sent.
    pub iss: SeqNum,
    /// The peer's SYN as far as it is remembered, for
    /// [`Connection::accept_after_syn_ack`](super::Connection::accept_after_syn_ack).
    pub syn: TcpHeader,
}

/// Makes the cookie for a SYN that arrived at `now` for `local`. `ts_offset` is that of the
/// tuple ([`IsnGenerator::timestamp_offset`]).
pub fn bake(
    secret: &IsnGenerator,
    now: Instant,
    (local, remote): (SocketAddr, SocketAddr),
    syn: &TcpHeader,
    ts_offset: u32,
) -> Baked {
    let offered = syn.options.mss.unwrap_or(MSS_TABLE[1]);
    let mss = MSS_TABLE
        .iter()
        .rposition(|mss| *mss <= offered)
        .unwrap_or(0) as u32;
    let options = match syn.options.timestamps {
        None => NO_SCALE,
        Some(_) => {
            let scale = syn
                .options
                .window_scale
                .map_or(NO_SCALE, |s| u32::from(s.min(14)));
            scale | if syn.options.sack_permitted { SACK } else { 0 }
        }
    };
    let clock = now.as_millis_wrapping();
    let stamp = clock.wrapping_add(ts_offset);
    let mut marked = stamp & !OPTION_MASK | options;
    if marked.wrapping_sub(stamp) as i32 > 0 {
        marked = marked.wrapping_sub(1 << OPTION_BITS);
    }
    let period = now.as_nanos() / 1_000_000_000 / PERIOD_SECS;
    let hash = hash(secret, (local, remote), syn.seq, period, mss, options);
    Baked {
        iss: SeqNum::new((period as u32 & 1) << 31 | mss << 28 | hash),
        ts_offset: marked.wrapping_sub(clock),
    }
}

/// Whether the ACK that arrived at `now` answers a cookie, and what that held.
pub fn check(
    secret: &IsnGenerator,
    now: Instant,
    (local, remote): (SocketAddr, SocketAddr),
    ack: &TcpHeader,
) -> Option<Recovered> {
    if !ack.flags.contains(TcpFlags::ACK) || ack.flags.intersects(TcpFlags::SYN | TcpFlags::RST) {
        return None;
    }
    let iss = ack.ack - 1;
    let peer_iss = ack.seq - 1;
    let mss = iss.get() >> 28 & 7;
    let options = match ack.options.timestamps {
        None => NO_SCALE,
        Some(ts) => ts.echo & OPTION_MASK,
    };
    let mut period = now.as_nanos() / 1_000_000_000 / PERIOD_SECS;
    if period & 1 != u64::from(iss.get() >> 31) {
        period = period.checked_sub(1)?;
    }
    if iss.get() & 0x0fff_ffff != hash(secret, (local, remote), peer_iss, period, mss, options) {
        return None;
    }
    let scale = options & NO_SCALE;
    let syn = TcpHeader {
        src_port: ack.src_port,
        dst_port: ack.dst_port,
        seq: peer_iss,
        flags: TcpFlags::SYN,
        window: ack.window,
        options: TcpOptions {
            mss: MSS_TABLE.get(mss as usize).copied(),
            window_scale: (scale != NO_SCALE).then_some(scale as u8),
            sack_permitted: options & SACK != 0,
            timestamps: ack.options.timestamps.map(|ts| Timestamps {
                value: ts.value,
                echo: 0,
            }),
            ..TcpOptions::default()
        },
        ..TcpHeader::default()
    };
    Some(Recovered { iss, syn })
}

/// 28 bits: a guess succeeds once in 2^28, times the two periods and eight sizes that are tried.
fn hash(
    secret: &IsnGenerator,
    (local, remote): (SocketAddr, SocketAddr),
    peer_iss: SeqNum,
    period: u64,
    mss: u32,
    options: u32,
) -> u32 {
    let mut extra = [0; 16];
    let (head, tail) = extra.split_at_mut(8);
    head.copy_from_slice(&period.to_be_bytes());
    let packed = u64::from(peer_iss.get()) << 32 | u64::from(mss << 8 | options);
    tail.copy_from_slice(&packed.to_be_bytes());
    secret.hash(Purpose::Cookie, local, remote, &extra) as u32 & 0x0fff_ffff
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::Duration;

    fn ends() -> (SocketAddr, SocketAddr) {
        (
            SocketAddr::from(([10, 0, 0, 1], 80)),
            SocketAddr::from(([10, 0, 0, 2], 999)),
        )
    }

    fn syn(mss: Option<u16>, scale: Option<u8>, sack: bool, stamps: bool) -> TcpHeader {
        let mut syn = TcpHeader {
            seq: SeqNum::new(u32::MAX),
            ..TcpHeader::default()
        };
        syn.options.mss = mss;
        syn.options.window_scale = scale;
        syn.options.sack_permitted = sack;
        syn.options.timestamps = stamps.then_some(Timestamps { value: 5, echo: 0 });
        syn
    }

    fn answer(now: Instant, baked: Baked, syn: &TcpHeader) -> TcpHeader {
        let echo = now.as_millis_wrapping().wrapping_add(baked.ts_offset);
        let mut ack = TcpHeader {
            seq: syn.seq + 1,
            ack: baked.iss + 1,
            flags: TcpFlags::ACK,
            window: 500,
            ..TcpHeader::default()
        };
        ack.options.timestamps = syn.options.timestamps.map(|ts| Timestamps {
            value: ts.value + 1,
            echo,
        });
        ack
    }

    proptest! {
        #[test]
        fn a_cookie_brings_the_options_back(
            ns in 64_000_000_000u64..1 << 60,
            delay_ms in 0u64..64_000,
            offset: u32,
            mss in prop::option::of(any::<u16>()),
            scale in prop::option::of(0u8..=20),
            sack: bool,
            stamps: bool,
        ) {
            let secret = IsnGenerator::new([3; 16]);
            let now = Instant::from_nanos(ns);
            let syn = syn(mss, scale, sack, stamps);
            let baked = bake(&secret, now, ends(), &syn, offset);
            let behind = offset.wrapping_sub(baked.ts_offset);
            prop_assert!(behind < 64, "timestamps of the connection are later");
            let ack = answer(now, baked, &syn);
            let later = now + Duration::from_millis(delay_ms);
            let got = check(&secret, later, ends(), &ack).unwrap();
            prop_assert_eq!(got.iss, baked.iss);
            prop_assert_eq!(got.syn.seq, syn.seq);
            let options = got.syn.options;
            prop_assert!(options.mss.unwrap() <= mss.unwrap_or(536).max(48));
            prop_assert_eq!(options.timestamps.map(|ts| ts.value), stamps.then_some(6));
            prop_assert_eq!(options.window_scale, scale.filter(|_| stamps).map(|s| s.min(14)));
            prop_assert_eq!(options.sack_permitted, sack && stamps);
        }

        #[test]
        fn nothing_else_is_a_cookie(seq: u32, ack: u32, echo: u32, ns: u64) {
            let secret = IsnGenerator::new([3; 16]);
            let mut header = TcpHeader { flags: TcpFlags::ACK, ..TcpHeader::default() };
            header.seq = SeqNum::new(seq);
            header.ack = SeqNum::new(ack);
            header.options.timestamps = Some(Timestamps { value: 0, echo });
            prop_assert_eq!(check(&secret, Instant::from_nanos(ns), ends(), &header), None);
        }
    }

    #[test]
    fn a_cookie_is_good_for_its_tuple_options_and_time_only() {
        let secret = IsnGenerator::new([3; 16]);
        let now = Instant::from_nanos(1_000_000_000_000);
        let syn = syn(Some(1460), Some(7), true, true);
        let ack = answer(now, bake(&secret, now, ends(), &syn, 9), &syn);
        assert!(check(&secret, now, ends(), &ack).is_some());
        let (local, remote) = ends();
        assert_eq!(check(&secret, now, (remote, local), &ack), None);
        assert_eq!(check(&IsnGenerator::new([4; 16]), now, ends(), &ack), None);
        assert_eq!(check(&secret, now + COOKIE_LIFETIME, ends(), &ack), None);
        for change in [0, 1, 2, 3, 4] {
            let mut ack = ack.clone();
            match change {
                0 => ack.seq += 1,
                1 => ack.ack += 1,
                2 => ack.options.timestamps = None,
                3 => ack.options.timestamps = Some(Timestamps { value: 0, echo: 0 }),
                _ => ack.flags |= TcpFlags::RST,
            }
            assert_eq!(check(&secret, now, ends(), &ack), None, "change {change}");
        }
    }
}
