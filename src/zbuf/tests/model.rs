//! Random operations against a model: who refers to which object, and what every slice says.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Alloc {
        bytes: usize,
        headroom: usize,
    },
    Append {
        which: usize,
        byte: u8,
        count: usize,
    },
    Clone {
        which: usize,
    },
    SplitTo {
        which: usize,
        n: usize,
    },
    Truncate {
        which: usize,
        n: usize,
    },
    Advance {
        which: usize,
        n: usize,
    },
    Sub {
        which: usize,
        start: usize,
        end: usize,
    },
    Join {
        which: usize,
        next: usize,
    },
    Overwrite {
        which: usize,
        byte: u8,
    },
    Headroom {
        which: usize,
        n: usize,
    },
    Drop {
        which: usize,
    },
    Lend {
        which: usize,
    },
    Ref {
        which: usize,
    },
    Free {
        which: usize,
        offset: usize,
    },
    FromLent {
        which: usize,
        n: usize,
    },
    Transmit {
        which: usize,
    },
    Complete {
        which: usize,
    },
    Drain,
}

fn op() -> impl Strategy<Value = Op> {
    let which = 0..64usize;
    let n = prop_oneof![0..64usize, 0..70_000usize];
    prop_oneof![
        3 => (prop_oneof![0..70_000usize, 0..2048usize], 0..200usize)
            .prop_map(|(bytes, headroom)| Op::Alloc { bytes, headroom }),
        4 => (which.clone(), any::<u8>(), 0..3000usize)
            .prop_map(|(which, byte, count)| Op::Append { which, byte, count }),
        1 => which.clone().prop_map(|which| Op::Clone { which }),
        2 => (which.clone(), n.clone()).prop_map(|(which, n)| Op::SplitTo { which, n }),
        1 => (which.clone(), n.clone()).prop_map(|(which, n)| Op::Truncate { which, n }),
        1 => (which.clone(), n.clone()).prop_map(|(which, n)| Op::Advance { which, n }),
        1 => (which.clone(), n.clone(), n.clone())
            .prop_map(|(which, start, end)| Op::Sub { which, start, end }),
        1 => (which.clone(), which.clone()).prop_map(|(which, next)| Op::Join { which, next }),
        1 => (which.clone(), any::<u8>()).prop_map(|(which, byte)| Op::Overwrite { which, byte }),
        1 => (which.clone(), 1..200usize).prop_map(|(which, n)| Op::Headroom { which, n }),
        3 => which.clone().prop_map(|which| Op::Drop { which }),
        2 => which.clone().prop_map(|which| Op::Lend { which }),
        1 => which.clone().prop_map(|which| Op::Ref { which }),
        2 => (which.clone(), n.clone()).prop_map(|(which, offset)| Op::Free { which, offset }),
        1 => (which.clone(), n).prop_map(|(which, n)| Op::FromLent { which, n }),
        1 => which.clone().prop_map(|which| Op::Transmit { which }),
        1 => which.prop_map(|which| Op::Complete { which }),
        1 => Just(Op::Drain),
    ]
}

/// A slice, what it must say, and its object's first byte.
struct Known {
    slice: Slice,
    bytes: Vec<u8>,
    object: u64,
}

struct World {
    pool: Pool,
    slices: Vec<Known>,
    /// Object, an address in it: one for each reference of the application's.
    lent: Vec<(u64, *mut u8)>,
    /// Object, offset.
    transmitted: Vec<(u64, u64)>,
    sizes: HashMap<u64, usize>,
    /// Objects whose last application reference was freed and not drained yet.
    pending: Vec<u64>,
}

impl World {
    fn new() -> Self {
        let config = PoolConfig {
            initial_zones: [0, 1, 0, 0],
            max_zones: [1, 1, 1, 1],
            rx_object_bytes: 4096,
            ..PoolConfig::default()
        };
        Self {
            pool: pool_of(4, config),
            slices: Vec::new(),
            lent: Vec::new(),
            transmitted: Vec::new(),
            sizes: HashMap::new(),
            pending: Vec::new(),
        }
    }

