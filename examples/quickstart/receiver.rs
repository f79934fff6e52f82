//! The other end: a plain `std` socket that knows nothing of zerosink.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener},
};

use sha2::{Digest as _, Sha256};

/// Bytes of the answer: a SHA-256 digest.
pub(crate) const ANSWER: usize = 32;

/// Reads to end of file, hashing, and sends the digest back. Returns the number of bytes and the digest.
pub(crate) fn hash_and_answer(mut stream: impl Read + Write) -> io::Result<(u64, [u8; ANSWER])> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let digest: [u8; ANSWER] = hasher.finalize().into();
    stream.write_all(&digest)?;
    Ok((bytes, digest))
}

/// Receives from one sender in another process. The verdict is the sender's.
pub(crate) fn serve_one(address: SocketAddr) -> io::Result<bool> {
    let listener = TcpListener::bind(address)?;
    eprintln!("waiting for a sender at {}", listener.local_addr()?);
    let (stream, peer) = listener.accept()?;
    let (bytes, digest) = hash_and_answer(stream)?;
    println!("{bytes} bytes from {peer}, sha256 {}", crate::report::hex(&digest));
    Ok(true)
}
