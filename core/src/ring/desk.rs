//! Where segments are handed out and come back; in granules, without a notion of memory.
//!
//! Handing out takes the lock. What comes back is noted (see [`Returns`]) and carried out by whoever locks next, unless
//! somebody waits. `tests/ring_loom.rs` includes this file.

use std::{sync::PoisonError, task::Waker, time::Duration};

use smallvec::SmallVec;

use super::{
    index::Index,
    returns::{Fate, Flag, Note, Returns},
    slots::{Slot, Slots},
    space::{Kind, Space},
    sync::{Mutex, MutexGuard},
    waiters::Waiters,
};

type Wakers = SmallVec<[Waker; 4]>;

/// `T` is what is published for a lease. `C` is a count of whatever the desk is a part of.
#[derive(Debug)]
pub(super) struct Desk<T, C> {
    index: Index<Slot<T>>,
    slots: Slots<T>,
    /// Leases are not handed out again, so a commit can end the hope of those who wait.
    immutable: bool,
    changing: Changing<C>,
}

/// Starts on a cache line of its own: what changes with every reservation is not beside what every look-up reads.
#[derive(Debug)]
#[repr(align(128))]
struct Changing<C> {
    state: Mutex<State<C>>,
    returns: Returns,
}

#[derive(Debug)]
struct State<C> {
    space: Space,
    waiters: Waiters,
    /// One count for all segments in use together, so that none of them needs its own. It is there until the last
    /// handle and the last segment are gone.
    count: Option<C>,
    closed: bool,
}

/// There is no such piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not now, or others wait already; so many granules are free.
    Full(u32),
    /// Not ever; the longest that there can be.
    Never(u32),
}

/// A look at the desk, in granules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Totals {
    pub(super) free: u32,
    pub(super) granted: u32,
    pub(super) leased: u32,
    pub(super) distrusted: u32,
    pub(super) quarantined: u32,
    pub(super) retired: u32,
    pub(super) high_water: u32,
    pub(super) oldest: Option<Duration>,
    pub(super) waiters: usize,
}

impl<T, C> Desk<T, C> {
    /// `None` if there is no memory for the index.
    pub(super) fn new(granules: u32, immutable: bool) -> Option<Self> {
        let state = State { space: Space::new(granules), waiters: Waiters::default(), count: None, closed: false };
        Some(Self {
            index: Index::new(granules)?,
            slots: Slots::new(),
            immutable,
            changing: Changing { state: Mutex::new(state), returns: Returns::new() },
        })
    }

    /// Opens the desk: from now on until [`close`](Self::close), and until every segment is back after that, it has
    /// `count`.
    pub(super) fn open(&self, count: C) {
        self.lock().count = Some(count);
    }

    #[inline]
    pub(super) fn index(&self) -> &Index<Slot<T>> {
        &self.index
    }

    #[inline]
    pub(super) fn returns(&self) -> &Returns {
        &self.changing.returns
    }

