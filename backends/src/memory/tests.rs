use std::slice;

use bytes::BufMut as _;
use zerosink_core::Ring;

use super::*;

#[test]
fn recycled_pages_read_as_zeroes_and_the_others_stay() {
    let memory = MappedMemory::anonymous(3 * 4096, Pages::Base).unwrap();
    let unit = memory.facts().unit;
    // SAFETY: the mapping is ours and this long.
    unsafe { memory.as_ptr().write_bytes(7, 3 * unit) };
    memory.recycle(unit..2 * unit).unwrap();
    // SAFETY: as above, and nobody writes any more.
    let bytes = unsafe { slice::from_raw_parts(memory.as_ptr().as_ptr(), 3 * unit) };
    assert!(bytes[..unit].iter().all(|b| *b == 7) && bytes[unit..2 * unit].iter().all(|b| *b == 0));
    assert!(bytes[2 * unit..].iter().all(|b| *b == 7));
    for bad in [1..unit, unit..4 * unit, 0..unit - 1] {
        assert_eq!(memory.recycle(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn what_a_pipe_holds_survives_the_replacement_of_its_page() {
    use rustix::pipe::{IoSliceRaw, SpliceFlags, pipe, vmsplice};
    let memory = MappedMemory::anonymous(4096, Pages::Base).unwrap();
    for replace in [true, false] {
        // SAFETY: the mapping is ours; the pipe is the only other reader, which is what this test is about.
        unsafe { memory.as_ptr().write_bytes(1, 4096) };
        let (read, write) = pipe().unwrap();
        // SAFETY: the mapping is alive and this long.
        let page = unsafe { slice::from_raw_parts(memory.as_ptr().as_ptr(), 4096) };
        // SAFETY: vmsplice only reads the page.
        let spliced = unsafe { vmsplice(&write, &[IoSliceRaw::from_slice(page)], SpliceFlags::empty()) };
        assert_eq!(spliced.unwrap(), 4096);
        if replace {
            memory.recycle(0..4096).unwrap();
        }
        // SAFETY: the mapping is ours.
        unsafe { memory.as_ptr().write_bytes(2, 4096) };
        let mut seen = [0; 4096];
        assert_eq!(rustix::io::read(&read, &mut seen).unwrap(), 4096);
        let old = seen.iter().all(|byte| *byte == 1);
        assert_eq!(old, replace, "without the replacement the reader sees what was written later");
    }
}

#[test]
fn rings_stand_on_every_kind_of_mapping() {
    let kinds = [
        MappedMemory::anonymous(64 << 10, Pages::Base).unwrap(),
        MappedMemory::anonymous(4 << 20, Pages::Huge).unwrap(),
        MappedMemory::memfd(64 << 10).unwrap(),
    ];
    for memory in kinds {
        let facts = memory.facts();
        let ring = Ring::builder().build_on(memory).unwrap();
        let mut grant = ring.try_reserve(5000).unwrap();
        grant.put_slice(&[9; 5000]);
        assert_eq!(grant.commit(), [9; 5000][..], "{facts:?}");
    }
}

#[test]
fn sizes_that_cannot_be_are_errors() {
    for bytes in [0, usize::MAX, isize::MAX as usize] {
        for result in [MappedMemory::anonymous(bytes, Pages::Base), MappedMemory::memfd(bytes)] {
            let error = result.unwrap_err();
            assert!(
                matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::OutOfMemory | io::ErrorKind::FileTooLarge
                ),
                "{error:?}"
            );
        }
    }
}
