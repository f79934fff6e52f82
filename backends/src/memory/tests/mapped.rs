#![expect(unsafe_code, reason = "looks at mapped memory as a slice")]

use std::{io, slice};

use bytes::BufMut as _;
use zerosink_core::{Memory as _, Reuse, Ring, memory::Backing};

use super::super::*;

const PAGE: usize = 4096;

fn fill(memory: &MappedMemory, byte: u8) {
    for offset in 0..memory.mapping.len() {
        memory.mapping.touch(offset, byte);
    }
}

fn bytes(memory: &MappedMemory) -> &[u8] {
    // SAFETY: the mapping is readable and this long, and the tests write it only between looks.
    unsafe { slice::from_raw_parts(memory.as_ptr().as_ptr(), memory.len()) }
}

#[test]
fn recycled_pages_read_as_zeroes_and_the_others_stay() {
    let fixed = MapOptions::new().replacement(Replacement::MapFixed);
    for memory in [
        MappedMemory::anonymous(3 * PAGE, Pages::Base).unwrap(),
        fixed.anonymous(3 * PAGE).unwrap(),
        MappedMemory::memfd(3 * PAGE).unwrap(),
    ] {
        assert_eq!((memory.facts().reuse, memory.facts().unit), (Reuse::FreshPages, PAGE), "{memory:?}");
        fill(&memory, 7);
        memory.recycle(PAGE..2 * PAGE).unwrap();
        let bytes = bytes(&memory);
        assert!(bytes[PAGE..2 * PAGE].iter().all(|byte| *byte == 0), "{memory:?}");
        assert!(bytes[..PAGE].iter().chain(&bytes[2 * PAGE..]).all(|byte| *byte == 7), "{memory:?}");
        memory.recycle(PAGE..PAGE).unwrap();
        for bad in [1..PAGE, PAGE..4 * PAGE, 0..PAGE - 1, 4 * PAGE..4 * PAGE, Range { start: PAGE, end: 0 }] {
            assert_eq!(memory.recycle(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}

#[test]
fn replaced_pages_are_there_at_once_if_they_are_populated_and_only_then() {
    for populate in [true, false] {
        let options = MapOptions::new().populate(populate);
        let fixed = options.clone().replacement(Replacement::MapFixed);
        for memory in
            [options.anonymous(64 << 10).unwrap(), fixed.anonymous(64 << 10).unwrap(), options.memfd(64 << 10).unwrap()]
        {
            if populate && !memory.populates() {
                assert!(matches!(memory.fallbacks(), [Fallback::Populate(_)]), "{memory:?}");
                eprintln!("\n*** skipped: this kernel has no MADV_POPULATE_WRITE ***\n");
                continue;
            }
            assert_eq!((memory.populates(), memory.fallbacks().len()), (populate, 0), "{memory:?}");
            fill(&memory, 7);
            memory.recycle(0..32 << 10).unwrap();
            let fresh = memory.mapping.resident(&(0..32 << 10)).unwrap();
            assert_eq!(fresh, if populate { 32 << 10 } else { 0 }, "{memory:?}");
            assert_eq!(memory.mapping.resident(&(32 << 10..64 << 10)).unwrap(), 32 << 10, "{memory:?}");
        }
    }
}

/// What the kernel says about the mapping, in bytes.
fn anonymous_huge_pages(memory: &MappedMemory) -> usize {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{:x}-", memory.as_ptr().addr());
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
    let line = lines.find(|line| line.starts_with("AnonHugePages:")).expect("the mapping is in smaps");
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn huge_pages_are_huge_and_base_pages_are_not() {
    let huge = MappedMemory::anonymous(4 << 20, Pages::Huge).unwrap();
    fill(&huge, 1);
    if huge.huge_pages() {
        let unit = huge.facts().unit;
        assert_eq!((huge.pages(), huge.facts().backing), (Pages::Huge, Backing::HugePages));
        assert_eq!((huge.as_ptr().addr().get() % unit, huge.len() % unit), (0, 0));
        assert_eq!(anonymous_huge_pages(&huge), 4 << 20);
        huge.recycle(0..unit).unwrap();
        assert_eq!(anonymous_huge_pages(&huge), (4 << 20) - unit);
        assert_eq!(huge.recycle(0..PAGE).unwrap_err().kind(), io::ErrorKind::InvalidInput, "whole units only");
    } else {
        eprintln!("\n*** skipped: no transparent huge pages here: {:?} ***\n", huge.fallbacks());
        assert!(matches!(huge.fallbacks(), [Fallback::Pages { asked: Pages::Huge, .. }]));
        assert_eq!((huge.facts().unit, anonymous_huge_pages(&huge)), (PAGE, 0));
    }

    let base = MappedMemory::anonymous(4 << 20, Pages::Base).unwrap();
    fill(&base, 1);
    assert_eq!((base.pages(), base.facts().unit, anonymous_huge_pages(&base)), (Pages::Base, PAGE, 0));
}

/// The advice alone is no proof: it succeeds where it is never followed.
#[test]
fn pages_that_the_host_does_not_give_are_reported_and_base_pages_used() {
    const CHILD: &str = "ZEROSINK_WITHOUT_HUGE_PAGES";
    const PR_SET_THP_DISABLE: libc::c_int = 41;
    if std::env::var_os(CHILD).is_none() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::tests::mapped::pages_that_the_host_does_not_give_are_reported_and_base_pages_used"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
        assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"), "{child:?}");
        return;
    }
    // SAFETY: the call takes plain numbers and changes how this child's pages are chosen.
    assert_eq!(unsafe { libc::prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) }, 0);
    let control = Mapping::anonymous(2 << 20, 2 << 20).unwrap();
    let advised = control.want_huge(&control.whole());
    for pages in [Pages::Huge, Pages::Large(64 << 10)] {
        let memory = MappedMemory::anonymous(4 << 20, pages).unwrap();
        assert!(!memory.huge_pages(), "{memory:?}");
        let [Fallback::Pages { asked, why }] = memory.fallbacks() else { panic!("{memory:?}") };
        assert_eq!(*asked, pages);
        assert!(advised.is_err() || why.to_string().contains("4096 bytes"), "{why}");
        fill(&memory, 1);
        assert_eq!((memory.facts().unit, anonymous_huge_pages(&memory)), (PAGE, 0));
        memory.recycle(0..PAGE).unwrap();
    }
}

#[test]
fn a_memfd_that_cannot_have_the_pages_says_why() {
    for asked in [Pages::Reserved, Pages::Huge, Pages::Large(64 << 10)] {
        let memory = MapOptions::new().pages(asked).memfd(2 << 20).unwrap();
        let refused: Vec<_> = memory.fallbacks().iter().map(ToString::to_string).collect();
        match memory.pages() {
            Pages::Base => assert!(refused.contains(&format!("no {asked} pages")), "{refused:?}"),
            Pages::Reserved => assert!(refused.is_empty() && memory.as_memfd().is_none(), "{memory:?}"),
            _ => assert_eq!(refused.len(), usize::from(asked == Pages::Reserved), "{refused:?}"),
        }
        fill(&memory, 7);
        let unit = memory.facts().unit;
        memory.recycle(0..unit).unwrap();
        assert!(bytes(&memory)[..unit].iter().all(|byte| *byte == 0), "{memory:?}");
    }
}

#[test]
fn the_memfd_that_others_see_cannot_be_written() {
    let memory = MappedMemory::memfd(2 * PAGE).unwrap();
    fill(&memory, 9);
    let memfd = memory.as_memfd().expect("/proc is mounted here");
    assert_eq!(rustix::io::pwrite(memfd, &[1], 0), Err(rustix::io::Errno::BADF));
    assert!(rustix::fs::ftruncate(memfd, 0).is_err());
    let mut seen = [0; PAGE];
    assert_eq!(rustix::io::pread(memfd, &mut seen, PAGE as u64), Ok(PAGE));
    assert!(seen.iter().all(|byte| *byte == 9), "it is the mapping's own memory");
    assert!(MappedMemory::anonymous(PAGE, Pages::Base).unwrap().as_memfd().is_none());
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
        assert_eq!((ring.stats().leased, ring.stats().quarantined), (0, 0), "{facts:?}");
    }
}

#[test]
fn what_cannot_be_is_an_error() {
    for bytes in [0, usize::MAX, isize::MAX as usize] {
        for pages in [Pages::Base, Pages::Huge] {
            let options = MapOptions::new().pages(pages);
            for result in [options.anonymous(bytes), options.memfd(bytes)] {
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
    let refused = |result: io::Result<MappedMemory>| result.unwrap_err().kind() == io::ErrorKind::InvalidInput;
    let options = MapOptions::new();
    assert!(refused(options.clone().replacement(Replacement::PunchHole).anonymous(PAGE)));
    assert!(refused(options.clone().replacement(Replacement::DontNeed).memfd(PAGE)));
    assert!(refused(options.clone().pages(Pages::Reserved).anonymous(PAGE)));
    for size in [0, PAGE, 3 * PAGE, 1 << 40] {
        assert!(refused(options.clone().pages(Pages::Large(size)).anonymous(PAGE)), "{size}");
    }
}
