//! The messages between two nodes, over any kind of path.
//!
//! A *flow* is one stream being sent to one node. The reading node chooses the flow's number, and states how far the
//! stream has arrived and how far it may be sent; the writing node sends. Most bytes travel outside these messages,
//! into granted windows. Only a stream's first bytes travel in messages ([`PeerMessage::Inline`]).
//!
//! Both sides begin every path with [`PeerMessage::Begin`] and all of their subscriptions. Bytes that were in flight on
//! the previous path are sent again if they did not arrive, so losing or replacing a path neither loses nor duplicates
//! bytes.

#![allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]

use crate::ids::{Epoch, RunId, StreamId};
use crate::limits::{MAX_INLINE, MAX_PEER_MESSAGE, MAX_PEER_REASON, MAX_WINDOW};
use rkyv::{Archive, Deserialize, Serialize, rancor};
use std::fmt;

/// A stream being sent to one node. The reading node chooses the number and never reuses it during its lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Archive, Serialize, Deserialize)]
pub struct FlowId(pub u64);

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flow {}", self.0)
    }
}

/// A window of the reading node that the writing node may fill. The reading node chooses the number and never reuses it
/// during its lifetime. An RDMA write carries it as immediate data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Archive, Serialize, Deserialize)]
pub struct GrantId(pub u32);

/// One epoch of a stream, unique among all runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Archive, Serialize, Deserialize)]
pub struct StreamKey {
    run: u128,
    /// The stream.
    pub stream: StreamId,
    /// The attempt that writes it.
    pub epoch: Epoch,
}

impl StreamKey {
    /// The key of this epoch of this stream of this run.
    #[must_use]
    pub fn new(run: RunId, stream: StreamId, epoch: Epoch) -> Self {
        Self { run: run.0, stream, epoch }
    }

    /// The run.
    #[must_use]
    pub fn run(&self) -> RunId {
        RunId(self.run)
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {} (epoch {}) of run {}", self.stream, self.epoch, self.run())
    }
}

/// A window that the writing node may fill, as far as [`PeerMessage::Credit`] allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Grant {
    /// Its number.
    pub id: GrantId,
    /// The stream offset of its first byte.
    pub base: u64,
    /// Its size in bytes.
    pub size: u64,
    /// A ring: the byte at offset `o` belongs at `(o - base) mod size`, and `size` bytes from any position are
    /// contiguous.
    pub ring: bool,
    /// For RDMA writes, the address of its first byte; [`Self::key`] is the remote key. Both are zero on other paths.
    pub address: u64,
    /// See [`Self::address`].
    pub key: u32,
}

impl Grant {
    /// How many bytes from this stream offset on are contiguous in the window.
    #[must_use]
    pub fn contiguous(&self, at: u64) -> u64 {
        if at < self.base {
            0
        } else if self.ring {
            self.size
        } else {
            (self.base + self.size).saturating_sub(at)
        }
    }

    /// The address of the byte at this stream offset, for an RDMA write.
    #[must_use]
    pub fn address_of(&self, at: u64) -> u64 {
        let relative = at.saturating_sub(self.base);
        self.address.wrapping_add(if self.ring { relative & (self.size - 1) } else { relative })
    }

    /// Whether its values are consistent and within their limits.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let bytes = if self.ring { self.size.saturating_mul(2) } else { self.size };
        self.size > 0
            && self.size <= MAX_WINDOW
            && (!self.ring || self.size.is_power_of_two())
            && self.base.checked_add(self.size).is_some()
            && self.address.checked_add(bytes).is_some()
    }
}

