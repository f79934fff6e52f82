//! The backend of `examples/own_backend.rs` keeps its promises.

#[expect(dead_code, reason = "the example's main function")]
#[path = "../examples/own_backend.rs"]
mod own_backend;

// ANCHOR: mount
use own_backend::Trickle;
use zerosink::{
    conformance::{Mount, TcpLoopback},
    conformance_tests,
};

mod over_tcp {
    use super::*;
    conformance_tests!(Mount::new(Trickle(1000), TcpLoopback));
}
// ANCHOR_END: mount

#[cfg(unix)]
mod over_unix {
    use super::*;
    conformance_tests!(Mount::new(Trickle(1000), zerosink::conformance::UnixPair));
}

// ANCHOR: control
/// That nothing fails means something only if a bug would.
#[test]
fn control_the_mount_catches_what_it_should() {
    use zerosink::conformance::{Check, broken::Broken};
    for bug in
        [Broken::Overtakes, Broken::SwallowsWhilePending, Broken::Spins, Broken::Miscounts, Broken::ReleasesTwice]
    {
        let mount = Mount::new(bug, TcpLoopback).shared();
        let check = bug.caught_by().and_then(Check::named).unwrap();
        assert!(check.run(&mount).is_failed(), "{bug:?} is not caught by {check:?}");
    }
}
// ANCHOR_END: control

/// A backend whose sink is not the one that a connection makes.
mod a_sink_of_ones_own {
    use std::{
        pin::Pin,
        sync::{Arc, Mutex},
        task::{Context, Poll},
    };

    use async_trait::async_trait;
    use zerosink::{
        AttachError, Backend, Connection, Path, Position, ReleaseError, SendError, SinkStats, Support, prelude::*,
    };

    use super::own_backend::Trickle;

    type Calls = Arc<Mutex<Vec<&'static str>>>;

    /// Notes what it is asked.
    struct Noting {
        inner: Box<dyn ZeroCopySink + Unpin>,
        calls: Calls,
    }

    impl Noting {
        fn note(&self, call: &'static str) {
            self.calls.lock().unwrap().push(call);
        }
    }

    #[derive(Debug, Default)]
    struct Plugin(Calls);

    #[async_trait]
    impl Backend for Plugin {
        fn mechanism(&self) -> Mechanism {
            Mechanism::Copy
        }

        fn probe(&self) -> Support {
            Support::Yes
        }

        async fn attach(
            &self,
            connection: &Arc<Connection>,
            config: &SinkConfig,
        ) -> Result<Box<dyn ZeroCopySink + Unpin>, AttachError> {
            let inner = Trickle(1000).attach(connection, config).await?;
            Ok(Box::new(Noting { inner, calls: Arc::clone(&self.0) }))
        }
    }

    impl ZeroCopySink for Noting {
        fn poll_send(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            queue: &mut SendQueue<'_>,
        ) -> Poll<Result<usize, SendError>> {
            self.note("send");
            Pin::new(&mut self.inner).poll_send(cx, queue)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
            self.note("flush");
            Pin::new(&mut self.inner).poll_flush(cx)
        }

        fn position(&self) -> Position {
            self.note("position");
            self.inner.position()
        }

        fn poll_released(mut self: Pin<&mut Self>, cx: &mut Context<'_>, upto: u64) -> Poll<Result<(), ReleaseError>> {
            self.note("released");
            Pin::new(&mut self.inner).poll_released(cx, upto)
        }

        fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
            self.note("close");
            Pin::new(&mut self.inner).poll_close(cx)
        }

        fn mechanism(&self) -> Mechanism {
            self.note("mechanism");
            self.inner.mechanism()
        }

        fn path(&self) -> Path {
            self.note("path");
            self.inner.path()
        }

        fn stats(&self) -> SinkStats {
            self.note("stats");
            self.inner.stats()
        }
    }

    #[tokio::test]
    async fn is_asked_everything_that_a_sink_is_asked() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let plugin = Plugin::default();
        let sink = ZeroCopySink::auto(socket).await.unwrap();
        let mut sink = sink.with_backend(&plugin, &SinkConfig::new()).await.unwrap();
        plugin.0.lock().unwrap().clear();

        sink.send(bytes::Bytes::from_static(b"zerosink")).await.unwrap();
        sink.flush().await.unwrap();
        sink.released(8).await.unwrap();
        sink.close().await.unwrap();
        assert_eq!((sink.position().released, sink.stats().bytes_copied), (8, 8));
        assert_eq!((sink.mechanism(), sink.path()), (Mechanism::Copy, Path::SameHost));
        let asked = plugin.0.lock().unwrap().clone();
        assert_eq!(asked, ["send", "flush", "released", "close", "position", "stats", "mechanism", "path"]);
    }
}
