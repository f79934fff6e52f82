//! The sends under way, each with a key that its completions carry.

use std::sync::Arc;

use super::{lane::Lane, operation::Operation};

/// A send and whose it is.
pub(super) struct Entry {
    pub(super) lane: Arc<Lane>,
    /// By which custody knows the send.
    pub(super) number: u64,
    pub(super) operation: Operation,
}

/// Sends by key. Keys of released sends are used again.
#[derive(Default)]
pub(super) struct Operations {
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
}

impl Operations {
    pub(super) const fn is_empty(&self) -> bool {
        self.slots.len() == self.free.len()
    }

    pub(super) fn insert(&mut self, entry: Entry) -> u64 {
        let index = self.free.pop().unwrap_or(self.slots.len());
        if index == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[index] = Some(entry);
        index as u64
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut Entry> {
        self.slots.get_mut(usize::try_from(key).ok()?)?.as_mut()
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<Entry> {
        let index = usize::try_from(key).ok()?;
        let entry = self.slots.get_mut(index)?.take()?;
        self.free.push(index);
        Some(entry)
    }
}
