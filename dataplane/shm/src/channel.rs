//! One packet and its descriptors over a `SOCK_SEQPACKET` Unix socket.

use dflow_protocol::limits::{MAX_FDS, MAX_MESSAGE};
use rustix::io::{Errno, FdFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

/// The two ends of a new channel; both are closed on exec.
///
/// # Errors
/// If no descriptor is left.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let ends = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for end in [&ends.0, &ends.1] {
        // Room for four of the longest messages. The kernel caps it at net.core.wmem_max, which works, too, with more
        // waiting.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(end, 4 * MAX_MESSAGE);
    }
    Ok(ends)
}

/// Takes the descriptor of a channel that this process was started with, and closes it on exec from now on.
///
/// Call it once for each number, before other descriptors are opened: the result owns the descriptor.
///
/// # Errors
/// [`Errno::BADF`] if there is no such descriptor, or another errno if it is no packet socket.
pub fn inherit(number: i32) -> Result<OwnedFd, Errno> {
    if number < 3 {
        return Err(Errno::BADF);
    }
    // SAFETY: the descriptor was put there by the parent for this program, under this number, and nothing in this
    // process has opened or closed it. If it is not there, the calls below say so and nothing is closed.
    let socket = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    rustix::io::fcntl_setfd(&*socket, FdFlags::CLOEXEC)?;
    if rustix::net::sockopt::socket_type(&*socket)? != SocketType::SEQPACKET {
        return Err(Errno::PROTOTYPE);
    }
    Ok(std::mem::ManuallyDrop::into_inner(socket))
}

/// Sends one packet.
///
/// # Errors
/// [`Errno::AGAIN`] if `wait` is false and the channel is full, [`Errno::PIPE`] if the other end is gone.
pub fn send(socket: BorrowedFd<'_>, packet: &[u8], fds: &[BorrowedFd<'_>], wait: bool) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    let flags = if wait { SendFlags::NOSIGNAL } else { SendFlags::NOSIGNAL | SendFlags::DONTWAIT };
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            other => return other.map(|_| ()),
        }
    }
}

/// Receives one packet into `buffer` (of [`MAX_MESSAGE`] bytes) and gives its length and descriptors; length 0 means
/// that the other end is gone.
///
/// # Errors
/// [`Errno::AGAIN`] if `wait` is false and nothing is there; [`Errno::MSGSIZE`] for a packet that is too long.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], wait: bool) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = if wait { RecvFlags::CMSG_CLOEXEC } else { RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT };
    let received = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags) {
            // A peer that closes with packets unread makes the kernel report this once, *before* what the peer had
            // sent.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE);
    }
    Ok((received.bytes, fds))
}
