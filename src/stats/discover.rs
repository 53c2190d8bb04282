//! Finding the boards of living processes.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Reader;
use super::shm::NAME;

/// A process with a board.
#[derive(Debug)]
pub struct Process {
    /// Its number, as this process sees it.
    pub pid: u32,
    /// Its board.
    pub board: Reader,
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    /// Processes in ascending order of their numbers.
    pub processes: Vec<Process>,
    /// Processes that could not be looked into, most often because they are another user's.
    pub hidden: usize,
    /// Boards that could not be read, and why.
    pub unreadable: Vec<(u32, io::Error)>,
}

/// Looks through `/proc`. Processes that end meanwhile are not an error.
///
/// # Errors
///
/// If `/proc` itself can't be read.
pub fn find() -> io::Result<Found> {
    let mut found = Found::default();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        match board_of(pid) {
            Ok(Some(board)) => found.processes.push(Process { pid, board }),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                found.unreadable.push((pid, error));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => found.hidden += 1,
            Ok(None) | Err(_) => {}
        }
    }
    found.processes.sort_by_key(|process| process.pid);
    Ok(found)
}

/// The board that a process has made itself.
fn board_of(pid: u32) -> io::Result<Option<Reader>> {
    let mut problem = None;
    for path in boards_in(&PathBuf::from(format!("/proc/{pid}/fd")))? {
        match Reader::open(&path) {
            // A forked child has its parent's board open, too.
            Ok(board) if Some(board.info().pid) == own_number(pid) => return Ok(Some(board)),
            Ok(_) => {}
            Err(error) => problem = Some(error),
        }
    }
    problem.map_or(Ok(None), Err)
}

fn boards_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let target = format!("/memfd:{NAME}");
    let is_board = |path: &PathBuf| {
        // The kernel adds " (deleted)".
        fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with(&target))
    };
    Ok(fs::read_dir(directory)?
        .flatten()
        .map(|entry| entry.path())
        .filter(is_board)
        .collect())
}

/// The number by which the process knows itself: the one in its innermost namespace.
fn own_number(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.map_or(Some(pid), |line| {
        line.split_whitespace().last()?.parse().ok()
    })
}
