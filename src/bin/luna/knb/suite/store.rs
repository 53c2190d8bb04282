//! The results: one JSON object a line in a file, so that a single table can be measured again.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// All results so far.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    records: Vec<Value>,
}

/// How far apart the two cores were during a run. On shared hosts that changes from one minute to
/// the next and moves every figure between two cores by a factor of 2 to 3, so stacks are compared
/// at the same distance only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distance {
    Near,
    Far,
    /// It changed during the run.
    Mixed,
}

/// A cache line's round trip of less than so many times a short one is near.
const NEAR: f64 = 2.0;

/// The middle of some values; `None` of none. Of an even number the lower one, as an observed
/// value says more than the mean of two.
pub(crate) fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

impl Store {
    /// What the file has; an absent file has nothing.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let records = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            records,
        })
    }

    /// Forgets records; the file forgets them with the next that is added.
    pub(crate) fn forget(&mut self, unwanted: impl Fn(&Value) -> bool) {
        self.records.retain(|record| !unwanted(record));
    }

    /// Keeps a record. The file is replaced as a whole: it is small, and never half written.
    pub(crate) fn add(&mut self, record: Value) -> Result<(), String> {
        self.records.push(record);
        let failed = |error: std::io::Error| format!("{}: {error}", self.path.display());
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let new = self.path.with_extension("new");
        let mut file = fs::File::create(&new).map_err(failed)?;
        for record in &self.records {
            writeln!(file, "{record}").map_err(failed)?;
        }
        fs::rename(&new, &self.path).map_err(failed)
    }

    /// The records of a cell's variant.
    pub(crate) fn of<'a>(
        &'a self,
        table: &'a str,
        cell: &'a str,
        variant: &'a str,
    ) -> impl Iterator<Item = &'a Value> {
        self.records.iter().filter(move |record| {
            is(record, "table", table) && is(record, "cell", cell) && is(record, "variant", variant)
        })
    }

    /// Round trips from here on are far. Reckoned from a short one, not from the shortest, which
    /// may be a freak.
    fn far_from(&self) -> f64 {
        let trips = self.records.iter().filter_map(|r| trip(r, BEFORE));
        let mut trips: Vec<f64> = trips.collect();
        trips.sort_by(f64::total_cmp);
        let short = trips.get(trips.len() / 20).copied();
        short.map_or(f64::INFINITY, |short| NEAR * short)
    }

    /// Whether the medians of two cells may be compared.
    pub(crate) fn are_alike(&self, one: (&str, &str), other: (&str, &str)) -> bool {
        let far_from = self.far_from();
        let of = |(table, cell)| self.distance_of(table, cell, far_from);
        of(one) == of(other)
    }

    /// Whether a cell's variants are compared as they were with the cores far apart.
    pub(crate) fn is_far(&self, table: &str, cell: &str) -> bool {
        self.distance_of(table, cell, self.far_from()) == Some(Distance::Far)
    }

    /// Whether a round trip of so many nanoseconds is near, as far as is known.
    pub(crate) fn is_near(&self, trip: f64) -> bool {
        trip < self.far_from()
    }

    /// How many runs of a variant there are that were near, or failed.
    pub(crate) fn near_runs(&self, table: &str, cell: &str, variant: &str) -> usize {
        let far_from = self.far_from();
        self.of(table, cell, variant)
            .filter(|r| r.get("error").is_some() || distance(r, far_from) == Distance::Near)
            .count()
    }

    /// The runs of a variant that may be compared with the cell's others: those of the distance
    /// at which each variant has most of them; all if there is none.
    pub(crate) fn alike<'a>(
        &'a self,
        table: &'a str,
        cell: &'a str,
        variant: &'a str,
    ) -> impl Iterator<Item = &'a Value> {
        let far_from = self.far_from();
        let wanted = self.distance_of(table, cell, far_from);
        self.of(table, cell, variant)
            .filter(move |r| wanted.is_none_or(|wanted| distance(r, far_from) == wanted))
    }

    /// The distance at which the cell's variants are compared.
    fn distance_of(&self, table: &str, cell: &str, far_from: f64) -> Option<Distance> {
        let runs: Vec<&Value> = self
            .records
            .iter()
            .filter(|r| is(r, "table", table) && is(r, "cell", cell) && r.get("error").is_none())
            .collect();
        let least = |wanted: Distance| {
            runs.iter()
                .map(|one| {
                    runs.iter()
                        .filter(|r| r.get("variant") == one.get("variant"))
                        .filter(|r| distance(r, far_from) == wanted)
                        .count()
                })
                .min()
                .unwrap_or(0)
        };
        // Of equal ones the last is taken.
        [Distance::Far, Distance::Near]
            .into_iter()
            .filter(|wanted| least(*wanted) > 0)
            .max_by_key(|wanted| least(*wanted))
    }

    /// The middle of a figure over the runs that are alike.
    pub(crate) fn median(&self, table: &str, cell: &str, variant: &str, key: &str) -> Option<f64> {
        let values = self
            .alike(table, cell, variant)
            .filter_map(|record| record.get(key)?.as_f64());
        middle(values.collect())
    }

    /// All records.
    pub(crate) fn all(&self) -> &[Value] {
        &self.records
    }
}

