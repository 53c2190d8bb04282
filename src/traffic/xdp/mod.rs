//! The XDP program that brings TCP packets for our ports to AF_XDP sockets, and nothing else.
//!
//! The program is `port_redirect.bpf.c`, compiled at build time. It is attached by a BPF link: it
//! vanishes with the last process that holds the link, however that dies, and the kernel then
//! answers for our ports (with RST). A program that is attached already is named in the error and
//! never replaced.
//!
//! A child made by `fork` inherits the link: it must drop its copy of [`Steering`], else the
//! program outlives the parent.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::{Ebpf, EbpfError};

use crate::device::OpenError;
use crate::device::xdp::interface::{Interface, open_error};

/// The object file that `build.rs` compiled, aligned as its parser wants it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/port_redirect.bpf.o"));

/// The program's name in the object and, as it is that short, in the kernel.
pub const PROGRAM_NAME: &str = "luna_steer";

/// Indices of the map `counters`.
const COUNTER_PASSED: u32 = 0;
const COUNTER_REDIRECTED: u32 = 1;

/// Who gets the packets of a port. The numbers are the program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PortOwner {
    /// The kernel, as without us.
    Kernel = 0,
    /// We do.
    Luna = 1,
    /// We do, but for 4-tuples of which the kernel has a connection: so that those that existed
    /// before us, or were made beside us, do not break.
    LunaUnlessKernelConnection = 2,
}

/// What the program did since it was attached, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteeringCounters {
    /// Redirected to one of our sockets.
    pub redirected: u64,
    /// Passed to the kernel.
    pub passed: u64,
}

/// How the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before the kernel allocates anything for the packet.
    Native,
    /// In the kernel's receive path: works with any driver, and is slower on hardware.
    Generic,
}

impl AttachMode {
    /// Native, except on a veth end with one receive queue. There a native program makes the
    /// kernel switch segmentation offload off at the *other* end, which takes the kernel's own
    /// transfers towards us to a third of their speed (iperf3: 11.7 Gbit/s without a program,
    /// 3.6 with an empty native one, 10.3 with an empty generic one), and saves nothing, for a
    /// veth packet is a kernel buffer already. With several queues it must be native: the
    /// generic path sees queue n + 1 as n.
    pub fn preferred_on(interface: &Interface) -> Self {
        if interface.is_veth && interface.receive_queues() == 1 {
            Self::Generic
        } else {
            Self::Native
        }
    }

    const fn flag(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// Our program on an interface, until dropped.
pub struct Steering {
    interface: Interface,
    mode: AttachMode,
    port_map: Array<MapData, u8>,
    local_addrs: HashMap<MapData, [u8; 16], u8>,
    xsks_map: XskMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
    /// Detaches when dropped. The other descriptors go with it.
    _link: FdLink,
    _program: Ebpf,
}

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steering")
            .field("interface", &self.interface)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl Steering {
    /// Loads the program and attaches it to `interface` in the way that suits it best
    /// ([`AttachMode::preferred_on`]). Until ports, addresses and sockets are given to it, it
    /// passes everything.
    ///
    /// # Errors
    ///
    /// [`OpenError::NoInterface`], [`OpenError::NotPermitted`], [`OpenError::ForeignProgram`] if
    /// any program is attached already (ours in another process included), or else
    /// [`OpenError::Io`].
    pub fn attach(interface: &str) -> Result<Self, OpenError> {
        let interface = Interface::query(interface)?;
        let mode = AttachMode::preferred_on(&interface);
        Self::attach_in(interface, mode)
    }

    /// As [`attach`](Self::attach), in a mode of the caller's choice; a driver that runs no
    /// programs gets [`AttachMode::Generic`] all the same.
    ///
    /// # Errors
    ///
    /// As `attach`.
    pub fn attach_in(interface: Interface, mode: AttachMode) -> Result<Self, OpenError> {
        refuse_foreign_program(&interface)?;

        let mut ebpf = Ebpf::load(OBJECT).map_err(|error| {
            open_error(
                &interface.name,
                "load the XDP program",
                io_error_of_load(error),
            )
        })?;
        let (link, mode) = attach_program(&mut ebpf, &interface, mode)?;
        let missing = || {
            open_error(
                &interface.name,
                "find the maps of the XDP program",
                io::Error::from_raw_os_error(libc::ENOENT),
            )
        };
        let mut map = |name: &str| ebpf.take_map(name).ok_or_else(missing);
        let wrong = |_: MapError| missing();
        Ok(Self {
            port_map: Array::try_from(map("port_map")?).map_err(wrong)?,
            local_addrs: HashMap::try_from(map("local_addrs")?).map_err(wrong)?,
            xsks_map: XskMap::try_from(map("xsks_map")?).map_err(wrong)?,
            counters: PerCpuArray::try_from(map("counters")?).map_err(wrong)?,
            interface,
            mode,
            _link: link,
            _program: ebpf,
        })
    }

    /// The interface, as it was when the program was attached.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// How the program runs.
    pub fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Says who gets the packets to `port` from now on.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn set_port(&mut self, port: u16, owner: PortOwner) -> io::Result<()> {
        self.port_map
            .set(u32::from(port), owner as u8, 0)
            .map_err(io_error_of_map)
    }

    /// Who gets the packets to `port`.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn port_owner(&self, port: u16) -> io::Result<PortOwner> {
        match self
            .port_map
            .get(&u32::from(port), 0)
            .map_err(io_error_of_map)?
        {
            1 => Ok(PortOwner::Luna),
            2 => Ok(PortOwner::LunaUnlessKernelConnection),
            _ => Ok(PortOwner::Kernel),
        }
    }

    /// Replaces the set of destination addresses whose packets may be ours; all others belong to
    /// the kernel, which may have to forward them. New ones are added before old ones go.
    ///
    /// # Errors
    ///
    /// The kernel's answer; at most 1,024 addresses fit.
    pub fn set_local_addresses(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        let wanted: Vec<[u8; 16]> = addresses
            .iter()
            .map(|address| address_key(*address))
            .collect();
        for key in &wanted {
            self.local_addrs
                .insert(key, 1, 0)
                .map_err(io_error_of_map)?;
        }
        let known: Vec<[u8; 16]> = self
            .local_addrs
            .keys()
            .collect::<Result<_, _>>()
            .map_err(io_error_of_map)?;
        for key in known.iter().filter(|key| !wanted.contains(key)) {
            self.local_addrs.remove(key).map_err(io_error_of_map)?;
        }
        Ok(())
    }

    /// Brings what arrives on receive queue `queue` to the AF_XDP socket `socket`, which must be
    /// bound to that queue. The entry goes when the socket is closed.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn register(&mut self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.xsks_map
            .set(queue, socket.as_raw_fd(), 0)
            .map_err(io_error_of_map)
    }

