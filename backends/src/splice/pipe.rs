//! Pipes that are empty between two sends, so that any connection may use any of them.
//!
//! What a full socket does not take is thrown away with the pipe's references, not kept for the next send: it was not
//! accepted, so it is still in the queue it came from. A pipe can therefore never leak one connection's bytes to another,
//! and none is needed per connection.

use std::{
    fs::File,
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use crate::sys::{fork, splice as sys};

/// What a pipe should hold, in bytes: a large send then costs two calls. The host may permit less.
const WANTED: usize = 1 << 20;
/// Pipes that are kept for the next send; as many are in use at once as threads send.
const KEPT: usize = 16;

static IDLE: Mutex<Idle> = Mutex::new(Idle { generation: 0, pipes: Vec::new() });

/// Pipes that nobody uses.
#[derive(Debug)]
struct Idle {
    /// Of the process, see [`fork::generation`].
    generation: u32,
    pipes: Vec<Pipe>,
}

impl Idle {
    fn lock() -> MutexGuard<'static, Self> {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = fork::generation();
        if idle.generation != generation {
            // The parent has them, too, and would read what this process puts in.
            idle.pipes.clear();
            idle.generation = generation;
        }
        idle
    }
}

/// How a pipe's content goes into a socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// With `SPLICE_F_GIFT`.
    pub(crate) gift: bool,
    /// Other bytes follow at once: the kernel may wait for them before it fills a packet.
    pub(crate) more: bool,
    /// Bytes of one call.
    pub(crate) piece: usize,
}

impl How {
    /// Everything at once, and nothing follows.
    pub(crate) const PLAIN: Self = Self { gift: false, more: false, piece: usize::MAX };
}

/// What went into a socket.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) bytes: usize,
    /// More did not find room.
    pub(crate) full: bool,
}

/// An empty pipe.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// # Errors
    ///
    /// As `pipe2(2)`: `EMFILE`, `ENFILE`.
    pub(crate) fn take() -> io::Result<Self> {
        let idle = Idle::lock().pipes.pop();
        if let Some(pipe) = idle {
            return Ok(pipe);
        }
        let (read, write) = sys::pipe()?;
        if let Err(error) = sys::set_pipe_bytes(write.as_fd(), WANTED) {
            tracing::debug!(%error, "pipe stays small");
        }
        Ok(Self { read, write })
    }

    fn give_back(self) {
        let mut idle = Idle::lock();
        if idle.pipes.len() < KEPT {
            idle.pipes.push(self);
        }
    }

    /// Puts references to the pages of `slices` into the socket, by way of this pipe. Of what the socket does not take nobody
    /// keeps a reference.
    pub(crate) fn carry(self, slices: &[IoSlice<'_>], socket: BorrowedFd<'_>, how: How) -> io::Result<Carried> {
        let piped = match sys::vmsplice(self.write.as_fd(), slices, how.gift) {
            Ok(piped) => piped,
            Err(error) => {
                // Nothing or something may be in it: it is closed.
                drop(self);
                return Err(error);
            }
        };
        let mut left = piped;
        let mut failure = None;
        while left > 0 {
            match sys::splice(self.read.as_fd(), socket, left.min(how.piece), how.more) {
                Ok(0) => break,
                Ok(bytes) => left -= bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if left == 0 || self.emptied(left) {
            self.give_back();
        }
        let full = failure.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        match failure {
            Some(error) if left == piped => Err(error),
            _ => Ok(Carried { bytes: piped - left, full }),
        }
    }

    /// Throws away the references to `left` bytes. False if the pipe may still hold some: it must be closed then.
    fn emptied(&self, mut left: usize) -> bool {
        static NOWHERE: OnceLock<File> = OnceLock::new();
        let nowhere = match NOWHERE.get() {
            Some(nowhere) => nowhere,
            // Without a descriptor for it now, there may be one later.
            None => match File::options().write(true).open("/dev/null") {
                Ok(opened) => NOWHERE.get_or_init(|| opened),
                Err(_) => return false,
            },
        };
        while left > 0 {
            match sys::splice(self.read.as_fd(), nowhere.as_fd(), left, false) {
                Ok(bytes) if bytes > 0 => left -= bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn what_a_full_socket_does_not_take_is_in_no_pipe_afterwards() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ones = vec![1; 4 << 20];
        let (mut sent, mut said_full) = (0, false);
        let full = loop {
            match Pipe::take().unwrap().carry(&[IoSlice::new(&ones[sent..])], ours.as_fd(), How::PLAIN) {
                Ok(carried) => {
                    sent += carried.bytes;
                    said_full = carried.full;
                }
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert!(said_full, "the send before, which was cut short, has met a full socket, too");
        // Another connection gets the same pipe.
        let (other, mut reader) = UnixStream::pair().unwrap();
        let carried = Pipe::take().unwrap().carry(&[IoSlice::new(&[2; 10])], other.as_fd(), How::PLAIN).unwrap();
        assert_eq!((carried.bytes, carried.full), (10, false));
        drop(other);
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        assert_eq!(received, [2; 10]);
        drop(ours);
        received.clear();
        theirs.read_to_end(&mut received).unwrap();
        assert_eq!((received.len(), received.iter().all(|byte| *byte == 1)), (sent, true));
    }

    #[test]
    fn control_a_pipe_that_keeps_its_residue_gives_it_to_the_next_socket() {
        let (read, write) = sys::pipe().unwrap();
        let (full, _reader) = UnixStream::pair().unwrap();
        full.set_nonblocking(true).unwrap();
        while rustix::io::write(&full, &[0; 4096]).is_ok() {}
        sys::vmsplice(write.as_fd(), &[IoSlice::new(b"secret")], false).unwrap();
        assert!(sys::splice(read.as_fd(), full.as_fd(), 6, false).is_err());
        let (other, mut reader) = UnixStream::pair().unwrap();
        sys::vmsplice(write.as_fd(), &[IoSlice::new(b"public")], false).unwrap();
        sys::splice(read.as_fd(), other.as_fd(), 6, false).unwrap();
        let mut received = [0; 6];
        reader.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"secret");
    }
}
