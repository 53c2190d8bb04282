//! The statistics board: the counters and sockets of one process, in memory that others can read.
//!
//! A sealed memory file: nobody but the process that made it can write to it, nobody can shrink it
//! under a reader, and the kernel frees it with the process. All of it is 64-bit words that are
//! only ever touched atomically, so that a reader may look at any moment.
//!
//! | words | what |
//! |---|---|
//! | header | magic, version, process, shape, state, device |
//! | one block per shard | its counters, each a word |
//! | rows | a sequence number (odd while the row is being written) and 15 words |
//!
//! After `fork` the child shares the memory with its parent: it must not write. It forgets the
//! board ([`Board::abandon_in_child`]) and makes one of its own.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use super::row::ROW_WORDS;
use super::{COUNTERS, Counters, Reason, SocketRow};

/// The name by which the board is found: `/proc/PID/fd/N` points to `/memfd:luna-stats`.
pub const NAME: &str = "luna-stats";

const MAGIC: u64 = u64::from_le_bytes(*b"LUNASTAT");
/// Changes with the layout and with the order of the counters.
const VERSION: u64 = 1;

const HEADER_WORDS: usize = 64;
const SHARD_WORDS: usize = 64;
/// Blocks for as many shards as can be asked for.
const SHARD_BLOCKS: usize = 256;
const ROW_STRIDE: usize = ROW_WORDS + 1;
const ROWS_AT: usize = HEADER_WORDS + SHARD_BLOCKS * SHARD_WORDS;
/// Most sockets that are shown; those beyond are only counted. Memory that no row has used yet
/// does not exist.
pub const ROWS_MAX: usize = 1 << 16;
const WORDS: usize = ROWS_AT + ROWS_MAX * ROW_STRIDE;

const _: () = assert!(COUNTERS <= SHARD_WORDS);
const _: () = assert!(ROWS_MAX < u32::MAX as usize);

/// The header's words.
mod at {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 1;
    pub(super) const PID: usize = 2;
    pub(super) const STARTED_S: usize = 3;
    pub(super) const SHARDS: usize = 4;
    pub(super) const DEDICATED: usize = 5;
    pub(super) const RUN_STATE: usize = 6;
    pub(super) const ROWS_USED: usize = 7;
    pub(super) const ROWS_REFUSED: usize = 8;
    pub(super) const COUNTERS: usize = 9;
    pub(super) const DEVICE: usize = 16;
    pub(super) const DEVICE_WORDS: usize = 16;
    pub(super) const PROGRAM: usize = 32;
    pub(super) const PROGRAM_WORDS: usize = 8;
}

/// Whether the stack runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum RunState {
    /// Nothing has been promoted yet.
    #[default]
    Waiting = 0,
    /// The stack runs.
    Running = 1,
    /// It could not start; every socket is on the kernel.
    KernelOnly = 2,
}

impl RunState {
    const fn from_code(code: u64) -> Self {
        match code {
            1 => Self::Running,
            2 => Self::KernelOnly,
            _ => Self::Waiting,
        }
    }

    /// The name that tools print.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::KernelOnly => "kernel only",
        }
    }
}

/// What the header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoardInfo {
    /// The process, in its own namespace.
    pub pid: u32,
    /// When the board was made, in seconds since 1970.
    pub started_s: u64,
    /// The device specification, cut to 128 bytes.
    pub device: String,
    /// The program's name, cut to 64 bytes.
    pub program: String,
    /// Number of shards.
    pub shards: u16,
    /// Whether stack threads turn the shards.
    pub dedicated: bool,
    /// Whether the stack runs.
    pub state: RunState,
    /// Why it does not.
    pub state_reason: Reason,
    /// Sockets that found no free row.
    pub rows_refused: u64,
}

/// A mapping of the whole file.
#[derive(Debug)]
struct Words {
    start: *const AtomicU64,
}

// SAFETY: the memory is only touched through atomics.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps a file of at least `WORDS` words that can't shrink.
    fn map(file: &OwnedFd, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice. The callers made sure that
        // the file is long enough and sealed against shrinking, so that no access faults.
        let start = unsafe {
            rustix::mm::mmap(
                core::ptr::null_mut(),
                WORDS * size_of::<u64>(),
                protection,
                MapFlags::SHARED,
                file,
                0,
            )
        }?;
        Ok(Self {
            start: start.cast(),
        })
    }

    fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many words, is page-aligned, and lives as long as `self`.
        // Other processes write to it only through atomics of the same size.
        unsafe { core::slice::from_raw_parts(self.start, WORDS) }
    }

    #[inline]
    fn load(&self, index: usize) -> u64 {
        self.all()
            .get(index)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    #[inline]
    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.all().get(index) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn row(&self, index: u32) -> &[AtomicU64] {
        let start = ROWS_AT + index as usize * ROW_STRIDE;
        self.all()
            .get(start..start + ROW_STRIDE)
            .unwrap_or_default()
    }

    fn store_text(&self, index: usize, words: usize, text: &str) {
        let mut bytes = text.bytes();
        for index in index..index + words {
            let word = core::array::from_fn(|_| bytes.next().unwrap_or(0));
            self.store(index, u64::from_le_bytes(word));
        }
    }

    fn load_text(&self, index: usize, words: usize) -> String {
        let bytes: Vec<u8> = (index..index + words)
            .flat_map(|index| self.load(index).to_le_bytes())
            .take_while(|byte| *byte != 0)
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        let start = self.start.cast_mut().cast();
        // SAFETY: the mapping that `map` made; nothing borrowed from `self` is left. If it fails
        // the mapping stays, which harms nobody.
        let _ = unsafe { rustix::mm::munmap(start, WORDS * size_of::<u64>()) };
    }
}

