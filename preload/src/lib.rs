//! `libluna_preload.so`: gives unmodified programs luna sockets for the ports they reserve.
//!
//! It owns the symbols that the C library also exports ([`hook`]), the decision "is this
//! descriptor ours" (one call through [`libluna`]'s table), and nothing else: no stack, no
//! configuration beyond "is luna wanted at all", no descriptor table. It must not link the luna
//! crate, or a process could hold two stacks.
//!
//! A call on a descriptor that is not ours reaches the next library in the search order with its
//! arguments and `errno` untouched. If luna is not configured, or `libluna.so` is missing, that is
//! true of every call.

mod event_calls;
mod fd_calls;
mod hook;
mod io_calls;
mod libluna;
mod privilege_calls;
mod socket_calls;
mod splice;
mod stdio_calls;
mod syscall_gate;

/// Runs before `main`. Resolves the real functions now, so that no later call needs the dynamic
/// linker in a signal handler or between `fork` and `exec`; then loads `libluna.so` if the
/// environment asks for luna. It opens no device and starts no thread.
#[ctor::ctor(unsafe)]
fn start() {
    let files = [
        socket_calls::CELLS,
        io_calls::CELLS,
        event_calls::CELLS,
        fd_calls::CELLS,
        privilege_calls::CELLS,
        stdio_calls::CELLS,
        syscall_gate::CELLS,
    ];
    for cell in files.into_iter().flatten() {
        cell.address();
    }
    if libluna::is_wanted() {
        libluna::open();
    }
}
