//! Watches the wire: what no segment of a correct stack may ever look like.

use luna::wire::{SackBlock, SeqNum, TcpFlags, TcpHeader};

use crate::rng::Rng;
use crate::world::Side;

/// What has been seen of the segments that one side sends.
#[derive(Debug, Default)]
struct Sent {
    syn: Option<TcpHeader>,
    /// End of everything sent.
    max: Option<SeqNum>,
    /// The acknowledgment and the right edge of the window that it last sent.
    ack: Option<SeqNum>,
    edge: Option<SeqNum>,
    /// The latest right edge that has reached it.
    granted: Option<SeqNum>,
    stamp: Option<u32>,
}

/// Watches one connection.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    a: Sent,
    b: Sent,
}

impl Oracle {
    /// Checks a segment that `side` sends; returns a line for the trace.
    #[track_caller]
    pub(crate) fn on_sent(&mut self, side: Side, segment: &[u8]) -> Line {
        let (h, header_len) = TcpHeader::parse(segment).unwrap();
        let len = (segment.len() - header_len) as u32;
        let line = Line(h.clone(), len);
        let (me, peer) = match side {
            Side::A => (&mut self.a, &mut self.b),
            Side::B => (&mut self.b, &mut self.a),
        };
        if h.flags.contains(TcpFlags::RST) {
            return line;
        }
        let control = [TcpFlags::SYN, TcpFlags::FIN];
        let control = control.iter().filter(|f| h.flags.contains(**f)).count() as u32;
        let end = h.seq + len + control;
        if h.flags.contains(TcpFlags::SYN) {
            assert_eq!(len, 0, "{side:?}: data on a SYN: {line}");
            if let Some(syn) = &me.syn {
                assert_eq!(syn.seq, h.seq, "{side:?}: another initial number: {line}");
            }
            me.syn = Some(h.clone());
        } else {
            me.check_window(side, &h, len, end, &line);
            me.check_size(side, segment.len() as u32 - 20, peer, &line);
        }
        me.max = Some(me.max.map_or(end, |max| max.latest(end)));
        me.check_ack(side, &h, peer, &line);
        me.check_options(side, &h, peer, &line);
        line
    }

    /// A segment from somebody who knows the ports only and must not get anywhere with it: never
    /// one whose numbers a lucky guess could have hit.
    pub(crate) fn forge(&self, victim: Side, rng: &mut Rng) -> Option<TcpHeader> {
        let (me, peer) = match victim {
            Side::A => (&self.a, &self.b),
            Side::B => (&self.b, &self.a),
        };
        // During the handshake a forger who guesses ports can do harm, by design of TCP.
        let (edge, acked, sent) = (me.edge?, peer.ack?, me.max?);
        let expected = peer.max?;
        let far = rng.below(1 << 30) as u32;
        let syn = me.syn.as_ref()?;
        if me.ack? == peer.syn.as_ref()?.seq || acked == syn.seq {
            return None;
        }
        let mut header = TcpHeader {
            src_port: syn.dst_port,
            dst_port: syn.src_port,
            seq: me.ack?,
            ack: sent,
            flags: TcpFlags::ACK,
            window: rng.below(1 << 16) as u16,
            ..TcpHeader::default()
        };
        match rng.below(6) {
            // A reset in the window, but not where one is expected (RFC 5961 §3).
            0 if edge.after(expected + 1) => {
                header.flags = TcpFlags::RST;
                let room = edge.distance_from(expected) - 1;
                header.seq = expected + 1 + rng.below(u64::from(room)) as u32;
            }
            // A reset anywhere else.
            0 | 1 => {
                header.flags |= TcpFlags::RST;
                header.seq = edge + 1 + far;
            }
            // A SYN, anywhere (RFC 5961 §4).
            2 => {
                header.flags = TcpFlags::SYN;
                header.seq = edge + rng.next() as u32;
            }
            // An acknowledgment of what was never sent (RFC 5961 §5).
            3 => header.ack = sent + 1 + far,
            // Data beyond the window, or long past.
            4 => header.seq = edge + far,
            _ => header.seq = me.ack? - (1 << 30) - far,
        }
        Some(header)
    }

    /// Takes note of a segment that reaches `side`; returns a line for the trace.
    pub(crate) fn on_delivered(&mut self, side: Side, segment: &[u8]) -> Line {
        let (h, header_len) = TcpHeader::parse(segment).unwrap();
        let line = Line(h.clone(), (segment.len() - header_len) as u32);
        let (me, peer) = match side {
            Side::A => (&mut self.a, &self.b),
            Side::B => (&mut self.b, &self.a),
        };
        if h.flags.contains(TcpFlags::ACK) && !h.flags.contains(TcpFlags::RST) {
            let edge = h.ack + peer.window(me, &h);
            me.granted = Some(me.granted.map_or(edge, |g| g.latest(edge)));
        } else if h.flags.contains(TcpFlags::SYN)
            && let Some(syn) = &me.syn
        {
            me.granted.get_or_insert(syn.seq + 1 + u32::from(h.window));
        }
        line
    }
}

impl Sent {
    /// The window of a segment of this side, in bytes.
    fn window(&self, peer: &Self, h: &TcpHeader) -> u32 {
        let shift = |s: &Self| s.syn.as_ref().and_then(|syn| syn.options.window_scale);
        match (shift(self), shift(peer)) {
            (Some(shift), Some(_)) if !h.flags.contains(TcpFlags::SYN) => {
                u32::from(h.window) << shift
            }
            _ => u32::from(h.window),
        }
    }

