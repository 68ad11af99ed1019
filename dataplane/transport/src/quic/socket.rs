//! The sockets beneath QUIC.

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The most bytes that the kernel takes in one segmented send: the largest UDP payload over IPv4.
const LARGEST_SEND: usize = 65_507;
/// The most packets of one segmented send (the kernel's `UDP_MAX_SEGMENTS`).
const MAX_SEGMENTS: usize = 64;

/// Binds `count` sockets to one address. With more than one, the kernel spreads peers over them.
pub(super) fn bind(address: SocketAddr, count: usize, buffer: usize) -> io::Result<Vec<UdpSocket>> {
    let mut address = address;
    if count > 1 && address.port() != 0 {
        // Checked without sharing first: SO_REUSEPORT would let another process of this user share the port by mistake.
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
    // Past the system's limit where this process may, else up to it. Errors are ignored: small buffers only cost speed.
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, buffer)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, buffer));
    let _ = sockopt::set_socket_send_buffer_size_force(&socket, buffer)
        .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, buffer));
    rustix::net::bind(&socket, &address)?;
    Ok(socket.into())
}

/// A socket that splits sends which the kernel would refuse. quinn sends ten packets at once; large packets exceed
/// [`LARGEST_SEND`], and the kernel would drop them all.
#[derive(Debug)]
pub(super) struct Socket {
    inner: Arc<dyn AsyncUdpSocket>,
}

impl Socket {
    /// To be called within the runtime that will use it.
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
            // If the socket is full in the middle, quinn sends all of it again later, and QUIC drops the duplicates.
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

    /// One: each buffer has the size of the largest packet already, and coalesced packets are not larger.
    fn max_receive_segments(&self) -> usize {
        1
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
