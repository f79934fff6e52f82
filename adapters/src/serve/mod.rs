//! An HTTP server on zero-copy streams, with the limits that a service on the open internet needs.

mod connection;
mod greeting;
mod headroom;
mod timer;

use std::{
    error::Error,
    fmt,
    future::{Future, IntoFuture, pending},
    io,
    marker::PhantomData,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::task::{JoinError, JoinSet};
use tower::Service;
use zerosink_core::{Ring, SinkConfig};

pub use self::connection::client_address;
use self::headroom::Headroom;
use crate::listener::{Accept, Duplex, ZeroCopyListener, open};

/// HTTP of both versions, as hyper-util has it: all its knobs.
pub type Http = auto::Builder<TokioExecutor>;

/// What a service may answer with its failures.
type BoxError = Box<dyn Error + Send + Sync>;

/// Serves HTTP/1 and HTTP/2 (prior knowledge) with `service` on the connections of `listener`: `serve(..).await`.
///
/// `service` is tower's: an axum `Router`, or `tower::service_fn`. The address of the client is among the extensions of
/// each request: [`client_address`] finds it, and with the feature `axum` it is axum's `ConnectInfo`.
///
/// Unless it is told otherwise, a client has 30 s for the head of each request, as well as for the first one to begin, and one that
/// does not read is cut off after 30 s without progress ([`stall_timeout`](Serve::stall_timeout)).
pub fn serve<L, By, S, B>(listener: L, service: S) -> Serve<L, By, S>
where
    L: Accept<Socket: Duplex<By>>,
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    let mut http = Http::new(TokioExecutor::new());
    // HTTP/2 WebSockets are extended CONNECT.
    http.http2().timer(TokioTimer::new()).enable_connect_protocol();
    let serve = Serve {
        listener,
        service,
        http,
        sink: SinkConfig::new(),
        header_read_timeout: None,
        max_connections: usize::MAX,
        headroom: None,
        shutdown: Box::pin(pending()),
        deadline: None,
        by: PhantomData,
    };
    serve.header_read_timeout(Duration::from_secs(30))
}

/// A server that is about to start; see [`serve`].
///
/// It is a future. Dropping it closes the listener and all connections at once, but for those that were upgraded.
#[must_use = "it serves when it is awaited"]
pub struct Serve<L, By, S> {
    listener: L,
    service: S,
    http: Http,
    sink: SinkConfig,
    header_read_timeout: Option<Duration>,
    max_connections: usize,
    headroom: Option<Headroom>,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    deadline: Option<Duration>,
    by: PhantomData<fn() -> By>,
}

impl<L, By, S> Serve<L, By, S> {
    /// Settings of every connection's sink. Do this before [`stall_timeout`](Self::stall_timeout).
    pub fn sink(mut self, config: SinkConfig) -> Self {
        self.sink = config;
        self
    }

