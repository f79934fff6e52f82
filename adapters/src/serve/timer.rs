//! The timer of one connection.
//!
//! hyper sets a time limit for the head of each request, and drops it when the head is there. With tokio's timers that is two changes
//! of the runtime's timer wheel for each request. Here the wheel has one entry for each connection, which is left to run out, and
//! set again if by then there is a later limit.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Sleep, Timer};
use tokio::time::{Instant, sleep_until};

/// Makes the time limits of one connection.
#[derive(Debug, Clone, Default)]
pub(super) struct ConnectionTimer(Arc<Entry>);

/// The connection's entry in the timer wheel. The lock is only ever taken by the connection's task.
type Entry = Mutex<Option<Pin<Box<tokio::time::Sleep>>>>;

/// A time limit.
#[derive(Debug)]
struct Limit {
    deadline: Instant,
    entry: Arc<Entry>,
}

impl ConnectionTimer {
    fn limit(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Limit { deadline, entry: Arc::clone(&self.0) })
    }
}

impl Timer for ConnectionTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.limit(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.limit(deadline.into())
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into()
    }
}

impl Future for Limit {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        let sleep = entry.get_or_insert_with(|| Box::pin(sleep_until(self.deadline)));
        if sleep.deadline() > self.deadline {
            sleep.as_mut().reset(self.deadline);
        }
        ready!(sleep.as_mut().poll(cx));
        if sleep.deadline() < self.deadline {
            // That was the limit of an earlier request.
            sleep.as_mut().reset(self.deadline);
            ready!(sleep.as_mut().poll(cx));
        }
        Poll::Ready(())
    }
}

impl Sleep for Limit {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_ends_at_its_time_whatever_came_before() {
        let timer = ConnectionTimer::default();
        let start = Instant::now();
        let seconds = |seconds| start + Duration::from_secs(seconds);
        // An earlier one that was given up, a later one that was given up, and one that has run out.
        for (given_up, kept) in [(10, 20), (50, 30), (35, 40), (60, 60)] {
            let mut earlier = timer.sleep_until(seconds(given_up).into());
            tokio::select! {
                biased;
                () = &mut earlier => panic!("{given_up} s is too soon"),
                () = std::future::ready(()) => {}
            }
            drop(earlier);
            timer.sleep_until(seconds(kept).into()).await;
            assert_eq!(Instant::now().duration_since(start).as_secs(), kept);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_limits_end_each_at_its_time() {
        let timer = ConnectionTimer::default();
        let start = Instant::now();
        let ended = |duration| {
            let sleep = timer.sleep(Duration::from_secs(duration));
            async move {
                sleep.await;
                start.elapsed().as_secs()
            }
        };
        assert_eq!(tokio::join!(ended(3), ended(1), ended(2)), (3, 1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_over_is_ready_at_once() {
        let timer = ConnectionTimer::default();
        timer.sleep(Duration::from_secs(1)).await;
        let now = Instant::now();
        timer.sleep(Duration::ZERO).await;
        timer.sleep_until(now.into()).await;
        assert_eq!(Instant::now(), now);
    }
}
