//! Which path two nodes use: RDMA where both have it, QUIC otherwise, and QUIC again when RDMA is lost.
//!
//! [`Choice`] is a pure state machine, one at each end of a connection. One of the two *leads*: it offers RDMA, at once and
//! again some time after it was refused or lost. An end that could not make its endpoint looks now and then whether it can
//! again, and the one that does not lead says so. Either end may fall back to QUIC. Every path has a number that is higher
//! than those before, and both ends use the paths in the order of their numbers; so it does not matter if both notice a loss
//! at the same time, or if messages cross.

use rkyv::{Archive, Deserialize, Serialize};
use std::time::Duration;

/// The pauses before RDMA is offered again: they double from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// How often an end that could not make an endpoint looks whether it can.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A path that was used for so long has held.
const HELD: Duration = Duration::from_secs(10);

/// What both ends say to each other, on a channel that keeps the order.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[allow(missing_docs, reason = "rkyv's derive makes helper types without documentation; all of ours has some")]
pub enum Say {
    /// The leading end has made an RDMA endpoint for the path of this number.
    Offer {
        /// The path's number.
        path: u64,
        /// What the other end needs to connect with it.
        endpoint: Vec<u8>,
    },
    /// The other end has connected one of its own with it, and uses it when this end has confirmed it.
    Accept {
        /// The path's number.
        path: u64,
        /// What the leading end needs to connect with it.
        endpoint: Vec<u8>,
    },
    /// The other end has no RDMA.
    Decline {
        /// The path's number.
        path: u64,
        /// Why.
        reason: String,
    },
    /// The next path is by QUIC, and has this number.
    Fall {
        /// The path's number.
        path: u64,
    },
    /// The leading end has connected its own, too, and uses the path of this number.
    Confirm {
        /// The path's number.
        path: u64,
    },
    /// The other end has RDMA again, for want of which it has declined.
    Able,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Say this to the other end.
    Say(Say),
    /// Use a QUIC path of this number.
    Quic(u64),
    /// Make an RDMA endpoint for the path of this number; [`Choice::prepared`] answers.
    Prepare(u64),
    /// See whether an RDMA endpoint can be made again; [`Choice::looked`] answers.
    Look,
    /// Make an RDMA endpoint and connect it with this one, for the path of this number; [`Choice::answered`] answers, or
    /// [`Choice::unable`] if none can be made. It is not to be used before [`Step::Use`]: until the other end has connected its own, whatever is sent is lost on it.
    Answer(u64, Vec<u8>),
    /// Use the path of this number, which was connected for [`Step::Answer`].
    Use(u64),
    /// Connect the endpoint that was prepared with this one, and use the path; [`Choice::completed`] answers.
    Complete(u64, Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Quic,
    /// An endpoint for this path is being made or was offered. `broken`: meanwhile there is no path.
    Offering {
        path: u64,
        broken: bool,
    },
    /// An endpoint for this path is connected at this end, and the other end has not confirmed it.
    Answered {
        path: u64,
    },
    Rdma,
}

/// One end's choice of paths.
#[derive(Clone, Debug)]
pub struct Choice {
    leads: bool,
    /// This end may use RDMA.
    rdma: bool,
    state: State,
    /// The number of the present path.
    path: u64,
    /// When to offer RDMA, or to look whether there is some.
    retry_at: Option<Duration>,
    pause: Duration,
    /// When it was offered last.
    tried: Duration,
    /// Since when the path is by RDMA.
    since: Duration,
    reason: String,
}

impl Choice {
    /// Begins with a QUIC path of this number, which is in use. `leads`: this end offers RDMA; exactly one of the two does.
    /// `rdma`: whether this end may use it, or why not.
    #[must_use]
    pub fn new(leads: bool, rdma: Result<(), String>, path: u64) -> Self {
        let retry_at = (leads && rdma.is_ok()).then_some(Duration::ZERO);
        let is_allowed = rdma.is_ok();
        let reason = rdma.err().unwrap_or_default();
        Self {
            leads,
            rdma: is_allowed,
            state: State::Quic,
            path,
            retry_at,
            pause: FIRST_PAUSE,
            tried: Duration::ZERO,
            since: Duration::ZERO,
            reason,
        }
    }

    /// The number of the present path.
    #[must_use]
    pub fn path(&self) -> u64 {
        self.path
    }

    /// Whether it is by RDMA; if not, why not (empty where that is not known yet).
    ///
    /// # Errors
    /// Why it is by QUIC.
    pub fn is_rdma(&self) -> Result<(), &str> {
        if self.state == State::Rdma { Ok(()) } else { Err(&self.reason) }
    }

