//! What a load is, and how it is measured: the window, the histogram, the open loop's schedule.

use std::net::SocketAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

use super::options::Protocol;

const SECOND: u64 = 1_000_000_000;
/// How long an open loop waits for the answers of the last requests.
const GRACE_NS: u64 = SECOND;
/// The longest time that is told apart from longer ones.
const LONGEST_NS: u64 = 60 * SECOND;
/// Three digits: an error of at most a thousandth.
const DIGITS: u8 = 3;

/// A load, as every thread of a client is told it.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// One for each serving thread.
    pub(crate) servers: Vec<SocketAddr>,
    /// Between each pair of threads.
    pub(crate) connections: u32,
    pub(crate) size: u32,
    pub(crate) protocol: Protocol,
    pub(crate) iodepth: u32,
    /// A connection for each request.
    pub(crate) short: bool,
    /// Open loop: the time between two requests of one thread.
    pub(crate) interval_ns: Option<f64>,
    pub(crate) verify: bool,
    pub(crate) spin: bool,
    pub(crate) warmup_ns: u64,
    pub(crate) measure_ns: u64,
}

/// What the threads of a client share.
pub(crate) struct Shared {
    start: Barrier,
    requests: AtomicU64,
}

impl Shared {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            start: Barrier::new(threads),
            requests: AtomicU64::new(0),
        }
    }

    /// Requests measured so far, about.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// One thread's measuring.
pub(crate) struct Meter<'a> {
    thread: u32,
    shared: &'a Shared,
    warmup_ns: u64,
    measure_ns: u64,
    is_open_loop: bool,
    started: u64,
    begin: u64,
    end: u64,
    histogram: Histogram<u64>,
    requests: u64,
    untold: u64,
    /// Requests that an open loop has made, and those of them within the window.
    made: u64,
    made_in_window: u64,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(thread: u32, load: &Load, shared: &'a Shared) -> Option<Self> {
        Some(Self {
            thread,
            shared,
            warmup_ns: load.warmup_ns,
            measure_ns: load.measure_ns,
            is_open_loop: load.interval_ns.is_some(),
            started: 0,
            begin: u64::MAX,
            end: u64::MAX,
            histogram: Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).ok()?,
            requests: 0,
            untold: 0,
            made: 0,
            made_in_window: 0,
        })
    }

    /// The connections of this thread: number and server.
    pub(crate) fn connections(&self, load: &Load) -> Vec<(u32, SocketAddr)> {
        let per_thread = load.servers.len() as u32 * load.connections;
        let servers = load.servers.iter().cycle().take(per_thread as usize);
        let first = self.thread * per_thread;
        servers
            .enumerate()
            .map(|(index, &server)| (first + index as u32, server))
            .collect()
    }

    /// Waits for the other threads; `now` is read afterwards.
    pub(crate) fn start(&mut self, now: impl FnOnce() -> u64) {
        self.shared.start.wait();
        self.started = now();
        self.begin = self.started + self.warmup_ns;
        self.end = self.begin + self.measure_ns;
    }

    #[inline]
    pub(crate) fn is_over(&self, now: u64) -> bool {
        if now < self.end {
            return false;
        }
        !self.is_open_loop || self.requests == self.made_in_window || now >= self.end + GRACE_NS
    }

    /// A request that was made (or was to be made) at `start` is answered.
    #[inline]
    pub(crate) fn record(&mut self, start: u64, now: u64) {
        let belongs = if self.is_open_loop { start } else { now };
        if belongs < self.begin || belongs >= self.end {
            return;
        }
        self.histogram.saturating_record(now - start);
        self.requests += 1;
        self.untold += 1;
        if self.untold == 256 {
            self.shared
                .requests
                .fetch_add(self.untold, Ordering::Relaxed);
            self.untold = 0;
        }
    }

    /// The open loop's next request, if it is due.
    pub(crate) fn due(&mut self, now: u64, interval: f64) -> Option<u64> {
        let due = self.next_due(interval);
        if due > now || due >= self.end {
            return None;
        }
        self.made += 1;
        self.made_in_window += u64::from(due >= self.begin);
        Some(due)
    }

    pub(crate) fn next_due(&self, interval: f64) -> u64 {
        // Threads take turns within an interval.
        self.started + (self.made as f64 * interval) as u64
    }
}

