//! What the sender makes of a link: a table that shows every change of congestion control or
//! loss recovery as a difference.

use luna::tcp::{Config, CongestionControl};
use luna::time::{Duration, Instant};
use luna::wire::SeqNum;

use crate::app::{App, Plan};
use crate::link::LinkConfig;
use crate::rng::Rng;
use crate::tcp_host::{Role, Setup, TcpHost};
use crate::world::{Bounds, Scheduling, World};

const LOSSES_PPM: [u32; 5] = [0, 1_000, 10_000, 30_000, 100_000];
const ROUND_TRIPS: [Duration; 3] = [
    Duration::from_micros(100),
    Duration::from_millis(1),
    Duration::from_millis(20),
];
const BUFFERS: [u32; 2] = [64 << 10, 1 << 20];
const TRANSFER_BYTES: u64 = 2_000_000;
/// One run with losses says little: the mean of this many.
const RUNS: u64 = 3;

const LONG_TRANSFER_BYTES: u64 = 50_000_000;

/// Kilobytes per second of a transfer over a link of 1 Gb/s.
fn goodput(config: &Config, loss_ppm: u32, round_trip: Duration, seed: u64) -> u64 {
    goodput_of(TRANSFER_BYTES, config, loss_ppm, round_trip, seed)
}

fn goodput_of(bytes: u64, config: &Config, loss_ppm: u32, round_trip: Duration, seed: u64) -> u64 {
    let link = LinkConfig {
        loss_ppm,
        delay: round_trip.div(2),
        bits_per_second: 1_000_000_000,
        queue_bytes: 250_000,
        ..LinkConfig::default()
    };
    transfer(bytes, config, link, seed).0
}

/// Kilobytes per second of a transfer over `link`, and how long a packet waits in its queue.
fn transfer(bytes: u64, config: &Config, link: LinkConfig, seed: u64) -> (u64, Duration) {
    let mut rng = Rng::new(seed);
    let start = Instant::from_nanos(1_000_000_000);
    let mut host = |role, stream, write, expect| {
        let setup = Setup {
            config: config.clone(),
            role,
            iss: SeqNum::new(1),
            ts_offset: 0,
            compact_time_wait: false,
            cut: false,
            fiddle_ppm: 0,
        };
        let plan = Plan {
            write,
            expect,
            write_chunk: 16 << 10,
            read_chunk: 1 << 20,
            pause_ppm: 0,
            pause: Duration::ZERO,
            answer: false,
            half_close: true,
            early: false,
            abort_at: None,
        };
        TcpHost::new(setup, start, App::new(plan, stream, rng.fork()), rng.fork())
    };
    let a = host(Role::Connect, 0, bytes, 0);
    let b = host(Role::Listen, 1, 0, bytes);
    let mut world = World::new(start, (a, b), (link, link), Scheduling::default(), rng);
    let bounds = Bounds {
        events: 1_000_000,
        time: Duration::from_secs(3_600),
    };
    world.run_until(bounds, |_, b| b.app.read == bytes);
    let goodput = bytes * 1_000_000 / world.elapsed().as_micros() / 1_000;
    (goodput, world.mean_wait())
}

fn table(config: &Config) -> String {
    let mut out = String::from("kB/s         loss    0 %  0.1 %    1 %    3 %   10 %\n");
    for round_trip in ROUND_TRIPS {
        for buffer in BUFFERS {
            let config = Config {
                rcv_buf_max_bytes: buffer,
                snd_buf_max_bytes: buffer,
                ..config.clone()
            };
            let rtt = format!("{round_trip:?}");
            out += &format!("{rtt:>6}, {:>4} KiB ", buffer >> 10);
            for loss in LOSSES_PPM {
                let runs = if loss == 0 { 1 } else { RUNS };
                let sum: u64 = (0..runs)
                    .map(|s| goodput(&config, loss, round_trip, s))
                    .sum();
                out += &format!(" {:>6}", sum / runs);
            }
            out += "\n";
        }
    }
    out
}

