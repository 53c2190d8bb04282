//! The inline event loop (LUNA §5.1, inline-r2c): callbacks per packet.

use core::ffi::{c_int, c_void};

use libc::{sockaddr, socklen_t, ssize_t};

use super::loop_calls::{C, Function, Watcher};
use super::macros::entry;
use super::memory;
use super::zio::{SEND_FLAGS, luna_zcompletion, luna_ziov, with_pieces};
use crate::socket::event_loop::{Loop, Options};
use crate::socket::zero_copy::Piece;
use crate::sys::Errno;
use crate::time::Duration;

/// An event loop that owns a shard while it runs.
#[allow(non_camel_case_types, reason = "a C name")]
#[derive(Debug)]
pub struct luna_loop {
    inner: Loop<C>,
}

/// # Safety
///
/// `at` is null or came from `luna_loop_create`, and has not been destroyed.
unsafe fn loop_at<'a>(at: *mut luna_loop) -> Result<&'a Loop<C>, Errno> {
    // SAFETY: the caller's contract.
    let found = unsafe { at.as_ref() }.ok_or(Errno::FAULT)?;
    Ok(&found.inner)
}

/// # Safety
///
/// `at` is null or points to a table of which `size` tells the size, for as long as `C` is used.
unsafe fn callbacks_at(at: *const luna_loop_callbacks) -> Result<C, Errno> {
    if at.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: not null, and the caller vouches for the size.
    let size = unsafe { (&raw const (*at).size).read() } as usize;
    if size < size_of::<luna_loop_callbacks>() {
        return Err(Errno::INVAL);
    }
    Ok(C::new(at))
}

/// # Safety
///
/// `at` is null or points to a handle.
unsafe fn store(at: *mut u64, handle: u64) {
    // SAFETY: the caller's contract.
    if let Some(place) = unsafe { at.as_mut() } {
        *place = handle;
    }
}

/// How a loop is to be. Zero is the default of everything but `size`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types, reason = "a C name")]
pub struct luna_loop_options {
    /// `sizeof(struct luna_loop_options)`.
    pub size: u32,
    /// `LUNA_LOOP_…`, or-ed.
    pub flags: u32,
    /// Which shard to own, counted from 1; 0: the next that no loop owns.
    pub shard: u32,
    /// 0.
    pub reserved: u32,
}

/// Never sleep, whatever `LUNA_BUSY` says.
pub const LUNA_LOOP_BUSY: u32 = 1;

/// What a loop calls. Each may be null. The table must outlive what it was given for.
///
/// Callbacks run on the thread that is in `luna_loop_run` or `luna_loop_turn`, one at a time,
/// inside the stack: right after the packet that they are about, before the next is looked at.
/// They may call every function of this library that does not wait; one that would wait gives
/// `EBUSY`, as do `luna_loop_run`, `luna_loop_turn` and `luna_loop_destroy`. They must not
/// `longjmp` out, nor let C++ exceptions out. While one runs, nothing else of the shard does: a
/// long one delays its other connections, and breaks none.
///
/// `conn` is the connection's handle: never 0, never reused, so that a stale one is told apart.
/// `user` is the pointer that belongs to it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types, reason = "a C name")]
pub struct luna_loop_callbacks {
    /// `sizeof(struct luna_loop_callbacks)`.
    pub size: u32,
    /// 0.
    pub reserved: u32,
    /// A listener has a new connection, which shares the listener's callbacks. Returns the
    /// pointer that belongs to it. May close it.
    pub accepted: Option<
        unsafe extern "C" fn(
            loop_: *mut luna_loop,
            listener: u64,
            user: *mut c_void,
            conn: u64,
        ) -> *mut c_void,
    >,
    /// How `luna_loop_connect` ended: 0, or an errno; then the handle is stale, and there is no
    /// `closed`.
    pub connected: Option<
        unsafe extern "C" fn(loop_: *mut luna_loop, conn: u64, user: *mut c_void, error: c_int),
    >,
    /// Bytes have arrived, in order. They are lent for the time of the call: they may be read,
    /// sent (`luna_loop_send`, on any connection), and kept by `luna_zbuf_ref`, which makes
    /// `luna_zbuf_free` the callee's duty. No elements: the peer has finished sending.
    pub readable: Option<
        unsafe extern "C" fn(
            loop_: *mut luna_loop,
            conn: u64,
            user: *mut c_void,
            iov: *const luna_ziov,
            iovcnt: c_int,
        ),
    >,
    /// There is room again after a send that did not take everything.
    pub writable: Option<unsafe extern "C" fn(loop_: *mut luna_loop, conn: u64, user: *mut c_void)>,
    /// What was sent with tokens has been acknowledged, or never will be. Comes once for each
    /// token, also after `luna_loop_close` and after `closed`; then `conn` is stale, and `user`
    /// is what it was.
    pub completed: Option<
        unsafe extern "C" fn(
            loop_: *mut luna_loop,
            conn: u64,
            user: *mut c_void,
            completions: *const luna_zcompletion,
            count: c_int,
        ),
    >,
    /// The connection is over, not by `luna_loop_close`: 0 in good order, otherwise an errno.
    /// The handle is stale when it returns.
    pub closed: Option<
        unsafe extern "C" fn(loop_: *mut luna_loop, conn: u64, user: *mut c_void, error: c_int),
    >,
}

