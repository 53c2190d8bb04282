//! Checks of the programs that use luna now.

use std::collections::BTreeSet;
use std::fs;

use luna::stats::discover::{self, Process};
use luna::stats::{Reason, RowState, RunState};

use super::Finding;

pub(super) fn check() -> Vec<Finding> {
    let found = discover::find()
        .map(|found| found.processes)
        .unwrap_or_default();
    if found.is_empty() {
        return vec![Finding::ok("programs: none uses luna now")];
    }
    found.iter().flat_map(of_process).collect()
}

fn of_process(process: &Process) -> Vec<Finding> {
    let info = process.board.info();
    let head = format!(
        "program {} ({}) on {}",
        info.program, process.pid, info.device
    );
    let mut findings = Vec::new();
    findings.push(match info.state {
        RunState::KernelOnly => Finding::warn(
            format!("{head}: all on the kernel"),
            info.state_reason.help(),
        ),
        state => Finding::ok(format!("{head}: {}", state.name())),
    });
    for row in process.board.rows() {
        // An undecided or unlisted listener is as the user wanted it.
        let is_odd = !matches!(
            row.reason,
            Reason::Accelerated | Reason::Undecided | Reason::PortNotListed
        );
        if row.state == RowState::Listen && is_odd {
            findings.push(Finding::warn(
                format!("{head}: the listener on {} is on the kernel", row.local),
                row.reason.help(),
            ));
        }
    }
    findings
}

/// The ports on which programs with luna listen.
pub(super) fn listening_ports() -> BTreeSet<u16> {
    let found = discover::find()
        .map(|found| found.processes)
        .unwrap_or_default();
    let rows = found.iter().flat_map(|process| process.board.rows());
    rows.filter(|row| row.state == RowState::Listen)
        .map(|row| row.local.port())
        .collect()
}

/// Every process.
#[cfg(feature = "xdp")]
pub(super) fn all() -> Vec<u32> {
    let Ok(directory) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    directory
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// A process's name.
#[cfg(feature = "xdp")]
pub(super) fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}
