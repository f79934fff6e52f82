//! Private anonymous memory.

use std::io;

use zerosink_core::{Reuse, memory::Backing};

use super::{
    MapOptions, MappedMemory, Parts, invalid,
    mapping::Mapping,
    pages::{self, Fallback, Pages},
    replace::{Populate, Replacement},
    round_up,
};

pub(super) fn map(options: &MapOptions, bytes: usize) -> io::Result<MappedMemory> {
    let replacement = match options.replacement {
        None => Replacement::DontNeed,
        Some(Replacement::PunchHole) => {
            return Err(invalid("PUNCH_HOLE is for a memfd; anonymous memory takes DontNeed"));
        }
        Some(replacement) => replacement,
    };
    let mut fallbacks = Vec::new();
    let (mapping, pages, unit) = match options.pages {
        Pages::Base => base(bytes)?,
        Pages::Reserved => return Err(invalid("reserved huge pages are for a memfd; anonymous memory takes Huge")),
        asked @ (Pages::Large(_) | Pages::Huge) => match transparent(asked, bytes)? {
            Ok(mapped) => mapped,
            Err(why) => {
                fallbacks.push(Fallback::Pages { asked, why });
                base(bytes)?
            }
        },
    };
    // Measured (benches/replace): one call that faults in many base pages is cheaper than a fault for each; a large page is
    // better faulted in when it is filled, because it is in the cache then.
    let populate = if options.populate.unwrap_or(pages == Pages::Base) { Populate::Try } else { Populate::No };
    let backing = if pages == Pages::Huge { Backing::HugePages } else { Backing::Anonymous };
    let parts = Parts { mapping, memfd: None, backing, unit, pages, replacement, populate, fallbacks };
    parts.prove(Reuse::FreshPages)
}

fn base(bytes: usize) -> io::Result<(Mapping, Pages, usize)> {
    let page = rustix::param::page_size();
    let mapping = Mapping::anonymous(round_up(bytes, page)?, page)?;
    // A huge page of which a part is replaced has to be split, and is freed when the last part is.
    mapping.want_base(&mapping.whole())?;
    Ok((mapping, Pages::Base, page))
}

/// Transparent huge pages, or why there are none.
fn transparent(asked: Pages, bytes: usize) -> io::Result<io::Result<(Mapping, Pages, usize)>> {
    let huge = pages::huge_page();
    let size = match (asked, huge) {
        (Pages::Large(size), huge) => {
            let page = rustix::param::page_size();
            if !size.is_power_of_two() || size <= page || huge.is_some_and(|huge| size > huge) {
                return Err(invalid(
                    "large pages are a power of two above the base page, at most as large as huge pages",
                ));
            }
            size
        }
        (_, Some(huge)) => huge,
        (_, None) => {
            return Ok(Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel has no transparent huge pages")));
        }
    };
    let mapping = Mapping::anonymous(round_up(bytes, size)?, size)?;
    Ok(pages::ask(&mapping, size, |range| mapping.discard(&range)).map(|()| (mapping, asked, size)))
}
