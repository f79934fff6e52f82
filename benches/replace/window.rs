//! What the kernel has in flight: pipes that refer to pages.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::OwnedFd,
};

use rustix::pipe::{IoSliceRaw, SpliceFlags, fcntl_setpipe_size, pipe, splice, vmsplice};

/// Bytes of one pipe.
const PIPE: usize = 1 << 20;

/// Holds the latest batches, and lets go of the oldest for each new one.
#[derive(Debug)]
pub(crate) struct Window {
    pipes: Vec<(OwnedFd, OwnedFd)>,
    batch: usize,
    held: usize,
    sink: File,
}

impl Window {
    pub(crate) fn new(batch: usize) -> io::Result<Self> {
        let pipes = (0..batch.div_ceil(PIPE)).map(|_| {
            let (reader, writer) = pipe()?;
            fcntl_setpipe_size(&writer, PIPE)?;
            Ok((reader, writer))
        });
        Ok(Self {
            pipes: pipes.collect::<io::Result<_>>()?,
            batch,
            held: 0,
            sink: OpenOptions::new().write(true).open("/dev/null")?,
        })
    }

    /// Bytes that are in flight when the window is full.
    pub(crate) fn bytes(&self) -> usize {
        self.pipes.len() * PIPE
    }

    /// Puts one batch in flight.
    pub(crate) fn push(&mut self, batch: &[u8]) -> io::Result<()> {
        let full = self.held == self.bytes();
        let each = self.batch / self.pipes.len();
        for ((reader, writer), part) in self.pipes.iter().zip(batch.chunks(each)) {
            let mut left = if full { part.len() } else { 0 };
            while left > 0 {
                left -= splice(reader, None, &self.sink, None, left, SpliceFlags::empty())?;
            }
            let mut put = 0;
            while put < part.len() {
                let slice = [IoSliceRaw::from_slice(&part[put..])];
                #[expect(unsafe_code, reason = "vmsplice makes the kernel refer to memory")]
                // SAFETY: the kernel only reads, and nobody reads the bytes at the other end.
                let piped = unsafe { vmsplice(writer, &slice, SpliceFlags::NONBLOCK) };
                put += piped?;
            }
        }
        if !full {
            self.held += batch.len();
        }
        Ok(())
    }

    /// Takes out what is in flight, in order of each pipe, and calls `read` with it.
    pub(crate) fn drain(&mut self, mut read: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let each = self.held / self.pipes.len();
        for (reader, _) in &self.pipes {
            let mut left = each;
            while left > 0 {
                let bytes = rustix::io::read(reader, &mut buffer[..left.min(64 << 10)])?;
                read(&buffer[..bytes]);
                left -= bytes;
            }
        }
        self.held = 0;
        Ok(())
    }
}
