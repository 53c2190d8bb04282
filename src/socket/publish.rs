//! Shows the sockets of this process on the statistics board, which `luna ss` reads.
//!
//! Runs on the steward thread, so that no packet pays for it. The data path keeps no copy of
//! anything for the board's sake: the shards are asked.
#![forbid(unsafe_code)]

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::collections::HashMap;
use std::os::fd::RawFd;

use super::description::{self, Kind, Pin};
use super::{addr, policy, runtime, table};
use crate::config::{Config, Mode};
use crate::stack::{ConnInfo, Drop, ListenId, Shard};
use crate::stats::{Board, BoardInfo, Counters, Reason, RowId, RowState, RunState, SocketRow};
use crate::sys::{self, ForkMutex, internal};
use crate::tcp::State;
use crate::time::{Duration, Instant, unix_seconds};

/// No more often than this; and never more than a hundredth of a core (see [`Publisher::run`]).
const EVERY: Duration = Duration::from_millis(200);
const SHARE_OF_A_CORE: u64 = 100;

const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The board of a process whose stack does not run: it says why. Brought up to date only by
/// [`present`].
static WITHOUT_STACK: ForkMutex<Option<Publisher>> = ForkMutex::new(None);

/// Shows the sockets of a process whose stack does not run, as they are now.
pub(crate) fn present() {
    let Some(config) = &policy::get().config else {
        return;
    };
    let mut publisher = WITHOUT_STACK.lock();
    if publisher.is_none() {
        *publisher = Publisher::open(config, RunState::KernelOnly, Reason::NotStarted);
    }
    if let Some(publisher) = &mut *publisher {
        publisher.run();
    }
}

/// The stack runs, and has a board of its own.
pub(crate) fn withdraw() {
    if let Some(publisher) = WITHOUT_STACK.lock().take() {
        internal::forget(publisher.board.fd());
    }
}

struct Shown {
    row: RowId,
    round: u64,
}

/// The rows of this process.
pub(crate) struct Publisher {
    board: Board,
    shown: HashMap<u64, Shown>,
    round: u64,
    next: Instant,
}

impl Publisher {
    /// Makes the board. Without it there is only less to see.
    pub(crate) fn open(config: &Config, state: RunState, reason: Reason) -> Option<Self> {
        let info = BoardInfo {
            pid: sys::getpid(),
            started_s: unix_seconds(),
            device: config.device.to_string(),
            program: policy::program_name(),
            shards: config.shards,
            dedicated: config.mode == Mode::Dedicated,
            state,
            state_reason: reason,
            rows_refused: 0,
        };
        match Board::create(&info, internal::first()) {
            Ok(board) => {
                let _ = internal::keep_here(board.fd());
                Some(Self {
                    board,
                    shown: HashMap::new(),
                    round: 0,
                    next: Instant::ZERO,
                })
            }
            Err(error) => {
                log::warn!("`luna ss` will not see this process: {error}");
                None
            }
        }
    }

    /// When [`Publisher::run`] wants to run again, as long as the stack is busy.
    pub(crate) const fn next(&self) -> Instant {
        self.next
    }

    /// Brings the board up to date.
    pub(crate) fn run(&mut self) {
        let start = runtime::now();
        self.round += 1;
        for index in 0..runtime::shards() {
            if let Some(counters) = runtime::with_shard(index, |shard| counters(shard)) {
                self.board.publish(index, &counters);
            }
        }
        for (fd, id) in table::ours(0, u32::MAX) {
            let is_first = self
                .shown
                .get(&id.to_bits())
                .is_none_or(|s| s.round != self.round);
            if is_first
                && let Some(pin) = description::pin(id)
                && let Some(row) = row(&pin, fd)
            {
                self.show(id.to_bits(), &row);
            }
        }
        let (board, round) = (&self.board, self.round);
        self.shown.retain(|_, shown| {
            let keep = shown.round == round;
            if !keep {
                board.release(shown.row);
            }
            keep
        });
        let end = runtime::now();
        let pause = end.saturating_since(start).saturating_mul(SHARE_OF_A_CORE);
        self.next = end + EVERY.max(pause);
    }

    fn show(&mut self, name: u64, row: &SocketRow) {
        let round = self.round;
        if let Some(shown) = self.shown.get_mut(&name) {
            shown.round = round;
            self.board.update(shown.row, row);
        } else if let Some(id) = self.board.claim() {
            self.shown.insert(name, Shown { row: id, round });
            self.board.update(id, row);
        }
    }
}

/// `fd`: the lowest of its descriptors.
fn row(pin: &Pin, fd: RawFd) -> Option<SocketRow> {
    let mut row = match pin.kind() {
        Kind::Epoll | Kind::Dead => return None,
        Kind::Stream => stream_row(pin)?,
        Kind::Listener => listener_row(pin),
        Kind::Kernel | Kind::Provisional => kernel_row(pin, fd),
    };
    row.fd = fd;
    Some(row)
}

