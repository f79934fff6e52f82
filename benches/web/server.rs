//! The servers that are compared: the same axum app on each.

use std::{fmt, io, net::SocketAddr, path::PathBuf, sync::mpsc, thread};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::BufMut as _;
use tokio::net::{TcpListener, UnixListener};
use tower::layer::util::Identity;
use zerosink::{
    Mechanism, Reuse, Ring, SinkConfig,
    axum::ZeroCopyListenerExt as _,
    body::{BodyRing, RingBody},
    hyper::{Accept, Duplex},
    mapped::MappedMemory,
    tower::ZeroCopyLayer,
};

use crate::ends::{self, congestion};

pub(crate) const SMALL: usize = 4 << 10;
pub(crate) const LARGE: usize = 1 << 20;

/// What connects client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Tcp,
    Unix,
}

/// How the app is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// tokio's listener, and bodies of `Bytes`.
    Plain,
    /// The same, and the app in a layer that does nothing: what axum itself takes for a layer.
    Layered,
    /// The same app, with another listener.
    Listener,
    /// The same app, with a listener and a layer.
    AsItIs,
    /// The same, with the layer around the app.
    Around,
    /// Bodies out of a ring, by this mechanism, or by whichever the sink takes.
    Ring(Option<Mechanism>, Reuse),
    /// `zerosink::serve` instead of axum's, and the layer around the app.
    Serve,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&match self {
            Self::Plain => "plain axum".into(),
            Self::Layered => "plain axum, idle layer".into(),
            Self::Listener => "listener".into(),
            Self::AsItIs => "listener and layer".into(),
            Self::Around => "listener, layer around it".into(),
            Self::Ring(None, reuse) => format!("{reuse} ring, auto"),
            Self::Ring(Some(mechanism), reuse) => format!("{reuse} ring, {mechanism}"),
            Self::Serve => "zerosink::serve and layer".into(),
        })
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What every body is a part of.
pub(crate) fn content() -> Vec<u8> {
    (0..LARGE as u32).map(|at| (at.wrapping_mul(0x9E37_79B9) >> 24) as u8).collect()
}

impl Contender {
    pub(crate) fn config(self) -> SinkConfig {
        match self {
            Self::Ring(Some(mechanism), _) => SinkConfig::new().mechanism(mechanism),
            _ => SinkConfig::new(),
        }
    }

    /// The app, and the layer for those who put it around.
    fn app(self) -> io::Result<(Router, ZeroCopyLayer)> {
        let layer = ZeroCopyLayer::new();
        let Self::Ring(_, reuse) = self else {
            let app = app_on_heap();
            return Ok(match self {
                Self::Layered => (app.layer(Identity::new()), layer),
                Self::AsItIs => (app.layer(layer.clone()), layer),
                _ => (app, layer),
            });
        };
        let builder = Ring::builder().capacity(16 << 20).reuse(reuse);
        let ring = match reuse {
            Reuse::InPlace => builder.build(),
            _ => builder.build_on(MappedMemory::memfd(16 << 20)?),
        };
        let ring = ring.map_err(io::Error::other)?;
        Ok((app_in_ring(&ring)?, layer.ring(ring)))
    }

    /// Serves in a thread of its own until the process ends.
    pub(crate) fn start(self, link: Link) -> io::Result<Address> {
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            ends::stay_with_senders();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(self.serve(link, |address| {
                // Whoever does not listen any more has failed.
                tell.send(address).ok();
            }))
        });
        told.recv().map_err(|_gone| io::Error::other(format!("{self} does not start")))
    }

    pub(crate) async fn serve(self, link: Link, tell: impl FnOnce(Address)) -> io::Result<()> {
        match link {
            Link::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                // What a listener has, its connections have.
                rustix::net::sockopt::set_tcp_congestion(&listener, congestion())?;
                tell(Address::Tcp(listener.local_addr()?));
                self.on(listener).await
            }
            Link::Unix => {
                let name = format!("zerosink-bench-{}-{:?}", std::process::id(), thread::current().id());
                let path = std::env::temp_dir().join(name);
                let listener = UnixListener::bind(&path)?;
                tell(Address::Unix(path));
                self.on(listener).await
            }
        }
    }

    async fn on<L, By>(self, listener: L) -> io::Result<()>
    where
        L: axum::serve::Listener<Addr: fmt::Debug> + Accept<Socket: Duplex<By>, Address: fmt::Debug>,
        By: 'static,
    {
        let (app, layer) = self.app()?;
        let config = self.config();
        match self {
            Self::Plain | Self::Layered => axum::serve(listener, app).await,
            Self::Listener | Self::AsItIs => axum::serve(listener.zero_copy(config), app).await,
            Self::Around | Self::Ring(..) => axum::serve(listener.zero_copy(config), layer.around(app)).await,
            Self::Serve => zerosink::serve(listener, layer.around(app)).sink(config).await,
        }
    }
}

fn json() -> Response {
    let body = serde_json::json!({ "id": 4711, "name": "a small answer", "tags": ["web", "json"], "ok": true });
    ([(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Small bodies are made for each request; the large one is there, so that it is the sending that is measured.
fn app_on_heap() -> Router {
    let large = Bytes::from(content());
    Router::new()
        .route("/json", get(async || json()))
        .route("/small", get(async |State(large): State<Bytes>| Bytes::copy_from_slice(&large[..SMALL])))
        .route("/large", get(async |State(large): State<Bytes>| large))
        .with_state(large)
}

fn app_in_ring(ring: &Ring) -> io::Result<Router> {
    let mut grant = ring.try_reserve(LARGE).map_err(io::Error::other)?;
    grant.put_slice(&content());
    let small = async |State(large): State<Bytes>, ring: BodyRing| {
        let mut grant = ring.ring().reserve(SMALL).await.expect("the ring is larger");
        grant.put_slice(&large[..SMALL]);
        RingBody::new(grant.commit())
    };
    Ok(Router::new()
        .route("/json", get(async || json()))
        .route("/small", get(small))
        .route("/large", get(async |State(large): State<Bytes>| RingBody::new(large)))
        .with_state(grant.commit()))
}
