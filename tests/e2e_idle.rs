//! An idle accelerated program costs next to nothing, and its first request after idling is
//! answered at once: no packet lost, none sent twice.

#![cfg(feature = "cli")]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a test measures by the wall clock, and its helpers fail it"
)]

mod common;

use std::time::{Duration, Instant};

use common::luna::Ends;
use common::measure::{KernelTcp, Usage};
use common::netns::NetnsPair;
use common::redis::{self, Client, PORT};
use common::require::turn;

/// Long enough for 1 % of a core to be several clock ticks.
const IDLE: Duration = Duration::from_secs(5);

/// redis itself looks around ten times a second.
const SWITCHES_PER_SECOND_MAX: f64 = 100.0;

fn idles(ends: Ends) {
    if !ends.runnable() {
        return;
    }
    let Some(_turn) = turn(&["redis-server"]) else {
        return;
    };
    let pair = NetnsPair::new(1500);
    let (server, _) = ends.stacks(&pair.a_end, &pair.b_end, PORT);
    let running = redis::start(&pair.a, &server, PORT);
    let mut connection =
        Client::connect(&pair.b, pair.a_end.v4.into(), PORT).expect("connect to redis");
    connection.ping().expect("redis answers");

    let (before, started) = (Usage::of(running.pid()), Instant::now());
    // The measurement is of doing nothing: there is no condition to wait for.
    std::thread::sleep(IDLE);
    let (after, elapsed) = (Usage::of(running.pid()), started.elapsed());
    let core = (after.cpu - before.cpu).as_secs_f64() / elapsed.as_secs_f64();
    let switches = (after.switches - before.switches) as f64 / elapsed.as_secs_f64();
    println!(
        "idle on {}: {:.2} % of a core, {switches:.0} switches/s",
        server.name(),
        core * 100.0
    );
    assert!(core < 0.01, "{:.2} % of a core", core * 100.0);
    assert!(
        switches < SWITCHES_PER_SECOND_MAX,
        "{switches:.0} context switches/s"
    );

    let (kernel, asked) = (KernelTcp::of(&pair.b), Instant::now());
    connection.ping().expect("an answer after idling");
    let answered = asked.elapsed();
    // The kernel client would have sent again after 200 ms.
    assert!(
        answered < Duration::from_millis(100),
        "answered after {answered:?}"
    );
    let again = KernelTcp::of(&pair.b).retrans_segs - kernel.retrans_segs;
    assert_eq!(again, 0, "retransmissions");

    let mut second = Client::connect(&pair.b, pair.a_end.v4.into(), PORT).expect("connect again");
    second.ping().expect("an answer on a new connection");
    let again = KernelTcp::of(&pair.b).retrans_segs - kernel.retrans_segs;
    assert_eq!(again, 0, "retransmissions");
}

#[test]
fn kernel_redis_idles() {
    idles(Ends::NEITHER);
}

#[test]
fn luna_redis_idles() {
    idles(Ends::SERVER);
}
