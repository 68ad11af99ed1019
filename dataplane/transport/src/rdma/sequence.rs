//! Sequence numbers of messages and writes. A reliable queue pair delivers each exactly once. One that does not would corrupt
//! a stream, because the offset of a write follows from the writes before it. Soft-RoCE of Linux 6.1 is such a device: when it
//! retransmits packets whose acknowledgement is merely late, it can repeat whole messages or insert an empty one. So both ends
//! count, and a gap or repetition loses the path.

use dflow_protocol::wire::GrantId;
use std::fmt;

/// The bits of a write's immediate that name its grant. The bits above are the low bits of its number.
const GRANT_BITS: u32 = 24;

/// The name of a grant in an immediate, unique among open grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Mark(u32);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<GrantId> for Mark {
    fn from(grant: GrantId) -> Self {
        Self(grant.0 & ((1 << GRANT_BITS) - 1))
    }
}

/// The immediate of a write into this grant, with this sequence number.
pub(super) fn immediate(grant: GrantId, number: u32) -> u32 {
    number << GRANT_BITS | Mark::from(grant).0
}

/// The receiving side's count.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    next: u32,
}

/// A message or write is out of sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unexpected;

impl Sequence {
    /// A message of this number has arrived.
    pub(super) fn message(&mut self, number: u32) -> Result<(), Unexpected> {
        if number != self.next {
            return Err(Unexpected);
        }
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// A write with this immediate has arrived. Returns its grant.
    pub(super) fn write(&mut self, immediate: u32) -> Result<Mark, Unexpected> {
        if immediate >> GRANT_BITS != self.next & (u32::MAX >> GRANT_BITS) {
            return Err(Unexpected);
        }
        self.next = self.next.wrapping_add(1);
        Ok(Mark::from(GrantId(immediate)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Anything repeated, missing or early is detected before it is misinterpreted.
        #[test]
        fn what_does_not_follow_is_found(
            start in prop_oneof![Just(0), Just(u32::MAX - 300), 0u32..],
            writes in prop::collection::vec(prop::option::of(0u32..), 1..600),
            at in 0usize..600,
            other in prop_oneof![-200i64..0, 1i64..200],
        ) {
            let at = at % writes.len();
            let mut sequence = Sequence { next: start };
            for (done, write) in writes.iter().enumerate() {
                let number = start.wrapping_add(u32::try_from(done).expect("few"));
                let mut take = |number: u32| match write {
                    Some(grant) => sequence
                        .write(immediate(GrantId(*grant), number))
                        .map(|mark| assert_eq!(mark, Mark::from(GrantId(*grant)))),
                    None => sequence.message(number),
                };
                if done == at {
                    prop_assert_eq!(take(number.wrapping_add_signed(i32::try_from(other).expect("small"))), Err(Unexpected));
                }
                prop_assert_eq!(take(number), Ok(()));
            }
        }
    }
}
