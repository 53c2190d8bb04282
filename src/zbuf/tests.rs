//! Tests of the slab as a whole; those against a model are in `model`.

use std::sync::Barrier;

use super::layout::{OBJECT_COUNT, OBJECT_START};
use super::*;
use crate::time::{Clock, Duration, SystemClock};

mod fork;
mod model;

fn pool_of(zones: usize, config: PoolConfig) -> Pool {
    let area = Area::with_backing(zones * ZONE_BYTES, Backing::Plain).unwrap();
    Pool::new(
        &area,
        PoolConfig {
            zones,
            populate: false,
            ..config
        },
    )
    .unwrap()
}

fn pool() -> Pool {
    pool_of(8, PoolConfig::default())
}

/// A slice of `bytes` in an object of at least `min_bytes`.
fn filled(pool: &mut Pool, min_bytes: usize, bytes: &[u8]) -> Slice {
    let mut slice = pool.alloc(min_bytes).unwrap();
    assert_eq!(slice.append(bytes), bytes.len());
    slice
}

#[test]
fn an_object_lives_as_long_as_its_last_slice() {
    let mut pool = pool();
    let mut slice = filled(&mut pool, 2048, b"hello world");
    let head = slice.split_to(6);
    assert_eq!(
        (head.as_bytes(), slice.as_bytes()),
        (&b"hello "[..], &b"world"[..])
    );
    drop(slice);
    assert_eq!(pool.objects_in_use(), 1);
    drop(head);
    assert_eq!(pool.objects_in_use(), 0);
}

#[test]
fn objects_are_aligned_and_disjoint_and_run_out_quietly() {
    for (class, size) in OBJECT_BYTES.into_iter().enumerate() {
        let mut pool = pool_of(
            2,
            PoolConfig {
                initial_zones: [0; CLASSES],
                ..Default::default()
            },
        );
        let (base, bytes) = pool.umem();
        assert_eq!((base.addr() % ZONE_BYTES, bytes), (0, 2 * ZONE_BYTES));
        let mut all = Vec::new();
        while let Some(slice) = pool.alloc(size) {
            assert_eq!(slice.umem_offset() % size.min(4096) as u64, 0);
            assert!(slice.umem_offset() as usize + size <= bytes);
            assert_eq!(slice.spare_capacity(), size);
            all.push(slice);
        }
        assert_eq!(all.len(), 2 * OBJECT_COUNT[class]);
        assert!(pool.alloc(1).is_none() && pool.alloc_rx().is_none());
        let mut starts: Vec<_> = all.iter().map(Slice::umem_offset).collect();
        starts.sort_unstable();
        assert!(
            starts
                .windows(2)
                .all(|pair| pair[1] - pair[0] >= size as u64)
        );
        drop(all);
        assert_eq!(
            (pool.objects_in_use(), pool.available(class)),
            (0, 2 * OBJECT_COUNT[class])
        );
    }
    assert!(pool().alloc(OBJECT_BYTES_MAX + 1).is_none());
    assert!(pool().alloc(usize::MAX).is_none());
    assert!(pool().alloc_with_headroom(usize::MAX, 1).is_none());
}

#[test]
fn positions_beyond_the_end_mean_the_end() {
    let mut pool = pool();
    let mut slice = filled(&mut pool, 1, b"abcdef");
    assert_eq!(slice.sub(4, 100).as_bytes(), b"ef");
    assert_eq!(slice.sub(100, 2).as_bytes(), b"");
    assert_eq!(slice.sub(2, 4).as_bytes(), b"cd");
    slice.truncate(usize::MAX);
    assert_eq!(slice.split_to(usize::MAX).as_bytes(), b"abcdef");
    assert!(slice.is_empty());
    slice.advance(usize::MAX);
    assert_eq!(slice.as_bytes(), b"");
}

