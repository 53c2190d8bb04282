//! Random scenarios: everything about a run that the seed decides.

use luna::tcp::{Config, CongestionControl, Keepalive};
use luna::time::{Duration, Instant};
use luna::wire::SeqNum;

use crate::app::{App, Plan};
use crate::link::LinkConfig;
use crate::rng::Rng;
use crate::tcp_host::{Role, Setup, TcpHost};
use crate::world::{Bounds, Host, Scheduling, World};

/// A run before it starts.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    start: Instant,
    setups: [Setup; 2],
    plans: [Plan; 2],
    links: [LinkConfig; 2],
    scheduling: Scheduling,
    rng: Rng,
}

/// What a run came to: equal for equal seeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) elapsed: Duration,
    pub(crate) packets: u64,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Scenario {
    pub(crate) fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let link = random_link(&mut rng);
        // Usually the same both ways, as one wire is; sometimes one way is worse.
        let links = [
            link,
            if rng.chance(700_000) {
                link
            } else {
                random_link(&mut rng)
            },
        ];
        let passive = if rng.chance(50_000) {
            Role::Connect
        } else {
            Role::Listen
        };
        let mut setups = [Role::Connect, passive].map(|role| random_setup(&mut rng, role));
        let mut plans = random_plans(&mut rng, &setups, &links);
        if links
            .iter()
            .all(|l| l.loss_ppm <= 30_000 && l.outage_every == Duration::ZERO)
            && rng.chance(150_000)
        {
            let side = rng.below(2) as usize;
            plans[side].abort_at = Some(rng.below(plans[side].write + plans[side].expect + 1));
            // The other end learns of it by the reset that answers it, or answers its probes.
            for setup in &mut setups {
                let (idle, interval) = (ms(10_000), ms(1_000));
                setup.config.keepalive = Some(Keepalive {
                    idle,
                    interval,
                    count: 9,
                });
            }
        }
        let scheduling = Scheduling {
            away_ppm: rng.pick(&[0, 0, 10_000, 200_000]),
            away_for: rng.pick(&[Duration::from_micros(50), ms(5)]),
            attack_ppm: rng.pick(&[0, 0, 0, 20_000]),
        };
        // Anywhere in the first 50 days: the millisecond clock wraps after 49.7.
        let start = Instant::from_nanos(rng.below(50 * 86_400 * 1_000_000_000));
        Self {
            start,
            setups,
            plans,
            links,
            scheduling,
            rng,
        }
    }

    /// Runs to the end and checks that everything arrived.
    pub(crate) fn run(mut self) -> Outcome {
        let [setup_a, setup_b] = self.setups.clone();
        let aborts = self.plans.iter().any(|plan| plan.abort_at.is_some());
        let rng = &mut self.rng;
        let app = |plan, stream, rng: &mut Rng| App::new(plan, stream, rng.fork());
        let app_a = app(self.plans[0], 0, rng);
        let app_b = app(self.plans[1], 1, rng);
        let a = TcpHost::new(setup_a, self.start, app_a, rng.fork());
        let b = TcpHost::new(setup_b, self.start, app_b, rng.fork());
        let (links, rng) = ((self.links[0], self.links[1]), rng.fork());
        let mut world = World::new(self.start, (a, b), links, self.scheduling, rng);
        let report = Report(format!("{self:?}"));
        world.run(Bounds {
            events: 400_000,
            time: Duration::from_secs(6 * 3600),
        });
        let outcome = Outcome {
            elapsed: world.elapsed(),
            packets: world.packets,
        };
        let (a, b) = world.hosts();
        for host in [a, b] {
            let app = &host.app;
            assert!(
                aborts || app.is_finished(),
                "ended early: {}",
                host.describe()
            );
        }
        drop(report);
        outcome
    }
}

/// Printed if the run fails.
struct Report(String);

