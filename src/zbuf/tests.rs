//! Tests of the slab as a whole.

use super::*;

fn pool() -> Pool {
    let area = Area::with_backing(8 * ZONE_BYTES, Backing::Plain).unwrap();
    Pool::new(
        &area,
        PoolConfig {
            zones: 8,
            populate: false,
            ..PoolConfig::default()
        },
    )
    .unwrap()
}

#[test]
fn an_object_lives_as_long_as_its_last_slice() {
    let mut pool = pool();
    let mut slice = pool.alloc(2048).unwrap();
    assert_eq!(slice.append(b"hello world"), 11);
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
