//! Large bodies: what each mechanism saves.

use std::io;

use zerosink::{Mechanism, Reuse};

use crate::{
    client::Client,
    ends::congestion,
    rounds::{interleave, median},
    server::{Contender, LARGE, Link, content},
};

const CONNECTIONS: usize = 4;

fn contenders(link: Link) -> Vec<Contender> {
    use Mechanism::{Copy, MsgZerocopy, Splice};
    let mut contenders = vec![
        Contender::Plain,
        Contender::AsItIs,
        Contender::Ring(None, Reuse::InPlace),
        Contender::Ring(None, Reuse::FreshPages),
        Contender::Ring(Some(Copy), Reuse::InPlace),
        Contender::Ring(Some(Splice), Reuse::FreshPages),
    ];
    if link == Link::Tcp {
        contenders.push(Contender::Ring(Some(MsgZerocopy), Reuse::InPlace));
        #[cfg(zerosink_uring)]
        contenders.push(Contender::Ring(Some(Mechanism::IoUring), Reuse::InPlace));
    }
    contenders
}

pub(crate) fn print(link: Link, rounds: usize, measuring: bool) -> io::Result<()> {
    match link {
        Link::Tcp => print!("\n1 MiB bodies, loopback TCP ({})", congestion()),
        Link::Unix => print!("\n1 MiB bodies, AF_UNIX"),
    }
    println!(", {CONNECTIONS} connections, {rounds} rounds");
    println!(
        "{:<28} {:>6} {:>12} {:>12} {:>8} {:>11}",
        "", "GB/s", "server ns/KiB", "client ns/KiB", "speed/pl", "server/plain"
    );
    let (contenders, content) = (contenders(link), content());
    let clients: io::Result<Vec<_>> = contenders
        .iter()
        .map(|contender| Client::connect(&contender.start(link)?, CONNECTIONS, "/large", Some(&content)))
        .collect();
    let mut clients = clients?;
    let times = if measuring { 24 } else { 1 };
    let bytes = (times * CONNECTIONS * LARGE) as f64;
    let costs = interleave(&mut clients, rounds, |client| {
        let came = client.run(times)?;
        debug_assert!(came as f64 > bytes, "{} connections", client.connections());
        Ok(())
    })?;
    let per_kib = 1e9 * 1024.0 / bytes;
    for (contender, own) in contenders.iter().zip(&costs) {
        let pairs = || own.iter().zip(&costs[0]);
        println!(
            "{:<28} {:>6.2} {:>12.1} {:>12.1} {:>8.2} {:>11.2}",
            contender.to_string(),
            median(own, |cost| bytes / cost.seconds / 1e9),
            median(own, |cost| cost.server * per_kib),
            median(own, |cost| cost.client * per_kib),
            median(pairs(), |(own, plain)| plain.seconds / own.seconds),
            median(pairs(), |(own, plain)| own.server / plain.server),
        );
    }
    Ok(())
}
