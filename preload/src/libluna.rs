//! `libluna.so` as seen from here: a table of C functions, filled once before `main`.
//!
//! Owns finding and opening the library, and the questions "is luna active" and "whose descriptor
//! is this". It does not know the hooks.

use core::ffi::CStr;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicI32, AtomicPtr, Ordering};
use std::sync::OnceLock;

use libc::{
    c_char, c_int, c_long, c_void, epoll_event, fd_set, iovec, mmsghdr, msghdr, nfds_t, off_t,
    pollfd, sigset_t, size_t, sockaddr, socklen_t, ssize_t, timespec, timeval,
};

use crate::hook::{self, Failure};

/// Declares the table and the function that fills it. A missing `required` name makes the library
/// unusable; a missing `optional` one has a substitute in its hook.
macro_rules! table {
    (
        required { $($name:ident: fn($($ty:ty),*) -> $ret:ty;)* }
        optional { $($opt:ident: fn($($oty:ty),*) -> $oret:ty;)* }
    ) => {
        /// The functions of `libluna.so`, each `luna_` and the name of the call it stands for.
        pub(crate) struct Libluna {
            $(pub(crate) $name: unsafe extern "C" fn($($ty),*) -> $ret,)*
            $(pub(crate) $opt: Option<unsafe extern "C" fn($($oty),*) -> $oret>,)*
        }

        impl Libluna {
            /// Looks every function up; the error names the first that is missing.
            fn load(library: *mut c_void) -> Result<Self, &'static CStr> {
                Ok(Self {
                    $($name: {
                        let symbol = c_name(concat!("luna_", stringify!($name), "\0"));
                        let found = lookup(library, symbol);
                        if found.is_null() {
                            return Err(symbol);
                        }
                        // SAFETY: libluna.so exports this name with this signature (luna.h).
                        unsafe {
                            core::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($ty),*) -> $ret,
                            >(found)
                        }
                    },)*
                    $($opt: {
                        let symbol = c_name(concat!("luna_", stringify!($opt), "\0"));
                        // SAFETY: as above; a null pointer is `None`.
                        unsafe {
                            core::mem::transmute::<
                                *mut c_void,
                                Option<unsafe extern "C" fn($($oty),*) -> $oret>,
                            >(lookup(library, symbol))
                        }
                    },)*
                })
            }
        }
    };
}

table! {
    required {
        fd_owned: fn(c_int) -> c_int;
        socket: fn(c_int, c_int, c_int) -> c_int;
        bind: fn(c_int, *const sockaddr, socklen_t) -> c_int;
        listen: fn(c_int, c_int) -> c_int;
        accept: fn(c_int, *mut sockaddr, *mut socklen_t) -> c_int;
        accept4: fn(c_int, *mut sockaddr, *mut socklen_t, c_int) -> c_int;
        connect: fn(c_int, *const sockaddr, socklen_t) -> c_int;
        shutdown: fn(c_int, c_int) -> c_int;
        close: fn(c_int) -> c_int;
        getsockname: fn(c_int, *mut sockaddr, *mut socklen_t) -> c_int;
        getpeername: fn(c_int, *mut sockaddr, *mut socklen_t) -> c_int;
        getsockopt: fn(c_int, c_int, c_int, *mut c_void, *mut socklen_t) -> c_int;
        setsockopt: fn(c_int, c_int, c_int, *const c_void, socklen_t) -> c_int;
        read: fn(c_int, *mut c_void, size_t) -> ssize_t;
        write: fn(c_int, *const c_void, size_t) -> ssize_t;
        readv: fn(c_int, *const iovec, c_int) -> ssize_t;
        writev: fn(c_int, *const iovec, c_int) -> ssize_t;
        recv: fn(c_int, *mut c_void, size_t, c_int) -> ssize_t;
        recvfrom: fn(c_int, *mut c_void, size_t, c_int, *mut sockaddr, *mut socklen_t) -> ssize_t;
        recvmsg: fn(c_int, *mut msghdr, c_int) -> ssize_t;
        send: fn(c_int, *const c_void, size_t, c_int) -> ssize_t;
        sendto: fn(c_int, *const c_void, size_t, c_int, *const sockaddr, socklen_t) -> ssize_t;
        sendmsg: fn(c_int, *const msghdr, c_int) -> ssize_t;
        fcntl: fn(c_int, c_int, c_long) -> c_int;
        ioctl: fn(c_int, libc::c_ulong, c_long) -> c_int;
        epoll_create1: fn(c_int) -> c_int;
        epoll_ctl: fn(c_int, c_int, c_int, *mut epoll_event) -> c_int;
        epoll_wait: fn(c_int, *mut epoll_event, c_int, c_int) -> c_int;
        epoll_pwait: fn(c_int, *mut epoll_event, c_int, c_int, *const sigset_t) -> c_int;
        poll: fn(*mut pollfd, nfds_t, c_int) -> c_int;
        ppoll: fn(*mut pollfd, nfds_t, *const timespec, *const sigset_t) -> c_int;
        select: fn(c_int, *mut fd_set, *mut fd_set, *mut fd_set, *mut timeval) -> c_int;
        pselect: fn(c_int, *mut fd_set, *mut fd_set, *mut fd_set, *const timespec, *const sigset_t)
            -> c_int;
        dup: fn(c_int) -> c_int;
        dup2: fn(c_int, c_int) -> c_int;
        dup3: fn(c_int, c_int, c_int) -> c_int;
    }
    optional {
        fd_internal: fn(c_int) -> c_int;
        fd_next: fn(c_int) -> c_int;
        prepare: fn() -> c_int;
        epoll_create: fn(c_int) -> c_int;
        epoll_pwait2: fn(c_int, *mut epoll_event, c_int, *const timespec, *const sigset_t) -> c_int;
        sendfile: fn(c_int, c_int, *mut off_t, size_t) -> ssize_t;
        sendmmsg: fn(c_int, *mut mmsghdr, libc::c_uint, c_int) -> c_int;
        recvmmsg: fn(c_int, *mut mmsghdr, libc::c_uint, c_int, *mut timespec) -> c_int;
        preadv2: fn(c_int, *const iovec, c_int, off_t, c_int) -> ssize_t;
        pwritev2: fn(c_int, *const iovec, c_int, off_t, c_int) -> ssize_t;
    }
}

