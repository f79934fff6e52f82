//! Fresh pages for old ones: a reader that comes late sees the bytes as they were sent, although the ring has filled the
//! same addresses again in the meantime.
#![cfg(zerosink_linux)]

mod controls;
mod folio;
mod late;
mod locked;
mod quarantine;
mod replaced;
mod streams;
#[path = "../support/mod.rs"]
mod support;

use std::{collections::BTreeSet, env, io, ops::Range, os::fd::BorrowedFd, ptr::NonNull, sync::Mutex};

use late::{BYTES, Late, Put, Route};
use zerosink::{
    Reuse, Ring,
    mapped::{Fallback, MapOptions, MappedMemory, Pages},
    memory::{Memory, MemoryFacts},
};

const OLD: u8 = 0x11;
const NEW: u8 = 0xEE;

/// What a late reader found, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Seen {
    old: usize,
    new: usize,
    zero: usize,
}

impl Seen {
    const ALL_OLD: Self = Self { old: BYTES, new: 0, zero: 0 };
    const ALL_NEW: Self = Self { old: 0, new: BYTES, zero: 0 };

    fn of(bytes: &[u8]) -> Self {
        let count = |wanted| bytes.iter().filter(|byte| **byte == wanted).count();
        let seen = Self { old: count(OLD), new: count(NEW), zero: count(0) };
        assert_eq!(seen.old + seen.new + seen.zero, bytes.len(), "nobody wrote anything else");
        seen
    }
}

/// A lease full of one byte.
fn lease_of(ring: &Ring, bytes: usize, byte: u8) -> bytes::Bytes {
    let mut grant = ring.try_reserve(bytes).unwrap();
    grant.as_mut_slice().fill(byte);
    grant.fill(bytes).unwrap();
    grant.commit()
}

/// The same, of the whole ring.
fn lease(ring: &Ring, byte: u8) -> bytes::Bytes {
    lease_of(ring, ring.capacity(), byte)
}

/// Sends old bytes from the memory, lets a ring take the lease back and fills the same addresses with new ones; only then
/// does the reader read.
fn seen_by_a_late_reader(memory: impl Memory + 'static, reuse: Reuse, route: Route, put: Put) -> Seen {
    let ring = Ring::builder().reuse(reuse).build_on(memory).unwrap();
    let first = lease(&ring, OLD);
    let address = first.as_ptr();
    let late = Late::put(route, put, &first[..BYTES]);
    drop(first);
    let second = lease(&ring, NEW);
    assert_eq!(ring.stats().quarantined, 0);
    assert_eq!(second.as_ptr(), address, "the ring keeps its addresses");
    Seen::of(&late.read())
}

/// What came back is replaced when it is needed.
fn need_all_of(ring: &Ring) {
    drop(ring.try_reserve(ring.capacity()));
}

/// Mapped memory that is replaced by somebody who knows less about it.
struct ReplacedBy<F> {
    memory: MappedMemory,
    replace: F,
}

impl<F> std::fmt::Debug for ReplacedBy<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.memory.fmt(f)
    }
}

#[expect(unsafe_code, reason = "the controls break the promises of Memory, and are caught")]
// SAFETY: all but `recycle` is the mapped memory's own. `recycle` breaks its promise, as the controls want it: that
// changes what the peers of this test read.
unsafe impl<F: Fn(&[u8]) -> io::Result<()> + Send + Sync> Memory for ReplacedBy<F> {
    fn as_ptr(&self) -> NonNull<u8> {
        self.memory.as_ptr()
    }

    fn len(&self) -> usize {
        self.memory.len()
    }

    fn facts(&self) -> MemoryFacts {
        self.memory.facts()
    }

    fn recycle(&self, range: Range<usize>) -> io::Result<()> {
        // SAFETY: inside the mapping, which nobody else can reach now.
        let start = unsafe { self.as_ptr().add(range.start) };
        // SAFETY: as above; it is readable and nobody writes to it during this call.
        (self.replace)(unsafe { std::slice::from_raw_parts(start.as_ptr(), range.len()) })
    }

    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.memory.file()
    }
}

/// One `madvise(2)` on bytes of a mapping.
fn advise(bytes: &[u8], advice: libc::c_int) -> io::Result<()> {
    #[expect(unsafe_code, reason = "advice that rustix has no name for")]
    // SAFETY: the range is mapped; the tests give advice only where nobody has a reference to the bytes that it drops.
    let result = unsafe { libc::madvise(bytes.as_ptr().cast_mut().cast(), bytes.len(), advice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Says once that the host lacks something; `needed` where CI must have it.
fn skip(why: &str, needed: bool) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    assert!(!needed || env::var_os("CI").is_none(), "this test needs it here: {why}");
    if SAID.lock().unwrap().insert(why.to_owned()) {
        eprintln!("\n*** skipped: {why} ***\n");
    }
}

/// A mapping with these pages, or `None` and a word about it. Most hosts have no large pages but the huge anonymous ones.
fn with_pages(options: &MapOptions, pages: Pages, bytes: usize, memfd: bool) -> Option<MappedMemory> {
    let options = options.clone().pages(pages);
    let memory = if memfd { options.memfd(bytes) } else { options.anonymous(bytes) }.unwrap();
    if memory.pages() == pages {
        return Some(memory);
    }
    let [Fallback::Pages { why, .. }, ..] = memory.fallbacks() else { panic!("{memory:?}") };
    skip(&format!("no {pages} pages for {} memory: {why}", if memfd { "memfd" } else { "anonymous" }), false);
    None
}