/// What a client measured.
pub(crate) struct Outcome {
    pub(crate) histogram: Histogram<u64>,
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    /// Of an open loop: requests that no answer came to.
    pub(crate) unanswered: u64,
}

impl Outcome {
    /// All threads' together.
    pub(crate) fn of(meters: Vec<Meter<'_>>) -> Option<Self> {
        let mut meters = meters.into_iter();
        let first = meters.next()?;
        let mut outcome = Self {
            seconds: first.measure_ns as f64 / SECOND as f64,
            requests: 0,
            unanswered: 0,
            histogram: Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).ok()?,
        };
        for meter in core::iter::once(first).chain(meters) {
            outcome.requests += meter.requests;
            outcome.histogram.add(&meter.histogram).ok()?;
            if meter.is_open_loop {
                outcome.unanswered += meter.made_in_window - meter.requests;
            }
        }
        // At least so long did those wait that were given up.
        outcome
            .histogram
            .saturating_record_n(GRACE_NS, outcome.unanswered);
        Some(outcome)
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// A quantile (0 to 1) in microseconds.
    pub(crate) fn micros(&self, quantile: f64) -> f64 {
        self.histogram.value_at_quantile(quantile) as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(interval_ns: Option<f64>) -> Load {
        Load {
            servers: vec!["10.0.0.1:1".parse().expect("address"); 2],
            connections: 3,
            size: 64,
            protocol: Protocol::Knb,
            iodepth: 1,
            short: false,
            interval_ns,
            verify: true,
            spin: false,
            warmup_ns: 100,
            measure_ns: 1000,
        }
    }

    #[test]
    fn every_connection_of_every_thread_has_its_number() {
        let (load, shared) = (load(None), Shared::new(1));
        let mut ids: Vec<u32> = (0..2)
            .flat_map(|thread| {
                Meter::new(thread, &load, &shared)
                    .expect("meter")
                    .connections(&load)
            })
            .map(|(id, _)| id)
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn what_ends_outside_of_the_window_does_not_count() {
        let (load, shared) = (load(None), Shared::new(1));
        let mut meter = Meter::new(0, &load, &shared).expect("meter");
        meter.start(|| 5000);
        for (start, now) in [(5000, 5099), (5000, 5100), (5200, 6099), (6000, 6100)] {
            meter.record(start, now);
        }
        assert!(!meter.is_over(6099) && meter.is_over(6100));
        let outcome = Outcome::of(vec![meter]).expect("outcome");
        assert_eq!((outcome.requests, outcome.histogram.min()), (2, 100));
    }

    /// A server that stalls for half of the run: a closed loop would see one slow request, the
    /// open one sees each request that was due in the stall wait.
    #[test]
    fn an_open_loop_counts_from_when_a_request_was_due() {
        let (load, shared) = (load(Some(10.0)), Shared::new(1));
        let mut meter = Meter::new(0, &load, &shared).expect("meter");
        meter.start(|| 0);
        let mut due = Vec::new();
        while let Some(at) = meter.due(600, 10.0) {
            due.push(at);
        }
        assert_eq!(due, (0..=60).map(|n| n * 10).collect::<Vec<_>>());
        for start in due {
            meter.record(start, 600);
        }
        let outcome = Outcome::of(vec![meter]).expect("outcome");
        assert_eq!(outcome.requests, 51);
        assert_eq!(outcome.histogram.value_at_quantile(0.5), 250);
    }

    #[test]
    fn what_is_never_answered_is_not_left_out() {
        let (load, shared) = (load(Some(10.0)), Shared::new(1));
        let mut meter = Meter::new(0, &load, &shared).expect("meter");
        meter.start(|| 0);
        while meter.due(2000, 10.0).is_some() {}
        assert!(!meter.is_over(2000) && meter.is_over(1100 + GRACE_NS));
        let outcome = Outcome::of(vec![meter]).expect("outcome");
        assert_eq!((outcome.requests, outcome.unanswered), (0, 100));
        assert!(outcome.histogram.value_at_quantile(0.5) >= GRACE_NS - GRACE_NS / 1000);
    }
}
