//! Which process may use which client ports and receive queues of an interface.
//!
//! Ports are leased in blocks of 1,024. A lease is a bound abstract Unix socket named after the
//! block: the name is scoped to the network namespace, as ports are; binding it is atomic among
//! processes; and the kernel releases it when its last holder dies, however it dies. Nothing is
//! left on disk. A child made by `fork` holds its parent's leases until it closes them, which
//! dropping its copy of the [`Lease`] does.
//!
//! The names are not protected against a process that takes them out of malice; it could as well
//! bind the ports.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

use super::port_range::{PortBlock, aligned_blocks};
use crate::sys::internal;

/// log2 of the ports in a leased block: enough for one shard's connections to one server, small
/// enough for several processes to share the default range of 4,096.
pub const LEASE_BLOCK_BITS: u8 = 10;

/// The default of `LUNA_CLIENT_PORTS`, above what Linux hands out (32768–60999).
pub const CLIENT_PORTS_DEFAULT: RangeInclusive<u16> = 61440..=65535;

/// Why client ports could not be leased.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// Other processes hold them.
    #[error(
        "{interface}: only {available} of {wanted} blocks of 1024 client ports are free in \
             {first}-{last}: other luna processes hold the rest (widen LUNA_CLIENT_PORTS)"
    )]
    Taken {
        /// The interface.
        interface: String,
        /// Blocks asked for.
        wanted: usize,
        /// Blocks that could be had.
        available: usize,
        /// The lowest port of the range.
        first: u16,
        /// The highest port of the range.
        last: u16,
    },
    /// The kernel refused a socket.
    #[error("{interface}: cannot lease ports or queues: {source}")]
    Io {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// The right to use some blocks of client ports on an interface, until dropped.
#[derive(Debug)]
pub struct Lease {
    blocks: Vec<(PortBlock, OwnedFd)>,
}

impl Lease {
    /// Leases `blocks` free blocks of 1,024 ports within `range`, adjoining ones if possible.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Taken`] if there are not so many; then none is kept.
    pub fn acquire(
        interface: &str,
        range: &RangeInclusive<u16>,
        blocks: usize,
    ) -> Result<Self, LeaseError> {
        let io = |source: Errno| LeaseError::Io {
            interface: interface.to_owned(),
            source: source.into(),
        };
        let mut held: Vec<(PortBlock, OwnedFd)> = Vec::with_capacity(blocks);
        for block in aligned_blocks(range, LEASE_BLOCK_BITS) {
            if held.len() == blocks {
                break;
            }
            match bind(&name_of(interface, block)) {
                Ok(fd) => held.push((block, fd)),
                Err(Errno::ADDRINUSE) => {}
                Err(errno) => return Err(io(errno)),
            }
        }
        if held.len() < blocks {
            return Err(LeaseError::Taken {
                interface: interface.to_owned(),
                wanted: blocks,
                available: held.len(),
                first: *range.start(),
                last: *range.end(),
            });
        }
        Ok(Self { blocks: held })
    }

    /// The leased blocks, ascending.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = PortBlock> + '_ {
        self.blocks.iter().map(|(block, _)| *block)
    }

    /// The descriptors that hold the lease, which a child made by `fork` must not keep.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.blocks.iter().map(|(_, fd)| fd.as_raw_fd())
    }

    /// The leased ports as ranges, adjoining blocks merged.
    pub fn ranges(&self) -> Vec<RangeInclusive<u16>> {
        let mut set = super::port_range::PortSet::empty();
        for block in self.blocks() {
            set.insert(block.range());
        }
        set.ranges().to_vec()
    }
}

/// The right to use some receive queues of an interface, until dropped. Made as the leases of ports
/// are; a queue itself is taken by binding a socket to it, but only after much that costs time and
/// memory.
#[derive(Debug)]
pub struct QueueLease {
    queues: Vec<(u32, OwnedFd)>,
}

