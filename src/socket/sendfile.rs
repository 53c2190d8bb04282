//! `sendfile(2)` to a connection of ours.
#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::os::fd::RawFd;

use super::description::{Kind, Pin};
use super::{stream, table};
use crate::sys::{self, Errno};

/// What is read from the file at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// `MAX_RW_COUNT`: the most that one call moves.
const COUNT_MAX: usize = 0x7fff_f000;

/// Sends up to `count` bytes of a file, from `offset` (which is moved) or from the file's
/// position (which is then moved by what was sent, not by what was read).
///
/// # Errors
///
/// Those of `sendfile(2)`.
pub fn sendfile(
    pin: &Pin,
    from: RawFd,
    offset: Option<&mut i64>,
    count: usize,
) -> Result<usize, Errno> {
    if pin.kind() != Kind::Stream || table::lookup(from).is_some() {
        return Err(Errno::INVAL);
    }
    let start = match &offset {
        Some(offset) if **offset < 0 => return Err(Errno::INVAL),
        Some(offset) => **offset,
        None => sys::lseek(from, 0, libc::SEEK_CUR).map_err(no_file)?,
    };
    let sent = copy(pin, from, (start, offset.is_some()), count.min(COUNT_MAX))?;
    let end = start.saturating_add(i64::try_from(sent).unwrap_or(i64::MAX));
    match offset {
        Some(offset) => *offset = end,
        None => {
            sys::lseek(from, end, libc::SEEK_SET)?;
        }
    }
    Ok(sent)
}

/// Without an offset, what has no position can't be sent.
fn no_file(errno: Errno) -> Errno {
    match errno {
        Errno::SPIPE => Errno::INVAL,
        other => other,
    }
}

fn copy(
    pin: &Pin,
    from: RawFd,
    (start, has_offset): (i64, bool),
    count: usize,
) -> Result<usize, Errno> {
    let mut chunk = vec![0; count.min(CHUNK_BYTES)];
    let mut done = 0;
    while done < count {
        let room = (count - done).min(CHUNK_BYTES);
        let at = start.saturating_add(i64::try_from(done).unwrap_or(i64::MAX));
        let result = sys::pread(from, chunk.get_mut(..room).unwrap_or_default(), at)
            .map_err(|errno| if has_offset { errno } else { no_file(errno) })
            .and_then(|len| {
                let bytes = chunk.get(..len).unwrap_or_default();
                let sent = if len == 0 {
                    0
                } else {
                    stream::send(pin, &[IoSlice::new(bytes)], 0)?
                };
                Ok((len, sent))
            });
        match result {
            Ok((0, _)) => break,
            Ok((len, sent)) => {
                done += sent;
                if sent < len {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}
