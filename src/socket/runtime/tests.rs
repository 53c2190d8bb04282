use std::sync::Arc;

use super::block::wait_on;
use super::crew::{Crew, Manner};
use super::fake::{self, Dedicated, FakeShard, Hired, SOON, attach, socket};
use super::thread::with_me;
use crate::socket::description::{Pin, release};
use crate::socket::table;
use crate::stack::Ready;
use crate::sys::{self, Errno, PollFd, SignalSet, signals};
use crate::time::{Clock, Duration, SystemClock};

fn level(pin: &Pin) -> Ready {
    fake::level(pin.id()).unwrap_or_default()
}

fn wait_in(crew: &Crew<FakeShard>, pin: &Pin, span: Duration) -> Result<Ready, Errno> {
    let deadline = SystemClock.now() + span;
    let got = wait_on(crew, pin, Ready::IN, Some(deadline), level);
    // The last look before giving up finds what nobody has reported.
    assert!(span < SOON || SystemClock.now() < deadline, "overslept");
    got
}

fn no_spin() -> Manner {
    Manner {
        spin: Duration::ZERO,
        ..Manner::default()
    }
}

#[test]
fn a_frame_ends_the_wait_of_the_thread_that_turns() {
    for manner in [
        Manner::default(),
        no_spin(),
        Manner {
            busy: true,
            ..Manner::default()
        },
    ] {
        let (crew, links) = fake::crew(1, manner);
        let pin = socket();
        let _fd = attach(&pin);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| wait_in(&crew, &pin, SOON));
            links[0].until("a turn", |link| link.turns() > 0);
            links[0].send(pin.id(), Ready::IN);
            assert_eq!(waiter.join().unwrap(), Ok(Ready::IN));
        });
    }
}

#[test]
fn the_deadline_ends_a_wait_and_not_before() {
    let (crew, _links) = fake::crew(1, no_spin());
    let pin = socket();
    let _fd = attach(&pin);
    let span = Duration::from_millis(20);
    let start = SystemClock.now();
    assert_eq!(wait_in(&crew, &pin, span), Err(Errno::AGAIN));
    assert!(SystemClock.now() >= start + span);
    assert_eq!(wait_in(&crew, &pin, Duration::ZERO), Err(Errno::AGAIN));
}

#[test]
fn close_ends_a_wait() {
    let (crew, links) = fake::crew(1, no_spin());
    let pin = socket();
    let fd = attach(&pin);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| wait_in(&crew, &pin, SOON));
        links[0].until("a turn", |link| link.turns() > 0);
        release(table::remove(fd).unwrap());
        assert_eq!(waiter.join().unwrap(), Err(Errno::BADF));
    });
}

#[test]
fn many_sleepers_on_one_shard_are_all_served() {
    let (crew, links) = fake::crew(1, no_spin());
    let _steward = Hired::new(&crew);
    let pins: Vec<Pin> = (0..6).map(|_| socket()).collect();
    let _fds: Vec<_> = pins.iter().map(attach).collect();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = pins
            .iter()
            .map(|pin| {
                scope.spawn(|| {
                    (0..50)
                        .map(|_| {
                            let got = wait_in(&crew, pin, SOON);
                            fake::set_level(pin.id().to_bits(), Ready::empty());
                            got
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        // Last come, first served, so that followers are woken by a leader that stays.
        while waiters.iter().any(|waiter| !waiter.is_finished()) {
            for pin in pins.iter().rev() {
                links[0].send(pin.id(), Ready::IN);
            }
            std::thread::yield_now();
        }
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), vec![Ok(Ready::IN); 50]);
        }
    });
}

#[test]
fn a_leader_that_leaves_is_replaced() {
    let (crew, links) = fake::crew(1, no_spin());
    let _steward = Hired::new(&crew);
    let (first, second) = (socket(), socket());
    let _fds = [attach(&first), attach(&second)];
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| wait_in(&crew, &first, SOON));
        links[0].until("the leader", |link| link.turns() > 0);
        let follower = scope.spawn(|| wait_in(&crew, &second, SOON));
        links[0].until("the follower", |link| link.turns() > 1);
        links[0].send(first.id(), Ready::IN);
        assert_eq!(leader.join().unwrap(), Ok(Ready::IN));
        links[0].send(second.id(), Ready::IN);
        assert_eq!(follower.join().unwrap(), Ok(Ready::IN));
    });
}

