//! What is to be reached, and whether it is.

use std::fmt;

use super::super::suite::Store;

/// A line of the targets' table.
pub(crate) struct Target {
    what: String,
    bound: Bound,
    measured: Option<f64>,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    pub(crate) fn is_met(&self) -> bool {
        self.measured.is_some_and(|measured| match self.bound {
            AtLeast(bound) => measured >= bound,
            AtMost(bound) => measured <= bound,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = match self.bound {
            AtLeast(bound) => format!("≥ {bound}"),
            AtMost(bound) => format!("≤ {bound}"),
        };
        let (measured, verdict) = match self.measured {
            Some(measured) => (
                super::number(measured),
                if self.is_met() { "met" } else { "missed" },
            ),
            None => ("not measured".to_owned(), "missed"),
        };
        write!(out, "| {} | {bound} | {measured} | {verdict} |", self.what)
    }
}

use Bound::{AtLeast, AtMost};

/// The cells of long connections over memif.
const CELLS: [&str; 12] = [
    "64 B 1x1",
    "64 B 8x1",
    "64 B 1x16",
    "64 B 16x16",
    "4 KB 1x1",
    "4 KB 8x1",
    "4 KB 1x16",
    "4 KB 16x16",
    "64 KB 1x1",
    "64 KB 8x1",
    "64 KB 1x16",
    "64 KB 16x16",
];
/// Frames of a 4 KB message at MTU 1500.
const FRAMES: f64 = 3.0;

struct Maker<'a> {
    store: &'a Store,
    targets: Vec<Target>,
}

impl Maker<'_> {
    fn add(&mut self, what: impl Into<String>, bound: Bound, measured: Option<f64>) {
        self.targets.push(Target {
            what: what.into(),
            bound,
            measured,
        });
    }

    /// `key` of one variant over that of another, in one cell of a table.
    fn ratio(&self, table: &str, cell: &str, key: &str, one: &str, other: &str) -> Option<f64> {
        let one = self.store.median(table, cell, one, key)?;
        let other = self.store.median(table, cell, other, key)?;
        (other > 0.0).then(|| one / other)
    }

    /// Whether a cell of the raw frames' table may be compared with one of the requests'.
    fn is_like_link(&self, link: &str, cell: &str) -> bool {
        self.store.are_alike(("link", link), ("rpc", cell))
    }

    fn memif_latency(&mut self) {
        let cell = "4 KB 1x1";
        for (what, key, other, bound) in [
            (
                "requests/s over the kernel's",
                "rps",
                "kernel",
                AtLeast(10.0),
            ),
            (
                "requests/s over the spinning kernel's",
                "rps",
                "kernel-spin",
                AtLeast(2.0),
            ),
            ("p99 over the kernel's", "p99_us", "kernel", AtMost(0.1)),
        ] {
            let measured = self.ratio("rpc", cell, key, "inline", other);
            self.add(format!("memif, 4 KB 1×1, inline: {what}"), bound, measured);
        }
        let raw = self
            .store
            .median("link", "3 x 1514 B", "raw-memif", "p50_us");
        let p50 = self.store.median("rpc", cell, "inline", "p50_us");
        let measured = p50.zip(raw).map(|(p50, raw)| p50 / raw);
        let measured = measured.filter(|_| self.is_like_link("3 x 1514 B", cell));
        self.add(
            "memif, 4 KB 1×1, inline: p50 over the raw round trip",
            AtMost(2.0),
            measured,
        );
        let measured = self.ratio("rpc", cell, "p99_us", "inline", "batch");
        self.add(
            "memif, 4 KB 1×1: p99 of inline, zero copy over batch, copying",
            AtMost(0.75),
            measured,
        );
    }