/// A function to run on the loop's thread.
pub type LunaLoopFunction = Option<unsafe extern "C" fn(loop_: *mut luna_loop, user: *mut c_void)>;

/// A function for when a descriptor is ready: `events` are those of `epoll(7)`.
pub type LunaLoopWatcher =
    Option<unsafe extern "C" fn(loop_: *mut luna_loop, fd: c_int, events: u32, user: *mut c_void)>;

/// Makes a loop. Starts the stack if `LUNA_DEV` is set; where there is none, the loop works all
/// the same, on kernel sockets, and copies. Where its shard has a loop already, or threads of its
/// own (`LUNA_MODE=dedicated`), it serves that shard's connections over descriptors.
///
/// `options` may be null.
///
/// # Safety
///
/// `options` is null or points to a struct of which `size` tells the size.
///
/// # Errors
///
/// Null, and `EINVAL` for options and shards that there are not, `EMFILE`, `ENOMEM`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_create(options: *const luna_loop_options) -> *mut luna_loop {
    entry!({
        let mut wanted = Options::default();
        // SAFETY: the caller's contract.
        if let Some(options) = unsafe { options.as_ref() } {
            if (options.size as usize) < size_of::<luna_loop_options>()
                || options.flags & !LUNA_LOOP_BUSY != 0
                || options.reserved != 0
            {
                return Err(Errno::INVAL);
            }
            wanted.busy = options.flags & LUNA_LOOP_BUSY != 0;
            wanted.shard = (options.shard as usize).checked_sub(1);
        }
        let inner = Loop::new(wanted)?;
        let made = Box::into_raw(Box::new(luna_loop { inner }));
        // SAFETY: just made.
        unsafe { &*made }.inner.set_context(made as usize);
        Ok(made)
    })
}

/// Ends a loop: resets its connections, closes its listeners, and frees it. Completions come
/// during the call.
///
/// # Safety
///
/// `loop_` came from `luna_loop_create`, and is not used again.
///
/// # Errors
///
/// `EBUSY` while it runs; it goes on then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_destroy(loop_: *mut luna_loop) -> c_int {
    entry!({
        // SAFETY: the caller's contract.
        unsafe { loop_at(loop_) }?.shut()?;
        // SAFETY: made by `Box::into_raw`; the caller gives it up, and it does not run.
        drop(unsafe { Box::from_raw(loop_) });
        Ok(0)
    })
}

/// Runs until `luna_loop_stop`. The calling thread owns the loop, and its shard, meanwhile.
///
/// # Safety
///
/// `loop_` came from `luna_loop_create`.
///
/// # Errors
///
/// `EBUSY` if it runs already; `EINTR` never: signal handlers run, and it goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_run(loop_: *mut luna_loop) -> c_int {
    entry!({
        // SAFETY: the caller's contract.
        unsafe { loop_at(loop_) }?.run().map(|()| 0)
    })
}

