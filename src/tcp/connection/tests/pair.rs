//! Two connections over a network that loses, duplicates and reorders, on virtual time: every
//! byte arrives exactly once and in order, both sides come to an end, and what must always
//! hold holds after every step.

use proptest::prelude::*;

use super::script::PORTS;
use crate::tcp::testutil::Bytes;
use crate::tcp::timers::Timer;
use crate::tcp::{Config, Connection, Disposition, Event, Payload, Ports, SegmentIn, SegmentOut};
use crate::tcp::{Pieces, State};
use crate::time::{Duration, Instant};
use crate::wire::{Ecn, SeqNum, TcpFlags};

/// SplitMix64, so that one number reproduces a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    loss: u64,
    duplication: u64,
    reordering: u64,
    bytes: [usize; 2],
    chunk: usize,
    /// The reader takes a break with this probability, so that windows close.
    laziness: u64,
    simultaneous: bool,
    configs: [Config; 2],
    iss: [u32; 2],
}

struct Side {
    c: Connection<Bytes>,
    to_write: usize,
    written: usize,
    read: usize,
    iss: u32,
    /// The furthest right edge that the peer promised (in what it sent, received or not).
    edge: Option<SeqNum>,
    una: u32,
    over: bool,
}

impl Side {
    /// Whether the application could do something if it looked.
    fn has_work(&self) -> bool {
        let writes = self.written < self.to_write && self.c.send_space() > 0;
        let ends = self.written == self.to_write && !self.c.tx.fin;
        self.c.readable_bytes() > 0 || writes || (ends && self.c.state() != State::SynSent)
    }
}

struct Flight {
    at: Instant,
    to: usize,
    segment: SegmentOut<Bytes>,
}

struct World {
    plan: Plan,
    random: Random,
    now: Instant,
    net: Vec<Flight>,
    sides: [Side; 2],
    /// When the applications look again.
    wake: Instant,
}

fn byte(side: usize, i: usize) -> u8 {
    (i % 251) as u8 ^ (side as u8 * 0x80)
}

impl World {
    fn new(plan: Plan) -> Self {
        let now = Instant::ZERO + Duration::from_millis(5);
        let ports = [
            PORTS,
            Ports {
                local: PORTS.remote,
                remote: PORTS.local,
            },
        ];
        let side = |i: usize| Side {
            c: Connection::connect(
                &plan.configs[i],
                ports[i],
                SeqNum::new(plan.iss[i]),
                77,
                now,
            ),
            to_write: plan.bytes[i],
            written: 0,
            read: 0,
            iss: plan.iss[i],
            edge: None,
            una: 0,
            over: false,
        };
        let mut sides = [side(0), side(1)];
        if !plan.simultaneous {
            // The listener's part: the first SYN always arrives.
            let syn = sides[0].c.poll_transmit(now).expect("SYN");
            let iss = SeqNum::new(plan.iss[1]);
            sides[1].c = Connection::accept(&plan.configs[1], ports[1], iss, 99, &syn.header, now);
        }
        let random = Random(plan.seed);
        Self {
            random,
            now,
            net: Vec::new(),
            sides,
            wake: now,
            plan,
        }
    }

