//! Programs of the host: what they answer, and what they complain about.

use std::{io, process::Command};

/// Runs a program to its end. What it printed, or an error with the command line and what it complained about.
pub(crate) fn run(command: &mut Command) -> io::Result<String> {
    let output = command.output().map_err(|error| failed(command, &error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(command, &format!("{}: {}", output.status, said.trim())))
}

fn failed(command: &Command, why: &str) -> io::Error {
    let words: Vec<_> =
        [command.get_program()].into_iter().chain(command.get_args()).map(|word| word.to_string_lossy()).collect();
    io::Error::other(format!("{}: {why}", words.join(" ")))
}
