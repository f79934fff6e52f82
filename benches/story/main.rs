//! What it costs to wait for an empty send queue, and what it costs not to: the old method against zerosink, on a wire of
//! 5 ms each way between two network namespaces.
//!
//! ```text
//! cargo bench --bench story [-- ROUNDS]
//! ```
//!
//! Needs root, `/dev/net/tun` and `ip`. Every round runs each contender once, over a fresh connection: 64 KiB chunks out
//! of a ring of 8 MiB, to a reader that compares every byte. The table shows throughput, and its ratio to that of the old
//! method which spins after each chunk: a ratio is of one round, of which the least, the median and the greatest are shown.
//!
//! Who reuses acknowledged memory sends at most a ring per round trip, 840 MB/s here; who copies is not bound by the ring.

#[cfg(zerosink_linux)]
mod contender;
#[cfg(zerosink_linux)]
#[path = "../../tests/old_method/sender.rs"]
mod old_method;
#[cfg(zerosink_linux)]
#[path = "../../tests/support/pattern.rs"]
mod pattern;
#[cfg(zerosink_linux)]
#[path = "../../tests/wire/mod.rs"]
mod wire;

#[cfg(not(zerosink_linux))]
fn main() {}

#[cfg(zerosink_linux)]
fn main() -> std::io::Result<()> {
    use std::io::ErrorKind;

    use contender::{Contender, Run};
    use wire::network::{Link, Network};

    // cargo bench passes --bench; without it one short round shows that it works.
    let measuring = std::env::args().any(|argument| argument == "--bench");
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next();
    let rounds: usize = rounds.unwrap_or(if measuring { 5 } else { 1 });
    let link = Link::default();
    let network = Network::by_wire(link)?;
    println!(
        "TAP wire, round trip {:?}, congestion control {}, chunk {} KiB, ring {} MiB, {rounds} rounds",
        link.forth.delay + link.back.delay,
        network.congestion_control()?,
        contender::CHUNK >> 10,
        contender::RING >> 20,
    );

    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); Contender::ALL.len()];
    let mut refused = vec![None; Contender::ALL.len()];
    for round in 0..rounds {
        // Each round starts with another contender: nobody is always first after the pause between rounds.
        for turn in 0..Contender::ALL.len() {
            let index = (turn + round) % Contender::ALL.len();
            let contender = &Contender::ALL[index];
            let total = if measuring { contender.total } else { contender.total / 8 };
            match contender.run(&network, total) {
                Ok(run) => runs[index].push(run),
                Err(error) if error.kind() == ErrorKind::Unsupported => refused[index] = Some(error.to_string()),
                Err(error) => return Err(error),
            }
        }
    }

    println!("\n{:<36} {:>8} {:>8} {:>8} {:>8} {:>5}", "", "MB/s", "least", "median", "most", "aim");
    let rates = |index: usize| runs[index].iter().map(Run::rate);
    for (index, contender) in Contender::ALL.iter().enumerate() {
        if let Some(reason) = &refused[index] {
            println!("{:<36} {reason}", contender.name);
            continue;
        }
        let ratios = rates(index).zip(rates(Contender::MEASURE)).map(|(rate, measure)| rate / measure);
        let (ratios, rates) = (sorted(ratios), sorted(rates(index)));
        let aim = contender.aim.map_or("-".into(), |aim| format!("{aim:.0}"));
        let line = format!(
            "{:<36} {:>8.1} {:>8.2} {:>8.2} {:>8.2} {aim:>5}  {}",
            contender.name,
            rates[rates.len() / 2],
            ratios[0],
            ratios[ratios.len() / 2],
            ratios[ratios.len() - 1],
            runs[index][0].note.as_deref().unwrap_or_default(),
        );
        println!("{}", line.trim_end());
    }
    Ok(())
}

#[cfg(zerosink_linux)]
fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}