    fn send(&mut self, from: usize, segment: SegmentOut<Bytes>) {
        self.check_sent(from, &segment);
        if std::env::var_os("TRACE").is_some() {
            let h = &segment.header;
            let (me, peer) = (self.sides[from].iss, self.sides[1 - from].iss);
            eprintln!(
                "{:?} {from} {:?} {} len {} ack {} win {} {:?} {:?} rtx {} rto {:?}",
                self.now,
                h.flags,
                h.seq.distance_from(SeqNum::new(me)),
                segment.payload_len,
                h.ack.distance_from(SeqNum::new(peer)),
                h.window,
                h.options.timestamps,
                h.options.sack,
                segment.retransmission,
                self.sides[from].c.rtt.rto()
            );
        }
        let copies = if self.random.percent(self.plan.loss) {
            0
        } else if self.random.percent(self.plan.duplication) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let mut delay = 100 + self.random.below(20);
            if self.random.percent(self.plan.reordering) {
                delay += self.random.below(2000);
            }
            let at = self.now + Duration::from_micros(delay);
            self.net.push(Flight {
                at,
                to: 1 - from,
                segment: segment.clone(),
            });
        }
    }

    /// No send beyond the window: nothing lies beyond what the peer has ever promised.
    fn check_sent(&mut self, from: usize, segment: &SegmentOut<Bytes>) {
        let h = &segment.header;
        let c = &self.sides[from].c;
        // A larger one may be tried than is usual at the moment.
        let mss = c.effective_mss(c.path.mss_link());
        let each = match segment.segment_bytes {
            0 => segment.payload_len,
            each => u32::from(each),
        };
        assert!(each <= mss, "{each} bytes in one segment");
        if segment.payload_len > 0
            && let Some(edge) = self.sides[from].edge
        {
            let end = h.seq + segment.payload_len;
            assert!(end.before_eq(edge), "{end:?} beyond {edge:?}");
        }
        if h.flags.contains(TcpFlags::ACK) && !h.flags.contains(TcpFlags::RST) {
            let scaled = !h.flags.contains(TcpFlags::SYN);
            let shift = if scaled {
                self.sides[from].c.rx.shift
            } else {
                0
            };
            let edge = h.ack + (u32::from(h.window) << shift);
            let known = &mut self.sides[1 - from].edge;
            // By less than the unit of the field it may (RFC 7323 §2.4).
            let slack = (1 << shift) - 1;
            assert!(
                known.is_none_or(|k| k.before_eq(edge + slack)) || h.flags.contains(TcpFlags::SYN),
                "the window shrank"
            );
            *known = Some(known.map_or(edge, |k| k.latest(edge)));
        }
    }

    fn poll(&mut self, i: usize) {
        let mut n = 0;
        while let Some(out) = self.sides[i].c.poll_transmit(self.now) {
            self.send(i, out);
            n += 1;
            assert!(n < 5000, "endless output");
        }
        while let Some(event) = self.sides[i].c.poll_event() {
            assert!(
                !matches!(event, Event::Reset | Event::Refused | Event::TimedOut),
                "side {i}: {event:?}"
            );
            self.sides[i].over |= matches!(event, Event::TimeWait | Event::Closed);
        }
        self.check(i);
    }

    /// What must hold whenever a side has said all it wanted to say.
    fn check(&mut self, i: usize) {
        let side = &mut self.sides[i];
        let c = &side.c;
        let una = c.tx.una.distance_from(SeqNum::new(side.iss));
        assert!(una >= side.una, "SND.UNA moved back");
        side.una = una;
        assert!(c.tx.una.before_eq(c.tx.nxt));
        let armed = |t| c.timers.is_armed(t);
        if c.state() != State::Closed && c.state() != State::TimeWait {
            assert!(
                c.tx.flight() == 0 || armed(Timer::Retransmit),
                "in flight without a timer"
            );
            let waiting = c.state().may_transmit_data() && (c.tx.unsent() > 0 || c.tx.fin_unsent());
            let timed = armed(Timer::Retransmit) || armed(Timer::Persist);
            assert!(
                !waiting || timed,
                "data waits without a timer: {:?}",
                c.info()
            );
            let owes = c.rx.nxt != c.rx.last_ack_sent && c.state().is_synchronized();
            assert!(
                !owes || armed(Timer::DelayedAck),
                "an ACK is owed without a timer"
            );
        }
        assert!(c.rx.readable() + c.rx.ooo_bytes() <= c.rx.budget_with_slack());
    }

    fn deliver(&mut self, flight: Flight) {
        let mut payload: Pieces<Bytes> = flight.segment.payload;
        let header = &flight.segment.header;
        let (payload_len, ecn) = (flight.segment.payload_len, Ecn::NotEct);
        let seg = SegmentIn {
            header,
            payload: &mut payload,
            payload_len,
            ecn,
        };
        match self.sides[flight.to].c.on_segment(self.now, seg) {
            Disposition::Continue | Disposition::Orphan => {}
            other => panic!("{other:?}"),
        }
    }

    fn application(&mut self, i: usize) {
        let side = &mut self.sides[i];
        while side.written < side.to_write {
            let n = (1 + self.random.below(self.plan.chunk as u64) as usize)
                .min(side.to_write - side.written)
                .min(side.c.send_space());
            if n == 0 {
                break;
            }
            let bytes: Vec<u8> = (side.written..side.written + n)
                .map(|k| byte(i, k))
                .collect();
            let n = if self.random.percent(30) {
                side.c.append(&bytes, false)
            } else {
                0
            };
            side.written += n;
            if n == 0 {
                let more = self.random.percent(20);
                let payload = Bytes::with_room(&bytes, bytes.len() + 100);
                side.c.push(payload, more).expect("room");
                side.written += bytes.len();
            }
            if self.random.percent(30) {
                break;
            }
        }
        // CLOSE in SYN-SENT would delete the connection.
        if side.written == side.to_write && side.c.state() != State::SynSent {
            side.c.shutdown_write(self.now);
        }
        while side.c.readable_bytes() > 0 && !self.random.percent(self.plan.laziness) {
            let max = 1 + self.random.below(4000) as usize;
            let piece = side.c.pop_piece(max).expect("readable");
            for b in piece.as_bytes() {
                assert_eq!(*b, byte(1 - i, side.read), "wrong byte at {}", side.read);
                side.read += 1;
            }
        }
    }

    fn is_done(&self) -> bool {
        (0..2).all(|i| {
            self.sides[i].over
                && self.sides[i].read == self.plan.bytes[1 - i]
                && self.sides[i].c.recv_finished()
        })
    }

    fn run(mut self) -> Self {
        for _ in 0..400_000 {
            for i in 0..2 {
                self.poll(i);
            }
            if self.is_done() {
                return self;
            }
            let net = self
                .net
                .iter()
                .map(|f| f.at)
                .min()
                .unwrap_or(Instant::FAR_FUTURE);
            let timers = self.sides[0].c.poll_at().min(self.sides[1].c.poll_at());
            self.now = self.now.max(net.min(timers).min(self.wake));
            // A turn: everything that has arrived, then timers, then the application.
            while let Some(k) = (0..self.net.len())
                .filter(|k| self.net[*k].at <= self.now)
                .min_by_key(|k| self.net[*k].at)
            {
                let flight = self.net.remove(k);
                self.deliver(flight);
            }
            for i in 0..2 {
                if self.sides[i].c.poll_at() <= self.now {
                    self.sides[i].c.on_timer(self.now);
                }
            }
            if self.wake <= self.now {
                self.wake = Instant::FAR_FUTURE;
                for i in 0..2 {
                    self.application(i);
                }
            }
            if self.wake == Instant::FAR_FUTURE && self.sides.iter().any(Side::has_work) {
                self.wake = self.now + Duration::from_micros(50 + self.random.below(3000));
            }
        }
        panic!(
            "no end: {:?} {:?}",
            self.sides[0].c.info(),
            self.sides[1].c.info()
        );
    }
}

