//! Who is measured.

use std::{
    fmt, io,
    time::{Duration, Instant},
};

use zerosink::{
    mapped::{Fallback, MapOptions, MappedMemory, Pages, Replacement},
    memory::Memory as _,
};

use crate::{footprint::Footprint, window::Window};

/// A way to have pages that may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The same pages again, as if released.
    InPlace(Pages),
    /// The same pages again, after a copy.
    Copy,
    Anonymous(Pages, Replacement, bool),
    Memfd(Pages, bool),
}

pub(crate) const LARGE: Pages = Pages::Large(64 << 10);
const HUGE: usize = 2 << 20;

impl Way {
    pub(crate) const ALL: [Self; 18] = [
        Self::InPlace(Pages::Base),
        Self::InPlace(Pages::Huge),
        Self::Copy,
        Self::Anonymous(Pages::Base, Replacement::DontNeed, false),
        Self::Anonymous(Pages::Base, Replacement::DontNeed, true),
        Self::Anonymous(Pages::Base, Replacement::MapFixed, false),
        Self::Anonymous(Pages::Base, Replacement::MapFixed, true),
        Self::Anonymous(LARGE, Replacement::DontNeed, false),
        Self::Anonymous(LARGE, Replacement::DontNeed, true),
        Self::Anonymous(Pages::Huge, Replacement::DontNeed, false),
        Self::Anonymous(Pages::Huge, Replacement::DontNeed, true),
        Self::Anonymous(Pages::Huge, Replacement::MapFixed, false),
        Self::Anonymous(Pages::Huge, Replacement::MapFixed, true),
        Self::Memfd(Pages::Base, false),
        Self::Memfd(Pages::Base, true),
        Self::Memfd(Pages::Huge, false),
        Self::Memfd(Pages::Huge, true),
        Self::Memfd(Pages::Reserved, true),
    ];

    fn map(self, ring: usize) -> io::Result<MappedMemory> {
        let options = MapOptions::new();
        match self {
            Self::Copy => options.anonymous(ring),
            Self::InPlace(pages) => options.pages(pages).anonymous(ring),
            Self::Anonymous(pages, replacement, populate) => {
                options.pages(pages).replacement(replacement).populate(populate).anonymous(ring)
            }
            Self::Memfd(pages, populate) => options.pages(pages).populate(populate).memfd(ring),
        }
    }

    pub(crate) fn pages(self) -> Pages {
        match self {
            Self::Copy => Pages::Base,
            Self::InPlace(pages) | Self::Anonymous(pages, ..) | Self::Memfd(pages, _) => pages,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::InPlace(pages) => format!("{pages}, in place"),
            Self::Copy => "base, in place, and a copy".to_owned(),
            Self::Anonymous(pages, replacement, populate) => {
                format!("{pages}, {replacement}{}", if *populate { ", populate" } else { "" })
            }
            Self::Memfd(pages, populate) => {
                format!("memfd {pages}, PUNCH_HOLE{}", if *populate { ", populate" } else { "" })
            }
        };
        f.pad(&name)
    }
}

/// In microseconds per MiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// The replacement, or the copy.
    pub(crate) replace: f64,
    pub(crate) fill: f64,
}

impl Cost {
    pub(crate) fn both(&self) -> f64 {
        self.replace + self.fill
    }
}

/// A way with its memory.
#[derive(Debug)]
pub(crate) struct Contender {
    way: Way,
    memory: MappedMemory,
    batch: usize,
    window: Window,
    /// What is written, small enough to stay in the cache: only the destination is measured.
    source: Vec<u8>,
    /// Where a copying send copies to, as long as the window.
    copies: Vec<u8>,
}

