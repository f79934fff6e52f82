//! Clients and proxies that are no part of this project. What they receive is compared byte by byte, or by its digest.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use sha2::{Digest as _, Sha256};
use tokio::{net::TcpListener, task::JoinHandle};
use zerosink::{Mechanism, Ring, SinkConfig};

use crate::{
    app::Order,
    client::Client,
    endings::cases,
    harness::{self, skip, within},
    server::router,
    support::{pattern, poisoned_ring},
};

/// The path to a program, which is somewhere beside the user's own if it is a server.
pub(crate) fn tool(test: &str, name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = places.map(|place| place.join(name)).find(|file| file.is_file());
    if found.is_none() {
        skip(test, &format!("there is no {name}"));
    }
    found
}

/// Standard output of a program that must succeed.
pub(crate) async fn output(mut command: Command) -> Vec<u8> {
    let run = tokio::task::spawn_blocking(move || {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {}: {complaint}", output.status);
        output.stdout
    });
    within("a stranger", run).await.unwrap()
}

pub(crate) fn command(tool: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(tool);
    command.args(arguments);
    command
}

async fn serve(config: SinkConfig, ring: &Ring) -> (SocketAddr, JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (address, tokio::spawn(zerosink::serve(listener, router(ring.clone())).sink(config).into_future()))
}

