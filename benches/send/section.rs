//! What is compared with what.

use std::{env, io, os::unix::process::CommandExt as _, process::Command};

use rustix::process::{Resource, Rlimit, geteuid, setrlimit};

use crate::{
    chance::Chance,
    contender::Contender,
    ends::{self, Place, congestion},
    store::{Memory, Store},
};

/// Comparisons over one kind of connection.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) name: &'static str,
    link: Link,
    place: Place,
    /// Bytes per send, and bytes per run.
    sizes: &'static [(usize, u64)],
    pairs: &'static [Pair],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Tcp,
    Unix,
    /// Without privileges, and with 64 KiB of lockable memory.
    TcpWithoutMemlock,
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) rounds: usize,
    /// Else it is only shown that the bench works.
    pub(crate) measuring: bool,
    pub(crate) size: Option<usize>,
    pub(crate) only: Option<&'a str>,
    /// Every reader has a processor of its own.
    pub(crate) apart: bool,
}

/// Which is measured, against which, and the least median ratio that is aimed at, by size.
#[derive(Debug)]
struct Pair {
    ours: Contender,
    theirs: Contender,
    aims: &'static [Option<f64>],
}

const fn pair(ours: Contender, theirs: Contender, aims: &'static [Option<f64>]) -> Pair {
    Pair { ours, theirs, aims }
}

const AS_GOOD: &[Option<f64>] = &[Some(1.0), Some(1.0), Some(1.0)];
const BY_HAND: &[Option<f64>] = &[Some(0.90), Some(0.97), Some(0.97)];
const BY_HAND_LARGE: &[Option<f64>] = &[None, Some(0.97), Some(0.97)];
const BY_HAND_UNIX: &[Option<f64>] = &[Some(0.97), Some(0.97), Some(0.97)];
const FASTER: &[Option<f64>] = &[Some(1.5), Some(1.5), Some(1.5)];
const STATED: &[Option<f64>] = &[None, None, None];

impl Section {
    pub(crate) const ALL: &[Self] = &[
        Self {
            name: "tcp",
            link: Link::Tcp,
            place: Place::Beside,
            sizes: &[(4 << 10, 24 << 20), (64 << 10, 96 << 20), (1 << 20, 96 << 20)],
            pairs: &[
                pair(Contender::COPY, Contender::COPY_BY_HAND, BY_HAND),
                pair(Contender::COPY, Contender::WRITE_ALL, AS_GOOD),
                pair(Contender::ZEROCOPY, Contender::ZEROCOPY_BY_HAND, BY_HAND),
                pair(Contender::IO_URING, Contender::IO_URING_BY_HAND, BY_HAND_LARGE),
                pair(Contender::SPLICE, Contender::SPLICE_BY_HAND, BY_HAND_LARGE),
                pair(Contender::SENDFILE, Contender::SENDFILE_BY_HAND, BY_HAND_LARGE),
                pair(Contender::GIFT, Contender::GIFT_BY_HAND, BY_HAND_LARGE),
            ],
        },
        Self {
            name: "unix",
            link: Link::Unix,
            place: Place::Apart,
            sizes: &[(64 << 10, 128 << 20), (256 << 10, 128 << 20), (1 << 20, 128 << 20)],
            pairs: &[
                pair(Contender::SPLICE, Contender::WRITE_ALL_WALKED, FASTER),
                pair(Contender::SPLICE_BLOCK, Contender::WRITE_ALL_BLOCK, FASTER),
                pair(Contender::SPLICE_LEASE, Contender::WRITE_ALL_LEASE, FASTER),
                pair(Contender::SPLICE_IN_PLACE, Contender::WRITE_ALL_RING, FASTER),
                pair(Contender::SPLICE_IN_PLACE, Contender::WRITE_ALL_WRITTEN, FASTER),
                pair(Contender::SPLICE_FRESH, Contender::WRITE_ALL_RING, STATED),
                pair(Contender::SPLICE_FRESH, Contender::WRITE_ALL_WRITTEN, STATED),
                pair(Contender::SPLICE, Contender::SPLICE_BY_HAND, BY_HAND_UNIX),
                pair(Contender::SENDFILE, Contender::SENDFILE_BY_HAND, BY_HAND_UNIX),
                pair(Contender::COPY, Contender::WRITE_ALL, AS_GOOD),
            ],
        },
        Self {
            name: "memlock",
            link: Link::TcpWithoutMemlock,
            place: Place::Beside,
            sizes: &[(16 << 10, 64 << 20), (64 << 10, 96 << 20), (1 << 20, 96 << 20)],
            // 16 KiB are within the limit, and go by zero-copy: what that costs on loopback is no aim.
            pairs: &[pair(Contender::ZEROCOPY, Contender::COPY, &[None, Some(0.95), Some(0.95)])],
        },
    ];