/// Runs one round, waiting for at most `timeout` milliseconds (−1: as long as it takes) for
/// something to do. Returns 1 if there was something, 0 if not.
///
/// # Safety
///
/// As for `luna_loop_run`.
///
/// # Errors
///
/// `EBUSY` if it runs already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_turn(loop_: *mut luna_loop, timeout: c_int) -> c_int {
    entry!({
        let patience = u64::try_from(timeout).ok().map(Duration::from_millis);
        // SAFETY: the caller's contract.
        unsafe { loop_at(loop_) }?.turn(patience).map(c_int::from)
    })
}

/// Makes `luna_loop_run` return, now or, if it has not begun, as soon as it does. Any thread;
/// also from a signal handler.
///
/// # Safety
///
/// As for `luna_loop_run`.
///
/// # Errors
///
/// None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_stop(loop_: *mut luna_loop) -> c_int {
    entry!({
        // SAFETY: the caller's contract.
        unsafe { loop_at(loop_) }?.stop();
        Ok(0)
    })
}

/// Runs a function on the loop's thread, soon; in the order of the calls. Any thread. What is
/// left when the loop is destroyed runs then.
///
/// # Safety
///
/// `function` must be callable with `user` from the loop's thread.
///
/// # Errors
///
/// `EINVAL` if `function` is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_post(
    loop_: *mut luna_loop,
    function: LunaLoopFunction,
    user: *mut c_void,
) -> c_int {
    entry!({
        let task = Function::new(function, user).ok_or(Errno::INVAL)?;
        // SAFETY: the caller's contract.
        unsafe { loop_at(loop_) }?.post(task.into());
        Ok(0)
    })
}

/// Listens on an address, on the stack if its port is one of `LUNA_LISTEN`'s, and in any case on
/// the kernel. Connections have `TCP_NODELAY` set. `listener` gets the handle.
///
/// # Safety
///
/// As for `bind(2)`; `callbacks` is as its type says; `listener` may be null.
///
/// # Errors
///
/// Those of `socket(2)`, `bind(2)` and `listen(2)`; `EBUSY` if another thread runs the loop.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_listen(
    loop_: *mut luna_loop,
    addr: *const sockaddr,
    addrlen: socklen_t,
    backlog: c_int,
    callbacks: *const luna_loop_callbacks,
    user: *mut c_void,
    listener: *mut u64,
) -> c_int {
    entry!({
        // SAFETY: the caller's contract, here and below.
        let (at, callbacks) = unsafe { (loop_at(loop_)?, callbacks_at(callbacks)?) };
        // SAFETY: as above.
        let address = unsafe { memory::address(addr, addrlen) }?;
        let handle = at.listen(address, backlog, callbacks, user as usize)?;
        // SAFETY: as above.
        unsafe { store(listener, handle) };
        Ok(0)
    })
}

/// Connects to an address, over the stack if it is one of `LUNA_CONNECT`'s. `conn` gets the
/// handle; `connected` tells how it ended, never before this call returns.
///
/// # Safety
///
/// As for `connect(2)`; `callbacks` is as its type says; `conn` may be null.
///
/// # Errors
///
/// Those of `socket(2)` and `connect(2)` that are known at once; `EBUSY` as for
/// `luna_loop_listen`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_connect(
    loop_: *mut luna_loop,
    addr: *const sockaddr,
    addrlen: socklen_t,
    callbacks: *const luna_loop_callbacks,
    user: *mut c_void,
    conn: *mut u64,
) -> c_int {
    entry!({
        // SAFETY: the caller's contract, here and below.
        let (at, callbacks) = unsafe { (loop_at(loop_)?, callbacks_at(callbacks)?) };
        // SAFETY: as above.
        let address = unsafe { memory::address(addr, addrlen) }?;
        let handle = at.connect(address, callbacks, user as usize)?;
        // SAFETY: as above.
        unsafe { store(conn, handle) };
        Ok(0)
    })
}