/// From one node to another.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub enum PeerMessage {
    /// The first message on every path, from both sides.
    Begin {
        /// [`crate::limits::PEER_VERSION`] of the sender.
        version: u32,
        /// A random number that identifies the sender's process, chosen when it started.
        life: u64,
        /// The number of earlier paths between the two. Both sides send the same number.
        incarnation: u64,
        /// The number of [`PeerMessage::Subscribe`] messages that follow at once. Flows that are not among them have
        /// ended.
        flows: u32,
    },
    /// The sender of this message reads this stream, has its bytes up to `received`, and accepts bytes up to `until`.
    Subscribe {
        /// The number of the new flow.
        flow: FlowId,
        /// The stream.
        stream: StreamKey,
        /// All bytes below this offset have arrived.
        received: u64,
        /// Bytes below this offset may be sent. Those that no grant covers travel inline.
        until: u64,
    },
    /// The sender of this message no longer reads the flow. It has received everything up to `received`.
    Close {
        /// The flow.
        flow: FlowId,
        /// All bytes below this offset have arrived.
        received: u64,
    },
    /// The answer to [`PeerMessage::Close`]: no more bytes of the flow are in flight.
    Closed {
        /// The flow.
        flow: FlowId,
    },
    /// Acknowledges received bytes and extends the limit up to which the stream may be sent.
    Credit {
        /// The flow.
        flow: FlowId,
        /// All bytes below this offset have arrived.
        received: u64,
        /// Bytes below this offset may be sent.
        until: u64,
    },
    /// Bytes from `grant.base` on go into this window instead of the previous one.
    Grant {
        /// The flow.
        flow: FlowId,
        /// The window.
        grant: Grant,
        /// Bytes below this offset may be sent.
        until: u64,
    },
    /// The readers on the reading node have stalled: the producer need not wait for them.
    Stuck {
        /// The flow.
        flow: FlowId,
        /// Whether they have stalled; `false` if they advance again.
        stuck: bool,
    },
    /// Bytes of a stream that no grant covers, at most [`MAX_INLINE`].
    Inline {
        /// The flow.
        flow: FlowId,
        /// The stream offset of the first byte.
        at: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The stream is finished with this length.
    Finished {
        /// The flow.
        flow: FlowId,
        /// Its length in bytes.
        length: u64,
    },
    /// The stream was aborted.
    Aborted {
        /// The flow.
        flow: FlowId,
        /// Why, in at most [`MAX_PEER_REASON`] bytes.
        reason: String,
    },
    /// Asks for a sign of life. The receiver answers with [`PeerMessage::Pong`].
    Ping(u64),
    /// The answer to the [`PeerMessage::Ping`] with this number.
    Pong(u64),
}

/// Why a message cannot be sent or decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Too large.
    #[error("a message of {size} bytes exceeds the maximum of {MAX_PEER_MESSAGE} bytes")]
    TooLong {
        /// Its size in bytes.
        size: usize,
    },
    /// The bytes are not a message of this version.
    #[error(
        "{size} bytes are not a valid message of version {}; install the same release on both nodes",
        crate::limits::PEER_VERSION
    )]
    Malformed {
        /// The number of bytes received.
        size: usize,
    },
    /// There is no memory for its bytes.
    #[error("a message cannot be encoded: there is no memory for it")]
    Memory,
    /// A field of the message is out of range.
    #[error("a message whose {what}")]
    OutOfLimits {
        /// Which field, and what is wrong with it.
        what: &'static str,
    },
}

impl PeerMessage {
    /// Encodes the message in at most [`MAX_PEER_MESSAGE`] bytes.
    ///
    /// # Errors
    /// [`WireError`] for a message that the other side would reject.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        self.check()?;
        let bytes = rkyv::to_bytes::<rancor::Failure>(self).map_err(|_| WireError::Memory)?;
        if bytes.len() > MAX_PEER_MESSAGE {
            return Err(WireError::TooLong { size: bytes.len() });
        }
        Ok(bytes.into_vec())
    }

    /// Decodes a message. The bytes are fully validated.
    ///
    /// # Errors
    /// [`WireError`] for anything that is not a message of this version or has a field out of range.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > MAX_PEER_MESSAGE {
            return Err(WireError::TooLong { size: bytes.len() });
        }
        let message =
            rkyv::from_bytes::<Self, rancor::Failure>(bytes).map_err(|_| WireError::Malformed { size: bytes.len() })?;
        message.check()?;
        Ok(message)
    }

    fn check(&self) -> Result<(), WireError> {
        let what = match self {
            Self::Inline { bytes, .. } if bytes.is_empty() || bytes.len() > MAX_INLINE => {
                "inline data is empty or too long"
            }
            Self::Inline { at, bytes, .. } if at.checked_add(bytes.len() as u64).is_none() => {
                "inline data ends past the largest offset"
            }
            Self::Aborted { reason, .. } if reason.len() > MAX_PEER_REASON => "reason is too long",
            Self::Grant { grant, .. } if !grant.is_sound() => "grant is not a valid window",
            Self::Subscribe { received, until, .. } | Self::Credit { received, until, .. } if until < received => {
                "credit ends before the bytes already received"
            }
            _ => return Ok(()),
        };
        Err(WireError::OutOfLimits { what })
    }
}

