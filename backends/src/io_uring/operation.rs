//! One send from *queued* to *released*: what its completions mean.
//!
//! A send may take several submissions, one after the other: a short one is followed by its rest. Each has a result and,
//! if that says so, a notification later; notifications of different submissions come in any order.

use bytes::{Buf as _, Bytes};
use smallvec::SmallVec;
use zerosink_core::Refusal;

use crate::sys::uring::{Completion, How, Message, Payload};

/// The memory of a send.
pub(super) type Memory = SmallVec<[Bytes; 1]>;

/// Submissions in a row that brought the send no further, before it counts as failed.
const MOST_ATTEMPTS: u32 = 8;

/// What is to be done about a send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for the completions that are still to come.
    Wait,
    /// Submit the rest.
    Submit,
    /// Submit it when the socket has room.
    Park,
    /// The first submission was refused and nothing was sent: whoever queued it decides, if he is still there.
    Refused(i32),
    /// The last submission has its result: all is in the socket, or it failed with an error number.
    Over(Result<(), i32>),
}

/// One send.
pub(super) struct Operation {
    /// What is not in the socket yet. Empty when the last result has come: custody alone holds the memory then.
    rest: Memory,
    /// The registered buffer that `rest` is a part of, if it is one piece.
    buffer: Option<u16>,
    /// Describes `rest` to the kernel while it is more than one piece.
    message: Option<Box<Message>>,
    how: How,
    /// Zero-copy was refused once and is tried once more: the kernel may have been given back some memory.
    again: bool,
    attempts: u32,
    /// Whoever queued it is still there.
    beginning: bool,
    /// Bytes in the socket, and how many of them without a copy by us.
    pub(super) sent: usize,
    pub(super) sent_zero_copy: usize,
    /// Why the rest is copied.
    pub(super) fallback: Option<Refusal>,
    /// Notifications that results have announced and that have not come.
    notifications: u32,
    copied: bool,
    over: bool,
}

impl Operation {
    /// `buffer` is the registered buffer that `memory`, a single piece, is a part of.
    pub(super) fn new(memory: Memory, how: How, buffer: Option<u16>) -> Self {
        Self {
            rest: memory,
            buffer,
            message: None,
            how,
            again: false,
            attempts: 0,
            beginning: true,
            sent: 0,
            sent_zero_copy: 0,
            fallback: None,
            notifications: 0,
            copied: false,
            over: false,
        }
    }

    /// What to submit. It stays where it is until the result.
    pub(super) fn submission(&mut self) -> (Payload<'_>, How) {
        let payload = match &*self.rest {
            [piece] => self.buffer.map_or(Payload::One(piece), |index| Payload::Registered(piece, index)),
            pieces => Payload::Many(self.message.insert(Message::new(pieces))),
        };
        (payload, self.how)
    }

    /// Takes in a completion.
    pub(super) fn take(&mut self, completion: Completion) -> Next {
        match completion {
            Completion::Notification { copied } => {
                self.notifications = self.notifications.saturating_sub(1);
                self.copied |= copied;
                Next::Wait
            }
            Completion::Result { result, notification_follows } => {
                self.notifications += u32::from(notification_follows);
                self.message = None;
                match result {
                    Ok(bytes) => self.advance(bytes),
                    Err(errno) => self.refused(errno),
                }
            }
        }
    }

    fn advance(&mut self, bytes: usize) -> Next {
        self.sent += bytes;
        if self.how != How::Copy {
            self.sent_zero_copy += bytes;
        }
        let (mut whole, mut left) = (0, bytes);
        while whole < self.rest.len() && self.rest[whole].len() <= left {
            left -= self.rest[whole].len();
            whole += 1;
        }
        // Custody has clones: nothing is released here.
        self.rest.drain(..whole);
        if let Some(piece) = self.rest.first_mut() {
            piece.advance(left);
        }
        if self.rest.is_empty() {
            self.over = true;
            return Next::Over(Ok(()));
        }
        self.attempts = if bytes > 0 { 0 } else { self.attempts + 1 };
        // Nothing asked for a send of so many bytes to stop.
        if self.attempts < MOST_ATTEMPTS { Next::Submit } else { self.fail(libc::EIO) }
    }

    /// Whoever queued it goes away, and what he was to decide is decided here.
    pub(super) fn begun(&mut self, refused: Option<i32>) -> Next {
        self.beginning = false;
        refused.map_or(Next::Wait, |errno| self.refused(errno))
    }

    fn refused(&mut self, errno: i32) -> Next {
        self.attempts += 1;
        match errno {
            // Nobody here cancels: the thread that submitted it is gone, or a signal came.
            libc::ECANCELED | libc::EINTR if self.attempts < MOST_ATTEMPTS => return Next::Submit,
            // A peer that has closed its sending side counts as an event, so the kernel tries again at once, and gives up
            // after 128 times (`APOLL_MAX_RETRY` in `io_uring/poll.c`).
            libc::EAGAIN if self.attempts < MOST_ATTEMPTS => return Next::Park,
            _ if self.beginning && self.sent == 0 => return Next::Refused(errno),
            _ => {}
        }
        // Only a zero-copy send that the kernel will not do can still be copied.
        match (self.how, Refusal::from_error(&std::io::Error::from_raw_os_error(errno))) {
            (How::Copy, _) | (_, None) => self.fail(errno),
            // What was accepted before is known to work: this can only be a want of memory.
            (_, Some(_)) if !self.again => {
                self.again = true;
                Next::Submit
            }
            (_, Some(reason)) => {
                self.fallback = Some(reason);
                self.how = How::Copy;
                self.attempts = 0;
                Next::Submit
            }
        }
    }

    /// It waits for room in the socket now.
    pub(super) const fn parked(&mut self) {
        self.attempts = 0;
    }

    fn fail(&mut self, errno: i32) -> Next {
        self.rest.clear();
        self.over = true;
        Next::Over(Err(errno))
    }

    pub(super) const fn is_beginning(&self) -> bool {
        self.beginning
    }

    /// Nothing of it was sent, and the kernel will not say that it let go of something.
    pub(super) const fn is_untouched(&self) -> bool {
        self.sent == 0 && self.notifications == 0
    }

    /// The kernel will say no more about it: the memory is released.
    pub(super) const fn is_released(&self) -> bool {
        self.over && self.notifications == 0
    }

    /// Whether the kernel copied what it was to send from where it was; `None` if it did not say.
    pub(super) const fn copied(&self) -> Option<bool> {
        match self.how {
            How::ZeroCopy { report_usage: true } if self.sent_zero_copy > 0 => Some(self.copied),
            _ => None,
        }
    }
}
