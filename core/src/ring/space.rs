//! Which bytes are whose: segments in order of address, holes in a round.
//!
//! A reservation takes the front of the first hole that is large enough, starting where the last one was taken (next
//! fit). A returned segment joins the holes beside it, or is put at the end of the round. What needs fresh pages first is
//! stale, and joins what is stale beside it in a round of its own. Everything is counted in granules; nothing here touches
//! memory or knows threads.

use std::time::Instant;

const NONE: u32 = u32::MAX;

/// What a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Free.
    Hole,
    /// Free once it has fresh pages.
    Stale,
    /// The node stands for no segment.
    Unused,
    /// Reserved or committed; the segment's slot knows which.
    Used,
    /// Its pages could not be replaced.
    Quarantined,
    /// Committed once in an immutable ring.
    Retired,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    start: u32,
    len: u32,
    /// Neighbours by address.
    prev: u32,
    next: u32,
    /// Neighbours in the round of holes, or of what is stale; `round_next` also chains unused nodes.
    round_prev: u32,
    round_next: u32,
    kind: Kind,
    /// Its number is in [`Space::recent`].
    listed: bool,
    since: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Space {
    nodes: Vec<Node>,
    unused: u32,
    /// The hole, and the stale piece, that is looked at first.
    cursors: [u32; 2],
    /// No hole is longer than this.
    longest: u32,
    totals: [u32; 6],
    high_water: u32,
    /// Segments that were reserved lately and have no time yet, see [`Space::stamp`].
    recent: Vec<u32>,
    /// Reservations until the next look at the clock.
    until_stamp: usize,
}

impl Space {
    /// Reservations between two looks at the clock, at least.
    const BATCH: usize = 32;

    pub(super) fn new(capacity: u32) -> Self {
        let whole = Node {
            start: 0,
            len: capacity,
            prev: NONE,
            next: NONE,
            round_prev: 0,
            round_next: 0,
            kind: Kind::Hole,
            listed: false,
            since: None,
        };
        let mut totals = [0; 6];
        totals[Kind::Hole as usize] = capacity;
        Self {
            nodes: vec![whole],
            unused: NONE,
            cursors: [0, NONE],
            longest: capacity,
            totals,
            high_water: 0,
            recent: Vec::with_capacity(Self::BATCH),
            until_stamp: Self::BATCH,
        }
    }

    /// Granules of one kind.
    pub(super) fn total(&self, kind: Kind) -> u32 {
        self.totals[kind as usize]
    }

    pub(super) fn high_water(&self) -> u32 {
        self.high_water
    }

    #[inline]
    pub(super) fn start(&self, node: u32) -> u32 {
        self.nodes[node as usize].start
    }

    pub(super) fn length(&self, node: u32) -> u32 {
        self.nodes[node as usize].len
    }

    /// Takes `len` granules in one piece.
    #[inline]
    pub(super) fn allocate(&mut self, len: u32) -> Option<u32> {
        let first = self.cursors[Kind::Hole as usize];
        if len > self.longest || first == NONE {
            return None;
        }
        let mut hole = first;
        let mut longest = 0;
        while self.nodes[hole as usize].len < len {
            longest = longest.max(self.nodes[hole as usize].len);
            hole = self.nodes[hole as usize].round_next;
            if hole == first {
                self.longest = longest;
                return None;
            }
        }
        self.cursors[Kind::Hole as usize] = hole;
        let node = self.carve(hole, len);
        let taken = &mut self.nodes[node as usize];
        if !taken.listed {
            taken.listed = true;
            self.recent.push(node);
        }
        self.until_stamp = self.until_stamp.saturating_sub(1);
        self.high_water = self.high_water.max(self.total(Kind::Used));
        Some(node)
    }

    /// Takes up to `most` stale granules in one piece, to give them fresh pages.
    pub(super) fn take_stale(&mut self, most: u32) -> Option<u32> {
        let first = self.cursors[Kind::Stale as usize];
        (first != NONE).then(|| self.carve(first, most.min(self.nodes[first as usize].len)))
    }

    /// Takes the first `len` granules of a node in a round into use.
    #[inline]
    fn carve(&mut self, from: u32, len: u32) -> u32 {
        let kind = self.nodes[from as usize].kind;
        let node = if self.nodes[from as usize].len == len {
            self.leave_round(from);
            from
        } else {
            self.split(from, len)
        };
        self.nodes[node as usize].kind = Kind::Used;
        self.nodes[node as usize].since = None;
        self.count(kind, Kind::Used, len);
        node
    }