    fn references(&self, object: u64) -> usize {
        self.slices
            .iter()
            .filter(|known| known.object == object)
            .count()
            + usize::from(self.lent.iter().any(|lent| lent.0 == object))
            + self
                .transmitted
                .iter()
                .filter(|sent| sent.0 == object)
                .count()
            + self
                .pending
                .iter()
                .filter(|pending| **pending == object)
                .count()
    }

    fn live(&self) -> usize {
        self.sizes
            .keys()
            .filter(|object| self.references(**object) > 0)
            .count()
    }

    fn alloc(&mut self, bytes: usize, headroom: usize) {
        let Some(class) = class_for(bytes + headroom) else {
            assert!(self.pool.alloc_with_headroom(bytes, headroom).is_none());
            return;
        };
        let free = self.pool.available(class);
        let slice = self.pool.alloc_with_headroom(bytes, headroom);
        // The pool may have drained, if the class had run out.
        self.pool.drain_remote();
        self.pending.clear();
        let Some(slice) = slice else {
            assert_eq!(free, 0);
            return;
        };
        let object = slice.umem_offset() - headroom as u64;
        assert_eq!(self.references(object), 0, "allocated while in use");
        self.sizes.insert(object, OBJECT_BYTES[class]);
        self.slices.push(Known {
            slice,
            bytes: Vec::new(),
            object,
        });
    }

    fn with_slice(&mut self, op: &Op, which: usize) {
        if self.slices.is_empty() {
            return;
        }
        let which = which % self.slices.len();
        let (object, unique) = (
            self.slices[which].object,
            self.references(self.slices[which].object) == 1,
        );
        let inflight = self
            .transmitted
            .iter()
            .filter(|sent| sent.0 == object)
            .count();
        let Known { slice, bytes, .. } = &mut self.slices[which];
        assert_eq!(slice.is_unique(), unique);
        assert_eq!(slice.tx_inflight() as usize, inflight);
        let mut added = None;
        match *op {
            Op::Append { byte, count, .. } => {
                let room = slice.spare_capacity();
                let n = slice.append(&vec![byte; count]);
                assert_eq!(n, room.min(count));
                bytes.extend(std::iter::repeat_n(byte, n));
            }
            Op::Clone { .. } => added = Some((slice.clone(), bytes.clone())),
            Op::SplitTo { n, .. } => {
                let rest = bytes.split_off(n.min(bytes.len()));
                added = Some((slice.split_to(n), std::mem::replace(bytes, rest)));
            }
            Op::Truncate { n, .. } => {
                slice.truncate(n);
                bytes.truncate(n);
            }
            Op::Advance { n, .. } => {
                slice.advance(n);
                bytes.drain(..n.min(bytes.len()));
            }
            Op::Sub { start, end, .. } => {
                let end = end.min(bytes.len());
                let part = bytes[start.min(end)..end].to_vec();
                added = Some((slice.sub(start, end), part));
            }
            Op::Overwrite { byte, .. } => {
                if let Some(all) = slice.bytes_mut() {
                    assert!(unique);
                    all.fill(byte);
                    bytes.fill(byte);
                }
            }
            Op::Headroom { n, .. } => {
                let room = slice.headroom();
                assert_eq!(slice.write_headroom(&vec![0xee; n]).is_some(), room >= n);
                assert!(inflight == 0 || room == 0);
            }
            _ => {}
        }
        if let Some((slice, bytes)) = added {
            self.slices.push(Known {
                slice,
                bytes,
                object,
            });
        }
    }

    fn give_away(&mut self, op: &Op, which: usize) {
        if self.slices.is_empty() {
            return;
        }
        let known = self.slices.swap_remove(which % self.slices.len());
        match *op {
            Op::Drop { .. } => drop(known.slice),
            Op::Lend { .. } => {
                let pointer = known.slice.lend().as_ptr();
                self.lent.push((known.object, pointer));
            }
            Op::Transmit { .. } => {
                self.transmitted.push((known.object, known.slice.into_tx()));
            }
            Op::Join { next, .. } if !self.slices.is_empty() => {
                let mut known = known;
                let next = self.slices.swap_remove(next % self.slices.len());
                let (object, bytes) = (next.object, next.bytes);
                match known.slice.join(next.slice) {
                    Ok(()) => {
                        assert_eq!(object, known.object);
                        known.bytes.extend(bytes);
                    }
                    Err(slice) => self.slices.push(Known {
                        slice,
                        bytes,
                        object,
                    }),
                }
                self.slices.push(known);
            }
            _ => self.slices.push(known),
        }
    }