    fn memif_rate(&mut self) {
        for cell in ["4 KB 8x1", "4 KB 16x16"] {
            let measured = self.ratio("rpc", cell, "rps", "inline", "kernel-bare");
            let what =
                format!("memif, {cell}, inline: requests/s over the kernel's without offloads");
            self.add(what.replace('x', "×"), AtLeast(2.5), measured);
        }
        let raw = ["16 x 1514 B", "48 x 1514 B"]
            .iter()
            .filter(|cell| self.is_like_link(cell, "4 KB 16x16"))
            .filter_map(|cell| self.store.median("link", cell, "raw-memif", "fps"))
            .reduce(f64::max);
        let rps = self.store.median("rpc", "4 KB 16x16", "inline", "rps");
        let measured = rps.zip(raw).map(|(rps, raw)| rps * FRAMES / raw);
        self.add(
            "memif, 4 KB 16×16, inline: frames over what the link echoes",
            AtLeast(0.7),
            measured,
        );
        let measured = self.ratio("rpc", "64 B 16x16", "rps", "inline", "kernel");
        self.add(
            "memif, 64 B 16×16, inline: requests/s over the kernel's",
            AtLeast(3.0),
            measured,
        );
        let worst = CELLS
            .iter()
            .map(|cell| self.ratio("rpc", cell, "rps", "inline", "smoltcp"))
            .reduce(|least, ratio| {
                least
                    .zip(ratio)
                    .map(|(least, ratio)| f64::min(least, ratio))
            });
        let what = "memif, every cell, inline: requests/s over smoltcp's, the least";
        self.add(what, AtLeast(1.0), worst.flatten());
    }

    fn memif_short(&mut self) {
        let best = ["1", "16"]
            .iter()
            .filter_map(|n| {
                let cell = format!("64 B, {n} at a time");
                self.ratio("short", &cell, "rps", "inline", "kernel")
            })
            .reduce(f64::max);
        self.add(
            "memif, connect–exchange–close, inline: per second over the kernel's",
            AtLeast(5.0),
            best,
        );
    }

    fn xdp(&mut self) {
        for mtu in [1500, 9000] {
            let cell = format!("MTU {mtu}, 4 KB 1x1");
            for (what, key, variant, bound) in [
                ("p50 between luna ends", "p50_us", "xdp", 0.4),
                ("p99 between luna ends", "p99_us", "xdp", 0.4),
                ("p50 with a kernel client", "p50_us", "kernel-to-xdp", 0.75),
            ] {
                let measured = self.ratio("xdp", &cell, key, variant, "kernel");
                let what = format!("AF_XDP, MTU {mtu}, 4 KB 1×1: {what} over the kernel's");
                self.add(what, AtMost(bound), measured);
            }
        }
    }

    fn apps(&mut self) {
        for app in ["redis", "memcached"] {
            let measured = self.ratio("apps", app, "rps", "batch", "kernel");
            self.add(
                format!("memif, {app}, 50 connections: requests/s over the kernel's"),
                AtLeast(3.0),
                measured,
            );
        }
    }

    /// What `benches/rpc.rs` measures.
    fn memory(&mut self) {
        for (key, what, bound) in [
            (
                "copy_offload.cycles_per_rpc_and_side",
                "cycles per 4 KB request and side",
                AtMost(3300.0),
            ),
            (
                "copy_offload.frames_per_rpc",
                "frames per 4 KB request",
                AtMost(6.0),
            ),
            (
                "short.per_second_and_core",
                "connect–exchange–close per second and core",
                AtLeast(300_000.0),
            ),
        ] {
            let measured = self.store.median("memory", "rpc", "memory", key);
            self.add(format!("in memory: {what}"), bound, measured);
        }
        let key = "connections.p99_with_10000_over_p99_with_100";
        let measured = self.store.median("memory", "rpc", "memory", key);
        let what = "in memory: p99 of 10,000 connections over that of 100 at equal load";
        self.add(what, AtMost(3.0), measured);
        let key = "memif_inline.syscalls_per_request";
        let what = "memif, 4 KB 1×1, inline: system calls per request of a busy server";
        // Not every kernel counts them for us.
        if let Some(measured) = self.store.median("memory", "rpc", "memory", key) {
            self.add(what, AtMost(0.01), Some(measured));
        }
    }
}

/// All targets.
pub(crate) fn all(store: &Store) -> Vec<Target> {
    let mut maker = Maker {
        store,
        targets: Vec::new(),
    };
    maker.memif_latency();
    maker.memif_rate();
    maker.memif_short();
    maker.xdp();
    maker.apps();
    maker.memory();
    maker.targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_was_not_measured_is_missed() {
        let target = |measured| Target {
            what: String::new(),
            bound: AtMost(0.4),
            measured,
        };
        assert!(target(Some(0.4)).is_met());
        assert!(!target(Some(0.41)).is_met());
        assert!(!target(None).is_met());
    }
}
