//! A stream without repetition, what a peer got of it, and what a wrong byte says about the backend.

use std::io;

use super::report::{Rule, Step, Stop};

/// Written over whatever a ring takes back. The stream has it only as often as chance wants it.
pub(super) const POISON: u8 = 0xA5;

/// The constants of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
const FIRST: u64 = 0xbf58_476d_1ce4_e5b9;
const SECOND: u64 = 0x94d0_49bb_1331_11eb;

/// Eight bytes of the stream: those from `8 * index` on.
const fn word(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(GAMMA);
    z = (z ^ (z >> 30)).wrapping_mul(FIRST);
    z = (z ^ (z >> 27)).wrapping_mul(SECOND);
    z ^ (z >> 31)
}

/// The inverse of [`word`]: where in the stream eight bytes belong.
const fn index_of(word: u64) -> u64 {
    let mut z = word ^ (word >> 31) ^ (word >> 62);
    z = z.wrapping_mul(inverse(SECOND));
    z = (z ^ (z >> 27) ^ (z >> 54)).wrapping_mul(inverse(FIRST));
    z = z ^ (z >> 30) ^ (z >> 60);
    z.wrapping_mul(inverse(GAMMA)).wrapping_sub(1)
}

/// The inverse of an odd number modulo 2^64, by Newton's iteration: each round doubles the number of right bits.
const fn inverse(odd: u64) -> u64 {
    let mut x = odd;
    let mut round = 0;
    while round < 6 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
        round += 1;
    }
    x
}

/// `bytes` bytes of the stream from `offset` on.
pub(super) fn piece(offset: u64, bytes: usize) -> Vec<u8> {
    let mut piece = vec![0; bytes];
    let into_word = (offset % 8) as usize;
    let (head, rest) = piece.split_at_mut(((8 - into_word) % 8).min(bytes));
    head.copy_from_slice(&word(offset / 8).to_le_bytes()[into_word..][..head.len()]);
    for (index, chunk) in (offset.div_ceil(8)..).zip(rest.chunks_mut(8)) {
        chunk.copy_from_slice(&word(index).to_le_bytes()[..chunk.len()]);
    }
    piece
}

/// What a peer got. Grows with each read.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) bytes: u64,
    wrong: u64,
    /// The offset of the first wrong byte, and what stood there and behind.
    first: Option<(u64, Vec<u8>)>,
    /// How it ended, if not by end of file.
    pub(super) error: Option<io::Error>,
}

impl Received {
    /// Enough of what is wrong to recognise it.
    const SAMPLE: usize = 24;

    /// Takes in what was read next.
    pub(super) fn take(&mut self, read: &[u8]) {
        if let Some((_, sample)) = &mut self.first {
            let room = Self::SAMPLE - sample.len();
            sample.extend(read.iter().take(room));
        }
        let expected = piece(self.bytes, read.len());
        if read != expected {
            let wrong = read.iter().zip(&expected).map(|(r, e)| r != e);
            self.wrong += wrong.clone().filter(|w| *w).count() as u64;
            if self.first.is_none()
                && let Some(at) = wrong.clone().position(|w| w)
            {
                let sample = read[at..].iter().copied().take(Self::SAMPLE).collect();
                self.first = Some((self.bytes + at as u64, sample));
            }
        }
        self.bytes += read.len() as u64;
    }

    /// Every byte that came was right.
    pub(super) fn right(&self) -> Step {
        self.judge(false)
    }

    /// The same of a stream of `total` bytes through memory that was written again and again: if none is lost, a byte from further
    /// on is one of a later lap.
    pub(super) fn right_in_every_lap(&self, total: u64) -> Step {
        self.judge(self.bytes == total)
    }

    fn judge(&self, laps: bool) -> Step {
        let Some((at, sample)) = &self.first else { return Ok(()) };
        let (rule, what) = recognise(*at, sample, laps);
        let (wrong, bytes) = (self.wrong, self.bytes);
        Err(Stop::failed(
            rule,
            format!("at stream offset {at} the peer read {what}; {wrong} of {bytes} bytes were wrong"),
        ))
    }

