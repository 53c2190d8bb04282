//! The inline event loop over the process's shards and the kernel (LUNA §5.1, §7.2).
//!
//! A loop owns a shard while it runs: its connections are told of each packet from within the
//! turn ([`told`]). Whatever else it serves it reaches over descriptors ([`over_fd`]): listeners'
//! kernel halves, kernel sockets where there is no stack, streams of other shards, descriptors of
//! the application. Timers and functions posted from other threads run between turns ([`run`]).
//!
//! Callbacks use the loop that calls them: nothing in here is borrowed while one runs.
#![forbid(unsafe_code)]

mod over_fd;
mod run;
mod table;
#[cfg(test)]
mod tests;
mod told;

use core::cell::{Cell, RefCell};
use core::cmp::Reverse;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::collections::{BinaryHeap, VecDeque};
use std::os::fd::RawFd;
use std::sync::Arc;

use self::table::{Entry, OverFd, Table, What};
use super::addr::Encoded;
use super::description::{self, Pin};
use super::epoll::{self, Rhythm, Set};
use super::options::Touched;
use super::runtime::wake::Wake;
use super::zero_copy::{self, Completion, Piece, Received};
use super::{addr, calls, close, connect, listener, policy, runtime};
use crate::stack::{Close, ConnId};
use crate::sys::{self, Confined, Entered, EpollEvent, Errno, ForkMutex};
use crate::time::{Clock, Duration, Instant, SystemClock};

/// What a loop calls; see `include/luna.h`. `user` is what belongs to the connection.
pub trait Callbacks: Copy + Send + Sized + core::fmt::Debug + 'static {
    /// A function with its argument, for timers, descriptors and other threads.
    type Task: Copy + Send + core::fmt::Debug + 'static;
    /// A listener has a connection; returns what belongs to it.
    fn accepted(self, from: &Loop<Self>, listener: u64, user: usize, conn: u64) -> usize;
    /// How a connect ended: 0 or an errno.
    fn connected(self, from: &Loop<Self>, conn: u64, user: usize, error: i32);
    /// Bytes, lent for the time of the call; none: the end.
    fn readable(self, from: &Loop<Self>, conn: u64, user: usize, pieces: &[Received]);
    /// There is room again.
    fn writable(self, from: &Loop<Self>, conn: u64, user: usize);
    /// Tokens came back.
    fn completed(self, from: &Loop<Self>, conn: u64, user: usize, done: &[Completion]);
    /// It is over: 0 or an errno.
    fn closed(self, from: &Loop<Self>, conn: u64, user: usize, error: i32);
    /// Runs a task.
    fn run(task: Self::Task, from: &Loop<Self>);
    /// A descriptor is ready.
    fn ready(task: Self::Task, from: &Loop<Self>, fd: RawFd, events: u32);
}

/// How a loop is to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Never sleep.
    pub busy: bool,
    /// Which shard, counted from 0.
    pub shard: Option<usize>,
}

/// An event loop. One thread uses it at a time; [`Loop::stop`] and [`Loop::post`] are any
/// thread's.
#[derive(Debug)]
pub struct Loop<C: Callbacks> {
    confined: Confined<Inner<C>>,
    /// Tells the loop's thread that something came from elsewhere.
    bell: Arc<Wake>,
    stop: AtomicBool,
    has_posts: AtomicBool,
    posts: ForkMutex<VecDeque<C::Task>>,
    /// A number of whoever made the loop: its address in C.
    context: AtomicUsize,
}