#[test]
fn goodput_towards_other_networks() {
    insta::assert_snapshot!(table(&Config::default()));
}

#[test]
fn goodput_inside_a_data_centre() {
    let config = Config {
        rto_min: Duration::from_millis(4),
        rto_initial: Duration::from_millis(20),
        ..Config::default()
    };
    insta::assert_snapshot!(table(&config));
}

#[test]
fn goodput_without_sack() {
    insta::assert_snapshot!(table(&Config {
        sack: false,
        ..Config::default()
    }));
}

#[test]
fn goodput_paced() {
    insta::assert_snapshot!(table(&Config {
        pacing: true,
        ..Config::default()
    }));
}

#[test]
fn a_limit_of_the_rate_holds() {
    const LIMIT: u64 = 5_000_000;
    let config = Config {
        max_pacing_rate: LIMIT,
        ..Config::default()
    };
    let kilobytes = goodput(&config, 0, Duration::from_millis(1), 0);
    // Half a millisecond is caught up on, which is nothing over 400 ms.
    assert!((4_800..=5_050).contains(&kilobytes), "{kilobytes} kB/s");
}

/// A path that holds more than the first windows: what the buffers become, not what they begin as,
/// must decide.
#[test]
fn buffers_grow_with_the_path() {
    // 125 kB a millisecond for 20 ms: 2.5 MB are on their way.
    let grown = goodput_of(
        LONG_TRANSFER_BYTES,
        &Config::default(),
        0,
        Duration::from_millis(20),
        0,
    );
    let mut fixed = Config::default();
    fixed.set_receive_buffer(Config::default().rcv_buf_bytes);
    let fixed = goodput_of(LONG_TRANSFER_BYTES, &fixed, 0, Duration::from_millis(20), 0);
    assert!(fixed < 14_000, "{fixed} kB/s of 256 KiB each 20 ms");
    assert!(
        grown > fixed * 2,
        "{grown} kB/s, and {fixed} kB/s with a buffer that stays"
    );
}

/// A switch port of a data centre: 10 Gb/s, and a queue of 4 MB.
fn data_centre_port(tells_load: bool) -> LinkConfig {
    let round_trip = Duration::from_micros(100);
    LinkConfig {
        delay: round_trip.div(2),
        bits_per_second: 10_000_000_000,
        queue_bytes: 4_000_000,
        tells_load_over: if tells_load {
            round_trip
        } else {
            Duration::ZERO
        },
        ..LinkConfig::default()
    }
}

/// HPCC where hops tell their load, and beside it what the queue looks like otherwise.
#[test]
fn hpcc_keeps_queues_short() {
    let with = |congestion| {
        let mut config = Config {
            congestion,
            ..Config::default()
        };
        config.set_receive_buffer(16 << 20);
        config.set_send_buffer(16 << 20);
        config
    };
    let run = |control, tells_load| {
        let link = data_centre_port(tells_load);
        transfer(LONG_TRANSFER_BYTES, &with(control), link, 0)
    };
    let hpcc = run(CongestionControl::Hpcc, true);
    let alone = run(CongestionControl::Hpcc, false);
    let reno = run(CongestionControl::NewReno, true);
    let mut table = String::from("                       kB/s  mean wait\n");
    for (name, (goodput, wait)) in [("hpcc", hpcc), ("hpcc, silent hops", alone), ("reno", reno)] {
        table += &format!("{name:<18} {goodput:>8} {:>10}\n", format!("{wait:?}"));
    }
    insta::assert_snapshot!(table);
    assert!(hpcc.1.as_nanos() * 4 <= reno.1.as_nanos(), "{table}");
    assert!(hpcc.0 * 10 >= reno.0 * 9, "{table}");
    assert!(alone.0 * 100 >= reno.0 * 97, "{table}");
}
