//! Which mechanism takes the next send, and what was learned from the last.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use zerosink_core::{
    AttachError, Backend, Connection, Mechanism, Policy, Refusal, Reuse, Segment, SendError, SendQueue, SinkConfig,
    ZeroCopySink,
    demotion::{Demotion, Verdict},
    policy::{Family, Situation, Thresholds},
    region::{facts_of, note_sent, ring_is_low, was_sent},
};

use crate::{
    copy::poll_copy,
    path::{Oracle, Route},
    probe,
};

/// Copied on delivery is a property of the path and seldom changes; kernel memory and descriptors come back soon.
const COPIED_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const SETBACK_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// So many setbacks in a row, and the mechanism is off for a while.
const SETBACKS_IN_A_ROW: u32 = 3;

/// The attached mechanisms of one connection.
pub(super) struct Ladder {
    rungs: [Option<Rung>; Mechanism::ALL.len()],
    situation: Situation,
    /// The last decision, and for what it was made: most sends are like the one before.
    decided: Option<(Situation, Result<Mechanism, Refusal>)>,
    /// The user says where the packets go.
    path_is_fixed: bool,
    oracle: Oracle,
    /// Mechanisms that notify are off because the kernel copies on delivery.
    copied: Demotion,
    current: Mechanism,
    failed_attach: Option<AttachError>,
    /// A backend of the user's own: it takes every send.
    own: Option<Box<dyn ZeroCopySink + Unpin>>,
}

/// Owned bytes that are copied whatever memory they are in: most sends of a service. The sink has this at hand, so that such a send does
/// not look at the ladder.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShortCut {
    /// Sends of fewer bytes than that,
    pub(super) below: usize,
    /// for this reason.
    pub(super) reason: Refusal,
}

impl ShortCut {
    pub(super) const NONE: Self = Self { below: 0, reason: Refusal::NotChosen };
}

struct Rung {
    sink: Box<dyn ZeroCopySink + Unpin>,
    setback: Demotion,
    in_a_row: u32,
}

impl Rung {
    fn new(sink: Box<dyn ZeroCopySink + Unpin>) -> Self {
        Self { sink, setback: Demotion::new(SETBACK_BACKOFF.0, SETBACK_BACKOFF.1), in_a_row: 0 }
    }
}

const fn notifies(mechanism: Mechanism) -> bool {
    matches!(mechanism, Mechanism::MsgZerocopy | Mechanism::IoUring)
}

const fn is_borrowed(segment: &Segment<'_>) -> bool {
    matches!(segment, Segment::Borrowed(_))
}