/// What only the loop's thread sees.
#[derive(Debug)]
struct Inner<C: Callbacks> {
    /// The shard that it owns while it runs.
    shard: Option<usize>,
    _claim: Claim,
    busy: bool,
    spin: Duration,
    table: RefCell<Table<C>>,
    /// Timers by time; a cancelled one's handle is stale.
    timers: RefCell<BinaryHeap<Reverse<(Instant, u64)>>>,
    /// The kernel's descriptors, and those of ours that are not the shard's business.
    set: Arc<Set>,
    set_fd: RawFd,
    /// How many are in the set.
    in_set: Cell<usize>,
    /// Completions of connections over descriptors.
    done: RefCell<VecDeque<(u64, Completion)>>,
    /// Connections over descriptors to be looked at without an event.
    look: RefCell<VecDeque<u64>>,
    running: Cell<bool>,
    wakeups: RefCell<Vec<crate::stack::Wakeup>>,
    /// How often the kernel is asked while the shard is busy.
    kernel: Rhythm,
    /// When a round last had something else to do.
    worked_at: Cell<Instant>,
}

/// A shard that no other loop gets.
#[derive(Debug)]
struct Claim(Option<usize>);

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(shard) = self.0 {
            runtime::unclaim_shard(shard);
        }
    }
}

impl<C: Callbacks> Drop for Inner<C> {
    fn drop(&mut self) {
        self.set.close();
        let _closed = sys::close(self.set_fd);
    }
}

impl<C: Callbacks> Loop<C> {
    /// A loop that does not run yet. Starts the stack if it is wanted.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no such shard; `EMFILE`.
    pub fn new(options: Options) -> Result<Self, Errno> {
        let policy = policy::get();
        if policy.is_wanted {
            super::fork::arm();
            // Without it, everything is the kernel's; the cause has been reported.
            let _cause = runtime::start();
        }
        let number = options.shard;
        if number.is_some_and(|number| number != 0 && number >= runtime::shards()) {
            return Err(Errno::INVAL);
        }
        let claim = Claim(runtime::claim_shard(number));
        let (set_fd, set) = epoll::create(libc::EPOLL_CLOEXEC)?;
        super::forget_number(set_fd);
        let config = policy.config.as_ref();
        Ok(Self {
            confined: Confined::new(Inner {
                shard: claim.0,
                _claim: claim,
                busy: options.busy || config.is_some_and(|config| config.busy),
                spin: config.map_or(crate::config::SPIN_DEFAULT, |config| config.spin),
                table: RefCell::new(Table::new()),
                timers: RefCell::new(BinaryHeap::new()),
                set,
                set_fd,
                in_set: Cell::new(0),
                done: RefCell::new(VecDeque::new()),
                look: RefCell::new(VecDeque::new()),
                running: Cell::new(false),
                wakeups: RefCell::new(Vec::new()),
                kernel: Rhythm::default(),
                worked_at: Cell::new(Instant::ZERO),
            }),
            bell: Wake::new()?,
            stop: AtomicBool::new(false),
            has_posts: AtomicBool::new(false),
            posts: ForkMutex::new(VecDeque::new()),
            context: AtomicUsize::new(0),
        })
    }

    /// A number that belongs to the loop.
    pub fn context(&self) -> usize {
        self.context.load(Ordering::Relaxed)
    }

    /// Sets that number.
    pub fn set_context(&self, context: usize) {
        self.context.store(context, Ordering::Relaxed);
    }

