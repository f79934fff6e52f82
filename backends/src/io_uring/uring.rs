//! The io_uring of a runtime: whoever sends submits, and whoever comes by takes the completions.

use std::{
    collections::VecDeque,
    fmt, io, mem,
    ops::Range,
    os::fd::AsFd as _,
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak,
        atomic::{AtomicBool, Ordering::SeqCst, fence},
    },
};

use smallvec::SmallVec;
use zerosink_core::{Queued, Refusal, region::Keeper};

use super::{
    buffers::Buffers,
    lane::Lane,
    operation::{Memory, Next, Operation},
    operations::{Entry, Operations},
};
use crate::{
    driver::{Socket, Watch},
    sys::{
        self,
        uring::{Completion, How, Queues},
    },
};

/// Entries of the two queues. Each send is submitted as it is queued, so that submissions wait only after the kernel has
/// refused to take them. Notifications come in bursts, of all small sends of a socket at once; completions that do not fit
/// wait in the kernel, which costs it memory and us a system call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) submissions: u32,
    pub(crate) completions: u32,
}

impl Size {
    pub(crate) const USUAL: Self = Self { submissions: 64, completions: 4096 };
    /// For who may lock little memory: two pages or three.
    pub(crate) const SMALL: Self = Self { submissions: 16, completions: 256 };
}

/// The io_uring of a runtime.
pub(crate) struct Uring {
    engine: Mutex<Engine>,
    /// Somebody wanted to look at the completions while another held the lock, who does it for him.
    look_again: AtomicBool,
    /// The driver's epoll will tell about completions.
    expected: AtomicBool,
    watch: Weak<Watch>,
    /// Rings that are over, whose memory may still be registered.
    over: Mutex<Vec<Range<usize>>>,
    any_over: AtomicBool,
}

