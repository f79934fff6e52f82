//! HTTP bodies out of a ring.
//!
//! A [`RingBody`] is sent from where it lies: from leases, or from what is produced in the ring while the response goes out. Every
//! frame is one contiguous [`Bytes`], so an IO that knows zerosink finds its owner by address and takes custody; any other
//! copies it, and the body neither knows nor cares.
//!
//! Produced bodies are lazy. Before the first poll nothing is reserved and nothing is read, so the answer to `HEAD` costs the ring
//! nothing. While they wait for their reader they hold nothing either. How much of the ring one of them holds otherwise is
//! bounded by its [`Budget`].

#[cfg(feature = "axum")]
mod axum;
mod blocking;
mod budget;
mod error;
mod producer;
mod reader;

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::AsyncRead;

#[cfg(feature = "axum")]
pub use axum::NoRing;
pub use budget::{BodyRing, Budget};
pub use error::{BodyError, BoxError};
pub use producer::BodyWriter;

/// An HTTP body that is sent from ring memory, or from any other [`Bytes`].
///
/// ```
/// # fn main() -> Result<(), zerosink_core::ring::RingError> {
/// use http::Response;
/// use tokio::io::AsyncRead;
/// use zerosink_adapters::body::{BodyRing, RingBody};
///
/// fn download(ring: &BodyRing, upstream: impl AsyncRead + Send + 'static, bytes: u64) -> Response<RingBody> {
///     // Read straight into the ring, piece by piece, as fast as the client takes it.
///     Response::new(RingBody::reader(ring, upstream).exactly(bytes))
/// }
/// # let ring = BodyRing::new(zerosink_core::Ring::builder().capacity(1 << 20).build()?);
/// # drop(download(&ring, tokio::io::empty(), 0));
/// # Ok(())
/// # }
/// ```
#[must_use = "a body does nothing unless it is sent"]
pub struct RingBody {
    pieces: Pieces,
    /// Bytes to come, if that is known.
    left: Option<u64>,
}

enum Pieces {
    None,
    One(Bytes),
    Many(VecDeque<Bytes>),
    Produced(Pin<Box<dyn Produce + Send>>),
}

/// Where the pieces of a body come from.
trait Produce {
    /// The next piece, `None` at the end. `left`, where it is known, is how many bytes are wanted at most; it is not 0.
    fn poll_piece(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        left: Option<u64>,
    ) -> Poll<Option<Result<Bytes, BodyError>>>;
}

impl RingBody {
    /// A body without bytes.
    pub const fn empty() -> Self {
        Self { pieces: Pieces::None, left: Some(0) }
    }

