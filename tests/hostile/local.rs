//! `AF_UNIX` peers that keep the sender's pages, hand the socket on, read next to nothing, or die.

use std::{
    fs::File,
    io::{ErrorKind, IoSlice, IoSliceMut, Read as _},
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::{
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recv, recvmsg, sendmsg,
    },
    pipe::{SpliceFlags, fcntl_setpipe_size, pipe, splice},
};
use tokio::runtime::Runtime;
use zerosink::prelude::*;

use crate::{
    harness::{self, STEP},
    support::pattern::Verdict,
    way::{LOCAL_WAYS, Source, Way, each, overwrite},
};

const CHUNK: usize = 64 << 10;
const DEADLINE: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(60);

/// A connection whose chunk is sent, and of which the peer has read nothing.
struct Scene {
    way: Way,
    runtime: Runtime,
    sink: AutoSink,
    ring: Ring,
}

impl Scene {
    fn sent(way: Way, deadline: Duration) -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        socket2::SockRef::from(&ours).set_send_buffer_size(4 * CHUNK).unwrap();
        theirs.set_read_timeout(Some(STEP)).unwrap();
        let (runtime, mut source) = (harness::runtime(), Source::new(way, CHUNK));
        let sink = runtime.block_on(async {
            let config = way.config_within(deadline).copy_threshold(0);
            let mut sink = ours.into_sink(config).await.unwrap();
            harness::within(way.name, sink.send(source.next(CHUNK).await)).await.unwrap();
            sink
        });
        let scene = Self { way, runtime, sink, ring: source.ring };
        assert_eq!(
            scene.pinned(),
            if way.trusts() { CHUNK as u64 } else { 0 },
            "{}: {:?}",
            way.name,
            scene.sink.stats()
        );
        (scene, theirs)
    }

    fn pinned(&self) -> u64 {
        self.sink.stats().pinned_bytes
    }

    /// Waits for release, while the peer does this again and again. An error says how many bytes nobody will ever prove.
    fn released_by(&mut self, mut act: impl FnMut()) -> Result<(), u64> {
        let start = Instant::now();
        loop {
            act();
            let released = self.runtime.block_on(async {
                tokio::time::timeout(Duration::from_millis(10), self.sink.released(CHUNK as u64)).await
            });
            if let Ok(released) = released {
                return released.map_err(|error| error.quarantined);
            }
            assert!(start.elapsed() < STEP, "{}: no release", self.way.name);
        }
    }

    fn released(&mut self) -> Result<(), u64> {
        self.released_by(|| {})
    }

    /// Further sends fail so. A process that another test is just making may have the peer's socket a moment longer.
    #[track_caller]
    fn fails(&mut self, kind: ErrorKind) {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < STEP, "{}: sends succeed", self.way.name);
            let more = self.sink.send(Bytes::from_static(b"more"));
            if let Err(error) = self.runtime.block_on(harness::within("one more send", more)) {
                assert_eq!(error.kind(), kind, "{}: {error:?}", self.way.name);
                return;
            }
        }
    }

    /// Nothing is in custody, so much was abandoned, and the ring is whole.
    #[track_caller]
    fn balances(&self, abandoned: u64) {
        let (stats, ring) = (self.sink.stats(), self.ring.stats());
        let seen = (stats.pinned_bytes, stats.quarantined_bytes, stats.strays, stats.abandoned_bytes);
        assert_eq!(seen, (0, 0, 0, abandoned), "{}: {stats:?}", self.way.name);
        let out = (ring.leased, ring.granted, ring.distrusted, ring.quarantined);
        assert_eq!(out, (0, 0, 0, 0), "{}: {ring:?}", self.way.name);
    }

    /// Nothing more is sent.
    fn finish(&mut self) {
        self.runtime.block_on(harness::within("closing", self.sink.close())).unwrap();
    }
}

fn with_each_way(scene: impl Fn(Way) + Sync) {
    each(LOCAL_WAYS.iter().copied(), || (), |way, ()| scene(way));
}

fn judge(received: &[u8]) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.take(received);
    verdict
}

fn read_to_end(mut reader: impl std::io::Read) -> Verdict {
    let mut received = Vec::new();
    reader.read_to_end(&mut received).unwrap();
    judge(&received)
}

