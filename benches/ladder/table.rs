//! One row per cell.

use crate::{
    chance::Chance,
    ends::{self, congestion},
    run::{Cell, Contender, Link},
    wire::network::Network,
};
use zerosink::{Mechanism, Reuse, mapped::Pages};

/// Bytes per send, and bytes per run.
const SIZES: [(usize, u64); 6] = [
    (1 << 10, 24 << 20),
    (4 << 10, 64 << 20),
    (16 << 10, 128 << 20),
    (64 << 10, 256 << 20),
    (256 << 10, 256 << 20),
    (1 << 20, 256 << 20),
];
/// What `auto` must reach of the best.
const AIM: f64 = 0.95;

/// Prints the table.
pub(crate) fn print() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let measuring = arguments.iter().any(|argument| argument == "--bench");
    let rounds: usize = arguments.iter().find_map(|a| a.parse().ok()).unwrap_or(if measuring { 7 } else { 1 });
    let wanted = |names: &[&str], name: &str| {
        let asked: Vec<_> = arguments.iter().filter(|a| names.contains(&a.as_str())).collect();
        asked.is_empty() || asked.iter().any(|a| *a == name)
    };
    let asked: Vec<usize> = arguments.iter().filter_map(|a| a.strip_prefix("size=")?.parse().ok()).collect();
    let known = |chunk: usize| SIZES.into_iter().find(|(its, _)| *its == chunk).unwrap_or((chunk, 256 << 20));
    let sizes: Vec<_> = if asked.is_empty() { SIZES.to_vec() } else { asked.into_iter().map(known).collect() };
    let pages = match arguments.iter().find_map(|argument| argument.strip_prefix("pages=")) {
        Some("large") => Pages::Large(64 << 10),
        Some("huge") => Pages::Huge,
        _ => Pages::Base,
    };
    println!(
        "congestion control {}, {rounds} rounds, sender and reader on a processor each, GB/s (median); auto / best is the median of the rounds",
        congestion()
    );
    print!("{:<6}{:<12}{:>8}", "link", "memory", "bytes");
    for contender in Contender::ALL {
        print!(" {:>13}", contender.to_string());
    }
    println!(" {:>11}  auto sent by", "auto / best");
    ends::stay_with_senders();
    let mut short = 0;
    for link in Link::ALL {
        if !wanted(&["tcp", "veth", "unix"], link.as_str()) {
            continue;
        }
        let network = match link {
            Link::Veth => match Network::by_veth() {
                Ok(network) => Some(network),
                Err(error) => {
                    println!("{:<6}left out: network namespaces need root and `ip`: {error}", link.as_str());
                    continue;
                }
            },
            Link::Tcp | Link::Unix => None,
        };
        for reuse in Reuse::ALL {
            if !wanted(&["in-place", "fresh-pages", "immutable"], reuse.as_str()) {
                continue;
            }
            for &(chunk, total) in &sizes {
                let total = if measuring { total } else { total / 16 };
                short += usize::from(!row(&Cell { link, reuse, pages, chunk, total }, network.as_ref(), rounds)?);
            }
        }
    }
    println!("{short} cells below {AIM}");
    Ok(())
}

/// One line of the table. True if `auto` reached its aim.
fn row(cell: &Cell, network: Option<&Network>, rounds: usize) -> std::io::Result<bool> {
    let permitted: Vec<Contender> = Contender::ALL.into_iter().filter(|c| cell.permits(*c)).collect();
    let mut rates = vec![Vec::new(); Contender::ALL.len()];
    let mut used = Mechanism::Copy;
    let mut chance = Chance::new();
    let mut order = permitted.clone();
    for _ in 0..rounds {
        chance.shuffle(&mut order);
        for &contender in &order {
            let (seconds, mechanism) = cell.run(contender, network)?;
            rates[contender as usize].push(cell.total as f64 / seconds / 1e9);
            if contender == Contender::Auto {
                used = mechanism;
            }
        }
    }
    let median = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    print!("{:<6}{:<12}{:>8}", cell.link.as_str(), cell.reuse.as_str(), cell.chunk);
    for contender in Contender::ALL {
        match median(&rates[contender as usize]) {
            Some(rate) => print!(" {rate:>13.2}"),
            None => print!(" {:>13}", "-"),
        }
    }
    // The best is one mechanism over all rounds: the best of each round would be luck.
    let forced = permitted.iter().filter(|c| **c != Contender::Auto);
    let best = forced.max_by(|a, b| {
        let rate = |c: &Contender| median(&rates[*c as usize]).unwrap_or(0.0);
        rate(a).total_cmp(&rate(b))
    });
    let best = best.map_or(&[][..], |best| &rates[*best as usize]);
    let ratios: Vec<f64> = rates[Contender::Auto as usize].iter().zip(best).map(|(auto, best)| auto / best).collect();
    let ratio = median(&ratios).unwrap_or(f64::NAN);
    println!(" {ratio:>11.3}  {used}{}", if ratio < AIM { "  below the aim" } else { "" });
    Ok(ratio >= AIM)
}
