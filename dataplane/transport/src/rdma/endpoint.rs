//! What the two ends of a path exchange before they connect.

use super::{MAX_DEPTH, MIN_DEPTH, RdmaError};
use dflow_verbs::{Endpoint, EndpointError};

/// The version of the protocol on a path's queue pair.
const VERSION: u32 = 1;
const HEAD: usize = 8;

/// One end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// The number of receives that it has posted.
    pub(super) receives: u32,
    /// The queue pair.
    pub(super) endpoint: Endpoint,
}

impl Hello {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let head = [VERSION.to_le_bytes(), self.receives.to_le_bytes()].concat();
        [&head[..], &self.endpoint.to_bytes()].concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, RdmaError> {
        let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let (Some(theirs), Some(receives)) = (number(0), number(4)) else {
            return Err(EndpointError::Length(bytes.len()).into());
        };
        if theirs != VERSION {
            return Err(RdmaError::Version { ours: VERSION, theirs });
        }
        if !(MIN_DEPTH..=MAX_DEPTH).contains(&receives) {
            return Err(RdmaError::Depth { what: "receive queue of the peer", value: receives });
        }
        Ok(Self { receives, endpoint: Endpoint::from_bytes(&bytes[HEAD..])? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_verbs::{Gid, Mtu};
    use proptest::prelude::*;

    #[test]
    fn what_is_told_is_what_is_heard() {
        let endpoint = Endpoint { queue_pair: 17, packet_sequence: 5, gid: Gid([7; 16]), lid: 0, mtu: Mtu::Bytes4096 };
        let hello = Hello { receives: 64, endpoint };
        let bytes = hello.to_bytes();
        assert_eq!(Hello::from_bytes(&bytes).expect("sound"), hello);
        let mut newer = bytes.clone();
        newer[0] = 2;
        assert!(matches!(Hello::from_bytes(&newer), Err(RdmaError::Version { ours: 1, theirs: 2 })));
        let none = Hello { receives: 3, endpoint }.to_bytes();
        assert!(matches!(Hello::from_bytes(&none), Err(RdmaError::Depth { value: 3, .. })));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_what_was_written(bytes in prop::collection::vec(any::<u8>(), 0..48)) {
            if let Ok(hello) = Hello::from_bytes(&bytes) {
                prop_assert_eq!(hello.to_bytes(), bytes);
            }
        }
    }
}
