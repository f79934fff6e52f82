//! What is offered to a sink: segments in order.

use bytes::Bytes;
use smallvec::SmallVec;

/// One piece of a [`SendQueue`].
#[derive(Debug)]
pub enum Segment<'a> {
    /// Memory that a connection can take into custody by keeping a clone.
    Owned(Bytes),
    /// Memory that must be copied before the call returns, such as the head of an HTTP message.
    Borrowed(&'a [u8]),
}

impl Segment<'_> {
    /// The bytes of this segment.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Borrowed(slice) => slice,
        }
    }
}

/// Segments in the order of the stream. What a sink accepts is taken off the front; the rest stays.
///
/// Up to four segments need no allocation. Zero-length segments are dropped on entry.
#[derive(Debug, Default)]
pub struct SendQueue<'a> {
    segments: SmallVec<[Segment<'a>; 4]>,
    head: usize,
    bytes: usize,
}

impl<'a> SendQueue<'a> {
    /// An empty queue.
    #[must_use]
    #[inline]
    pub fn new() -> Self {
        Self { segments: SmallVec::new(), head: 0, bytes: 0 }
    }

    /// Appends memory that may be taken into custody.
    #[inline]
    pub fn push(&mut self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.segments.push(Segment::Owned(bytes));
        }
    }

    /// Appends memory that must be copied before the send call returns.
    #[inline]
    pub fn push_borrowed(&mut self, slice: &'a [u8]) {
        if !slice.is_empty() {
            self.bytes += slice.len();
            self.segments.push(Segment::Borrowed(slice));
        }
    }

    /// Bytes that are still offered.
    #[must_use]
    #[inline]
    pub const fn remaining(&self) -> usize {
        self.bytes
    }

    /// True if nothing is offered.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The segments that are still offered, in order; none is empty.
    #[must_use]
    #[inline]
    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments[self.head..]
    }

    /// Takes `accepted` bytes off the front.
    ///
    /// # Panics
    ///
    /// If fewer bytes are offered: that would lose count of the stream.
    #[inline]
    pub fn advance(&mut self, accepted: usize) {
        assert!(accepted <= self.bytes, "{accepted} bytes accepted, but only {} were offered", self.bytes);
        self.bytes -= accepted;
        if self.bytes == 0 {
            match self.segments.len() {
                // The common case, for which `clear` is a detour.
                1 => drop(self.segments.pop()),
                _ => self.segments.clear(),
            }
            self.head = 0;
        } else {
            self.drop_front(accepted);
        }
    }

    /// Of more bytes than are dropped.
    fn drop_front(&mut self, mut accepted: usize) {
        while accepted > 0 {
            let segment = &mut self.segments[self.head];
            let length = segment.as_slice().len();
            if accepted < length {
                match segment {
                    Segment::Owned(bytes) => bytes::Buf::advance(bytes, accepted),
                    Segment::Borrowed(slice) => *slice = &slice[accepted..],
                }
                return;
            }
            *segment = Segment::Borrowed(&[]);
            self.head += 1;
            accepted -= length;
        }
    }
}

impl<T: Into<Bytes>> From<T> for SendQueue<'_> {
    #[inline]
    fn from(bytes: T) -> Self {
        let mut queue = Self::new();
        queue.push(bytes);
        queue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn empty_segments_are_not_offered() {
        let mut queue = SendQueue::new();
        queue.push(Bytes::new());
        queue.push_borrowed(b"");
        assert!(queue.is_empty() && queue.segments().is_empty());
        queue.advance(0);
    }

    #[test]
    #[should_panic(expected = "only 3 were offered")]
    fn accepting_more_than_offered_is_a_bug_that_shows() {
        SendQueue::from(&b"abc"[..]).advance(4);
    }

    proptest! {
        #[test]
        fn any_split_of_advances_walks_the_same_bytes(
            pieces in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..20)), 0..12),
            steps in proptest::collection::vec(1usize..30, 1..60),
        ) {
            let mut queue = SendQueue::new();
            let whole: Vec<u8> = pieces.iter().flat_map(|(_, p)| p.clone()).collect();
            for (owned, piece) in &pieces {
                if *owned { queue.push(piece.clone()) } else { queue.push_borrowed(piece) }
            }
            let mut walked = Vec::new();
            for step in steps {
                let step = step.min(queue.remaining());
                let front: Vec<u8> = queue.segments().iter().flat_map(|s| s.as_slice()).copied().take(step).collect();
                walked.extend(front);
                queue.advance(step);
                prop_assert_eq!(queue.segments().iter().map(|s| s.as_slice().len()).sum::<usize>(), queue.remaining());
            }
            prop_assert_eq!(&whole[..walked.len()], &walked[..]);
            prop_assert_eq!(whole.len() - walked.len(), queue.remaining());
        }
    }
}
