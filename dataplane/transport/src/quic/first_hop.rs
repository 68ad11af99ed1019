//! The first hop of the route to a peer, as the kernel knows it before the first packet: the MTU of this machine's device.
//!
//! Without it, the search for the largest packet would begin far above an Ethernet's MTU. Each size that does not get
//! through costs three probes, which quinn sends only when idle: a connection that is busy from its beginning would stay
//! with the smallest packets.

use rustix::net::sockopt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The headers of IPv4 and UDP, in bytes.
const HEADERS_V4: u32 = 20 + 8;
/// The headers of IPv6 and UDP, in bytes.
const HEADERS_V6: u32 = 40 + 8;

/// The first hop of the route to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FirstHop {
    /// The largest payload of a UDP packet, in bytes, that the device takes.
    pub(super) largest_packet: u16,
    /// Whether the peer is on this machine: then there is no other hop.
    pub(super) is_local: bool,
}

impl FirstHop {
    /// Asks the kernel, which sends no packet for it.
    pub(super) fn to(peer: IpAddr) -> io::Result<Self> {
        /// Any port: nothing is sent.
        const PORT: u16 = 9;
        let (own, headers) = match peer {
            IpAddr::V4(_) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), HEADERS_V4),
            IpAddr::V6(_) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), HEADERS_V6),
        };
        let socket = UdpSocket::bind(SocketAddr::new(own, 0))?;
        socket.connect(SocketAddr::new(peer, PORT))?;
        let mtu = if peer.is_ipv4() { sockopt::ip_mtu(&socket)? } else { sockopt::ipv6_mtu(&socket)? };
        Ok(Self {
            largest_packet: u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX),
            is_local: socket.local_addr()?.ip() == peer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_one_hop_away() {
        let hop = FirstHop::to(IpAddr::V4(Ipv4Addr::LOCALHOST)).expect("loopback is up");
        assert!(hop.is_local);
        // Loopback has 65,536 bytes by default.
        assert!(hop.largest_packet >= 1200, "{hop:?}");
    }

    #[test]
    fn a_broadcast_address_has_no_route() {
        FirstHop::to(IpAddr::V4(Ipv4Addr::BROADCAST))
            .expect_err("the kernel wants to be asked for that in another way");
    }
}
