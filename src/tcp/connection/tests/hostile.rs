//! A peer that sends anything at all: nothing panics or overflows, and nothing grows without
//! bound.

use proptest::prelude::*;

use super::script::PORTS;
use crate::limits::REASSEMBLY_RANGES_MAX;
use crate::tcp::testutil::Bytes;
use crate::tcp::{Config, Connection, Pieces, SegmentIn};
use crate::time::{Duration, Instant};
use crate::wire::{Ecn, SackBlock, SeqNum, TcpFlags, TcpHeader, Timestamps};

/// A sequence number: near one that matters, or anywhere.
#[derive(Clone, Debug)]
enum Number {
    Near(i32),
    Edge(i32),
    Any(u32),
}

#[derive(Clone, Debug)]
enum Step {
    Segment {
        flags: u8,
        seq: Number,
        ack: Number,
        len: u16,
        window: u16,
        options: Options,
    },
    Wait(u32),
    Timer,
    Write(u16),
    Read(u16),
    Poll(u8),
    Shutdown,
    Close,
    Abort,
    Mss(u16),
    /// About a segment so far from SND.UNA.
    TooBig(i32, u16),
    Budget(u32),
    Cork(bool),
}

#[derive(Clone, Debug)]
struct Options {
    stamp: Option<(i32, u32)>,
    sack: Vec<(Number, Number)>,
    syn: (Option<u16>, Option<u8>, bool),
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        8 => (-3i32..2000).prop_map(Number::Near),
        2 => (-3i32..3).prop_map(Number::Edge),
        1 => any::<u32>().prop_map(Number::Any),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let stamp = prop::option::of((-2i32..5, any::<u32>()));
    let sack = prop::collection::vec((number(), number()), 0..4);
    (stamp, sack, any::<(Option<u16>, Option<u8>, bool)>()).prop_map(|(stamp, sack, syn)| Options {
        stamp,
        sack,
        syn,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![8 => Just(0x10u8), 2 => Just(0x18), 1 => Just(0x11), 1 => any::<u8>()];
    let segment = (
        flags,
        number(),
        number(),
        0u16..3000,
        any::<u16>(),
        options(),
    )
        .prop_map(|(flags, seq, ack, len, window, options)| Step::Segment {
            flags,
            seq,
            ack,
            len,
            window,
            options,
        });
    prop_oneof![
        30 => segment,
        3 => (0u32..100_000).prop_map(Step::Wait),
        5 => Just(Step::Timer),
        5 => any::<u16>().prop_map(Step::Write),
        5 => any::<u16>().prop_map(Step::Read),
        10 => any::<u8>().prop_map(Step::Poll),
        1 => Just(Step::Shutdown),
        1 => any::<u16>().prop_map(Step::Mss),
        2 => (-2i32..3000, any::<u16>()).prop_map(|(at, mss)| Step::TooBig(at, mss)),
        1 => any::<u32>().prop_map(Step::Budget),
        1 => any::<bool>().prop_map(Step::Cork),
    ]
}

fn last_step() -> impl Strategy<Value = Step> {
    prop_oneof![Just(Step::Shutdown), Just(Step::Close), Just(Step::Abort)]
}

struct Target {
    c: Connection<Bytes>,
    now: Instant,
    stamp: u32,
}

impl Target {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Segment { .. } => self.hostile_segment(step),
            Step::Wait(us) => self.now += Duration::from_micros(u64::from(*us)),
            Step::Timer => {
                if self.c.poll_at() != Instant::FAR_FUTURE {
                    self.now = self.now.max(self.c.poll_at());
                }
                self.c.on_timer(self.now);
            }
            Step::Write(n) => {
                let n = usize::from(*n).min(self.c.send_space());
                self.c
                    .push(Bytes::new(&vec![7; n]), n % 3 == 0)
                    .expect("room");
            }
            Step::Read(n) => {
                self.c.consume(usize::from(*n));
            }
            Step::Poll(n) => self.poll(usize::from(*n)),
            Step::Shutdown => self.c.shutdown_write(self.now),
            Step::Close => self.c.close(self.now),
            Step::Abort => self.c.abort(self.now),
            Step::Mss(mss) => self.c.set_path_mss(*mss),
            Step::TooBig(at, mss) => {
                let about = self.c.tx.una + (*at as u32);
                let _believed = self.c.on_too_big(about, *mss, self.now);
            }
            Step::Budget(bytes) => self.c.set_receive_budget(*bytes),
            Step::Cork(on) => self.c.set_cork(*on),
        }
        let held = self.c.rx.readable() + self.c.rx.ooo_bytes();
        assert!(
            held <= self.c.config.rcv_buf_max_bytes as usize + (1 << 14),
            "{held} bytes held"
        );
        assert!(self.c.rx.ooo_ranges() <= REASSEMBLY_RANGES_MAX);
        assert!(self.c.tx.queue.len() <= self.c.config.snd_buf_max_bytes as usize);
    }