/// Sends without copying, as `luna_zwritev` does; never waits. What was not taken: try again
/// when `writable` comes. The reply to a packet leaves before the next packet is looked at, or,
/// outside of callbacks, at the next round.
///
/// # Safety
///
/// As for `luna_zwritev`.
///
/// # Errors
///
/// Those of `luna_zwritev`; `EBADF` for a stale handle; `EAGAIN` if there is no room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_send(
    loop_: *mut luna_loop,
    conn: u64,
    iov: *const luna_ziov,
    iovcnt: c_int,
    flags: c_int,
) -> ssize_t {
    entry!({
        if flags & !SEND_FLAGS != 0 {
            return Err(Errno::INVAL);
        }
        // SAFETY: the caller's contract.
        let at = unsafe { loop_at(loop_) }?;
        // SAFETY: the caller's contract.
        let sent = unsafe { with_pieces(iov, iovcnt, |pieces| at.send(conn, pieces, flags)) }?;
        ssize_t::try_from(sent).map_err(|_| Errno::INVAL)
    })
}

/// Sends from ordinary memory, by copying; otherwise as `luna_loop_send`.
///
/// # Safety
///
/// `buf` must have `len` readable bytes.
///
/// # Errors
///
/// As `luna_loop_send`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_write(
    loop_: *mut luna_loop,
    conn: u64,
    buf: *const c_void,
    len: usize,
    flags: c_int,
) -> ssize_t {
    entry!({
        if flags & !SEND_FLAGS != 0 {
            return Err(Errno::INVAL);
        }
        // SAFETY: the caller's contract.
        let (at, bytes) = unsafe { (loop_at(loop_)?, memory::bytes(buf, len)?) };
        let sent = at.send(conn, &[Piece { bytes, token: 0 }], flags)?;
        ssize_t::try_from(sent).map_err(|_| Errno::INVAL)
    })
}

/// Sends FIN after what was sent; reading goes on.
///
/// # Safety
///
/// As for `luna_loop_run`.
///
/// # Errors
///
/// `EBADF` for a stale handle, `ENOTCONN` if the connection is over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_shutdown(loop_: *mut luna_loop, conn: u64) -> c_int {
    entry!({
        // SAFETY: the caller's contract.
        unsafe { loop_at(loop_) }?.shutdown(conn).map(|()| 0)
    })
}

/// Closes a connection or a listener: what was sent is still delivered, unless `abort` is not
/// 0, which resets. The handle is stale at once; nothing but `completed` is called for it.
///
/// # Safety
///
/// As for `luna_loop_run`.
///
/// # Errors
///
/// `EBADF` for a stale handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_close(
    loop_: *mut luna_loop,
    handle: u64,
    abort: c_int,
) -> c_int {
    entry!({
        // SAFETY: the caller's contract.
        unsafe { loop_at(loop_) }?
            .close(handle, abort != 0)
            .map(|()| 0)
    })
}

/// Stops (`on` 0) or resumes calling `readable`, so that the peer's window closes.
///
/// # Safety
///
/// As for `luna_loop_run`.
///
/// # Errors
///
/// `EBADF` for a stale handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_read(loop_: *mut luna_loop, conn: u64, on: c_int) -> c_int {
    entry!({
        // SAFETY: the caller's contract.
        unsafe { loop_at(loop_) }?.read(conn, on != 0).map(|()| 0)
    })
}

/// Replaces the pointer that belongs to a connection.
///
/// # Safety
///
/// As for `luna_loop_run`.
///
/// # Errors
///
/// `EBADF` for a stale handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_set_user(
    loop_: *mut luna_loop,
    conn: u64,
    user: *mut c_void,
) -> c_int {
    entry!({
        // SAFETY: the caller's contract.
        unsafe { loop_at(loop_) }?
            .set_user(conn, user as usize)
            .map(|()| 0)
    })
}