impl Uring {
    /// Opens one whose completions wake `watch`.
    pub(crate) fn open(watch: &Arc<Watch>, size: Size, how: How) -> io::Result<Arc<Self>> {
        let queues = Queues::open(size.submissions, size.completions)?;
        watch.add_uring(&queues)?;
        let engine = Engine {
            queues,
            how,
            buffers: Buffers::default(),
            sends: Sends::default(),
            queued: VecDeque::new(),
            broken: None,
        };
        Ok(Arc::new(Self {
            engine: Mutex::new(engine),
            look_again: AtomicBool::new(false),
            expected: AtomicBool::new(false),
            watch: Arc::downgrade(watch),
            over: Mutex::default(),
            any_over: AtomicBool::new(false),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a send for which the memory is in custody, and looks at once whether it is done already. On an error nothing
    /// of it was sent, and the kernel holds none of the memory.
    pub(super) fn begin(&self, lane: &Arc<Lane>, number: u64, memory: Memory) -> io::Result<Queued> {
        let mut after = After::default();
        let begun = {
            let mut engine = self.lock();
            self.forget_rings(&mut engine);
            let begun = engine.begin(lane, number, memory, &mut after);
            self.expect(&engine);
            begun
        };
        let queued = after.queued(lane, number);
        after.run();
        // Whoever has set it before the lock was free has gone away.
        fence(SeqCst);
        if self.look_again.load(SeqCst) {
            self.turn();
        }
        begun.map_err(io::Error::from_raw_os_error).map(|()| queued)
    }

    /// The socket has room, or is over: its send that waits for that goes on.
    pub(crate) fn resume(&self, socket: &Socket) {
        self.lock().sends.resume(socket);
        self.turn();
    }

    #[cfg(test)]
    pub(super) fn overflows(&self) -> u32 {
        self.lock().queues.overflows
    }

    /// Lets go of the memory of rings that are over, before their addresses can be another's.
    fn forget_rings(&self, engine: &mut Engine) {
        if !self.any_over.load(SeqCst) || !self.any_over.swap(false, SeqCst) {
            return;
        }
        let over = mem::take(&mut *self.over.lock().unwrap_or_else(PoisonError::into_inner));
        for addresses in over {
            engine.buffers.forget(&engine.queues, &addresses);
        }
    }

    /// Has the driver woken by completions that are still to come. Most sends have none: the kernel has taken the bytes, and
    /// let go of them if it copied, before the submission returns; then a wake-up would be for nothing.
    fn expect(&self, engine: &Engine) {
        // With the lock held, only this sets it.
        if engine.sends.operations.is_empty() || self.expected.load(SeqCst) {
            return;
        }
        self.expected.store(true, SeqCst);
        // Without a watch there is nobody to be woken.
        let expected = self.watch.upgrade().map_or(Ok(()), |watch| watch.expect_completions(&engine.queues));
        if let Err(error) = expected {
            // The timer looks, too.
            tracing::error!(%error, "completions of io_uring do not wake the driver");
            self.expected.store(false, SeqCst);
        }
    }

    /// As [`turn`](Self::turn), when the driver's epoll has told about completions, which it does once.
    pub(crate) fn turn_by_event(&self) {
        self.expected.store(false, SeqCst);
        self.turn();
    }

    /// Takes what has completed, and submits what waits for it. Without a system call if there is nothing to submit.
    pub(crate) fn turn(&self) {
        self.look_again.store(true, SeqCst);
        while self.look_again.load(SeqCst) {
            // Either this sees the lock free, or its holder sees the wish when he has freed it.
            fence(SeqCst);
            let mut engine = match self.engine.try_lock() {
                Ok(engine) => engine,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            self.look_again.store(false, SeqCst);
            self.forget_rings(&mut engine);
            let mut after = After::default();
            engine.drain(&mut after);
            self.expect(&engine);
            drop(engine);
            after.run();
            fence(SeqCst);
        }
    }
}

impl Keeper for Uring {
    /// Who drops the last part of a ring may hold the lock: then its holder, or who has it by then, does the rest.
    fn let_go(&self, addresses: Range<usize>) {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).push(addresses);
        self.any_over.store(true, SeqCst);
        self.turn();
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.upgrade() {
            let engine = self.engine.get_mut().unwrap_or_else(PoisonError::into_inner);
            watch.remove_uring(&engine.queues);
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring").finish_non_exhaustive()
    }
}

/// What is left to do when the lock is released: tasks are woken, and memory is dropped.
#[derive(Default)]
struct After {
    /// Of sends whose result came when nobody waited for it on the spot.
    flushed: SmallVec<[Arc<Lane>; 4]>,
    released: SmallVec<[Released; 4]>,
}

/// A send that the kernel has let go of.
struct Released {
    lane: Arc<Lane>,
    number: u64,
    copied: Option<bool>,
}

impl After {
    /// What is known about this send; its release is left to the caller.
    fn queued(&mut self, lane: &Arc<Lane>, number: u64) -> Queued {
        // Completions come in order, mostly: this is the last of them.
        match self.released.last() {
            Some(last) if last.number == number && Arc::ptr_eq(&last.lane, lane) => {
                let copied = last.copied;
                self.released.pop();
                Queued::Released { copied }
            }
            _ => Queued::Held,
        }
    }

    fn run(self) {
        for lane in self.flushed {
            lane.socket.after_flush();
        }
        for Released { lane, number, copied } in self.released {
            let ledger = lane.socket.ledger();
            let completion = match copied {
                Some(copied) => ledger.complete(number, copied),
                None => ledger.complete_unreported(number),
            };
            tracing::trace!(number, copied, completion.pinned, "released");
            lane.socket.after_release();
        }
    }
}

struct Engine {
    queues: Queues,
    how: How,
    buffers: Buffers,
    sends: Sends,
    /// Sends in the submission queue that the kernel has not taken yet.
    queued: VecDeque<u64>,
    /// `io_uring_enter(2)` failed for good: the kernel has taken nothing since, and takes nothing more.
    broken: Option<i32>,
}

/// The sends under way.
#[derive(Default)]
struct Sends {
    operations: Operations,
    /// Those that are not in the submission queue yet.
    waiting: VecDeque<u64>,
    /// Those that wait for room in their socket.
    parked: Vec<u64>,
}

/// What whoever wants to send is told when the kernel takes nothing more from this io_uring: that is no fault of his socket, where
/// another mechanism can send.
fn without_io_uring(errno: i32) -> i32 {
    match Refusal::from_error(&io::Error::from_raw_os_error(errno)) {
        Some(_) => errno,
        None => libc::ENOSYS,
    }
}

impl Engine {
    fn begin(&mut self, lane: &Arc<Lane>, number: u64, memory: Memory, after: &mut After) -> Result<(), i32> {
        if let Some(errno) = self.broken {
            return Err(without_io_uring(errno));
        }
        lane.set_busy(true);
        let buffer = match &*memory {
            [piece] => self.buffers.index(&self.queues, piece, &lane.uring),
            _ => None,
        };
        let operation = Operation::new(memory, self.how, buffer);
        let key = self.sends.operations.insert(Entry { lane: Arc::clone(lane), number, operation });
        self.sends.waiting.push_back(key);
        self.submit();
        let refused = self.drain(after);
        // Otherwise it is released already.
        if let Some(Entry { operation, .. }) = self.sends.operations.get_mut(key) {
            if let Some(errno) = refused
                && operation.is_untouched()
            {
                self.sends.operations.remove(key);
                lane.set_busy(false);
                return Err(if self.broken.is_some() { without_io_uring(errno) } else { errno });
            }
            let next = operation.begun(refused);
            self.sends.act(key, next, after);
            self.drain(after);
        }
        Ok(())
    }

    /// Hands what waits to the kernel. Returns whether it took anything.
    fn submit(&mut self) -> bool {
        let mut taken = 0;
        loop {
            while let Some(key) = self.sends.waiting.front().copied() {
                if let Some(Entry { lane, operation, .. }) = self.sends.operations.get_mut(key) {
                    let (payload, how) = operation.submission();
                    if !self.queues.push(key, lane.socket.as_fd(), &payload, how) {
                        break;
                    }
                    self.queued.push_back(key);
                }
                self.sends.waiting.pop_front();
            }
            match self.queues.submit() {
                Ok(count) => {
                    self.queued.drain(..count.min(self.queued.len()));
                    taken += count;
                    if count == 0 || (self.queued.is_empty() && self.sends.waiting.is_empty()) {
                        return taken > 0;
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // No memory just now, or completions have to be taken first. Tried again at the next completion, and
                    // at the latest when the timer ticks.
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => return taken > 0,
                    errno => {
                        tracing::warn!(%error, "io_uring_enter failed: no more sends by io_uring in this runtime");
                        self.broken = Some(errno.unwrap_or(libc::EIO));
                        return true;
                    }
                },
            }
        }
    }

    /// Takes in all completions that are there, and submits what they ask for. The error number, if the first submission of
    /// a send that is only beginning was refused.
    fn drain(&mut self, after: &mut After) -> Option<i32> {
        let mut refused = None;
        loop {
            let Self { queues, sends, queued, broken, .. } = self;
            let mut idle = true;
            let mut take = |key, completion| {
                idle = false;
                refused = sends.take(key, completion, after).or(refused);
            };
            queues.completions(&mut take);
            if let Some(errno) = *broken {
                let result = Completion::Result { result: Err(errno), notification_follows: false };
                mem::take(queued).into_iter().for_each(|key| take(key, result));
                for key in mem::take(&mut self.sends.waiting) {
                    idle = false;
                    refused = self.sends.take(key, result, after).or(refused);
                }
            }
            let settled = self.sends.waiting.is_empty() && self.queued.is_empty() && !self.queues.overflowed();
            if settled || (!self.submit() && idle && self.queues.is_empty()) {
                return refused;
            }
        }
    }
}

impl Sends {
    fn resume(&mut self, socket: &Socket) {
        let operations = &mut self.operations;
        let ours =
            |key: &mut u64| operations.get_mut(*key).is_some_and(|its| ptr::eq(&raw const *its.lane.socket, socket));
        self.waiting.extend(self.parked.extract_if(.., ours));
    }

    fn take(&mut self, key: u64, completion: Completion, after: &mut After) -> Option<i32> {
        let Some(Entry { lane, operation, .. }) = self.operations.get_mut(key) else {
            tracing::error!(key, ?completion, "a completion of nothing that was sent");
            return None;
        };
        let before = operation.sent;
        let next = operation.take(completion);
        let bytes = operation.sent - before;
        if bytes > 0 {
            // With the lock held: the next send of this socket, and its result, come after it.
            lane.socket.ledger().flush(bytes as u64);
            if let Some(reason) = operation.fallback {
                lane.count_fallback(bytes, reason);
            }
        }
        self.act(key, next, after)
    }

    fn act(&mut self, key: u64, next: Next, after: &mut After) -> Option<i32> {
        let Entry { lane, operation, .. } = self.operations.get_mut(key)?;
        match next {
            Next::Wait => {}
            Next::Submit => self.waiting.push_back(key),
            Next::Park => {
                lane.socket.want_room(true);
                // Asked after the wish, so that room that comes now is an event that is still to be seen.
                if sys::socket::has_room(lane.socket.as_fd()) {
                    lane.socket.want_room(false);
                    self.waiting.push_back(key);
                } else {
                    operation.parked();
                    self.parked.push(key);
                }
            }
            Next::Refused(errno) => return Some(errno),
            Next::Over(result) => {
                if let Err(errno) = result {
                    lane.socket.fail(errno);
                }
                lane.set_busy(false);
                if !operation.is_beginning() {
                    after.flushed.push(Arc::clone(lane));
                }
            }
        }
        if operation.is_released()
            && let Some(Entry { lane, number, operation }) = self.operations.remove(key)
        {
            after.released.push(Released { lane, number, copied: operation.copied() });
        }
        None
    }
}
