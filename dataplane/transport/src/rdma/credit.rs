//! Credit for receives: every message and every write consumes one at the other side.

/// The fraction of the peer's receives that is reserved for messages.
const MESSAGE_SHARE: u32 = 8;
/// Receives are reposted when this fraction of them is consumed, or before a sleep. Even with the half that the peer need not
/// know of, this leaves it more than it reserves for messages, so that it can always continue.
pub(super) const SPENT_SHARE: u32 = 8;

/// The receives that the peer has for this side, and those of this side that were not announced to it.
///
/// Both ends count the receives that they have posted, modulo 2^32, and every message carries that count. When half of the
/// receives are consumed and unannounced, a message is sent for that alone; the last receive is reserved for it. So the two
/// sides cannot both run out: the side that used its last receive announced half of the other's with it.
#[derive(Debug)]
pub(super) struct Credit {
    /// The number of receives of the other side.
    depth: u32,
    /// Receives that writes must leave free.
    reserve: u32,
    /// Messages and writes so far.
    sent: u32,
    /// Receives that the other side has reposted.
    returned: u32,
    /// Receives that this side has reposted, and how many of them were announced.
    posted: u32,
    announced: u32,
    /// This many unannounced receives are worth a message.
    worth: u32,
}

/// The peer announced more receives than it can have reposted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Impossible;

impl Credit {
    /// `mine` and `theirs`: the number of receives that each side posted at the beginning, at least 4.
    pub(super) fn new(mine: u32, theirs: u32) -> Self {
        let reserve = (theirs / MESSAGE_SHARE).max(2);
        Self { depth: theirs, reserve, sent: 0, returned: 0, posted: 0, announced: 0, worth: mine / 2 }
    }

    fn left(&self) -> u32 {
        self.depth.saturating_sub(self.sent.wrapping_sub(self.returned))
    }

    /// Whether a write may be sent.
    pub(super) fn takes_data(&self) -> bool {
        self.left() > self.reserve
    }

    /// Whether a message may be sent.
    pub(super) fn takes_message(&self) -> bool {
        self.left() > 1
    }

    /// Whether a message has to be sent for [`Credit::tell`] alone.
    pub(super) fn is_worth_telling(&self) -> bool {
        self.posted.wrapping_sub(self.announced) >= self.worth && self.left() > 0
    }

    /// A message or write is sent. Returns its number.
    pub(super) fn spend(&mut self) -> u32 {
        let number = self.sent;
        self.sent = self.sent.wrapping_add(1);
        number
    }

    /// This many receives were reposted.
    pub(super) fn post(&mut self, count: u32) {
        self.posted = self.posted.wrapping_add(count);
    }

    /// The count that every message carries.
    pub(super) fn tell(&mut self) -> u32 {
        self.announced = self.posted;
        self.posted
    }

    /// The count that a message carried.
    pub(super) fn hear(&mut self, posted: u32) -> Result<(), Impossible> {
        if posted.wrapping_sub(self.returned) > self.sent.wrapping_sub(self.returned) {
            return Err(Impossible);
        }
        self.returned = posted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    struct End {
        credit: Credit,
        /// Receives that are posted.
        receives: u32,
        /// Those that are used and not posted again, as long as they are fewer than `batch`.
        spent: u32,
        batch: u32,
        /// What is on its way here: a message with what it tells, or a write.
        coming: VecDeque<Option<u32>>,
    }

    fn send(ends: &mut [End; 2], from: usize, message: bool) {
        let told = message.then(|| ends[from].credit.tell());
        ends[from].credit.spend();
        ends[1 - from].coming.push_back(told);
    }

    fn receive(ends: &mut [End; 2], at: usize) -> bool {
        let Some(what) = ends[at].coming.pop_front() else { return false };
        let end = &mut ends[at];
        assert!(end.receives > 0, "it came without a receive");
        end.receives -= 1;
        if let Some(told) = what {
            end.credit.hear(told).expect("it is true");
        }
        end.spent += 1;
        if end.spent >= end.batch {
            end.receives += end.spent;
            end.credit.post(std::mem::take(&mut end.spent));
        }
        if end.credit.is_worth_telling() {
            send(ends, at, true);
        }
        true
    }

    proptest! {
        /// No order of sending and receiving finds the other side without a receive, and none ends where nobody may send.
        #[test]
        fn there_is_always_a_receive(
            depths in (4u32..40, 4u32..40),
            start in prop_oneof![Just(0u32), Just(u32::MAX - 5)],
            steps in prop::collection::vec((0usize..2, 0u8..3), 1..600),
        ) {
            let end = |mine, theirs| End {
                credit: Credit {
                    sent: start, returned: start, posted: start, announced: start, ..Credit::new(mine, theirs)
                },
                receives: mine,
                spent: 0,
                batch: (mine / SPENT_SHARE).max(1),
                coming: VecDeque::new(),
            };
            let mut ends = [end(depths.0, depths.1), end(depths.1, depths.0)];
            for (side, what) in steps {
                match what {
                    0 if ends[side].credit.takes_data() => send(&mut ends, side, false),
                    1 if ends[side].credit.takes_message() => send(&mut ends, side, true),
                    _ => drop(receive(&mut ends, side)),
                }
                for end in &ends {
                    let under_way = u32::try_from(end.coming.len()).expect("few");
                    prop_assert!(under_way <= end.receives);
                }
            }
            while receive(&mut ends, 0) | receive(&mut ends, 1) {}
            for end in &ends {
                prop_assert!(end.credit.takes_data() && end.credit.takes_message(), "{:?}", end.credit);
            }
        }
    }

    #[test]
    fn a_peer_cannot_return_what_was_not_sent() {
        let mut credit = Credit::new(8, 8);
        credit.spend();
        assert_eq!(credit.hear(2), Err(Impossible));
        assert_eq!(credit.hear(1), Ok(()));
        assert_eq!(credit.hear(0), Err(Impossible), "it does not go back");
    }
}
