//! A client that asks on all its connections, then reads all answers: cheap enough that the server decides the result.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
};

use crate::server::Address;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

pub(crate) struct Client {
    connections: Vec<Box<dyn Stream>>,
    request: Vec<u8>,
    /// Bytes of one answer, head and all: they are the same each time.
    answer: usize,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects so many times, and checks that the body is `expected` on each, if that is given.
    pub(crate) fn connect(
        server: &Address,
        connections: usize,
        path: &str,
        expected: Option<&[u8]>,
    ) -> io::Result<Self> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes();
        let connections: io::Result<Vec<Box<dyn Stream>>> = (0..connections)
            .map(|_| {
                Ok(match server {
                    Address::Tcp(address) => {
                        let socket = TcpStream::connect(address)?;
                        socket.set_nodelay(true)?;
                        Box::new(socket) as Box<dyn Stream>
                    }
                    Address::Unix(path) => Box::new(UnixStream::connect(path)?),
                })
            })
            .collect();
        let mut client = Self { connections: connections?, request, answer: 0, buffer: vec![0; 256 << 10] };
        for connection in &mut client.connections {
            connection.write_all(&client.request)?;
            let (head, body) = answer(connection)?;
            if !head.starts_with(b"HTTP/1.1 200") || expected.is_some_and(|expected| body != expected) {
                return Err(io::Error::other(format!("a wrong answer to {path}")));
            }
            client.answer = head.len() + body.len();
        }
        Ok(client)
    }

    /// So many answers on each connection. Returns their bytes.
    pub(crate) fn run(&mut self, times: usize) -> io::Result<u64> {
        for _ in 0..times {
            for connection in &mut self.connections {
                connection.write_all(&self.request)?;
            }
            for connection in &mut self.connections {
                let mut left = self.answer;
                while left > 0 {
                    let room = left.min(self.buffer.len());
                    match connection.read(&mut self.buffer[..room])? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        read => left -= read,
                    }
                }
            }
        }
        Ok((times * self.connections.len() * self.answer) as u64)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }
}

/// Head and body, which has a length.
fn answer(connection: &mut Box<dyn Stream>) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    connection.read_exact(&mut body)?;
    Ok((head, body))
}
