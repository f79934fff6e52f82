//! Slices in turn, and what they cost.

use std::{
    io,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// What one slice took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// Processor time of the whole process but for the client: the server, its driver, and the kernel on behalf of both.
    pub(crate) server: f64,
    /// The client's.
    pub(crate) client: f64,
}

fn processor_time(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The slices of each of `contenders`, round by round, each round in another order.
pub(crate) fn interleave<T>(
    contenders: &mut [T],
    rounds: usize,
    mut slice: impl FnMut(&mut T) -> io::Result<()>,
) -> io::Result<Vec<Vec<Cost>>> {
    let mut costs = vec![Vec::new(); contenders.len()];
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            // Forwards and backwards in turn, so that nobody always comes after the same other one.
            let turn = if round % 2 == 0 { turn } else { contenders.len() - 1 - turn };
            let index = (turn + round / 2) % contenders.len();
            // What the one before has left to its driver is done by then.
            std::thread::sleep(Duration::from_millis(2));
            let (all, own) = (ClockId::ProcessCPUTime, ClockId::ThreadCPUTime);
            let (start, all_before, own_before) = (Instant::now(), processor_time(all), processor_time(own));
            slice(&mut contenders[index])?;
            let seconds = start.elapsed().as_secs_f64();
            let client = processor_time(own) - own_before;
            costs[index].push(Cost { seconds, server: processor_time(all) - all_before - client, client });
        }
    }
    Ok(costs)
}

/// The median of what `of` makes of each.
pub(crate) fn median<T>(values: impl IntoIterator<Item = T>, of: impl Fn(T) -> f64) -> f64 {
    quartiles(values, of)[1]
}

pub(crate) fn quartiles<T>(values: impl IntoIterator<Item = T>, of: impl Fn(T) -> f64) -> [f64; 3] {
    let mut values: Vec<f64> = values.into_iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[values.len() * quarter / 4])
}
