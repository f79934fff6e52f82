//! What happens to frames on their way.

use std::time::Duration;

/// One direction of a wire. The default is a long, clean one: 5 ms each way, 10 ms there and back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Conditions {
    /// From one end to the other.
    pub(crate) delay: Duration,
    /// Frames leave one after the other at this rate. Without one they leave when they come.
    pub(crate) bytes_per_second: Option<u64>,
    /// Frames that do not fit into so many bytes on the way are lost.
    pub(crate) backlog: usize,
    /// How many of all frames are lost, from 0 to 1.
    pub(crate) lose: f64,
    /// How many arrive twice.
    pub(crate) duplicate: f64,
    /// How many take [`Conditions::DETOUR`] longer, so that others overtake them.
    pub(crate) reorder: f64,
    /// What happens to the nth frame depends on this and n alone.
    pub(crate) seed: u64,
}

impl Conditions {
    pub(crate) const DETOUR: Duration = Duration::from_millis(1);

    /// The same at another speed: so much longer or shorter.
    pub(crate) const fn delayed(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(5),
            bytes_per_second: None,
            backlog: 64 << 20,
            lose: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            seed: 1,
        }
    }
}

/// What becomes of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) lost: bool,
    pub(crate) twice: bool,
    pub(crate) detour: bool,
}

/// Decides frame by frame.
#[derive(Debug)]
pub(crate) struct Fates {
    conditions: Conditions,
    state: u64,
}

impl Fates {
    pub(crate) fn new(conditions: Conditions) -> Self {
        Self { conditions, state: conditions.seed }
    }

    /// Splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self, of_one: f64) -> bool {
        ((self.random() >> 11) as f64) < of_one * (1u64 << 53) as f64
    }

    /// The fate of the next frame.
    pub(crate) fn decide(&mut self) -> Fate {
        // Every frame takes three numbers, so that one fate does not move the others.
        let Conditions { lose, duplicate, reorder, .. } = self.conditions;
        Fate { lost: self.chance(lose), twice: self.chance(duplicate), detour: self.chance(reorder) }
    }
}
