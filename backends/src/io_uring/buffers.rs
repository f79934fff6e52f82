//! Memory of rings that the io_uring pins once (registered buffers), and not for each send.
//!
//! The kernel sends from the pages that were there when a block was registered, so that only rings that keep theirs are:
//! those that are reused in place. A registration ends with its ring or with the io_uring. As it counts as locked memory all
//! that time, its size is bounded, and so is the number; what is beyond is pinned for each send.

use std::{
    ops::Range,
    sync::{Arc, Weak},
};

use zerosink_core::{
    Reuse,
    region::{self, Keeper},
};

use crate::sys::uring::Queues;

/// Rings that are registered at a time.
const MOST_BLOCKS: u16 = 16;
/// Bytes of a ring that is registered: pinning takes time, and touches all of it.
const MOST_BYTES: usize = 64 << 20;

/// The blocks of an io_uring.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    blocks: Vec<Block>,
    /// The kernel has a table for them.
    opened: bool,
}

/// All memory of a ring.
#[derive(Debug)]
struct Block {
    addresses: Range<usize>,
    /// Its place in the kernel's table; `None` if the kernel refused.
    index: Option<u16>,
}

impl Buffers {
    /// The registered buffer that `memory` is a part of. The memory of a ring is registered when the first send asks.
    ///
    /// The caller keeps `memory` alive, and so the answer true.
    pub(super) fn index<K: Keeper + 'static>(
        &mut self,
        queues: &Queues,
        memory: &[u8],
        keeper: &Arc<K>,
    ) -> Option<u16> {
        let start = memory.as_ptr().addr();
        if let Some(block) = self.blocks.iter().find(|block| block.addresses.contains(&start)) {
            return block.index;
        }
        let index = (0..MOST_BLOCKS).find(|index| self.blocks.iter().all(|block| block.index != Some(*index)))?;
        let addresses = region::locate(memory, |location| {
            let fits = location.facts.reuse == Reuse::InPlace && location.block.len() <= MOST_BYTES;
            fits.then(|| location.block.clone())
        })??;
        let keeper: Weak<dyn Keeper> = Arc::<K>::downgrade(keeper);
        if !region::keep_pages_for(memory, &keeper) {
            return None;
        }
        let bytes = addresses.len();
        let registered = self.open(queues).and_then(|()| queues.register(index, &addresses));
        let index = match registered {
            Ok(()) => {
                tracing::debug!(bytes, "ring memory registered with io_uring");
                Some(index)
            }
            Err(error) => {
                tracing::debug!(%error, bytes, "ring memory not registered with io_uring: each send pins its own");
                None
            }
        };
        self.blocks.push(Block { addresses, index });
        index
    }

    fn open(&mut self, queues: &Queues) -> std::io::Result<()> {
        if !self.opened {
            queues.open_buffers(u32::from(MOST_BLOCKS))?;
            self.opened = true;
        }
        Ok(())
    }

    /// The ring with these addresses is over.
    pub(super) fn forget(&mut self, queues: &Queues, addresses: &Range<usize>) {
        for block in self.blocks.extract_if(.., |block| block.addresses == *addresses) {
            if let Some(index) = block.index
                && let Err(error) = queues.unregister(index)
            {
                tracing::warn!(%error, "memory of a ring that is over stays pinned");
            }
        }
    }
}
