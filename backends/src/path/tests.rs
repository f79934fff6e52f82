use std::{
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use zerosink_core::{
    Reactor, SinkConfig,
    custody::{Ledger, Until},
    policy::Family,
};

use super::*;

fn tcp(text: &str) -> Address {
    Address::Tcp(text.parse().unwrap())
}

#[test]
fn addresses_of_one_host_are_local_whatever_the_device() {
    let table = [
        ("127.0.0.1:1", "127.0.0.1:2", Route::Local),
        ("127.0.0.1:1", "127.8.8.8:2", Route::Local),
        ("[::1]:1", "[::1]:2", Route::Local),
        ("[::ffff:127.0.0.1]:1", "127.0.0.1:2", Route::Local),
        ("192.0.2.7:1", "192.0.2.7:2", Route::Local),
        ("192.0.2.7:1", "192.0.2.8:2", Route::Device),
    ];
    for (local, peer, want) in table {
        assert_eq!(Route::of(&tcp(local), &tcp(peer)), want, "{local} {peer}");
    }
    assert_eq!(Route::of(&Address::Unix(None), &Address::Unix(None)), Route::Local);
}

#[cfg(zerosink_linux)]
#[test]
fn loopback_has_no_device_behind_it() {
    assert!(is_virtual(IpAddr::from([127, 0, 0, 1])));
}

/// A socket that nothing is sent on.
#[derive(Debug)]
struct Nowhere;

impl Reactor for Nowhere {
    fn write_vectored(&self, _: &[IoSlice<'_>], _: bool) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn mark(&self) -> u64 {
        0
    }

    fn poll_writable(&self, _: &mut Context<'_>, _: u64) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn reap(&self) {}

    fn watch(&self) {}

    fn advanced(&self) {}

    fn shutdown(&self) -> io::Result<()> {
        Ok(())
    }

    fn linger(&self) {}

    #[cfg(unix)]
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        unreachable!("nobody makes a system call")
    }
}

/// A connection, its oracle, and a clock.
struct Judged {
    connection: Connection,
    ledger: Arc<Ledger>,
    oracle: Oracle,
    now: Instant,
    completions: u32,
}

impl Judged {
    fn new(route: Route, config: &SinkConfig) -> Self {
        let (ledger, now) = (Arc::new(Ledger::default()), Instant::now());
        let connection = Connection::new(Arc::new(Nowhere), Arc::clone(&ledger), Family::Tcp, config);
        connection.observe_path(config.path.unwrap_or_else(|| route.first_guess()));
        Self { connection, ledger, oracle: Oracle::new(route, now), now, completions: 0 }
    }

    /// So many sends complete.
    fn complete(&mut self, sends: u32, copied: bool) -> &mut Self {
        for _ in 0..sends {
            self.ledger.open(Until::Notified, [Bytes::from_static(b"x")]).accepted(1);
        }
        let first = self.completions;
        self.completions += sends;
        self.ledger.notify(first, self.completions - 1, copied);
        self
    }

    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    /// What is believed before the next send.
    fn path(&mut self) -> Path {
        let now = self.now;
        if self.oracle.observe(&self.connection, || now).is_none() {
            self.oracle.expire(&self.connection, || now);
        }
        self.connection.path()
    }
}

const WINDOW: u32 = CopiedWindow::LENGTH;
const INSTANT: Duration = Duration::from_millis(1);

#[test]
fn addresses_are_a_first_guess_and_completions_decide() {
    for (route, guess) in
        [(Route::Local, Path::SameHost), (Route::Virtual, Path::SameHost), (Route::Device, Path::Unknown)]
    {
        let mut judged = Judged::new(route, &SinkConfig::new());
        assert_eq!(judged.path(), guess, "{route:?}");
        assert_eq!(judged.wait(INSTANT).complete(WINDOW - 1, false).path(), guess, "{route:?}: no window yet");
        let off_host = if route == Route::Local { Path::SameHost } else { Path::OffHost };
        assert_eq!(judged.complete(1, false).path(), off_host, "{route:?}");
        assert_eq!(judged.complete(WINDOW, true).path(), Path::SameHost, "{route:?}");
        assert_eq!(judged.wait(INSTANT).complete(WINDOW, false).path(), off_host, "{route:?}: no latch");
    }
}

#[test]
fn one_copied_completion_in_a_window_changes_nothing() {
    let mut judged = Judged::new(Route::Device, &SinkConfig::new());
    judged.complete(1, true);
    assert_eq!(judged.complete(WINDOW - 1, false).path(), Path::OffHost);
    judged.complete(WINDOW / 4, true);
    assert_eq!(judged.complete(WINDOW * 3 / 4, false).path(), Path::OffHost, "a mixed window is no verdict");
}

#[test]
fn evidence_expires_and_comes_back_with_new_completions() {
    let mut judged = Judged::new(Route::Device, &SinkConfig::new());
    assert_eq!(judged.complete(WINDOW, false).path(), Path::OffHost);
    assert_eq!(judged.wait(EVIDENCE_LASTS - INSTANT).path(), Path::OffHost);
    assert_eq!(judged.wait(INSTANT).path(), Path::Unknown);
    assert_eq!(judged.wait(INSTANT).complete(WINDOW, false).path(), Path::OffHost);
}

/// They came some time ago, and the route may be another one now.
#[test]
fn completions_that_nobody_looked_at_in_time_are_no_evidence() {
    let mut judged = Judged::new(Route::Device, &SinkConfig::new());
    assert_eq!(judged.complete(WINDOW, false).wait(EVIDENCE_LASTS).path(), Path::Unknown);
    // The next window has begun after that look.
    assert_eq!(judged.complete(WINDOW, false).path(), Path::OffHost, "control");
    // One that is filled too slowly has old ones in it.
    assert_eq!(judged.complete(1, false).path(), Path::OffHost);
    assert_eq!(judged.wait(EVIDENCE_LASTS).path(), Path::Unknown);
    assert_eq!(judged.complete(WINDOW - 1, false).path(), Path::Unknown);
}

#[test]
fn what_the_user_says_about_the_path_stays() {
    for said in [Path::SameHost, Path::OffHost, Path::Unknown] {
        for copied in [true, false] {
            let mut judged = Judged::new(Route::Device, &SinkConfig::new().path(said));
            assert_eq!(judged.complete(WINDOW, copied).path(), said);
            assert_eq!(judged.wait(EVIDENCE_LASTS).path(), said);
        }
    }
}

/// Completions are counted on another thread, in two numbers, and one notification may fill a window.
#[test]
fn copied_completions_are_never_taken_for_clean_ones() {
    const WINDOWS: u32 = 10_000;
    let mut judged = Judged::new(Route::Device, &SinkConfig::new());
    let ledger = Arc::clone(&judged.ledger);
    std::thread::scope(|scope| {
        let kernel = scope.spawn(move || {
            for first in (0..WINDOWS * WINDOW).step_by(WINDOW as usize) {
                for _ in 0..WINDOW {
                    ledger.open(Until::Notified, [Bytes::from_static(b"x")]).accepted(1);
                }
                ledger.notify(first, first + WINDOW - 1, true);
            }
        });
        while !kernel.is_finished() {
            assert_ne!(judged.path(), Path::OffHost);
        }
    });
    assert_eq!(judged.path(), Path::SameHost);
    let sends = u64::from(WINDOWS * WINDOW);
    assert_eq!(judged.connection.notified(), (sends, sends));
}
