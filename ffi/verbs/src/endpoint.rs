//! The data that two queue pairs exchange in order to connect.

use crate::gid::Gid;
use rdma_sys::ibv_mtu;
use std::fmt;
use thiserror::Error;

/// Maximum payload of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mtu {
    /// 256 bytes.
    Bytes256 = 1,
    /// 512 bytes.
    Bytes512 = 2,
    /// 1024 bytes.
    Bytes1024 = 3,
    /// 2048 bytes.
    Bytes2048 = 4,
    /// 4096 bytes, the largest.
    Bytes4096 = 5,
}

impl Mtu {
    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u32 {
        128 << self as u32
    }

    pub(crate) fn from_raw(raw: ibv_mtu::Type) -> Option<Self> {
        [Self::Bytes256, Self::Bytes512, Self::Bytes1024, Self::Bytes2048, Self::Bytes4096]
            .into_iter()
            .find(|mtu| mtu.raw() == raw)
    }

    pub(crate) fn raw(self) -> ibv_mtu::Type {
        self as ibv_mtu::Type
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bytes())
    }
}

/// One end of a connection, as plain data for the other end. Exchange it over an authenticated channel: an attacker who
/// can replace it is connected instead of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The number of the queue pair, below 2^24.
    pub queue_pair: u32,
    /// The sequence number of the first packet, below 2^24.
    pub packet_sequence: u32,
    /// The network address.
    pub gid: Gid,
    /// The local identifier in an InfiniBand subnet; 0 on Ethernet.
    pub lid: u16,
    /// The maximum payload of this end; the connection uses the smaller of both.
    pub mtu: Mtu,
}

/// Why received bytes are not an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The length is wrong.
    #[error("an RDMA endpoint has {expected} bytes, not {0}; the peer may be of another version", expected = Endpoint::LENGTH)]
    Length(usize),
    /// A field is out of range.
    #[error("an RDMA endpoint with an invalid {0}")]
    Field(&'static str),
}

impl Endpoint {
    /// The length of the encoding by [`Endpoint::to_bytes`].
    pub const LENGTH: usize = 28;

    /// Encodes the endpoint for the peer, little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[0..4].copy_from_slice(&self.queue_pair.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.packet_sequence.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.gid.0);
        bytes[24..26].copy_from_slice(&self.lid.to_le_bytes());
        bytes[26] = self.mtu as u8;
        bytes
    }

    /// Decodes an endpoint received from a peer.
    ///
    /// # Errors
    /// If the bytes are not a valid encoding by [`Endpoint::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EndpointError> {
        let bytes: &[u8; Self::LENGTH] = bytes.try_into().map_err(|_| EndpointError::Length(bytes.len()))?;
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut gid = [0; 16];
        gid.copy_from_slice(&bytes[8..24]);
        let endpoint = Self {
            queue_pair: number(0),
            packet_sequence: number(4),
            gid: Gid(gid),
            lid: u16::from_le_bytes([bytes[24], bytes[25]]),
            mtu: Mtu::from_raw(bytes[26].into()).ok_or(EndpointError::Field("MTU"))?,
        };
        endpoint.check()?;
        if bytes[27] != 0 {
            return Err(EndpointError::Field("last byte"));
        }
        Ok(endpoint)
    }

    pub(crate) fn check(&self) -> Result<(), EndpointError> {
        if self.queue_pair >> 24 != 0 {
            return Err(EndpointError::Field("queue pair number"));
        }
        if self.packet_sequence >> 24 != 0 {
            return Err(EndpointError::Field("packet sequence number"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_endpoint_survives_the_wire(
            queue_pair in 0u32..1 << 24, packet_sequence in 0u32..1 << 24, gid: [u8; 16], lid: u16, mtu in 1u32..=5,
        ) {
            let mtu = Mtu::from_raw(mtu).expect("a size");
            let endpoint = Endpoint { queue_pair, packet_sequence, gid: Gid(gid), lid, mtu };
            prop_assert_eq!(Endpoint::from_bytes(&endpoint.to_bytes()), Ok(endpoint));
        }

        #[test]
        fn what_is_accepted_is_what_was_written(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(endpoint) = Endpoint::from_bytes(&bytes) {
                prop_assert_eq!(&endpoint.to_bytes()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn impossible_fields_are_refused() {
        let good = Endpoint { queue_pair: 1, packet_sequence: 2, gid: Gid([3; 16]), lid: 4, mtu: Mtu::Bytes4096 };
        for (at, value, wrong) in [
            (3, 1, "queue pair number"),
            (7, 1, "packet sequence number"),
            (26, 6, "MTU"),
            (26, 0, "MTU"),
            (27, 9, "last byte"),
        ] {
            let mut bytes = good.to_bytes();
            bytes[at] = value;
            assert_eq!(Endpoint::from_bytes(&bytes), Err(EndpointError::Field(wrong)));
        }
        assert_eq!(Endpoint::from_bytes(&[0; 3]), Err(EndpointError::Length(3)));
    }

    #[test]
    fn an_mtu_is_a_number_of_bytes() {
        assert_eq!(Mtu::Bytes256.bytes(), 256);
        assert_eq!(Mtu::Bytes4096.bytes(), 4096);
    }
}