#[test]
fn slices_at_an_objects_end_belong_to_that_object() {
    for size in OBJECT_BYTES {
        let mut pool = pool();
        // The last object of a zone ends where the next zone begins.
        let mut all: Vec<_> = (0..2000).map_while(|_| pool.alloc(size)).collect();
        let before = pool.objects_in_use();
        for slice in &mut all {
            assert_eq!(slice.append(&vec![7; size + 1]), size);
            let mut end = slice.sub(size, size);
            assert_eq!((end.append(b"x"), end.len()), (0, 0));
            assert_eq!(end.umem_offset(), slice.umem_offset() + size as u64);
            let offset = end.clone().into_umem();
            assert_eq!(offset, slice.umem_offset() + size as u64 - 1);
            // SAFETY: `into_umem` has just given us this reference.
            assert!(unsafe { pool.drop_umem(offset) });
            let pointer = end.lend().as_ptr();
            assert_eq!(pool.area().free_ptr(pointer), Ok(()));
        }
        assert_eq!(pool.drain_remote(), all.len());
        assert_eq!(pool.objects_in_use(), before);
        drop(all);
        assert_eq!(pool.objects_in_use(), 0);
    }
}

#[test]
fn every_interior_pointer_leads_to_its_object() {
    for (class, size) in OBJECT_BYTES.into_iter().enumerate() {
        let mut pool = pool();
        let area = pool.area().clone();
        let first = pool.alloc(size).unwrap().lend().as_ptr();
        let second = pool.alloc(size).unwrap().lend().as_ptr();
        assert_eq!(second.addr() - first.addr(), size);
        for offset in [0, 1, size / 2, size - 1] {
            let pointer = first.wrapping_add(offset);
            let slice = pool.slice_from_lent(pointer, size - offset).unwrap();
            assert_eq!(
                slice.umem_offset() % ZONE_BYTES as u64,
                (OBJECT_START[class] + offset) as u64
            );
            assert_eq!(area.ref_ptr(pointer), Ok(()));
            assert_eq!(area.free_ptr(pointer), Ok(()));
            assert_eq!(
                pool.slice_from_lent(pointer, size - offset + 1).err(),
                Some(FreeError::Foreign)
            );
        }
        // One of two references is back: still held.
        assert_eq!(pool.drain_remote(), 0);
        assert_eq!(area.free_ptr(first.wrapping_add(size - 1)), Ok(()));
        assert_eq!(area.free_ptr(first), Err(FreeError::AlreadyFree));
        assert_eq!(
            pool.slice_from_lent(first, 1).err(),
            Some(FreeError::AlreadyFree)
        );
        assert_eq!(pool.objects_in_use(), 2);
        assert_eq!(pool.drain_remote(), 1);
        assert_eq!(area.free_ptr(first), Err(FreeError::AlreadyFree));
        assert_eq!(area.free_ptr(second.wrapping_add(size / 3)), Ok(()));
        assert_eq!(pool.drain_remote(), 1);
        assert_eq!(pool.objects_in_use(), 0);
        assert_eq!(
            area.misuse(),
            Misuse {
                foreign: 4,
                already_free: 3
            }
        );
    }
}

#[test]
fn foreign_pointers_are_refused_and_counted() {
    let mut pool = pool();
    let area = pool.area().clone();
    let slice = filled(&mut pool, 2048, b"kept");
    let (base, bytes) = pool.umem();
    let on_stack = 0u8;
    let formatted = OBJECT_START[0];
    let foreign = [
        core::ptr::null(),
        core::ptr::without_provenance(usize::MAX),
        core::ptr::from_ref(&on_stack),
        base.wrapping_sub(1),
        // The zone's header, its contexts, a zone that is not formatted, the area's end.
        base,
        base.wrapping_add(formatted - 1),
        base.wrapping_add(ZONE_BYTES + formatted),
        base.wrapping_add(bytes),
    ];
    for pointer in foreign {
        assert_eq!(area.free_ptr(pointer), Err(FreeError::Foreign));
        assert_eq!(area.ref_ptr(pointer), Err(FreeError::Foreign));
    }
    // An object, but not one that the application was given.
    assert_eq!(
        area.free_ptr(slice.as_bytes().as_ptr()),
        Err(FreeError::AlreadyFree)
    );
    assert_eq!(
        area.misuse(),
        Misuse {
            foreign: 16,
            already_free: 1
        }
    );
    assert_eq!(slice.as_bytes(), b"kept");
    assert_eq!((pool.drain_remote(), pool.objects_in_use()), (0, 1));
    assert!(area.contains(base) && !area.contains(&raw const on_stack));
}

