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

/// True in a process of its own, where no other test's mapping joins ours. Otherwise runs the test there.
fn alone(test: &str) -> bool {
    const CHILD: &str = "ZEROSINK_ALONE";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("memory::tests::mapped::{test}"), "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{child:?}");
    eprint!("{}", String::from_utf8_lossy(&child.stderr));
    false
}

/// What `smaps` says about the mapping; panics if it is more than one, or has been joined with another.
fn smaps(memory: &MappedMemory, field: &str) -> String {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let start = memory.as_ptr().addr().get();
    let header = format!("{start:x}-{:x} ", start + memory.len());
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&header));
    let line = lines.find(|line| line.starts_with(field)).expect("the mapping is in smaps, by itself and as a whole");
    line[field.len()..].trim().to_owned()
}

fn anonymous_huge_pages(memory: &MappedMemory) -> usize {
    smaps(memory, "AnonHugePages:").split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
}

/// Holes of single pages need it, and a huge page of which a part is replaced has to be split.
#[test]
fn base_pages_stay_small_also_after_they_were_replaced() {
    if !alone("base_pages_stay_small_also_after_they_were_replaced") {
        return;
    }
    let options = MapOptions::new();
    let kinds: [&dyn Fn() -> io::Result<MappedMemory>; 4] = [
        &|| options.anonymous(4 << 20),
        &|| options.clone().replacement(Replacement::MapFixed).anonymous(4 << 20),
        &|| options.memfd(4 << 20),
        &|| options.clone().pages(Pages::Large(64 << 10)).memfd(4 << 20),
    ];
    for kind in kinds {
        let memory = kind().unwrap();
        fill(&memory, 1);
        memory.recycle(64 << 10..128 << 10).unwrap();
        let flags = smaps(&memory, "VmFlags:");
        assert!(flags.split(' ').any(|flag| flag == "nh"), "{flags}: {memory:?}");
    }
}

#[test]
fn huge_pages_are_huge_and_base_pages_are_not() {
    if !alone("huge_pages_are_huge_and_base_pages_are_not") {
        return;
    }
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

#[test]
fn a_touch_after_a_replacement_brings_a_page_of_the_size_that_was_promised() {
    for asked in [Pages::Base, Pages::Large(64 << 10), Pages::Huge] {
        for memory in [
            MapOptions::new().pages(asked).populate(false).anonymous(4 << 20).unwrap(),
            MapOptions::new().pages(asked).populate(false).memfd(4 << 20).unwrap(),
        ] {
            let unit = memory.facts().unit;
            fill(&memory, 1);
            for start in [0, unit, memory.len() - unit] {
                memory.recycle(start..start + unit).unwrap();
                memory.mapping.touch(start, 1);
                assert_eq!(memory.mapping.resident(&(start..start + unit)).unwrap(), unit, "{memory:?}");
            }
        }
    }
}

/// The advice alone is no proof: it succeeds where it is never followed.
#[test]
fn pages_that_the_host_does_not_give_are_reported_and_base_pages_used() {
    const PR_SET_THP_DISABLE: libc::c_int = 41;
    if !alone("pages_that_the_host_does_not_give_are_reported_and_base_pages_used") {
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
            Pages::Reserved => assert!(refused.is_empty() && memory.file().is_none(), "{memory:?}"),
            _ => assert_eq!(refused.len(), usize::from(asked == Pages::Reserved), "{refused:?}"),
        }
        fill(&memory, 7);
        let unit = memory.facts().unit;
        memory.recycle(0..unit).unwrap();
        assert!(bytes(&memory)[..unit].iter().all(|byte| *byte == 0), "{memory:?}");
    }
}

/// What is asked before single pages are punched out of a memfd, asked of one that has larger folios.
#[test]
fn a_memfd_of_larger_folios_is_not_taken_for_one_of_single_pages() {
    let large = MapOptions::new().pages(Pages::Huge).memfd(2 << 20).unwrap();
    if !large.huge_pages() {
        eprintln!("\n*** skipped: no huge folios in a memfd here: {:?} ***\n", large.fallbacks());
        return;
    }
    let asked = memfd::one_touch_one_page(&large.mapping, large.memfd.as_ref().unwrap());
    assert!(asked.unwrap_err().to_string().contains("2097152 bytes"));
}

#[test]
fn the_memfd_that_others_see_cannot_be_written() {
    let memory = MappedMemory::memfd(2 * PAGE).unwrap();
    fill(&memory, 9);
    let (memfd, start) = memory.file().expect("/proc is mounted here");
    assert_eq!(start, 0);
    assert_eq!(rustix::io::pwrite(memfd, &[1], 0), Err(rustix::io::Errno::BADF));
    assert!(rustix::fs::ftruncate(memfd, 0).is_err());
    let mut seen = [0; PAGE];
    assert_eq!(rustix::io::pread(memfd, &mut seen, PAGE as u64), Ok(PAGE));
    assert!(seen.iter().all(|byte| *byte == 9), "it is the mapping's own memory");
    assert!(MappedMemory::anonymous(PAGE, Pages::Base).unwrap().file().is_none());
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
