//! How many physical pages a lap goes through.

use std::{collections::BTreeSet, fs::File, io, os::unix::fs::FileExt as _};

/// The frames behind addresses, as `/proc/self/pagemap` tells root.
#[derive(Debug)]
pub(crate) struct Footprint {
    pagemap: File,
    frames: BTreeSet<u64>,
}

impl Footprint {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { pagemap: File::open("/proc/self/pagemap")?, frames: BTreeSet::new() })
    }

    /// Adds the frames that are behind `bytes` now.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        let page = rustix::param::page_size();
        for part in bytes.chunks(page) {
            let mut entry = [0; 8];
            self.pagemap.read_exact_at(&mut entry, (part.as_ptr().addr() / page * 8) as u64)?;
            // The lower 55 bits (Documentation/admin-guide/mm/pagemap.rst); 0 for those who may not know.
            self.frames.insert(u64::from_le_bytes(entry) & ((1 << 55) - 1));
        }
        Ok(())
    }

    /// Bytes of all frames that were seen; `None` if the kernel does not tell.
    pub(crate) fn bytes(&self) -> Option<usize> {
        (!self.frames.contains(&0)).then(|| self.frames.len() * rustix::param::page_size())
    }
}
