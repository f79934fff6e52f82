//! Which mechanism takes the next send, and what was learned from the last.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use zerosink_core::{
    AttachError, Backend, Connection, Mechanism, Path, Policy, Refusal, Reuse, Segment, SendError, SendQueue,
    SinkConfig, ZeroCopySink,
    demotion::{CopiedWindow, Demotion, Verdict},
    policy::Situation,
    region::facts_of,
};

use crate::{copy::poll_copy, probe};

/// Copied on delivery is a property of the path and seldom changes; kernel memory comes back soon.
const COPIED_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const NO_BUFFERS_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// So many sends in a row without kernel memory, and the mechanism is off for a while.
const NO_BUFFERS_IN_A_ROW: u32 = 3;

/// The attached mechanisms of one connection.
pub(super) struct Ladder {
    rungs: [Option<Rung>; Mechanism::ALL.len()],
    situation: Situation,
    current: Mechanism,
    failed_attach: Option<AttachError>,
    /// A backend of the user's own: it takes every send.
    own: Option<Box<dyn ZeroCopySink + Unpin>>,
}

struct Rung {
    sink: Box<dyn ZeroCopySink + Unpin>,
    copied: Demotion,
    no_buffers: Demotion,
    window: CopiedWindow,
    in_a_row: u32,
    seen: (u64, u64),
}

impl Rung {
    fn new(sink: Box<dyn ZeroCopySink + Unpin>) -> Self {
        Self {
            sink,
            copied: Demotion::new(COPIED_BACKOFF.0, COPIED_BACKOFF.1),
            no_buffers: Demotion::new(NO_BUFFERS_BACKOFF.0, NO_BUFFERS_BACKOFF.1),
            window: CopiedWindow::default(),
            in_a_row: 0,
            seen: (0, 0),
        }
    }

    fn demoted(&mut self) -> Option<Refusal> {
        self.copied.reason(Instant::now).or_else(|| self.no_buffers.reason(Instant::now))
    }
}

impl Ladder {
    pub(super) fn new(config: &SinkConfig) -> Self {
        let threshold = match (config.copy_threshold, config.mechanism) {
            (Some(bytes), _) => bytes,
            // Who insists on a mechanism wants it for every send.
            (None, Some(_)) => 0,
            (None, None) => probe::copy_threshold().unwrap_or(usize::MAX),
        };
        Self {
            rungs: Default::default(),
            situation: Situation {
                family: zerosink_core::policy::Family::Tcp,
                path: Path::Unknown,
                reuse: Reuse::InPlace,
                bytes: 0,
                threshold,
                trust: config.trust,
                forced: config.mechanism,
                absent: [Some(Refusal::NotAttached); Mechanism::ALL.len()],
                demoted: [None; Mechanism::ALL.len()],
                pin_room: true,
            },
            current: Mechanism::Copy,
            failed_attach: None,
            own: None,
        }
    }

    /// Attaches a backend unless the user insists on another mechanism. A failure is kept: it matters only if the user
    /// insists on this one.
    #[cfg_attr(not(zerosink_linux), expect(dead_code, reason = "the portable build has no backend but copy"))]
    pub(super) async fn attach(&mut self, backend: &dyn Backend, connection: &Arc<Connection>, config: &SinkConfig) {
        let mechanism = backend.mechanism();
        if self.situation.forced.is_some_and(|forced| forced != mechanism) {
            return;
        }
        match backend.attach(connection, config).await {
            Ok(sink) => {
                self.rungs[mechanism.index()] = Some(Rung::new(sink));
                self.situation.absent[mechanism.index()] = None;
            }
            Err(error) => {
                tracing::debug!(%mechanism, %error, "mechanism not attached");
                self.situation.absent[mechanism.index()] = Some(error.refusal());
                if self.situation.forced == Some(mechanism) {
                    self.failed_attach = Some(error);
                }
            }
        }
    }

    /// Attaches a backend that takes every send from now on.
    pub(super) async fn insist(
        &mut self,
        backend: &dyn Backend,
        connection: &Arc<Connection>,
        config: &SinkConfig,
    ) -> io::Result<()> {
        self.own = Some(backend.attach(connection, config).await?);
        self.current = backend.mechanism();
        Ok(())
    }

    /// Everything is attached: checks what the user insists on, and notes the reasons before the first send.
    pub(super) fn finish(&mut self, connection: &Connection) -> io::Result<()> {
        self.situation.family = connection.family();
        self.situation.path = connection.path();
        if let Some(forced) = self.situation.forced
            && forced != Mechanism::Copy
            && self.situation.absent[forced.index()].is_some()
        {
            let error = self.failed_attach.take().unwrap_or_else(|| {
                // Without a backend, advice about memory or trust would lead nowhere.
                let reason = match Policy::proof(forced, &self.situation) {
                    Err(Refusal::SocketFamily) => Refusal::SocketFamily.explanation(),
                    _ => "this build has no backend for it",
                };
                AttachError::refused(forced, reason)
            });
            return Err(error.into());
        }
        let best = Situation { bytes: usize::MAX, ..self.situation.clone() };
        let ladder = Policy::ladder(&best);
        self.current = ladder.rungs()[0];
        for mechanism in Mechanism::ALL {
            connection.note_refusal(mechanism, ladder.refused[mechanism.index()]);
        }
        Ok(())
    }

