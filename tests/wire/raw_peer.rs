//! A TCP peer without a kernel: it reads and writes frames, and need not keep the rules.
//!
//! It is host and wire in one, so what it has not read waits in the device of the other side: sent, as that kernel sees it,
//! and still in the sender's memory. For that the device must have checksum offload.

use std::{
    io,
    net::{Ipv4Addr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use etherparse::{
    ArpOperation, ArpPacket, NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice,
};

use super::{
    namespace::Namespace,
    network::Network,
    tap::{Offloads, Tap},
};

/// The far end of one connection.
#[derive(Debug)]
pub(crate) struct RawPeer {
    namespace: Namespace,
    tap: Tap,
    /// Of the kernel's end.
    mac: [u8; 6],
    port: u16,
    /// The sequence number of the kernel's first byte.
    first: u32,
    /// Ours.
    sequence: u32,
    window: usize,
    /// Acknowledged to the kernel, received or not.
    acknowledged: usize,
    /// The kernel may send up to here.
    edge: usize,
    stream: Vec<u8>,
    /// The kernel has sent a FIN.
    finished: bool,
    /// The kernel has sent a RST.
    broken: bool,
}

/// A TCP segment from the kernel.
#[derive(Debug)]
struct Segment {
    mac: [u8; 6],
    header: TcpHeader,
    payload: Vec<u8>,
}

impl RawPeer {
    pub(crate) const ADDRESS: Ipv4Addr = Network::FAR;
    /// The kernel's device.
    pub(crate) const DEVICE: &str = "raw0";
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const PORT: u16 = 7777;
    /// The payload of a frame of 1500 bytes. Its header has no options: the kernel has nothing to acknowledge selectively.
    pub(crate) const SEGMENT: usize = 1460;
    /// Windows are announced in units of `1 << SCALE` bytes.
    const SCALE: u8 = 7;
    /// For anything that the kernel does at once.
    const PATIENCE: Duration = Duration::from_secs(15);

    /// A socket in a new namespace, connected to a new peer with a receive window of so many bytes.
    pub(crate) fn connect(window: usize) -> io::Result<(TcpStream, Self)> {
        Self::connect_by(Offloads::Checksums, window)
    }

    /// The same with a certain device between them.
    pub(crate) fn connect_by(offloads: Offloads, window: usize) -> io::Result<(TcpStream, Self)> {
        let namespace = Namespace::create()?;
        let tap = Tap::open(&namespace, Self::DEVICE, offloads)?;
        namespace.bring_up(Self::DEVICE, Network::NEAR)?;
        namespace.tune_tcp()?;
        let mut peer = Self {
            namespace: namespace.clone(),
            tap,
            mac: [0; 6],
            port: 0,
            first: 0,
            sequence: 1_000_000,
            window,
            acknowledged: 0,
            edge: window,
            stream: Vec::new(),
            finished: false,
            broken: false,
        };
        let socket = thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                namespace.run(|| TcpStream::connect_timeout(&(Self::ADDRESS, Self::PORT).into(), Self::PATIENCE))
            });
            let shaken = peer.shake_hands();
            let socket = connecting.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
            shaken.map(|()| socket)
        })?;
        Ok((socket, peer))
    }

    /// Where the kernel's end is.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn shake_hands(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + Self::PATIENCE;
        loop {
            let Segment { mac, header, .. } = self.next(deadline)?;
            if header.syn {
                (self.mac, self.port) = (mac, header.source_port);
                self.first = header.sequence_number.wrapping_add(1);
                let options = [
                    TcpOptionElement::MaximumSegmentSize(Self::SEGMENT as u16),
                    TcpOptionElement::WindowScale(Self::SCALE),
                    TcpOptionElement::SelectiveAcknowledgementPermitted,
                ];
                // The window of a SYN is not scaled.
                self.send(0, self.window.min(0xffff) as u16, &options, |header| header.syn = true)?;
            } else if header.ack {
                self.sequence = self.sequence.wrapping_add(1);
                return self.acknowledge(0);
            }
        }
    }

    /// Receives one segment as it should. Returns the number of new bytes, which is 0 for a probe.
    pub(crate) fn step(&mut self) -> io::Result<usize> {
        let Segment { header, payload, .. } = self.next(Instant::now() + Self::PATIENCE)?;
        let before = self.stream.len();
        self.broken |= header.rst;
        if self.broken {
            return Ok(0);
        }
        let at = header.sequence_number.wrapping_sub(self.first) as usize;
        // The device keeps the order: what is not next has been here. What is beyond the window is a probe.
        if at == before && before + payload.len() <= self.edge {
            self.stream.extend(payload);
            self.finished |= header.fin;
        }
        self.acknowledge(self.acknowledged.max(self.stream.len()))?;
        Ok(self.stream.len() - before)
    }

    /// Receives as it should until it has so many bytes of the stream, or its end, or a reset. Returns all of the stream so far.
    pub(crate) fn receive(&mut self, bytes: usize) -> io::Result<&[u8]> {
        while self.stream.len() < bytes && !self.finished && !self.broken {
            self.step()?;
        }
        Ok(&self.stream)
    }

    /// Receives what the kernel has sent by now. Returns all of the stream so far.
    pub(crate) fn receive_rest(&mut self) -> io::Result<&[u8]> {
        while self.tap.wait(Duration::ZERO)? {
            self.step()?;
        }
        Ok(&self.stream)
    }

    /// Loses the next frame: takes it, and says nothing. `false` if none comes within this time.
    pub(crate) fn lose(&self, patience: Duration) -> io::Result<bool> {
        Ok(self.tap.wait(patience)? && self.tap.take(&mut vec![0; Tap::FRAME])?.is_some())
    }

    /// True once the kernel has sent a RST that was received.
    pub(crate) fn was_reset(&self) -> bool {
        self.broken
    }

    /// Waits until the kernel has sent something, and does not read it.
    pub(crate) fn wait_unread(&self) -> io::Result<()> {
        if self.tap.wait(Self::PATIENCE)? { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    /// Acknowledges so many bytes of the stream without having read them.
    ///
    /// A kernel takes no acknowledgement for what it has not sent, and it sends no more than its congestion window. So this
    /// goes segment by segment, each time opening that window. What the kernel had not written yet is ignored: say it again.
    pub(crate) fn acknowledge_unread(&mut self, upto: usize) -> io::Result<()> {
        let mut segments = (self.stream.len()..upto).step_by(Self::SEGMENT).skip(1).chain([upto]);
        segments.try_for_each(|bytes| self.acknowledge(bytes))
    }

    /// Tells the kernel the size of the receive window: zero stops it.
    pub(crate) fn open_window(&mut self, bytes: usize) -> io::Result<()> {
        self.window = bytes;
        self.acknowledge(self.acknowledged)
    }

    /// The same, and takes back what it has promised before: what is already on its way is not received.
    pub(crate) fn shrink_window(&mut self, bytes: usize) -> io::Result<()> {
        self.open_window(bytes)?;
        self.edge = self.acknowledged + bytes;
        Ok(())
    }

    /// Says that it has so many bytes of the stream, and does not stand by it.
    pub(crate) fn claim(&self, bytes: usize) -> io::Result<()> {
        self.send(bytes, self.scaled_window(), &[], |_| {})
    }

    /// Says that it has a part of the stream besides what it has acknowledged, and does not stand by it.
    pub(crate) fn claim_part(&self, from: usize, upto: usize) -> io::Result<()> {
        let part = (self.first.wrapping_add(from as u32), self.first.wrapping_add(upto as u32));
        let option = TcpOptionElement::SelectiveAcknowledgement(part, [None; 3]);
        self.send(self.acknowledged, self.scaled_window(), &[option], |_| {})
    }

    /// Ends its own direction of the stream.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.send(self.acknowledged, self.scaled_window(), &[], |header| header.fin = true)?;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }

    /// Aborts the connection.
    pub(crate) fn reset(&self) -> io::Result<()> {
        self.send(self.acknowledged, 0, &[], |header| header.rst = true)
    }

    /// Tries to, as somebody does who guesses the sequence number and is so far from it.
    pub(crate) fn guess_reset(&self, off_by: i32) -> io::Result<()> {
        self.send(self.acknowledged, 0, &[], |header| {
            header.rst = true;
            header.sequence_number = header.sequence_number.wrapping_add_signed(off_by);
        })
    }

    fn acknowledge(&mut self, bytes: usize) -> io::Result<()> {
        // An older one is void: none can be taken back.
        self.acknowledged = self.acknowledged.max(bytes);
        self.edge = self.edge.max(self.acknowledged + self.window);
        self.send(bytes, self.scaled_window(), &[], |_| {})
    }

    fn scaled_window(&self) -> u16 {
        (self.window >> Self::SCALE).min(0xffff) as u16
    }

    /// Sends a segment without payload that acknowledges so many bytes.
    fn send(
        &self,
        acknowledged: usize,
        window: u16,
        options: &[TcpOptionElement],
        flags: impl FnOnce(&mut TcpHeader),
    ) -> io::Result<()> {
        let mut header = TcpHeader::new(Self::PORT, self.port, self.sequence, window);
        header.ack = true;
        let end = acknowledged + usize::from(self.finished);
        header.acknowledgment_number = self.first.wrapping_add(end as u32);
        header.set_options(options).map_err(io::Error::other)?;
        flags(&mut header);
        let builder = PacketBuilder::ethernet2(Self::MAC, self.mac);
        let builder = builder.ipv4(Self::ADDRESS.octets(), Network::NEAR.octets(), 64).tcp_header(header);
        let mut frame = vec![0; self.tap.header()];
        builder.write(&mut frame, &[]).map_err(io::Error::other)?;
        self.tap.put(&frame)
    }

    /// The next segment of the connection. Answers whoever asks for our address meanwhile.
    fn next(&self, deadline: Instant) -> io::Result<Segment> {
        let mut buffer = vec![0; Tap::FRAME];
        loop {
            let Some(bytes) = self.tap.take(&mut buffer)? else {
                if !self.tap.wait(deadline.saturating_duration_since(Instant::now()))? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                continue;
            };
            // What the header leaves to be done is the checksum, and we do not care.
            let frame = &buffer[self.tap.header()..bytes];
            let packet = SlicedPacket::from_ethernet(frame).map_err(io::Error::other)?;
            match (&packet.net, &packet.transport) {
                (Some(NetSlice::Arp(question)), _) => self.answer(question.to_packet())?,
                (_, Some(TransportSlice::Tcp(tcp))) if tcp.destination_port() == Self::PORT => {
                    let mac = frame[6..12].try_into().map_err(io::Error::other)?;
                    return Ok(Segment { mac, header: tcp.to_header(), payload: tcp.payload().to_vec() });
                }
                _ => {}
            }
        }
    }

    fn answer(&self, question: ArpPacket) -> io::Result<()> {
        let question = question.try_eth_ipv4().map_err(io::Error::other)?;
        if question.operation != ArpOperation::REQUEST || question.target_ipv4 != Self::ADDRESS.octets() {
            return Ok(());
        }
        let mut answer = question.clone();
        answer.operation = ArpOperation::REPLY;
        (answer.sender_mac, answer.sender_ipv4) = (Self::MAC, Self::ADDRESS.octets());
        (answer.target_mac, answer.target_ipv4) = (question.sender_mac, question.sender_ipv4);
        let mut frame = vec![0; self.tap.header()];
        let builder = PacketBuilder::ethernet2(Self::MAC, question.sender_mac);
        builder.arp(answer.into()).write(&mut frame).map_err(io::Error::other)?;
        self.tap.put(&frame)
    }
}