    fn enter(&self) -> Result<Entered<'_, Inner<C>>, Errno> {
        self.confined.enter().ok_or(Errno::BUSY)
    }

    /// Ends [`Loop::run`].
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Runs a task on the loop's thread.
    pub fn post(&self, task: C::Task) {
        self.posts.lock().push_back(task);
        self.has_posts.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Listens.
    ///
    /// # Errors
    ///
    /// Those of `socket`, `bind` and `listen`; `EBUSY` if another thread runs the loop.
    pub fn listen(
        &self,
        address: &[u8],
        backlog: i32,
        callbacks: C,
        user: usize,
    ) -> Result<u64, Errno> {
        let inner = self.enter()?;
        let fd = socket_for(address)?;
        let listen = || {
            let one = 1i32.to_ne_bytes();
            sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &one)?;
            // Inherited by what it accepts.
            sys::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &one)?;
            if runtime::shards() > 1 {
                // One loop per shard listens on the same address.
                sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &one)?;
            }
            if let Some(pin) = description::pin_fd(fd) {
                pin.socket.lock().options_touched = Touched::ANY;
                calls::permit_bind(&pin, address);
            }
            sys::bind(fd, address)?;
            match description::pin_fd(fd) {
                Some(pin) => listener::listen(&pin, backlog),
                None => sys::listen(fd, backlog),
            }
        };
        if let Err(errno) = listen() {
            let _closed = close::close(fd);
            return Err(errno);
        }
        let handle = inner.insert(What::Listener { fd }, Some(callbacks), user);
        if let Err(errno) = inner.watch(fd, handle, libc::EPOLLIN as u32) {
            inner.table.borrow_mut().remove(handle);
            let _closed = close::close(fd);
            return Err(errno);
        }
        let group = description::pin_fd(fd).and_then(|pin| pin.socket.lock().group.clone());
        for &(shard, id) in group.iter().flat_map(|group| group.listen_ids()) {
            if inner.shard == Some(shard) {
                runtime::with_shard(shard, |shard| shard.adopt_listener(id, handle));
            }
        }
        Ok(handle)
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// Those of `socket` and `connect`; `EBUSY` if another thread runs the loop.
    pub fn connect(&self, address: &[u8], callbacks: C, user: usize) -> Result<u64, Errno> {
        let inner = self.enter()?;
        let nodelay = (libc::IPPROTO_TCP, libc::TCP_NODELAY);
        if let Some(begun) = connect::without_socket(address, nodelay) {
            return inner.take_over(begun?, false, callbacks, user);
        }
        let fd = socket_for(address)?;
        let begin = || {
            let one = 1i32.to_ne_bytes();
            sys::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &one)?;
            let begun = match description::pin_fd(fd) {
                Some(pin) => {
                    let mut cell = pin.socket.lock();
                    cell.options_touched
                        .note(libc::IPPROTO_TCP, libc::TCP_NODELAY);
                    drop(cell);
                    connect::connect(&pin, address)
                }
                None => sys::connect(fd, address),
            };
            match begun {
                Err(Errno::INPROGRESS) => Ok(()),
                other => other,
            }
        };
        if let Err(errno) = begin() {
            let _closed = close::close(fd);
            return Err(errno);
        }
        inner.take_over(fd, false, callbacks, user)
    }

    /// Sends without waiting and, where it can, without copying; returns how many bytes.
    ///
    /// # Errors
    ///
    /// `EBADF` for a stale handle; those of [`zero_copy::send`].
    pub fn send(&self, handle: u64, pieces: &[Piece<'_>], flags: i32) -> Result<usize, Errno> {
        let inner = self.enter()?;
        let what = inner.live(handle)?.what;
        let sent = match what {
            What::Conn { id, .. } => {
                let more = flags & libc::MSG_MORE != 0;
                inner.on_shard(|shard| zero_copy::send_on(shard, id, pieces, more))?
            }
            What::Fd(conn) => return inner.send_over_fd(handle, conn, pieces, flags),
            _ => Err(Errno::BADF),
        }?;
        inner.count_marks(handle, pieces, sent);
        Ok(sent)
    }

    /// Sends FIN after what was sent.
    ///
    /// # Errors
    ///
    /// `EBADF` for a stale handle; `ENOTCONN`.
    pub fn shutdown(&self, handle: u64) -> Result<(), Errno> {
        let inner = self.enter()?;
        let what = inner.live(handle)?.what;
        match what {
            What::Conn { id, .. } => {
                let now = SystemClock.now();
                inner.on_shard(|shard| shard.shutdown_write(now, id))
            }
            What::Fd(conn) => match description::pin_fd(conn.fd) {
                Some(pin) => calls::shutdown(&pin, libc::SHUT_WR),
                None => sys::shutdown(conn.fd, libc::SHUT_WR),
            },
            _ => Err(Errno::BADF),
        }
    }

    /// Closes a connection or a listener.
    ///
    /// # Errors
    ///
    /// `EBADF` for a stale handle.
    pub fn close(&self, handle: u64, abort: bool) -> Result<(), Errno> {
        let inner = self.enter()?;
        inner.close(handle, abort)
    }

    /// Stops or resumes telling of bytes.
    ///
    /// # Errors
    ///
    /// `EBADF` for a stale handle.
    pub fn read(&self, handle: u64, on: bool) -> Result<(), Errno> {
        let inner = self.enter()?;
        let what = inner.live(handle)?.what;
        match what {
            What::Conn { id, .. } => inner.on_shard(|shard| shard.pause_reading(id, !on)),
            What::Fd(mut conn) => {
                conn.paused = !on;
                inner.put(handle, conn)
            }
            _ => Err(Errno::BADF),
        }
    }

    /// Replaces what belongs to a connection.
    ///
    /// # Errors
    ///
    /// `EBADF` for a stale handle.
    pub fn set_user(&self, handle: u64, user: usize) -> Result<(), Errno> {
        let inner = self.enter()?;
        let mut table = inner.table.borrow_mut();
        table.live(handle).ok_or(Errno::BADF)?.user = user;
        Ok(())
    }

    /// The name of our end, or of the peer's.
    ///
    /// # Errors
    ///
    /// `EBADF` for a stale handle; `ENOTCONN`.
    pub fn name(&self, handle: u64, peer: bool) -> Result<Encoded, Errno> {
        let inner = self.enter()?;
        let what = inner.live(handle)?.what;
        match what {
            What::Conn { id, .. } => {
                let info = inner.on_shard(|shard| shard.info(id))?;
                let info = info.ok_or(Errno::NOTCONN)?;
                let address = if peer { info.remote } else { info.local };
                let family = if address.is_ipv4() {
                    libc::AF_INET
                } else {
                    libc::AF_INET6
                };
                Ok(addr::encode(address, family))
            }
            What::Fd(OverFd { fd, .. }) | What::Listener { fd } => name_of(fd, peer),
            _ => Err(Errno::BADF),
        }
    }

    /// Whether a connection is on the stack.
    ///
    /// # Errors
    ///
    /// `EBADF` for a stale handle.
    pub fn is_accelerated(&self, handle: u64) -> Result<bool, Errno> {
        let inner = self.enter()?;
        let what = inner.live(handle)?.what;
        match what {
            What::Conn { .. } => Ok(true),
            What::Fd(conn) => {
                Ok(description::pin_fd(conn.fd).is_some_and(|p| p.stream().is_some()))
            }
            _ => Err(Errno::BADF),
        }
    }

    /// Runs a task in a while, and perhaps again.
    ///
    /// # Errors
    ///
    /// `EBUSY` if another thread runs the loop.
    pub fn add_timer(
        &self,
        after: Duration,
        every: Option<Duration>,
        task: C::Task,
    ) -> Result<u64, Errno> {
        let inner = self.enter()?;
        let at = SystemClock.now() + after;
        let handle = inner.insert(What::Timer { every, task }, None, 0);
        inner.timers.borrow_mut().push(Reverse((at, handle)));
        Ok(handle)
    }

    /// Forgets a timer.
    ///
    /// # Errors
    ///
    /// `EBADF` if there is none.
    pub fn cancel_timer(&self, handle: u64) -> Result<(), Errno> {
        let inner = self.enter()?;
        let mut table = inner.table.borrow_mut();
        match table.live(handle).map(|entry| entry.what) {
            Some(What::Timer { .. }) => {
                table.remove(handle);
                Ok(())
            }
            _ => Err(Errno::BADF),
        }
    }

    /// Watches a descriptor, or changes how.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl`; `EBUSY` if another thread runs the loop.
    pub fn watch(&self, fd: RawFd, events: u32, task: C::Task) -> Result<(), Errno> {
        let inner = self.enter()?;
        let same = |what: &What<C>| matches!(what, What::Watch { fd: other, .. } if *other == fd);
        let known = inner.table.borrow().find(same);
        if let Some(handle) = known {
            inner.rewatch(fd, handle, events)?;
            if let Some(entry) = inner.table.borrow_mut().live(handle) {
                entry.what = What::Watch { fd, task };
            }
            return Ok(());
        }
        let handle = inner.insert(What::Watch { fd, task }, None, 0);
        let watched = inner.watch(fd, handle, events);
        if watched.is_err() {
            inner.table.borrow_mut().remove(handle);
        }
        watched
    }

    /// Watches a descriptor no more.
    ///
    /// # Errors
    ///
    /// `ENOENT` if it is not watched.
    pub fn unwatch(&self, fd: RawFd) -> Result<(), Errno> {
        let inner = self.enter()?;
        let same = |what: &What<C>| matches!(what, What::Watch { fd: other, .. } if *other == fd);
        let handle = inner.table.borrow().find(same).ok_or(Errno::NOENT)?;
        inner.unwatch(fd);
        inner.table.borrow_mut().remove(handle);
        Ok(())
    }
}