/// The calling thread has been away from its waits for long, and is expected to be again.
fn stay_away() {
    let now = SystemClock.now();
    with_me(|me| {
        me.leaves(now);
        me.enters(now + Duration::from_millis(50));
        assert!(me.stays_away());
    });
}

/// A leader that stays away hands its shard to a sleeper. One that has got something to do as well
/// goes away without it, and nobody may come back: memcached's workers, when all their clients die.
#[test]
fn a_sleeper_that_goes_away_when_it_is_to_lead_leaves_the_shard_to_the_steward() {
    for _ in 0..20 {
        let (crew, links) = fake::crew(1, no_spin());
        let _steward = Hired::new(&crew);
        let (crew, pins) = (&*crew, [socket(), socket(), socket()]);
        let _fds = pins.each_ref().map(attach);
        std::thread::scope(|scope| {
            let sleeper = |pin, followers| {
                let waiter = scope.spawn(move || {
                    stay_away();
                    wait_in(crew, pin, SOON)
                });
                links[0].until("a sleeper", |_| {
                    crew.lanes()[0].is_slept_on() && crew.followers() == followers
                });
                waiter
            };
            let leader = sleeper(&pins[0], 0);
            let patient = sleeper(&pins[1], 1);
            let heir = sleeper(&pins[2], 2);
            links[0].until("the end of ticking", |_| crew.steward_is_asleep());
            links[0].send(pins[2].id(), Ready::IN);
            links[0].send(pins[0].id(), Ready::IN);
            for gone in [leader, heir] {
                assert_eq!(gone.join().unwrap(), Ok(Ready::IN));
            }
            links[0].send(pins[1].id(), Ready::IN);
            assert_eq!(patient.join().unwrap(), Ok(Ready::IN));
        });
    }
}

/// What is rung to take over leaves the shard to a thread that seems to be at work.
#[test]
fn a_shard_that_is_left_to_a_thread_at_work_is_not_forgotten() {
    let (crew, links) = fake::crew(1, no_spin());
    let _steward = Hired::new(&crew);
    let pin = socket();
    let _fd = attach(&pin);
    let lane = &crew.lanes()[0];
    const ELSEWHERE: u32 = 4_000_000_000;
    assert!(lane.lead(ELSEWHERE));
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| wait_in(&crew, &pin, SOON));
        links[0].until("a sleeper", |_| {
            crew.followers() == 1 && crew.steward_is_asleep()
        });
        lane.note_server(ELSEWHERE, SystemClock.now() + SOON);
        assert!(lane.resign(ELSEWHERE));
        assert!(crew.hand_over());
        links[0].until("a sleeper again", |_| crew.followers() == 1);
        links[0].send(pin.id(), Ready::IN);
        assert_eq!(sleeper.join().unwrap(), Ok(Ready::IN));
    });
}

#[test]
fn each_of_many_shards_is_watched_by_one_sleeper() {
    let (crew, links) = fake::crew(4, no_spin());
    let pin = socket();
    let _fd = attach(&pin);
    for link in &links {
        fake::set_level(pin.id().to_bits(), Ready::empty());
        std::thread::scope(|scope| {
            let before = link.turns();
            let waiter = scope.spawn(|| wait_in(&crew, &pin, SOON));
            link.until("a turn", |link| link.turns() > before);
            link.send(pin.id(), Ready::IN);
            assert_eq!(waiter.join().unwrap(), Ok(Ready::IN));
        });
    }
}

#[test]
fn the_steward_takes_over_from_an_absent_program() {
    let (crew, links) = fake::crew(1, Manner::default());
    let _steward = Hired::new(&crew);
    let pin = socket();
    let me = std::thread::current().id();
    links[0].send(pin.id(), Ready::IN);
    links[0].until("the steward's turn", |link| {
        link.turner().is_some_and(|t| t != me)
    });
    links[0].until("delivery", |_| level(&pin) == Ready::IN);
    // And it keeps time.
    let soon = SystemClock.now() + Duration::from_millis(3);
    crew.lanes()[0].with(|shard| shard.set_timer(soon)).unwrap();
    links[0].until("the timer", |link| link.fired() == 1);
}

