//! Waiting for events, with the calls that zerosink and tokio make for it.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::event::{
    Timespec,
    epoll::{self, EventData, EventFlags},
};

/// The runtime's epoll, which has the socket.
#[derive(Debug)]
pub(super) struct Room(OwnedFd);

impl Room {
    pub(super) fn new(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, socket, EventData::new_u64(0), EventFlags::OUT | EventFlags::ET)?;
        let room = Self(epoll);
        // It has room now.
        room.wait()?;
        Ok(room)
    }

    /// Waits until there is room that was not there the last time.
    pub(super) fn wait(&self) -> io::Result<()> {
        while one(&self.0, None)?.is_empty() {}
        Ok(())
    }
}

/// The runtime's epoll, and in it the one that has what completions are awaited of: tokio takes them for something else.
#[derive(Debug)]
pub(super) struct Events {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Events {
    pub(super) fn new() -> io::Result<Self> {
        let [outer, inner] = [epoll::create(epoll::CreateFlags::CLOEXEC)?, epoll::create(epoll::CreateFlags::CLOEXEC)?];
        epoll::add(&outer, &inner, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { outer, inner })
    }

    /// Of a socket that has room now.
    pub(super) fn of_socket(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let events = Self::new()?;
        epoll::add(&events.inner, socket, EventData::new_u64(0), EventFlags::OUT | EventFlags::ET)?;
        events.wait()?;
        Ok(events)
    }

    /// Watches an io_uring, when asked to.
    pub(super) fn add_uring(&self, uring: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::add(&self.inner, uring, EventData::new_u64(0), EventFlags::ONESHOT)?)
    }

    /// Waits until it has completions.
    pub(super) fn wait_for_completions(&self, uring: BorrowedFd<'_>) -> io::Result<()> {
        epoll::modify(&self.inner, uring, EventData::new_u64(0), EventFlags::IN | EventFlags::ONESHOT)?;
        self.wait()?;
        Ok(())
    }

    /// Waits until something has happened since the last time.
    pub(super) fn wait(&self) -> io::Result<EventFlags> {
        let mut seen = EventFlags::empty();
        while seen.is_empty() {
            one(&self.outer, None)?;
            seen = one(&self.inner, Some(&Timespec::default()))?;
        }
        Ok(seen)
    }
}

fn one(epoll: &OwnedFd, limit: Option<&Timespec>) -> io::Result<EventFlags> {
    let mut events = [MaybeUninit::<epoll::Event>::uninit(); 8];
    match epoll::wait(epoll, &mut events, limit) {
        Ok((events, _)) => Ok(events.first().map_or(EventFlags::empty(), |event| event.flags)),
        Err(rustix::io::Errno::INTR) => Ok(EventFlags::empty()),
        Err(error) => Err(error.into()),
    }
}
