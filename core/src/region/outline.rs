//! Which of many ranges, that may overlap, can be asked instead of all of them.
//!
//! **Outer** ranges, none of which lies within another, so that in order of their starts their ends are in order too;
//! and **inner** ranges, which lie within an outer one and are never asked, until that one goes. Only outer ranges are
//! in the map that readers see, so a body that is registered a thousand times is found at once.

use std::collections::BTreeMap;

use super::map::{Map, Writer};

/// A range, and a number that no other one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) id: usize,
}

#[derive(Debug)]
struct Outer<V: 'static> {
    end: usize,
    id: usize,
    value: &'static V,
}

/// What is behind a map of ranges that may overlap.
#[derive(Debug)]
pub(super) struct Outline<V: 'static> {
    outer: BTreeMap<usize, Outer<V>>,
    inner: BTreeMap<Key, &'static V>,
    writer: Writer<V>,
}

impl<V> Outline<V> {
    pub(super) const fn new() -> Self {
        Self { outer: BTreeMap::new(), inner: BTreeMap::new(), writer: Writer::new() }
    }

    /// The outer range that starts at or before `start` and reaches furthest, if it reaches `end`.
    fn covers(&self, start: usize, end: usize) -> bool {
        self.outer.range(..=start).next_back().is_some_and(|(_, outer)| end <= outer.end)
    }

    /// Adds a range; `map` then has `value` for all of it, or another range's value.
    pub(super) fn insert<const N: usize>(&mut self, map: &Map<V, N>, key: Key, value: &'static V) {
        if self.covers(key.start, key.end) {
            self.inner.insert(key, value);
            return;
        }
        // First the new one, then without the old ones, so that what they had is found at every moment.
        map.insert(&mut self.writer, (key.start, key.end), value);
        // Outer ranges within the new one start in it, and are in order of their ends: the first that sticks out ends
        // the row.
        while let Some((&start, outer)) = self.outer.range(key.start..key.end).next()
            && outer.end <= key.end
            && let Some(Outer { end, id, value }) = self.outer.remove(&start)
        {
            map.remove(&mut self.writer, (start, end), value);
            self.inner.insert(Key { start, end, id }, value);
        }
        self.outer.insert(key.start, Outer { end: key.end, id: key.id, value });
    }

    /// Takes out a range that was inserted.
    pub(super) fn remove<const N: usize>(&mut self, map: &Map<V, N>, key: Key) {
        if self.inner.remove(&key).is_some() {
            return;
        }
        let Some(Outer { end, value, .. }) = self.outer.remove(&key.start) else { return };
        debug_assert_eq!(end, key.end, "one id, one range");
        let twins = Key { id: 0, ..key }..=Key { id: usize::MAX, ..key };
        if let Some((&twin, &other)) = self.inner.range(twins).next() {
            self.inner.remove(&twin);
            map.insert(&mut self.writer, (twin.start, twin.end), other);
            map.remove(&mut self.writer, (key.start, end), value);
            self.outer.insert(key.start, Outer { end, id: twin.id, value: other });
            return;
        }
        // What lay within it may be outer now. In order of start; of two with one start the second is the longer, and
        // takes the first in again.
        let from = Key { start: key.start, end: 0, id: 0 };
        let to = Key { start: key.end, end: 0, id: 0 };
        let freed: Vec<Key> = self.inner.range(from..to).map(|(&key, _)| key).filter(|k| k.end <= key.end).collect();
        for key in freed {
            if !self.covers(key.start, key.end)
                && let Some(value) = self.inner.remove(&key)
            {
                self.insert(map, key, value);
            }
        }
        map.remove(&mut self.writer, (key.start, end), value);
    }
}
