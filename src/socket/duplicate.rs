//! `dup` and its relatives: more descriptors of one description.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use super::description::{Pin, release};
use super::{fork, table};
use crate::sys::{self, Errno, internal};

/// Duplicates with `call`, and enters the result if `from` is ours.
fn duplicate(from: RawFd, call: impl FnOnce() -> Result<RawFd, Errno>) -> Result<RawFd, Errno> {
    if internal::is_internal(from) {
        return Err(Errno::BADF);
    }
    let pin = source(from);
    match call() {
        Ok(to) => {
            match pin {
                Some(pin) if table::in_reach(to) => pin.publish(to),
                Some(pin) => {
                    // Beyond the table: it would be a descriptor of the placeholder only.
                    pin.give_up();
                    sys::close(to)?;
                    return Err(Errno::MFILE);
                }
                None => super::forget_number(to),
            }
            Ok(to)
        }
        Err(errno) => {
            if let Some(pin) = pin {
                pin.give_up();
            }
            Err(errno)
        }
    }
}

/// The description to duplicate, held open until the new descriptor is entered.
fn source(from: RawFd) -> Option<Pin> {
    if fork::is_foreign_process() {
        return None;
    }
    super::pin_checked(from).filter(Pin::reserve)
}

/// `dup(2)`.
///
/// # Errors
///
/// Those of `dup(2)`.
pub fn dup(from: RawFd) -> Result<RawFd, Errno> {
    duplicate(from, || sys::dup(from))
}

/// `F_DUPFD` and `F_DUPFD_CLOEXEC`.
///
/// # Errors
///
/// Those of `fcntl(2)`.
pub fn dup_from(from: RawFd, least: i32, cloexec: bool) -> Result<RawFd, Errno> {
    duplicate(from, || sys::dup_from(from, least, cloexec))
}

/// `dup2(2)`. A descriptor of ours that is replaced is closed, and calls that wait on it end:
/// that is how Java closes sockets.
///
/// # Errors
///
/// Those of `dup2(2)`.
pub fn dup2(from: RawFd, to: RawFd) -> Result<RawFd, Errno> {
    if from == to {
        // Only checks that it is open.
        return sys::descriptor_flags(from).map(|_| to);
    }
    replace(from, to, 0)
}

/// `dup3(2)`.
///
/// # Errors
///
/// Those of `dup3(2)`.
pub fn dup3(from: RawFd, to: RawFd, flags: i32) -> Result<RawFd, Errno> {
    if from == to {
        return Err(Errno::INVAL);
    }
    replace(from, to, flags)
}

fn replace(from: RawFd, to: RawFd, flags: i32) -> Result<RawFd, Errno> {
    if internal::is_internal(to) {
        return Err(Errno::BUSY);
    }
    if fork::is_foreign_process() {
        return sys::dup3(from, to, flags);
    }
    let old = table::lookup(to);
    duplicate(from, || {
        let result = sys::dup3(from, to, flags);
        if let (Ok(_), Some(old)) = (result, old)
            && table::remove_if(to, old)
        {
            release(old);
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::description::{self, Kind};

    /// A socket of ours under a number that other tests of this process do not get.
    fn ours(least: RawFd) -> (RawFd, description::DescriptionId) {
        let low = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        let fd = sys::dup_from(low, least, true).unwrap();
        sys::close(low).unwrap();
        let pin = description::create(Kind::Provisional).unwrap();
        pin.attach(fd).unwrap();
        (fd, pin.id())
    }

    #[test]
    fn all_duplicates_name_one_description() {
        let (fd, id) = ours(400);
        let second = dup_from(fd, 450, false).unwrap();
        let third = dup_from(fd, 500, true).unwrap();
        assert!(third >= 500);
        let lowest = dup(fd).unwrap();
        super::super::close::close(lowest).unwrap();
        assert_eq!(sys::descriptor_flags(third), Ok(libc::FD_CLOEXEC));
        for copy in [second, third] {
            assert_eq!(table::lookup(copy), Some(id));
        }
        super::super::close::close(fd).unwrap();
        super::super::close::close(third).unwrap();
        assert!(description::pin(id).is_some());
        super::super::close::close(second).unwrap();
        assert!(description::pin(id).is_none());
        assert_eq!(super::super::close::close(second), Err(Errno::BADF));
    }

    #[test]
    fn dup2_over_one_of_ours_closes_it() {
        let (fd, id) = ours(550);
        let marker = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).unwrap();
        let blocked = description::pin(id).unwrap();
        assert_eq!(dup2(marker, fd), Ok(fd));
        assert_eq!(table::lookup(fd), None);
        assert!(blocked.is_closed());
        let (other, other_id) = ours(600);
        assert_eq!(dup2(other, fd), Ok(fd));
        assert_eq!(table::lookup(fd), Some(other_id));
        assert_eq!(dup2(fd, fd), Ok(fd));
        assert_eq!(dup3(fd, fd, 0), Err(Errno::INVAL));
        assert_eq!(dup3(fd, other, 7), Err(Errno::INVAL));
        assert_eq!(dup2(fd, -1), Err(Errno::BADF));
        assert_eq!(description::pin(other_id).unwrap().descriptors(), 2);
        for number in [fd, other, marker] {
            super::super::close::close(number).unwrap();
        }
        assert_eq!(dup2(fd, fd), Err(Errno::BADF));
    }
}
