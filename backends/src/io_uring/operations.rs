//! The sends under way, each with a key that its completions carry.

use super::operation::Operation;

/// Sends by key. Keys of released sends are used again.
#[derive(Default)]
pub(super) struct Operations {
    slots: Vec<Option<Operation>>,
    free: Vec<usize>,
}

impl Operations {
    pub(super) fn insert(&mut self, operation: Operation) -> u64 {
        let index = self.free.pop().unwrap_or(self.slots.len());
        if index == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[index] = Some(operation);
        index as u64
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut Operation> {
        self.slots.get_mut(usize::try_from(key).ok()?)?.as_mut()
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<Operation> {
        let index = usize::try_from(key).ok()?;
        let operation = self.slots.get_mut(index)?.take()?;
        self.free.push(index);
        Some(operation)
    }
}
