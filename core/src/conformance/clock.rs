//! Time limits without a runtime's timers: one thread wakes whoever waits.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::pin,
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use super::report::{Rule, Step, Stop};

/// Who is to be woken when. The number keeps equal times apart.
type Alarms = BTreeMap<(Instant, u64), Waker>;

#[derive(Debug, Default)]
struct Clock {
    state: Mutex<(Alarms, u64)>,
    changed: Condvar,
}

static CLOCK: OnceLock<Clock> = OnceLock::new();

/// The clock; its thread starts with the first use and never ends.
fn clock() -> &'static Clock {
    static STARTED: OnceLock<()> = OnceLock::new();
    let clock = CLOCK.get_or_init(Clock::default);
    STARTED.get_or_init(|| drop(thread::Builder::new().name("conformance-clock".into()).spawn(|| clock.run())));
    clock
}

/// Starts the clock's thread now, because a thread inherits what the one that starts it may do.
pub(super) fn start() {
    clock();
}

impl Clock {
    fn lock(&self) -> MutexGuard<'_, (Alarms, u64)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let Some((due, _)) = state.0.keys().next().copied() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if let Some(left) = due.checked_duration_since(now).filter(|left| !left.is_zero()) {
                (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if let Some((_, waker)) = state.0.pop_first() {
                drop(state);
                waker.wake();
                state = self.lock();
            }
        }
    }

    fn set(&self, due: Instant, waker: Waker) -> Alarm {
        let mut state = self.lock();
        state.1 += 1;
        let key = (due, state.1);
        state.0.insert(key, waker);
        drop(state);
        self.changed.notify_one();
        Alarm(key)
    }
}

/// An entry of the clock. Dropping it takes it out.
struct Alarm((Instant, u64));

impl Drop for Alarm {
    fn drop(&mut self) {
        let taken = clock().lock().0.remove(&self.0);
        drop(taken);
    }
}

/// The output of `future`, or `None` if it takes longer than `limit`.
pub(super) async fn limited<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let due = Instant::now() + limit;
    let mut alarm: Option<(Alarm, Waker)> = None;
    poll_fn(|cx| {
        // First: that a poll finds something to do when the time is over does not mean that anybody was woken for it.
        if Instant::now() >= due {
            return Poll::Ready(None);
        }
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if !alarm.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            alarm = Some((clock().set(due, cx.waker().clone()), cx.waker().clone()));
        }
        Poll::Pending
    })
    .await
}

/// Waits for `future`; if it takes longer than `limit`, `rule` is broken: `what` hangs.
pub(super) async fn within<F: Future>(limit: Duration, rule: Rule, what: &str, future: F) -> Step<F::Output> {
    match limited(limit, future).await {
        Some(output) => Ok(output),
        None => Err(Stop::failed(rule, format!("{what} was not done after {limit:?}"))),
    }
}

/// Lets everybody else run until `done`, and looks every millisecond. False if that takes longer than `limit`.
pub(super) async fn until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() >= limit {
            return false;
        }
        a_moment().await;
    }
    true
}

/// Lets others have a turn.
pub(super) async fn a_moment() {
    limited(Duration::from_millis(1), std::future::pending::<()>()).await;
}
