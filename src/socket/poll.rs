//! `poll`, `ppoll`, `select` and `pselect` over luna's sockets, epoll descriptors and the
//! kernel's descriptors together.
//!
//! A call that names nothing of ours goes to the kernel unchanged.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::description::{Kind, Pin, pin_active};
use super::epoll::{self, Set};
use super::runtime::block::Watch;
use super::runtime::crew::Crew;
use super::runtime::engine::Engine;
use super::runtime::thread::with_me;
use super::runtime::wait::{Condition, Look, Patience, wait};
use super::runtime::wake::Wake;
use super::{listener, runtime};
use crate::sys::{self, Errno, PollFd, SignalSet, internal};
use crate::time::{Clock, Duration, Instant, SystemClock};

/// While it spins, the kernel's descriptors are asked this often.
const ASK_EVERY: Duration = Duration::from_micros(10);

const ALWAYS: i16 = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;

// `fs/select.c`: what counts as ready for the three sets of `select`.
const SELECT_IN: i16 =
    libc::POLLRDNORM | libc::POLLRDBAND | libc::POLLIN | libc::POLLHUP | libc::POLLERR;
const SELECT_OUT: i16 = libc::POLLWRBAND | libc::POLLWRNORM | libc::POLLOUT | libc::POLLERR;
const SELECT_EXCEPT: i16 = libc::POLLPRI;

/// `ppoll(2)`. `timeout`: none waits for ever.
///
/// # Errors
///
/// `EINTR`, `EINVAL`, `ENOMEM`.
pub fn poll(
    fds: &mut [PollFd],
    timeout: Option<Duration>,
    mask: Option<SignalSet>,
) -> Result<usize, Errno> {
    // All of them, for a listener among them may need to be given shards first.
    let mut ours = false;
    for entry in fds.iter() {
        ours |= listener::begin_wait(entry.fd);
    }
    match (runtime::crew(), ours) {
        (Some(crew), true) => poll_with(crew, fds, timeout, mask, ALWAYS),
        _ => {
            runtime::flush_deferred();
            sys::ppoll(fds, timeout.map(Duration::as_nanos), mask)
        }
    }
}

/// Likewise, on the shards of `crew`. `always`: what is reported without being asked for.
fn poll_with<E: Engine>(
    crew: &Crew<E>,
    fds: &mut [PollFd],
    timeout: Option<Duration>,
    mask: Option<SignalSet>,
    always: i16,
) -> Result<usize, Errno> {
    let mut polling = Polling::new(fds, always, || crew.deliveries());
    let patience = timeout.map_or(Patience::Endless, Patience::For);
    let count = wait(crew, &mut polling, patience, mask)?.unwrap_or(0);
    with_me(|me| me.set_in_loop(count != 0));
    Ok(count)
}

/// A descriptor of ours in the list.
struct Ours {
    at: usize,
    pin: Pin,
    set: Option<Arc<Set>>,
    watch: Watch,
}

struct Polling<'a, D> {
    fds: &'a mut [PollFd],
    always: i16,
    ours: Vec<Ours>,
    /// What is asked of the kernel, and where in `fds` it belongs.
    kernel: Vec<PollFd>,
    places: Vec<usize>,
    deliveries: D,
    seen: Option<u64>,
    asked: Instant,
}

impl<'a, D: Fn() -> u64> Polling<'a, D> {
    fn new(fds: &'a mut [PollFd], always: i16, deliveries: D) -> Self {
        let mut polling = Self {
            fds,
            always,
            ours: Vec::new(),
            kernel: Vec::new(),
            places: Vec::new(),
            deliveries,
            seen: None,
            asked: Instant::ZERO,
        };
        for (at, entry) in polling.fds.iter().enumerate() {
            let pin = pin_active(entry.fd);
            // A stream has no kernel half; listeners and epoll descriptors do.
            if !pin.as_ref().is_some_and(|pin| pin.kind() == Kind::Stream) {
                polling.kernel.push(PollFd {
                    revents: 0,
                    ..*entry
                });
                polling.places.push(at);
            }
            if let Some(pin) = pin {
                let set = pin.set();
                polling.ours.push(Ours {
                    at,
                    pin,
                    set,
                    watch: Watch::new(),
                });
            }
        }
        polling
    }

