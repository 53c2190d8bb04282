//! How large segments to each peer may be: what the link and the route take, and what routers say.
#![forbid(unsafe_code)]

use core::net::IpAddr;

use super::flow_table::Flow;
use super::narrow::Narrow;
use super::shard::Shard;
use crate::control::TooBig;
use crate::tcp::RAISE_AFTER;
use crate::time::Instant;

/// IPv4 and IPv6 headers without options, and TCP's.
const HEADERS_V4: u32 = 40;
const HEADERS_V6: u32 = 60;

/// Bytes of payload and options in an IP packet of `mtu` bytes from `local`.
fn mss_of(mtu: u32, local: IpAddr) -> u16 {
    let headers = if local.is_ipv4() {
        HEADERS_V4
    } else {
        HEADERS_V6
    };
    mtu.saturating_sub(headers).min(u32::from(u16::MAX)) as u16
}

impl Shard {
    /// What the link and the route to a peer take in one segment.
    pub(super) fn link_mss(&mut self, local: IpAddr, remote: IpAddr) -> u16 {
        let frame_room = self.capabilities.frame_bytes_max.saturating_sub(14) as u32;
        mss_of(self.link.path_mtu(local, remote).min(frame_room), local)
    }

    /// Tells a connection what its path takes, after the control plane has changed.
    #[cold]
    pub(super) fn learn_path(&mut self, now: Instant, index: u32) {
        let Some(slot) = self.slots.at(index) else {
            return;
        };
        let (local, remote) = (slot.local.ip(), slot.remote.ip());
        let mss = self.link_mss(local, remote);
        let narrow = self.link.narrow_path(now, remote);
        if let Some(slot) = self.slots.at_mut(index) {
            slot.conn.set_path_mss(mss);
            if let Some(narrow) = narrow {
                let mss = mss_of(narrow.mtu, local);
                slot.conn.lower_path_mss(mss, narrow.until);
            }
        }
    }

    /// Passes on what routers have said since the last turn.
    #[cold]
    pub(super) fn take_notices(&mut self, now: Instant) {
        let mut notices = Vec::new();
        self.link.take_notices(&mut notices);
        for notice in notices {
            self.on_too_big(now, &notice);
        }
    }

    /// A router cannot forward a segment. Connections of other shards and of the kernel are passed
    /// over.
    fn on_too_big(&mut self, now: Instant, notice: &TooBig) {
        let flow = self.flow(notice.local, notice.remote);
        let Some(Flow::Connection(index)) = flow else {
            return;
        };
        let Some(slot) = self.slots.at_mut(index) else {
            return;
        };
        let mss = mss_of(notice.mtu, notice.local.ip());
        if !slot.conn.on_too_big(notice.sequence, mss, now) {
            return;
        }
        self.stats.too_big += 1;
        let narrow = Narrow {
            mtu: notice.mtu,
            until: now + RAISE_AFTER,
        };
        self.link.narrow(notice.remote.ip(), narrow);
        self.mark_dirty(index);
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::super::testutil::Two;
    use super::super::{Ready, RecvMode, Wakeup};
    use super::*;
    use crate::tcp::Config;
    use crate::time::Duration;
    use crate::wire::SeqNum;

    const SERVER: u16 = 80;

    fn mss_of_new_connection(two: &mut Two, port: u16) -> u32 {
        let (now, at) = (two.now, Two::at(1, port));
        let ours = two.ends[1]
            .connect(now, at, Two::at(0, SERVER), &Config::default(), 9)
            .unwrap();
        two.settle();
        two.ends[1].info(ours).unwrap().tcp.snd_mss
    }

    #[test]
    fn a_notice_reaches_its_connection_and_new_ones() {
        let mut two = Two::new(1500);
        let (now, config) = (two.now, Config::default());
        let listen = two.ends[0]
            .listen(Two::at(0, SERVER), false, 16, &config, 7)
            .unwrap();
        let (local, remote) = (Two::at(1, 4000), Two::at(0, SERVER));
        let ours = two.ends[1].connect(now, local, remote, &config, 9).unwrap();
        two.settle();
        assert!(two.wakeups[0].contains(&Wakeup {
            token: 7,
            edge: Ready::IN
        }));
        let accepted = two.ends[0].accept(listen, 8).unwrap();
        let before = two.ends[1].info(ours).unwrap().tcp.snd_mss;
        assert_eq!(before, 1448, "with timestamps");

        let data = [7; 5000];
        let _ = two.ends[1].send(now, ours, &[IoSlice::new(&data)], false);
        two.ends[1].flush(now);
        let unacked = two.ends[1].info(ours).unwrap().tcp.unacked;
        assert!(unacked > 2000);
        let about = |shard: &Shard, back: u32| -> SeqNum {
            let Some(Flow::Connection(index)) = shard.flow(local, remote) else {
                panic!("no connection")
            };
            let conn = &shard.slots.at(index).unwrap().conn;
            conn.time_wait_seed().snd_nxt - back
        };
        let mut notice = TooBig {
            local,
            remote,
            sequence: about(&two.ends[1], unacked + 1),
            mtu: 1000,
        };
        two.ends[1].on_too_big(now, &notice);
        assert_eq!(two.ends[1].counters().too_big, 0, "that has arrived");
        notice.sequence = about(&two.ends[1], unacked);
        let strange = TooBig {
            remote: Two::at(0, 81),
            ..notice
        };
        two.ends[1].on_too_big(now, &strange);
        two.ends[1].on_too_big(now, &notice);
        assert_eq!(two.ends[1].counters().too_big, 1);
        assert_eq!(two.ends[1].info(ours).unwrap().tcp.snd_mss, 1000 - 40 - 12);
        two.settle();
        let mut buffer = vec![0; 6000];
        let got = two.ends[0].recv(
            two.now,
            accepted.conn,
            &mut [std::io::IoSliceMut::new(&mut buffer)],
            RecvMode::default(),
        );
        assert_eq!(got, Ok(5000));
        assert_eq!(buffer[..5000], data);
        assert_eq!(two.ends[1].info(ours).unwrap().tcp.counters.timeouts, 0);

        assert_eq!(mss_of_new_connection(&mut two, 4001), 1000 - 40 - 12);
        two.now = two.now + RAISE_AFTER + Duration::from_secs(1);
        assert_eq!(mss_of_new_connection(&mut two, 4002), 1448);
    }
}
