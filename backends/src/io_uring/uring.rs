//! The io_uring of a runtime: whoever sends submits, and whoever comes by takes the completions.

use std::{
    collections::VecDeque,
    fmt, io, mem,
    os::fd::AsFd as _,
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak,
        atomic::{AtomicBool, Ordering::SeqCst, fence},
    },
};

use smallvec::SmallVec;

use super::{
    lane::Lane,
    operation::{Memory, Next, Operation},
    operations::Operations,
};
use crate::{
    driver::{Socket, Watch},
    sys::{
        self,
        uring::{Completion, How, Queues},
    },
};

/// Entries of the two queues. Each send is submitted as it is queued, so that submissions wait only after the kernel has
/// refused to take them. Completions that do not fit wait in the kernel, which takes memory and a system call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) submissions: u32,
    pub(crate) completions: u32,
}

impl Size {
    pub(crate) const USUAL: Self = Self { submissions: 64, completions: 1024 };
}

/// The io_uring of a runtime.
pub(crate) struct Uring {
    engine: Mutex<Engine>,
    /// Somebody wanted to look at the completions while another held the lock, who does it for him.
    look_again: AtomicBool,
    watch: Weak<Watch>,
}

impl Uring {
    /// Opens one whose completions wake `watch`.
    pub(crate) fn open(watch: &Arc<Watch>, size: Size, how: How) -> io::Result<Arc<Self>> {
        let queues = Queues::open(size.submissions, size.completions)?;
        watch.add_uring(&queues)?;
        let engine = Engine {
            queues,
            how,
            operations: Operations::default(),
            waiting: VecDeque::new(),
            parked: Vec::new(),
            queued: VecDeque::new(),
            broken: None,
        };
        let (engine, look_again) = (Mutex::new(engine), AtomicBool::new(false));
        Ok(Arc::new(Self { engine, look_again, watch: Arc::downgrade(watch) }))
    }

    fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a send for which the memory is in custody, and looks at once whether it is done already. On an error nothing
    /// of it was sent, and the kernel holds none of the memory.
    pub(super) fn begin(&self, lane: &Arc<Lane>, number: u64, memory: Memory) -> io::Result<()> {
        let mut after = After::default();
        let begun = self.lock().begin(lane, number, memory, &mut after);
        after.run();
        // Whoever has set it before the lock was free has gone away.
        fence(SeqCst);
        if self.look_again.load(SeqCst) {
            self.turn();
        }
        begun.map_err(io::Error::from_raw_os_error)
    }

    /// The socket has room, or is over: a send that waits for that goes on.
    pub(crate) fn resume(&self, socket: &Socket) {
        let mut engine = self.lock();
        let Engine { parked, waiting, operations, .. } = &mut *engine;
        let ours =
            |key: &mut u64| operations.get_mut(*key).is_some_and(|op| ptr::eq(&raw const *op.lane.socket, socket));
        let before = waiting.len();
        waiting.extend(parked.extract_if(.., ours));
        let resumed = waiting.len() > before;
        drop(engine);
        if resumed {
            self.turn();
        }
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
            let mut after = After::default();
            engine.drain(&mut after);
            drop(engine);
            after.run();
            fence(SeqCst);
        }
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
    released: SmallVec<[Operation; 4]>,
}

impl After {
    fn run(self) {
        for lane in self.flushed {
            lane.socket.after_flush();
        }
        for operation in self.released {
            let (socket, number) = (&operation.lane.socket, operation.number);
            let completion = match operation.copied() {
                Some(copied) => socket.ledger().complete(number, copied),
                None => socket.ledger().complete_unreported(number),
            };
            tracing::trace!(number, copied = operation.copied(), completion.pinned, "released");
            socket.after_release();
        }
    }
}

struct Engine {
    queues: Queues,
    how: How,
    operations: Operations,
    /// Sends that are not in the submission queue yet.
    waiting: VecDeque<u64>,
    /// Sends that wait for room in their socket.
    parked: Vec<u64>,
    /// Sends in the submission queue that the kernel has not taken yet.
    queued: VecDeque<u64>,
    /// `io_uring_enter(2)` failed for good: the kernel has taken nothing since, and takes nothing more.
    broken: Option<i32>,
}