fn config() -> impl Strategy<Value = Config> {
    let flags = proptest::array::uniform6(any::<bool>());
    let buffers = (1u32..100_000, 1u32..100_000);
    (flags, buffers, 48u16..1500, 0u64..3).prop_map(|(f, (rcv, snd), mss, delack)| Config {
        mss_local: mss,
        tso_bytes_max: u32::from(f[5]) * 20_000,
        sack: f[0],
        timestamps: f[1],
        window_scale: f[2],
        nodelay: f[3],
        cork: f[4],
        rcv_buf_max_bytes: rcv.max(200),
        snd_buf_max_bytes: snd,
        rto_min: Duration::from_millis(4),
        rto_initial: Duration::from_millis(20),
        rto_max: Duration::from_secs(2),
        delayed_ack: Duration::from_millis(delack),
        retries: 60,
        syn_retries: 60,
        syn_ack_retries: 60,
        ..Config::default()
    })
}

fn plan() -> impl Strategy<Value = Plan> {
    let network = (0u64..25, 0u64..20, 0u64..50, any::<u64>());
    let load = (0usize..60_000, 0usize..60_000, 1usize..6000, 0u64..80);
    (
        network,
        load,
        any::<[u32; 2]>(),
        any::<bool>(),
        [config(), config()],
    )
        .prop_map(
            |(
                (loss, duplication, reordering, seed),
                (a, b, chunk, laziness),
                iss,
                both,
                configs,
            )| {
                Plan {
                    seed,
                    loss,
                    duplication,
                    reordering,
                    bytes: [a, b],
                    chunk,
                    laziness,
                    simultaneous: both,
                    configs,
                    iss,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_exactly_once(plan in plan()) {
        World::new(plan).run();
    }
}
