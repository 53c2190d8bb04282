//! The XDP program that brings TCP packets for our ports to AF_XDP sockets, and nothing else.
//!
//! The program is `port_redirect.bpf.c`, compiled at build time. It is attached by a BPF link: it
//! vanishes with the last process that holds the link, however that dies, and the kernel then
//! answers for our ports (with RST).
//!
//! Several processes share an interface by sharing the program: the first attaches it, the others
//! join ([`join`]), and each steers to the receive queues that it has registered a socket for.
//! Any other program that is attached already is named in the error and never replaced.
//!
//! A child made by `fork` inherits the link: it must drop its copy of [`Steering`], else the
//! program outlives the parent.
#![forbid(unsafe_code)]

mod join;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::{Ebpf, EbpfError};

use crate::device::OpenError;
use crate::device::xdp::interface::{Interface, open_error};
use crate::sys::{self, internal};
use crate::traffic::QueueLease;

/// The object file that `build.rs` compiled, aligned as its parser wants it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/port_redirect.bpf.o"));

/// The program's name in the object and, as it is that short, in the kernel.
pub const PROGRAM_NAME: &str = "luna_steer";

/// The map of ports. Its name stands for the layout of all maps: processes of different builds
/// share a program only if it is the same.
const PORTS_MAP: &str = "queue_owners";

/// The size of that map.
const PORTS_MAX: usize = 16_384;

/// Changes an entry, and makes none (linux/bpf.h).
const BPF_EXIST: u64 = 2;

/// How often to try again when the program of other processes comes or goes while we look.
const JOIN_TRIES: u32 = 8;

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
    /// As before, but new connections are the kernel's: for a listener that is closed while its
    /// connections live on, and while another process takes over from this one.
    LunaNoNewConnection = 3,
    /// As before, and no connection that has begun waits to be accepted: the process that serves
    /// the port may be ended, and nobody is refused.
    LunaRelieved = 4,
}

impl PortOwner {
    /// Whether new connections are the kernel's, for now.
    pub const fn is_paused(self) -> bool {
        matches!(self, Self::LunaNoNewConnection | Self::LunaRelieved)
    }

    const fn from_value(value: u8) -> Self {
        match value {
            1 => Self::Luna,
            2 => Self::LunaUnlessKernelConnection,
            3 => Self::LunaNoNewConnection,
            4 => Self::LunaRelieved,
            _ => Self::Kernel,
        }
    }
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
    queue_ports: HashMap<MapData, u32, u8>,
    /// What is ours, on each of our queues.
    ports: BTreeMap<u16, PortOwner>,
    queues: Vec<u32>,
    local_addrs: HashMap<MapData, [u8; 16], u8>,
    xsks_map: XskMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
    /// Detaches when the last process has dropped its own.
    _hold: Hold,
}

/// What keeps the program attached: its link.
enum Hold {
    /// A descriptor of our own.
    Held { _link: OwnedFd },
    /// The one that the BPF library opened, where it takes more privileges to open another.
    Library { _link: FdLink },
}

impl Hold {
    fn of(link: FdLink) -> Self {
        let again = link.info().ok().and_then(|info| held_link(info.id()));
        match again {
            Some(held) => Self::Held { _link: held },
            None => Self::Library { _link: link },
        }
    }
}

/// A descriptor for the link with this kernel id.
fn held_link(id: u32) -> Option<OwnedFd> {
    let link = sys::bpf_link_by_id(id).ok()?;
    Some(internal::out_of_the_way(link))
}

