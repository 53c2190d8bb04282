//! The inline loop (`luna_loop_*`) for Rust programs: a [`Handler`] in the place of callbacks, and
//! packet buffers as values that give themselves back.

use core::cell::Cell;
use core::ffi::{c_int, c_void};
use core::net::SocketAddr;
use std::ptr;

use libc::socklen_t;

use super::super::{
    LUNA_LOOP_BUSY, luna_loop, luna_loop_callbacks, luna_loop_options, luna_zcompletion, luna_ziov,
};
use super::{done, failed, family, moved};
use crate::socket::addr;
use crate::sys::Errno;

/// What a loop calls. `user` is the number that was given to the connection.
pub trait Handler: Sized {
    /// The listener `user` has a new connection; returns the connection's number.
    fn accepted(&mut self, ops: Ops<'_, Self>, user: usize, conn: u64) -> usize;
    /// How a connect ended: 0 or an errno.
    fn connected(&mut self, ops: Ops<'_, Self>, user: usize, conn: u64, error: i32);
    /// Bytes have arrived; none: the peer has finished sending.
    fn readable(&mut self, ops: Ops<'_, Self>, user: usize, conn: u64, lent: Lent<'_>);
    /// There is room again after a send that did not take everything.
    fn writable(&mut self, ops: Ops<'_, Self>, user: usize, conn: u64);
    /// The connection is over, not by [`Ops::close`]: 0 or an errno.
    fn closed(&mut self, ops: Ops<'_, Self>, user: usize, conn: u64, error: i32);
}

thread_local! {
    /// The handler of the turn that this thread is in.
    static HANDLER: Cell<*mut c_void> = const { Cell::new(ptr::null_mut()) };
}

/// Received bytes, for the time of a call.
#[derive(Clone, Copy, Debug)]
pub struct Lent<'a>(&'a [luna_ziov]);

impl<'a> Lent<'a> {
    /// The pieces, in order; none at the end of the stream.
    pub fn pieces(self) -> impl ExactSizeIterator<Item = LentPiece<'a>> {
        self.0.iter().map(LentPiece)
    }
}

/// Some received bytes, all in one buffer.
#[derive(Clone, Copy, Debug)]
pub struct LentPiece<'a>(&'a luna_ziov);

impl<'a> LentPiece<'a> {
    /// The bytes.
    #[inline]
    pub fn bytes(self) -> &'a [u8] {
        // SAFETY: the loop lends `len` readable bytes at `base` for the time of the callback,
        // which `'a` does not outlive: only a callback below makes a `Lent`.
        unsafe { core::slice::from_raw_parts(self.0.base.cast::<u8>(), self.0.len) }
    }

    /// Keeps the buffer beyond the call.
    ///
    /// # Errors
    ///
    /// Those of `luna_zbuf_ref`.
    #[inline]
    pub fn keep(self) -> Result<Kept, Errno> {
        // SAFETY: any address is fine.
        done(unsafe { super::super::luna_zbuf_ref(self.0.base) })?;
        Ok(Kept {
            base: self.0.base.cast::<u8>(),
            len: self.0.len,
            held: self.0.base,
        })
    }
}

/// Some bytes of a packet buffer, and one reference to it.
#[derive(Debug)]
pub struct Kept {
    base: *mut u8,
    len: usize,
    held: *const c_void,
}

impl Kept {
    /// A new buffer with these bytes.
    ///
    /// # Errors
    ///
    /// Those of `luna_zbuf_alloc`.
    pub fn filled(bytes: &[u8]) -> Result<Self, Errno> {
        // SAFETY: any size is fine.
        let base = unsafe { super::super::luna_zbuf_alloc(bytes.len()) };
        if base.is_null() {
            return Err(failed());
        }
        // SAFETY: the buffer is ours alone, of at least so many bytes, and no part of `bytes`,
        // which is borrowed from somebody else.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), base.cast::<u8>(), bytes.len()) };
        Ok(Self {
            base: base.cast(),
            len: bytes.len(),
            held: base,
        })
    }

    /// How many bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets bytes at the front.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        let count = count.min(self.len);
        // SAFETY: still within the buffer, or at its end.
        self.base = unsafe { self.base.add(count) };
        self.len -= count;
    }

    /// Something to send: at most `len` bytes from the byte `from` on.
    #[inline]
    pub fn part(&self, from: usize, len: usize) -> Part<'_> {
        let from = from.min(self.len);
        Part {
            iov: luna_ziov {
                // SAFETY: still within the buffer, or at its end.
                base: unsafe { self.base.add(from) }.cast(),
                len: len.min(self.len - from),
                token: 0,
                flags: 0,
                reserved: 0,
            },
            _kept: core::marker::PhantomData,
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: any address is fine; this one has a reference of ours. (One that is refused
        // was taken with its stack, after a fork.)
        let _freed = unsafe { super::super::luna_zbuf_free(self.held) };
    }
}

