//! The wire's end in a namespace: an Ethernet device whose other side is a descriptor of this process.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    io::Errno,
};

use super::namespace::Namespace;

/// What the kernel leaves to the device, as it does with real hardware.
///
/// With any of them, a `virtio_net_hdr` stands before each frame, both ways, and says what is still to be done. A frame can
/// go with its header into another device that has the same, unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offloads {
    /// Frames are what a plain wire carries. To compute the checksum the kernel must touch the bytes, and it copies what it
    /// is to send: nothing is zero-copy here.
    None,
    /// No checksum is in the frame yet, so the kernel can point at the sender's memory until the frame is taken.
    Checksums,
    /// Also, a frame may carry 64 KiB, to be cut into segments.
    All,
}

/// A TAP device. It goes away with this value.
#[derive(Debug)]
pub(crate) struct Tap {
    fd: OwnedFd,
    offloads: Offloads,
}

/// `struct ifreq`, as far as `TUNSETIFF` reads it.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    // The union in `struct ifreq` has 24 bytes.
    rest: [u8; 22],
}

impl Tap {
    /// Longer than any frame: a segment of 64 KiB, its Ethernet header, and the header that offloads put before it.
    pub(crate) const FRAME: usize = (64 << 10) + 64;
    /// `struct virtio_net_hdr`.
    const HEADER: usize = 10;

    /// A new device in `namespace`, down and without an address.
    pub(crate) fn open(namespace: &Namespace, name: &str, offloads: Offloads) -> io::Result<Self> {
        namespace.run(|| {
            let fd = open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
            let mut request = Request { name: [0; _], flags: 0, rest: [0; _] };
            request.name[..name.len()].copy_from_slice(name.as_bytes());
            let flags =
                libc::IFF_TAP | libc::IFF_NO_PI | if offloads == Offloads::None { 0 } else { libc::IFF_VNET_HDR };
            request.flags = flags as libc::c_short;
            #[expect(unsafe_code, reason = "no safe wrapper makes a TAP device")]
            // SAFETY: the fd is open, and TUNSETIFF reads and writes a `struct ifreq`, whose size and layout `request` has.
            let made = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
            if made != 0 {
                return Err(io::Error::last_os_error());
            }
            let what = match offloads {
                Offloads::None => return Ok(Self { fd, offloads }),
                Offloads::Checksums => libc::TUN_F_CSUM,
                Offloads::All => libc::TUN_F_CSUM | libc::TUN_F_TSO4,
            };
            #[expect(unsafe_code, reason = "as above")]
            // SAFETY: the fd is open, and TUNSETOFFLOAD takes its argument by value.
            let set = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(what)) };
            if set == 0 { Ok(Self { fd, offloads }) } else { Err(io::Error::last_os_error()) }
        })
    }

    /// Bytes that stand before each frame. All zeroes: nothing is to be done.
    pub(crate) fn header(&self) -> usize {
        if self.offloads == Offloads::None { 0 } else { Self::HEADER }
    }

    /// Takes the next frame that the kernel has sent, if there is one.
    pub(crate) fn take(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.fd, buffer) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the kernel receive a frame.
    pub(crate) fn put(&self, frame: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.fd, frame)?;
        Ok(())
    }

    /// Waits until there is a frame to take; `false` if none came in time.
    pub(crate) fn wait(&self, patience: std::time::Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
        Ok(poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout))? > 0)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
