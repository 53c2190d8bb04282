//! Questions about luna itself.

use core::ffi::{CStr, c_char, c_int, c_void};
use std::ffi::CString;

use once_cell::race::OnceBox;

use super::macros::entry;
use crate::logging;
use crate::socket::description::{self, Kind};
use crate::socket::reason::Reason;
use crate::socket::{addr, policy, runtime, table};
use crate::sys::{Errno, SOCKADDR_BYTES_MAX};

/// What `luna_fd_info` tells of a descriptor.
///
/// `size` says which fields there are: set it to `sizeof(struct luna_fd_info)` before the call;
/// after it, it is the size of what the library knows, and only the fields in both are filled.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types, reason = "a C name")]
pub struct luna_fd_info {
    /// Size of this struct in bytes.
    pub size: u32,
    /// One of `LUNA_FD_…`.
    pub kind: u32,
    /// Why a socket is on the kernel: a number that stands for `reason_text`.
    pub reason: u32,
    /// The shard of a stream, −1 otherwise.
    pub shard: i32,
    /// How many descriptors share the open file description.
    pub descriptors: u32,
    /// Valid bytes of `local`.
    pub local_len: u32,
    /// Valid bytes of `peer`.
    pub peer_len: u32,
    /// Zero.
    pub reserved: u32,
    /// The reason in words, a string that lives as long as the library.
    pub reason_text: *const c_char,
    /// Our end (a `struct sockaddr_in` or `sockaddr_in6`), of a listener or stream.
    pub local: [u8; LUNA_ADDRESS_BYTES],
    /// The peer's end, of a stream.
    pub peer: [u8; LUNA_ADDRESS_BYTES],
    /// Bytes of packet memory (whole buffers) that the application holds of what has arrived on
    /// a stream: its receive window is smaller by so much.
    pub lent_bytes: u64,
}

/// Room for any socket address: `sizeof(struct sockaddr_storage)`.
pub const LUNA_ADDRESS_BYTES: usize = 128;

const _: () = assert!(LUNA_ADDRESS_BYTES == SOCKADDR_BYTES_MAX);

/// Not a descriptor that luna tracks.
pub const LUNA_FD_FOREIGN: u32 = 0;
/// A TCP socket on the kernel that may yet become luna's.
pub const LUNA_FD_PROVISIONAL: u32 = 1;
/// A TCP socket on the kernel, for a reason.
pub const LUNA_FD_KERNEL: u32 = 2;
/// A listener on the stack and the kernel.
pub const LUNA_FD_LISTENER: u32 = 3;
/// A connection on the stack.
pub const LUNA_FD_STREAM: u32 = 4;
/// A connection of the parent process, of no use after `fork`.
pub const LUNA_FD_DEAD: u32 = 5;
/// An epoll set.
pub const LUNA_FD_EPOLL: u32 = 6;

/// A function that gets the lines that would go to stderr: `userdata`, a `syslog` level, and the
/// line without a newline, valid for the call only.
pub type LunaLogCallback =
    Option<unsafe extern "C" fn(userdata: *mut c_void, level: c_int, line: *const c_char)>;

/// The version of the library, such as `0.1.0`.
///
/// # Safety
///
/// None. The string lives as long as the library.
///
/// # Errors
///
/// None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => c"",
        };
    VERSION.as_ptr()
}

/// 1 if a device is configured and luna is not disabled in this process; 2 if the stack runs.
///
/// # Safety
///
/// None.
///
/// # Errors
///
/// None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_active() -> c_int {
    if runtime::shards() > 0 {
        2
    } else {
        c_int::from(policy::get().is_wanted)
    }
}

/// Whether luna must see calls on a descriptor: 0, it is not ours; 1, calls are served by the
/// stack; 2, a kernel socket that luna keeps track of.
///
/// # Safety
///
/// None: any number is fine. Leaves `errno` alone.
///
/// # Errors
///
/// None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_fd_owned(fd: c_int) -> c_int {
    if table::lookup(fd).is_none() {
        return 0;
    }
    match description::pin_fd(fd).map(|pin| pin.kind()) {
        None => 0,
        Some(Kind::Provisional | Kind::Kernel) => 2,
        Some(Kind::Listener | Kind::Stream | Kind::Dead | Kind::Epoll) => 1,
    }
}