    /// Looks at everything; how many entries have something.
    fn scan(&mut self) -> Result<usize, Errno> {
        for entry in self.fds.iter_mut() {
            entry.revents = 0;
        }
        for ours in &self.ours {
            let Some(entry) = self.fds.get_mut(ours.at) else {
                continue;
            };
            if let Some(set) = &ours.set {
                set.refresh_nested();
            }
            let ready = match &ours.set {
                Some(set) if set.is_ready() => libc::POLLIN | libc::POLLRDNORM,
                Some(_) => 0,
                // The kernel's bits for epoll and poll are the same, and fit.
                None => epoll::bits(epoll::level_of(ours.pin.id())) as i16,
            };
            entry.revents = ready & (entry.events | self.always);
        }
        if !self.kernel.is_empty() {
            sys::ppoll(&mut self.kernel, Some(0), None)?;
            for (asked, place) in self.kernel.iter_mut().zip(&self.places) {
                let Some(entry) = self.fds.get_mut(*place) else {
                    continue;
                };
                let ready = asked.revents & (entry.events | self.always | libc::POLLNVAL);
                if asked.revents != 0 && ready == 0 {
                    // `select` does not care for a hang-up here, but `ppoll` would not sleep.
                    asked.fd = -1;
                }
                entry.revents |= ready;
            }
        }
        Ok(self.fds.iter().filter(|entry| entry.revents != 0).count())
    }
}

impl<D: Fn() -> u64> Condition for Polling<'_, D> {
    type Output = usize;

    fn look(&mut self, now: Instant, look: Look) -> Result<Option<usize>, Errno> {
        let deliveries = (self.deliveries)();
        let kernel_due = !self.kernel.is_empty() && now.saturating_since(self.asked) >= ASK_EVERY;
        if look == Look::Lazily && self.seen == Some(deliveries) && !kernel_due {
            return Ok(None);
        }
        self.seen = Some(deliveries);
        self.asked = now;
        let count = self.scan()?;
        Ok((count != 0).then_some(count))
    }

    fn arm(&mut self, bell: &Arc<Wake>) {
        for ours in &mut self.ours {
            match &ours.set {
                Some(set) => set.add_sleeper(bell, false),
                None => ours.watch.arm(&ours.pin, bell),
            }
        }
    }

    fn disarm(&mut self, bell: &Arc<Wake>) {
        for ours in &mut self.ours {
            match &ours.set {
                Some(set) => set.remove_sleeper(bell),
                None => ours.watch.disarm(&ours.pin),
            }
        }
    }

    fn fds(&self, fds: &mut Vec<PollFd>) {
        fds.extend(&self.kernel);
    }
}

/// The three sets of `select(2)`: words of bits, as many as `nfds` needs; the words beyond are
/// not touched.
#[derive(Debug, Default)]
pub struct FdSets<'a> {
    /// To be watched for reading.
    pub read: Option<&'a mut [usize]>,
    /// To be watched for writing.
    pub write: Option<&'a mut [usize]>,
    /// To be watched for exceptional conditions.
    pub except: Option<&'a mut [usize]>,
}

const WORD_BITS: usize = usize::BITS as usize;

/// How many words each set of [`FdSets`] must have for `nfds`.
pub const fn fd_set_words(nfds: usize) -> usize {
    nfds.div_ceil(WORD_BITS)
}

fn bit(set: Option<&[usize]>, fd: usize) -> bool {
    set.and_then(|words| words.get(fd / WORD_BITS))
        .is_some_and(|word| word >> (fd % WORD_BITS) & 1 != 0)
}

