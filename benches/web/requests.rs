//! Small bodies: what a connection that could send without a copy costs a service that does not need it.

use std::io;

use zerosink::Reuse;

use crate::{
    client::Client,
    rounds::{interleave, median, quartiles},
    server::{Contender, Link, SMALL, content},
};

const CONNECTIONS: usize = 32;

/// Requests per second, against what does the same without zero-copy.
const AIM: f64 = 0.98;

/// What a contender is measured against: a layer in the router costs what axum takes for any.
const fn base(contender: Contender) -> Contender {
    match contender {
        Contender::AsItIs => Contender::Layered,
        _ => Contender::Plain,
    }
}

/// What all contenders answer with.
struct Cell<'a> {
    name: &'static str,
    path: &'static str,
    /// Checked if it is known.
    body: Option<&'a [u8]>,
    contenders: Vec<Contender>,
}

pub(crate) fn print(rounds: usize, measuring: bool) -> io::Result<()> {
    println!("small bodies, loopback TCP, {CONNECTIONS} connections, {rounds} rounds");
    println!(
        "{:<28} {:>8} {:>10} {:>9} {:>18} {:>18} {:<24} aim",
        "", "body", "requests/s", "CPU us", "requests q1 med q3", "CPU q1 med q3", "  against"
    );
    let content = content();
    let heap = [
        Contender::Plain,
        Contender::Layered,
        Contender::Listener,
        Contender::AsItIs,
        Contender::Around,
        Contender::Serve,
    ];
    let json = Cell { name: "JSON", path: "/json", body: None, contenders: heap.to_vec() };
    let small = Cell {
        name: "4 KiB",
        path: "/small",
        body: Some(&content[..SMALL]),
        contenders: [&heap[..], &[Contender::Ring(None, Reuse::InPlace)]].concat(),
    };
    for Cell { name, path, body, contenders } in [json, small] {
        let clients: io::Result<Vec<_>> = contenders
            .iter()
            .map(|contender| Client::connect(&contender.start(Link::Tcp)?, CONNECTIONS, path, body))
            .collect();
        let mut clients = clients?;
        let times = if measuring { 250 } else { 2 };
        let per_slice = (times * CONNECTIONS) as f64;
        let costs = interleave(&mut clients, rounds, |client| client.run(times).map(drop))?;
        for (contender, own) in contenders.iter().zip(&costs) {
            let base = base(*contender);
            let of_base = contenders.iter().position(|other| *other == base).unwrap_or(0);
            let pairs = || own.iter().zip(&costs[of_base]);
            let requests = quartiles(pairs(), |(own, base)| base.seconds / own.seconds);
            let processor = quartiles(pairs(), |(own, base)| own.server / base.server);
            println!(
                "{:<28} {name:>8} {:>10.0} {:>9.2} {:>6.3} {:.3} {:.3} {:>6.3} {:.3} {:.3}   {:<22} {AIM}{}",
                contender.to_string(),
                median(own, |cost| per_slice / cost.seconds),
                median(own, |cost| cost.server / per_slice * 1e6),
                requests[0],
                requests[1],
                requests[2],
                processor[0],
                processor[1],
                processor[2],
                base.to_string(),
                if requests[1] < AIM { "  missed" } else { "" },
            );
        }
    }
    Ok(())
}