#[test]
fn append_shows_only_in_the_slice_appended_to() {
    let mut pool = pool();
    let mut tail = filled(&mut pool, 2048, b"abc");
    let mut older = tail.clone();
    assert_eq!(tail.append(b"def"), 3);
    assert_eq!(
        (older.as_bytes(), tail.as_bytes()),
        (&b"abc"[..], &b"abcdef"[..])
    );
    // What follows the older slice is somebody else's now.
    assert_eq!((older.append(b"xyz"), older.spare_capacity()), (0, 0));
    tail.truncate(4);
    assert_eq!(tail.append(b"xyz"), 0);
    assert_eq!(older.as_bytes(), b"abc");
    // A slice that begins later but ends at the end may go on.
    let mut fresh = filled(&mut pool, 2048, &[1; 2000]);
    let mut end = fresh.sub(1990, 2000);
    assert_eq!(end.append(&[2; 100]), 48);
    assert_eq!(fresh.append(&[3; 1]), 0);
    assert_eq!(
        (end.len(), fresh.len(), end.spare_capacity()),
        (58, 2000, 0)
    );
    // After lending, the rest is the application's.
    let mut lent = filled(&mut pool, 2048, b"abc");
    let pointer = lent.clone().lend().as_ptr();
    assert_eq!(lent.append(b"d"), 0);
    pool.area().free_ptr(pointer).unwrap();
}

#[test]
fn bytes_change_only_under_the_only_reference() {
    let mut pool = pool();
    let mut slice = filled(&mut pool, 2048, b"request");
    let unacknowledged = slice.clone();
    assert!(slice.bytes_mut().is_none());
    let in_flight = unacknowledged.into_tx();
    assert!(slice.bytes_mut().is_none());
    // SAFETY: the descriptor of `into_tx` above.
    assert!(unsafe { pool.tx_complete(in_flight) });
    let pointer = slice.clone().lend().as_ptr();
    assert!(slice.bytes_mut().is_none());
    pool.area().free_ptr(pointer).unwrap();
    pool.drain_remote();
    slice.bytes_mut().unwrap().copy_from_slice(b"replied");
    assert_eq!(slice.as_bytes(), b"replied");
}

#[test]
fn headroom_is_written_only_in_front_of_the_data_and_not_under_the_link() {
    let mut pool = pool();
    let mut slice = pool.alloc_with_headroom(1000, 64).unwrap();
    assert_eq!(slice.append(b"payload"), 7);
    let at = slice.umem_offset();
    assert_eq!(
        (slice.headroom(), slice.write_headroom(&[1; 65])),
        (64, None)
    );
    assert_eq!(slice.write_headroom(&[1; 54]), Some(at - 54));
    let mut later = slice.sub(1, 7);
    assert_eq!((later.headroom(), later.write_headroom(&[2])), (0, None));
    let descriptor = slice.clone().into_tx();
    assert_eq!((slice.tx_inflight(), slice.write_headroom(&[2])), (1, None));
    // SAFETY: the descriptor of `into_tx` above; the link reports the header's address.
    assert!(unsafe { pool.tx_complete(descriptor - 54) });
    // SAFETY: refused without effect: none is in flight.
    assert!(!unsafe { pool.tx_complete(descriptor) });
    assert_eq!(slice.write_headroom(&[2; 64]), Some(at - 64));
    assert_eq!(slice.as_bytes(), b"payload");
}

