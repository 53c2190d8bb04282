//! What the socket layer costs a server in an event loop: `epoll_wait`, `read`, `write`, and
//! `epoll_wait` again, over two shards on a wire in memory, on one thread. The same exchange
//! without descriptors and sets is in `rpc`.
#![allow(missing_docs, reason = "a benchmark")]

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use luna::socket::testutil::Rig;
use luna::time::Duration;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("event_loop");
    let message = vec![7_u8; 4096];
    let mut buffer = vec![0_u8; 8192];
    for (name, flags) in [("level", 0), ("edge", libc::EPOLLET as u32)] {
        let mut rig = Rig::new(flags);
        for bytes in [64, 4096] {
            let request = message.get(..bytes).unwrap_or_default();
            group.throughput(Throughput::Elements(1));
            group.bench_function(format!("{name}/{bytes}"), |bencher| {
                bencher.iter(|| black_box(rig.round_trip(request, &mut buffer)));
            });
        }
        group.bench_function(format!("{name}/nothing"), |bencher| {
            bencher.iter(|| black_box(rig.wait(Duration::ZERO)));
        });
    }
    group.finish();
    criterion.final_summary();
}
