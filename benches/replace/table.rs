//! The cells, and their tables.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use zerosink::mapped::{Pages, Replacement};

use crate::{
    transfer,
    way::{Contender, Cost, Way, median, sorted},
};

/// How a ring is used.
#[derive(Debug, Clone, Copy)]
struct Cell {
    ring: usize,
    batch: usize,
    /// Another thread of the process runs all the time, so that it has to be told of each change of the page table.
    busy: bool,
}

const CELLS: [Cell; 7] = [
    Cell { ring: 8 << 20, batch: 64 << 10, busy: false },
    Cell { ring: 1 << 20, batch: 64 << 10, busy: false },
    Cell { ring: 8 << 20, batch: 64 << 10, busy: true },
    Cell { ring: 8 << 20, batch: 256 << 10, busy: false },
    Cell { ring: 8 << 20, batch: 2 << 20, busy: false },
    Cell { ring: 64 << 20, batch: 2 << 20, busy: false },
    Cell { ring: 8 << 20, batch: 2 << 20, busy: true },
];

pub(crate) fn print() -> io::Result<()> {
    // cargo bench passes --bench; cargo test --benches passes nothing: one short round then shows that it works.
    let measuring = std::env::args().any(|argument| argument == "--bench");
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next();
    let rounds: usize = rounds.unwrap_or(if measuring { 21 } else { 1 });
    println!("{rounds} rounds; times in us/MiB; ratios of replacement and fill together");
    let mut said = Vec::new();
    for cell in CELLS {
        let bytes = if measuring { cell.ring.max(16 << 20) } else { cell.ring };
        println!(
            "\nring of {} KiB, batches of {} KiB, 1 MiB or one batch in flight{}",
            cell.ring >> 10,
            cell.batch >> 10,
            if cell.busy { ", another thread is busy" } else { "" }
        );
        let neighbour = cell.busy.then(Neighbour::start);
        measure(cell, bytes, rounds, &mut said)?;
        drop(neighbour);
    }
    footprints()?;
    transfer::print(rounds.min(11), if measuring { 256 << 20 } else { 16 << 20 })
}

/// The ways whose footprints are shown, each in a ring of 64 MiB.
const LAPS: [(Way, usize); 5] = [
    (Way::InPlace(Pages::Base), 64 << 10),
    (Way::Anonymous(Pages::Base, Replacement::DontNeed, false), 64 << 10),
    (Way::Anonymous(Pages::Base, Replacement::DontNeed, true), 64 << 10),
    (Way::Anonymous(Pages::Huge, Replacement::DontNeed, false), 2 << 20),
    (Way::Anonymous(Pages::Huge, Replacement::DontNeed, true), 2 << 20),
];

fn footprints() -> io::Result<()> {
    println!("\nphysical memory that one lap of a ring of 64 MiB goes through, 1 MiB or one batch in flight");
    for (way, batch) in LAPS {
        let Some(mut contender) = Contender::new(way, 64 << 20, batch, |_| {})? else { continue };
        let batch = batch >> 10;
        match contender.footprint()? {
            Some(bytes) => println!("{way:<36} batches of {batch:>4} KiB {:>8.1} MiB", bytes as f64 / (1 << 20) as f64),
            None => println!("only root is told"),
        }
    }
    Ok(())
}

fn measure(cell: Cell, bytes: usize, rounds: usize, said: &mut Vec<String>) -> io::Result<()> {
    let mut contenders = Vec::new();
    for way in Way::ALL {
        let refused = |why: &io::Error| {
            let why = format!("{}: {why}", way.pages());
            if !said.contains(&why) {
                println!("no {why}");
                said.push(why);
            }
        };
        contenders.extend(Contender::new(way, cell.ring, cell.batch, refused)?);
    }
    println!(
        "{:<36} {:>8} {:>8} {:>8}  {:>24}  {:>8}",
        "", "replace", "fill", "both", "/ in place: least median most", "/ copy"
    );
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); contenders.len()];
    for round in 0..rounds {
        // Each round starts with another way: nobody is always first after the pause between rounds.
        for turn in 0..contenders.len() {
            let at = (turn + round) % contenders.len();
            costs[at].push(contenders[at].run(bytes)?);
        }
    }
    let of = |way: Way| contenders.iter().position(|contender| contender.way() == way);
    let [Some(in_place), Some(copy)] = [Way::InPlace(Pages::Base), Way::Copy].map(of) else {
        return Err(io::Error::other("these two run everywhere"));
    };
    for (contender, costs_of_it) in contenders.iter().zip(&costs) {
        let ratios = |other: usize| {
            sorted(costs_of_it.iter().zip(&costs[other]).map(|(own, other)| own.both() / other.both()).collect())
        };
        let (to_place, to_copy) = (ratios(in_place), ratios(copy));
        let middle = |part: fn(&Cost) -> f64| median(&sorted(costs_of_it.iter().map(part).collect()));
        println!(
            "{:<36} {:>8.1} {:>8.1} {:>8.1}  {:>9.2} {:>9.2} {:>9.2}  {:>8.2}",
            contender.way(),
            middle(|cost| cost.replace),
            middle(|cost| cost.fill),
            middle(Cost::both),
            to_place[0],
            median(&to_place),
            to_place[to_place.len() - 1],
            median(&to_copy),
        );
    }
    Ok(())
}

/// A thread that does nothing, all the time.
struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Neighbour {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it only spins");
        }
    }
}