impl Drop for Report {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

fn random_link(rng: &mut Rng) -> LinkConfig {
    if rng.chance(100_000) {
        return LinkConfig {
            delay: Duration::from_micros(10),
            ..LinkConfig::default()
        };
    }
    let delay = rng.pick(&[
        Duration::from_micros(5),
        Duration::from_micros(50),
        Duration::from_micros(500),
        ms(5),
        ms(100),
    ]);
    LinkConfig {
        loss_ppm: rng.pick(&[0, 0, 1_000, 10_000, 30_000, 100_000, 200_000]),
        duplicate_ppm: rng.pick(&[0, 0, 1_000, 50_000]),
        corrupt_ppm: rng.pick(&[0, 0, 1_000, 20_000]),
        reorder_ppm: rng.pick(&[0, 0, 1_000, 50_000, 500_000]),
        reorder_by: rng.pick(&[delay, Duration::from_micros(20), ms(1), ms(20)]),
        delay,
        bits_per_second: rng.pick(&[0, 1_000_000, 100_000_000, 10_000_000_000]),
        queue_bytes: rng.pick(&[0, 20_000, 200_000]),
        outage_every: rng.pick(&[Duration::ZERO, Duration::ZERO, Duration::ZERO, ms(3_000)]),
        outage_for: rng.pick(&[ms(100), ms(1_000)]),
        ..LinkConfig::default()
    }
}

fn random_setup(rng: &mut Rng, role: Role) -> Setup {
    let sizes = [1, 100, 536, 2_000, 10_000, 65_535, 200_000, 1 << 20];
    let config = Config {
        mss_local: rng.pick(&[48, 100, 536, 1460, 1460, 1460, 8960]),
        rcv_buf_max_bytes: rng.pick(&sizes),
        snd_buf_max_bytes: rng.pick(&sizes),
        rto_initial: rng.pick(&[ms(20), ms(1_000)]),
        rto_min: rng.pick(&[ms(4), ms(200), ms(1_000)]),
        rto_max: rng.pick(&[ms(2_000), ms(120_000)]),
        delayed_ack: rng.pick(&[ms(0), ms(1), ms(40), ms(200)]),
        nodelay: rng.chance(500_000),
        // One packet in five may be lost each way: patience beyond the defaults.
        syn_retries: 40,
        syn_ack_retries: 40,
        retries: 60,
        orphan_retries: 60,
        time_wait: ms(60_000),
        window_scale: rng.chance(800_000),
        sack: rng.chance(700_000),
        timestamps: rng.chance(700_000),
        congestion: rng.pick(&CongestionControl::ALL),
        pacing: rng.chance(300_000),
        max_pacing_rate: rng.pick(&[0, 0, 0, 50_000, 5_000_000]),
        seed: rng.next(),
        ..Config::default()
    };
    Setup {
        config,
        role,
        iss: SeqNum::new(
            rng.pick(&[0, u32::MAX - 5_000, u32::MAX, 1 << 31])
                .wrapping_add(if rng.chance(500_000) {
                    rng.next() as u32
                } else {
                    0
                }),
        ),
        ts_offset: rng.next() as u32,
        compact_time_wait: rng.chance(500_000),
        cut: rng.chance(300_000),
        fiddle_ppm: rng.pick(&[0, 0, 10_000, 100_000]),
    }
}

fn random_plans(rng: &mut Rng, setups: &[Setup; 2], links: &[LinkConfig; 2]) -> [Plan; 2] {
    let chunks = [0, 1].map(|_| rng.pick(&[1, 50, 1_000, 5_000, 100_000]));
    let mut amounts = [0, 1].map(|from: usize| {
        let (tx, rx) = (&setups[from].config, &setups[1 - from].config);
        // No more segments than keep a thousand runs short, whatever the sizes.
        let mss = u32::from(tx.mss_local.min(rx.mss_local))
            .saturating_sub(40)
            .max(8);
        let step = tx
            .snd_buf_max_bytes
            .min(rx.rcv_buf_max_bytes)
            .min(mss)
            .min(chunks[from] * 8);
        let hostile = links[from].loss_ppm >= 100_000 || rx.rcv_buf_max_bytes < 1_000;
        let most = u64::from(step) * if hostile { 60 } else { 400 };
        rng.pick(&[0, 1, most / 50, most / 4, most])
    });
    if rng.chance(300_000) {
        amounts[rng.below(2) as usize] = 0;
    }
    let answer = rng.below(6);
    [0, 1].map(|side: usize| Plan {
        write: amounts[side],
        expect: amounts[1 - side],
        write_chunk: u64::from(chunks[side]),
        read_chunk: rng
            .pick(&[1, 100, 5_000, 1 << 20])
            .max(amounts[1 - side] / 2_000 + 1),
        pause_ppm: rng.pick(&[0, 0, 10_000, 300_000]),
        pause: rng.pick(&[Duration::from_micros(10), ms(1), ms(50)]),
        // One of the two must speak first, and end its half for the other to begin.
        answer: answer == side as u64,
        half_close: answer == 1 - side as u64 || rng.chance(600_000) || side == 0,
        early: rng.chance(300_000),
        abort_at: None,
    })
}
