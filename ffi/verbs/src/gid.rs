//! The addresses of a port (GIDs), and the choice among them: the one on the route to the peer.

use crate::device::Context;
use crate::error::DeviceError;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The UDP port of RoCEv2, used in the route lookup.
const ROCE_PORT: u16 = 4791;

/// An address in an RDMA network: an IPv6 address, or an IPv4 address mapped into one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gid(pub [u8; 16]);

impl Gid {
    /// The GID of an address.
    #[must_use]
    pub fn from_ip(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().octets()),
            IpAddr::V6(address) => Self(address.octets()),
        }
    }

    /// The IP address: IPv4 if the GID is a mapped IPv4 address.
    #[must_use]
    pub fn to_ip(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gid({self})")
    }
}

/// The kind of packets sent from a GID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GidKind {
    /// InfiniBand, or RoCE version 1: Ethernet frames that routers do not forward.
    InfinibandOrRoceV1,
    /// RoCE version 2: UDP packets.
    RoceV2,
}

impl fmt::Display for GidKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InfinibandOrRoceV1 => "IB/RoCEv1",
            Self::RoceV2 => "RoCEv2",
        })
    }
}

/// One entry of a port's GID table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GidEntry {
    /// Its index in the table.
    pub index: u8,
    /// The address.
    pub gid: Gid,
    /// The kind of packets.
    pub kind: GidKind,
    /// The network interface to which it belongs, if any.
    pub interface: Option<String>,
}

impl fmt::Display for GidEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, index {})", self.gid, self.kind, self.index)
    }
}

/// Which GID to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GidChoice {
    /// The entry with this index in the table, of any kind.
    Index(u8),
    /// The first RoCEv2 entry with an IPv4 address, or else the first RoCEv2 entry.
    Any,
    /// The RoCEv2 entry with this local address.
    Local(IpAddr),
    /// The RoCEv2 entry with the source address of packets to this peer.
    Towards(IpAddr),
}

impl Context {
    /// The GIDs of a port that are in use.
    ///
    /// # Errors
    /// If the port's table cannot be read.
    pub fn gids(&self, port: u8) -> Result<Vec<GidEntry>, DeviceError> {
        let mut entries = Vec::new();
        let length = self.port(port)?.gid_table_length;
        for index in 0..=u8::MAX {
            if u32::from(index) >= length {
                break;
            }
            let gid = self.gid(port, index)?;
            if gid.0 == [0; 16] {
                continue;
            }
            let attribute = |name: &str| {
                let path = format!("/sys/class/infiniband/{}/ports/{port}/gid_attrs/{name}/{index}", self.name());
                std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
            };
            let kind = match attribute("types").as_deref() {
                Some("RoCE v2") => GidKind::RoceV2,
                _ => GidKind::InfinibandOrRoceV1,
            };
            entries.push(GidEntry { index, gid, kind, interface: attribute("ndevs") });
        }
        Ok(entries)
    }

    /// Chooses the GID of a port for a connection.
    ///
    /// # Errors
    /// If no entry matches; the error lists the entries.
    pub fn choose_gid(&self, port: u8, choice: GidChoice) -> Result<GidEntry, DeviceError> {
        let entries = self.gids(port)?;
        let (found, wanted) = match choice {
            GidChoice::Index(index) => (entries.iter().find(|entry| entry.index == index), format!("index {index}")),
            GidChoice::Any => {
                let is_ipv4 = |entry: &&GidEntry| entry.kind == GidKind::RoceV2 && entry.gid.to_ip().is_ipv4();
                let any = entries.iter().find(|entry| entry.kind == GidKind::RoceV2);
                (entries.iter().find(is_ipv4).or(any), "any RoCEv2 address".to_owned())
            }
            GidChoice::Local(address) => (matching(&entries, address), format!("{address} (RoCEv2)")),
            GidChoice::Towards(peer) => {
                let local = local_address_towards(peer)?;
                (matching(&entries, local), format!("{local} (RoCEv2), the way to {peer}"))
            }
        };
        found.cloned().ok_or_else(|| DeviceError::GidNotFound {
            device: self.name().to_owned(),
            port,
            wanted,
            have: listed(&entries),
        })
    }
}

/// The RoCEv2 entry with a local address.
pub(crate) fn matching(entries: &[GidEntry], local: IpAddr) -> Option<&GidEntry> {
    let gid = Gid::from_ip(local);
    entries.iter().find(|entry| entry.kind == GidKind::RoceV2 && entry.gid == gid)
}

pub(crate) fn listed(entries: &[GidEntry]) -> String {
    if entries.is_empty() {
        return "none".to_owned();
    }
    entries.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The source address of packets to `peer`, from the routing table. Sends nothing.
///
/// # Errors
/// [`DeviceError::NoRoute`] if there is none.
pub fn local_address_towards(peer: IpAddr) -> Result<IpAddr, DeviceError> {
    let any: IpAddr = match peer {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0))
        .and_then(|socket| {
            socket.connect(SocketAddr::new(peer, ROCE_PORT))?;
            socket.local_addr()
        })
        .map(|local| local.ip())
        .map_err(|source| DeviceError::NoRoute { peer, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u8, address: &str, kind: GidKind) -> GidEntry {
        GidEntry { index, gid: Gid::from_ip(address.parse().expect("an address")), kind, interface: None }
    }

    #[test]
    fn the_entry_of_the_route_is_chosen_and_only_as_roce_v2() {
        let table = [
            entry(0, "fe80::1", GidKind::InfinibandOrRoceV1),
            entry(1, "fe80::1", GidKind::RoceV2),
            entry(2, "10.0.0.1", GidKind::InfinibandOrRoceV1),
            entry(3, "10.0.0.1", GidKind::RoceV2),
            entry(4, "10.0.1.1", GidKind::RoceV2),
        ];
        let chosen = |address: &str| matching(&table, address.parse().expect("an address")).map(|entry| entry.index);
        assert_eq!(chosen("10.0.0.1"), Some(3));
        assert_eq!(chosen("10.0.1.1"), Some(4));
        assert_eq!(chosen("fe80::1"), Some(1));
        assert_eq!(chosen("10.0.2.1"), None);
    }

    #[test]
    fn a_mapped_address_is_shown_as_it_is_written() {
        assert_eq!(entry(1, "10.77.0.1", GidKind::RoceV2).to_string(), "10.77.0.1 (RoCEv2, index 1)");
        assert_eq!(Gid::from_ip("fe80::2".parse().expect("an address")).to_string(), "fe80::2");
        assert_eq!(listed(&[]), "none");
    }

    #[test]
    fn the_way_to_oneself_is_the_loopback() {
        let local = local_address_towards(Ipv4Addr::LOCALHOST.into()).expect("a route");
        assert_eq!(local, Ipv4Addr::LOCALHOST);
    }
}