/// Bytes to send, in a buffer that is held meanwhile.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Part<'a> {
    iov: luna_ziov,
    _kept: core::marker::PhantomData<&'a Kept>,
}

/// What may be done with a loop, from within its handler or between turns.
#[derive(Debug)]
pub struct Ops<'l, H> {
    raw: *mut luna_loop,
    of: core::marker::PhantomData<&'l Loop<H>>,
}

impl<H> Clone for Ops<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H> Copy for Ops<'_, H> {}

impl<H: Handler> Ops<'_, H> {
    fn of(raw: *mut luna_loop) -> Self {
        Self {
            raw,
            of: core::marker::PhantomData,
        }
    }

    /// Sends by reference; returns how many bytes were taken. The stack takes its own references.
    ///
    /// # Errors
    ///
    /// Those of `luna_loop_send`; `EAGAIN`: wait for [`Handler::writable`].
    #[inline]
    pub fn send(self, conn: u64, parts: &[Part<'_>]) -> Result<usize, Errno> {
        let count = c_int::try_from(parts.len()).unwrap_or(c_int::MAX);
        let pointer = parts.as_ptr().cast::<luna_ziov>();
        // SAFETY: a `Part` is a `luna_ziov` (transparent) of bytes in a buffer that is held.
        moved(unsafe { super::super::luna_loop_send(self.raw, conn, pointer, count, 0) })
    }

    /// Sends by copying.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn write(self, conn: u64, bytes: &[u8]) -> Result<usize, Errno> {
        let pointer = bytes.as_ptr().cast();
        // SAFETY: the slice is live for its length.
        moved(unsafe { super::super::luna_loop_write(self.raw, conn, pointer, bytes.len(), 0) })
    }

    /// Closes; `abort` resets.
    ///
    /// # Errors
    ///
    /// `EBADF` for a stale handle.
    pub fn close(self, conn: u64, abort: bool) -> Result<(), Errno> {
        // SAFETY: the loop is live: handlers run inside of it, and others have it borrowed.
        done(unsafe { super::super::luna_loop_close(self.raw, conn, c_int::from(abort)) }).map(drop)
    }

    /// Connects; [`Handler::connected`] tells how it ended.
    ///
    /// # Errors
    ///
    /// Those of `luna_loop_connect`.
    pub fn connect(self, address: SocketAddr, user: usize) -> Result<u64, Errno> {
        let encoded = addr::encode(address, family(address));
        let mut conn = 0;
        // SAFETY: the address is live; the table is a constant; `user` is no pointer to anything,
        // and nothing takes it for one.
        done(unsafe {
            super::super::luna_loop_connect(
                self.raw,
                encoded.as_ptr().cast(),
                encoded.len() as socklen_t,
                callbacks::<H>(),
                ptr::without_provenance_mut(user),
                &raw mut conn,
            )
        })?;
        Ok(conn)
    }
}

/// A loop that calls a handler of one type.
#[derive(Debug)]
pub struct Loop<H> {
    raw: *mut luna_loop,
    handler: core::marker::PhantomData<fn(H)>,
}

impl<H: Handler> Loop<H> {
    /// Makes a loop; `busy`: it never sleeps.
    ///
    /// # Errors
    ///
    /// Those of `luna_loop_create`.
    pub fn new(busy: bool) -> Result<Self, Errno> {
        let options = luna_loop_options {
            size: size_of::<luna_loop_options>() as u32,
            flags: if busy { LUNA_LOOP_BUSY } else { 0 },
            shard: 0,
            reserved: 0,
        };
        // SAFETY: the options are live and tell their size.
        let raw = unsafe { super::super::luna_loop_create(&raw const options) };
        if raw.is_null() {
            return Err(failed());
        }
        Ok(Self {
            raw,
            handler: core::marker::PhantomData,
        })
    }

