//! The rings of this process, by address.
//!
//! A sorted table under a sequence lock: readers write nothing, so they do not slow each other down; a writer makes the
//! sequence odd, changes the table, and makes it even again. Tables only grow; an outgrown one stays, for a reader may be in it.
#![expect(unsafe_code, reason = "a slice of a ring's memory proves that the ring is alive")]

use std::{
    hint,
    ops::Range,
    ptr,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicPtr, AtomicUsize, Ordering, fence},
    },
    thread,
};

use crate::ring::Shared;

#[derive(Debug)]
struct Entry {
    start: AtomicUsize,
    end: AtomicUsize,
    ring: AtomicPtr<Shared>,
}

impl Entry {
    const fn new() -> Self {
        Self { start: AtomicUsize::new(0), end: AtomicUsize::new(0), ring: AtomicPtr::new(ptr::null_mut()) }
    }

    fn copy(&self, from: &Self) {
        self.start.store(from.start.load(Ordering::Relaxed), Ordering::Relaxed);
        self.end.store(from.end.load(Ordering::Relaxed), Ordering::Relaxed);
        self.ring.store(from.ring.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Odd while a writer is at work.
static SEQUENCE: AtomicUsize = AtomicUsize::new(0);
/// Entries in use of the current table.
static LEN: AtomicUsize = AtomicUsize::new(0);
/// The current table.
static TABLE: AtomicUsize = AtomicUsize::new(0);
/// Table `k` has `FIRST << k` entries.
static TABLES: [OnceLock<Box<[Entry]>>; 40] = [const { OnceLock::new() }; 40];
static WRITER: Mutex<()> = Mutex::new(());

const FIRST: usize = 16;

fn table(k: usize) -> &'static [Entry] {
    TABLES[k].get_or_init(|| (0..FIRST << k).map(|_| Entry::new()).collect())
}

fn write(change: impl FnOnce(&'static [Entry], usize) -> usize) {
    let _writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    let (k, len) = (TABLE.load(Ordering::Relaxed), LEN.load(Ordering::Relaxed));
    let entries = table(k);
    // Allocated before the sequence is odd: readers wait for arithmetic, never for an allocator.
    let next = if len == entries.len() { Some((k + 1, table(k + 1))) } else { None };
    let sequence = SEQUENCE.load(Ordering::Relaxed);
    SEQUENCE.store(sequence.wrapping_add(1), Ordering::Relaxed);
    fence(Ordering::Release);
    let entries = match next {
        None => entries,
        Some((k, larger)) => {
            larger.iter().zip(entries).for_each(|(to, from)| to.copy(from));
            TABLE.store(k, Ordering::Relaxed);
            larger
        }
    };
    let len = change(entries, len);
    LEN.store(len, Ordering::Relaxed);
    SEQUENCE.store(sequence.wrapping_add(2), Ordering::Release);
}

/// `ring` owns these addresses until [`remove`].
pub(crate) fn insert(addresses: Range<usize>, ring: *const Shared) {
    write(|entries, len| {
        let at = entries[..len].partition_point(|entry| entry.start.load(Ordering::Relaxed) < addresses.start);
        for i in (at..len).rev() {
            entries[i + 1].copy(&entries[i]);
        }
        entries[at].start.store(addresses.start, Ordering::Relaxed);
        entries[at].end.store(addresses.end, Ordering::Relaxed);
        entries[at].ring.store(ring.cast_mut(), Ordering::Relaxed);
        len + 1
    });
}

/// The ring that starts at `start` gives its addresses up.
pub(crate) fn remove(start: usize) {
    write(|entries, len| {
        let at = entries[..len].partition_point(|entry| entry.start.load(Ordering::Relaxed) < start);
        if at == len || entries[at].start.load(Ordering::Relaxed) != start {
            return len;
        }
        for i in at + 1..len {
            entries[i - 1].copy(&entries[i]);
        }
        len - 1
    });
}

/// Calls `f` with the ring that owns the first byte of `slice`, which must not be empty.
#[inline]
pub(crate) fn with<R>(slice: &[u8], f: impl FnOnce(&Shared) -> R) -> Option<R> {
    let ring = find(slice.as_ptr().addr())?;
    // SAFETY: the table was seen whole (see `find`), so at one moment during this call the ring owned the address of `slice`'s
    // first byte. `slice` is a live borrow during the whole call, and the ring's memory is exclusive, so the borrow comes from a
    // grant or a lease of that ring, and either keeps a count of `Shared` until after the call. A dying ring leaves the table
    // before its memory is freed, so no later owner of the address is taken for it.
    Some(f(unsafe { &*ring }))
}

#[inline]
fn find(address: usize) -> Option<*const Shared> {
    let mut tries = 0_u32;
    loop {
        let sequence = SEQUENCE.load(Ordering::Acquire);
        if sequence.is_multiple_of(2) {
            let found = look(address);
            fence(Ordering::Acquire);
            if SEQUENCE.load(Ordering::Relaxed) == sequence {
                return found;
            }
        }
        tries += 1;
        if tries.is_multiple_of(64) {
            thread::yield_now();
        } else {
            hint::spin_loop();
        }
    }
}

/// What the table says, which may be nonsense if a writer is at work.
#[inline]
fn look(address: usize) -> Option<*const Shared> {
    let len = LEN.load(Ordering::Relaxed);
    if len == 0 {
        return None;
    }
    let entries = TABLES[TABLE.load(Ordering::Relaxed)].get()?;
    let entries = &entries[..len.min(entries.len())];
    let after = entries.partition_point(|entry| entry.start.load(Ordering::Relaxed) <= address);
    let entry = &entries[after.checked_sub(1)?];
    (address < entry.end.load(Ordering::Relaxed)).then(|| entry.ring.load(Ordering::Relaxed).cast_const())
}