    /// Locks, and carries out what was noted since.
    ///
    /// Nothing panics with the lock held but a broken invariant of ours; what others see then is still consistent enough
    /// to drop.
    #[inline]
    fn lock(&self) -> MutexGuard<'_, State<C>> {
        let mut state = self.changing.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.settle(self);
        state
    }

    /// A segment of so many granules, its slot and its first one; unless there is none or others wait.
    pub(super) fn take(&self, granules: u32) -> Option<(&Slot<T>, u32)> {
        let mut state = self.lock();
        if state.waiters.is_empty() { state.take(self, granules) } else { None }
    }

    /// Why [`take`](Self::take) gave nothing.
    #[cold]
    pub(super) fn refusal(&self, granules: u32) -> Refused {
        let mut state = self.lock();
        state.stamp(self);
        state.possible(self, granules).err().unwrap_or_else(|| Refused::Full(state.free()))
    }

    /// A segment, or a ticket in the queue, or [`Refused::Never`].
    pub(super) fn take_or_join(&self, granules: u32, waker: &Waker) -> Result<Result<(&Slot<T>, u32), u64>, Refused> {
        let mut state = self.lock();
        if state.waiters.is_empty() {
            if let Some(taken) = state.take(self, granules) {
                return Ok(Ok(taken));
            }
            // From here on whatever comes back comes through the lock. What came before is looked at once more.
            self.returns().raise(Flag::Waiting);
            state.settle(self);
            if let Some(taken) = state.take(self, granules) {
                state.rest(self);
                return Ok(Ok(taken));
            }
        }
        state.stamp(self);
        let joined = state.possible(self, granules).map(|()| Err(state.waiters.join(granules, waker.clone())));
        state.rest(self);
        joined
    }

    /// What a ticket became, if it was served; else its waker is noted.
    pub(super) fn collect(&self, ticket: u64, waker: &Waker) -> Option<Result<(&Slot<T>, u32), Refused>> {
        let mut state = self.lock();
        let outcome = state.waiters.collect(ticket, waker)?;
        Some(outcome.map(|number| (self.slots.ensure(number), state.space.start(number))))
    }

    /// Leaves the queue. What the ticket was served with goes to whoever waits next.
    pub(super) fn leave(&self, ticket: u64) {
        let mut state = self.lock();
        if let Some(Ok(number)) = state.waiters.leave(ticket) {
            state.carry_out(self, number, Fate::Free);
        }
        Self::wake(state.serve(self), state);
    }

    /// A segment of `reserved` granules was committed, and keeps the first `kept >= 1` of them.
    #[inline]
    pub(super) fn keep(&self, slot: &Slot<T>, kept: u32, reserved: u32) {
        if kept == reserved && !self.immutable {
            return;
        }
        slot.keep(kept);
        let note = Note::new(slot.number(), Fate::Cut);
        if self.immutable || !self.returns().leave(note, slot.link(Fate::Cut)) {
            // The segment is in use, so the count stays.
            drop(self.carry_out(slot.number(), Fate::Cut));
        }
    }

    /// Carries out what becomes of a segment, and serves those who wait. Answers the count, if that was the last
    /// segment of a closed desk; callers have another one, or another segment.
    #[cold]
    #[must_use = "the count ends what the desk is a part of"]
    pub(super) fn carry_out(&self, number: u32, fate: Fate) -> Option<C> {
        let mut state = self.lock();
        state.carry_out(self, number, fate);
        let last = state.last();
        Self::wake(state.serve(self), state);
        last
    }

    /// Nobody will take or join any more. Answers the count if every segment is back already.
    #[must_use = "the count ends what the desk is a part of"]
    pub(super) fn close(&self) -> Option<C> {
        let mut state = self.lock();
        // From here on whatever comes back comes through the lock.
        self.returns().raise(Flag::Closed);
        state.closed = true;
        state.settle(self);
        state.last()
    }

    /// Has `replace` give fresh pages to up to `most` granules in one piece, without the lock, and makes of them what it says; or
    /// to one granule after the other, if it fails for the piece: few of them may be the reason. Answers how many there were, 0
    /// if nothing is stale. Whoever calls has a count of his own.
    ///
    /// One by one it would cost more than the pages: each replacement makes every processor forget addresses.
    pub(super) fn renew(&self, most: u32, replace: impl Fn(u32, u32) -> Fate) -> u32 {
        let Some((number, start, granules)) = self.take_stale(|space| space.take_stale(most)) else { return 0 };
        let mut fate = replace(start, granules);
        if fate == Fate::Quarantined && granules > 1 {
            for at in start..start + granules - 1 {
                let one = self.take_stale(|space| Some(space.split(number, 1)));
                let fate = replace(at, 1);
                drop(one.and_then(|(one, ..)| self.carry_out(one, fate)));
            }
            fate = replace(start + granules - 1, 1);
        }
        drop(self.carry_out(number, fate));
        granules
    }

    /// The number, first granule and length of what `take` takes to be renewed.
    fn take_stale(&self, take: impl FnOnce(&mut Space) -> Option<u32>) -> Option<(u32, u32, u32)> {
        let mut state = self.lock();
        let number = take(&mut state.space)?;
        // So that nobody takes it for a lease meanwhile.
        self.slots.ensure(number).reserve();
        Some((number, state.space.start(number), state.space.length(number)))
    }

    /// [Renews](Self::renew) what is stale as long as somebody waits. Called after joining the queue, for what came back before
    /// that, and by whoever gives back what is stale while somebody waits.
    #[cold]
    pub(super) fn renew_for_waiters(&self, most: u32, replace: impl Fn(u32, u32) -> Fate) {
        while !self.lock().waiters.is_empty() && self.renew(most, &replace) > 0 {}
    }

    /// Granules that are free, or are once they have fresh pages, though perhaps not in one piece.
    pub(super) fn free(&self) -> u32 {
        self.lock().free()
    }

    pub(super) fn totals(&self) -> Totals {
        let mut state = self.lock();
        state.stamp(self);
        let used = |is: fn(&Slot<T>) -> bool| state.space.used(|number| self.slots.get(number).is_some_and(is));
        Totals {
            free: state.free(),
            granted: used(|slot| !slot.committed()),
            leased: used(Slot::committed),
            distrusted: used(Slot::distrusted),
            quarantined: state.space.total(Kind::Quarantined),
            retired: state.space.total(Kind::Retired),
            high_water: state.space.high_water(),
            oldest: state.space.oldest().map(|since| since.elapsed()),
            waiters: state.waiters.len(),
        }
    }

    /// Wakes after the lock, because a waker may run anything.
    fn wake(wakers: Wakers, state: MutexGuard<'_, State<C>>) {
        drop(state);
        for waker in wakers {
            waker.wake();
        }
    }
}

