//! The area does not reach forked children, and forking moves no page of the parent's.

use std::os::unix::fs::FileExt;

use super::*;

/// Where `pointer`'s page is in physical memory; `None` without the privilege to know.
fn frame_number(pointer: *const u8) -> Option<u64> {
    let pagemap = std::fs::File::open("/proc/self/pagemap").ok()?;
    let mut entry = [0; 8];
    pagemap
        .read_exact_at(&mut entry, pointer.addr() as u64 / 4096 * 8)
        .ok()?;
    Some(u64::from_ne_bytes(entry) & ((1 << 55) - 1)).filter(|frame| *frame != 0)
}

/// Runs `child` in a forked child, returns what it returned. It must not allocate.
fn in_child(meanwhile: impl FnOnce(), child: impl FnOnce() -> bool) -> bool {
    let (mut wait, go) = std::io::pipe().unwrap();
    // SAFETY: the child calls nothing that could wait for a lock of another thread's.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        drop(go);
        // Until the parent has written to its memory.
        let _ = std::io::Read::read(&mut wait, &mut [0]);
        let good = child();
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(if good { 0 } else { 1 }) };
    }
    meanwhile();
    drop(go);
    let mut status = -1;
    // SAFETY: our child, our variable.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

fn check(best: Backing) {
    let area = Area::with_backing(2 * ZONE_BYTES, best).unwrap();
    let mut pool = Pool::new(
        &area,
        PoolConfig {
            zones: 2,
            ..Default::default()
        },
    )
    .unwrap();
    let mut slice = filled(&mut pool, 2048, b"the parent's");
    let theirs = slice.clone();
    let before = frame_number(slice.as_bytes().as_ptr());
    let mut after = None;
    // On the remote list across the fork.
    let freed = filled(&mut pool, 2048, b"freed").lend().as_ptr();
    area.free_ptr(freed).unwrap();
    let good = in_child(
        || {
            drop(theirs.clone());
            slice.append(b" own");
            after = frame_number(slice.as_bytes().as_ptr());
        },
        || {
            if theirs.tx_inflight_in_child(&area).is_err() {
                return false;
            }
            let wiped = theirs.as_bytes().iter().all(|byte| *byte == 0);
            drop(theirs.clone());
            drop(theirs.sub(1, 3));
            let nothing = pool.drain_remote() == 0;
            wiped && nothing && area.free_ptr(theirs.as_bytes().as_ptr()).is_err()
        },
    );
    assert!(good, "{best:?}");
    assert_eq!(
        before, after,
        "copied on write: the link would not see what we write"
    );
    assert_eq!(slice.as_bytes(), b"the parent's own");
    drop((slice, theirs));
    assert_eq!(pool.drain_remote(), 1);
    assert_eq!(pool.objects_in_use(), 0);
}

impl Slice {
    /// Makes the area safe to touch, as a fork handler would.
    fn tx_inflight_in_child(&self, area: &Area) -> std::io::Result<u32> {
        area.restore_after_fork()?;
        area.restore_after_fork()?;
        Ok(self.tx_inflight())
    }
}

#[test]
fn children_see_zeroes_and_parents_keep_their_pages() {
    check(Backing::Plain);
    check(Backing::Transparent);
    // Reserved hugepages if this machine has any.
    check(Backing::HugeTlb);
}
