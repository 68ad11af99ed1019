//! The sockets beneath QUIC.

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The most bytes that the kernel takes in one call, to be cut into packets: what fits into one UDP packet over IPv4.
const LARGEST_SEND: usize = 65_507;
/// What one of these calls can be cut into at most (the kernel's `UDP_MAX_SEGMENTS`).
const MAX_SEGMENTS: usize = 64;

/// `count` sockets at one address. With more than one, the kernel spreads peers over them.
pub(super) fn bind(address: SocketAddr, count: usize, buffer: usize) -> io::Result<Vec<UdpSocket>> {
    let mut address = address;
    if count > 1 && address.port() != 0 {
        // Sockets that share a port would also share it with another process that does the same by mistake.
        open(address, false, buffer)?;
    }
    let mut sockets: Vec<UdpSocket> = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let socket = open(address, count > 1, buffer)?;
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn open(address: SocketAddr, shared: bool, buffer: usize) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    if shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    // Past the administrator's limit where this process may, else up to it. Smaller buffers cost speed, nothing else.
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, buffer)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, buffer));
    let _ = sockopt::set_socket_send_buffer_size_force(&socket, buffer)
        .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, buffer));
    rustix::net::bind(&socket, &address)?;
    Ok(socket.into())
}

/// A socket whose sends all fit into the kernel. quinn hands out ten packets at once; where packets are large these are
/// more bytes than one call takes, and the kernel would drop all of them.
#[derive(Debug)]
pub(super) struct Socket {
    inner: Arc<dyn AsyncUdpSocket>,
}

impl Socket {
    /// To be called within the runtime whose threads will use it.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        Ok(Self { inner: TokioRuntime.wrap_udp_socket(socket)? })
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(segment) = transmit.segment_size.filter(|_| transmit.contents.len() > LARGEST_SEND) else {
            return self.inner.try_send(transmit);
        };
        let part = segment * (LARGEST_SEND / segment).clamp(1, MAX_SEGMENTS);
        for contents in transmit.contents.chunks(part) {
            // If the socket is full in the middle, all is sent again later: QUIC drops what it gets twice.
            self.inner.try_send(&Transmit {
                destination: transmit.destination,
                ecn: transmit.ecn,
                contents,
                segment_size: (contents.len() > segment).then_some(segment),
                src_ip: transmit.src_ip,
            })?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    /// Each buffer has the size of the largest packet already, and joined packets are not larger.
    fn max_receive_segments(&self) -> usize {
        1
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
