//! Bodies that say whose they are: the high half of each byte is its owner's number. One byte in a stranger's hands is found.

use std::{convert::Infallible, ops::AddAssign, sync::OnceLock};

use bytes::BufMut as _;
use http::{Request, Response, StatusCode};
use zerosink::body::{BodyError, BodyRing, RingBody};

use crate::support::pattern;

/// Neither 0, which is the high half of a fresh page's bytes, nor that of the poison.
pub(crate) const OWNERS: [u8; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15];

/// A prime, so that no lap of a ring falls onto an earlier one.
const PERIOD: usize = 524_287;

/// One period of an owner's stream. Made once, because filling and comparing it by byte takes long in a debug build.
fn stream(owner: u8) -> &'static [u8] {
    static STREAMS: [OnceLock<Vec<u8>>; 16] = [const { OnceLock::new() }; 16];
    STREAMS[usize::from(owner)].get_or_init(|| {
        let mut bytes = vec![0; PERIOD];
        pattern::fill(0, &mut bytes);
        bytes.iter_mut().for_each(|byte| *byte = owner << 4 | *byte & 0xF);
        bytes
    })
}

/// The parts of the owner's stream from `start` on, `bytes` in all.
fn parts(owner: u8, start: usize, bytes: usize) -> impl Iterator<Item = &'static [u8]> {
    let stream = stream(owner);
    let mut left = bytes;
    let mut at = start % PERIOD;
    std::iter::from_fn(move || {
        let part = &stream[at..][..left.min(PERIOD - at)];
        left -= part.len();
        at = (at + part.len()) % PERIOD;
        (!part.is_empty()).then_some(part)
    })
}

/// What a client found in what it received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) right: u64,
    /// Of its own stream, but of another place.
    pub(crate) misplaced: u64,
    /// Another's, or nobody's.
    pub(crate) foreign: u64,
}

impl Found {
    /// Compares the next bytes of the owner's stream, from `start` on.
    pub(crate) fn of(owner: u8, start: usize, received: &[u8]) -> Self {
        let mut found = Self::default();
        let mut rest = received;
        for part in parts(owner, start, received.len()) {
            let (compared, later) = rest.split_at(part.len());
            rest = later;
            if compared == part {
                found.right += part.len() as u64;
                continue;
            }
            for (is, should) in compared.iter().zip(part) {
                match is {
                    _ if is == should => found.right += 1,
                    _ if is >> 4 == owner => found.misplaced += 1,
                    _ => found.foreign += 1,
                }
            }
        }
        found
    }

    pub(crate) const fn wrong(self) -> u64 {
        self.misplaced + self.foreign
    }
}

impl AddAssign for Found {
    fn add_assign(&mut self, other: Self) {
        self.right += other.right;
        self.misplaced += other.misplaced;
        self.foreign += other.foreign;
    }
}

/// What a path asks for: `/OWNER/START/BYTES`, and `/BREAK` behind it for a body that fails after so many bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand {
    pub(crate) owner: u8,
    pub(crate) start: usize,
    pub(crate) bytes: usize,
    pub(crate) breaks: Option<usize>,
}

impl Demand {
    /// `\r\n\r\n` and all.
    pub(crate) fn request(self) -> String {
        let Self { owner, start, bytes, breaks } = self;
        let breaks = breaks.map(|after| format!("/{after}")).unwrap_or_default();
        format!("GET /{owner}/{start}/{bytes}{breaks} HTTP/1.1\r\nhost: test\r\n\r\n")
    }

    fn parse(path: &str) -> Option<Self> {
        let numbers: Result<Vec<usize>, _> = path.trim_start_matches('/').split('/').map(str::parse).collect();
        let (owner, start, bytes, breaks) = match numbers.ok()?[..] {
            [owner, start, bytes] => (owner, start, bytes, None),
            [owner, start, bytes, breaks] => (owner, start, bytes, Some(breaks)),
            _ => return None,
        };
        let owner = *OWNERS.iter().find(|known| usize::from(**known) == owner)?;
        Some(Self { owner, start, bytes, breaks })
    }

    /// Produced in the ring while it is sent, in pieces of `piece` bytes.
    fn body(self, ring: &BodyRing, piece: usize) -> RingBody {
        let Self { owner, start, bytes, breaks } = self;
        let end = breaks.unwrap_or(bytes);
        let body = RingBody::produce(ring, move |writer| async move {
            let mut at = 0;
            while at < end {
                let bytes = piece.min(end - at);
                let mut grant = writer.reserve(bytes).await?;
                parts(owner, start + at, bytes).for_each(|part| grant.put_slice(part));
                writer.send(grant.commit()).await?;
                at += bytes;
            }
            match breaks {
                None => Ok(()),
                Some(_) => Err(BodyError::Producer("it breaks off, as it was told".into())),
            }
        });
        body.exactly(bytes as u64)
    }
}

/// Answers each owner with its secret.
pub(crate) async fn respond<B>(ring: BodyRing, request: Request<B>) -> Result<Response<RingBody>, Infallible> {
    let piece = ring.budget().bytes() / 2;
    let mut response = Response::new(RingBody::empty());
    match Demand::parse(request.uri().path()) {
        Some(demand) => *response.body_mut() = demand.body(&ring, piece),
        None => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    Ok(response)
}

/// The same each time that it starts at the same place (xorshift64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Less than `limit`, which is more than 0.
    pub(crate) const fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % limit as u64) as usize
    }
}

#[test]
fn one_strange_byte_is_found() {
    let mut received: Vec<u8> = parts(3, PERIOD - 10, 100).flatten().copied().collect();
    assert_eq!(Found::of(3, PERIOD - 10, &received), Found { right: 100, ..Found::default() });
    received[50] = crate::support::POISON;
    received[51] ^= 1;
    assert_eq!(Found::of(3, PERIOD - 10, &received), Found { right: 98, misplaced: 1, foreign: 1 });
    assert!(Found::of(4, PERIOD - 10, &received).foreign == 100);
}
