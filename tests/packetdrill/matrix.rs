//! Tables: every combination of flags in every state, at several places of the sequence space.
//!
//! A `.tbl` file holds sections. `=== NAME` begins one; script lines that bring a connection into
//! the state follow; then `probe NAME=SEQ/ACK/LENGTH ...` names the columns (numbers relative, as
//! in scripts; the state is of descriptor `fd=N`), and each row is a combination of FIN, SYN, RST
//! and ACK. A cell says what the host answers to such a segment at once, and the state that it is
//! in then, if that is another one (for a listener, `accepted`: a connection waits in its queue).
//! The cells of the first two columns are tried four times: with and without PSH and URG, which
//! must change nothing.
//!
//! `LUNA_BLESS=1` rewrites the cells; whoever blesses has to check them against RFC 9293 §3.10.7.

use std::fmt::Write;

use crate::host::frame::{ACK, FIN, PSH, RST, SYN, URG};
use crate::run::{Failure, Run};
use crate::script::{Case, cases};
use crate::text::flags_text;

/// A column: where a probe lies.
#[derive(Clone, Debug)]
struct Column {
    name: String,
    seq: u32,
    ack: u32,
    len: u32,
}

struct Table {
    setup: Case,
    fd: i32,
    columns: Vec<Column>,
    rows: Vec<(usize, String)>,
}

fn number(text: &str) -> Option<u32> {
    text.parse::<i64>().ok().map(|n| n as u32)
}

fn column(text: &str) -> Option<Column> {
    let (name, place) = text.split_once('=')?;
    let parts: Vec<_> = place.split('/').map(number).collect();
    let [Some(seq), Some(ack), Some(len)] = parts[..] else {
        return None;
    };
    Some(Column {
        name: name.to_string(),
        seq,
        ack,
        len,
    })
}

fn table(mut case: Case) -> Table {
    let at = case.lines.iter().position(|(_, l)| l.starts_with("probe "));
    let at = at.unwrap_or_else(|| panic!("{}: no `probe` line", case.name));
    let rows = case.lines.split_off(at + 1);
    let (_, probe) = case.lines.pop().unwrap();
    let mut fd = 0;
    let mut columns = Vec::new();
    for word in probe.split_whitespace().skip(1) {
        match (word.strip_prefix("fd="), column(word)) {
            (Some(n), _) => fd = n.parse().unwrap(),
            (None, Some(column)) => columns.push(column),
            (None, None) => panic!("{}: `{word}` in the probe line", case.name),
        }
    }
    Table {
        setup: case,
        fd,
        columns,
        rows,
    }
}

/// What the host does about one probe, as a cell says it.
fn outcome(table: &Table, column: &Column, flags: u8) -> Result<String, Failure> {
    let mut run = Run::prepared(&table.setup)?;
    let before = run.state_of(table.fd);
    let answers = run.probe(flags, column.seq, column.ack, column.len);
    let after = run.state_of(table.fd);
    let mut cell = match answers.is_empty() {
        true => "-".to_string(),
        false => answers.join(" + "),
    };
    if before != after {
        let _ = write!(cell, " {after}");
    }
    Ok(cell)
}

fn base_combinations() -> Vec<u8> {
    let mut all = Vec::new();
    for bits in 0..16u8 {
        let flag = |bit: u8, flag| if bits & bit != 0 { flag } else { 0 };
        all.push(flag(1, ACK) | flag(2, SYN) | flag(4, FIN) | flag(8, RST));
    }
    all
}

/// The rows of a table as the host gives them; a failure is a cell that PSH or URG changes.
fn measure(table: &Table, failures: &mut Vec<String>) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for flags in base_combinations() {
        let mut row = vec![flags_text(flags)];
        for (index, column) in table.columns.iter().enumerate() {
            let mut cells = Vec::new();
            let extras = [0, PSH, URG, PSH | URG];
            for extra in extras.into_iter().take(if index < 2 { 4 } else { 1 }) {
                match outcome(table, column, flags | extra) {
                    Ok(cell) => cells.push(cell),
                    Err(e) => {
                        failures.push(format!("{}: line {}: {}", table.setup.name, e.line, e.what));
                        return rows;
                    }
                }
            }
            if cells.iter().any(|c| *c != cells[0]) {
                failures.push(format!(
                    "{} {} {}: PSH or URG changes the outcome: {cells:?}",
                    table.setup.name,
                    flags_text(flags),
                    column.name
                ));
            }
            row.push(cells.swap_remove(0));
        }
        rows.push(row);
    }
    rows
}

fn lay_out(rows: &[Vec<String>], columns: &[Column]) -> Vec<String> {
    let mut head = vec!["// flags".to_string()];
    head.extend(columns.iter().map(|c| c.name.clone()));
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |i: usize| all.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
    let line = |row: &&Vec<String>| {
        let cells = row.iter().enumerate();
        let cells: Vec<_> = cells
            .map(|(i, c)| format!("{c:w$}", w = width(i)))
            .collect();
        cells.join(" | ").trim_end().to_string()
    };
    all.iter().map(line).collect()
}

fn cells_of(line: &str) -> Vec<String> {
    line.split('|').map(|c| c.trim().to_string()).collect()
}

#[test]
fn tables() {
    let bless = std::env::var_os("LUNA_BLESS").is_some();
    let wanted = std::env::var("LUNA_PKT").unwrap_or_default();
    let mut failures = Vec::new();
    let mut count = 0;
    for file in crate::files("tbl") {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut out = text.clone();
        for case in cases(file.clone(), &text) {
            let table = table(case);
            if !format!("{}: {}", crate::shown(&file), table.setup.name).contains(&wanted) {
                continue;
            }
            let measured = measure(&table, &mut failures);
            count += measured.len() * table.columns.len();
            if bless {
                out = rewrite(&out, &table, &lay_out(&measured, &table.columns));
                continue;
            }
            let written: Vec<_> = table.rows.iter().map(|(n, l)| (*n, cells_of(l))).collect();
            if written.len() != measured.len() {
                failures.push(format!("{}: {} rows", table.setup.name, written.len()));
            }
            for ((line, expected), got) in written.iter().zip(&measured) {
                for (i, cell) in got.iter().enumerate() {
                    if expected.get(i) != Some(cell) {
                        failures.push(format!(
                            "{}:{line}: {} {}: expected {:?}, got {cell:?}",
                            crate::shown(&file),
                            got[0],
                            table.columns.get(i.wrapping_sub(1)).map_or("", |c| &c.name),
                            expected.get(i)
                        ));
                    }
                }
            }
        }
        if bless && out != text {
            std::fs::write(&file, out).unwrap();
        }
    }
    println!("{count} cells");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(!wanted.is_empty() || count > 500, "only {count} cells");
}

/// Replaces the rows of one section.
fn rewrite(text: &str, table: &Table, rows: &[String]) -> String {
    let mut out = Vec::new();
    let (mut ours, mut behind_probe) = (false, false);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("===") {
            ours = name.trim() == table.setup.name;
            behind_probe = false;
        }
        let is_row = ours && behind_probe && !line.trim().is_empty();
        if !is_row {
            out.push(line.to_string());
        }
        if ours && line.trim_start().starts_with("probe ") {
            behind_probe = true;
            out.extend(rows.iter().cloned());
        }
    }
    out.join("\n") + "\n"
}