    /// Nothing is sent beyond the peer's window but a probe of one octet.
    fn check_window(&self, side: Side, h: &TcpHeader, len: u32, end: SeqNum, line: &Line) {
        let control = u32::from(h.flags.contains(TcpFlags::FIN));
        if len + control == 0 {
            return;
        }
        let Some(granted) = self.granted else {
            panic!("{side:?}: data before a window was offered: {line}");
        };
        let limit = if len + control == 1 {
            granted + 1
        } else {
            granted
        };
        let over = end.distance_from(limit) as i32;
        assert!(
            over <= 0,
            "{side:?}: {over} bytes beyond the window: {line}"
        );
    }

    //= RFC 9293 §3.7.1
    //# "The MSS value to be announced ... does not count the TCP options"
    fn check_size(&self, side: Side, options_and_data: u32, peer: &Self, line: &Line) {
        let offered = peer
            .syn
            .as_ref()
            .and_then(|syn| syn.options.mss)
            .unwrap_or(536);
        let mss = u32::from(offered.max(48));
        assert!(
            options_and_data <= mss.max(41),
            "{side:?}: {options_and_data} bytes of options and data, MSS {mss}: {line}"
        );
    }

    /// Acknowledgments and right edges never go back, and nothing unsent is acknowledged.
    fn check_ack(&mut self, side: Side, h: &TcpHeader, peer: &Self, line: &Line) {
        if !h.flags.contains(TcpFlags::ACK) {
            return;
        }
        if let Some(ack) = self.ack {
            assert!(
                h.ack.after_eq(ack),
                "{side:?}: the acknowledgment goes back: {line}"
            );
        }
        self.ack = Some(h.ack);
        let Some(max) = peer.max else {
            panic!("{side:?}: acknowledges nothing: {line}")
        };
        assert!(
            h.ack.before_eq(max),
            "{side:?}: acknowledges unsent data: {line}"
        );
        let edge = h.ack + self.window(peer, h);
        if let Some(old) = self.edge {
            // By less than the unit of a scaled window it may (RFC 7323 §2.4).
            let scale = self.syn.as_ref().and_then(|syn| syn.options.window_scale);
            let back = old.distance_from(edge) as i32;
            let most = (1 << scale.unwrap_or(0)) - 1;
            assert!(
                back <= most,
                "{side:?}: takes {back} bytes of its window back: {line}"
            );
        }
        self.edge = Some(self.edge.map_or(edge, |old| old.latest(edge)));
    }

    fn check_options(&mut self, side: Side, h: &TcpHeader, peer: &Self, line: &Line) {
        let agreed = |offers: fn(&TcpHeader) -> bool| {
            [&self.syn, &peer.syn]
                .into_iter()
                .all(|syn| syn.as_ref().is_some_and(offers))
        };
        let stamps = agreed(|syn| syn.options.timestamps.is_some());
        let sack = agreed(|syn| syn.options.sack_permitted);
        if !h.flags.contains(TcpFlags::SYN) {
            let stamped = h.options.timestamps.is_some();
            assert_eq!(stamped, stamps, "{side:?}: timestamps: {line}");
            assert!(
                h.options.mss.is_none() && h.options.window_scale.is_none(),
                "{line}"
            );
        }
        if let Some(ts) = h.options.timestamps {
            let back = self
                .stamp
                .map_or(0, |old| old.wrapping_sub(ts.value) as i32);
            assert!(back <= 0, "{side:?}: timestamps go back: {line}");
            self.stamp = Some(ts.value);
        }
        assert!(
            sack || h.options.sack.is_empty(),
            "{side:?}: SACK was not agreed: {line}"
        );
        for (i, SackBlock { left, right }) in h.options.sack.iter().enumerate() {
            let sent = peer.max.is_some_and(|max| right.before_eq(max));
            // The first block may report a duplicate (RFC 2883).
            let place = i == 0 || left.after(h.ack);
            assert!(
                left.before(*right) && sent && place,
                "{side:?}: bad SACK block: {line}"
            );
        }
    }
}

/// A segment as a line of a trace.
#[derive(Clone, Debug)]
pub(crate) struct Line(TcpHeader, u32);

impl Line {
    pub(crate) fn new(header: TcpHeader, payload_len: u32) -> Self {
        Self(header, payload_len)
    }
}

impl core::fmt::Display for Line {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&describe(&self.0, self.1))
    }
}

fn describe(h: &TcpHeader, len: u32) -> String {
    let flags: String = [
        (TcpFlags::SYN, 'S'),
        (TcpFlags::FIN, 'F'),
        (TcpFlags::RST, 'R'),
        (TcpFlags::PSH, 'P'),
        (TcpFlags::ACK, '.'),
    ]
    .into_iter()
    .filter_map(|(flag, letter)| h.flags.contains(flag).then_some(letter))
    .collect();
    let mut line = format!(
        "[{flags}] {:?}:+{len} ack {:?} win {}",
        h.seq, h.ack, h.window
    );
    for block in &h.options.sack {
        line += &format!(" sack {:?}-{:?}", block.left, block.right);
    }
    if let Some(ts) = h.options.timestamps {
        line += &format!(" ts {} {}", ts.value, ts.echo);
    }
    if h.flags.contains(TcpFlags::SYN) {
        let o = &h.options;
        line += &format!(
            " mss {:?} ws {:?} sack {}",
            o.mss, o.window_scale, o.sack_permitted
        );
    }
    line
}