/// The same map, by another descriptor.
fn out_of_the_way(map: MapData) -> Result<MapData, MapError> {
    match internal::high_copy(map.fd().as_fd()) {
        Some(fd) => MapData::from_fd(fd),
        None => Ok(map),
    }
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
    /// ([`AttachMode::preferred_on`]), or joins the processes that have done so. Until ports,
    /// addresses and sockets are given to it, it passes everything.
    ///
    /// # Errors
    ///
    /// [`OpenError::NoInterface`], [`OpenError::NotPermitted`], [`OpenError::ForeignProgram`] if
    /// any other program is attached already, or else [`OpenError::Io`].
    pub fn attach(interface: &str) -> Result<Self, OpenError> {
        let mut tries = JOIN_TRIES;
        loop {
            let interface = Interface::query(interface)?;
            if let Some(program) = interface.xdp_program
                && let Some(joined) = join::join(&interface, program)?
            {
                return Ok(joined);
            }
            let mode = AttachMode::preferred_on(&interface);
            match Self::attach_in(interface, mode) {
                // Another process was faster, or has ended since it was seen.
                Err(OpenError::ForeignProgram { program_name, .. })
                    if program_name == PROGRAM_NAME && tries > 0 =>
                {
                    tries -= 1;
                }
                result => return result,
            }
        }
    }

    /// Joins the processes that have attached the program; none: nobody has.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach).
    pub fn find(interface: &str) -> Result<Option<Self>, OpenError> {
        let interface = Interface::query(interface)?;
        match interface.xdp_program {
            Some(program) => join::join(&interface, program),
            None => Ok(None),
        }
    }

    /// As [`attach`](Self::attach), in a mode of the caller's choice, and joining nobody; a driver
    /// that runs no programs gets [`AttachMode::Generic`] all the same.
    ///
    /// # Errors
    ///
    /// As `attach`; [`OpenError::ForeignProgram`] also if ours is attached already.
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
        let maps = [PORTS_MAP, "local_addrs", "xsks_map", "counters"];
        let maps = maps
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), ebpf.take_map(name)?)))
            .collect();
        // The program itself is held by its link.
        drop(ebpf);
        Self::assemble(interface, mode, Hold::of(link), maps)
    }

    /// Puts together what steers, from the maps by their names.
    fn assemble(
        interface: Interface,
        mode: AttachMode,
        hold: Hold,
        mut maps: std::collections::HashMap<String, Map>,
    ) -> Result<Self, OpenError> {
        let missing = || {
            open_error(
                &interface.name,
                "find the maps of the XDP program",
                io::Error::from_raw_os_error(libc::ENOENT),
            )
        };
        let wrong = |_: MapError| missing();
        let mut map = |name: &str| {
            let (Map::HashMap(map) | Map::XskMap(map) | Map::PerCpuArray(map)) =
                maps.remove(name).ok_or_else(missing)?
            else {
                return Err(missing());
            };
            out_of_the_way(map)
                .and_then(Map::from_map_data)
                .map_err(wrong)
        };
        Ok(Self {
            queue_ports: HashMap::try_from(map(PORTS_MAP)?).map_err(wrong)?,
            local_addrs: HashMap::try_from(map("local_addrs")?).map_err(wrong)?,
            xsks_map: XskMap::try_from(map("xsks_map")?).map_err(wrong)?,
            counters: PerCpuArray::try_from(map("counters")?).map_err(wrong)?,
            ports: BTreeMap::new(),
            queues: Vec::new(),
            interface: interface.clone(),
            mode,
            _hold: hold,
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

    /// Says who gets the packets to `port` that arrive on our queues from now on.
    ///
    /// # Errors
    ///
    /// The kernel's answer. `E2BIG`: the processes on this interface steer 16,384 ports already,
    /// counted once for each queue.
    pub fn set_port(&mut self, port: u16, owner: PortOwner) -> io::Result<()> {
        match owner {
            PortOwner::Kernel => self.ports.remove(&port),
            owner => self.ports.insert(port, owner),
        };
        for queue in self.queues.clone() {
            self.write(queue, port, owner)?;
        }
        Ok(())
    }

    fn write(&mut self, queue: u32, port: u16, owner: PortOwner) -> io::Result<()> {
        let key = port_key(queue, port);
        if owner != PortOwner::Kernel {
            let written = self.queue_ports.insert(key, owner as u8, 0);
            return written.map_err(io_error_of_map);
        }
        match self.queue_ports.remove(&key).map_err(io_error_of_map) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// Who gets the packets to `port` on our first queue. Another process may have changed that:
    /// see [`pause_others`](Self::pause_others).
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn port_owner(&self, port: u16) -> io::Result<PortOwner> {
        let Some(queue) = self.queues.first() else {
            return Ok(PortOwner::Kernel);
        };
        self.owner_of(port_key(*queue, port))
    }

    fn owner_of(&self, key: u32) -> io::Result<PortOwner> {
        match self.queue_ports.get(&key, 0) {
            Ok(value) => Ok(PortOwner::from_value(value)),
            Err(MapError::KeyNotFound) => Ok(PortOwner::Kernel),
            Err(error) => Err(io_error_of_map(error)),
        }
    }

    /// Whether a process that [`pause_others`](Self::pause_others) has paused still has
    /// connections to `port` that have begun and wait to be accepted. One that has died has not.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn awaits_relief(&self, port: u16) -> io::Result<bool> {
        for key in self.keys_of_others(port)? {
            if self.owner_of(key)? == PortOwner::LunaNoNewConnection
                && QueueLease::is_held(&self.interface.name, key >> 16)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Leaves new connections to `port` that arrive on other processes' queues to the kernel,
    /// whose listener all processes that serve the port share: for the start of a process that may
    /// be there to relieve another. One that goes on serving the port takes it back after a while.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn pause_others(&mut self, port: u16) -> io::Result<()> {
        for key in self.keys_of_others(port)? {
            if self.owner_of(key)?.is_paused() {
                continue;
            }
            let value = PortOwner::LunaNoNewConnection as u8;
            let paused = self.queue_ports.insert(key, value, BPF_EXIST);
            match paused.map_err(io_error_of_map) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// The entries for `port` of queues that are not ours.
    fn keys_of_others(&self, port: u16) -> io::Result<Vec<u32>> {
        let mut keys = self.keys()?;
        keys.retain(|key| {
            let queue = key >> 16;
            *key == port_key(queue, port) && !self.queues.contains(&queue)
        });
        Ok(keys)
    }

    fn keys(&self) -> io::Result<Vec<u32>> {
        // Others write to the map meanwhile, and its walk may begin anew: no more than fit.
        self.queue_ports
            .keys()
            .take(PORTS_MAX)
            .collect::<Result<_, _>>()
            .map_err(io_error_of_map)
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

    /// Brings what arrives on receive queue `queue` for our ports to the AF_XDP socket `socket`,
    /// which must be bound to that queue. What an earlier owner of the queue has left is wiped
    /// out. The entry goes when the socket is closed.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn register(&mut self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.wipe(queue)?;
        self.xsks_map
            .set(queue, socket.as_raw_fd(), 0)
            .map_err(io_error_of_map)?;
        if !self.queues.contains(&queue) {
            self.queues.push(queue);
        }
        for (port, owner) in self.ports.clone() {
            self.write(queue, port, owner)?;
        }
        Ok(())
    }

    /// Leaves what arrives on receive queue `queue` to the kernel.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn unregister(&mut self, queue: u32) -> io::Result<()> {
        self.queues.retain(|own| *own != queue);
        self.wipe(queue)?;
        self.xsks_map.unset(queue).map_err(io_error_of_map)
    }

    fn wipe(&mut self, queue: u32) -> io::Result<()> {
        for key in self.keys()?.into_iter().filter(|key| key >> 16 == queue) {
            self.write(queue, key as u16, PortOwner::Kernel)?;
        }
        Ok(())
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

/// The key of `queue_ports`.
const fn port_key(queue: u32, port: u16) -> u32 {
    queue << 16 | port as u32
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