impl QueueLease {
    /// Leases up to `most` of the `present` queues of `interface`: those that no other process has
    /// leased. There may be none.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Io`].
    pub fn acquire(interface: &str, present: u32, most: usize) -> Result<Self, LeaseError> {
        let mut queues = Vec::new();
        for queue in 0..present {
            if queues.len() == most {
                break;
            }
            match bind(&name_of_queue(interface, queue)) {
                Ok(fd) => queues.push((queue, fd)),
                Err(Errno::ADDRINUSE) => {}
                Err(errno) => {
                    return Err(LeaseError::Io {
                        interface: interface.to_owned(),
                        source: errno.into(),
                    });
                }
            }
        }
        Ok(Self { queues })
    }

    /// Whether a process has leased a queue. It is asked for without taking it: somebody may be
    /// about to.
    pub fn is_held(interface: &str, queue: u32) -> bool {
        let name = name_of_queue(interface, queue);
        match socket() {
            Ok(socket) => SocketAddrUnix::new_abstract_name(&name)
                .and_then(|address| rustix::net::connect(&socket, &address))
                .is_ok(),
            Err(_) => false,
        }
    }

    /// The leased queues, ascending.
    pub fn queues(&self) -> Vec<u32> {
        self.queues.iter().map(|(queue, _)| *queue).collect()
    }

    /// The descriptors that hold the lease, which a child made by `fork` must not keep.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.queues.iter().map(|(_, fd)| fd.as_raw_fd())
    }
}

fn name_of(interface: &str, block: PortBlock) -> Vec<u8> {
    format!("luna/{interface}/{}", block.first()).into_bytes()
}

fn name_of_queue(interface: &str, queue: u32) -> Vec<u8> {
    format!("luna/{interface}/queue {queue}").into_bytes()
}

fn socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
}

fn bind(name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let socket = internal::out_of_the_way(socket()?);
    rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An interface name that no other test process uses.
    fn interface(test: &str) -> String {
        format!("{test}-{}", std::process::id())
    }

    #[test]
    fn leases_exclude_each_other_until_dropped() {
        let name = interface("exclude");
        let range = CLIENT_PORTS_DEFAULT;
        let first = Lease::acquire(&name, &range, 1).unwrap();
        let second = Lease::acquire(&name, &range, 3).unwrap();
        assert_eq!(first.ranges(), [61440..=62463]);
        assert_eq!(second.ranges(), [62464..=65535]);

        let error = Lease::acquire(&name, &range, 1).unwrap_err();
        assert!(
            matches!(
                error,
                LeaseError::Taken {
                    wanted: 1,
                    available: 0,
                    ..
                }
            ),
            "{error}"
        );
        let elsewhere = Lease::acquire(&interface("other"), &range, 4).unwrap();
        assert_eq!(elsewhere.blocks().len(), 4);

        drop(first);
        let again = Lease::acquire(&name, &range, 1).unwrap();
        assert_eq!(again.blocks().next().unwrap().first(), 61440);
    }

    #[test]
    fn queues_are_leased_once() {
        let name = interface("queues");
        let first = QueueLease::acquire(&name, 3, 1).unwrap();
        let second = QueueLease::acquire(&name, 3, 8).unwrap();
        assert_eq!((first.queues(), second.queues()), (vec![0], vec![1, 2]));
        assert!(
            QueueLease::acquire(&name, 3, 1)
                .unwrap()
                .queues()
                .is_empty()
        );
        assert!((0..3).all(|queue| QueueLease::is_held(&name, queue)));
        assert!(!QueueLease::is_held(&name, 3));
        drop(first);
        assert!(!QueueLease::is_held(&name, 0));
        assert_eq!(QueueLease::acquire(&name, 3, 8).unwrap().queues(), [0]);
    }

    #[test]
    fn a_failed_acquisition_keeps_nothing() {
        let name = interface("partial");
        let range = 61440..=63487;
        assert!(Lease::acquire(&name, &range, 3).is_err());
        assert_eq!(Lease::acquire(&name, &range, 2).unwrap().blocks().len(), 2);
    }
}
