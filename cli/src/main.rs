//! The `zerosink` command: what this host permits, and why.

use clap::{Parser, Subcommand};
use zerosink_backends::probe;

#[derive(Debug, Parser)]
#[command(version, about = "What zero-copy sending this host permits, and why")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Probe every mechanism by doing it, and print the answers.
    Doctor,
}

fn main() {
    let Command::Doctor = Arguments::parse().command;
    print!("{}", probe::host());
}