/// A socket for connections to, or on, an address.
fn socket_for(address: &[u8]) -> Result<RawFd, Errno> {
    let family = addr::family(address).ok_or(Errno::INVAL)?;
    if !matches!(family, libc::AF_INET | libc::AF_INET6) {
        return Err(Errno::AFNOSUPPORT);
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let fd = calls::socket(family, kind, 0)?;
    if let Some(pin) = description::pin_fd(fd) {
        pin.set_status_flags(libc::O_NONBLOCK);
    }
    Ok(fd)
}

fn name_of(fd: RawFd, peer: bool) -> Result<Encoded, Errno> {
    let ours = description::pin_fd(fd).filter(|pin| pin.stream().is_some());
    let raw = match (ours, peer) {
        (Some(pin), true) => return calls::peer_name(&pin),
        (Some(pin), false) => return calls::local_name(&pin).ok_or(Errno::NOTCONN),
        (None, true) => sys::getpeername(fd)?,
        (None, false) => sys::getsockname(fd)?,
    };
    let mut name = Encoded::new();
    name.try_extend_from_slice(raw.as_bytes())
        .map_err(|_| Errno::INVAL)?;
    Ok(name)
}

impl<C: Callbacks> Inner<C> {
    fn insert(&self, what: What<C>, callbacks: Option<C>, user: usize) -> u64 {
        self.table.borrow_mut().insert(Entry {
            what,
            callbacks,
            user,
            marks: 0,
            closed: false,
        })
    }

    fn live(&self, handle: u64) -> Result<Entry<C>, Errno> {
        let mut table = self.table.borrow_mut();
        table.live(handle).copied().ok_or(Errno::BADF)
    }

    fn on_shard<R: Send>(
        &self,
        f: impl FnOnce(&mut crate::stack::Shard) -> R + Send,
    ) -> Result<R, Errno> {
        let shard = self.shard.ok_or(Errno::BADF)?;
        if self.running.get()
            && let Some(lane) = runtime::crew().and_then(|crew| crew.lanes().get(shard))
        {
            // Nobody need be told of a new deadline: our next turn, or sleep, sees it.
            return lane.cell().with(f).map_err(|_| Errno::BADF);
        }
        runtime::with_shard(shard, f).ok_or(Errno::BADF)
    }

    /// Takes a connected or connecting socket into the loop.
    fn take_over(&self, fd: RawFd, known: bool, callbacks: C, user: usize) -> Result<u64, Errno> {
        let stream = description::pin_fd(fd).and_then(|pin| pin.stream());
        if let Some(name) = stream.filter(|name| Some(name.shard) == self.shard) {
            let id: ConnId = name.conn;
            let what = What::Conn { id, fd: Some(fd) };
            let handle = self.insert(what, Some(callbacks), user);
            self.on_shard(|shard| shard.adopt(id, handle, known))?;
            return Ok(handle);
        }
        let conn = OverFd {
            fd,
            connecting: !known,
            paused: false,
            wants_room: false,
            end_told: false,
        };
        let handle = self.insert(What::Fd(conn), Some(callbacks), user);
        if let Err(errno) = self.watch(fd, handle, over_fd::interest(&conn)) {
            self.table.borrow_mut().remove(handle);
            let _closed = close::close(fd);
            return Err(errno);
        }
        Ok(handle)
    }

    /// Tokens that `sent` bytes have taken with them.
    fn count_marks(&self, handle: u64, pieces: &[Piece<'_>], sent: usize) {
        if pieces.iter().all(|piece| piece.token == 0) {
            return;
        }
        let mut end = 0;
        let whole = pieces.iter().take_while(|piece| {
            end += piece.bytes.len();
            end <= sent
        });
        let marks = whole.filter(|piece| piece.token != 0).count() as u32;
        if let Some(entry) = self.table.borrow_mut().any(handle) {
            entry.marks += marks;
        }
    }

    /// The application has been told of so many completions.
    fn told_marks(&self, handle: u64, count: usize) {
        let mut table = self.table.borrow_mut();
        let over = table.any(handle).is_some_and(|entry| {
            entry.marks = entry.marks.saturating_sub(count as u32);
            entry.closed && entry.marks == 0
        });
        if over {
            table.remove(handle);
        }
    }

    fn close(&self, handle: u64, abort: bool) -> Result<(), Errno> {
        let entry = self.live(handle)?;
        match entry.what {
            What::Conn { id, fd } => {
                let how = if abort { Close::Abort } else { Close::Graceful };
                let now = SystemClock.now();
                // Before the connection goes: what it completes by going finds it closed.
                self.let_go(handle);
                self.on_shard(|shard| shard.close(now, id, how))?;
                if let Some(fd) = fd {
                    close::close(fd)?;
                }
                Ok(())
            }
            What::Fd(conn) => {
                self.unwatch(conn.fd);
                self.finish_completions(handle, conn.fd);
                self.lose_completions(handle, conn.fd);
                if abort {
                    abort_on_close(conn.fd);
                }
                self.let_go(handle);
                close::close(conn.fd)
            }
            What::Listener { fd } => {
                self.unwatch(fd);
                self.let_go(handle);
                close::close(fd)
            }
            What::Watch { .. } | What::Timer { .. } => Err(Errno::BADF),
        }
    }

    /// The handle is stale now; the entry stays for completions that are to come.
    fn let_go(&self, handle: u64) {
        let mut table = self.table.borrow_mut();
        match table.any(handle) {
            Some(entry) if entry.marks > 0 => entry.closed = true,
            Some(_) => drop(table.remove(handle)),
            None => {}
        }
    }

    // ---- the set of descriptors ----

    fn watch(&self, fd: RawFd, handle: u64, events: u32) -> Result<(), Errno> {
        self.change(libc::EPOLL_CTL_ADD, fd, handle, events)?;
        self.in_set.set(self.in_set.get() + 1);
        Ok(())
    }

    fn rewatch(&self, fd: RawFd, handle: u64, events: u32) -> Result<(), Errno> {
        self.change(libc::EPOLL_CTL_MOD, fd, handle, events)
    }

    fn unwatch(&self, fd: RawFd) {
        if self.change(libc::EPOLL_CTL_DEL, fd, 0, 0).is_ok() {
            self.in_set.set(self.in_set.get().saturating_sub(1));
        }
    }

    fn change(&self, operation: i32, fd: RawFd, data: u64, events: u32) -> Result<(), Errno> {
        let target: Option<Pin> = description::pin_fd(fd);
        let event = EpollEvent { events, data };
        epoll::change(&self.set, operation, fd, target.as_ref(), Some(event))
    }
}

/// The next close resets.
fn abort_on_close(fd: RawFd) {
    let linger = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
    let _set = match description::pin_fd(fd).filter(|pin| pin.stream().is_some()) {
        Some(pin) => calls::set_option(&pin, libc::SOL_SOCKET, libc::SO_LINGER, &linger),
        None => sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger),
    };
}