/// A `select`'s number of descriptors, no larger than the table would be without luna's own: of
/// what is beyond, the kernel does not even look at the sets, which may be shorter (a program that
/// says `getdtablesize()`).
pub fn within_table(nfds: i32) -> i32 {
    if nfds <= libc::FD_SETSIZE as i32 {
        return nfds;
    }
    let last = sys::open_descriptors()
        .filter(|fd| !internal::is_internal(*fd))
        .max();
    // The kernel's table has a power of two.
    let size = last.map_or(0, |last| (last.max(63) as u32 + 1).next_power_of_two());
    nfds.min((size as i32).max(libc::FD_SETSIZE as i32))
}

/// `pselect(2)`; `timeout` is what is left of it afterwards, as Linux's `select` does it.
///
/// # Errors
///
/// `EBADF`, `EINTR`, `EINVAL`, `ENOMEM`; the sets are as they were.
pub fn select(
    nfds: i32,
    mut sets: FdSets<'_>,
    timeout: &mut Option<Duration>,
    mask: Option<SignalSet>,
) -> Result<usize, Errno> {
    let nfds = usize::try_from(nfds).map_err(|_| Errno::INVAL)?;
    let mut fds = Vec::new();
    let mut ours = false;
    for fd in 0..nfds {
        let mut events = 0;
        if bit(sets.read.as_deref(), fd) {
            events |= SELECT_IN & !ALWAYS;
        }
        if bit(sets.write.as_deref(), fd) {
            events |= SELECT_OUT & !ALWAYS;
        }
        if bit(sets.except.as_deref(), fd) {
            events |= SELECT_EXCEPT;
        }
        if events != 0 {
            ours |= listener::begin_wait(fd as i32);
            fds.push(PollFd {
                fd: fd as i32,
                events,
                revents: 0,
            });
        }
    }
    let crew = match runtime::crew() {
        Some(crew) if ours => crew,
        _ => {
            runtime::flush_deferred();
            let FdSets {
                read,
                write,
                except,
            } = &mut sets;
            return sys::pselect(
                nfds,
                [
                    read.as_deref_mut(),
                    write.as_deref_mut(),
                    except.as_deref_mut(),
                ],
                timeout,
                mask,
            );
        }
    };
    select_with(crew, fds, sets, timeout, mask)
}

fn select_with<E: Engine>(
    crew: &Crew<E>,
    mut fds: Vec<PollFd>,
    mut sets: FdSets<'_>,
    timeout: &mut Option<Duration>,
    mask: Option<SignalSet>,
) -> Result<usize, Errno> {
    let started = SystemClock.now();
    // Errors and hang-ups make a descriptor readable, and errors make it writable, if that is
    // asked for.
    for entry in &mut fds {
        if entry.events & libc::POLLIN != 0 {
            entry.events |= libc::POLLHUP | libc::POLLERR;
        }
        if entry.events & libc::POLLOUT != 0 {
            entry.events |= libc::POLLERR;
        }
    }
    let polled = poll_with(crew, &mut fds, *timeout, mask, libc::POLLNVAL);
    if let Some(timeout) = timeout {
        *timeout = timeout.saturating_sub(SystemClock.now().saturating_since(started));
    }
    polled?;
    if fds.iter().any(|entry| entry.revents & libc::POLLNVAL != 0) {
        return Err(Errno::BADF);
    }
    let count = fill(sets.read.as_deref_mut(), &fds, SELECT_IN)
        + fill(sets.write.as_deref_mut(), &fds, SELECT_OUT)
        + fill(sets.except.as_deref_mut(), &fds, SELECT_EXCEPT);
    Ok(count)
}

/// Leaves those bits of a set that are ready; how many.
fn fill(set: Option<&mut [usize]>, fds: &[PollFd], ready: i16) -> usize {
    let Some(words) = set else { return 0 };
    let mut count = 0;
    let asked = words.to_vec();
    words.fill(0);
    for entry in fds.iter().filter(|entry| entry.revents & ready != 0) {
        let fd = entry.fd as usize;
        if bit(Some(&asked), fd)
            && let Some(word) = words.get_mut(fd / WORD_BITS)
        {
            *word |= 1 << (fd % WORD_BITS);
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests;