const BODY: Order = Order::of(3 << 20).in_frames(64 << 10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_gets_every_byte_by_both_versions() {
    let Some(curl) = tool("curl", "curl") else { return };
    for (config, ring) in cases() {
        let (address, server) = serve(config, &ring).await;
        for order in [BODY, BODY.chunked(true), Order::of(0), Order::of(4096)] {
            let url = format!("http://{address}{}", order.path());
            for version in ["--http1.1", "--http2-prior-knowledge"] {
                order.check(&output(command(&curl, &["-sS", version, &url])).await);
            }
        }
        // As slow as 8 Mbit/s.
        let slow = Order::of(1 << 20);
        let url = format!("http://{address}{}", slow.path());
        slow.check(&output(command(&curl, &["-sS", "--limit-rate", "1M", &url])).await);
        let head = output(command(&curl, &["-sS", "-I", &url])).await;
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: 1048576"), "{head}");
        server.abort();
        harness::until("every lease to come back", || ring.stats().leased == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nghttp_gets_every_byte_and_h2load_all_responses() {
    let (Some(nghttp), Some(h2load)) = (tool("nghttp", "nghttp"), tool("h2load", "h2load")) else { return };
    for (config, ring) in cases() {
        let (address, server) = serve(config, &ring).await;
        let url = format!("http://{address}{}", BODY.path());
        BODY.check(&output(command(&nghttp, &[&url])).await);
        let order = Order::of(50_000);
        let url = format!("http://{address}{}", order.path());
        let said = output(command(&h2load, &["-n400", "-c4", "-m8", &url])).await;
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("400 done, 400 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
        assert!(said.contains(&format!("({}) data", 400 * order.bytes)), "{said}");
        server.abort();
        harness::until("every lease to come back", || ring.stats().leased == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrk_finds_no_error() {
    let Some(wrk) = tool("wrk", "wrk") else { return };
    for (config, ring) in cases() {
        let (address, server) = serve(config, &ring).await;
        let order = Order::of(20_000);
        let url = format!("http://{address}{}", order.path());
        let said = output(command(&wrk, &["-t1", "-c8", "-d1s", &url])).await;
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("requests in") && !said.contains("\n  0 requests in"), "{said}");
        assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
        // It goes in mid-response, eight times at once.
        harness::until("every lease to come back", || ring.stats().leased == 0).await;
        server.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_client_gets_the_same_digest_again_and_again() {
    const SCRIPT: &str = "
import hashlib, http.client, sys
connection = http.client.HTTPConnection(sys.argv[1])
for path in sys.argv[2:]:
    connection.request('GET', path)
    print(hashlib.sha256(connection.getresponse().read()).hexdigest())
";
    let Some(python) = tool("python", "python3") else { return };
    let ring = poisoned_ring(1 << 20);
    let (address, server) = serve(SinkConfig::new(), &ring).await;
    let orders = [BODY, Order::of(10), BODY.chunked(true), Order::of(100_000).heap(), BODY];
    let mut python = command(&python, &["-c", SCRIPT, &address.to_string()]);
    python.args(orders.map(Order::path));
    let digests = String::from_utf8(output(python).await).unwrap();
    let expected = orders.map(|order| {
        let mut body = vec![0; order.bytes];
        pattern::fill(0, &mut body);
        Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    });
    assert_eq!(digests.lines().collect::<Vec<_>>(), expected);
    server.abort();
}

/// A proxy that is killed at the end, and its files.
pub(crate) struct Proxy {
    child: Child,
    directory: PathBuf,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir_all(&self.directory).ok();
    }
}

impl Proxy {
    /// Starts it and waits until it accepts connections.
    pub(crate) async fn start(directory: &Path, mut command: Command, front: SocketAddr) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let proxy = Self { child, directory: directory.to_owned() };
        harness::until("the proxy to listen", || std::net::TcpStream::connect(front).is_ok()).await;
        proxy
    }
}

pub(crate) fn directory(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("zerosink-{name}-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// A port that nobody has now.
pub(crate) fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Serves on TCP and on `AF_UNIX`, `at` being the path of the latter.
async fn serve_both(config: SinkConfig, ring: &Ring, at: &Path) -> (SocketAddr, [JoinHandle<std::io::Result<()>>; 2]) {
    let (address, tcp) = serve(config.clone(), ring).await;
    let listener = tokio::net::UnixListener::bind(at).unwrap();
    let unix = tokio::spawn(zerosink::serve(listener, router(ring.clone())).sink(config).into_future());
    (address, [tcp, unix])
}

/// What a proxy can be put in front of: on `AF_UNIX` there are fewer mechanisms.
fn backends() -> Vec<(SinkConfig, Ring)> {
    let everywhere = |mechanism| matches!(mechanism, None | Some(Mechanism::Copy | Mechanism::Splice));
    let mut cases: Vec<_> = cases().into_iter().filter(|(config, _)| everywhere(config.mechanism)).collect();
    cases.push((SinkConfig::new(), poisoned_ring(1 << 20)));
    cases
}

/// Responses through the proxy by each of its two ways to us.
async fn check_through(front: SocketAddr) {
    let clients: Vec<_> = ["tcp", "unix"]
        .into_iter()
        .map(|way| {
            tokio::task::spawn_blocking(move || {
                let mut client = Client::connect(front);
                for order in [BODY, Order::of(100), BODY.chunked(true), Order::of(100_000).heap(), BODY] {
                    client.write(format!("GET {} HTTP/1.1\r\nhost: {way}\r\n\r\n", order.path()));
                    let reply = client.reply().unwrap();
                    assert_eq!(reply.status, 200, "{way}");
                    order.check(&reply.body);
                }
            })
        })
        .collect();
    for client in clients {
        within("a client of the proxy", client).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_nginx_which_copies() {
    let Some(nginx) = tool("nginx", "nginx") else { return };
    for (config, ring) in backends() {
        let (directory, front) = (directory("nginx"), free_port());
        let (tcp, servers) = serve_both(config, &ring, &directory.join("unix")).await;
        let here = directory.display();
        let settings = format!(
            "daemon off; master_process off; pid {here}/pid; error_log {here}/error.log; events {{}}
            http {{
                access_log off; proxy_max_temp_file_size 0; proxy_http_version 1.1; proxy_set_header Connection '';
                proxy_temp_path {here}/p; client_body_temp_path {here}/c; fastcgi_temp_path {here}/f;
                uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;
                upstream tcp {{ server {tcp}; keepalive 2; }}
                upstream unix {{ server unix:{here}/unix; keepalive 2; }}
                server {{ listen {front}; server_name tcp; location / {{ proxy_pass http://tcp; }} }}
                server {{ listen {front}; server_name unix; location / {{ proxy_pass http://unix; }} }}
            }}"
        );
        let file = directory.join("nginx.conf");
        fs::write(&file, settings).unwrap();
        let error_log = directory.join("error.log");
        let nginx = command(&nginx, &["-e", error_log.to_str().unwrap(), "-c", file.to_str().unwrap()]);
        let proxy = Proxy::start(&directory, nginx, front).await;
        check_through(front).await;
        drop(proxy);
        servers.iter().for_each(JoinHandle::abort);
        harness::until("every lease to come back", || ring.stats().leased == 0).await;
    }
}

/// It moves responses from socket to socket by `splice(2)`, and so keeps our pages, if it gets pages: `strace` bears witness that it
/// splices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_haproxy_which_splices() {
    let (Some(haproxy), Some(strace)) = (tool("haproxy", "haproxy"), tool("haproxy", "strace")) else { return };
    for (config, ring) in backends() {
        let (directory, front) = (directory("haproxy"), free_port());
        let (tcp, servers) = serve_both(config, &ring, &directory.join("unix")).await;
        let here = directory.display();
        let settings = format!(
            "global
    maxconn 64
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 15s
    timeout server 15s
    option splice-response
frontend front
    bind {front}
    use_backend unix if {{ hdr(host) -i unix }}
    default_backend tcp
backend tcp
    server tcp {tcp}
backend unix
    server unix unix@{here}/unix
"
        );
        let (file, trace) = (directory.join("haproxy.cfg"), directory.join("trace"));
        fs::write(&file, settings).unwrap();
        let (trace, file) = (trace.to_str().unwrap(), file.to_str().unwrap());
        let mut command = command(&strace, &["-D", "-f", "-qq", "-e", "trace=splice", "-o", trace]);
        command.arg(&haproxy).args(["-db", "-f", file]).stderr(Stdio::null());
        let proxy = Proxy::start(&directory, command, front).await;
        check_through(front).await;
        let splices = fs::read_to_string(trace).unwrap().lines().filter(|line| line.contains("splice(")).count();
        assert!(splices > 10, "haproxy made {splices} splices");
        drop(proxy);
        servers.iter().for_each(JoinHandle::abort);
        harness::until("every lease to come back", || ring.stats().leased == 0).await;
    }
}