/// The row of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowId(u32);

/// The board of this process. All methods may be called from any thread; those on one row or one
/// shard only by whoever owns the socket or the shard at that moment.
#[derive(Debug)]
pub struct Board {
    words: Words,
    file: OwnedFd,
    /// Rows that were never used.
    fresh: AtomicU32,
    /// Top of the stack of released rows, plus one, below a tag that changes with every pop.
    free: AtomicU64,
}

impl Board {
    /// Makes the board of this process. Its descriptor is at least `least_fd` if the limit on
    /// descriptors allows, to be out of the program's way.
    ///
    /// # Errors
    ///
    /// The kernel's, if it has no memory or descriptor to give.
    pub fn create(info: &BoardInfo, least_fd: RawFd) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = rustix::fs::memfd_create(NAME, flags)?;
        if let Ok(moved) = rustix::io::fcntl_dupfd_cloexec(&file, least_fd) {
            file = moved;
        }
        rustix::fs::ftruncate(&file, (WORDS * size_of::<u64>()) as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
        let words = Words::map(&file, ProtFlags::READ | ProtFlags::WRITE)?;
        // Before Linux 5.1 others with our rights could write; they could also trace us.
        let _ = rustix::fs::fcntl_add_seals(&file, SealFlags::FUTURE_WRITE | SealFlags::SEAL);
        let board = Self {
            words,
            file,
            fresh: AtomicU32::new(0),
            free: AtomicU64::new(0),
        };
        board.set_info(info);
        board.words.store(at::VERSION, VERSION);
        board.words.store(at::COUNTERS, COUNTERS as u64);
        // A reader takes the magic as "the rest is there".
        fence(Ordering::Release);
        board.words.store(at::MAGIC, MAGIC);
        Ok(board)
    }

    /// The descriptor, which the program must not close.
    pub fn fd(&self) -> RawFd {
        self.file.as_fd().as_raw_fd()
    }

    /// Forgets the parent's board in a forked child: the memory is the parent's to write. The
    /// descriptor is closed; the mapping stays, untouched.
    pub fn abandon_in_child(self) {
        let Self { words, file, .. } = self;
        core::mem::forget(words);
        drop(file);
    }

    /// Writes the header anew.
    pub fn set_info(&self, info: &BoardInfo) {
        let words = &self.words;
        words.store(at::PID, u64::from(info.pid));
        words.store(at::STARTED_S, info.started_s);
        words.store(at::SHARDS, u64::from(info.shards));
        words.store(at::DEDICATED, u64::from(info.dedicated));
        words.store_text(at::DEVICE, at::DEVICE_WORDS, &info.device);
        words.store_text(at::PROGRAM, at::PROGRAM_WORDS, &info.program);
        self.set_state(info.state, info.state_reason);
    }

    /// Says whether the stack runs, and if not, why.
    pub fn set_state(&self, state: RunState, reason: Reason) {
        self.words
            .store(at::RUN_STATE, state as u64 | (reason as u64) << 8);
    }

