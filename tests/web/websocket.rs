//! WebSockets: an upgraded connection with framing of its own, both ends of which know nothing of zerosink.

use std::net::{SocketAddr, TcpStream};

use axum::{
    Router,
    extract::ws::{Message as Answer, WebSocket, WebSocketUpgrade},
    response::Response,
    routing::get,
};
use tungstenite::{Message, client};
use zerosink::{SinkConfig, axum::ZeroCopyListenerExt as _};

use crate::{
    counting::CountingListener,
    endings::cases,
    harness::{self, STEP, within},
};

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        // Pings are answered below, and a closing frame as well.
        if matches!(message, Answer::Text(_) | Answer::Binary(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn upgrade(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(echo)
}

/// Text, bytes of every size of length field, a ping, and the closing handshake.
fn talk(server: SocketAddr) {
    let socket = TcpStream::connect(server).unwrap();
    socket.set_read_timeout(Some(STEP)).unwrap();
    let (mut socket, response) = client(format!("ws://{server}/"), socket).unwrap();
    assert_eq!(response.status(), 101);
    for bytes in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        let message = Message::binary(harness::stream(bytes as u64, bytes));
        socket.send(message.clone()).unwrap();
        assert!(socket.read().unwrap() == message, "{bytes} bytes");
    }
    // Several at a time, for each end writes while the other does.
    for number in 0..20 {
        socket.send(Message::text(format!("message {number}"))).unwrap();
    }
    for number in 0..20 {
        assert_eq!(socket.read().unwrap(), Message::text(format!("message {number}")));
    }
    socket.send(Message::Ping("there?".into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong("there?".into()));
    socket.close(None).unwrap();
    let end = loop {
        match socket.read() {
            Ok(message) => assert!(message.is_close(), "{message:?}"),
            Err(end) => break end,
        }
    };
    assert!(matches!(end, tungstenite::Error::ConnectionClosed), "{end}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_socket_echoes_through_an_upgraded_connection() {
    for by_axum in [true, false] {
        for config in [SinkConfig::new()].into_iter().chain(cases().into_iter().map(|(config, _)| config)) {
            let what = format!("axum {by_axum}, {:?}", config.mechanism);
            let app = Router::new().route("/", get(upgrade));
            let listener = CountingListener::bind().await;
            let (address, counts) = (listener.address(), std::sync::Arc::clone(&listener.counts));
            let server = tokio::spawn(async move {
                if by_axum {
                    axum::serve(listener.zero_copy(config), app).await
                } else {
                    zerosink::serve(listener, app).sink(config).await
                }
            });
            within(&what, tokio::task::spawn_blocking(move || talk(address))).await.unwrap();
            harness::until("the end of the connection", || counts.stats().len() == 1).await;
            server.abort();
        }
    }
}
