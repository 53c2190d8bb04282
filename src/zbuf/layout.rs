//! The arithmetic of zones: where contexts and objects lie. Pure numbers, no memory.
#![forbid(unsafe_code)]

/// A zone, and the alignment of each: one hugepage (LUNA §6.1).
pub const ZONE_BYTES: usize = 2 << 20;
/// The object sizes. The smallest holds any frame of a 1,500-byte MTU with a link's headroom, the
/// next is AF_XDP's largest chunk and a page, the others are for bulk sending.
pub const OBJECT_BYTES: [usize; CLASSES] = [2048, 4096, 16384, 65536];
/// How many object sizes there are.
pub const CLASSES: usize = 4;
/// The largest object.
pub const OBJECT_BYTES_MAX: usize = OBJECT_BYTES[CLASSES - 1];

/// Room for the zone's header; the contexts follow it.
pub(super) const HEADER_BYTES: usize = 128;
/// Room for one context: half a cache line.
pub(super) const CTX_BYTES: usize = 32;
/// Objects are aligned to their size, but at most to this: AF_XDP's aligned chunks are 2 or 4 KiB.
const OBJECT_ALIGN_MAX: usize = 4096;

/// log2 of [`OBJECT_BYTES`].
pub(super) const OBJECT_SHIFT: [u32; CLASSES] = [11, 12, 14, 16];
/// How many objects a zone of each class has.
pub(super) const OBJECT_COUNT: [usize; CLASSES] =
    [geometry(0).0, geometry(1).0, geometry(2).0, geometry(3).0];
/// Where in its zone the first object of each class begins.
pub(super) const OBJECT_START: [usize; CLASSES] =
    [geometry(0).1, geometry(1).1, geometry(2).1, geometry(3).1];

/// An object's number in its pool: zone number, then this many bits of number in the zone.
pub(super) const ID_OBJECT_BITS: u32 = 10;
/// "No object" where an object's number is expected.
pub(super) const ID_NONE: u32 = u32::MAX;
/// Most zones of a pool, so that every object's number is below [`ID_NONE`].
pub(super) const POOL_ZONES_MAX: usize = (1 << (32 - ID_OBJECT_BITS)) - 1;

const _: () = assert!(OBJECT_COUNT[0] <= 1 << ID_OBJECT_BITS);
const _: () = assert!(1usize << OBJECT_SHIFT[0] == OBJECT_BYTES[0]);
const _: () = assert!(1usize << OBJECT_SHIFT[1] == OBJECT_BYTES[1]);
const _: () = assert!(1usize << OBJECT_SHIFT[2] == OBJECT_BYTES[2]);
const _: () = assert!(1usize << OBJECT_SHIFT[3] == OBJECT_BYTES[3]);

/// (objects, offset of the first) of a zone of class `class`.
const fn geometry(class: usize) -> (usize, usize) {
    let size = OBJECT_BYTES[class];
    let align = if size < OBJECT_ALIGN_MAX {
        size
    } else {
        OBJECT_ALIGN_MAX
    };
    let mut count = ZONE_BYTES / size;
    loop {
        let start = (HEADER_BYTES + count * CTX_BYTES).next_multiple_of(align);
        if start + count * size <= ZONE_BYTES {
            return (count, start);
        }
        count -= 1;
    }
}

/// The smallest class whose objects hold `bytes`; `None` if that is more than
/// [`OBJECT_BYTES_MAX`].
pub const fn class_for(bytes: usize) -> Option<usize> {
    let mut class = 0;
    while class < CLASSES {
        if bytes <= OBJECT_BYTES[class] {
            return Some(class);
        }
        class += 1;
    }
    None
}

/// The number in its zone of the object that holds byte `offset` of a zone of class `class`;
/// `None` for an offset in the header, the contexts or the unused end.
pub(super) const fn object_at(class: usize, offset: usize) -> Option<usize> {
    if class >= CLASSES || offset < OBJECT_START[class] {
        return None;
    }
    let index = (offset - OBJECT_START[class]) >> OBJECT_SHIFT[class];
    if index < OBJECT_COUNT[class] {
        Some(index)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_laid_out_as_documented() {
        assert_eq!(OBJECT_COUNT, [1008, 508, 127, 31]);
        for class in 0..CLASSES {
            let (size, count, start) = (
                OBJECT_BYTES[class],
                OBJECT_COUNT[class],
                OBJECT_START[class],
            );
            assert!(start >= HEADER_BYTES + count * CTX_BYTES);
            assert!(start + count * size <= ZONE_BYTES);
            assert_eq!(start % size.min(4096), 0);
        }
    }

    #[test]
    fn every_address_of_a_zone_belongs_to_its_object_or_to_none() {
        for class in 0..CLASSES {
            let (size, start) = (OBJECT_BYTES[class], OBJECT_START[class]);
            for offset in 0..ZONE_BYTES {
                let expected = offset
                    .checked_sub(start)
                    .map(|from_start| from_start / size)
                    .filter(|index| *index < OBJECT_COUNT[class]);
                assert_eq!(object_at(class, offset), expected);
            }
        }
        assert_eq!(object_at(CLASSES, ZONE_BYTES / 2), None);
    }

    #[test]
    fn the_smallest_sufficient_class_is_chosen() {
        assert_eq!(class_for(0), Some(0));
        assert_eq!(class_for(2048), Some(0));
        assert_eq!(class_for(2049), Some(1));
        assert_eq!(class_for(65536), Some(3));
        assert_eq!(class_for(65537), None);
    }
}