/// Moves references instead of bytes: the socket is empty then, and the sender's pages are in the pipe.
fn spliced_away(socket: &UnixStream, bytes: usize) -> File {
    let (reader, writer) = pipe().unwrap();
    fcntl_setpipe_size(&writer, 1 << 20).unwrap();
    let mut left = bytes;
    while left > 0 {
        left -= splice(socket, None, &writer, None, left, SpliceFlags::MOVE).unwrap();
    }
    reader.into()
}

/// Puts a socket into another one.
fn pass(socket: UnixStream, by: &UnixStream) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [socket.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(by, &[IoSlice::new(b"!")], &mut control, SendFlags::empty()).unwrap();
}

/// Takes it out again.
fn take(by: &UnixStream) -> UnixStream {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(by, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    fds.next().and_then(|mut fds| fds.next()).expect("a descriptor").into()
}

/// What was read of a chunk whose memory was written again.
#[track_caller]
fn leaked_only_to_a_peer_that_was_trusted(way: Way, received: Verdict) {
    if way.trusts() {
        // What the documentation of `peer_copies` warns of.
        assert!(received.wrong > received.bytes * 9 / 10, "{}: the warning is wrong: {received:?}", way.name);
    } else {
        assert_eq!(received.wrong, 0, "{}: {received:?}", way.name);
    }
}

#[test]
fn a_peer_that_splices_gets_later_bytes_only_from_who_took_its_word() {
    with_each_way(|way| {
        let (mut scene, theirs) = Scene::sent(way, LONG);
        let mut pages = spliced_away(&theirs, CHUNK);
        assert_eq!(scene.released(), Ok(()), "{}", way.name);
        overwrite(&scene.ring);
        let mut received = vec![0; CHUNK];
        pages.read_exact(&mut received).unwrap();
        leaked_only_to_a_peer_that_was_trusted(way, judge(&received));
        scene.balances(0);
    });
}

/// The end of the peer is no end of what it took.
#[test]
fn a_peer_that_splices_and_dies_leaves_later_bytes_only_of_who_took_its_word() {
    with_each_way(|way| {
        let (mut scene, theirs) = Scene::sent(way, LONG);
        let mut pages = spliced_away(&theirs, CHUNK / 2);
        drop(theirs);
        assert_eq!(scene.released(), Ok(()), "{}", way.name);
        overwrite(&scene.ring);
        let mut received = vec![0; CHUNK / 2];
        pages.read_exact(&mut received).unwrap();
        leaked_only_to_a_peer_that_was_trusted(way, judge(&received));
        scene.fails(ErrorKind::BrokenPipe);
        scene.balances(0);
    });
}

/// Whoever has the socket is the peer: it reads when it likes, and what was sent.
#[test]
fn a_socket_that_was_passed_on_is_read_as_it_was_sent() {
    with_each_way(|way| {
        let (mut scene, theirs) = Scene::sent(way, LONG);
        let (carrier, heir) = UnixStream::pair().unwrap();
        pass(theirs, &carrier);
        // On its way it belongs to nobody, and is still no reason to let go.
        scene.runtime.block_on(tokio::task::yield_now());
        assert_eq!(scene.pinned(), if way.trusts() { CHUNK as u64 } else { 0 }, "{}", way.name);
        overwrite(&scene.ring);
        scene.finish();
        assert_eq!(read_to_end(take(&heir)), Verdict::flawless(CHUNK as u64), "{}", way.name);
        assert_eq!(scene.released(), Ok(()), "{}", way.name);
        scene.balances(0);
    });
}

/// The heir need not do as the peer did of whom the word was given.
#[test]
fn an_heir_that_splices_gets_later_bytes_only_from_who_took_the_peers_word() {
    with_each_way(|way| {
        let (mut scene, theirs) = Scene::sent(way, LONG);
        let (carrier, heir) = UnixStream::pair().unwrap();
        pass(theirs, &carrier);
        let mut pages = spliced_away(&take(&heir), CHUNK);
        assert_eq!(scene.released(), Ok(()), "{}", way.name);
        overwrite(&scene.ring);
        let mut received = vec![0; CHUNK];
        pages.read_exact(&mut received).unwrap();
        leaked_only_to_a_peer_that_was_trusted(way, judge(&received));
    });
}

/// For longer than the deadline, and then somebody takes it out and reads.
#[test]
fn a_socket_that_is_on_its_way_for_too_long_is_given_up_and_read_as_it_was_sent() {
    with_each_way(|way| {
        let (mut scene, theirs) = Scene::sent(way, DEADLINE);
        let (carrier, heir) = UnixStream::pair().unwrap();
        pass(theirs, &carrier);
        let abandoned = if way.trusts() { CHUNK as u64 } else { 0 };
        let released = scene.released();
        assert_eq!(released, if way.trusts() { Err(abandoned) } else { Ok(()) }, "{}", way.name);
        if way.trusts() {
            scene.fails(ErrorKind::TimedOut);
        } else {
            scene.finish();
        }
        overwrite(&scene.ring);
        assert_eq!(read_to_end(take(&heir)), Verdict::flawless(CHUNK as u64), "{}", way.name);
        scene.balances(abandoned);
    });
}

/// Closed where nobody could take it out.
#[test]
fn a_socket_that_is_lost_on_its_way_releases_everything() {
    with_each_way(|way| {
        let (mut scene, theirs) = Scene::sent(way, LONG);
        let (carrier, heir) = UnixStream::pair().unwrap();
        pass(theirs, &carrier);
        drop((carrier, heir));
        assert_eq!(scene.released(), Ok(()), "{}", way.name);
        scene.fails(ErrorKind::BrokenPipe);
        scene.balances(0);
    });
}

/// The kernel tells how many buffers are left, and a byte is none. The peer may read on after it was given up.
#[test]
fn a_peer_that_reads_byte_by_byte_is_given_up_and_reads_no_later_byte() {
    with_each_way(|way| {
        let (mut scene, mut theirs) = Scene::sent(way, DEADLINE);
        let mut received = Vec::new();
        let released = scene.released_by(|| {
            let mut byte = [0];
            theirs.read_exact(&mut byte).unwrap();
            received.extend(byte);
        });
        let abandoned = if way.trusts() { CHUNK as u64 } else { 0 };
        assert_eq!(released, if way.trusts() { Err(abandoned) } else { Ok(()) }, "{}", way.name);
        if way.trusts() {
            scene.fails(ErrorKind::TimedOut);
        } else {
            scene.finish();
        }
        overwrite(&scene.ring);
        theirs.read_to_end(&mut received).unwrap();
        assert_eq!(judge(&received), Verdict::flawless(CHUNK as u64), "{}", way.name);
        scene.balances(abandoned);
    });
}

/// To look is not to take.
#[test]
fn a_peer_that_only_peeks_releases_nothing() {
    with_each_way(|way| {
        let (mut scene, theirs) = Scene::sent(way, LONG);
        let mut seen = vec![0; CHUNK];
        recv(&theirs, &mut seen[..], RecvFlags::PEEK).unwrap();
        scene.runtime.block_on(tokio::task::yield_now());
        assert_eq!(scene.pinned(), if way.trusts() { CHUNK as u64 } else { 0 }, "{}", way.name);
        overwrite(&scene.ring);
        scene.finish();
        assert_eq!(read_to_end(theirs), Verdict::flawless(CHUNK as u64), "{}", way.name);
        assert_eq!(scene.released(), Ok(()), "{}", way.name);
        scene.balances(0);
    });
}

#[test]
fn a_peer_that_is_killed_releases_everything() {
    with_each_way(|way| {
        let (mut scene, theirs) = Scene::sent(way, LONG);
        let mut peer = Command::new("sleep").arg("60").stdin(Stdio::from(OwnedFd::from(theirs))).spawn().unwrap();
        assert_eq!(scene.pinned(), if way.trusts() { CHUNK as u64 } else { 0 }, "{}", way.name);
        peer.kill().unwrap();
        peer.wait().unwrap();
        assert_eq!(scene.released(), Ok(()), "{}", way.name);
        scene.fails(ErrorKind::BrokenPipe);
        scene.balances(0);
    });
}

/// It has closed its receiving direction, and is still there.
#[test]
fn a_peer_that_shuts_down_its_reading_side_ends_the_stream() {
    with_each_way(|way| {
        let (mut scene, theirs) = Scene::sent(way, DEADLINE);
        theirs.shutdown(Shutdown::Read).unwrap();
        // It can still read what it has not read: that is nobody's to write.
        let abandoned = if way.trusts() { CHUNK as u64 } else { 0 };
        let released = scene.released();
        assert_eq!(released, if way.trusts() { Err(abandoned) } else { Ok(()) }, "{}", way.name);
        scene.fails(if way.trusts() { ErrorKind::TimedOut } else { ErrorKind::BrokenPipe });
        overwrite(&scene.ring);
        assert_eq!(read_to_end(theirs), Verdict::flawless(CHUNK as u64), "{}", way.name);
        scene.balances(abandoned);
    });
}
