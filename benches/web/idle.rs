//! Connections that are kept alive and idle: what each costs.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    rounds::median,
    server::{Address, Contender, Link},
};

/// Says that this process is a server to be looked at.
pub(crate) const ROLE: &str = "serve-idle";

const CONTENDERS: [Contender; 3] = [Contender::Plain, Contender::AsItIs, Contender::Serve];

/// More than plain hyper has, in bytes.
const AIM: f64 = 1024.0;

fn all_descriptors() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(())
}

/// The server's process: says its address, and serves until its standard input ends.
pub(crate) fn serve(name: &str) -> io::Result<()> {
    all_descriptors()?;
    let contender = CONTENDERS.into_iter().find(|contender| contender.to_string() == name);
    let contender = contender.ok_or_else(|| io::Error::other(format!("who is {name}?")))?;
    if let Address::Tcp(address) = contender.start(Link::Tcp)? {
        println!("{address}");
    }
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(contender: Contender) -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args([ROLE, &contender.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe)?).read_line(&mut line)?;
        Ok(Self { child, address: line.trim().parse().map_err(io::Error::other)? })
    }

    /// Bytes of the process that are in memory and its own.
    fn memory(&self) -> io::Result<u64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
        let own = rollup.lines().filter(|line| line.starts_with("Private_"));
        Ok(own.filter_map(kib).sum::<u64>() << 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().ok();
    }
}

/// A connection that has been served once.
fn connection(server: SocketAddr) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(server)?;
    // No port is left in TIME_WAIT at the end.
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    socket.write_all(b"GET /json HTTP/1.1\r\nhost: bench\r\n\r\n")?;
    let mut answer = [0; 1024];
    let read = socket.read(&mut answer)?;
    if !answer[..read].starts_with(b"HTTP/1.1 200") {
        return Err(io::Error::other("a wrong answer"));
    }
    Ok(socket)
}

/// Bytes per connection.
fn measure(contender: Contender, connections: usize) -> io::Result<f64> {
    let server = Server::start(contender)?;
    // Whatever is needed once is there.
    let first: io::Result<Vec<_>> = (0..100).map(|_| connection(server.address)).collect();
    let before = server.memory()?;
    let idle: io::Result<Vec<_>> = (0..connections).map(|_| connection(server.address)).collect();
    let after = server.memory()?;
    drop((first?, idle?));
    Ok(after.saturating_sub(before) as f64 / connections as f64)
}

pub(crate) fn print(rounds: usize, connections: usize) -> io::Result<()> {
    all_descriptors()?;
    println!("\n{connections} idle connections after a request each, {rounds} rounds");
    println!("{:<28} {:>20} {:>12}  aim", "", "bytes per connection", "more");
    let mut bytes = [const { Vec::new() }; CONTENDERS.len()];
    for _ in 0..rounds {
        for (contender, bytes) in CONTENDERS.into_iter().zip(&mut bytes) {
            bytes.push(measure(contender, connections)?);
        }
    }
    let plain = median(&bytes[0], |bytes| *bytes);
    for (contender, bytes) in CONTENDERS.into_iter().zip(&bytes) {
        let own = median(bytes, |bytes| *bytes);
        let missed = if own - plain > AIM { "  missed" } else { "" };
        println!("{:<28} {own:>20.0} {:>12.0}  {AIM}{missed}", contender.to_string(), own - plain);
    }
    Ok(())
}
