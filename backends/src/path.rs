//! Where the packets of a connection go.
//!
//! At the start the addresses tell, and the device that has the local one; afterwards the kernel's completions of zero-copy
//! sends do, by ratio over a window. What they tell is true of the past only: a route can change, so evidence expires, and
//! whoever needs it goes on with a mechanism that brings new.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use zerosink_core::{
    Connection, Path,
    demotion::{CopiedWindow, Verdict},
};

use crate::auto::Address;

/// So long completions speak for the sends that follow them.
const EVIDENCE_LASTS: Duration = Duration::from_secs(2);
/// What the addresses of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Both ends are on this host, whatever happens: the same address, loopback, or `AF_UNIX`.
    Local,
    /// The local address is on a device that exists in software only: veth, bridge, tap. It may still lead off the host.
    Virtual,
    /// The local address is on a real device, or on none that is known.
    Device,
}

impl Route {
    /// The route between the two ends of a connected socket.
    pub(crate) fn of(local: &Address, peer: &Address) -> Self {
        let (Address::Tcp(local), Address::Tcp(peer)) = (local, peer) else { return Self::Local };
        let (local, peer) = (local.ip().to_canonical(), peer.ip().to_canonical());
        if local == peer || peer.is_loopback() {
            return Self::Local;
        }
        if is_virtual(local) { Self::Virtual } else { Self::Device }
    }

    /// What to believe until there are completions.
    pub(crate) const fn first_guess(self) -> Path {
        match self {
            Self::Local | Self::Virtual => Path::SameHost,
            Self::Device => Path::Unknown,
        }
    }
}

#[cfg(not(zerosink_linux))]
const fn is_virtual(_: IpAddr) -> bool {
    false
}

/// True if the device that has `address` exists in software only: it has no `device` in sysfs.
#[cfg(zerosink_linux)]
fn is_virtual(address: IpAddr) -> bool {
    use std::{
        collections::HashMap,
        fs,
        sync::{Mutex, PoisonError},
    };

    /// So long the list of addresses and devices is believed.
    const LASTS: Duration = Duration::from_secs(5);
    static DEVICES: Mutex<Option<(Instant, HashMap<IpAddr, bool>)>> = Mutex::new(None);
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = match &mut *devices {
        Some((since, known)) if since.elapsed() < LASTS => known,
        stale => {
            let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
                tracing::debug!(%error, "no list of network devices");
                Vec::new()
            });
            // A thread in another namespace than its sysfs finds nothing there, which says nothing.
            let has = |path: String| fs::exists(path).unwrap_or(false);
            let kind = |name: &str| {
                let device = format!("/sys/class/net/{name}");
                has(device.clone()) && !has(device + "/device")
            };
            let known = interfaces.iter().map(|i| (i.ip().to_canonical(), kind(&i.name))).collect();
            &mut stale.insert((Instant::now(), known)).1
        }
    };
    known.get(&address).copied().unwrap_or(false)
}

/// Judges one connection.
#[derive(Debug)]
pub(crate) struct Oracle {
    route: Route,
    window: CopiedWindow,
    /// Completions, and copied ones, that were taken in.
    seen: (u64, u64),
    /// What is in the window came after this.
    since: Instant,
    /// When completions last proved that the kernel reads the pages in place.
    evidence: Option<Instant>,
}

impl Oracle {
    pub(crate) fn new(route: Route, now: Instant) -> Self {
        Self { route, window: CopiedWindow::default(), seen: (0, 0), since: now, evidence: None }
    }

    /// True if zero-copy sends with completions are copied on delivery for certain.
    pub(crate) fn always_copies(&self) -> bool {
        self.route == Route::Local
    }

    /// Takes in the completions that came since the last time. A verdict, if they fill a window.
    ///
    /// Completions that came are counted, not copied ones that did not: a path that gives none proves nothing. A window that took
    /// longer to fill than evidence lasts proves nothing either.
    pub(crate) fn observe(&mut self, connection: &Connection, now: impl Fn() -> Instant) -> Option<Verdict> {
        let (came, copied) = connection.notified();
        if came == self.seen.0 {
            return None;
        }
        // More copied ones than completions may be counted for a moment, never fewer. What is left over is of the next ones.
        let new = came - self.seen.0;
        let copies = copied.saturating_sub(self.seen.1).min(new);
        self.seen = (came, self.seen.1 + copies);
        let clamp = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let verdict = self.window.take(clamp(new), clamp(copies));
        if !self.window.is_empty() {
            return None;
        }
        let now = now();
        let since = std::mem::replace(&mut self.since, now);
        match verdict {
            Some(Verdict::Copies) => {
                self.evidence = None;
                connection.observe_path(Path::SameHost);
            }
            Some(Verdict::ReadsInPlace)
                if self.route != Route::Local && now.saturating_duration_since(since) < EVIDENCE_LASTS =>
            {
                self.evidence = Some(now);
                connection.observe_path(Path::OffHost);
            }
            Some(Verdict::ReadsInPlace) | None => {}
        }
        verdict
    }

    /// Forgets evidence that has expired. The path is unknown then, and sends that rest on it stop.
    pub(crate) fn expire(&mut self, connection: &Connection, now: impl Fn() -> Instant) {
        let Some(evidence) = self.evidence else { return };
        let now = now();
        if now.saturating_duration_since(evidence) >= EVIDENCE_LASTS {
            self.evidence = None;
            connection.observe_path(Path::Unknown);
            if self.window.is_empty() {
                // Nothing has come until now.
                self.since = now;
            }
        }
    }
}

#[cfg(test)]
mod tests;