#[test]
fn received_objects_come_back_from_the_link_as_slices() {
    for rx_object_bytes in [2048, 4096] {
        let mut pool = pool_of(
            2,
            PoolConfig {
                rx_object_bytes,
                ..Default::default()
            },
        );
        let posted = pool.alloc_rx().unwrap();
        assert_eq!(posted % rx_object_bytes as u64, 0);
        // SAFETY: the reference of `alloc_rx`; nobody writes.
        let slice = unsafe { pool.slice_from_received(posted + 256, 1514) }.unwrap();
        assert_eq!(
            (slice.umem_offset(), slice.len(), slice.headroom()),
            (posted + 256, 1514, 256)
        );
        let (offset, len) = (slice.umem_offset(), slice.len());
        let _ = slice.into_umem();
        // SAFETY: the reference of `into_umem`; refused, so it is still ours.
        assert!(unsafe { pool.slice_from_umem(offset - 1, len) }.is_none());
        // SAFETY: likewise.
        assert!(unsafe { pool.slice_from_umem(offset, len + 1) }.is_none());
        // SAFETY: the reference of `into_umem`.
        drop(unsafe { pool.slice_from_umem(offset + 14, len - 14) }.unwrap());
        assert_eq!(pool.objects_in_use(), 0);
        // SAFETY: refused without effect: the object is free.
        assert!(unsafe { pool.slice_from_received(posted, 1) }.is_none());
        // SAFETY: likewise, and no such object.
        assert!(!unsafe { pool.drop_umem(posted) } && !unsafe { pool.drop_umem(u64::MAX) });
        let posted = pool.alloc_rx().unwrap();
        let too_long = rx_object_bytes + 1;
        // SAFETY: the reference of `alloc_rx`; refused, so it is still ours.
        assert!(unsafe { pool.slice_from_received(posted, too_long) }.is_none());
        // SAFETY: the reference of `alloc_rx`.
        assert!(unsafe { pool.drop_umem(posted) });
    }
}

#[test]
fn chunks_cross_no_boundary() {
    let mut pool = pool();
    let slice = filled(&mut pool, 65536, &[0; 65536]).sub(1000, 10_000);
    for chunk in [2048, 4096] {
        let pieces: Vec<_> = slice.chunks(chunk).collect();
        assert_eq!(pieces[0].0, slice.umem_offset());
        assert_eq!(
            pieces.iter().map(|piece| piece.1 as usize).sum::<usize>(),
            slice.len()
        );
        for (offset, len) in &pieces {
            assert!(offset % chunk as u64 + u64::from(*len) <= chunk as u64);
        }
        assert!(
            pieces
                .windows(2)
                .all(|p| p[0].0 + u64::from(p[0].1) == p[1].0)
        );
    }
    assert_eq!(slice.sub(0, 0).chunks(2048).count(), 0);
}

#[test]
fn neighbouring_slices_join() {
    let mut pool = pool();
    let mut whole = filled(&mut pool, 2048, b"abcdef");
    let mut head = whole.split_to(2);
    assert!(whole.join(head.clone()).is_err());
    let middle = whole.split_to(2);
    assert!(head.clone().join(whole.clone()).is_err());
    head.join(middle).unwrap();
    head.join(whole).unwrap();
    assert_eq!(head.as_bytes(), b"abcdef");
    // Adjacent bytes of two objects are not one object's.
    let (mut first, second) = (
        filled(&mut pool, 2048, &[1; 2048]),
        filled(&mut pool, 2048, &[2; 2048]),
    );
    assert_eq!(first.umem_offset() + 2048, second.umem_offset());
    assert!(first.join(second).is_err());
    drop((head, first));
    assert_eq!(pool.objects_in_use(), 0);
}

