//! A network namespace that lives as long as somebody is in it or holds it.

use std::{
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    panic,
    process::Command,
    sync::Arc,
    thread,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A handle to a namespace. Sockets and devices that a thread opens inside work on any thread.
#[derive(Debug, Clone)]
pub(crate) struct Namespace(Arc<OwnedFd>);

impl Namespace {
    /// A new namespace with nothing but `lo`, which is up, and without IPv6: its neighbour discovery would be noise on a wire.
    pub(crate) fn create() -> io::Result<Self> {
        let link = on_a_thread(|| {
            #[expect(unsafe_code, reason = "unshare is unsafe for the sake of CLONE_FILES")]
            // SAFETY: the flags are not CLONE_FILES, so every thread goes on seeing all descriptors. This thread ends with
            // the closure; nothing else runs on it.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            fs::File::open("/proc/thread-self/ns/net")
        })?;
        let namespace = Self(Arc::new(link.into()));
        namespace.ip("link set lo up")?;
        match namespace.set("net/ipv6/conf/all/disable_ipv6", "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // Without the file there is no IPv6.
            _ => Ok(namespace),
        }
    }

    /// A namespace that exists, by the name that `/proc` has for it.
    pub(crate) fn at(path: &str) -> io::Result<Self> {
        Ok(Self(Arc::new(fs::File::open(path)?.into())))
    }

    /// Runs `body` on a new thread in this namespace and waits for it. Threads and processes that it starts are in it too.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
            body()
        })
    }

    /// Runs `ip` with these arguments, which are separated by blanks.
    pub(crate) fn ip(&self, arguments: &str) -> io::Result<()> {
        self.command("ip", arguments)
    }

    /// Runs `tc` in the same way.
    pub(crate) fn tc(&self, arguments: &str) -> io::Result<()> {
        self.command("tc", arguments)
    }

    fn command(&self, program: &str, arguments: &str) -> io::Result<()> {
        let output = self.run(|| Command::new(program).args(arguments.split_whitespace()).output());
        let failed = |kind, why: &str| Err(io::Error::new(kind, format!("{program} {arguments}: {why}")));
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => failed(io::ErrorKind::Other, String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => failed(error.kind(), &error.to_string()),
        }
    }

    /// Gives `device` its address in a network of 255 hosts, and takes it up.
    pub(crate) fn bring_up(&self, device: &str, address: Ipv4Addr) -> io::Result<()> {
        self.ip(&format!("addr add {address}/24 dev {device}"))?;
        self.ip(&format!("link set {device} up"))
    }

    /// Sets a sysctl, named by its path below `/proc/sys`. That directory shows the namespace of the thread that opens it.
    pub(crate) fn set(&self, name: &str, value: &str) -> io::Result<()> {
        let written = self.run(|| fs::write(format!("/proc/sys/{name}"), value));
        written.map_err(|error| io::Error::new(error.kind(), format!("{name} = {value}: {error}")))
    }

    /// Reads a sysctl.
    pub(crate) fn get(&self, name: &str) -> io::Result<String> {
        let read = self.run(|| fs::read_to_string(format!("/proc/sys/{name}")))?;
        Ok(read.trim().to_owned())
    }

    /// A counter of TCP, by its name in `/proc/net/snmp` or `/proc/net/netstat`.
    pub(crate) fn tcp_counter(&self, name: &str) -> io::Result<u64> {
        for file in ["snmp", "netstat"] {
            let text = self.run(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")))?;
            // Two lines for each protocol: names, then values.
            let mut lines = text.lines().filter(|line| line.starts_with("Tcp")).map(str::split_whitespace);
            let found = lines
                .next()
                .zip(lines.next())
                .and_then(|(names, values)| names.zip(values).find(|(found, _)| *found == name));
            if let Some(value) = found.and_then(|(_, value)| value.parse().ok()) {
                return Ok(value);
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("no counter {name}")))
    }

    /// Makes TCP fast from the start and the same each time: a connection does not learn from the one before it, and its
    /// window is 16 MiB at once.
    ///
    /// Congestion control is `reno`: every kernel has it, every namespace may use it, and it neither paces nor leaves slow
    /// start before a loss.
    pub(crate) fn tune_tcp(&self) -> io::Result<()> {
        self.set("net/ipv4/tcp_rmem", "4096 33554432 67108864")?;
        self.set("net/ipv4/tcp_wmem", "4096 33554432 67108864")?;
        self.set("net/ipv4/tcp_no_metrics_save", "1")?;
        self.set("net/ipv4/tcp_congestion_control", "reno")
    }

    /// Where another process finds this namespace.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// A thread has its own network namespace, and one that has moved does not come back.
fn on_a_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|payload| panic::resume_unwind(payload))
}