    /// Whether RDMA is neither used nor being offered by this end: nothing of it has to be kept.
    #[must_use]
    pub fn is_without_rdma(&self) -> bool {
        self.state == State::Quic
    }

    /// When [`Choice::tick`] is due.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.retry_at.filter(|_| self.state == State::Quic)
    }

    /// The time has come that [`Choice::due`] names.
    pub fn tick(&mut self, now: Duration) -> Vec<Step> {
        if self.due().is_none_or(|at| now < at) {
            return Vec::new();
        }
        self.retry_at = None;
        if !self.leads {
            return vec![Step::Look];
        }
        self.tried = now;
        let path = self.path + 1;
        self.state = State::Offering { path, broken: false };
        vec![Step::Prepare(path)]
    }

    /// An endpoint was made, or cannot be.
    pub fn prepared(&mut self, now: Duration, path: u64, endpoint: Result<Vec<u8>, String>) -> Vec<Step> {
        if !matches!(self.state, State::Offering { path: offered, .. } if offered == path) {
            return Vec::new();
        }
        match endpoint {
            Ok(endpoint) => vec![Step::Say(Say::Offer { path, endpoint })],
            Err(reason) => self.refused(now, reason, LOOK_EVERY),
        }
    }

    /// An endpoint can be made again, or still not.
    pub fn looked(&mut self, now: Duration, result: Result<(), String>) -> Vec<Step> {
        match result {
            Ok(()) => vec![Step::Say(Say::Able)],
            Err(reason) => {
                self.reason = reason;
                self.retry_at = Some(now + LOOK_EVERY);
                Vec::new()
            }
        }
    }

    /// The other end's endpoint was connected with one of this end's; or it cannot be.
    pub fn answered(&mut self, path: u64, endpoint: Result<Vec<u8>, String>) -> Vec<Step> {
        self.retry_at = None;
        match endpoint {
            Ok(endpoint) => {
                self.state = State::Answered { path };
                vec![Step::Say(Say::Accept { path, endpoint })]
            }
            Err(reason) => {
                self.reason.clone_from(&reason);
                vec![Step::Say(Say::Decline { path, reason })]
            }
        }
    }

    /// There was no endpoint of this end's to be connected with the other's.
    pub fn unable(&mut self, now: Duration, path: u64, reason: String) -> Vec<Step> {
        let steps = self.answered(path, Err(reason));
        self.retry_at = Some(now + LOOK_EVERY);
        steps
    }

    /// The endpoint that was prepared is connected, and the path is in use; or it cannot be.
    pub fn completed(&mut self, now: Duration, path: u64, result: Result<(), String>) -> Vec<Step> {
        self.use_rdma(now, path);
        match result {
            Ok(()) => vec![Step::Say(Say::Confirm { path })],
            Err(reason) => self.lost(now, path, reason),
        }
    }

    /// The path of this number is lost. Of one that is not used any more that was to be expected.
    pub fn lost(&mut self, now: Duration, path: u64, reason: String) -> Vec<Step> {
        if path != self.path {
            return Vec::new();
        }
        match &mut self.state {
            State::Offering { broken, .. } => {
                // Its answer, or its refusal, is on the way.
                *broken = true;
                return Vec::new();
            }
            // The other end has left it for the one that was offered, or says soon that it will not.
            State::Answered { .. } => return Vec::new(),
            State::Quic | State::Rdma => {}
        }
        self.reason = reason;
        let path = self.path + 1;
        let mut steps = vec![Step::Say(Say::Fall { path })];
        steps.extend(self.fall(now, path));
        steps
    }

    /// The other end has said something.
    pub fn heard(&mut self, now: Duration, say: Say) -> Vec<Step> {
        match say {
            // Numbers that are behind the present path were said before the other end knew of it.
            Say::Offer { path, .. } if self.leads || path <= self.path => Vec::new(),
            Say::Offer { path, .. } if !self.rdma => {
                vec![Step::Say(Say::Decline { path, reason: self.reason.clone() })]
            }
            Say::Offer { path, endpoint } => vec![Step::Answer(path, endpoint)],
            Say::Accept { path, endpoint } if self.is_offering(path) => vec![Step::Complete(path, endpoint)],
            Say::Decline { path, reason } if self.is_offering(path) => self.refused(now, reason, LAST_PAUSE),
            Say::Confirm { path } if self.state == (State::Answered { path }) => {
                self.use_rdma(now, path);
                vec![Step::Use(path)]
            }
            Say::Accept { .. } | Say::Decline { .. } | Say::Confirm { .. } => Vec::new(),
            Say::Fall { path } if path > self.path => {
                if self.reason.is_empty() {
                    self.reason = "the other node has lost it".into();
                }
                self.fall(now, path)
            }
            Say::Fall { .. } => Vec::new(),
            // Not more often than on its own account: the other end may say it as often as it likes.
            Say::Able if self.leads && self.rdma && self.state == State::Quic => {
                self.retry_at = Some(now.max(self.tried + FIRST_PAUSE));
                Vec::new()
            }
            Say::Able => Vec::new(),
        }
    }

