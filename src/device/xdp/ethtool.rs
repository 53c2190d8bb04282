//! One ethtool request: how many receive queues a driver has in use.

use std::os::fd::BorrowedFd;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

/// `SIOCETHTOOL` (linux/sockios.h) and `ETHTOOL_GCHANNELS` (linux/ethtool.h).
const SIOCETHTOOL: Opcode = 0x8946;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    rx_max: u32,
    tx_max: u32,
    other_max: u32,
    combined_max: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ifreq` as `SIOCETHTOOL` uses it; the union is 24 bytes long.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: *mut Channels,
    padding: [usize; 2],
}

struct GetChannels<'a> {
    request: Request,
    channels: &'a mut Channels,
}

// SAFETY: the opcode takes a pointer to a `struct ifreq` whose data pointer leads to a
// `struct ethtool_channels`; both are laid out as the kernel's and outlive the call.
unsafe impl Ioctl for GetChannels<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        SIOCETHTOOL
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        self.request.data = std::ptr::from_mut(self.channels);
        std::ptr::from_mut(&mut self.request).cast()
    }

    unsafe fn output_from_ptr(
        _: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<Self::Output> {
        Ok(())
    }
}

/// The receive queues in use; `None` if the driver does not tell.
pub(super) fn receive_channels(socket: BorrowedFd<'_>, interface: &str) -> Option<u32> {
    let mut name = [0; libc::IFNAMSIZ];
    name.get_mut(..interface.len())?
        .copy_from_slice(interface.as_bytes());
    if name[libc::IFNAMSIZ - 1] != 0 {
        return None;
    }
    let mut channels = Channels {
        command: ETHTOOL_GCHANNELS,
        ..Channels::default()
    };
    let request = Request {
        name,
        data: std::ptr::null_mut(),
        padding: [0; 2],
    };
    let call = GetChannels {
        request,
        channels: &mut channels,
    };
    // SAFETY: `GetChannels` describes this request truly (see its `unsafe impl`).
    unsafe { ioctl(socket, call) }.ok()?;
    Some(channels.rx.saturating_add(channels.combined)).filter(|count| *count > 0)
}
