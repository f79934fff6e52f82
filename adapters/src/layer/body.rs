//! Frames on heap, findable by address.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use zerosink_core::region::{self, Registration};

/// A body whose large frames [`owner_of`](zerosink_core::owner_of) finds. The bytes stay where they are, and length, end
/// and trailers are the inner body's.
#[pin_project]
#[derive(Debug, Default)]
pub struct ZeroCopyBody<B> {
    #[pin]
    inner: B,
    threshold: usize,
}

impl<B> ZeroCopyBody<B> {
    /// Frames of at least `threshold` bytes are made findable.
    pub const fn new(inner: B, threshold: usize) -> Self {
        Self { inner, threshold }
    }
}

/// A frame's memory, and its entry in the table.
struct Registered(Registration);

impl AsRef<[u8]> for Registered {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// The same bytes in a handle whose life is that of the entry. An owner that was found meanwhile is a handle to the memory
/// alone, so it outlives the entry.
///
/// Rings and immutable regions are found already, and have facts. That somebody else has entered the same bytes, as another response
/// with one cached body does, is no help: his entry can go first.
fn findable(bytes: Bytes, threshold: usize) -> Bytes {
    if bytes.is_empty() || bytes.len() < threshold || region::facts_of(&bytes).is_some() {
        return bytes;
    }
    Bytes::from_owner(Registered(region::register(bytes)))
}

impl<B: Body<Data = Bytes>> Body for ZeroCopyBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let threshold = *this.threshold;
        let frame = std::task::ready!(this.inner.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| findable(bytes, threshold)))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
