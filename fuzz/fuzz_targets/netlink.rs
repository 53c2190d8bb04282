#![no_main]

#[path = "../entries.rs"]
#[allow(dead_code, reason = "one entry per target")]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::netlink(data));