/// The ends of a connection (or the address of a listener), as `getsockname(2)` and, if `peer`
/// is not 0, `getpeername(2)`.
///
/// # Safety
///
/// As for `getsockname(2)`.
///
/// # Errors
///
/// `EBADF` for a stale handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_name(
    loop_: *mut luna_loop,
    handle: u64,
    peer: c_int,
    addr: *mut sockaddr,
    addrlen: *mut socklen_t,
) -> c_int {
    entry!({
        // SAFETY: the caller's contract.
        let name = unsafe { loop_at(loop_) }?.name(handle, peer != 0)?;
        if addr.is_null() {
            return Err(Errno::FAULT);
        }
        // SAFETY: the caller's contract.
        unsafe { memory::store_address(&name, addr, addrlen) }.map(|()| 0)
    })
}

/// 1 if a connection is on the stack, 0 if it is on the kernel (and copied).
///
/// # Safety
///
/// As for `luna_loop_run`.
///
/// # Errors
///
/// `EBADF` for a stale handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_is_accelerated(loop_: *mut luna_loop, conn: u64) -> c_int {
    entry!({
        // SAFETY: the caller's contract.
        unsafe { loop_at(loop_) }?
            .is_accelerated(conn)
            .map(c_int::from)
    })
}

/// Calls `function` in `after` nanoseconds, and then every `every` nanoseconds (0: once). `timer`
/// gets the handle.
///
/// # Safety
///
/// `function` must be callable with `user`; `timer` may be null.
///
/// # Errors
///
/// `EINVAL` if `function` is null; `EBUSY` as for `luna_loop_listen`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_add_timer(
    loop_: *mut luna_loop,
    after: u64,
    every: u64,
    function: LunaLoopFunction,
    user: *mut c_void,
    timer: *mut u64,
) -> c_int {
    entry!({
        let task = Function::new(function, user).ok_or(Errno::INVAL)?;
        let every = (every != 0).then(|| Duration::from_nanos(every));
        // SAFETY: the caller's contract.
        let at = unsafe { loop_at(loop_) }?;
        let handle = at.add_timer(Duration::from_nanos(after), every, task.into())?;
        // SAFETY: the caller's contract.
        unsafe { store(timer, handle) };
        Ok(0)
    })
}

/// Cancels a timer; also from its own function.
///
/// # Safety
///
/// As for `luna_loop_run`.
///
/// # Errors
///
/// `EBADF` if there is none: it has fired, or was cancelled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_cancel_timer(loop_: *mut luna_loop, timer: u64) -> c_int {
    entry!({
        // SAFETY: the caller's contract.
        unsafe { loop_at(loop_) }?.cancel_timer(timer).map(|()| 0)
    })
}

/// Calls `function` when a descriptor (of the kernel or of luna) is ready for `events`, as
/// `epoll_ctl(2)` does with `EPOLL_CTL_ADD`; changes that for one that is watched already.
///
/// # Safety
///
/// `function` must be callable with `user`.
///
/// # Errors
///
/// Those of `epoll_ctl(2)`; `EINVAL` if `function` is null; `EBUSY` as for `luna_loop_listen`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_watch(
    loop_: *mut luna_loop,
    fd: c_int,
    events: u32,
    function: LunaLoopWatcher,
    user: *mut c_void,
) -> c_int {
    entry!({
        let task = Watcher::new(function, user).ok_or(Errno::INVAL)?;
        // SAFETY: the caller's contract.
        unsafe { loop_at(loop_) }?
            .watch(fd, events, task.into())
            .map(|()| 0)
    })
}

/// Watches a descriptor no more. To be called before the descriptor is closed.
///
/// # Safety
///
/// As for `luna_loop_run`.
///
/// # Errors
///
/// `ENOENT` if it is not watched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_loop_unwatch(loop_: *mut luna_loop, fd: c_int) -> c_int {
    entry!({
        // SAFETY: the caller's contract.
        unsafe { loop_at(loop_) }?.unwatch(fd).map(|()| 0)
    })
}