impl Engine {
    fn begin(&mut self, lane: &Arc<Lane>, number: u64, memory: Memory, after: &mut After) -> Result<(), i32> {
        if let Some(errno) = self.broken {
            return Err(errno);
        }
        lane.set_busy(true);
        let key = self.operations.insert(Operation::new(Arc::clone(lane), number, memory, self.how));
        self.waiting.push_back(key);
        self.submit();
        let refused = self.drain(after);
        // Otherwise it is released already.
        if let Some(operation) = self.operations.get_mut(key) {
            if let Some(errno) = refused
                && operation.is_untouched()
            {
                self.operations.remove(key);
                lane.set_busy(false);
                return Err(errno);
            }
            let next = operation.begun(refused);
            self.act(key, next, after);
            self.drain(after);
        }
        Ok(())
    }

    /// Hands what waits to the kernel. Returns whether it took anything.
    fn submit(&mut self) -> bool {
        let mut taken = 0;
        loop {
            while let Some(key) = self.waiting.front().copied() {
                if let Some(operation) = self.operations.get_mut(key) {
                    let lane = Arc::clone(&operation.lane);
                    let (payload, how) = operation.payload();
                    if !self.queues.push(key, lane.socket.as_fd(), &payload, how) {
                        break;
                    }
                    self.queued.push_back(key);
                }
                self.waiting.pop_front();
            }
            match self.queues.submit() {
                Ok(count) => {
                    self.queued.drain(..count.min(self.queued.len()));
                    taken += count;
                    if count == 0 || (self.queued.is_empty() && self.waiting.is_empty()) {
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
            let mut found = SmallVec::<[(u64, Completion); 16]>::new();
            self.queues.completions(|key, completion| found.push((key, completion)));
            if let Some(errno) = self.broken {
                let result = Completion::Result { result: Err(errno), notification_follows: false };
                let never_taken = mem::take(&mut self.queued).into_iter().chain(mem::take(&mut self.waiting));
                found.extend(never_taken.map(|key| (key, result)));
            }
            let idle = found.is_empty();
            for (key, completion) in found {
                refused = self.take(key, completion, after).or(refused);
            }
            let settled = self.waiting.is_empty() && self.queued.is_empty() && !self.queues.overflowed();
            if settled || (!self.submit() && idle && self.queues.is_empty()) {
                return refused;
            }
        }
    }

    fn take(&mut self, key: u64, completion: Completion, after: &mut After) -> Option<i32> {
        let Some(operation) = self.operations.get_mut(key) else {
            tracing::error!(key, ?completion, "a completion of nothing that was sent");
            return None;
        };
        let before = operation.sent;
        let next = operation.take(completion);
        let bytes = operation.sent - before;
        // With the lock held: the next send of this socket, and its result, come after it.
        operation.lane.socket.ledger().flush(bytes as u64);
        if let Some(reason) = operation.fallback {
            operation.lane.count_fallback(bytes, reason);
        }
        self.act(key, next, after)
    }

    fn act(&mut self, key: u64, next: Next, after: &mut After) -> Option<i32> {
        let operation = self.operations.get_mut(key)?;
        match next {
            Next::Wait => {}
            Next::Submit => self.waiting.push_back(key),
            // Asked after the kernel has given up, so room that comes now is an event that is still to be seen.
            Next::Park if sys::socket::has_room(operation.lane.socket.as_fd()) => self.waiting.push_back(key),
            Next::Park => {
                operation.parked();
                self.parked.push(key);
            }
            Next::Refused(errno) => return Some(errno),
            Next::Over(result) => {
                if let Err(errno) = result {
                    operation.lane.socket.fail(errno);
                }
                operation.lane.set_busy(false);
                if !operation.is_beginning() {
                    after.flushed.push(Arc::clone(&operation.lane));
                }
            }
        }
        if operation.is_released() {
            after.released.extend(self.operations.remove(key));
        }
        None
    }
}
