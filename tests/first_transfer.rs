//! The smallest whole: `ZeroCopySink::auto(socket).await?`, bytes out, a stranger reads them.

use std::{io::Read as _, net::TcpListener, thread};

use bytes::Bytes;
use zerosink::prelude::*;

#[tokio::test]
async fn auto_compiles_as_written_and_delivers() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let reader = thread::spawn(move || {
        let mut received = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received
    });
    let socket = tokio::net::TcpStream::connect(address).await?;
    let mut sink = ZeroCopySink::auto(socket).await?;
    let block: Bytes = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
    sink.send(block.clone()).await?;
    sink.close().await?;
    let end = sink.position().accepted;
    sink.released(end).await.map_err(std::io::Error::other)?;
    assert_eq!(sink.position().released, 1 << 20);
    drop(sink);
    assert!(reader.join().unwrap() == block);
    Ok(())
}