impl Libluna {
    /// Whether the descriptor stands for something of luna's.
    #[inline]
    pub(crate) fn owns(&self, fd: c_int) -> bool {
        // SAFETY: any number is a valid argument; leaves errno alone.
        fd >= 0 && unsafe { (self.fd_owned)(fd) } != 0
    }

    /// Whether calls on the descriptor are served by luna: not so for a kernel socket that it only
    /// keeps track of.
    #[inline]
    pub(crate) fn serves(&self, fd: c_int) -> bool {
        // SAFETY: as above.
        fd >= 0 && unsafe { (self.fd_owned)(fd) } == 1
    }

    /// Whether the descriptor is one that libluna keeps for itself, which the program does not
    /// know and must not close.
    #[inline]
    pub(crate) fn is_internal(&self, fd: c_int) -> bool {
        // SAFETY: any number is a valid argument; leaves errno alone.
        fd >= 0
            && self
                .fd_internal
                .is_some_and(|call| unsafe { call(fd) } != 0)
    }

    /// A call on a descriptor: `None` if it is not ours. From inside luna only a signal handler
    /// can get here with one that is; the lock it needs may be held by the code that it
    /// interrupted, so it is told to try again.
    #[inline]
    pub(crate) fn on<R: Failure>(&self, fd: c_int, call: impl FnOnce() -> R) -> Option<R> {
        if !self.owns(fd) {
            return None;
        }
        if hook::is_inside() {
            return Some(hook::fail(libc::EAGAIN));
        }
        Some(hook::inside(call))
    }

    /// As [`on`](Self::on), for a call that may block.
    #[inline]
    pub(crate) fn on_blocking<R: Failure>(&self, fd: c_int, call: impl FnOnce() -> R) -> Option<R> {
        if !self.owns(fd) {
            return None;
        }
        if hook::is_inside() {
            return Some(hook::fail(libc::EAGAIN));
        }
        Some(hook::inside_blocking(call))
    }

    /// Whether a call that makes, moves or closes descriptors may be luna's now. Not from inside
    /// luna, and not in a child that no fork handler has seen: one of `vfork` shares our memory,
    /// and what it does to its descriptors must not change ours.
    pub(crate) fn may_change_descriptors(&self) -> bool {
        // SAFETY: takes nothing.
        !hook::is_inside() && unsafe { libc::getpid() } == PROCESS.load(Ordering::Relaxed)
    }
}

static ACTIVE: AtomicPtr<Libluna> = AtomicPtr::new(core::ptr::null_mut());
static TABLE: OnceLock<Libluna> = OnceLock::new();
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// The table, if luna is active in this process.
#[inline(always)]
pub(crate) fn active() -> Option<&'static Libluna> {
    let table = ACTIVE.load(Ordering::Acquire);
    // SAFETY: null, or the address of `TABLE`'s value, which is never moved or dropped.
    unsafe { table.as_ref() }
}

/// Whether the environment asks for luna in this process.
pub(crate) fn is_wanted() -> bool {
    let configured = variable(c"LUNA_DEV").is_some() || variable(c"LUNA_CONFIG").is_some();
    configured && !variable(c"LUNA_DISABLE").is_some_and(is_true)
}

/// Whether programs may use `io_uring`, whose calls no hook sees.
pub(crate) fn is_io_uring_allowed() -> bool {
    variable(c"LUNA_IO_URING").is_some_and(is_true)
}