    fn hostile_segment(&mut self, step: &Step) {
        let Step::Segment {
            flags,
            seq,
            ack,
            len,
            window,
            options,
        } = step
        else {
            return;
        };
        let rx = |n: &Number| match n {
            Number::Near(d) => self.c.rx.nxt + *d as u32,
            Number::Edge(d) => self.c.rx.nxt + self.c.rx.window() + *d as u32,
            Number::Any(n) => SeqNum::new(*n),
        };
        let tx = |n: &Number| match n {
            Number::Near(d) => self.c.tx.una + *d as u32,
            Number::Edge(d) => self.c.tx.nxt + *d as u32,
            Number::Any(n) => SeqNum::new(*n),
        };
        let mut h = TcpHeader {
            seq: rx(seq),
            ack: tx(ack),
            flags: TcpFlags::from_bits_truncate(*flags),
            window: *window,
            ..TcpHeader::default()
        };
        let o = &mut h.options;
        (o.mss, o.window_scale, o.sack_permitted) = options.syn;
        o.timestamps = options.stamp.map(|(step, echo)| {
            let value = self.stamp.wrapping_add(step as u32);
            Timestamps { value, echo }
        });
        o.sack = (options.sack.iter())
            .map(|(l, r)| SackBlock {
                left: tx(l),
                right: tx(r),
            })
            .collect();
        self.stamp = o.timestamps.map_or(self.stamp, |t| t.value);
        self.segment(&h, usize::from(*len));
    }

    fn segment(&mut self, h: &TcpHeader, len: usize) {
        let mut payload = Pieces::new();
        if len > 0 {
            payload.push(Bytes::with_room(&vec![1; len], 2048));
        }
        let (payload, payload_len) = (&mut payload, len as u32);
        let _ = self.c.on_segment(
            self.now,
            SegmentIn {
                header: h,
                payload,
                payload_len,
                ecn: Ecn::Ce,
            },
        );
    }

    fn poll(&mut self, n: usize) {
        for _ in 0..n {
            if self.c.poll_transmit(self.now).is_none() {
                break;
            }
        }
        while self.c.poll_event().is_some() {}
    }
}

fn config() -> impl Strategy<Value = Config> {
    let flags = prop::array::uniform4(any::<bool>());
    (flags, 1u32..200_000, any::<u16>()).prop_map(|(f, buffer, mss)| Config {
        mss_local: mss,
        sack: f[0],
        timestamps: f[1],
        window_scale: f[2],
        nodelay: f[3],
        rcv_buf_max_bytes: buffer,
        snd_buf_max_bytes: buffer,
        ..Config::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn anything_goes(
        cfg in config(),
        active: bool,
        iss: u32,
        syn_options in options(),
        steps in prop::collection::vec(step(), 1..200),
        last in last_step(),
    ) {
        let now = Instant::ZERO;
        let iss = SeqNum::new(iss);
        let mut syn = TcpHeader { flags: TcpFlags::SYN, window: 5000, ..TcpHeader::default() };
        let o = &mut syn.options;
        (o.mss, o.window_scale, o.sack_permitted) = syn_options.syn;
        o.timestamps = Some(Timestamps { value: 0, echo: 0 });
        let c = if active {
            Connection::connect(&cfg, PORTS, iss, 0, now)
        } else {
            Connection::accept(&cfg, PORTS, iss, 0, &syn, now)
        };
        let mut target = Target { c, now, stamp: 0 };
        target.poll(10);
        // Most of the fun is in ESTABLISHED.
        let (seq, ack) = (target.c.rx.nxt, target.c.tx.nxt);
        let mut hello = TcpHeader { seq, ack, flags: TcpFlags::ACK, ..syn };
        if active {
            hello.flags |= TcpFlags::SYN;
        }
        target.segment(&hello, 0);
        for step in steps.iter().chain([&last]) {
            target.apply(step);
        }
        // Whatever happened, the connection comes to rest and says so.
        for _ in 0..300 {
            target.poll(usize::MAX);
            if target.c.poll_at() == Instant::FAR_FUTURE {
                break;
            }
            target.apply(&Step::Timer);
        }
        prop_assert_eq!(target.c.poll_transmit(target.now).map(|s| s.header), None);
    }
}
