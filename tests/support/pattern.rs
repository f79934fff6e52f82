//! A stream without repetition: a byte of another position, or of another lap of a ring, is a wrong byte.

/// Eight bytes at a time: a mixed counter (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
const fn word(index: u64) -> [u8; 8] {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

/// Writes the stream from `offset` on into `out`.
pub(crate) fn fill(offset: u64, out: &mut [u8]) {
    let into_word = (offset % 8) as usize;
    let (head, rest) = out.split_at_mut(((8 - into_word) % 8).min(out.len()));
    head.copy_from_slice(&word(offset / 8)[into_word..][..head.len()]);
    for (index, chunk) in (offset.div_ceil(8)..).zip(rest.chunks_mut(8)) {
        chunk.copy_from_slice(&word(index)[..chunk.len()]);
    }
}

/// What a receiver found. Grows by each piece that it reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) bytes: u64,
    pub(crate) wrong: u64,
    pub(crate) first_wrong: Option<u64>,
}

impl Verdict {
    /// Compares the next piece of the stream.
    pub(crate) fn take(&mut self, received: &[u8]) {
        let mut expected = vec![0; received.len()];
        fill(self.bytes, &mut expected);
        if received != expected {
            let wrong = received.iter().zip(&expected).map(|(r, e)| r != e);
            let first = wrong.clone().position(|w| w).unwrap_or_default();
            self.wrong += wrong.filter(|w| *w).count() as u64;
            self.first_wrong.get_or_insert(self.bytes + first as u64);
        }
        self.bytes += received.len() as u64;
    }

    /// What a receiver of `total` right bytes finds.
    pub(crate) fn flawless(total: u64) -> Self {
        Self { bytes: total, ..Self::default() }
    }
}