    /// A body of one piece: a lease, an immutable region, or anything else.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Self::empty();
        }
        Self { left: Some(bytes.len() as u64), pieces: Pieces::One(bytes) }
    }

    /// A body of several pieces, each of which is a frame. Empty ones are left out.
    pub fn pieces(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let pieces: VecDeque<Bytes> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Self { left: Some(pieces.iter().map(|piece| piece.len() as u64).sum()), pieces: Pieces::Many(pieces) }
    }

    /// A body of everything that `reader` has to give, read straight into the ring.
    ///
    /// Each piece is a grant of the budget's [`chunk`](Budget::chunk). What has been read goes out as soon as the grant is full, or
    /// the reader has no more for now. A reader with a buffer of its own copies out of that: `tokio::fs::File` does.
    ///
    /// An error of the reader, or of the ring, is the body's: the response breaks off, so the client sees that it is not whole.
    pub fn reader(ring: impl Into<BodyRing>, reader: impl AsyncRead + Send + 'static) -> Self {
        Self::produced(reader::Reading::new(ring.into(), reader))
    }

    /// A body of everything that `reader` has to give, read straight into the ring by threads that may block: files.
    ///
    /// Each read is a task of tokio's `spawn_blocking`, so the body must be polled within a runtime. A range of a file is
    /// [`take`](std::io::Read::take) behind a seek. Otherwise as [`reader`](Self::reader).
    ///
    /// ```
    /// use std::{
    ///     fs::File,
    ///     io::{self, Read, Seek, SeekFrom},
    ///     ops::Range,
    /// };
    ///
    /// use zerosink_adapters::body::{BodyRing, RingBody};
    ///
    /// fn part(ring: &BodyRing, mut file: File, range: Range<u64>) -> io::Result<RingBody> {
    ///     file.seek(SeekFrom::Start(range.start))?;
    ///     let length = range.end - range.start;
    ///     Ok(RingBody::blocking(ring, file.take(length)).exactly(length))
    /// }
    /// ```
    pub fn blocking(ring: impl Into<BodyRing>, reader: impl io::Read + Send + 'static) -> Self {
        let ring = ring.into();
        Self::produce(ring.clone(), move |writer| blocking::read(ring, writer, reader))
    }

    /// A body that `producer` writes.
    ///
    /// The producer is called when the body is first polled, runs while the body is polled, and is dropped with it. It
    /// reserves space with its [`BodyWriter`], fills it, and sends it. The body ends when the producer has returned and its writer and
    /// all clones are gone. An error that it returns breaks the response off, and so does a panic.
    ///
    /// ```
    /// # fn main() -> Result<(), zerosink_core::ring::RingError> {
    /// use bytes::BufMut;
    /// use zerosink_adapters::body::{BodyError, RingBody};
    ///
    /// # let ring = zerosink_core::Ring::builder().capacity(1 << 20).build()?;
    /// let body = RingBody::produce(&ring, |writer| async move {
    ///     for row in 0..1000_u32 {
    ///         let mut grant = writer.reserve(4096).await?; // waits while the body's budget is out
    ///         grant.put_slice(format!("row {row}\n").as_bytes());
    ///         writer.send(grant.commit()).await?;
    ///     }
    ///     Ok::<_, BodyError>(())
    /// });
    /// # drop(body);
    /// # Ok(())
    /// # }
    /// ```
    pub fn produce<P, F, E>(ring: impl Into<BodyRing>, producer: P) -> Self
    where
        P: FnOnce(BodyWriter) -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self::produced(producer::Producing::new(ring.into(), producer))
    }

    fn produced(producer: impl Produce + Send + 'static) -> Self {
        Self { pieces: Pieces::Produced(Box::pin(producer)), left: None }
    }

    /// Says how many bytes a produced body has, so that the response can say it too (`Content-Length`).
    ///
    /// A reader is not read further. If fewer come, or the last piece has more, the body fails and the response breaks off.
    /// Bodies of given pieces know their length, and ignore this.
    pub fn exactly(mut self, bytes: u64) -> Self {
        if matches!(self.pieces, Pieces::Produced(_)) {
            self.left = Some(bytes);
            self.end_if_whole();
        }
        self
    }

    fn end_if_whole(&mut self) {
        if self.left == Some(0) {
            self.pieces = Pieces::None;
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match &mut self.pieces {
            Pieces::None => Poll::Ready(None),
            Pieces::One(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Pieces::Many(pieces) => Poll::Ready(pieces.pop_front().map(Ok)),
            Pieces::Produced(producer) => {
                // A producer is never polled again after a panic, so nobody sees what it left half done.
                let poll = AssertUnwindSafe(|| producer.as_mut().poll_piece(cx, self.left));
                catch_unwind(poll).unwrap_or_else(|panic| Poll::Ready(Some(Err(panicked(&*panic)))))
            }
        }
    }

    /// Counts a piece.
    fn count(&mut self, piece: Result<Bytes, BodyError>) -> Result<Bytes, BodyError> {
        let piece = piece?;
        if let Some(left) = self.left {
            let length = piece.len() as u64;
            self.left = Some(left.checked_sub(length).ok_or_else(|| BodyError::TooLong { more: length - left })?);
        }
        Ok(piece)
    }
}

fn panicked(panic: &(dyn Any + Send)) -> BodyError {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("a value that is no text").to_owned();
    tracing::error!(%message, "the producer of a body panicked");
    BodyError::Panicked { message }
}

impl Body for RingBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let outcome = match std::task::ready!(this.poll_piece(cx)) {
            Some(piece) => Some(this.count(piece)),
            None => this.left.filter(|left| *left > 0).map(|missing| Err(BodyError::TooShort { missing })),
        };
        match &outcome {
            Some(Ok(_)) => this.end_if_whole(),
            // What failed or ended is over: nothing is polled again, and what was held goes back.
            Some(Err(_)) | None => *this = Self::empty(),
        }
        Poll::Ready(outcome.map(|piece| piece.map(Frame::data)))
    }

    /// True once no byte is to come, where the length is known.
    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    /// Exact for given pieces, and for produced bodies of [`exactly`](Self::exactly) so many bytes.
    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Default for RingBody {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Bytes> for RingBody {
    fn from(bytes: Bytes) -> Self {
        Self::new(bytes)
    }
}

impl FromIterator<Bytes> for RingBody {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Self {
        Self::pieces(pieces)
    }
}

impl fmt::Debug for RingBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.pieces {
            Pieces::None => "ended",
            Pieces::One(_) | Pieces::Many(_) => "given",
            Pieces::Produced(_) => "produced",
        };
        f.debug_struct("RingBody").field("pieces", &kind).field("left", &self.left).finish()
    }
}
