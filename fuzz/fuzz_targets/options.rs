#![no_main]

#[path = "../../tests/host/mod.rs"]
mod host;
#[path = "../host.rs"]
#[allow(dead_code, reason = "one entry per target")]
mod shard;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shard::options(data));