/// What senders leave: memory to receive into, as zones that are not formatted yet too; and links
/// find an object of a larger size if theirs are all in use.
#[test]
fn what_is_to_be_sent_leaves_the_link_its_memory() {
    let mut pool = pool_of(8, PoolConfig::default());
    pool.reserve_rx(1024);
    for bytes in [16_384, 2000, 65_536, 1] {
        let mut held = Vec::new();
        while let Some(slice) = pool.alloc_to_send(bytes, 0) {
            held.push(slice);
        }
        if bytes < 2048 {
            assert!(!pool.may_send() && pool.is_short());
        }
        let ring: Vec<_> = (0..1024).map_while(|_| pool.alloc_rx()).collect();
        assert_eq!(ring.len(), 1024, "beside objects of {bytes}");
        while let Some(slice) = pool.alloc(60) {
            held.push(slice);
        }
        drop(held);
        for offset in ring {
            // SAFETY: the reference that `alloc_rx` gave.
            assert!(unsafe { pool.drop_umem(offset) });
        }
        assert!(pool.may_send());
    }
    assert_eq!(pool.objects_in_use(), 0);
}

#[test]
fn low_water_counts_zones_that_may_still_be_taken() {
    let config = PoolConfig {
        max_zones: [1, 2, 2, 2],
        low_water_objects: 100,
        ..PoolConfig::default()
    };
    let mut pool = pool_of(3, config);
    let mut held = Vec::new();
    while pool.available(0) > 100 {
        held.push(pool.alloc(1).unwrap());
    }
    assert!(!pool.low_water());
    held.push(pool.alloc(1).unwrap());
    assert!(pool.low_water());
    held.pop();
    assert!(!pool.low_water());
    while pool.available(0) > 0 {
        held.push(pool.alloc(1).unwrap());
    }
    // The cap of one class leaves zones to the others.
    assert_eq!((pool.stats(0).zones, pool.stats(0).free), (1, 0));
    assert!(pool.alloc(65536).is_some());
    assert_eq!(pool.available(CLASSES), 0);
}

#[test]
fn frees_from_many_threads_all_arrive() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 20;
    let mut pool = pool();
    let area = pool.area().clone();
    let go = Barrier::new(THREADS + 1);
    // Each thread frees its share of references, spread over objects that others free, too.
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS)
        .map(|_| std::sync::mpsc::channel::<Vec<usize>>())
        .unzip();
    std::thread::scope(|scope| {
        for receiver in receivers {
            let (area, go) = (&area, &go);
            scope.spawn(move || {
                for pointers in receiver {
                    go.wait();
                    for pointer in pointers {
                        let pointer = core::ptr::without_provenance::<u8>(pointer);
                        assert_eq!(area.ref_ptr(pointer), Ok(()));
                        assert_eq!(area.free_ptr(pointer), Ok(()));
                        assert_eq!(area.free_ptr(pointer.wrapping_add(1)), Ok(()));
                    }
                }
            });
        }
        let mut drained = 0;
        for round in 0..ROUNDS {
            let objects: Vec<_> = (0..500)
                .map(|i| filled(&mut pool, 2048, &[i as u8; 100]))
                .collect();
            let mut shares = vec![Vec::new(); THREADS];
            for object in &objects {
                for share in &mut shares {
                    share.push(object.clone().lend().as_ptr().addr());
                }
            }
            for (sender, share) in senders.iter().zip(shares) {
                sender.send(share).unwrap();
            }
            go.wait();
            // Drop ours while they free theirs: every other one is freed by the drain.
            for (i, object) in objects.into_iter().enumerate() {
                assert_eq!(object.as_bytes(), &[i as u8; 100]);
                drained += pool.drain_remote();
            }
            let limit = SystemClock.now() + Duration::from_secs(10);
            while pool.objects_in_use() > 0 {
                assert!(
                    SystemClock.now() < limit,
                    "{} are left",
                    pool.objects_in_use()
                );
                drained += pool.drain_remote();
                std::thread::yield_now();
            }
            assert_eq!(drained, (round + 1) * 500);
        }
        drop(senders);
    });
    assert_eq!(area.misuse(), Misuse::default());
    assert_eq!(
        area.free_ptr(pool.umem().0.wrapping_add(OBJECT_START[0])),
        Err(FreeError::AlreadyFree)
    );
}