/// A reason truncated to fit [`PeerMessage::Aborted`].
#[must_use]
pub fn cut_reason(reason: &str) -> String {
    let mut end = reason.len().min(MAX_PEER_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grant() -> impl Strategy<Value = Grant> {
        (any::<u32>(), 0..1u64 << 60, 12..28u32, any::<bool>(), 0..1u64 << 60, any::<u32>()).prop_map(
            |(id, base, log, ring, address, key)| Grant { id: GrantId(id), base, size: 1 << log, ring, address, key },
        )
    }

    fn message() -> impl Strategy<Value = PeerMessage> {
        let flow = any::<u64>().prop_map(FlowId);
        let key = (any::<u128>(), any::<u32>(), any::<u32>())
            .prop_map(|(run, stream, epoch)| StreamKey::new(RunId(run), StreamId(stream), Epoch(epoch)));
        let credit = (any::<u64>(), any::<u64>()).prop_map(|(a, b)| (a.min(b), a.max(b)));
        prop_oneof![
            (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(life, incarnation, flows)| PeerMessage::Begin {
                version: 1,
                life,
                incarnation,
                flows
            }),
            (flow.clone(), key, credit.clone()).prop_map(|(flow, stream, (received, until))| {
                PeerMessage::Subscribe { flow, stream, received, until }
            }),
            (flow.clone(), any::<u64>()).prop_map(|(flow, received)| PeerMessage::Close { flow, received }),
            flow.clone().prop_map(|flow| PeerMessage::Closed { flow }),
            (flow.clone(), credit).prop_map(|(flow, (received, until))| PeerMessage::Credit { flow, received, until }),
            (flow.clone(), grant(), any::<u64>()).prop_map(|(flow, grant, until)| PeerMessage::Grant {
                flow,
                grant,
                until
            }),
            (flow.clone(), 0..1u64 << 62, proptest::collection::vec(any::<u8>(), 1..=MAX_INLINE))
                .prop_map(|(flow, at, bytes)| PeerMessage::Inline { flow, at, bytes }),
            (flow.clone(), any::<u64>()).prop_map(|(flow, length)| PeerMessage::Finished { flow, length }),
            (flow, ".{0,200}").prop_map(|(flow, reason)| PeerMessage::Aborted { flow, reason }),
            any::<u64>().prop_map(PeerMessage::Ping),
        ]
    }

    proptest! {
        #[test]
        fn messages_survive_encoding(message in message()) {
            let bytes = message.encode().expect("it is within its limits");
            prop_assert!(bytes.len() <= MAX_PEER_MESSAGE);
            prop_assert_eq!(PeerMessage::decode(&bytes).expect("it was encoded"), message);
        }

        #[test]
        fn damaged_messages_are_rejected_or_decode_to_other_messages(
            message in message(), at in any::<usize>(), value in any::<u8>(), length in any::<usize>(),
        ) {
            let mut bytes = message.encode().expect("it is within its limits");
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(other) = PeerMessage::decode(&bytes) {
                prop_assert!(other.encode().is_ok(), "a decoded message is within the limits");
            }
            bytes.truncate(length % bytes.len());
            if let Ok(other) = PeerMessage::decode(&bytes) {
                prop_assert!(other.encode().is_ok(), "a decoded message is within the limits");
            }
        }

        #[test]
        fn random_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = PeerMessage::decode(&bytes);
        }
    }

    #[test]
    fn the_largest_inline_message_fits() {
        let most = PeerMessage::Inline { flow: FlowId(1), at: 0, bytes: vec![7; MAX_INLINE] };
        assert!(most.encode().is_ok());
        let more = PeerMessage::Inline { flow: FlowId(1), at: 0, bytes: vec![7; MAX_INLINE + 1] };
        assert!(matches!(more.encode(), Err(WireError::OutOfLimits { .. })));
        let reason = "ä".repeat(MAX_PEER_REASON);
        let aborted = PeerMessage::Aborted { flow: FlowId(1), reason: cut_reason(&reason) };
        assert!(aborted.encode().is_ok());
    }
}
