//! One end of the socket between daemon and launcher. It carries messages with descriptors, never blocks and loses
//! nothing.
//!
//! A message that fits travels in one packet. A longer one (a large environment) travels in a memfd, whose descriptor
//! comes first.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::{MAX_DESCRIPTORS, MAX_QUEUED, MAX_REQUEST_BYTES};

/// The longest packet: a message and the byte before it; well below every default of `net.core.wmem_default`.
const MAX_PACKET: usize = 64 << 10;
/// First byte of a packet that is the message itself.
const INLINE: u8 = 0;
/// First byte of a packet whose message is in a memfd.
const IN_MEMFD: u8 = 1;
/// The descriptors of a request and the memfd.
const MAX_PACKET_DESCRIPTORS: usize = MAX_DESCRIPTORS + 1;

/// A non-blocking, connected `SOCK_SEQPACKET` socket with a queue before it.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    queue: VecDeque<Packet>,
    buffer: Box<[u8]>,
}

#[derive(Debug)]
struct Packet {
    /// [`INLINE`] or [`IN_MEMFD`], the first byte of the packet.
    kind: u8,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// The result of [`Channel::receive`].
pub(crate) enum Incoming {
    /// Nothing for now.
    Nothing,
    /// The other end is closed.
    Closed,
    Message {
        bytes: Vec<u8>,
        /// Fewer than were sent if this process's descriptor table is full.
        fds: Vec<OwnedFd>,
    },
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, queue: VecDeque::new(), buffer: vec![0; MAX_PACKET].into() }
    }

    /// The number of messages that wait to be sent.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Whether [`Self::send`] would find no room for a message.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() >= MAX_QUEUED
    }

    /// Sends a message, or queues it until [`Self::flush`].
    pub(crate) fn send(&mut self, message: Vec<u8>, mut fds: Vec<OwnedFd>) -> io::Result<()> {
        let (kind, bytes) = if message.len() < MAX_PACKET {
            (INLINE, message)
        } else {
            let memfd = rustix::fs::memfd_create(c"dflow-launcher-request", MemfdFlags::CLOEXEC)?;
            let file = File::from(memfd);
            file.write_all_at(&message, 0)?;
            fds.insert(0, file.into());
            (IN_MEMFD, Vec::new())
        };
        self.queue.push_back(Packet { kind, bytes, fds });
        self.flush()
    }

    /// Sends queued messages until the socket is full.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(packet) = self.queue.front() {
            match send_packet(self.socket.as_fd(), packet) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    pub(crate) fn receive(&mut self) -> io::Result<Incoming> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PACKET_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let parts = &mut [IoSliceMut::new(&mut self.buffer)];
            match rustix::net::recvmsg(&self.socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Incoming::Nothing),
                // The other end was closed with unread messages of ours.
                Err(Errno::CONNRESET) => return Ok(Incoming::Closed),
                other => break other?,
            }
        };
        let mut fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            })
            .flatten()
            .collect();
        if received.bytes == 0 {
            return Ok(Incoming::Closed);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::Error::other("a packet is longer than the limit"));
        }
        let bytes = match self.buffer[0] {
            INLINE => self.buffer[1..received.bytes].to_vec(),
            _ if fds.is_empty() => {
                return Err(io::Error::other(
                    "the memfd of a long message did not arrive: the limit of open files is reached",
                ));
            }
            _ => read_memfd(fds.remove(0))?,
        };
        Ok(Incoming::Message { bytes, fds })
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn send_packet(socket: BorrowedFd<'_>, packet: &Packet) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PACKET_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = packet.fds.iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::TOOMANYREFS);
    }
    let parts = [IoSlice::new(std::slice::from_ref(&packet.kind)), IoSlice::new(&packet.bytes)];
    rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn read_memfd(memfd: OwnedFd) -> io::Result<Vec<u8>> {
    let file = File::from(memfd);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > MAX_REQUEST_BYTES {
        return Err(io::Error::other("a message is longer than the limit"));
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::io::{Read, Write};

    fn pair() -> (Channel, Channel) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Channel::new(a), Channel::new(b))
    }

    fn receive(channel: &mut Channel) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        match channel.receive().unwrap() {
            Incoming::Nothing => None,
            Incoming::Closed => panic!("closed"),
            Incoming::Message { bytes, fds } => Some((bytes, fds)),
        }
    }

    #[test]
    fn short_and_long_messages_arrive_with_their_descriptors() {
        let (mut a, mut b) = pair();
        for length in [1, MAX_PACKET - 1, MAX_PACKET, 3 << 20] {
            let (reader, mut writer) = io::pipe().unwrap();
            a.send(vec![7; length], vec![reader.into()]).unwrap();
            let (bytes, mut fds) = receive(&mut b).unwrap();
            assert_eq!(bytes, vec![7; length]);
            assert_eq!(fds.len(), 1);
            writer.write_all(b"through").unwrap();
            drop(writer);
            let mut text = String::new();
            File::from(fds.remove(0)).read_to_string(&mut text).unwrap();
            assert_eq!(text, "through");
        }
    }

    #[test]
    fn what_does_not_fit_is_queued_in_order() {
        let (mut a, mut b) = pair();
        for number in 0..200 {
            a.send(vec![number; 20_000], Vec::new()).unwrap();
        }
        assert!(a.queued() > 0, "the socket took everything: the test shows nothing");
        for number in 0..200 {
            let (bytes, _) = loop {
                match receive(&mut b) {
                    Some(message) => break message,
                    None => a.flush().unwrap(),
                }
            };
            assert_eq!(bytes[0], number);
        }
        assert_eq!(a.queued(), 0);
    }

    #[test]
    fn the_largest_number_of_descriptors_arrives() {
        let (mut a, mut b) = pair();
        let null = File::open("/dev/null").unwrap();
        let fds = (0..MAX_DESCRIPTORS).map(|_| null.try_clone().unwrap().into()).collect();
        a.send(vec![1; MAX_PACKET], fds).unwrap();
        assert_eq!(receive(&mut b).unwrap().1.len(), MAX_DESCRIPTORS);
    }

    #[test]
    fn a_closed_end_is_noticed() {
        let (mut a, b) = pair();
        a.send(vec![1], Vec::new()).unwrap();
        drop(b);
        assert!(matches!(a.receive().unwrap(), Incoming::Closed));
        assert!(a.send(vec![1], Vec::new()).is_err());
    }
}
