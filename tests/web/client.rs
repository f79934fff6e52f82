//! An HTTP/1.1 client of a few lines on a blocking socket: what it reads is what came.

use std::{
    collections::HashMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use crate::harness::STEP;

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) trailers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(STEP)).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn ask(&mut self, path: &str) {
        self.write(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
    }

    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.ask(path);
        self.reply().unwrap()
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn fields(&mut self) -> io::Result<HashMap<String, String>> {
        let mut fields = HashMap::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(": ") else { return Ok(fields) };
            fields.insert(name.to_ascii_lowercase(), value.to_owned());
        }
    }

    /// The status and the head alone.
    pub(crate) fn head(&mut self) -> io::Result<(u16, HashMap<String, String>)> {
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        Ok((status, self.fields()?))
    }

    /// What a server of a few lines does with a request.
    #[cfg(zerosink_linux)]
    pub(crate) fn skip_request(&mut self) {
        self.line().unwrap();
        self.fields().unwrap();
    }

    fn exactly(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        let mut body = vec![0; bytes];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    /// A whole response: by its length, by chunks, or to the end of the stream.
    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        let (status, headers) = self.head()?;
        let mut reply = Reply { status, headers, trailers: HashMap::new(), body: Vec::new() };
        if let Some(length) = reply.headers.get("content-length") {
            reply.body = self.exactly(length.parse().unwrap())?;
        } else if reply.headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).unwrap();
                if size == 0 {
                    reply.trailers = self.fields()?;
                    break;
                }
                reply.body.extend(self.exactly(size)?);
                assert_eq!(self.line()?, "", "the end of a chunk");
            }
        } else {
            self.stream.read_to_end(&mut reply.body)?;
        }
        Ok(reply)
    }
}