    fn with_lent(&mut self, op: &Op, which: usize) {
        if self.lent.is_empty() {
            return;
        }
        let which = which % self.lent.len();
        let (object, pointer) = self.lent[which];
        match *op {
            Op::Ref { .. } => {
                assert_eq!(self.pool.area().ref_ptr(pointer), Ok(()));
                self.lent.push((object, pointer));
            }
            Op::Free { offset, .. } => {
                let object_at = self.pool.umem().0.wrapping_add(object as usize);
                let inside = object_at.wrapping_add(offset % self.sizes[&object]);
                assert_eq!(self.pool.area().free_ptr(inside), Ok(()));
                self.lent.swap_remove(which);
                if !self.lent.iter().any(|lent| lent.0 == object) {
                    self.pending.push(object);
                    assert_eq!(
                        self.pool.area().free_ptr(inside),
                        Err(FreeError::AlreadyFree)
                    );
                }
            }
            Op::FromLent { n, .. } => {
                let offset = pointer.addr() - self.pool.umem().0.addr() - object as usize;
                match self.pool.slice_from_lent(pointer, n) {
                    Ok(slice) => {
                        assert!(offset + n <= self.sizes[&object]);
                        let bytes = slice.as_bytes().to_vec();
                        self.slices.push(Known {
                            slice,
                            bytes,
                            object,
                        });
                    }
                    // In front of the data, or beyond the end.
                    Err(error) => assert_eq!(error, FreeError::Foreign),
                }
            }
            _ => {}
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Alloc { bytes, headroom } => self.alloc(bytes, headroom),
            Op::Append { which, .. }
            | Op::Clone { which }
            | Op::SplitTo { which, .. }
            | Op::Truncate { which, .. }
            | Op::Advance { which, .. }
            | Op::Sub { which, .. }
            | Op::Overwrite { which, .. }
            | Op::Headroom { which, .. } => self.with_slice(op, which),
            Op::Join { which, .. }
            | Op::Drop { which }
            | Op::Lend { which }
            | Op::Transmit { which } => self.give_away(op, which),
            Op::Ref { which } | Op::Free { which, .. } | Op::FromLent { which, .. } => {
                self.with_lent(op, which);
            }
            Op::Complete { which } => {
                if !self.transmitted.is_empty() {
                    let which = which % self.transmitted.len();
                    let (_, offset) = self.transmitted.swap_remove(which);
                    // SAFETY: the descriptor that `into_tx` gave us, once.
                    assert!(unsafe { self.pool.tx_complete(offset) });
                }
            }
            Op::Drain => {
                self.pool.drain_remote();
                self.pending.clear();
            }
        }
        for known in &self.slices {
            assert_eq!(known.slice.as_bytes(), known.bytes);
        }
        assert_eq!(self.pool.objects_in_use(), self.live());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 192,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn the_pool_agrees_with_the_model(ops in proptest::collection::vec(op(), 1..150)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
        }
        let World { mut pool, slices, lent, transmitted, .. } = world;
        drop(slices);
        for (_, pointer) in lent {
            prop_assert_eq!(pool.area().free_ptr(pointer), Ok(()));
        }
        for (_, offset) in transmitted {
            // SAFETY: the descriptor that `into_tx` gave us, once.
            let complete = unsafe { pool.tx_complete(offset) };
            prop_assert!(complete);
        }
        pool.drain_remote();
        prop_assert_eq!(pool.objects_in_use(), 0);
        let area = pool.area().clone();
        drop(pool);
        prop_assert_eq!(area.zones_free(), area.zones());
    }
}
