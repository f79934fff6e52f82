//! What is known about memory, by address.

mod support;

use bytes::{BufMut, Bytes};
use zerosink_core::{
    memory::{Backing, MemoryFacts, Reuse},
    region::{CannotReplace, Location, facts_of, locate, owner_of, register, register_static, register_with},
};

use support::{GRANULE, lease, ring};

#[test]
fn a_ring_tells_facts_and_its_whole_block_for_any_of_its_bytes() {
    let ring = ring(4);
    let (one, two) = (lease(&ring, 300, 1), lease(&ring, 10, 2));
    let mut grant = ring.try_reserve(10).unwrap();
    grant.put_u8(1);
    let start = one.as_ptr().addr();
    #[expect(unsafe_code, reason = "makes the slice that safe code cannot")]
    // SAFETY: the leases lie side by side in one allocation that was zeroed, and nobody writes them.
    let across = unsafe { std::slice::from_raw_parts(one.as_ptr(), 512 + 10) };
    for slice in [&one[..], &one[299..], &two[..], across, &grant.filled()[..1]] {
        let seen = locate(slice, |at: &Location<'_>| (at.facts, at.block.clone())).unwrap();
        assert_eq!(seen, (ring.facts(), start..start + 4 * GRANULE));
        assert_eq!(facts_of(slice), Some(ring.facts()));
    }
    assert!(locate(&one[..0], |_| ()).is_none());
}

#[test]
fn nobody_tells_of_memory_that_nobody_knows() {
    let stranger = Bytes::from(vec![0; 100]);
    assert!(locate(&stranger, |_| panic!("called")).is_none());
    let _registration = register(stranger.clone());
    assert!(locate(&stranger, |_| ()).is_none(), "custody, but no facts");
}

#[test]
fn a_static_range_is_immutable_as_long_as_it_is_registered() {
    static PAGE: [u8; 5000] = [7; 5000];
    assert_eq!(facts_of(&PAGE), None);
    let registration = register_static(&PAGE);
    let facts = MemoryFacts::new(Backing::Static, Reuse::Immutable);
    assert_eq!(registration.facts(), Some(facts));
    let range = PAGE.as_ptr().addr()..PAGE.as_ptr().addr() + 5000;
    assert_eq!(locate(&PAGE[10..20], |at| (at.facts, at.block.clone())), Some((facts, range)));
    assert_eq!(owner_of(&PAGE[10..20]).unwrap(), PAGE[10..20]);
    drop(registration);
    assert_eq!(facts_of(&PAGE), None);
}

#[test]
fn facts_are_not_hidden_by_ranges_that_have_none() {
    static PAGE: [u8; 5000] = [7; 5000];
    let part = register_static(&PAGE[1000..2000]);
    let _whole = register(Bytes::from_static(&PAGE));
    let start = PAGE.as_ptr().addr();
    assert_eq!(locate(&PAGE[1500..1600], |at| at.block.clone()), Some(start + 1000..start + 2000));
    assert!(facts_of(&PAGE[1500..2001]).is_none(), "all of the slice, or nothing");
    drop(part);
    assert!(facts_of(&PAGE[1500..1600]).is_none());
}

#[test]
#[expect(unsafe_code, reason = "facts are a promise")]
fn nobody_can_say_that_a_registered_range_gets_fresh_pages() {
    let bytes = Bytes::from_static(&[1; 4096]);
    let facts = MemoryFacts::new(Backing::Memfd, Reuse::FreshPages);
    // SAFETY: static bytes never change.
    let refused: CannotReplace = unsafe { register_with(bytes.clone(), facts) }.unwrap_err();
    assert!(refused.to_string().contains("use a ring"));
    assert!(owner_of(&bytes).is_none());
    for reuse in [Reuse::InPlace, Reuse::Immutable] {
        // SAFETY: as above.
        let registration = unsafe { register_with(bytes.clone(), facts.with_reuse(reuse)) }.unwrap();
        assert_eq!((facts_of(&bytes), registration.bytes()), (Some(facts.with_reuse(reuse)), &bytes));
    }
}

#[cfg(unix)]
mod file {
    use std::{
        fs::File,
        os::fd::{AsFd, AsRawFd, BorrowedFd},
        ptr::NonNull,
    };

    use zerosink_core::{
        memory::{HeapMemory, Memory},
        ring::Ring,
    };

    use super::*;

    /// Heap that claims to be a part of a file.
    #[derive(Debug)]
    struct Mapped(HeapMemory, File);

    const OFFSET: u64 = 1 << 40;

    #[expect(unsafe_code, reason = "a fake Memory")]
    // SAFETY: the heap memory's own promises; nobody reads the file.
    unsafe impl Memory for Mapped {
        fn as_ptr(&self) -> NonNull<u8> {
            self.0.as_ptr()
        }

        fn len(&self) -> usize {
            self.0.len()
        }

        fn facts(&self) -> MemoryFacts {
            MemoryFacts::new(Backing::File, Reuse::Immutable)
        }

        fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
            Some((self.1.as_fd(), OFFSET))
        }
    }

    #[test]
    fn the_offset_is_that_of_the_slices_first_byte() {
        let file = File::open("/dev/null").unwrap();
        let fd = file.as_raw_fd();
        let boxed: Box<dyn Memory> = Box::new(Mapped(HeapMemory::new(8192).unwrap(), file));
        let ring = Ring::builder().build_on(boxed).unwrap();
        let (one, two) = (lease(&ring, 300, 1), lease(&ring, 300, 2));
        for (slice, offset) in [(&one[..], 0), (&one[299..], 299), (&two[1..], 513)] {
            let seen = locate(slice, |at| at.file.map(|(file, at)| (file.as_raw_fd(), at)));
            assert_eq!(seen, Some(Some((fd, OFFSET + offset))));
        }
        let heap = lease(&support::ring(1), 1, 0);
        assert!(locate(&heap, |at| at.file.is_none()).unwrap());
    }
}
