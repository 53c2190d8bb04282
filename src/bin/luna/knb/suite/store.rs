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
        let is = |record: &Value, key: &str, value: &str| {
            record.get(key).is_some_and(|field| field == value)
        };
        self.records.iter().filter(move |record| {
            is(record, "table", table) && is(record, "cell", cell) && is(record, "variant", variant)
        })
    }

    /// The middle of a figure over the rounds.
    pub(crate) fn median(&self, table: &str, cell: &str, variant: &str, key: &str) -> Option<f64> {
        let values = self
            .of(table, cell, variant)
            .filter_map(|record| record.get(key)?.as_f64());
        middle(values.collect())
    }

    /// All records.
    pub(crate) fn all(&self) -> &[Value] {
        &self.records
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
}