    pub(crate) fn print(&self, run: &Run<'_>) -> io::Result<()> {
        if self.link == Link::TcpWithoutMemlock && !lose_privileges(self.name)? {
            return Ok(());
        }
        match self.link {
            Link::Tcp => print!("loopback TCP, congestion control {}", congestion()),
            Link::Unix => print!("AF_UNIX"),
            Link::TcpWithoutMemlock => {
                print!("loopback TCP, congestion control {}, RLIMIT_MEMLOCK 64 KiB", congestion())
            }
        }
        let how = match self.place {
            Place::Beside if !run.apart => "sender and reader take turns on one processor",
            _ => "sender and reader on a processor each",
        };
        println!(", {} rounds, {how}", run.rounds);
        println!(
            "{:<56} {:>8} {:>6} {:>6} {:>6} {:>5}  GB/s",
            "throughput ratio", "bytes", "q1", "median", "q3", "aim"
        );
        for (cell, (chunk, total)) in self.sizes.iter().enumerate() {
            if run.size.is_none_or(|size| size == *chunk) {
                self.print_cell(cell, *chunk, if run.measuring { *total } else { *total / 16 }, run)?;
            }
        }
        Ok(())
    }

    fn print_cell(&self, cell: usize, chunk: usize, total: u64, run: &Run<'_>) -> io::Result<()> {
        let mut contenders: Vec<Contender> = Vec::new();
        for contender in self.pairs.iter().flat_map(|pair| [pair.ours, pair.theirs]) {
            let asked = run.only.is_none_or(|only| only.split(',').any(|name| name == contender.name));
            if asked && contender.is_built() && !contenders.contains(&contender) {
                contenders.push(contender);
            }
        }
        let mut stores: Vec<(Memory, Store)> = Vec::new();
        let mut seconds = vec![Vec::new(); contenders.len()];
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        let mut chance = Chance::new();
        let place = if run.apart { Place::Apart } else { self.place };
        for _ in 0..run.rounds {
            chance.shuffle(&mut order);
            for &index in &order {
                let contender = contenders[index];
                let store = match stores.iter().position(|(memory, _)| *memory == contender.memory) {
                    Some(known) => &mut stores[known].1,
                    None => {
                        stores.push((contender.memory, Store::open(contender.memory, chunk)?));
                        let last = stores.len() - 1;
                        &mut stores[last].1
                    }
                };
                let ends = if self.link == Link::Unix { ends::unix(place)? } else { ends::tcp(place)? };
                seconds[index].push(contender.run(ends, store, total)?.as_secs_f64());
            }
        }
        let of = |contender: Contender| contenders.iter().position(|c| *c == contender).map(|index| &seconds[index]);
        for Pair { ours, theirs, aims } in self.pairs {
            let (Some(our), Some(their)) = (of(*ours), of(*theirs)) else { continue };
            let [q1, median, q3] = quartiles(our.iter().zip(their).map(|(our, their)| their / our).collect());
            let rate = |seconds: &[f64]| total as f64 / quartiles(seconds.to_vec())[1] / 1e9;
            println!(
                "{:<56} {chunk:>8} {q1:>6.3} {median:>6.3} {q3:>6.3} {:>5}  {:.2} / {:.2}{}",
                format!("{} / {}", ours.name, theirs.name),
                aims[cell].map_or("-".into(), |aim| format!("{aim:.2}")),
                rate(our),
                rate(their),
                if aims[cell].is_some_and(|aim| median < aim) { "  below the aim" } else { "" },
            );
        }
        Ok(())
    }
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[values.len() * quarter / 4])
}

/// True in a child process without privileges, which this starts, and whose end it waits for, if it is not it.
fn lose_privileges(section: &str) -> io::Result<bool> {
    if !geteuid().is_root() {
        let limit = Rlimit { current: Some(64 << 10), maximum: Some(64 << 10) };
        setrlimit(Resource::Memlock, limit)?;
        return Ok(true);
    }
    // By way of /proc, for that user may not be permitted to walk the path to this binary.
    let mut command = Command::new("/proc/self/exe");
    command.args(env::args_os().skip(1).filter(|a| Section::ALL.iter().all(|s| a != s.name))).arg(section);
    let status = command.uid(65534).gid(65534).current_dir("/").status()?;
    if status.success() { Ok(false) } else { Err(io::Error::other(format!("the unprivileged child: {status}"))) }
}