/// Where a record has the round trip before its run, and after it.
pub(crate) const BEFORE: &str = "cacheline_ns";
pub(crate) const AFTER: &str = "cacheline_after_ns";

fn trip(record: &Value, key: &str) -> Option<f64> {
    record.get(key)?.as_f64()
}

fn is(record: &Value, key: &str, value: &str) -> bool {
    record.get(key).is_some_and(|field| field == value)
}

/// What was measured on one core is near.
fn distance(record: &Value, far_from: f64) -> Distance {
    let ends = [BEFORE, AFTER].map(|key| trip(record, key).map(|trip| trip < far_from));
    match ends {
        [Some(true), Some(false)] | [Some(false), Some(true)] => Distance::Mixed,
        [Some(false), _] | [_, Some(false)] => Distance::Far,
        _ => Distance::Near,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_survive_and_are_replaced() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("sub/results.jsonl");
        let record = |rps: f64| json!({"table": "t", "cell": "c", "variant": "v", "rps": rps});
        let mut store = Store::open(&path).expect("none yet");
        for rps in [3.0, 1.0, 2.0] {
            store.add(record(rps)).expect("add");
        }
        let mut store = Store::open(&path).expect("read");
        assert_eq!(store.median("t", "c", "v", "rps"), Some(2.0));
        assert_eq!(store.median("t", "c", "other", "rps"), None);
        store.forget(|record| record.get("rps").and_then(Value::as_f64) > Some(1.5));
        store.add(record(9.0)).expect("add");
        let store = Store::open(&path).expect("read");
        assert_eq!(
            (store.all().len(), store.median("t", "c", "v", "rps")),
            (2, Some(1.0))
        );
    }

    #[test]
    fn only_runs_at_one_distance_are_compared() {
        let folder = tempfile::tempdir().expect("folder");
        let mut store = Store::open(&folder.path().join("r.jsonl")).expect("none yet");
        let mut add = |variant: &str, rps: f64, before: f64, after: f64| {
            let record = json!({"table": "t", "cell": "c", "variant": variant, "rps": rps,
                BEFORE: before, AFTER: after});
            store.add(record).expect("add");
        };
        // One had three far runs of five, the other two; the faster one is the faster at each.
        for (ours, theirs, trip) in [
            (10., 7., 45.),
            (11., 7., 45.),
            (5., 3., 400.),
            (5., 3., 390.),
        ] {
            add("ours", ours, trip, trip);
            add("theirs", theirs, trip, trip);
        }
        add("ours", 5., 400., 400.);
        add("theirs", 7., 50., 50.);
        add("theirs", 100., 50., 400.);
        let both = |store: &Store| ["ours", "theirs"].map(|v| store.median("t", "c", v, "rps"));
        assert_eq!(both(&store), [Some(10.), Some(7.)]);
        assert_eq!(store.near_runs("t", "c", "theirs"), 3);
        // Where one was never near, all are compared far.
        store.forget(|r| is(r, "variant", "ours") && trip(r, BEFORE) < Some(100.));
        assert_eq!(both(&store), [Some(5.), Some(3.)]);
        // And where they have no distance in common, as they are.
        store.forget(|r| is(r, "variant", "theirs") && trip(r, AFTER) > Some(100.));
        assert_eq!(both(&store), [Some(5.), Some(7.)]);
    }
}