fn stream_row(pin: &Pin) -> Option<SocketRow> {
    let name = pin.stream()?;
    let (info, queued) = runtime::with_shard(name.shard, |shard| {
        shard
            .info(name.conn)
            .map(|info| (info, shard.unsent_bytes(name.conn).0))
    })??;
    let mut row = SocketRow::new(
        state(info.tcp.state),
        Reason::Accelerated,
        info.local,
        info.remote,
    );
    row.shard = name.shard as u16;
    fill(&mut row, &info);
    row.send_queue = u32::try_from(queued).unwrap_or(u32::MAX);
    Some(row)
}

fn fill(row: &mut SocketRow, info: &ConnInfo) {
    let micros = |d: Duration| u32::try_from(d.as_micros()).unwrap_or(u32::MAX);
    let tcp = &info.tcp;
    row.bytes_in = tcp.volume.bytes_in;
    row.bytes_out = tcp.volume.bytes_acked;
    row.retransmits = u32::try_from(tcp.counters.retransmits).unwrap_or(u32::MAX);
    row.srtt_us = tcp.srtt.map_or(0, micros);
    row.rttvar_us = micros(tcp.rttvar);
    row.cwnd_bytes = tcp.cwnd;
    row.ssthresh_bytes = tcp.ssthresh;
    row.mss_bytes = tcp.snd_mss;
    row.recv_queue = tcp.readable;
}

fn listener_row(pin: &Pin) -> SocketRow {
    let (local, group) = {
        let cell = pin.socket.lock();
        (cell.local.unwrap_or(NOWHERE), cell.group.clone())
    };
    let mut row = SocketRow::new(RowState::Listen, pin.reason(), local, NOWHERE);
    for &(shard, id) in group.iter().flat_map(|group| group.listen_ids()) {
        if let Some((waiting, most)) = queue(shard, id) {
            row.recv_queue += waiting;
            row.send_queue = most;
        }
    }
    row
}

fn queue(shard: usize, id: ListenId) -> Option<(u32, u32)> {
    runtime::with_shard(shard, |shard| shard.listener_queue(id))?
}

fn kernel_row(pin: &Pin, fd: RawFd) -> SocketRow {
    let address = |raw: Result<sys::RawAddress, sys::Errno>| {
        raw.ok().and_then(|raw| addr::decode(raw.as_bytes()))
    };
    let local = address(sys::getsockname(fd)).unwrap_or(NOWHERE);
    let remote = address(sys::getpeername(fd));
    let listens = || sys::getsockopt_int(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN) == Ok(1);
    let state = match remote {
        Some(_) => RowState::Established,
        None if listens() => RowState::Listen,
        None => RowState::Unconnected,
    };
    SocketRow::new(state, pin.reason(), local, remote.unwrap_or(NOWHERE))
}

const fn state(state: State) -> RowState {
    match state {
        State::Closed => RowState::Closed,
        State::SynSent => RowState::SynSent,
        State::SynReceived => RowState::SynReceived,
        State::Established => RowState::Established,
        State::FinWait1 => RowState::FinWait1,
        State::FinWait2 => RowState::FinWait2,
        State::CloseWait => RowState::CloseWait,
        State::Closing => RowState::Closing,
        State::LastAck => RowState::LastAck,
        State::TimeWait => RowState::TimeWait,
    }
}

fn counters(shard: &Shard) -> Counters {
    let stack = shard.counters();
    let device = shard.device_stats();
    let (connections, time_wait) = shard.population();
    let dropped = |reason: Drop| stack.drops.get(reason as usize).copied().unwrap_or(0);
    Counters {
        rx_frames: device.rx_frames,
        rx_bytes: device.rx_bytes,
        rx_malformed: dropped(Drop::Malformed)
            + dropped(Drop::Truncated)
            + dropped(Drop::Unsupported)
            + dropped(Drop::Address),
        rx_checksum: dropped(Drop::Checksum),
        rx_no_socket: stack.segments_unknown,
        rx_no_buffer: device.rx_dropped,
        tx_frames: device.tx_frames,
        tx_bytes: device.tx_bytes,
        turns: stack.turns - stack.turns_idle,
        idle_turns: stack.turns_idle,
        connections: connections as u64,
        listeners: shard.listener_count() as u64,
        time_wait: time_wait as u64,
        opened: stack.active_opens,
        accepted: stack.passive_opens,
        syn_cookies: stack.cookies_out,
        accept_overflows: dropped(Drop::ListenOverflow),
        resets_out: stack.resets_out,
        retransmits: stack.retransmits,
        buffers_used: shard.objects_in_use() as u64,
        ..Counters::default()
    }
}
