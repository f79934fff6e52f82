//! Readers that come late: the kernel has the bytes, by reference to their pages, and nobody has read them yet.

use std::{
    io::Read as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::Duration,
};

use rustix::pipe::{IoSliceRaw, SpliceFlags, pipe, splice, vmsplice};

/// What one route holds without a reader, whatever the sizes of its buffers.
pub(crate) const BYTES: usize = 64 << 10;

/// Where the bytes wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Pipe,
    /// TCP over loopback.
    Tcp,
    /// `AF_UNIX`.
    Unix,
}

/// How they get there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// `vmsplice` from the mapping.
    Vmsplice,
    /// The same with `SPLICE_F_GIFT`.
    Gift,
    /// `splice` (which `sendfile` is) from the file behind the mapping.
    File,
}

/// Up to [`BYTES`] bytes in the kernel.
pub(crate) struct Late {
    /// Keeps the sending end open: a closed one is another story.
    _writer: OwnedFd,
    reader: Reader,
    bytes: usize,
}

enum Reader {
    Pipe(OwnedFd),
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Late {
    /// Puts `bytes` on their way.
    pub(crate) fn put(route: Route, put: Put, bytes: &[u8]) -> Self {
        assert!(bytes.len() <= BYTES);
        let (pipe_reader, pipe_writer) = pipe().unwrap();
        match put {
            Put::Vmsplice | Put::Gift => {
                let flags = if put == Put::Gift { SpliceFlags::GIFT } else { SpliceFlags::empty() };
                #[expect(unsafe_code, reason = "vmsplice makes the kernel refer to memory")]
                // SAFETY: the kernel only reads, and the memory stays mapped as long as its ring, which outlives the reader here.
                // That it may be rewritten meanwhile is what these tests are about; it changes what the reader sees.
                let piped = unsafe { vmsplice(&pipe_writer, &[IoSliceRaw::from_slice(bytes)], flags) };
                assert_eq!(piped.unwrap(), bytes.len());
            }
            Put::File => {
                let sent = zerosink::region::locate(bytes, |location| {
                    let (file, mut offset) = location.file.expect("there is a file behind the memory");
                    let mut left = bytes.len();
                    while left > 0 {
                        left -=
                            splice(file, Some(&mut offset), &pipe_writer, None, left, SpliceFlags::empty()).unwrap();
                    }
                });
                sent.expect("the memory is known");
            }
        }
        let bytes = bytes.len();
        let (writer, reader) = match route {
            Route::Pipe => return Self { _writer: pipe_writer, reader: Reader::Pipe(pipe_reader), bytes },
            Route::Tcp => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                let writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                (OwnedFd::from(writer), Reader::Tcp(listener.accept().unwrap().0))
            }
            Route::Unix => {
                let (writer, reader) = UnixStream::pair().unwrap();
                (OwnedFd::from(writer), Reader::Unix(reader))
            }
        };
        let mut left = bytes;
        while left > 0 {
            left -= splice(&pipe_reader, None, &writer, None, left, SpliceFlags::MOVE).unwrap();
        }
        Self { _writer: writer, reader, bytes }
    }

    /// Reads them at last.
    pub(crate) fn read(self) -> Vec<u8> {
        const PATIENCE: Duration = Duration::from_secs(30);
        let mut seen = vec![0; self.bytes];
        match self.reader {
            // All of it is in the pipe: this cannot block.
            Reader::Pipe(pipe) => std::fs::File::from(pipe).read_exact(&mut seen),
            Reader::Tcp(mut socket) => {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.read_exact(&mut seen)
            }
            Reader::Unix(mut socket) => {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.read_exact(&mut seen)
            }
        }
        .unwrap();
        seen
    }
}