    /// Shows a shard's counters; those of shards beyond the limit are not shown.
    #[inline]
    pub fn publish(&self, shard: usize, counters: &Counters) {
        if shard >= SHARD_BLOCKS {
            return;
        }
        let start = HEADER_WORDS + shard * SHARD_WORDS;
        let block = self
            .words
            .all()
            .get(start..start + COUNTERS)
            .unwrap_or_default();
        for (word, value) in block.iter().zip(counters.to_array()) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Takes a row for a socket; `None` if all are in use. Lock-free.
    pub fn claim(&self) -> Option<RowId> {
        if let Some(row) = self.pop_free() {
            return Some(RowId(row));
        }
        let fresh = self
            .fresh
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fresh| {
                (fresh < ROWS_MAX as u32).then_some(fresh + 1)
            });
        match fresh {
            Ok(row) => {
                if let Some(used) = self.words.all().get(at::ROWS_USED) {
                    used.fetch_max(u64::from(row) + 1, Ordering::Relaxed);
                }
                Some(RowId(row))
            }
            Err(_) => {
                if let Some(refused) = self.words.all().get(at::ROWS_REFUSED) {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                None
            }
        }
    }

    /// Shows what is known of a socket.
    #[inline]
    pub fn update(&self, row: RowId, socket: &SocketRow) {
        self.write(row, socket.to_words());
    }

    /// Gives the row back. The id must not be used again.
    pub fn release(&self, row: RowId) {
        self.write(row, [0; ROW_WORDS]);
        let mut top = self.free.load(Ordering::Relaxed);
        loop {
            // The link lies in the row itself; a free row has no state, so readers skip it.
            if let Some(link) = self.words.row(row.0).last() {
                link.store(top & u64::from(u32::MAX), Ordering::Relaxed);
            }
            let next = (top & !u64::from(u32::MAX)) | u64::from(row.0 + 1);
            match self
                .free
                .compare_exchange_weak(top, next, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    fn pop_free(&self) -> Option<u32> {
        let mut top = self.free.load(Ordering::Acquire);
        loop {
            let row = (top as u32).checked_sub(1)?;
            let link = self.words.row(row).last()?.load(Ordering::Relaxed);
            // The tag tells this top from the same row after a pop and a push in between.
            let next = ((top >> 32).wrapping_add(1) << 32) | (link & u64::from(u32::MAX));
            match self
                .free
                .compare_exchange_weak(top, next, Ordering::Acquire, Ordering::Acquire)
            {
                Ok(_) => return Some(row),
                Err(now) => top = now,
            }
        }
    }

    /// The writer's half of the sequence lock.
    #[inline]
    fn write(&self, row: RowId, values: [u64; ROW_WORDS]) {
        let Some((sequence, words)) = self.words.row(row.0).split_first() else {
            return;
        };
        let before = sequence.load(Ordering::Relaxed);
        sequence.store(before | 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in words.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
        sequence.store((before | 1).wrapping_add(1), Ordering::Release);
    }
}

/// The board of another process (or of this one), to look at.
#[derive(Debug)]
pub struct Reader {
    words: Words,
}

impl Reader {
    /// Opens `/proc/PID/fd/N`.
    ///
    /// # Errors
    ///
    /// The kernel's (`PermissionDenied` for another user's process), or `InvalidData` if the file
    /// is not a board of this version.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file: OwnedFd = std::fs::File::open(path)?.into();
        let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
        let length = rustix::fs::fstat(&file)?.st_size;
        if usize::try_from(length).is_ok_and(|length| length < WORDS * size_of::<u64>()) {
            return Err(invalid("too short: written by another version"));
        }
        if !rustix::fs::fcntl_get_seals(&file)?.contains(SealFlags::SHRINK) {
            return Err(invalid("not sealed"));
        }
        let words = Words::map(&file, ProtFlags::READ)?;
        let magic = words.load(at::MAGIC);
        fence(Ordering::Acquire);
        let is_ours = words.load(at::VERSION) == VERSION
            && words.load(at::COUNTERS) == COUNTERS as u64
            && magic == MAGIC;
        if is_ours {
            Ok(Self { words })
        } else {
            Err(invalid("written by another version"))
        }
    }

    /// The header.
    pub fn info(&self) -> BoardInfo {
        let state = self.words.load(at::RUN_STATE);
        BoardInfo {
            pid: self.words.load(at::PID) as u32,
            started_s: self.words.load(at::STARTED_S),
            device: self.words.load_text(at::DEVICE, at::DEVICE_WORDS),
            program: self.words.load_text(at::PROGRAM, at::PROGRAM_WORDS),
            shards: (self.words.load(at::SHARDS) as u16).min(SHARD_BLOCKS as u16),
            dedicated: self.words.load(at::DEDICATED) != 0,
            state: RunState::from_code(state & 0xff),
            state_reason: Reason::from_code((state >> 8) as u8),
            rows_refused: self.words.load(at::ROWS_REFUSED),
        }
    }

    /// A shard's counters. Each is exact; they need not be of the same moment.
    pub fn counters(&self, shard: usize) -> Counters {
        let start = HEADER_WORDS + shard.min(SHARD_BLOCKS - 1) * SHARD_WORDS;
        Counters::from_array(core::array::from_fn(|index| self.words.load(start + index)))
    }

    /// The sockets, in no order. One that is written to without a pause is left out.
    pub fn rows(&self) -> Vec<SocketRow> {
        let used = (self.words.load(at::ROWS_USED) as usize).min(ROWS_MAX) as u32;
        (0..used).filter_map(|row| self.read(row)).collect()
    }

    /// The reader's half of the sequence lock.
    fn read(&self, row: u32) -> Option<SocketRow> {
        const ATTEMPTS: usize = 1000;
        let (sequence, words) = self.words.row(row).split_first()?;
        for _ in 0..ATTEMPTS {
            let before = sequence.load(Ordering::Acquire);
            if before & 1 == 0 {
                let mut values = [0; ROW_WORDS];
                for (value, word) in values.iter_mut().zip(words) {
                    *value = word.load(Ordering::Relaxed);
                }
                fence(Ordering::Acquire);
                if sequence.load(Ordering::Relaxed) == before {
                    return SocketRow::from_words(&values);
                }
            }
            core::hint::spin_loop();
        }
        None
    }
}
