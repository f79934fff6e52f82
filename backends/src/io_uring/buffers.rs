//! Memory of rings that the io_uring pins once (registered buffers), and not for each send.
//!
//! The kernel sends from the pages that were there when a block was registered, so that only rings that keep theirs are:
//! those that are reused in place. A registration ends with its ring or with the io_uring. As it counts as locked memory all
//! that time, its size is bounded, and so is the number; what is beyond is pinned for each send.
//!
//! Memory in huge pages is not registered. The kernel takes the pages of one together, and charges a part of it to the socket as if it
//! began where the huge page begins (`PAGE_ALIGN(v.bv_len + v.bv_offset)` in `io_uring/net.c`): 64 KiB in the middle of 2 MiB are 1 MiB of
//! the send buffer, and of the receive buffer of a peer on this host, whose window closes.

use std::{
    io,
    ops::Range,
    sync::{Arc, Weak},
};

use zerosink_core::{
    Reuse,
    region::{self, Keeper},
};

use crate::sys::{pagemap::has_huge_pages, uring::Queues};

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
            let small_pages = location.facts.unit <= rustix::param::page_size();
            let fits = location.facts.reuse == Reuse::InPlace && location.block.len() <= MOST_BYTES;
            (fits && small_pages).then(|| location.block.clone())
        })??;
        let keeper: Weak<dyn Keeper> = Arc::<K>::downgrade(keeper);
        if !region::keep_pages_for(memory, &keeper) {
            return None;
        }
        let bytes = addresses.len();
        let registered = self.open(queues).and_then(|()| register(queues, index, &addresses));
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

    fn open(&mut self, queues: &Queues) -> io::Result<()> {
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

/// Registers memory that turns out not to be in huge pages: registering touches all of it, and may put it there.
fn register(queues: &Queues, index: u16, addresses: &Range<usize>) -> io::Result<()> {
    queues.register(index, addresses)?;
    let found = match has_huge_pages(addresses) {
        Ok(false) => return Ok(()),
        Ok(true) => "it is in huge pages".to_owned(),
        Err(error) => format!("it may be in huge pages: PAGEMAP_SCAN: {error}"),
    };
    queues.unregister(index)?;
    Err(io::Error::other(format!("{found}, of which the kernel charges the socket too much")))
}
