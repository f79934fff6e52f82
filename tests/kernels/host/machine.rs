//! A guest: an emulated machine with a kernel, an initial file system and network cards, and what it said.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use zerosink_kernels::{Record, process::wait, topology::card_address};

use crate::{debian::Unpacked, tool::run};

/// Two TAP devices on a bridge, in a network namespace that ends with the emulator. They need not reach anybody else.
const WIRE: &str = "ip link add wire type bridge && ip link set wire up && \
                    for tap in tap1 tap2; do ip tuntap add $tap mode tap vnet_hdr && ip link set $tap master wire up; done && \
                    exec \"$0\" \"$@\"";

/// Pairs of cards on a hub of the emulator's: the driver, and the pair's number.
const ON_A_HUB: [(&str, u8); 2] = [("virtio-net-pci", 1), ("vmxnet3", 5)];
/// The pair on the two TAP devices.
const ON_TAPS: u8 = 2;

/// In older ones a processor may run what another has overwritten in the kernel's code meanwhile, of which a guest dies now and then (`Oops: int3`).
/// Mended by QEMU's commit deba78709a.
const SOUND: (u32, u32) = (8, 1);

/// How a guest ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// Why it did not come to its end, if so.
    pub(crate) broken: Option<String>,
    /// What the kernel and the programs printed.
    pub(crate) console: PathBuf,
    /// From the start of the emulator to its end.
    pub(crate) took: Duration,
}

/// Boots the kernel and waits until the guest has turned itself off, but no longer than `limit`. `log` is a directory for what it prints.
pub(crate) fn boot(kernel: &Unpacked, initrd: &Path, arguments: &str, log: &Path, limit: Duration) -> io::Result<Said> {
    let (console, serial) = (log.join("console"), log.join("results"));
    fs::create_dir_all(log)?;
    for file in [&console, &serial] {
        fs::write(file, "")?;
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", WIRE, "qemu-system-x86_64"]);
    // What emulates the processor in software, with every feature that it knows: there need not be hardware support here.
    command.args("-accel tcg,thread=multi -cpu max -smp 2 -m 1024".split(' '));
    command.args("-nodefaults -no-user-config -no-reboot -display none".split(' '));
    for file in [&console, &serial] {
        command.arg("-serial").arg(format!("file:{}", file.display()));
    }
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initrd);
    // A panic ends the emulator. Nobody attacks it, and what guards against that is slow.
    command.args(["-append", &format!("console=ttyS0 panic=-1 loglevel=5 mitigations=off -- {arguments}")]);
    command.args(cards());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());

    let start = Instant::now();
    let mut emulator = command.spawn().map_err(|error| io::Error::new(error.kind(), format!("unshare: {error}")))?;
    let in_time = wait(&mut emulator, limit)?.is_some();
    let complained = emulator.wait_with_output()?;
    let took = start.elapsed();
    let broken = if !in_time {
        Some(format!("it was not done after {} s", limit.as_secs()))
    } else if !complained.status.success() {
        let said = String::from_utf8_lossy(&complained.stderr);
        Some(format!("the emulator failed, {}: {}", complained.status, said.trim()))
    } else if results(log)?.last().is_none_or(|record| record.kind != "end") {
        Some("it ended without a last word: a panic, or init failed".into())
    } else {
        None
    };
    Ok(Said { broken, console, took })
}

/// The results of the guest that ran last with this directory, in order.
pub(crate) fn results(log: &Path) -> io::Result<Vec<Record>> {
    let results = fs::read(log.join("results"))?;
    let read = |line: &str| line.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
    Ok(String::from_utf8_lossy(&results).lines().map(read).collect())
}

fn cards() -> Vec<String> {
    let mut arguments = Vec::new();
    let mut card = |driver: &str, pair: u8, card: u8, backend: String| {
        let address = card_address(pair, card);
        arguments.extend(["-netdev".into(), format!("{backend},id=net{pair}{card}")]);
        // Without its ROM: nobody boots from it.
        arguments.extend(["-device".into(), format!("{driver},netdev=net{pair}{card},mac={address},romfile=")]);
    };
    for number in [1, 2] {
        for (driver, pair) in ON_A_HUB {
            card(driver, pair, number, format!("hubport,hubid={pair}"));
        }
        let tap = format!("tap,ifname=tap{number},script=no,downscript=no,vhost=off");
        card("virtio-net-pci", ON_TAPS, number, tap);
    }
    arguments
}

/// Why there can be no guest here, or nothing.
///
/// # Errors
///
/// That, for people.
pub(crate) fn missing() -> io::Result<()> {
    let said = run(Command::new("qemu-system-x86_64").arg("--version"))?;
    if version(&said).is_none_or(|version| version < SOUND) {
        let (major, minor) = SOUND;
        println!(
            "guests may die of this emulator now and then, QEMU {major}.{minor} and later are sound: {}",
            said.trim()
        );
    }
    run(Command::new("unshare").args(["--net", "sh", "-c", WIRE, "true"])).map(drop)
}

/// The numbers in `QEMU emulator version 10.0.2 (Debian ...)`.
fn version(said: &str) -> Option<(u32, u32)> {
    let (_, numbers) = said.split_once("version ")?;
    let mut numbers = numbers.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulators_tell_their_version() {
        assert_eq!(version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright"), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 10.0.2\n"), Some((10, 0)));
        assert_eq!(version("no emulator"), None);
    }
}
