//! Streams a file over a real connection out of a ring buffer, through a sink that chooses its own mechanism, and
//! verifies every byte.
//!
//! ```text
//! cargo run --release --example quickstart [-- PATH] [--total 1GiB] [--ring 8MiB] [--chunk 64KiB] [--mechanism NAME]
//!     [--reuse in-place|fresh-pages|immutable] [--trust-peer-acks] [--peer-copies] [--unix]
//!     [--listen ADDR | --connect ADDR] [--json]
//! ```
//!
//! Without arguments it sends its own executable again and again over loopback, until 1 GiB has gone. The receiver is a
//! plain `std` socket on a thread of its own: it hashes what arrives (SHA-256) and sends the digest back.
//!
//! Exit status: 0 if the digests match, 1 if they do not or something failed, 2 if a mechanism, a reuse or an argument
//! is refused.
//!
//! `--json` prints one object. Its fields are stable:
//!
//! | field | meaning |
//! |---|---|
//! | `mechanism` | the mechanism that took the most bytes |
//! | `path` | `off-host`, `same-host` or `unknown` |
//! | `bytes` | bytes accepted |
//! | `seconds` | from the first byte read to the receiver's digest |
//! | `bytes_zero_copy`, `bytes_copied` | `bytes`, by how they were accepted |
//! | `copied_by` | `bytes_copied` by reason |
//! | `refused` | each mechanism that was not used, and why |
//! | `notified`, `notified_copied` | releases that the kernel notified, and how many of them it had copied on delivery |
//! | `ring_capacity`, `ring_high_water` | bytes |
//! | `longest_pin_ms` | the longest that a send was in custody |
//! | `sha256`, `sha256_match` | the sender's digest; whether the receiver's is the same |

mod arguments;
mod receiver;
mod report;
mod sender;

use std::process::ExitCode;

use clap::Parser as _;

use self::arguments::{Arguments, Endpoint};

/// Something was refused: exit status 2.
#[derive(Debug)]
struct Refused(String);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("quickstart: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            if error.is::<Refused>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// True if what arrived is what was sent.
fn run(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    if let Endpoint::Listen(address) = arguments.endpoint() {
        return Ok(receiver::serve_one(address)?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let report = runtime.block_on(sender::run(arguments))?;
    if arguments.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    Ok(report.sha256_match)
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}
