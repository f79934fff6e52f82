//! Memory that notes which pages were replaced.

use std::{
    io,
    ops::Range,
    ptr::NonNull,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use zerosink_core::memory::{Backing, HeapMemory, Memory, MemoryFacts, Reuse};

/// Pages of a pretended mapping; replacing them zeroes them, and can be made to fail.
#[derive(Debug)]
pub(crate) struct Pages {
    heap: HeapMemory,
    log: Arc<Log>,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) recycled: Mutex<Vec<Range<usize>>>,
    /// What the pages held just before they were replaced.
    pub(crate) seen: Mutex<Vec<u8>>,
    pub(crate) fail: AtomicBool,
    /// A unit that cannot be replaced, counted from 1.
    pub(crate) bad_unit: AtomicUsize,
}

impl Pages {
    pub(crate) const UNIT: usize = 4096;

    pub(crate) fn new(units: usize) -> (Self, Arc<Log>) {
        let log = Arc::new(Log::default());
        (Self { heap: HeapMemory::new(units * Self::UNIT).unwrap(), log: log.clone() }, log)
    }
}

#[expect(unsafe_code, reason = "a fake Memory")]
// SAFETY: the heap memory keeps every promise but the one about old pages, which nobody else refers to here.
unsafe impl Memory for Pages {
    fn as_ptr(&self) -> NonNull<u8> {
        self.heap.as_ptr()
    }

    fn len(&self) -> usize {
        self.heap.len()
    }

    fn facts(&self) -> MemoryFacts {
        MemoryFacts::new(Backing::Anonymous, Reuse::FreshPages).with_unit(Self::UNIT)
    }

    fn recycle(&self, range: Range<usize>) -> io::Result<()> {
        let bad = self.log.bad_unit.load(Ordering::SeqCst) * Self::UNIT;
        if self.log.fail.load(Ordering::SeqCst) || (range.start < bad && bad <= range.end) {
            return Err(io::Error::other("no"));
        }
        // SAFETY: the range lies within the memory.
        let start = unsafe { self.heap.as_ptr().add(range.start) };
        // SAFETY: a ring recycles only ranges that nobody can reach.
        let pages = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), range.len()) };
        self.log.seen.lock().unwrap().push(pages[0]);
        pages.fill(0);
        self.log.recycled.lock().unwrap().push(range);
        Ok(())
    }
}