impl Contender {
    /// `None` if this way is not for such batches, or not on this host, which `refused` is told.
    pub(crate) fn new(
        way: Way,
        ring: usize,
        batch: usize,
        mut refused: impl FnMut(&io::Error),
    ) -> io::Result<Option<Self>> {
        // Where a whole huge page is replaced, the kernel brings that and not a smaller one.
        if way.pages() == LARGE && batch >= HUGE {
            return Ok(None);
        }
        let memory = way.map(ring)?;
        if let [Fallback::Pages { why, .. }, ..] = memory.fallbacks() {
            refused(why);
            return Ok(None);
        }
        assert_eq!(memory.pages(), way.pages());
        if !batch.is_multiple_of(memory.facts().unit) {
            return Ok(None);
        }
        let window = Window::new(batch)?;
        let copies = vec![1; if way == Way::Copy { window.bytes() } else { 0 }];
        let mut contender = Self { way, memory, batch, window, source: vec![0; 64 << 10], copies };
        contender.check()?;
        // Every page is there, as after the first lap.
        contender.run(ring)?;
        Ok(Some(contender))
    }

    pub(crate) fn way(&self) -> Way {
        self.way
    }

    fn replaces(&self) -> bool {
        !matches!(self.way, Way::InPlace(_) | Way::Copy)
    }

    fn fill(&mut self, at: usize) {
        for part in slice(&mut self.memory, at, self.batch).chunks_mut(self.source.len()) {
            part.copy_from_slice(&self.source[..part.len()]);
        }
    }

    /// What happens between a send and the next fill of the same addresses.
    fn replace(&mut self, at: usize) -> io::Result<()> {
        if self.replaces() { self.memory.recycle(at..at + self.batch) } else { Ok(()) }
    }

    fn push(&mut self, at: usize) -> io::Result<()> {
        self.window.push(slice(&mut self.memory, at, self.batch))
    }

    /// A late reader gets old bytes after a replacement, and new ones without.
    fn check(&mut self) -> io::Result<()> {
        self.source.fill(1);
        self.fill(0);
        self.push(0)?;
        self.replace(0)?;
        self.source.fill(2);
        self.fill(0);
        let expected = if self.replaces() { 1 } else { 2 };
        let mut wrong = 0;
        self.window.drain(|bytes| wrong += bytes.iter().filter(|byte| **byte != expected).count())?;
        if wrong == 0 { Ok(()) } else { Err(io::Error::other(format!("{}: {wrong} wrong bytes", self.way))) }
    }

    /// Goes once around the ring; how many bytes of physical memory it was filled with, if the kernel tells.
    pub(crate) fn footprint(&mut self) -> io::Result<Option<usize>> {
        let mut footprint = Footprint::new()?;
        for at in (0..self.memory.len()).step_by(self.batch) {
            self.fill(at);
            footprint.add(slice(&mut self.memory, at, self.batch))?;
            self.push(at)?;
            self.replace(at)?;
        }
        Ok(footprint.bytes())
    }

    /// Fills, sends and replaces so many bytes, lap by lap.
    pub(crate) fn run(&mut self, bytes: usize) -> io::Result<Cost> {
        let (mut filling, mut replacing) = (Duration::ZERO, Duration::ZERO);
        let ring = self.memory.len() / self.batch * self.batch;
        for done in (0..bytes).step_by(self.batch) {
            let at = done % ring;
            let start = Instant::now();
            self.fill(at);
            filling += start.elapsed();
            if self.way == Way::Copy {
                let to = done % self.copies.len();
                let start = Instant::now();
                self.copies[to..to + self.batch].copy_from_slice(slice(&mut self.memory, at, self.batch));
                replacing += start.elapsed();
                continue;
            }
            self.push(at)?;
            let start = Instant::now();
            self.replace(at)?;
            replacing += start.elapsed();
        }
        let per_mib = |time: Duration| time.as_secs_f64() * 1e6 / (bytes as f64 / (1 << 20) as f64);
        Ok(Cost { replace: per_mib(replacing), fill: per_mib(filling) })
    }
}

#[expect(unsafe_code, reason = "mapped memory as a slice")]
fn slice(memory: &mut MappedMemory, at: usize, bytes: usize) -> &mut [u8] {
    assert!(at + bytes <= memory.len());
    // SAFETY: the offset is inside the mapping.
    let start = unsafe { memory.as_ptr().add(at) };
    // SAFETY: so many bytes of a mapping that is readable, writable, and borrowed as long as the slice.
    unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes) }
}

pub(crate) fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

pub(crate) fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}