#[test]
fn a_steward_with_nothing_to_do_does_not_wake_up() {
    let (crew, links) = fake::crew(1, no_spin());
    let _steward = Hired::new(&crew);
    let pin = socket();
    let _fd = attach(&pin);
    // The application sleeps in a wait for a while: nobody turns.
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| wait_in(&crew, &pin, SOON));
        links[0].until("a turn", |link| link.turns() > 0);
        links[0].until("the end of ticking", |_| crew.steward_is_asleep());
        let before = links[0].turns();
        let pause = SystemClock.now() + Duration::from_millis(50);
        links[0].until("a pause", |_| SystemClock.now() >= pause);
        assert_eq!(links[0].turns(), before);
        links[0].send(pin.id(), Ready::IN);
        assert_eq!(waiter.join().unwrap(), Ok(Ready::IN));
    });
}

#[test]
fn a_timer_set_by_another_thread_wakes_the_leader_in_time() {
    let (crew, links) = fake::crew(1, no_spin());
    let pin = socket();
    let _fd = attach(&pin);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| wait_in(&crew, &pin, SOON));
        links[0].until("a turn", |link| link.turns() > 0);
        let soon = SystemClock.now() + Duration::from_millis(2);
        crew.lanes()[0].with(|shard| shard.set_timer(soon)).unwrap();
        links[0].until("the timer", |link| link.fired() == 1);
        links[0].send(pin.id(), Ready::IN);
        assert_eq!(waiter.join().unwrap(), Ok(Ready::IN));
    });
}

#[test]
fn deferred_writes_leave_with_the_next_turn_or_flush() {
    let (crew, links) = fake::crew(1, Manner::default());
    with_me(|me| {
        me.set_in_loop(true);
        assert!(!me.queued(0, 1, 10));
        crew.flush_deferred(me);
        assert_eq!(links[0].flushes(), 1);
        crew.flush_deferred(me);
        assert_eq!(links[0].flushes(), 1, "nothing is left");
        assert!(!me.queued(0, 1, 10));
        crew.turn(me);
        crew.flush_deferred(me);
        assert_eq!((links[0].flushes(), links[0].turns()), (1, 1));
        me.set_in_loop(false);
    });
}

/// A handler runs in a thread that waits. One test only, for the handler is the process's.
#[test]
fn signals_end_waits_as_the_kernel_has_it() {
    let install = |flags| signals::handle(libc::SIGUSR2, flags);
    let (crew, links) = fake::crew(1, no_spin());
    let pin = socket();
    let _fd = attach(&pin);
    let interrupt = |deadline: Option<Duration>| {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                sender.send(signals::this_thread()).unwrap();
                let deadline = deadline.map(|span| SystemClock.now() + span);
                wait_on(&crew, &pin, Ready::IN, deadline, level)
            });
            let thread = receiver.recv().unwrap();
            // Before it sleeps, the signal would be as good as one before the call.
            links[0].until("sleep", |_| crew.lanes()[0].is_slept_on());
            signals::send(thread, libc::SIGUSR2);
            waiter.join().unwrap()
        })
    };
    install(0);
    assert_eq!(interrupt(None), Err(Errno::INTR));
    assert_eq!(interrupt(Some(SOON)), Err(Errno::INTR));
    // Held signals are let through at the end of the wait.
    let old = sys::signal_mask();
    assert_eq!(
        wait_in(&crew, &pin, Duration::from_millis(1)),
        Err(Errno::AGAIN)
    );
    assert_eq!(sys::signal_mask(), old);
}

