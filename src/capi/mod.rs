//! The exported C functions (`include/luna.h`).
//!
//! Each is named after the call it stands for, with `luna_` before it, and has that call's
//! signature, results and `errno`. Each works on any descriptor: what is not luna's goes to the
//! kernel by a raw system call. `fcntl` and `ioctl` take one argument of the size of a pointer.
//!
//! Owns the border: pointers of the caller, panics, `errno`. Knows nothing of how sockets work.

mod events;
mod files;
mod info;
mod io;
mod lifecycle;
mod loop_calls;
mod loops;
mod macros;
mod memory;
pub mod safe;
mod sockets;
mod stats;
mod zbuf;
mod zio;

pub use events::*;
pub use files::*;
pub use info::*;
pub use io::*;
pub use lifecycle::*;
pub use loops::*;
pub use sockets::*;
pub use stats::*;
pub use zbuf::*;
pub use zio::*;