#[test]
fn an_object_freed_twice_over_before_a_drain_is_on_the_list_once() {
    let mut pool = pool();
    let area = pool.area().clone();
    let (kept, other) = (
        filled(&mut pool, 1, b"kept"),
        filled(&mut pool, 1, b"other").lend().as_ptr(),
    );
    // Lent anew while its return is pending: the application's plain reference twice over.
    for _ in 0..2 {
        area.free_ptr(kept.clone().lend().as_ptr()).unwrap();
        let _ = area.free_ptr(other);
    }
    assert_eq!(
        area.misuse(),
        Misuse {
            foreign: 0,
            already_free: 1
        }
    );
    assert!(!kept.is_unique());
    assert_eq!(pool.drain_remote(), 2);
    assert!(kept.is_unique());
    assert_eq!((pool.objects_in_use(), pool.drain_remote()), (1, 0));
}

#[test]
fn an_exhausted_pool_finds_what_was_freed_elsewhere() {
    let mut pool = pool_of(
        1,
        PoolConfig {
            initial_zones: [0; CLASSES],
            ..Default::default()
        },
    );
    let held: Vec<_> = (0..)
        .map_while(|_| pool.alloc(65536))
        .map(|slice| slice.lend().as_ptr().addr())
        .collect();
    assert_eq!(held.len(), OBJECT_COUNT[3]);
    assert!(pool.alloc(65536).is_none());
    let area = pool.area().clone();
    std::thread::scope(|scope| {
        scope
            .spawn(|| area.free_ptr(core::ptr::without_provenance(held[7])))
            .join()
            .unwrap()
    })
    .unwrap();
    let slice = pool.alloc(65536).unwrap();
    assert_eq!(slice.lend().as_ptr().addr(), held[7]);
}

#[test]
fn zones_return_to_the_area_unless_slices_outlive_their_pool() {
    let area = Area::with_backing(4 * ZONE_BYTES, Backing::Plain).unwrap();
    let config = PoolConfig {
        zones: 3,
        populate: true,
        ..PoolConfig::default()
    };
    let mut pool = Pool::new(&area, config).unwrap();
    assert_eq!(
        Pool::new(&area, PoolConfig { zones: 2, ..config }).err(),
        Some(PoolError::Exhausted { wanted: 2, free: 1 })
    );
    let pointer = filled(&mut pool, 1, b"x").lend().as_ptr();
    area.free_ptr(pointer).unwrap();
    drop(pool);
    assert_eq!(area.zones_free(), 4);
    assert_eq!(area.free_ptr(pointer), Err(FreeError::Foreign));
    // Other sizes now: old contexts and bytes mean nothing.
    let config = PoolConfig {
        zones: 4,
        initial_zones: [0, 1, 1, 1],
        ..config
    };
    let mut pool = Pool::new(&area, config).unwrap();
    let slice = filled(&mut pool, 9000, b"outlives its pool and its area");
    drop((pool, area));
    let copy = slice.clone();
    drop(slice);
    assert_eq!(copy.as_bytes(), b"outlives its pool and its area");
}

#[test]
fn impossible_configurations_are_errors() {
    assert_eq!(Area::new(0).err(), Some(AreaError::Size { bytes: 0 }));
    assert_eq!(
        Area::new(usize::MAX).err(),
        Some(AreaError::Size { bytes: usize::MAX })
    );
    let area = Area::with_backing(1, Backing::Plain).unwrap();
    assert_eq!(
        (area.zones(), area.bytes(), area.backing()),
        (1, ZONE_BYTES, Backing::Plain)
    );
    let good = PoolConfig {
        zones: 1,
        ..PoolConfig::default()
    };
    for bad in [
        PoolConfig { zones: 0, ..good },
        PoolConfig {
            zones: usize::MAX,
            ..good
        },
        PoolConfig {
            initial_zones: [1, 1, 0, 0],
            ..good
        },
        PoolConfig {
            initial_zones: [usize::MAX, 1, 0, 0],
            ..good
        },
        PoolConfig {
            rx_object_bytes: 16384,
            ..good
        },
    ] {
        assert!(matches!(Pool::new(&area, bad), Err(PoolError::Config(_))));
    }
    assert_eq!(area.zones_free(), 1);
}

