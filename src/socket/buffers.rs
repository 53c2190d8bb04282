//! Packet buffers in the hands of the application (LUNA §6.1).
//!
//! Owns the process-wide memory for when there is no shard to allocate from, and the way from
//! an address to whoever must be asked about it. What is lent is counted by `zbuf`.
//!
//! The application allocates from the memory of the shard that its thread turns, which the link
//! can send from. Asking for a buffer starts the stack, if a device is configured: whoever asks
//! means to use it. Where there is no stack, or its memory is nearly used up (what is left is
//! for receiving), the buffer is of memory that no link knows: it works everywhere, and is
//! copied when it is sent.
#![forbid(unsafe_code)]

use super::{fork, policy, runtime};
use crate::sys::{Errno, ForkMutex, Leaked};
use crate::zbuf::{
    Area, Backing, CLASSES, FreeError, Loan, Misuse, OBJECT_BYTES_MAX, Pool, PoolConfig, ShardCell,
    ZONE_BYTES,
};

/// The memory apart: address space, of which only what is used becomes memory.
const APART_BYTES: usize = 256 << 20;

#[derive(Debug)]
struct Apart {
    area: std::sync::Arc<Area>,
    cell: ShardCell<Pool>,
}

static APART: Leaked<Apart> = Leaked::new();
static MAKING: ForkMutex<()> = ForkMutex::new(());

fn apart() -> Result<&'static Apart, Errno> {
    if let Some(apart) = APART.get() {
        return Ok(apart);
    }
    fork::arm();
    let _one_at_a_time = MAKING.lock();
    if let Some(apart) = APART.get() {
        return Ok(apart);
    }
    let area = Area::with_backing(APART_BYTES, Backing::Transparent).map_err(|_| Errno::NOMEM)?;
    let cell = ShardCell::try_new(|| {
        let config = PoolConfig {
            zones: APART_BYTES / ZONE_BYTES,
            initial_zones: [0; CLASSES],
            populate: false,
            ..PoolConfig::default()
        };
        Pool::new(&area, config).map_err(|_| Errno::NOMEM)
    })?;
    let apart: &'static Apart = Box::leak(Box::new(Apart { area, cell }));
    APART.set(apart);
    Ok(apart)
}

/// In the child of a fork: the parent's buffers are foreign.
pub(super) fn after_fork_child() {
    APART.clear();
}

/// A buffer of at least `bytes`, from the shard that this thread turns.
///
/// # Errors
///
/// `EMSGSIZE` for more than [`OBJECT_BYTES_MAX`], `ENOMEM`.
pub fn alloc(bytes: usize) -> Result<Loan, Errno> {
    fork::check();
    if policy::get().is_wanted && runtime::shards() == 0 {
        fork::arm();
        // It has been reported; there is memory apart.
        let _reason = runtime::start();
    }
    alloc_on(runtime::home_shard(), bytes)
}

/// A buffer of at least `bytes` in the memory of `shard`, or apart.
///
/// # Errors
///
/// As [`alloc`].
pub fn alloc_on(shard: Option<usize>, bytes: usize) -> Result<Loan, Errno> {
    if bytes > OBJECT_BYTES_MAX {
        return Err(Errno::MSGSIZE);
    }
    let of_shard = shard.and_then(|shard| {
        runtime::with_shard(shard, |shard| {
            let pool = shard.pool_mut();
            pool.lend_new(bytes)
        })
    });
    match of_shard.flatten() {
        Some(loan) => Ok(loan),
        None => alloc_apart(bytes),
    }
}

/// A buffer that no link knows.
///
/// # Errors
///
/// As [`alloc`].
pub fn alloc_apart(bytes: usize) -> Result<Loan, Errno> {
    let lent = apart()?.cell.with(|pool| {
        pool.drain_remote();
        pool.lend_new(bytes)
    });
    lent.ok().flatten().ok_or(Errno::NOMEM)
}

/// A copy of `bytes` (at most [`OBJECT_BYTES_MAX`]) in a buffer that no link knows.
///
/// # Errors
///
/// `ENOMEM`.
pub fn copy_apart(bytes: &[u8]) -> Result<Loan, Errno> {
    let copied = apart()?.cell.with(|pool| {
        pool.drain_remote();
        pool.copy_in(bytes).map(crate::zbuf::Slice::lend)
    });
    copied.ok().flatten().ok_or(Errno::NOMEM)
}

fn area_of(pointer: *const u8) -> Option<&'static Area> {
    if let Some((_, area)) = runtime::memory_at(pointer.addr()) {
        return Some(area);
    }
    APART
        .get()
        .map(|apart| &*apart.area)
        .filter(|area| area.contains(pointer))
}

/// What is wrong, as an `errno`.
pub const fn errno_of(error: FreeError) -> Errno {
    match error {
        FreeError::Foreign => Errno::FAULT,
        FreeError::AlreadyFree => Errno::INVAL,
    }
}

static FOREIGN: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

fn foreign() -> Errno {
    FOREIGN.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    Errno::FAULT
}

/// Gives one reference back.
///
/// # Errors
///
/// `EFAULT` if the address is not in a buffer, `EINVAL` if the application does not hold it
/// (any more). Either is counted.
pub fn free(pointer: *const u8) -> Result<(), Errno> {
    let area = area_of(pointer).ok_or_else(foreign)?;
    area.free_ptr(pointer).map_err(errno_of)
}

/// Takes one reference more.
///
/// # Errors
///
/// As [`free`].
pub fn keep(pointer: *const u8) -> Result<(), Errno> {
    let area = area_of(pointer).ok_or_else(foreign)?;
    if area.try_ref_ptr(pointer).is_ok() {
        return Ok(());
    }
    // It may be before a callback of the loop that runs on this thread.
    let address = pointer.addr();
    let kept = runtime::memory_at(address).and_then(|(shard, _)| {
        runtime::with_shard(shard, |shard| {
            let pointer = core::ptr::without_provenance(address);
            let of = shard.told();
            shard.lend_exposed(of, pointer)
        })
    });
    kept.unwrap_or_else(|| area.ref_ptr(pointer))
        .map_err(errno_of)
}

/// Bytes from an address to its buffer's end.
///
/// # Errors
///
/// `EFAULT` if the address is not in a buffer.
pub fn room(pointer: *const u8) -> Result<usize, Errno> {
    let area = area_of(pointer).ok_or_else(foreign)?;
    area.room_at(pointer).map_err(errno_of)
}

/// Whether the application's is the only reference.
///
/// # Errors
///
/// As [`free`].
pub fn is_writable(pointer: *const u8) -> Result<bool, Errno> {
    let address = pointer.addr();
    let answer = match runtime::memory_at(address) {
        Some((shard, _)) => runtime::with_shard(shard, |shard| {
            shard
                .pool()
                .is_writable(core::ptr::without_provenance(address))
        }),
        None => {
            let apart = APART.get().filter(|apart| apart.area.contains(pointer));
            let apart = apart.ok_or_else(foreign)?;
            apart
                .cell
                .with(|pool| pool.is_writable(core::ptr::without_provenance(address)))
                .ok()
        }
    };
    answer.ok_or(Errno::FAULT)?.map_err(errno_of)
}

/// How often the application gave back what was not its own.
pub fn misuse() -> Misuse {
    let mut all = Misuse {
        foreign: FOREIGN.load(core::sync::atomic::Ordering::Relaxed),
        already_free: 0,
    };
    let apart = APART.get().map(|apart| &*apart.area);
    for area in runtime::areas().into_iter().chain(apart) {
        let one = area.misuse();
        all.foreign += one.foreign;
        all.already_free += one.already_free;
    }
    all
}