/// The value of an environment variable that is set and not empty.
fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: read in the constructor (or from one thread's system call): the value lives until
    // somebody changes the environment.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: not null, so a C string.
    let value = unsafe { CStr::from_ptr(value) };
    (!value.is_empty()).then_some(value)
}

/// The spellings of "no" are those of the configuration; all else is "yes".
fn is_true(value: &CStr) -> bool {
    let no: [&[u8]; 4] = [b"0", b"no", b"off", b"false"];
    !no.iter()
        .any(|word| value.to_bytes().eq_ignore_ascii_case(word))
}

/// Opens the library beside this one and makes luna active. On failure: one line, and every call
/// stays with the kernel (or, with `LUNA_STRICT`, the program does not start).
pub(crate) fn open() {
    let mut path = Line::new();
    let result = beside_ourselves(&mut path).and_then(|()| {
        // SAFETY: a C string; RTLD_LOCAL keeps libluna's symbols out of the program's way.
        let library = unsafe { libc::dlopen(path.as_c_str(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            Err(linker_error())
        } else {
            Ok(library)
        }
    });
    let problem = match result.map(Libluna::load) {
        Ok(Ok(table)) => return activate(table),
        Ok(Err(symbol)) => symbol,
        Err(message) => message,
    };
    let mut line = Line::new();
    let _ = writeln!(
        line,
        "luna: all sockets stay on the kernel: {} is not usable: {}",
        path.text(),
        problem.to_string_lossy(),
    );
    line.print();
    if variable(c"LUNA_STRICT").is_some_and(is_true) {
        // SAFETY: ends the process before `main`.
        unsafe { libc::_exit(1) };
    }
}

fn activate(table: Libluna) {
    // SAFETY: getpid takes nothing; the handler is a function of this library, which is never
    // unloaded.
    unsafe {
        PROCESS.store(libc::getpid(), Ordering::Relaxed);
        libc::pthread_atfork(None, None, Some(after_fork_in_child));
    }
    let table: &'static Libluna = TABLE.get_or_init(|| table);
    ACTIVE.store(core::ptr::from_ref(table).cast_mut(), Ordering::Release);
}

unsafe extern "C" fn after_fork_in_child() {
    // SAFETY: takes nothing.
    PROCESS.store(unsafe { libc::getpid() }, Ordering::Relaxed);
}

/// Writes the path of `libluna.so` in this library's own directory.
fn beside_ourselves(path: &mut Line) -> Result<(), &'static CStr> {
    // SAFETY: an all-zero Dl_info is a valid one.
    let mut own: libc::Dl_info = unsafe { core::mem::zeroed() };
    let address = open as fn() as *const c_void;
    // SAFETY: an address of this library and a place for the answer.
    if unsafe { libc::dladdr(address, &mut own) } == 0 || own.dli_fname.is_null() {
        return Err(c"the path of the preload library is unknown");
    }
    // SAFETY: dladdr gave a C string.
    let file = unsafe { CStr::from_ptr(own.dli_fname) }.to_bytes();
    let directory = file
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |slash| slash + 1);
    path.push(file.get(..directory).unwrap_or_default());
    path.push(b"libluna.so");
    if path.is_full() {
        Err(c"the path is too long")
    } else {
        Ok(())
    }
}

fn linker_error() -> &'static CStr {
    // SAFETY: the message lives until this thread's next call to the dynamic linker.
    let message = unsafe { libc::dlerror() };
    if message.is_null() {
        return c"unknown error";
    }
    // SAFETY: not null, so a C string.
    unsafe { CStr::from_ptr(message) }
}

fn lookup(library: *mut c_void, symbol: &CStr) -> *mut c_void {
    // SAFETY: a handle from dlopen and a C string.
    unsafe { libc::dlsym(library, symbol.as_ptr()) }
}

fn c_name(name: &'static str) -> &'static CStr {
    CStr::from_bytes_with_nul(name.as_bytes()).unwrap_or_default()
}

/// Text without an allocator, cut at its end. The last byte stays zero.
struct Line {
    bytes: [u8; 4096],
    len: usize,
}

impl Line {
    const fn new() -> Self {
        Self {
            bytes: [0; 4096],
            len: 0,
        }
    }

    fn push(&mut self, text: &[u8]) {
        for &byte in text {
            if self.is_full() {
                return;
            }
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
    }

    const fn is_full(&self) -> bool {
        self.len + 1 >= self.bytes.len()
    }

    const fn as_c_str(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }

    fn text(&self) -> &str {
        core::str::from_utf8(self.bytes.get(..self.len).unwrap_or_default()).unwrap_or("?")
    }

    fn print(&self) {
        // SAFETY: initialised bytes; if stderr is closed there is nobody to tell.
        unsafe { crate::io_calls::real::write(2, self.bytes.as_ptr().cast(), self.len) };
    }
}

impl core::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}
