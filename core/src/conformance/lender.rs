//! Ring memory that is lent to a sink, and a list of what is out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{BufMut as _, Bytes};

use super::{
    clock::{until, within},
    report::{Rule, Step, Stop},
    stream,
};
use crate::{Grant, Ring, SendQueue};

/// Lends out pieces of the stream in memory of a ring that poisons what comes back.
#[derive(Debug)]
pub(super) struct Lender {
    ring: Ring,
    piece: usize,
    patience: Duration,
    offset: u64,
    out: Arc<Out>,
}

/// Start and length of each piece that is out.
#[derive(Debug, Default)]
struct Out(Mutex<BTreeMap<u64, usize>>);

impl Out {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lease that is out. Its fields are dropped in this order: the ring has the memory before the list says so.
struct Lent {
    lease: Bytes,
    _entry: Entry,
}

struct Entry {
    start: u64,
    out: Arc<Out>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.lease
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.out.lock().remove(&self.start);
    }
}

impl Lender {
    /// Pieces have `piece` bytes unless another number is asked for.
    pub(super) fn new(ring: Ring, piece: usize, patience: Duration) -> Self {
        Self { ring, piece, patience, offset: 0, out: Arc::default() }
    }

    pub(super) const fn patience(&self) -> Duration {
        self.patience
    }

    /// The bytes of a usual piece.
    pub(super) const fn piece(&self) -> usize {
        self.piece
    }

    /// The end of the stream so far.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Leaves out what lies before `offset`: somebody else brings it.
    pub(super) const fn skip_to(&mut self, offset: u64) {
        self.offset = offset;
    }

    pub(super) const fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The next `bytes` bytes of the stream, as soon as the ring has room for them.
    pub(super) async fn lend(&mut self, bytes: usize) -> Step<Bytes> {
        let room = within(self.patience, Rule::InTheEnd, "getting memory back from the sink", self.ring.reserve(bytes));
        let grant = match room.await {
            Ok(grant) => grant.map_err(|error| Stop::setup("the ring has no room", &error))?,
            Err(Stop::Failed(mut failure)) => {
                failure.seen = format!("{}; {}", failure.seen, self.list());
                return Err(Stop::Failed(failure));
            }
            Err(other) => return Err(other),
        };
        Ok(self.write(grant, bytes))
    }

    /// The same if the ring has room for it now.
    pub(super) fn try_lend(&mut self, bytes: usize) -> Step<Bytes> {
        let grant = self.ring.try_reserve(bytes).map_err(|error| Stop::setup("the ring has no room", &error))?;
        Ok(self.write(grant, bytes))
    }

    /// A queue of the next `pieces` usual pieces.
    pub(super) fn queue(&mut self, pieces: usize) -> Step<SendQueue<'static>> {
        let mut queue = SendQueue::new();
        for _ in 0..pieces {
            queue.push(self.try_lend(self.piece)?);
        }
        Ok(queue)
    }

    fn write(&mut self, mut grant: Grant, bytes: usize) -> Bytes {
        // By one copy: `as_mut_slice` zeroes first, and zeroes in the stream have to mean that a page is not the one that was written.
        grant.put_slice(&stream::piece(self.offset, bytes));
        let entry = Entry { start: self.offset, out: Arc::clone(&self.out) };
        self.out.lock().insert(self.offset, bytes);
        self.offset += bytes as u64;
        Bytes::from_owner(Lent { lease: grant.commit(), _entry: entry })
    }

    /// How many pieces are out.
    pub(super) fn out(&self) -> usize {
        self.out.lock().len()
    }

    /// The first offset of each piece that is out.
    pub(super) fn starts(&self) -> Vec<u64> {
        self.out.lock().keys().copied().collect()
    }

    /// What is out, for people.
    pub(super) fn list(&self) -> String {
        let out = self.out.lock();
        let bytes: usize = out.values().sum();
        match out.first_key_value() {
            Some((start, _)) => {
                format!("{} pieces with {bytes} bytes are out, the first from stream offset {start} on", out.len())
            }
            None => "nothing is out".into(),
        }
    }

    /// Waits until everything has come back.
    pub(super) async fn wait_for_all(&self, when: &str) -> Step {
        if until(self.patience, || self.out() == 0).await {
            return Ok(());
        }
        Err(Stop::failed(
            Rule::InTheEnd,
            format!("{:?} {when}, memory had not come back: {}", self.patience, self.list()),
        ))
    }
}
