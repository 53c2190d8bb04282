//! What the slab's operations cost.
#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]

use std::hint::black_box;
#[allow(
    clippy::disallowed_types,
    reason = "what a shard's lock is compared with"
)]
use std::sync::{Arc, Mutex};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use luna::zbuf::{Area, Pool, PoolConfig, ShardCell, Slice, ZONE_BYTES};

fn make_pool() -> Option<(Arc<Area>, Pool)> {
    let area = Area::new(32 * ZONE_BYTES).ok()?;
    let pool = Pool::new(&area, PoolConfig::default()).ok()?;
    Some((area, pool))
}

fn slices(c: &mut Criterion) {
    let Some((area, mut pool)) = make_pool() else {
        return;
    };
    c.bench_function("alloc, free", |b| b.iter(|| black_box(pool.alloc(2048))));
    c.bench_function("alloc 64, free 64", |b| {
        let mut burst: Vec<Slice> = Vec::with_capacity(64);
        b.iter(|| {
            burst.extend((0..64).map_while(|_| pool.alloc(2048)));
            burst.clear();
        });
    });
    let Some(mut slice) = pool.alloc(2048) else {
        return;
    };
    let mss = [7u8; 1460];
    slice.append(&mss);
    c.bench_function("clone, drop", |b| b.iter(|| black_box(slice.clone())));
    c.bench_function("split_to", |b| {
        b.iter_batched_ref(
            || slice.clone(),
            |rest| rest.split_to(700),
            BatchSize::SmallInput,
        )
    });
    c.bench_function("alloc, append 1460, free", |b| {
        b.iter(|| {
            let mut slice = pool.alloc(2048);
            if let Some(slice) = &mut slice {
                slice.append(black_box(&mss));
            }
            slice
        })
    });
    c.bench_function("alloc, lend, free_ptr, drain", |b| {
        b.iter(|| {
            if let Some(slice) = pool.alloc(2048) {
                let _ = area.free_ptr(slice.lend().as_ptr());
            }
            pool.drain_remote()
        })
    });
    c.bench_function("drain nothing", |b| b.iter(|| pool.drain_remote()));
    c.bench_function("umem_offset", |b| {
        b.iter(|| black_box(&slice).umem_offset())
    });
}

fn cell(c: &mut Criterion) {
    let bare = Mutex::new(0u64);
    c.bench_function("Mutex::lock, for comparison", |b| {
        b.iter(|| black_box(&bare).lock().map(|mut n| *n += 1).is_ok())
    });
    let cell = ShardCell::new(|| 0u64);
    c.bench_function("ShardCell::with", |b| {
        b.iter(|| {
            black_box(&cell).with(|n| {
                *n += 1;
                *n
            })
        })
    });
    c.bench_function("ShardCell::try_with", |b| {
        b.iter(|| black_box(&cell).try_with(|n| *n))
    });
}

criterion_group!(benches, slices, cell);
criterion_main!(benches);
