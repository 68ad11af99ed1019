//! The header at the beginning of every QUIC stream of a path.

use dflow_protocol::wire::FlowId;

/// The size of a header in bytes.
pub(super) const HEADER: usize = 28;

const MESSAGES: u64 = 1;
const DATA: u64 = 2;

/// What a stream of a path carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The number of the path.
    pub(super) incarnation: u64,
    pub(super) content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Messages, each preceded by its length.
    Messages,
    /// Bytes of a flow, from this offset on.
    Flow { flow: FlowId, start: u64 },
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let (kind, flow, start) = match self.content {
            Content::Messages => (MESSAGES, 0, 0),
            Content::Flow { flow, start } => (DATA, flow.0, start),
        };
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&kind.to_le_bytes()[..4]);
        bytes[4..12].copy_from_slice(&flow.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[20..].copy_from_slice(&start.to_le_bytes());
        bytes
    }

    /// `None` if the bytes are not a header.
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
        let (kind, flow) = (number(&bytes[..4]), number(&bytes[4..12]));
        let (incarnation, start) = (number(&bytes[12..20]), number(&bytes[20..]));
        let content = match kind {
            MESSAGES if flow == 0 && start == 0 => Content::Messages,
            // QUIC stream offsets have 62 bits.
            DATA if start < 1 << 62 => Content::Flow { flow: FlowId(flow), start },
            _ => return None,
        };
        Some(Self { incarnation, content })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_sent_is_what_arrives(incarnation in any::<u64>(), flow in any::<u64>(), start in 0..1u64 << 62) {
            for content in [Content::Messages, Content::Flow { flow: FlowId(flow), start }] {
                let header = Header { incarnation, content };
                prop_assert_eq!(Header::decode(&header.encode()), Some(header));
            }
        }

        #[test]
        fn noise_is_refused_or_is_a_header(bytes in proptest::array::uniform28(any::<u8>())) {
            if let Some(header) = Header::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }
}
