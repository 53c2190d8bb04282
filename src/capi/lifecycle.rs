//! The end of the library's life in a process, and of its privileges.

use core::ffi::c_int;

use super::macros::entry;
use crate::socket::{exit, runtime};
use crate::sys::Errno;

/// Opens now what needs privileges (the link's sockets and its program), for a process that is
/// about to give them up; the stack itself starts when it is needed. 0, also if there is nothing
/// to prepare.
///
/// # Safety
///
/// None.
///
/// # Errors
///
/// `EPERM`: the link can't be opened; the log says why when the stack is needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn luna_prepare() -> c_int {
    entry!({
        match runtime::prepare() {
            Ok(()) => Ok(0),
            Err(cause) => {
                log::debug!("{cause}");
                Err(Errno::PERM)
            }
        }
    })
}

/// Runs after the application's own exit handlers: an orderly exit delivers what was written.
extern "C" fn at_exit() {
    // Nobody is left to be told of a panic.
    let _ = std::panic::catch_unwind(exit::drain);
}

// SAFETY: the section holds pointers to functions without arguments, which is what this is; the
// dynamic linker calls it once, when the process exits.
#[unsafe(link_section = ".fini_array")]
#[used]
static AT_EXIT: extern "C" fn() = at_exit;