    /// Makes a node of its own of the first `len` granules of a longer one.
    #[inline]
    pub(super) fn split(&mut self, node: u32, len: u32) -> u32 {
        let Node { start, prev, kind, .. } = self.nodes[node as usize];
        let front = self.node(start, len);
        self.nodes[front as usize].kind = kind;
        self.nodes[node as usize].start += len;
        self.nodes[node as usize].len -= len;
        self.link(prev, front, node);
        front
    }

    /// Leaves a segment its first `keep >= 1` granules; the others are free. Nothing happens to one that is free
    /// altogether.
    #[inline]
    pub(super) fn cut(&mut self, node: u32, keep: u32) {
        let Node { start, len, next, kind, .. } = self.nodes[node as usize];
        if matches!(kind, Kind::Unused | Kind::Hole | Kind::Stale) || keep >= len {
            return;
        }
        let tail = len - keep;
        self.nodes[node as usize].len = keep;
        if next != NONE && self.nodes[next as usize].kind == Kind::Hole {
            let hole = &mut self.nodes[next as usize];
            hole.start -= tail;
            hole.len += tail;
            self.longest = self.longest.max(hole.len);
        } else {
            let hole = self.node(start + keep, tail);
            self.link(node, hole, next);
            self.join_round(hole, Kind::Hole);
            self.longest = self.longest.max(tail);
        }
        self.count(kind, Kind::Hole, tail);
    }

    /// Makes a segment free.
    #[inline]
    pub(super) fn release(&mut self, node: u32) {
        let length = self.unite(node, Kind::Hole);
        self.longest = self.longest.max(length);
    }

    /// Makes a segment stale.
    #[inline]
    pub(super) fn spoil(&mut self, node: u32) {
        self.unite(node, Kind::Stale);
    }

    /// Makes a segment in use one with its neighbours of that kind, which has a round. Answers how long they are together.
    #[inline]
    fn unite(&mut self, node: u32, kind: Kind) -> u32 {
        let Node { start, len, prev, next, kind: was, .. } = self.nodes[node as usize];
        self.count(was, kind, len);
        let before = prev != NONE && self.nodes[prev as usize].kind == kind;
        let after = next != NONE && self.nodes[next as usize].kind == kind;
        match (before, after) {
            (true, true) => {
                let gained = len + self.nodes[next as usize].len;
                self.leave_round(next);
                self.unlink(next);
                self.unlink(node);
                self.nodes[prev as usize].len += gained;
                self.nodes[prev as usize].len
            }
            (true, false) => {
                self.unlink(node);
                self.nodes[prev as usize].len += len;
                self.nodes[prev as usize].len
            }
            (false, true) => {
                self.unlink(node);
                self.nodes[next as usize].start = start;
                self.nodes[next as usize].len += len;
                self.nodes[next as usize].len
            }
            (false, false) => {
                self.join_round(node, kind);
                len
            }
        }
    }

    /// Takes a segment out of use for good.
    pub(super) fn retire(&mut self, node: u32, kind: Kind) {
        let Node { len, kind: was, .. } = self.nodes[node as usize];
        self.nodes[node as usize].kind = kind;
        self.count(was, kind, len);
    }

    /// The longest run of granules that can become free if every segment in use is returned but those of which `stays`
    /// says that they will not be reused. Walks all segments.
    pub(super) fn attainable(&self, stays: impl Fn(u32) -> bool) -> u32 {
        let (mut longest, mut run) = (0, 0);
        self.walk(|number, node| {
            let returns = match node.kind {
                Kind::Hole | Kind::Stale => true,
                Kind::Used => !stays(number),
                Kind::Unused | Kind::Quarantined | Kind::Retired => false,
            };
            run = if returns { run + node.len } else { 0 };
            longest = longest.max(run);
        });
        longest
    }

    /// True when it is time for [`stamp`](Self::stamp).
    #[inline]
    pub(super) fn due(&self) -> bool {
        self.until_stamp == 0
    }

