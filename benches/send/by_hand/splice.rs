//! `vmsplice` and `splice`, and `sendfile`.
#![expect(unsafe_code, reason = "system calls on raw memory")]

use std::{
    ffi::c_void,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    ptr, slice,
    time::Instant,
};

use rustix::{
    fs::sendfile,
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap},
    pipe::{IoSliceRaw, PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice, vmsplice},
};
use zerosink::region;

use super::room::Room;
use crate::{
    contender::Times,
    ends::Socket,
    store::{BYTE, RING, Store},
};

/// Bytes of one `splice` into an `AF_UNIX` socket: see `backends/src/splice/window.rs`.
const UNIX_PIECE: usize = 64 << 10;
/// What its send buffer is asked to hold.
const UNIX_SEND_BUFFER: usize = 1 << 20;

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    piece: usize,
    room: Room,
}

impl Pipe {
    fn new(socket: &Socket) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&write, 1 << 20)?;
        let piece = match socket {
            Socket::Tcp(_) => usize::MAX,
            Socket::Unix(_) => UNIX_PIECE,
        };
        Ok(Self { read, write, piece, room: Room::new(socket.as_fd())? })
    }

    /// Sends all of `rest`. What a full socket does not take stays in the pipe.
    fn carry(&self, socket: BorrowedFd<'_>, mut rest: &[u8], gift: SpliceFlags) -> io::Result<()> {
        look_at_sigpipe();
        while !rest.is_empty() {
            let slice = IoSlice::new(rest);
            let raw = [IoSliceRaw::from_slice(&slice)];
            // SAFETY: the write end of a pipe: the kernel only reads the memory, which is not written while it does.
            let mut piped = unsafe { vmsplice(&self.write, &raw, gift | SpliceFlags::NONBLOCK) }?;
            rest = &rest[piped..];
            while piped > 0 {
                let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
                match splice(&self.read, None, socket, None, piped.min(self.piece), flags) {
                    Ok(bytes) => piped -= bytes,
                    Err(Errno::AGAIN) => self.room.wait()?,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// Whether a closed socket would kill the process.
fn look_at_sigpipe() {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action the call only writes the present one.
    let asked = unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: written, if the call succeeded; the Rust runtime ignores the signal.
    assert!(asked == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN, "SIGPIPE kills");
}

fn enlarge(socket: &Socket) -> io::Result<()> {
    if let Socket::Unix(unix) = socket {
        rustix::net::sockopt::set_socket_send_buffer_size(unix, UNIX_SEND_BUFFER)?;
    }
    Ok(())
}

pub(super) fn run(socket: &Socket, store: &mut Store, total: u64) -> io::Result<Times> {
    enlarge(socket)?;
    let pipe = Pipe::new(socket)?;
    let start = Instant::now();
    let mut sent = 0;
    while sent < total {
        let bytes = store.lend()?;
        pipe.carry(socket.as_fd(), bytes, SpliceFlags::empty())?;
        sent += bytes.len() as u64;
    }
    socket.shut_down()?;
    Ok((start, Instant::now()))
}

pub(super) fn run_sendfile(socket: &Socket, store: &mut Store, total: u64) -> io::Result<Times> {
    enlarge(socket)?;
    let room = Room::new(socket.as_fd())?;
    let start = Instant::now();
    let mut sent = 0;
    while sent < total {
        let bytes = store.lend()?;
        let all = region::locate(bytes, |location| {
            let (file, mut offset) = location.file.ok_or_else(|| io::Error::other("not in a memfd"))?;
            let end = offset + bytes.len() as u64;
            while offset < end {
                let rest = (end - offset) as usize;
                look_at_sigpipe();
                match sendfile(socket, file, Some(&mut offset), rest) {
                    Ok(_) => {}
                    Err(Errno::AGAIN) => room.wait()?,
                    Err(error) => return Err(io::Error::from(error)),
                }
            }
            Ok(())
        });
        all.ok_or_else(|| io::Error::other("not in a ring"))??;
        sent += bytes.len() as u64;
    }
    socket.shut_down()?;
    Ok((start, Instant::now()))
}

/// Writes before each send, too.
pub(super) fn run_gift(socket: &Socket, chunk: usize, total: u64) -> io::Result<Times> {
    let memory = Mapping::new()?;
    enlarge(socket)?;
    let pipe = Pipe::new(socket)?;
    let start = Instant::now();
    let mut sent = 0;
    while sent < total {
        let at = sent as usize % RING;
        let bytes = memory.part(at, chunk);
        // SAFETY: the part lies in the mapping, and nobody else has it.
        unsafe { ptr::write_bytes(bytes.cast::<u8>(), BYTE, chunk) };
        // SAFETY: as above, and written.
        pipe.carry(socket.as_fd(), unsafe { slice::from_raw_parts(bytes.cast(), chunk) }, SpliceFlags::GIFT)?;
        for advice in [Advice::LinuxDontNeed, Advice::LinuxPopulateWrite] {
            // SAFETY: the part lies in the mapping, and nobody has a reference to it.
            unsafe { madvise(bytes, chunk, advice) }?;
        }
        sent += chunk as u64;
    }
    socket.shut_down()?;
    Ok((start, Instant::now()))
}

struct Mapping(*mut c_void);

impl Mapping {
    fn new() -> io::Result<Self> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), RING, prot, flags) }?;
        Ok(Self(start))
    }

    fn part(&self, at: usize, bytes: usize) -> *mut c_void {
        assert!(at + bytes <= RING, "{bytes} bytes at {at}");
        // SAFETY: inside the mapping.
        unsafe { self.0.cast::<u8>().add(at).cast() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: all of our own mapping, to which nobody has a reference any more.
        unsafe { munmap(self.0, RING) }.expect("our own mapping");
    }
}
