//! Every way of replacement, on every route.

use zerosink::mapped::Replacement;

use super::*;

const ROUTES: [Route; 3] = [Route::Pipe, Route::Tcp, Route::Unix];

/// One unit of each kind of memory that this host has.
fn kinds(options: &MapOptions, memfd: bool) -> Vec<MappedMemory> {
    let pages =
        [(Pages::Base, BYTES), (Pages::Large(64 << 10), BYTES), (Pages::Huge, 2 << 20), (Pages::Reserved, 2 << 20)];
    pages
        .into_iter()
        .filter(|(pages, _)| *pages == Pages::Base || memfd != matches!(pages, Pages::Large(_)))
        .filter(|(pages, _)| memfd || *pages != Pages::Reserved)
        .filter_map(|(pages, bytes)| with_pages(options, pages, bytes, memfd))
        .collect()
}

fn a_late_reader_sees_old_bytes(options: &MapOptions, memfd: bool) {
    for route in ROUTES {
        for put in [Put::Vmsplice, Put::Gift, Put::File] {
            for memory in kinds(options, memfd) {
                if put == Put::File && memory.file().is_none() {
                    continue;
                }
                let what = format!("{route:?}, {put:?}, {memory:?}");
                let seen = seen_by_a_late_reader(memory, Reuse::FreshPages, route, put);
                assert_eq!(seen, Seen::ALL_OLD, "{what}");
            }
        }
    }
}

#[test]
fn a_late_reader_sees_old_bytes_after_madv_dontneed() {
    for populate in [false, true] {
        a_late_reader_sees_old_bytes(&MapOptions::new().populate(populate), false);
    }
}

#[test]
fn a_late_reader_sees_old_bytes_after_map_fixed() {
    for populate in [false, true] {
        let options = MapOptions::new().replacement(Replacement::MapFixed).populate(populate);
        a_late_reader_sees_old_bytes(&options, false);
    }
}

#[test]
fn a_late_reader_sees_old_bytes_after_punch_hole() {
    for populate in [false, true] {
        a_late_reader_sees_old_bytes(&MapOptions::new().populate(populate), true);
    }
}

/// The control of all of the above: the same memory, reused in place.
#[test]
fn control_without_replacement_a_late_reader_sees_new_bytes() {
    for memfd in [false, true] {
        for route in ROUTES {
            for put in [Put::Vmsplice, Put::Gift, Put::File] {
                for memory in kinds(&MapOptions::new(), memfd) {
                    if put == Put::File && memory.file().is_none() {
                        continue;
                    }
                    let what = format!("{route:?}, {put:?}, {memory:?}");
                    let seen = seen_by_a_late_reader(memory, Reuse::InPlace, route, put);
                    assert_eq!(seen, Seen::ALL_NEW, "the test is blind: {what}");
                }
            }
        }
    }
}

/// Pages move on for as long as the ring lives, not once.
#[test]
fn every_lap_leaves_its_own_pages_behind() {
    let memory = MappedMemory::memfd(BYTES).unwrap();
    let anonymous = MappedMemory::anonymous(BYTES, Pages::Base).unwrap();
    for memory in [memory, anonymous] {
        let ring = Ring::builder().reuse(Reuse::FreshPages).build_on(memory).unwrap();
        let laps: Vec<Late> = (1..=50)
            .map(|lap| {
                let lease = lease(&ring, lap);
                Late::put(ROUTES[usize::from(lap) % 3], Put::Vmsplice, &lease)
            })
            .collect();
        for (late, lap) in laps.into_iter().zip(1..) {
            assert!(late.read().iter().all(|byte| *byte == lap), "lap {lap}");
        }
        assert_eq!(ring.stats().quarantined, 0);
    }
}