    /// What may be done between turns.
    pub fn ops(&self) -> Ops<'_, H> {
        Ops::of(self.raw)
    }

    /// Listens.
    ///
    /// # Errors
    ///
    /// Those of `luna_loop_listen`.
    pub fn listen(&self, address: SocketAddr, backlog: i32, user: usize) -> Result<(), Errno> {
        let encoded = addr::encode(address, family(address));
        // SAFETY: as in `Ops::connect`; no handle is asked for.
        done(unsafe {
            super::super::luna_loop_listen(
                self.raw,
                encoded.as_ptr().cast(),
                encoded.len() as socklen_t,
                backlog,
                callbacks::<H>(),
                ptr::without_provenance_mut(user),
                ptr::null_mut(),
            )
        })
        .map(drop)
    }

    /// One round: waits at most so many milliseconds (−1: as long as it takes). True if there
    /// was something to do.
    ///
    /// # Errors
    ///
    /// Those of `luna_loop_turn`.
    #[inline]
    pub fn turn(&self, handler: &mut H, timeout_ms: i32) -> Result<bool, Errno> {
        HANDLER.set(ptr::from_mut(handler).cast());
        // SAFETY: the loop is live. The handler is borrowed for the time of the call, and of the
        // type that the callbacks take it for: all of this loop are `callbacks::<H>`.
        let outcome = done(unsafe { super::super::luna_loop_turn(self.raw, timeout_ms) });
        HANDLER.set(ptr::null_mut());
        outcome.map(|something| something != 0)
    }
}

impl<H> Drop for Loop<H> {
    fn drop(&mut self) {
        // SAFETY: nobody uses it any more: `Ops` are no use without a turn of it, and its
        // callbacks find no handler. It does not run, for it is not borrowed.
        let _destroyed = unsafe { super::super::luna_loop_destroy(self.raw) };
    }
}

/// Calls the handler of this turn, if there is one: a loop that is destroyed has none.
#[inline]
fn with<H: Handler, R>(call: impl FnOnce(&mut H) -> R) -> Option<R> {
    // Taken meanwhile, so that it is never borrowed twice.
    let handler = HANDLER.replace(ptr::null_mut());
    if handler.is_null() {
        return None;
    }
    // SAFETY: set by `Loop::<H>::turn`, which has it borrowed and is what called us.
    let answer = call(unsafe { &mut *handler.cast::<H>() });
    HANDLER.set(handler);
    Some(answer)
}

fn number(user: *mut c_void) -> usize {
    user.addr()
}

unsafe extern "C" fn accepted<H: Handler>(
    raw: *mut luna_loop,
    _listener: u64,
    user: *mut c_void,
    conn: u64,
) -> *mut c_void {
    let answer = with::<H, _>(|handler| handler.accepted(Ops::of(raw), number(user), conn));
    ptr::without_provenance_mut(answer.unwrap_or(0))
}

unsafe extern "C" fn connected<H: Handler>(
    raw: *mut luna_loop,
    conn: u64,
    user: *mut c_void,
    error: c_int,
) {
    with::<H, _>(|handler| handler.connected(Ops::of(raw), number(user), conn, error));
}

unsafe extern "C" fn readable<H: Handler>(
    raw: *mut luna_loop,
    conn: u64,
    user: *mut c_void,
    iov: *const luna_ziov,
    count: c_int,
) {
    let count = usize::try_from(count).unwrap_or(0);
    let lent = if count == 0 {
        &[]
    } else {
        // SAFETY: the loop passes so many elements, for the time of the call.
        unsafe { core::slice::from_raw_parts(iov, count) }
    };
    with::<H, _>(|handler| handler.readable(Ops::of(raw), number(user), conn, Lent(lent)));
}

unsafe extern "C" fn writable<H: Handler>(raw: *mut luna_loop, conn: u64, user: *mut c_void) {
    with::<H, _>(|handler| handler.writable(Ops::of(raw), number(user), conn));
}

unsafe extern "C" fn completed(
    _: *mut luna_loop,
    _: u64,
    _: *mut c_void,
    _: *const luna_zcompletion,
    _: c_int,
) {
}

unsafe extern "C" fn closed<H: Handler>(
    raw: *mut luna_loop,
    conn: u64,
    user: *mut c_void,
    error: c_int,
) {
    with::<H, _>(|handler| handler.closed(Ops::of(raw), number(user), conn, error));
}

/// The table of a type of handler: a constant, so it outlives every loop.
fn callbacks<H: Handler>() -> *const luna_loop_callbacks {
    struct Of<H>(core::marker::PhantomData<H>);
    impl<H: Handler> Of<H> {
        const TABLE: &'static luna_loop_callbacks = &luna_loop_callbacks {
            size: size_of::<luna_loop_callbacks>() as u32,
            reserved: 0,
            accepted: Some(accepted::<H>),
            connected: Some(connected::<H>),
            readable: Some(readable::<H>),
            writable: Some(writable::<H>),
            completed: Some(completed),
            closed: Some(closed::<H>),
        };
    }
    Of::<H>::TABLE
}