impl<C> State<C> {
    /// Carries out all notes. Newest first, so a segment may be back before it is cut.
    #[inline]
    fn settle<T>(&mut self, desk: &Desk<T, C>) {
        let mut note = desk.returns().take();
        while let Some((number, fate)) = note.read() {
            note = Note::behind(desk.slots.ensure(number).link(fate));
            self.carry_out(desk, number, fate);
        }
    }

    #[inline]
    fn carry_out<T>(&mut self, desk: &Desk<T, C>, number: u32, fate: Fate) {
        if fate == Fate::Cut {
            self.space.cut(number, desk.slots.ensure(number).kept());
            return;
        }
        desk.index.clear(self.space.start(number));
        match fate {
            Fate::Cut | Fate::Free => self.space.release(number),
            Fate::Stale => self.space.spoil(number),
            Fate::Quarantined => self.space.retire(number, Kind::Quarantined),
            Fate::Retired => self.space.retire(number, Kind::Retired),
        }
    }

    #[inline]
    fn take<'a, T>(&mut self, desk: &'a Desk<T, C>, granules: u32) -> Option<(&'a Slot<T>, u32)> {
        let number = self.space.allocate(granules)?;
        if self.space.due() {
            self.stamp(desk);
        }
        let (start, slot) = (self.space.start(number), desk.slots.ensure(number));
        slot.reserve();
        desk.index.set(start, slot);
        Some((slot, start))
    }

    fn free(&self) -> u32 {
        self.space.total(Kind::Hole) + self.space.total(Kind::Stale)
    }

    fn stamp<T>(&mut self, desk: &Desk<T, C>) {
        self.space.stamp(|number| desk.slots.get(number).is_some_and(Slot::committed));
    }

    /// [`Refused::Never`] if such a piece can never be free again.
    fn possible<T>(&self, desk: &Desk<T, C>, granules: u32) -> Result<(), Refused> {
        if !desk.immutable && self.space.total(Kind::Quarantined) == 0 {
            return Ok(());
        }
        let stays = |number| desk.immutable && desk.slots.get(number).is_some_and(Slot::committed);
        let longest = self.space.attainable(stays);
        if granules <= longest { Ok(()) } else { Err(Refused::Never(longest)) }
    }

    /// Serves those who wait, in order, until one has to go on waiting.
    fn serve<T>(&mut self, desk: &Desk<T, C>) -> Wakers {
        let mut wakers = Wakers::new();
        while let Some(granules) = self.waiters.front() {
            let outcome = match self.take(desk, granules) {
                Some((slot, _)) => Ok(slot.number()),
                None => match self.possible(desk, granules) {
                    Ok(()) => break,
                    Err(never) => Err(never),
                },
            };
            wakers.extend(self.waiters.serve(outcome));
        }
        self.rest(desk);
        wakers
    }

    /// Where nobody waits, notes are enough again.
    fn rest<T>(&self, desk: &Desk<T, C>) {
        if self.waiters.is_empty() {
            desk.returns().lower(Flag::Waiting);
        }
    }

    /// The count, once it keeps nothing alive but itself.
    fn last(&mut self) -> Option<C> {
        if self.closed && self.space.total(Kind::Used) == 0 { self.count.take() } else { None }
    }
}