    /// Cuts a client off that has taken nothing for `timeout` although something waited for it: the connection is
    /// aborted and its memory comes back. A slow client makes progress; a silent one makes none. This is
    /// [`SinkConfig::release_timeout`], and like that needs Linux.
    ///
    /// An HTTP/2 client that reads, but opens no window for a stream, is not silent: bound what a body may hold, and the number of
    /// streams.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.sink = self.sink.release_timeout(timeout);
        self
    }

    /// Closes a connection whose client has not sent a whole head `timeout` after it might have begun: after the connection was
    /// made, or after the response before. `None`: it may take for ever. HTTP/2 is bound by it until its preface.
    pub fn header_read_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.header_read_timeout = timeout.into();
        self.http.http1().header_read_timeout(self.header_read_timeout);
        self
    }

    /// Goes on with a response although the client has closed its sending direction (HTTP/1). Off unless you say otherwise: end of
    /// file is taken for a client that went away.
    pub fn half_close(mut self, on: bool) -> Self {
        self.http.http1().half_close(on);
        self
    }

    /// At most `bytes`, 8 KiB or more, for the head of a request, and for what waits to be written (HTTP/1).
    ///
    /// # Panics
    ///
    /// If `bytes` is less than 8 KiB.
    pub fn max_buffer_bytes(mut self, bytes: usize) -> Self {
        self.http.http1().max_buf_size(bytes);
        self
    }

    /// Accepts no more than `connections` at a time; others wait in the listener's backlog. Upgraded ones count no more.
    ///
    /// # Panics
    ///
    /// If `connections` is 0: nobody could ever be served.
    pub fn max_connections(mut self, connections: usize) -> Self {
        assert!(connections > 0, "max_connections(0) serves nobody: use 1 or more");
        self.max_connections = connections;
        self
    }

    /// Logs a warning at the start if `clients` that stop reading could take all of `ring`, so that nobody else is served until they are
    /// cut off. Others go on as long as `ring > clients × (body_bytes + max_pinned_bytes)`, in bytes: what one body holds
    /// at most, with what waits in hyper's buffer, and [`SinkConfig::max_pinned_bytes`].
    pub fn withstand(mut self, clients: usize, ring: &Ring, body_bytes: usize) -> Self {
        self.headroom = Some(Headroom::new(clients, ring, body_bytes));
        self
    }

    /// Everything else that hyper-util can be told: HTTP/2 windows, frame sizes, streams and keep-alive, among others.
    ///
    /// `writev(false)` and `pipeline_flush(true)` of HTTP/1 make hyper copy bodies into a buffer of its own.
    pub fn http(mut self, set: impl FnOnce(&mut Http)) -> Self {
        set(&mut self.http);
        self
    }

    /// When `signal` is ready: accepts no more, lets every connection finish the responses that it has begun, and ends. Idle connections
    /// are closed at once.
    pub fn with_graceful_shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Box::pin(signal);
        self
    }

    /// Aborts what has not finished `deadline` after the signal. Without it one client that reads slowly keeps the server.
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

impl<L, By, S, B> Serve<L, By, S>
where
    L: Accept<Socket: Duplex<By>>,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    async fn run(self) -> io::Result<()> {
        if let Some(headroom) = self.headroom {
            headroom.check(self.sink.max_pinned_bytes);
        }
        let mut listener = ZeroCopyListener::new(self.listener, self.sink);
        let http = Arc::new(self.http);
        let mut shutdown = pin!(self.shutdown);
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(ended) = connections.join_next() => note(ended),
                (socket, peer) = listener.accept_socket(), if connections.len() < self.max_connections => {
                    let (http, service, watcher) = (Arc::clone(&http), self.service.clone(), graceful.watcher());
                    let (sink, timeout) = (listener.config().clone(), self.header_read_timeout);
                    connections.spawn(async move {
                        if let Some(stream) = open(socket, sink).await {
                            connection::run(http, stream, peer, service, timeout, watcher).await;
                        }
                    });
                }
            }
        }
        drop(listener);
        let finish = async {
            graceful.shutdown().await;
            while let Some(ended) = connections.join_next().await {
                note(ended);
            }
        };
        let Some(deadline) = self.deadline else {
            finish.await;
            return Ok(());
        };
        if tokio::time::timeout(deadline, finish).await.is_ok() {
            return Ok(());
        }
        let aborted = connections.len();
        connections.shutdown().await;
        let why = format!("{aborted} connections had not finished {deadline:?} after the signal and were aborted");
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }
}

fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        // The panic hook has said what and where.
        tracing::error!("a service panicked, and its connection is closed");
    }
}

impl<L, By, S, B> IntoFuture for Serve<L, By, S>
where
    L: Accept<Socket: Duplex<By>>,
    By: 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    /// `TimedOut` if connections had to be aborted at the [deadline](Serve::shutdown_deadline). Without a
    /// [signal](Serve::with_graceful_shutdown) it never ends.
    type Output = io::Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<L: fmt::Debug, By, S> fmt::Debug for Serve<L, By, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve").field("listener", &self.listener).field("sink", &self.sink).finish_non_exhaustive()
    }
}