    /// Notes the time for leases that have none; `committed` tells them from grants. The clock costs as much as half a
    /// reservation, so it is read once in [`Self::BATCH`] of them, and whenever somebody has to wait or asks: a lease's
    /// age is never overstated, and of a ring that is stuck it is right. Grants are looked at again next time, which is
    /// the later the more there are.
    pub(super) fn stamp(&mut self, committed: impl Fn(u32) -> bool) {
        self.until_stamp = Self::BATCH;
        if self.recent.is_empty() {
            return;
        }
        let now = Instant::now();
        self.recent.retain(|&number| {
            let node = &mut self.nodes[number as usize];
            let grant = node.kind == Kind::Used && !committed(number);
            if node.kind == Kind::Used && !grant && node.since.is_none() {
                node.since = Some(now);
            }
            node.listed = grant;
            grant
        });
        self.until_stamp = self.recent.len().max(Self::BATCH);
    }

    /// Granules of the segments in use of which `is` says so. Looks at all segments.
    pub(super) fn used(&self, is: impl Fn(u32) -> bool) -> u32 {
        let used = self.nodes.iter().zip(0..).filter(|(node, _)| node.kind == Kind::Used);
        used.filter(|(_, number)| is(*number)).map(|(node, _)| node.len).sum()
    }

    /// When the oldest lease was committed, as far as noted.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.nodes.iter().filter(|n| n.kind == Kind::Used).filter_map(|n| n.since).min()
    }

    fn walk(&self, mut visit: impl FnMut(u32, &Node)) {
        // The segment at granule 0 has no predecessor; every other node in use has one.
        let first = self.nodes.iter().position(|n| n.kind != Kind::Unused && n.prev == NONE);
        let mut at = first.map_or(NONE, |first| first as u32);
        while at != NONE {
            visit(at, &self.nodes[at as usize]);
            at = self.nodes[at as usize].next;
        }
    }

    #[inline]
    fn count(&mut self, from: Kind, to: Kind, len: u32) {
        self.totals[from as usize] -= len;
        self.totals[to as usize] += len;
    }

    #[inline]
    fn node(&mut self, start: u32, len: u32) -> u32 {
        let fresh = Node {
            start,
            len,
            prev: NONE,
            next: NONE,
            round_prev: NONE,
            round_next: NONE,
            kind: Kind::Hole,
            listed: false,
            since: None,
        };
        if self.unused == NONE {
            self.nodes.push(fresh);
            return self.nodes.len() as u32 - 1;
        }
        let node = self.unused;
        self.unused = self.nodes[node as usize].round_next;
        let listed = self.nodes[node as usize].listed;
        self.nodes[node as usize] = Node { listed, ..fresh };
        node
    }

    #[inline]
    fn link(&mut self, prev: u32, node: u32, next: u32) {
        self.nodes[node as usize].prev = prev;
        self.nodes[node as usize].next = next;
        if prev != NONE {
            self.nodes[prev as usize].next = node;
        }
        if next != NONE {
            self.nodes[next as usize].prev = node;
        }
    }

    #[inline]
    fn unlink(&mut self, node: u32) {
        let Node { prev, next, .. } = self.nodes[node as usize];
        if prev != NONE {
            self.nodes[prev as usize].next = next;
        }
        if next != NONE {
            self.nodes[next as usize].prev = prev;
        }
        self.nodes[node as usize].kind = Kind::Unused;
        self.nodes[node as usize].round_next = self.unused;
        self.unused = node;
    }

    /// Puts a node at the end of the round of its kind, just before the cursor.
    fn join_round(&mut self, node: u32, kind: Kind) {
        self.nodes[node as usize].kind = kind;
        let next = self.cursors[kind as usize];
        if next == NONE {
            self.cursors[kind as usize] = node;
            self.nodes[node as usize].round_prev = node;
            self.nodes[node as usize].round_next = node;
        } else {
            let prev = self.nodes[next as usize].round_prev;
            self.nodes[node as usize].round_prev = prev;
            self.nodes[node as usize].round_next = next;
            self.nodes[prev as usize].round_next = node;
            self.nodes[next as usize].round_prev = node;
        }
    }

    fn leave_round(&mut self, node: u32) {
        let Node { round_prev, round_next, kind, .. } = self.nodes[node as usize];
        let cursor = &mut self.cursors[kind as usize];
        if round_next == node {
            *cursor = NONE;
            return;
        }
        if *cursor == node {
            *cursor = round_next;
        }
        self.nodes[round_prev as usize].round_next = round_next;
        self.nodes[round_next as usize].round_prev = round_prev;
    }
}
