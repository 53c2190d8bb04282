//! Calls by which a process gives its privileges up: nginx's workers do before they first use a
//! listener, memcached before it has one.
//!
//! luna opens what needs privileges just before. The call itself is always the C library's.

use libc::{c_int, uid_t};

use crate::hook::{self, hooks};
use crate::libluna::Libluna;

hooks! {
    fn setuid(uid: uid_t) -> c_int = |luna| {
        prepare(luna, uid);
        None
    }

    fn seteuid(uid: uid_t) -> c_int = |luna| {
        prepare(luna, uid);
        None
    }

    fn setreuid(real: uid_t, effective: uid_t) -> c_int = |luna| {
        let _ = real;
        prepare(luna, effective);
        None
    }

    fn setresuid(real: uid_t, effective: uid_t, saved: uid_t) -> c_int = |luna| {
        let _ = (real, saved);
        prepare(luna, effective);
        None
    }
}

/// Unless the process stays root, or has not been it.
fn prepare(luna: &Libluna, effective: uid_t) {
    // SAFETY: takes nothing.
    let is_root = unsafe { libc::geteuid() } == 0;
    if effective == 0 || !is_root || !luna.may_change_descriptors() {
        return;
    }
    if let Some(prepare) = luna.prepare {
        let before = hook::errno();
        // SAFETY: takes nothing.
        let _whether_it_could: c_int = hook::inside(|| unsafe { prepare() });
        hook::set_errno(before);
    }
}