#[test]
fn the_best_backing_there_is_works() {
    // Whichever this machine gives; far more than it can have of hugepages must fall back.
    for bytes in [4 * ZONE_BYTES, 32 << 30] {
        let area = Area::new(bytes).unwrap();
        let config = PoolConfig {
            zones: 2,
            ..PoolConfig::default()
        };
        let mut pool = Pool::new(&area, config).unwrap();
        let slice = filled(&mut pool, 65536, &[9; 65536]);
        assert!(slice.iter().all(|byte| *byte == 9));
        assert!(Backing::Plain < Backing::Transparent && Backing::Transparent < Backing::HugeTlb);
        assert!(!area.backing().to_string().is_empty());
    }
}

#[test]
fn a_shard_is_entered_by_one_thread_at_a_time() {
    let cell = ShardCell::new(|| (pool(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    cell.with(|(pool, slices)| {
                        slices.push(filled(pool, 1, b"shared"));
                        let first: &Slice = &slices[0];
                        slices.push(first.clone());
                        if slices.len() > 100 {
                            slices.drain(..50);
                        }
                    })
                    .unwrap();
                }
            });
        }
    });
    let left = cell.with(|(pool, slices)| {
        slices.clear();
        pool.objects_in_use()
    });
    assert_eq!(left, Ok(0));
}

#[test]
fn a_shard_says_so_when_it_cannot_be_entered() {
    let cell = ShardCell::new(|| 1);
    let inside = cell.with(|_| (cell.with(|n| *n), cell.try_with(|n| *n)));
    assert_eq!(inside, Ok((Err(ShardError::Reentered), None)));
    assert_eq!(cell.try_with(|n| *n), Some(Ok(1)));
    let result = std::thread::scope(|scope| scope.spawn(|| cell.with(|_| panic!())).join());
    assert!(result.is_err());
    assert_eq!(cell.with(|n| *n), Err(ShardError::Poisoned));
    assert_eq!(cell.try_with(|n| *n), Some(Err(ShardError::Poisoned)));
    assert!(ShardCell::<u8>::try_new(|| Err("no")).is_err());
}

#[test]
fn the_front_of_a_received_object_becomes_headroom_for_its_only_holder() {
    let mut pool = pool();
    let mut frame = filled(&mut pool, 2048, &[1; 1500]);
    let other = frame.clone();
    frame.advance(66);
    frame.claim_front();
    assert_eq!(frame.headroom(), 0, "somebody else covers it");
    drop(other);
    frame.claim_front();
    assert_eq!(frame.headroom(), 66);
    let at = frame.write_headroom(&[9; 54]).unwrap();
    assert_eq!(
        (at + 54, frame.as_bytes()),
        (frame.umem_offset(), &[1; 1434][..])
    );
}

#[test]
fn what_was_lent_on_an_account_comes_back_to_it_once() {
    let mut pool = pool();
    let slice = filled(&mut pool, 2048, b"hello");
    let second = slice.clone();
    let (loan, charged) = slice.lend_on(77);
    assert_eq!((loan.len(), charged), (5, 2048));
    assert_eq!(
        second.lend_on(78).1,
        0,
        "the application has the object already"
    );
    let area = std::sync::Arc::clone(pool.area());
    area.free_ptr(loan.as_ptr()).unwrap();
    let mut back = Vec::new();
    pool.drain_remote();
    pool.take_returned(|one| back.push(one));
    assert!(back.is_empty());
    area.free_ptr(loan.as_ptr()).unwrap();
    assert_eq!(pool.drain_remote(), 1);
    pool.take_returned(|one| back.push(one));
    let expected = Returned {
        account: 77,
        bytes: 2048,
    };
    assert_eq!(back, [expected]);
    assert_eq!((pool.lent(), pool.objects_in_use()), (0, 0));
}
