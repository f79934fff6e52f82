//! Waiting for the socket, as it must be done beside tokio: by an epoll in an epoll.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::event::{
    Timespec,
    epoll::{self, EventData, EventFlags},
};

/// The runtime's epoll, and in it the one that has the socket.
#[derive(Debug)]
pub(super) struct Room {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Room {
    pub(super) fn new(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let [outer, inner] = [epoll::create(epoll::CreateFlags::CLOEXEC)?, epoll::create(epoll::CreateFlags::CLOEXEC)?];
        epoll::add(&inner, socket, EventData::new_u64(0), EventFlags::OUT | EventFlags::ET)?;
        epoll::add(&outer, &inner, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
        let room = Self { outer, inner };
        // It has room now.
        room.wait()?;
        Ok(room)
    }

    /// Waits until something has happened since the last time: there is room, or a notification.
    pub(super) fn wait(&self) -> io::Result<EventFlags> {
        let mut seen = EventFlags::empty();
        while seen.is_empty() {
            one(&self.outer, None)?;
            seen = one(&self.inner, Some(&Timespec::default()))?;
        }
        Ok(seen)
    }

    /// Waits until there is room.
    pub(super) fn wait_for_room(&self) -> io::Result<()> {
        while !self.wait()?.contains(EventFlags::OUT) {}
        Ok(())
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