    /// Leaves what arrives on receive queue `queue` to the kernel.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn unregister(&mut self, queue: u32) -> io::Result<()> {
        self.xsks_map.unset(queue).map_err(io_error_of_map)
    }

    /// What the program did so far.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn counters(&self) -> io::Result<SteeringCounters> {
        let total = |index: u32| {
            let values = self.counters.get(&index, 0).map_err(io_error_of_map)?;
            Ok::<u64, io::Error>(values.iter().sum())
        };
        Ok(SteeringCounters {
            redirected: total(COUNTER_REDIRECTED)?,
            passed: total(COUNTER_PASSED)?,
        })
    }
}

/// IPv4 as `::ffff:a.b.c.d`, in network order.
fn address_key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn refuse_foreign_program(interface: &Interface) -> Result<(), OpenError> {
    let Some(program_id) = interface.xdp_program else {
        return Ok(());
    };
    let program_name = aya::programs::loaded_programs()
        .flatten()
        .find(|program| program.id() == program_id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_else(|| "name unknown".to_owned());
    let interface = interface.name.clone();
    Err(OpenError::ForeignProgram {
        interface,
        program_id,
        program_name,
    })
}

/// Attaches in `mode`, or generically if the driver runs no programs.
fn attach_program(
    ebpf: &mut Ebpf,
    interface: &Interface,
    mut mode: AttachMode,
) -> Result<(FdLink, AttachMode), OpenError> {
    let failed = |error: ProgramError| {
        open_error(
            &interface.name,
            "load the XDP program",
            io_error_of_program(error),
        )
    };
    let program: &mut Xdp = ebpf
        .program_mut(PROGRAM_NAME)
        .map(<&mut Xdp>::try_from)
        .transpose()
        .map_err(failed)?
        .ok_or_else(|| failed(ProgramError::NotLoaded))?;
    program.load().map_err(failed)?;

    let mut attached = program.attach_to_if_index(interface.index, mode.flag());
    if mode == AttachMode::Native
        && let Err(error) = attached
    {
        let error = io_error_of_program(error);
        if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
            return Err(attach_error(interface, error));
        }
        mode = AttachMode::Generic;
        attached = program.attach_to_if_index(interface.index, mode.flag());
    }
    let link: XdpLink = attached
        .and_then(|id| program.take_link(id))
        .map_err(|error| attach_error(interface, io_error_of_program(error)))?;
    // Where the kernel has no links for XDP, the attachment would outlive us: dropping it here
    // detaches it again.
    let link = FdLink::try_from(link).map_err(|_| {
        let unsupported = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        open_error(
            &interface.name,
            "attach the XDP program by a BPF link",
            unsupported,
        )
    })?;
    Ok((link, mode))
}

/// Somebody may have attached a program since we looked.
fn attach_error(interface: &Interface, error: io::Error) -> OpenError {
    if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
        && let Ok(now) = Interface::query(&interface.name)
        && let Err(foreign) = refuse_foreign_program(&now)
    {
        return foreign;
    }
    open_error(&interface.name, "attach the XDP program", error)
}

/// The system call's answer out of an error of the BPF library; its text for all others.
fn io_error_of_program(error: ProgramError) -> io::Error {
    match error {
        // The verifier's log is worth more than the number, unless it is about privilege.
        ProgramError::LoadError { io_error, .. } if is_privilege(&io_error) => io_error,
        ProgramError::SyscallError(call) => call.io_error,
        ProgramError::MapError(error) => io_error_of_map(error),
        other => io::Error::other(other.to_string()),
    }
}

fn io_error_of_map(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(call) => call.io_error,
        MapError::CreateError { io_error, .. } => io_error,
        other => io::Error::other(other.to_string()),
    }
}

fn io_error_of_load(error: EbpfError) -> io::Error {
    match error {
        EbpfError::MapError(error) => io_error_of_map(error),
        EbpfError::ProgramError(error) => io_error_of_program(error),
        EbpfError::BtfError(aya_error) => io::Error::other(aya_error.to_string()),
        other => io::Error::other(other.to_string()),
    }
}

fn is_privilege(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_keyed_as_the_program_reads_them() {
        assert_eq!(
            address_key("10.1.2.3".parse().unwrap()),
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3]
        );
        assert_eq!(address_key("::1".parse().unwrap())[15], 1);
    }

    #[test]
    fn a_missing_interface_is_named() {
        let error = Steering::attach("nosuchif0").unwrap_err();
        assert!(matches!(error, OpenError::NoInterface { .. }), "{error}");
    }
}
