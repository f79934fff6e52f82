//! The sinks against hand-written loops over the same system calls, and against tokio's `write_all`, interleaved.
//!
//! ```text
//! cargo bench --bench send [-- ROUNDS]
//! ```
//!
//! Every round runs each contender once, in turn, over a fresh loopback connection to a reader on a thread of its own
//! that counts the bytes. A ratio is of one round, so that it holds when the machine's speed drifts; the table shows the
//! least, the median and the greatest of them.

mod contender;
mod uring;

use std::time::Duration;

use contender::Contender;

/// Bytes per send, and bytes per run.
const CELLS: [(usize, u64); 3] = [(4 << 10, 96 << 20), (64 << 10, 512 << 20), (1 << 20, 512 << 20)];

/// Which is measured, against which, and the least median ratio that is aimed at per cell.
const PAIRS: [(Contender, Contender, [f64; 3]); 4] = [
    (Contender::Copy, Contender::RawCopy, [0.90, 0.97, 0.97]),
    (Contender::Copy, Contender::WriteAll, [1.0, 1.0, 1.0]),
    (Contender::Zerocopy, Contender::RawZerocopy, [0.90, 0.97, 0.97]),
    (Contender::IoUring, Contender::RawIoUring, [0.90, 0.97, 0.97]),
];

fn main() -> std::io::Result<()> {
    // cargo bench passes --bench; cargo test --benches passes nothing: one short round then shows that it works.
    let measuring = std::env::args().any(|argument| argument == "--bench");
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next();
    let rounds: usize = rounds.unwrap_or(if measuring { 11 } else { 1 });
    let congestion = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    println!("loopback TCP, congestion control {}, {rounds} rounds", congestion.trim());
    println!(
        "{:<34} {:>8} {:>7} {:>7} {:>7} {:>7}  GB/s",
        "throughput ratio", "bytes", "least", "median", "most", "aim"
    );
    for (cell, (chunk, total)) in CELLS.into_iter().enumerate() {
        let total = if measuring { total } else { total / 32 };
        let mut seconds = vec![Vec::new(); Contender::ALL.len()];
        for round in 0..rounds {
            // Each round starts with another contender: nobody is always first after the pause between rounds.
            for turn in 0..Contender::ALL.len() {
                let contender = Contender::ALL[(turn + round) % Contender::ALL.len()];
                if !contender.is_built() {
                    continue;
                }
                let took: Duration = contender.run(chunk, total)?;
                seconds[contender as usize].push(took.as_secs_f64());
            }
        }
        for (ours, theirs, aims) in PAIRS.into_iter().filter(|(ours, ..)| ours.is_built()) {
            let both = seconds[ours as usize].iter().zip(&seconds[theirs as usize]);
            let mut ratios: Vec<f64> = both.map(|(ours, theirs)| theirs / ours).collect();
            ratios.sort_by(f64::total_cmp);
            let middle = ratios[ratios.len() / 2];
            let rate = |contender: Contender| {
                let mut seconds = seconds[contender as usize].clone();
                seconds.sort_by(f64::total_cmp);
                total as f64 / seconds[seconds.len() / 2] / 1e9
            };
            println!(
                "{:<34} {chunk:>8} {:>7.3} {middle:>7.3} {:>7.3} {:>7.2}  {:.2} / {:.2}",
                format!("{ours} / {theirs}"),
                ratios[0],
                ratios[ratios.len() - 1],
                aims[cell],
                rate(ours),
                rate(theirs),
            );
        }
    }
    Ok(())
}
