//! A mount of the [conformance kit](zerosink_core::conformance) for backends that send on this crate's connections, under tokio
//! (feature `conformance`).

use std::{
    fmt,
    future::Future,
    io::{self, Read},
    pin::Pin,
    sync::Arc,
};

use async_trait::async_trait;
use tokio::{net, runtime};
use zerosink_core::{
    Backend, Mechanism, Ring, SinkConfig, ZeroCopySink,
    conformance::{Link, Runtime, Socket, Subject},
};

use crate::auto::connect;

type MakeRing = dyn Fn(usize, u8) -> io::Result<Ring> + Send + Sync;

/// A backend on a link, as a [`Subject`] of the kit.
///
/// ```no_run
/// use zerosink_backends::{conformance::Mount, copy::Copy};
/// use zerosink_core::conformance::{TcpLoopback, run_all};
///
/// let report = run_all(&Mount::new(Copy, TcpLoopback).shared());
/// assert!(report.passed(), "{report}");
/// ```
pub struct Mount {
    backend: Arc<dyn Backend>,
    link: Arc<dyn Link>,
    config: SinkConfig,
    ring: Option<Box<MakeRing>>,
    confine: Option<fn() -> io::Result<()>>,
    workers: usize,
    patience: std::time::Duration,
}

impl Mount {
    /// Sinks as `backend` attaches them to a connection of this crate, with no ladder above; rings on heap; a runtime with one thread.
    pub fn new(backend: impl Backend + 'static, link: impl Link + 'static) -> Self {
        Self {
            backend: Arc::new(backend),
            link: Arc::new(link),
            config: SinkConfig::new(),
            ring: None,
            confine: None,
            workers: 0,
            patience: std::time::Duration::from_secs(15),
        }
    }

    /// For [`Check::run`](zerosink_core::conformance::Check::run) and [`run_all`](zerosink_core::conformance::run_all).
    #[must_use]
    pub fn shared(self) -> Arc<dyn Subject> {
        Arc::new(self)
    }

    /// Sets the user's word about the peer, and the path. (The kit sets the release time-out.)
    #[must_use]
    pub fn config(mut self, config: SinkConfig) -> Self {
        self.config = config;
        self
    }

    /// Makes rings of so many bytes, which write the given byte over what comes back, of memory that the mechanism can send.
    #[must_use]
    pub fn ring(mut self, ring: impl Fn(usize, u8) -> io::Result<Ring> + Send + Sync + 'static) -> Self {
        self.ring = Some(Box::new(ring));
        self
    }

    /// Sets the outside witness: see [`Subject::confine`].
    #[must_use]
    pub fn witness(mut self, confine: fn() -> io::Result<()>) -> Self {
        self.confine = Some(confine);
        self
    }

    /// Sends on a runtime with so many worker threads, instead of one that has none.
    #[must_use]
    pub const fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Sets what [`Subject::patience`] answers.
    #[must_use]
    pub const fn patience(mut self, patience: std::time::Duration) -> Self {
        self.patience = patience;
        self
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount").field("backend", &self.backend).field("link", &self.link).finish_non_exhaustive()
    }
}

#[async_trait]
impl Subject for Mount {
    fn mechanism(&self) -> Mechanism {
        self.backend.mechanism()
    }

    fn link(&self) -> &dyn Link {
        &*self.link
    }

    fn runtime(&self) -> io::Result<Box<dyn Runtime>> {
        let mut builder = match self.workers {
            0 => runtime::Builder::new_current_thread(),
            workers => {
                let mut builder = runtime::Builder::new_multi_thread();
                builder.worker_threads(workers);
                builder
            }
        };
        Ok(Box::new(Tokio(builder.enable_all().build()?)))
    }

    async fn sink(&self, socket: Socket, config: SinkConfig) -> io::Result<Box<dyn ZeroCopySink + Unpin>> {
        // By way of tokio's sockets: what a new one can do, the portable build learns from tokio.
        let (connection, _) = match socket {
            Socket::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                let stream = net::TcpStream::from_std(stream)?;
                stream.writable().await?;
                connect(stream, &config)?
            }
            #[cfg(unix)]
            Socket::Unix(stream) => {
                stream.set_nonblocking(true)?;
                let stream = net::UnixStream::from_std(stream)?;
                stream.writable().await?;
                connect(stream, &config)?
            }
            other => return Err(io::Error::new(io::ErrorKind::Unsupported, format!("no sink for {other:?}"))),
        };
        Ok(self.backend.attach(&connection, &config).await?)
    }

    fn ring(&self, capacity: usize, poison: u8) -> io::Result<Ring> {
        match &self.ring {
            Some(ring) => ring(capacity, poison),
            None => Ring::builder().capacity(capacity).poison(poison).build().map_err(io::Error::other),
        }
    }

    fn config(&self) -> SinkConfig {
        self.config.clone()
    }

    fn confine(&self) -> Option<io::Result<()>> {
        self.confine.map(|confine| confine())
    }

    fn splice_away(&self, socket: &Socket, bytes: usize) -> Option<io::Result<Box<dyn Read + Send>>> {
        let trust = self.config.trust;
        if trust.peer_copies || trust.peer_acks {
            return None;
        }
        splice_away(socket, bytes)
    }

    fn patience(&self) -> std::time::Duration {
        self.patience
    }
}

/// A runtime of tokio.
struct Tokio(runtime::Runtime);

impl Runtime for Tokio {
    fn block_on(&self, future: Pin<&mut (dyn Future<Output = ()> + '_)>) {
        self.0.block_on(future);
    }
}

#[cfg(zerosink_linux)]
fn splice_away(socket: &Socket, bytes: usize) -> Option<io::Result<Box<dyn Read + Send>>> {
    use std::{
        thread,
        time::{Duration, Instant},
    };

    use rustix::{
        io::Errno,
        pipe::{SpliceFlags, fcntl_setpipe_size, pipe, splice},
    };

    const LIMIT: Duration = Duration::from_secs(10);
    let take = || {
        let (read, write) = pipe()?;
        // Slots enough for many small fragments. Where that is refused the usual 16 have to do.
        fcntl_setpipe_size(&write, 1 << 20).ok();
        let (mut left, start) = (bytes, Instant::now());
        while left > 0 {
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            let taken = match socket {
                Socket::Tcp(stream) => splice(stream, None, &write, None, left, flags),
                Socket::Unix(stream) => splice(stream, None, &write, None, left, flags),
                _ => return Err(io::ErrorKind::Unsupported.into()),
            };
            match taken {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(taken) => left -= taken,
                Err(Errno::INTR) => {}
                // Nothing is there yet, or the pipe has no slot left: which of them, nobody says.
                Err(Errno::AGAIN) if start.elapsed() < LIMIT => thread::sleep(Duration::from_millis(1)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Box::new(std::fs::File::from(read)) as Box<dyn Read + Send>)
    };
    Some(take())
}

#[cfg(not(zerosink_linux))]
fn splice_away(_: &Socket, _: usize) -> Option<io::Result<Box<dyn Read + Send>>> {
    None
}