    pub(super) const fn current(&self) -> Mechanism {
        self.current
    }

    pub(super) fn poll_send(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        if let Some(own) = &mut self.own {
            return Pin::new(own).poll_send(cx, queue);
        }
        let Some(front) = queue.segments().first() else { return Poll::Ready(Ok(0)) };
        if matches!(front, Segment::Borrowed(_)) {
            let run = queue.segments().iter().take_while(|s| matches!(s, Segment::Borrowed(_))).count();
            return poll_copy(connection, cx, queue, run, Refusal::Borrowed);
        }
        let (mut run, mut bytes) = (0, 0);
        for segment in queue.segments().iter().take_while(|s| matches!(s, Segment::Owned(_))) {
            run += 1;
            bytes += segment.as_slice().len();
        }
        let mechanism = self.choose(connection, bytes, front.as_slice());
        match mechanism {
            Ok(mechanism) => {
                let Some(rung) = &mut self.rungs[mechanism.index()] else {
                    return poll_copy(connection, cx, queue, run, Refusal::NotAttached);
                };
                let before = connection.no_buffers();
                let result = ready!(Pin::new(&mut rung.sink).poll_send(cx, queue));
                self.current = mechanism;
                self.learn(mechanism, connection, before);
                Poll::Ready(result)
            }
            Err(reason) => {
                let result = ready!(poll_copy(connection, cx, queue, run, reason));
                self.current = Mechanism::Copy;
                Poll::Ready(result)
            }
        }
    }

    /// The mechanism for a send of `bytes` owned bytes that begin with `memory`, or why it is copied.
    fn choose(&mut self, connection: &Connection, bytes: usize, memory: &[u8]) -> Result<Mechanism, Refusal> {
        if self.situation.forced == Some(Mechanism::Copy) {
            return Err(Refusal::NotChosen);
        }
        // Decides most sends of a service without looking any further.
        if bytes < self.situation.threshold {
            return Err(Refusal::Small);
        }
        self.situation.bytes = bytes;
        // Memory that no ring knows is heap, and freed heap is rewritten.
        self.situation.reuse = facts_of(memory).map_or(Reuse::InPlace, |facts| facts.reuse);
        self.situation.path = connection.path();
        self.situation.pin_room = connection.pin_room(bytes);
        for (rung, demoted) in self.rungs.iter_mut().zip(&mut self.situation.demoted) {
            *demoted = rung.as_mut().and_then(Rung::demoted);
        }
        let ladder = Policy::ladder(&self.situation);
        let best = ladder.rungs()[0];
        for mechanism in Mechanism::ALL {
            connection.note_refusal(mechanism, ladder.refused[mechanism.index()]);
        }
        if best == Mechanism::Copy { Err(self.why_copied(&ladder.refused)) } else { Ok(best) }
    }

    /// Of several refusals, the one of the mechanism that would have been used.
    fn why_copied(&self, refused: &[Option<Refusal>; Mechanism::ALL.len()]) -> Refusal {
        let attached = Mechanism::ALL.into_iter().filter(|m| self.situation.absent[m.index()].is_none());
        attached.filter_map(|m| refused[m.index()]).next().unwrap_or(Refusal::NotAttached)
    }

    /// Takes in what the connection learned: completions and refusals of the kernel.
    fn learn(&mut self, mechanism: Mechanism, connection: &Connection, no_buffers_before: u64) {
        let forced = self.situation.forced.is_some();
        let Some(rung) = &mut self.rungs[mechanism.index()] else { return };
        if connection.no_buffers() == no_buffers_before {
            rung.in_a_row = 0;
        } else {
            rung.in_a_row += 1;
            if rung.in_a_row >= NO_BUFFERS_IN_A_ROW {
                rung.in_a_row = 0;
                rung.no_buffers.demote(Instant::now(), Refusal::NoBuffers);
            }
        }
        let (notified, copied) = connection.notified();
        if notified == rung.seen.0 {
            return;
        }
        let copies = copied.saturating_sub(rung.seen.1).min(u64::from(u32::MAX)) as u32;
        let clean = (notified - rung.seen.0).saturating_sub(u64::from(copies)).min(u64::from(u32::MAX)) as u32;
        rung.seen = (notified, copied);
        // Clean ones first: the verdict is of the whole window either way.
        let verdicts = [rung.window.record(clean, false), rung.window.record(copies, true)];
        for verdict in verdicts.into_iter().flatten() {
            match verdict {
                Verdict::Copies => {
                    connection.observe_path(Path::SameHost);
                    if !forced {
                        rung.copied.demote(Instant::now(), Refusal::CopiedOnDelivery);
                    }
                }
                Verdict::ReadsInPlace => {
                    connection.observe_path(Path::OffHost);
                    rung.copied.reset();
                }
            }
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        if let Some(own) = &mut self.own {
            ready!(Pin::new(own).poll_flush(cx))?;
        }
        for rung in self.rungs.iter_mut().flatten() {
            ready!(Pin::new(&mut rung.sink).poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}
