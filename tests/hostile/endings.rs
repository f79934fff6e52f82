//! TCP peers that end a connection at any moment, seem to, or never do.

use std::io::ErrorKind;

use zerosink::{SendError, prelude::*};

use crate::{
    harness,
    scene::{CHUNK, FIRST, Gone, Scene, with_each_way},
    way::{Source, Way},
    wire::raw_peer::RawPeer,
    without_network,
};

#[track_caller]
fn is_reset(way: Way, error: &SendError) {
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(kinds.contains(&error.kind()), "{}: {error:?}", way.name);
}

/// When the reset comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Ten segments are in the device, the rest is in the socket.
    InMidData,
    /// Some of it is acknowledged.
    HalfAcknowledged,
    /// The window is closed, with data behind it.
    WindowClosed,
    /// This side has closed its direction: the FIN waits behind the data.
    AfterOurFin,
    /// The peer has closed its direction.
    AfterItsFin,
    /// Both have.
    AfterBoth,
}

const STAGES: [Stage; 6] = [
    Stage::InMidData,
    Stage::HalfAcknowledged,
    Stage::WindowClosed,
    Stage::AfterOurFin,
    Stage::AfterItsFin,
    Stage::AfterBoth,
];

impl Stage {
    fn enter(self, scene: &mut Scene) {
        match self {
            Self::InMidData => {}
            Self::HalfAcknowledged => drop(scene.received(CHUNK / 2)),
            Self::WindowClosed => {
                scene.received(FIRST);
                scene.peer.open_window(0).unwrap();
            }
            Self::AfterOurFin => scene.close(),
            Self::AfterItsFin => scene.peer.finish().unwrap(),
            Self::AfterBoth => {
                scene.close();
                scene.peer.finish().unwrap();
            }
        }
    }
}

/// Whatever is in custody comes back by its proof, or is abandoned, counted and replaced. What is in the device stays as it was.
#[test]
fn a_reset_at_any_stage_ends_the_connection_and_spoils_nothing() {
    if without_network("a_reset_at_any_stage_ends_the_connection_and_spoils_nothing") {
        return;
    }
    with_each_way(|way| {
        for stage in STAGES {
            let mut scene = Scene::sent(way);
            stage.enter(&mut scene);
            let held = scene.pinned();
            scene.peer.reset().unwrap();
            let released = scene.released();
            let abandoned = scene.sink.stats().abandoned_bytes;
            if way.trusts() {
                assert_eq!(released, Err(abandoned), "{} {stage:?}", way.name);
                assert!(abandoned > 0 && abandoned <= held, "{} {stage:?}: {abandoned} of {held}", way.name);
            } else {
                assert_eq!((released, abandoned), (Ok(()), 0), "{} {stage:?}", way.name);
            }
            is_reset(way, &scene.send().unwrap_err());
            scene.overwrite();
            assert_eq!(scene.received_rest().wrong, 0, "{} {stage:?}", way.name);
            scene.balances(abandoned);
        }
    });
}

#[test]
fn a_reset_or_silence_after_the_sink_or_its_runtime_is_gone_gives_all_memory_back() {
    if without_network("a_reset_or_silence_after_the_sink_or_its_runtime_is_gone_gives_all_memory_back") {
        return;
    }
    with_each_way(|way| {
        for gone in [Gone::Sink, Gone::Runtime] {
            Scene::sent(way).goes_on_without(gone, |peer| peer.reset().unwrap());
            Scene::impatient(way).goes_on_without(gone, |_| {});
        }
    });
}

/// The connection was made, and is no more when the sink gets it.
#[test]
fn a_reset_before_the_first_byte_is_an_error_and_takes_nothing() {
    if without_network("a_reset_before_the_first_byte_is_an_error_and_takes_nothing") {
        return;
    }
    with_each_way(|way| {
        for has_a_sink in [false, true] {
            let (socket, peer) = RawPeer::connect(256 << 10).unwrap();
            let mut source = Source::new(way, CHUNK);
            harness::runtime().block_on(async {
                let sink = if has_a_sink {
                    let sink = socket.into_sink(way.config()).await;
                    peer.reset().unwrap();
                    sink
                } else {
                    peer.reset().unwrap();
                    socket.into_sink(way.config()).await
                };
                match sink {
                    Err(error) => assert!(!has_a_sink, "{}: {error:?}", way.name),
                    Ok(mut sink) => {
                        let error = harness::within(way.name, sink.send(source.next(CHUNK).await)).await.unwrap_err();
                        is_reset(way, &error);
                        assert_eq!(sink.position().accepted, 0, "{}: {error:?}", way.name);
                        assert_eq!(sink.stats().pinned_bytes, 0, "{}: {:?}", way.name, sink.stats());
                    }
                }
            });
            assert_eq!(source.ring.stats().leased, 0, "{}: {:?}", way.name, source.ring.stats());
        }
    });
}

/// Somebody beside the path, who does not know the sequence number (RFC 5961).
#[test]
fn a_reset_that_was_guessed_ends_nothing() {
    if without_network("a_reset_that_was_guessed_ends_nothing") {
        return;
    }
    with_each_way(|way| {
        let mut scene = Scene::sent(way);
        for off_by in [-1, 1, 1000, i32::MAX] {
            scene.peer.guess_reset(off_by).unwrap();
        }
        scene.holds_what_it_must();
        scene.overwrite();
        assert_eq!(scene.received(CHUNK).wrong, 0, "{}", way.name);
        assert_eq!(scene.released(), Ok(()), "{}", way.name);
        scene.balances(0);
    });
}

/// The peer has everything, and this side's FIN, and never ends its own direction: memory and socket do not wait for it.
#[test]
fn a_fin_that_never_comes_keeps_neither_memory_nor_socket() {
    if without_network("a_fin_that_never_comes_keeps_neither_memory_nor_socket") {
        return;
    }
    with_each_way(|way| {
        let mut scene = Scene::sent(way);
        scene.close();
        let received = scene.received(usize::MAX);
        assert_eq!((received.bytes, received.wrong), (CHUNK as u64, 0), "{}: all of it, and the FIN", way.name);
        assert_eq!(scene.released(), Ok(()), "{}", way.name);
        scene.balances(0);
        scene.drop_sink();
    });
}

/// The FIN travels in the last segment of the data, and the kernel keeps that segment until all of it is acknowledged. Not for ever.
#[test]
fn a_fin_that_is_never_acknowledged_keeps_memory_until_the_deadline() {
    if without_network("a_fin_that_is_never_acknowledged_keeps_memory_until_the_deadline") {
        return;
    }
    with_each_way(|way| {
        let mut scene = Scene::impatient(way);
        scene.close();
        let acknowledge_the_data = |peer: &mut RawPeer| peer.acknowledge_unread(CHUNK).unwrap();
        let released = scene.released_by(acknowledge_the_data);
        let abandoned = scene.sink.stats().abandoned_bytes;
        if way.trusts() {
            assert_eq!(released, Err(abandoned), "{}", way.name);
            assert!(abandoned > 0, "{}: {:?}", way.name, scene.sink.stats());
        } else {
            assert_eq!((released, abandoned), (Ok(()), 0), "{}", way.name);
        }
        scene.balances(abandoned);
        scene.drop_sink();
    });
}