#[test]
fn a_sleeper_leaves_the_shard_to_a_thread_that_works() {
    const FRAMES: usize = 400;
    let (crew, links) = fake::crew(1, no_spin());
    let _steward = Hired::new(&crew);
    let (works, sleeps) = (socket(), socket());
    let _fds = [attach(&works), attach(&sleeps)];
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| wait_in(&crew, &sleeps, SOON));
        links[0].until("a sleeper at the device", |_| crew.lanes()[0].is_slept_on());
        let worker = scope.spawn(|| {
            let me = std::thread::current().id();
            let took = |_: &usize| {
                links[0].send(works.id(), Ready::IN);
                // While it works, whoever watches the device has time to wake up.
                let back = SystemClock.now() + Duration::from_micros(50);
                while SystemClock.now() < back {
                    core::hint::spin_loop();
                }
                assert_eq!(wait_in(&crew, &works, SOON), Ok(Ready::IN));
                fake::set_level(works.id().to_bits(), Ready::empty());
                links[0].taker() == Some(me)
            };
            (0..FRAMES).filter(took).count()
        });
        let own = worker.join().unwrap();
        assert!(own > FRAMES / 8, "of its frames it took {own} itself");
        // And once the worker has gone for good, it is not forgotten.
        links[0].send(sleeps.id(), Ready::IN);
        assert_eq!(sleeper.join().unwrap(), Ok(Ready::IN));
    });
}

#[test]
fn sleeping_has_the_callers_mask() {
    let (crew, _links) = fake::crew(1, no_spin());
    let bell = super::wake::Wake::new().unwrap();
    let mut fds: Vec<PollFd> = Vec::new();
    with_me(|me| {
        let soon = SystemClock.now() + Duration::from_millis(1);
        assert_eq!(
            crew.sleep(me, &bell, &mut fds, soon, SignalSet::ALL),
            Ok(())
        );
        assert!(fds.is_empty());
        crew.leave(me, soon, false);
    });
    let _ = Arc::strong_count(&crew);
}

#[test]
fn in_dedicated_mode_only_the_shards_own_thread_turns() {
    for spin in [Duration::ZERO, Duration::from_micros(50)] {
        let manner = Manner {
            dedicated: true,
            spin,
            ..Manner::default()
        };
        let (crew, links) = fake::crew(2, manner);
        let _steward = Hired::new(&crew);
        let _threads = Dedicated::new(&crew);
        let pins: Vec<Pin> = (0..4).map(|_| socket()).collect();
        let _fds: Vec<_> = pins.iter().map(attach).collect();
        std::thread::scope(|scope| {
            let waiters: Vec<_> = pins
                .iter()
                .map(|pin| {
                    scope.spawn(|| {
                        for _ in 0..100 {
                            assert_eq!(wait_in(&crew, pin, SOON), Ok(Ready::IN));
                            fake::set_level(pin.id().to_bits(), Ready::empty());
                        }
                        std::thread::current().id()
                    })
                })
                .collect();
            while waiters.iter().any(|waiter| !waiter.is_finished()) {
                for (pin, link) in pins.iter().zip(links.iter().cycle()) {
                    link.send(pin.id(), Ready::IN);
                }
                std::thread::yield_now();
            }
            let waited: Vec<_> = waiters.into_iter().map(|w| w.join().unwrap()).collect();
            let own = links[0].turner();
            assert!(own.is_some() && own != links[1].turner());
            assert!(
                links
                    .iter()
                    .all(|link| link.turner().is_some_and(|t| !waited.contains(&t)))
            );
        });
        let flushes = links[0].flushes();
        with_me(|me| crew.flush(me, 0));
        assert_eq!(
            links[0].flushes(),
            flushes,
            "the application's threads send nothing"
        );
    }
}

#[test]
fn a_shard_that_a_loop_owns_is_nobody_elses() {
    let (crew, links) = fake::crew(1, no_spin());
    let _steward = Hired::new(&crew);
    let lane = &crew.lanes()[0];
    assert!(with_me(|me| lane.own(me.number)));
    let turns = links[0].turns();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            assert!(!with_me(|me| lane.own(me.number)), "it has an owner");
            let pin = socket();
            let _fd = attach(&pin);
            wait_in(&crew, &pin, Duration::from_millis(20))
        });
        assert_eq!(other.join().unwrap(), Err(Errno::AGAIN));
    });
    assert_eq!(links[0].turns(), turns);
    let pin = socket();
    let _fd = attach(&pin);
    links[0].send(pin.id(), Ready::IN);
    assert!(with_me(|me| crew.turn_own(me, lane, SystemClock.now())));
    crew.disown(lane);
    links[0].send(pin.id(), Ready::IN);
    let turned = links[0].turns();
    links[0].until("the steward's turn", |link| link.turns() > turned);
}