/// Describes a descriptor.
///
/// # Safety
///
/// `info` must point to a struct of which `size` tells the size.
///
/// # Errors
///
/// `EBADF` if `fd` is not open, `EFAULT` if `info` is null, `EINVAL` if `size` is too small to
/// hold the first four fields.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_fd_info(fd: c_int, info: *mut luna_fd_info) -> c_int {
    entry!({
        if info.is_null() {
            return Err(Errno::FAULT);
        }
        // SAFETY: not null; the caller vouches that at least `size` can be read.
        let room = unsafe { (&raw const (*info).size).read() } as usize;
        if room < 16 {
            return Err(Errno::INVAL);
        }
        crate::sys::descriptor_flags(fd)?;
        let told = describe(fd);
        let len = room.min(size_of::<luna_fd_info>());
        // SAFETY: the caller vouches for `room` bytes, and the source has at least `len`.
        unsafe {
            core::ptr::copy_nonoverlapping(
                core::ptr::from_ref(&told).cast::<u8>(),
                info.cast::<u8>(),
                len,
            );
        }
        Ok(0)
    })
}

fn describe(fd: c_int) -> luna_fd_info {
    let mut told = luna_fd_info {
        size: size_of::<luna_fd_info>() as u32,
        kind: LUNA_FD_FOREIGN,
        reason: 0,
        shard: -1,
        descriptors: 0,
        local_len: 0,
        peer_len: 0,
        reserved: 0,
        reason_text: c"".as_ptr(),
        local: [0; LUNA_ADDRESS_BYTES],
        peer: [0; LUNA_ADDRESS_BYTES],
        lent_bytes: 0,
    };
    let Some(pin) = description::pin_fd(fd) else {
        return told;
    };
    told.kind = match pin.kind() {
        Kind::Provisional => LUNA_FD_PROVISIONAL,
        Kind::Kernel => LUNA_FD_KERNEL,
        Kind::Listener => LUNA_FD_LISTENER,
        Kind::Stream => LUNA_FD_STREAM,
        Kind::Dead => LUNA_FD_DEAD,
        Kind::Epoll => LUNA_FD_EPOLL,
    };
    let reason = pin.reason();
    told.reason = u32::from(reason as u8);
    told.reason_text = reason_text(reason);
    told.descriptors = pin.descriptors();
    if let Some(name) = pin.stream() {
        told.shard = i32::try_from(name.shard).unwrap_or(-1);
        let lent = runtime::with_shard(name.shard, |shard| shard.lent_bytes(name.conn));
        told.lent_bytes = lent.unwrap_or(0).into();
    }
    let (local, peer, family) = {
        let cell = pin.socket.lock();
        (cell.local, cell.remote, cell.family)
    };
    let fill = |place: &mut [u8; LUNA_ADDRESS_BYTES], address| {
        let encoded = addr::encode(address, family);
        for (to, from) in place.iter_mut().zip(&encoded) {
            *to = *from;
        }
        encoded.len() as u32
    };
    if let Some(local) = local {
        told.local_len = fill(&mut told.local, local);
    }
    if let Some(peer) = peer {
        told.peer_len = fill(&mut told.peer, peer);
    }
    told
}

/// The names of all reasons as C strings, made once.
fn reason_text(reason: Reason) -> *const c_char {
    static TEXTS: OnceBox<Vec<CString>> = OnceBox::new();
    let texts = TEXTS.get_or_init(|| {
        let names = Reason::ALL.iter();
        Box::new(
            names
                .map(|reason| CString::new(reason.name()).unwrap_or_default())
                .collect(),
        )
    });
    let at = Reason::ALL.iter().position(|&other| other == reason);
    at.and_then(|at| texts.get(at))
        .map_or(c"".as_ptr(), |text| text.as_ptr())
}

/// Sends luna's messages to `callback` instead of stderr; a null callback: to stderr again.
///
/// # Safety
///
/// `callback` must be callable from any thread, with `userdata`, until it is replaced.
///
/// # Errors
///
/// None: always 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_set_log_callback(
    callback: LunaLogCallback,
    userdata: *mut c_void,
) -> c_int {
    // As a number: it is only handed back, from whatever thread.
    let userdata = userdata as usize;
    logging::set_callback(callback.map(|callback| {
        Box::new(move |level: log::Level, line: &str| {
            let Ok(line) = CString::new(line) else { return };
            // SAFETY: whoever set the callback vouches for it and its argument; the line is a C
            // string that outlives the call.
            unsafe { callback(userdata as *mut c_void, syslog_level(level), line.as_ptr()) };
        }) as logging::Callback
    }));
    0
}

const fn syslog_level(level: log::Level) -> c_int {
    match level {
        log::Level::Error => libc::LOG_ERR,
        log::Level::Warn => libc::LOG_WARNING,
        log::Level::Info => libc::LOG_INFO,
        log::Level::Debug | log::Level::Trace => libc::LOG_DEBUG,
    }
}