impl Ladder {
    pub(super) fn new(config: &SinkConfig, family: Family, route: Route) -> Self {
        let thresholds = match (config.copy_threshold, config.mechanism) {
            (Some(bytes), _) => Thresholds::all(bytes),
            // Who insists on a mechanism wants it for every send.
            (None, Some(_)) => Thresholds::all(0),
            (None, None) => probe::thresholds(),
        };
        Self {
            rungs: Default::default(),
            situation: Situation {
                family,
                path: config.path.unwrap_or_else(|| route.first_guess()),
                reuse: Reuse::InPlace,
                unit: 1,
                sent_before: false,
                bytes: 0,
                thresholds,
                trust: config.trust,
                forced: config.mechanism,
                absent: [Some(Refusal::NotAttached); Mechanism::ALL.len()],
                demoted: [None; Mechanism::ALL.len()],
                pin_room: true,
                ring_low: false,
            },
            path_is_fixed: config.path.is_some(),
            oracle: Oracle::new(route, Instant::now()),
            copied: Demotion::new(COPIED_BACKOFF.0, COPIED_BACKOFF.1),
            decided: None,
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
        let wanted = |forced| forced == mechanism || Policy::is_witness(mechanism, &self.situation);
        if !self.situation.forced.is_none_or(wanted) {
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
        Ok(())
    }

    /// The sink of the user's own backend, if there is one.
    pub(super) fn own(&self) -> Option<&dyn ZeroCopySink> {
        self.own.as_deref().map(|own| own as _)
    }

    pub(super) fn own_mut(&mut self) -> Option<Pin<&mut (dyn ZeroCopySink + Unpin + 'static)>> {
        self.own.as_deref_mut().map(Pin::new)
    }

    /// Everything is attached: checks what the user insists on, and notes the reasons before the first send.
    pub(super) fn finish(&mut self, connection: &Connection) -> io::Result<()> {
        connection.observe_path(self.situation.path);
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
        self.look_around(connection);
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

    /// What needs no choice now.
    pub(super) fn short_cut(&self) -> ShortCut {
        if self.current == Mechanism::Copy && self.own.is_none() { self.always_copied() } else { ShortCut::NONE }
    }

    fn always_copied(&self) -> ShortCut {
        match self.situation.forced {
            Some(Mechanism::Copy) => ShortCut { below: usize::MAX, reason: Refusal::NotChosen },
            _ => ShortCut { below: self.situation.thresholds.least(), reason: Refusal::Small },
        }
    }

    #[inline(never)]
    pub(super) fn poll_send(
        &mut self,
        connection: &Connection,
        cx: &mut Context<'_>,
        queue: &mut SendQueue<'_>,
    ) -> Poll<Result<usize, SendError>> {
        if let Some(own) = &mut self.own {
            return Pin::new(own).poll_send(cx, queue);
        }
        let [front, others @ ..] = queue.segments() else { return Poll::Ready(Ok(0)) };
        // Segments of one kind, for what may be done with one kind of memory may not be with another.
        let kind = |segment: &Segment<'_>| match segment {
            Segment::Borrowed(_) => None,
            // Memory that no ring knows is heap, and freed heap is rewritten.
            Segment::Owned(bytes) => {
                Some(facts_of(bytes).map_or((Reuse::InPlace, 1), |facts| (facts.reuse, facts.unit)))
            }
        };
        let (first, mut run, mut bytes) = (kind(front), 1, front.as_slice().len());
        for segment in others.iter().take_while(|segment| kind(segment) == first) {
            run += 1;
            bytes += segment.as_slice().len();
        }
        let choice =
            first.map_or(Err(Refusal::Borrowed), |kind| self.choose(connection, front.as_slice(), bytes, kind));
        let mechanism = choice.unwrap_or(Mechanism::Copy);
        if mechanism != self.current {
            // Mechanisms take turns: what the one before has accepted is in the socket first.
            ready!(self.poll_flush(cx))?;
            self.current = mechanism;
        }
        match (choice, &mut self.rungs[mechanism.index()]) {
            (Ok(_), Some(rung)) => {
                let before = connection.setbacks().0;
                let result = ready!(Pin::new(&mut rung.sink).poll_send(cx, queue));
                rung.learn(connection, before, result.is_ok());
                Poll::Ready(result)
            }
            (Err(Refusal::SameHost), _) => {
                // Held, for what is sent leaves the queue.
                let front = match front {
                    Segment::Owned(bytes) => bytes.clone(),
                    Segment::Borrowed(_) => Bytes::new(),
                };
                let sent = ready!(poll_copy(connection, cx, queue, run, Refusal::SameHost))?;
                if sent >= front.len() {
                    note_sent(&front);
                }
                Poll::Ready(Ok(sent))
            }
            (choice, _) => {
                let run = run.max(self.small_run(queue.segments()));
                poll_copy(connection, cx, queue, run, choice.err().unwrap_or(Refusal::NotAttached))
            }
        }
    }

    /// So many segments at the front are copied whatever the memory is: borrowed ones, and owned ones that are too few bytes. They go
    /// by one call, such as the head of a response with a small body.
    fn small_run(&self, segments: &[Segment<'_>]) -> usize {
        let least = self.always_copied().below;
        segments
            .chunk_by(|a, b| is_borrowed(a) == is_borrowed(b))
            .take_while(|run| {
                is_borrowed(&run[0]) || run.iter().map(|segment| segment.as_slice().len()).sum::<usize>() < least
            })
            .map(<[_]>::len)
            .sum()
    }

    /// The mechanism for a send of `bytes` owned bytes whose memory is reused this way, in units of so many bytes; or why it is
    /// copied.
    fn choose(
        &mut self,
        connection: &Connection,
        front: &[u8],
        bytes: usize,
        (reuse, unit): (Reuse, usize),
    ) -> Result<Mechanism, Refusal> {
        let ShortCut { below, reason } = self.always_copied();
        if bytes < below {
            return Err(reason);
        }
        self.situation.bytes = bytes;
        self.situation.reuse = reuse;
        self.situation.unit = unit;
        self.situation.sent_before = reuse == Reuse::FreshPages && was_sent(front);
        // A sender that never waits leaves the driver no turn to read what was released.
        self.situation.pin_room = connection.pin_room(bytes) || {
            connection.reactor().reap();
            connection.pin_room(bytes)
        };
        self.situation.ring_low = ring_is_low(front);
        self.look_around(connection);
        if let Some((before, choice)) = &self.decided
            && before.is_like(&self.situation)
        {
            return *choice;
        }
        let ladder = Policy::ladder(&self.situation);
        for mechanism in Mechanism::ALL {
            connection.note_refusal(mechanism, ladder.refused[mechanism.index()]);
        }
        let choice = match ladder.rungs()[0] {
            Mechanism::Copy => Err(ladder.why_copied()),
            best => Ok(best),
        };
        self.decided = Some((self.situation.clone(), choice));
        choice
    }

    /// Takes in what is known about the path and the mechanisms now.
    fn look_around(&mut self, connection: &Connection) {
        if !self.path_is_fixed {
            match self.oracle.observe(connection, Instant::now) {
                Some(Verdict::Copies) => {
                    self.copied.demote(Instant::now(), Refusal::CopiedOnDelivery);
                }
                Some(Verdict::ReadsInPlace) => self.copied.reset(),
                None => self.oracle.expire(connection, Instant::now),
            }
        }
        self.situation.path = connection.path();
        let copied = match self.situation.forced {
            // Who insists on a mechanism has it copied on delivery.
            Some(_) => None,
            None if self.oracle.always_copies() && !self.path_is_fixed => Some(Refusal::CopiedOnDelivery),
            None => self.copied.reason(Instant::now),
        };
        for (mechanism, demoted) in Mechanism::ALL.into_iter().zip(&mut self.situation.demoted) {
            let rung = self.rungs[mechanism.index()].as_mut();
            let setback = rung.and_then(|rung| rung.setback.reason(Instant::now));
            *demoted = if notifies(mechanism) { copied.or(setback) } else { setback };
        }
    }

    /// Mechanisms take turns, so only the last one that sent can have something that is not in the socket.
    #[inline]
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let rung = self.rungs[self.current.index()].as_mut().map(|rung| &mut rung.sink);
        match self.own.as_mut().or(rung) {
            Some(sink) => Pin::new(sink).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Rung {
    /// Takes in whether the kernel did the send.
    fn learn(&mut self, connection: &Connection, setbacks_before: u64, sent: bool) {
        let (setbacks, reason) = connection.setbacks();
        if setbacks == setbacks_before {
            self.in_a_row = 0;
            if sent {
                self.setback.reset();
            }
            return;
        }
        self.in_a_row += 1;
        if self.in_a_row >= SETBACKS_IN_A_ROW {
            self.in_a_row = 0;
            self.setback.demote(Instant::now(), reason);
        }
    }
}