    fn is_offering(&self, path: u64) -> bool {
        matches!(self.state, State::Offering { path: offered, .. } if offered == path)
    }

    fn use_rdma(&mut self, now: Duration, path: u64) {
        self.path = path;
        self.state = State::Rdma;
        self.since = now;
        self.reason.clear();
    }

    /// `most`: after so long it is offered again at the latest.
    fn refused(&mut self, now: Duration, reason: String, most: Duration) -> Vec<Step> {
        let broken = matches!(self.state, State::Offering { broken: true, .. });
        self.state = State::Quic;
        self.reason.clone_from(&reason);
        self.pause = self.pause.min(most);
        self.try_again(now);
        if broken { self.lost(now, self.path, reason) } else { Vec::new() }
    }

    fn fall(&mut self, now: Duration, path: u64) -> Vec<Step> {
        // Only RDMA that has held is offered again soon.
        if self.state == State::Rdma && now.saturating_sub(self.since) >= HELD {
            self.pause = FIRST_PAUSE;
        }
        self.path = path;
        self.state = State::Quic;
        self.try_again(now);
        vec![Step::Quic(path)]
    }

    fn try_again(&mut self, now: Duration) {
        if self.leads && self.rdma {
            self.retry_at = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LAST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// Both ends, the channel between them, and the paths that each uses.
    struct Pair {
        ends: [Choice; 2],
        channel: [VecDeque<Say>; 2],
        /// Number and kind of the path that each end uses.
        used: [(u64, bool); 2],
        now: Duration,
        /// Whether endpoints can be made and connected.
        works: bool,
        /// The end at which they cannot.
        broken: Option<usize>,
        /// The last path of which both ends have connected their endpoints.
        connected: u64,
    }

    impl Pair {
        fn new() -> Self {
            let end = |leads| Choice::new(leads, Ok(()), 1);
            let used = [(1, false); 2];
            Self {
                ends: [end(true), end(false)],
                channel: Default::default(),
                used,
                now: Duration::ZERO,
                works: true,
                broken: None,
                connected: 0,
            }
        }

        fn perform(&mut self, end: usize, steps: Vec<Step>) {
            for step in steps {
                let result =
                    if self.works && self.broken != Some(end) { Ok(vec![1]) } else { Err("no device".to_owned()) };
                let follow = match step {
                    Step::Say(say) => {
                        self.channel[1 - end].push_back(say);
                        Vec::new()
                    }
                    Step::Quic(path) => {
                        self.take(end, path, false);
                        Vec::new()
                    }
                    Step::Prepare(path) => self.ends[end].prepared(self.now, path, result),
                    Step::Answer(path, _) => match result {
                        Err(reason) if self.broken == Some(end) => self.ends[end].unable(self.now, path, reason),
                        result => self.ends[end].answered(path, result),
                    },
                    Step::Look => self.ends[end].looked(self.now, result.map(|_| ())),
                    Step::Use(path) => {
                        assert_eq!(self.connected, path, "nothing is sent before both ends have connected");
                        self.take(end, path, true);
                        Vec::new()
                    }
                    Step::Complete(path, _) => {
                        if result.is_ok() {
                            self.connected = path;
                            self.take(end, path, true);
                        }
                        self.ends[end].completed(self.now, path, result.map(|_| ()))
                    }
                };
                self.perform(end, follow);
            }
        }

        fn take(&mut self, end: usize, path: u64, rdma: bool) {
            assert!(path > self.used[end].0, "paths are used in the order of their numbers");
            self.used[end] = (path, rdma);
        }

        fn deliver(&mut self, end: usize) -> bool {
            let Some(say) = self.channel[end].pop_front() else { return false };
            let steps = self.ends[end].heard(self.now, say);
            self.perform(end, steps);
            true
        }

        fn settle(&mut self) {
            for _ in 0..100 {
                if !(self.deliver(0) | self.deliver(1)) {
                    return;
                }
            }
            panic!("they never come to an end");
        }

        fn tick(&mut self) {
            self.tick_after(LAST_PAUSE);
        }

        fn tick_after(&mut self, pause: Duration) {
            self.now += pause;
            for end in 0..2 {
                let steps = self.ends[end].tick(self.now);
                assert!(end == 0 || !steps.iter().any(|step| matches!(step, Step::Prepare(_))), "only one offers");
                self.perform(end, steps);
            }
        }

        fn lose(&mut self, end: usize) {
            let steps = self.ends[end].lost(self.now, self.used[end].0, "the link is down".into());
            self.perform(end, steps);
        }
    }

    #[test]
    fn rdma_is_used_lost_and_used_again() {
        let mut pair = Pair::new();
        pair.tick();
        pair.settle();
        assert_eq!(pair.used, [(2, true); 2]);
        assert_eq!(pair.ends[0].is_rdma(), Ok(()));
        pair.lose(1);
        pair.settle();
        assert_eq!(pair.used, [(3, false); 2]);
        assert_eq!(pair.ends[1].is_rdma(), Err("the link is down"));
        pair.tick();
        pair.settle();
        assert_eq!(pair.used, [(4, true); 2]);
    }

    #[test]
    fn without_rdma_at_one_end_it_stays_with_quic_and_says_why() {
        let mut pair = Pair::new();
        pair.ends[1] = Choice::new(false, Err("built without it".into()), 1);
        pair.tick();
        pair.settle();
        assert_eq!(pair.used, [(1, false); 2]);
        assert_eq!(pair.ends[0].is_rdma(), Err("built without it"));
    }

    #[test]
    fn rdma_that_is_back_is_used_soon_at_whichever_end_it_was_gone() {
        for end in 0..2 {
            let mut pair = Pair::new();
            pair.broken = Some(end);
            // It was gone for so long that it is offered seldom, if by nothing else.
            for _ in 0..600 {
                pair.tick_after(FIRST_PAUSE);
                pair.settle();
            }
            assert_eq!(pair.used, [(1, false); 2]);
            assert_eq!(pair.ends[0].is_rdma(), Err("no device"));
            pair.broken = None;
            for _ in 0..6 {
                pair.tick_after(FIRST_PAUSE);
                pair.settle();
            }
            assert!(pair.used[0].1 && pair.used[1].1, "broken at {end}");
        }
    }

    #[test]
    fn an_end_whose_endpoint_cannot_be_connected_does_not_ask_for_more_offers() {
        let mut choice = Choice::new(false, Ok(()), 1);
        choice.heard(Duration::ZERO, Say::Offer { path: 2, endpoint: vec![1] });
        choice.answered(2, Err("no way there".into()));
        assert_eq!(choice.due(), None);
    }

    #[test]
    fn an_end_that_is_able_again_and_again_is_offered_no_more_often() {
        let mut choice = Choice::new(true, Ok(()), 1);
        let mut offers = 0;
        let mut now = Duration::ZERO;
        while now < FIRST_PAUSE * 10 {
            now += FIRST_PAUSE / 100;
            choice.heard(now, Say::Able);
            for step in choice.tick(now) {
                let Step::Prepare(path) = step else { panic!("{step:?}") };
                offers += 1;
                choice.prepared(now, path, Ok(vec![1]));
                choice.heard(now, Say::Decline { path, reason: "no device".into() });
            }
        }
        assert!((9..=11).contains(&offers), "{offers} in ten seconds");
    }

    proptest! {
        #[test]
        fn both_ends_come_to_the_same_path(events in proptest::collection::vec(0u8..8, 0..60)) {
            let mut pair = Pair::new();
            for event in events {
                match event {
                    0 | 1 => {
                        pair.deliver(usize::from(event));
                    }
                    2 | 3 => {
                        // What one end loses the other notices, too, at some time; only a path in use can be lost.
                        let end = usize::from(event - 2);
                        if pair.used[end].1 {
                            pair.lose(end);
                        }
                    }
                    4 => pair.tick(),
                    5 => pair.works = !pair.works,
                    6 => {
                        // What is said of a path that was left comes late.
                        for end in 0..2 {
                            let steps = pair.ends[end].lost(pair.now, pair.used[end].0 - 1, "late".into());
                            assert!(steps.is_empty(), "it is of no interest any more");
                        }
                    }
                    _ => pair.settle(),
                }
            }
            pair.settle();
            // An end that still uses a path which the other has left notices that.
            for end in 0..2 {
                if pair.used[end].0 < pair.used[1 - end].0 {
                    pair.lose(end);
                    pair.settle();
                }
            }
            prop_assert_eq!(pair.used[0], pair.used[1]);
            pair.works = true;
            pair.tick();
            pair.settle();
            prop_assert_eq!(pair.used[0], pair.used[1]);
            prop_assert!(pair.used[0].1, "RDMA is found again");
        }
    }
}
