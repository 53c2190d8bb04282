//! Printing: tables, JSON, numbers for people.

use std::io::{self, Write as _};

use comfy_table::{CellAlignment, Table, presets};
use luna::stats::discover::{self, Found};

/// Prints text to stdout. A reader that went away (`luna ss | head`) is not an error.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints a line to stderr.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "luna: {text}");
}

/// Prints a value as JSON.
pub(crate) fn print_json(value: &serde_json::Value) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => note(&error.to_string()),
    }
}

/// A table in the plain style of `ss`; `right` are the columns with numbers.
pub(crate) fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for index in right {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Prints a table without the blanks at the ends of its lines.
pub(crate) fn print_table(table: &Table) {
    let text: String = table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect();
    print(&text);
}

/// The processes that use luna, after notes about those that can't be seen.
pub(crate) fn processes() -> Option<Found> {
    match discover::find() {
        Ok(found) => {
            for (pid, error) in &found.unreadable {
                note(&format!(
                    "process {pid}: its statistics can't be read: {error}"
                ));
            }
            if found.hidden > 0 {
                note("processes of other users are not shown; root sees them");
            }
            Some(found)
        }
        Err(error) => {
            note(&format!("/proc can't be read: {error}"));
            None
        }
    }
}

/// Bytes with a unit, as `1.5M`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["", "K", "M", "G", "T"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    match unit {
        0 => format!("{count}"),
        _ if value < 10.0 => format!("{value:.1}{name}"),
        _ => format!("{value:.0}{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        let shown = [0, 1023, 1024, 1536, 10 << 20, u64::MAX].map(bytes);
        assert_eq!(shown, ["0", "1023", "1.0K", "1.5K", "10M", "16777216T"]);
    }
}