    /// All of `total` bytes came, each of them right, and then end of file.
    pub(super) fn exactly(&self, total: u64) -> Step {
        self.right()?;
        if let Some(error) = &self.error {
            let seen = format!("the peer read {} of {total} bytes, then: {error}", self.bytes);
            return Err(Stop::failed(Rule::EndOfStream, seen));
        }
        if self.bytes != total {
            let seen = format!("the peer read {} bytes up to the end of file, where {total} were accepted", self.bytes);
            return Err(Stop::failed(Rule::Content, seen));
        }
        Ok(())
    }
}

/// What stands at `at` instead of what belongs there, and which rule that breaks.
fn recognise(at: u64, sample: &[u8], laps: bool) -> (Rule, String) {
    let alike = |byte: u8| sample.iter().take(8).all(|b| *b == byte);
    if alike(POISON) {
        let what = format!(
            "poison ({POISON:#04x}): the memory was released before the peer had it, and written again in the meantime"
        );
        return (Rule::NotBefore, what);
    }
    if alike(0) {
        return (Rule::Content, "zeroes: the page that was sent is not the one that was written".into());
    }
    // The stream may stand there displaced by any number of bytes.
    for skip in 0..8u64 {
        let Some(eight) = sample.get(skip as usize..skip as usize + 8) else { break };
        let mut bytes = [0; 8];
        bytes.copy_from_slice(eight);
        let Some(from) = index_of(u64::from_le_bytes(bytes)).checked_mul(8).and_then(|o| o.checked_sub(skip)) else {
            continue;
        };
        // Noise lands on an offset below a terabyte with a chance of one in 2^27.
        if from < 1 << 40 {
            return displaced(at, from, laps);
        }
    }
    (Rule::Content, format!("bytes that are nowhere in the stream: {sample:02x?}"))
}

fn displaced(at: u64, from: u64, laps: bool) -> (Rule, String) {
    let distance = at.abs_diff(from);
    if from > at && laps {
        let what = format!(
            "what belongs at {from}, {distance} bytes further on: the memory was released before the peer had it, and written for a later lap"
        );
        (Rule::NotBefore, what)
    } else if from > at {
        let what = format!("what belongs at {from}, {distance} bytes further on: bytes were lost or overtaken");
        (Rule::Content, what)
    } else {
        let what = format!(
            "what belongs at {from}, {distance} bytes further back: bytes were sent twice, or late, or from pages that had been replaced"
        );
        (Rule::Content, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(stream: &[u8]) -> String {
        let mut received = Received::default();
        // In small reads, so that what is wrong begins and ends in the middle of one.
        stream.chunks(13).for_each(|read| received.take(read));
        match received.right() {
            Ok(()) => String::new(),
            Err(stop) => stop.to_string(),
        }
    }

    #[test]
    fn words_can_be_found_in_the_stream() {
        for index in [0, 1, 12_345, u64::MAX / 8, u64::MAX - 1] {
            assert_eq!(index_of(word(index)), index);
        }
    }

    #[test]
    fn a_piece_is_a_part_of_the_stream() {
        let whole = piece(0, 100);
        for (offset, bytes) in [(0, 100), (1, 7), (3, 40), (8, 16), (95, 5)] {
            assert_eq!(piece(offset, bytes), whole[offset as usize..][..bytes]);
        }
        assert_eq!(seen(&whole), "");
    }

    #[test]
    fn what_is_wrong_is_recognised() {
        let right = piece(0, 4000);
        let mut poisoned = right.clone();
        poisoned[1000..2000].fill(POISON);
        let lost = [&right[..1000], &right[1500..]].concat();
        let twice = [&right[..1001], &right[701..]].concat();
        let mut zeroed = right.clone();
        zeroed[3000..].fill(0);
        let noise = [&right[..10], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]].concat();
        for (stream, what) in [
            (poisoned, "at stream offset 1000 the peer read poison (0xa5): the memory was released before"),
            (lost, "at stream offset 1000 the peer read what belongs at 1500, 500 bytes further on"),
            (twice, "at stream offset 1001 the peer read what belongs at 701, 300 bytes further back"),
            (zeroed, "at stream offset 3000 the peer read zeroes"),
            (noise, "at stream offset 10 the peer read bytes that are nowhere in the stream"),
        ] {
            assert!(seen(&stream).contains(what), "{}", seen(&stream));
        }
    }
}
