//! Head and body leave together: by one call if the body is small, in one packet if they are two calls.
#![cfg(zerosink_linux)]

use std::{
    io::Write as _,
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::Arc,
};

use zerosink::SinkConfig;

use crate::{
    app::Order,
    client::Client,
    counting::CountingListener,
    endings::cases,
    harness::{self, within},
    server::Way,
    support::poisoned_ring,
};

const ROUNDS: u32 = 10;

/// Segments with data that a socket has received (`tcpi_data_segs_in`, Linux 4.6).
fn segments_in(socket: &TcpStream) -> u32 {
    /// Where it is in `struct tcp_info`.
    const OFFSET: usize = 152;
    let mut info = [0u8; OFFSET + 4];
    let mut length = info.len() as libc::socklen_t;
    #[expect(unsafe_code, reason = "rustix has no TCP_INFO")]
    // SAFETY: the fd is open for the call, and pointer and length describe `info`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!((result, length as usize), (0, info.len()));
    u32::from_ne_bytes(info[OFFSET..].try_into().unwrap())
}

/// Asks again and again on one connection, and counts the segments of the answers.
fn segments_of(client: &mut Client, order: Order) -> u32 {
    let before = segments_in(client.stream.get_ref());
    for _ in 0..ROUNDS {
        order.check(&client.get(&order.path()).body);
    }
    segments_in(client.stream.get_ref()) - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_is_no_packet_of_its_own() {
    let order = Order::of(8 << 10);
    for way in Way::ALL {
        for (config, ring) in cases() {
            let what = format!("{way:?} {:?}", config.mechanism);
            let listener = CountingListener::bind().await;
            let address = listener.address();
            let server = way.serve(listener, config, ring);
            let client = tokio::task::spawn_blocking(move || segments_of(&mut Client::connect(address), order));
            assert_eq!(within("the client", client).await.unwrap(), ROUNDS, "{what}");
            server.abort();
        }
    }
}

#[test]
fn control_a_head_that_is_written_by_itself_is_a_packet_of_its_own() {
    let order = Order::of(8 << 10);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_nodelay(true).unwrap();
        let mut requests = Client { stream: std::io::BufReader::new(socket.try_clone().unwrap()) };
        let mut body = vec![0; order.bytes];
        crate::support::pattern::fill(0, &mut body);
        for _ in 0..ROUNDS {
            // A request has the shape of a head: a line and fields.
            requests.skip_request();
            socket.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", order.bytes).as_bytes()).unwrap();
            socket.write_all(&body).unwrap();
        }
    });
    let segments = segments_of(&mut Client::connect(address), order);
    assert_eq!(segments, 2 * ROUNDS);
    server.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_ring_body_costs_one_call() {
    let ring = poisoned_ring(1 << 20);
    for way in Way::ALL {
        for chunked in [false, true] {
            let order = Order::of(4 << 10).chunked(chunked);
            let listener = CountingListener::bind().await;
            let (address, counts) = (listener.address(), Arc::clone(&listener.counts));
            let server = way.serve(listener, SinkConfig::new().copy_threshold(16 << 10), ring.clone());
            let client =
                tokio::task::spawn_blocking(move || order.check(&Client::connect(address).get(&order.path()).body));
            within("the client", client).await.unwrap();
            harness::until("the end of the connection", || counts.stats().len() == 1).await;
            let [stats] = &counts.stats()[..] else { panic!("one connection") };
            // What comes in a frame of its own leaves when it is there: the end of the chunks.
            let calls = if chunked { 2 } else { 1 };
            assert!(stats.sends_copied <= calls, "{way:?} {order:?}: {stats:?}");
            assert_eq!(counts.owned(), 4 << 10, "{way:?}: it was offered with custody all the same");
            server.abort();
        }
    }
}
