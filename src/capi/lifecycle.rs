//! The end of the library's life in a process.

use crate::socket::exit;

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
