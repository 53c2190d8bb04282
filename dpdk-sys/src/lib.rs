//! The raw interface to DPDK: the types of `shim.h`, and the shared object that implements them.
//!
//! Nothing here is linked to DPDK. [`DRIVER`] is, and it is loaded when a DPDK device is first
//! opened: a program that uses none neither needs DPDK to be installed nor pays for its
//! constructors. There is no logic in this crate; `luna`'s `device::dpdk` is the safe side of it.

#![no_std]

/// The contents of `libluna_dpdk.so`. It travels inside the library so that it can neither be
/// missing nor be of another build.
pub static DRIVER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libluna_dpdk.so"));

/// The only symbol that it exports: a [`luna_dpdk_table`].
pub const TABLE_SYMBOL: &core::ffi::CStr = c"luna_dpdk_table";

#[allow(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "made by bindgen from shim.h, which documents them"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

// What Rust and C must agree on beyond what bindgen checks: no padding that one side would not
// write.
const _: () = assert!(size_of::<luna_dpdk_piece>() == 32);
const _: () = assert!(size_of::<luna_dpdk_segment>() == 16);
const _: () = assert!(size_of::<luna_dpdk_table>() == 8 + 19 * size_of::<usize>());
