//! TLS 1.2 in the sender's kernel, and a receiver that decrypts by itself: the keys are known, so there is no handshake.

use std::{
    io::{self, Read},
    net::TcpStream,
    os::fd::AsRawFd as _,
};

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

const KEY: [u8; 16] = *b"a key of sixteen";
const SALT: [u8; 4] = *b"salt";
const FIRST_NONCE: [u8; 8] = [0; 8];

const HEADER: usize = 5;
const NONCE: usize = 8;
const TAG: usize = 16;
const APPLICATION_DATA: u8 = 23;

fn set<T>(socket: &TcpStream, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of_val(value) as libc::socklen_t;
    #[expect(unsafe_code, reason = "no safe wrapper sets kernel TLS up")]
    // SAFETY: the fd is open for the call, and pointer and length describe `value`, which is plain data.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const *value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// From now on the kernel encrypts what is sent. `NotFound`: it has no TLS.
pub(crate) fn encrypt(socket: &TcpStream) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")?;
    let keys = libc::tls12_crypto_info_aes_gcm_128 {
        info: libc::tls_crypto_info { version: libc::TLS_1_2_VERSION, cipher_type: libc::TLS_CIPHER_AES_GCM_128 },
        iv: FIRST_NONCE,
        key: KEY,
        salt: SALT,
        rec_seq: [0; 8],
    };
    set(socket, libc::SOL_TLS, libc::TLS_TX, &keys)
}

/// The plain text of a stream of records.
pub(crate) struct Decrypting<S> {
    stream: S,
    key: LessSafeKey,
    sequence: u64,
    plain: Vec<u8>,
    /// So much of it was read.
    read: usize,
}

impl<S: Read> Decrypting<S> {
    pub(crate) fn new(stream: S) -> io::Result<Self> {
        let key = UnboundKey::new(&AES_128_GCM, &KEY).map_err(|_unspecified| io::ErrorKind::InvalidInput)?;
        Ok(Self { stream, key: LessSafeKey::new(key), sequence: 0, plain: Vec::new(), read: 0 })
    }

    /// Reads and decrypts the next record. `false` at the end of the stream.
    fn next_record(&mut self) -> io::Result<bool> {
        let mut header = [0; HEADER];
        if self.stream.read(&mut header[..1])? == 0 {
            return Ok(false);
        }
        self.stream.read_exact(&mut header[1..])?;
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let mut record = vec![0; length];
        self.stream.read_exact(&mut record)?;
        let text = length.checked_sub(NONCE + TAG).ok_or(io::ErrorKind::InvalidData)?;
        let (explicit, sealed) = record.split_at_mut(NONCE);
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&SALT);
        nonce[4..].copy_from_slice(explicit);
        let mut about = [0; 13];
        about[..8].copy_from_slice(&self.sequence.to_be_bytes());
        about[8..11].copy_from_slice(&header[..3]);
        about[11..].copy_from_slice(&(text as u16).to_be_bytes());
        let opened = self.key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(about), sealed);
        let plain =
            opened.map_err(|_unspecified| io::Error::new(io::ErrorKind::InvalidData, "a record was changed"))?;
        if header[0] != APPLICATION_DATA {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a record of type {}", header[0])));
        }
        self.plain.clear();
        self.plain.extend_from_slice(plain);
        self.read = 0;
        self.sequence += 1;
        Ok(true)
    }
}

impl<S: Read> Read for Decrypting<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.plain.len() {
            if !self.next_record()? {
                return Ok(0);
            }
        }
        let bytes = (&self.plain[self.read..]).read(buffer)?;
        self.read += bytes;
        Ok(bytes)
    }
}
