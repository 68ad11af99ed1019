//! The decisions: a pure state machine, one at each end of a connection.

use super::signal::Signal;
use crate::path::PathKind;
use std::time::Duration;

/// The pauses before a kind is offered again: they double from the first to the last.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LAST_PAUSE: Duration = Duration::from_secs(60);
/// How often an end that could not prepare an endpoint checks whether it can.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// A path that was in use for this long was stable: after its loss, its kind is offered again soon.
const STABLE: Duration = Duration::from_secs(10);

/// What the caller has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this to the other end.
    Send(Signal),
    /// Use a path of the base kind with this number.
    UseBase(u64),
    /// Prepare an endpoint for the path of this number; [`Selector::prepared`] answers.
    Prepare(u64, PathKind),
    /// Check whether an endpoint of this kind can be prepared; [`Selector::checked`] answers.
    Check(PathKind),
    /// Prepare an endpoint and connect it to the other end's; [`Selector::answered`] answers, or [`Selector::unable`] if
    /// none can be prepared. The path must not be used before [`Step::Use`]: until the other end has connected as well,
    /// it loses everything that is sent.
    Answer(u64, PathKind, Vec<u8>),
    /// Use the path of this number, which was connected for [`Step::Answer`].
    Use(u64),
    /// Connect the prepared endpoint to the other end's, and use the path; [`Selector::completed`] answers.
    Complete(u64, PathKind, Vec<u8>),
}

/// A kind that has to be negotiated.
#[derive(Clone, Debug)]
struct Candidate {
    kind: PathKind,
    /// This end may use it.
    allowed: bool,
    /// When to offer it, or to check whether it can be used again.
    retry_at: Option<Duration>,
    pause: Duration,
    /// When it was offered last.
    offered_at: Duration,
    /// Why it is not in use; empty if unknown.
    reason: String,
}

/// An exchange of signals that is under way. `candidate`: an index into [`Selector::candidates`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Nothing,
    /// The endpoint is being prepared or was offered. `broken`: the present path was lost meanwhile.
    Offering {
        candidate: usize,
        path: u64,
        broken: bool,
    },
    /// The endpoint is connected at this end, and the other end has not confirmed it.
    Answered {
        candidate: usize,
        path: u64,
    },
}

/// One end's selection of paths.
#[derive(Clone, Debug)]
pub struct Selector {
    leads: bool,
    base: PathKind,
    /// The most preferred first. All of them are preferred to the base.
    candidates: Vec<Candidate>,
    /// The number of the present path.
    path: u64,
    /// The kind of the present path, as an index into the candidates; `None`: the base.
    current: Option<usize>,
    /// Since when the present path is in use.
    since: Duration,
    pending: Pending,
}

impl Selector {
    /// Begins on a path of the base kind with this number, which is in use already. `leads`: this end makes the offers;
    /// exactly one of the two does. `candidates`: the kinds that can be offered, the most preferred first, each with the
    /// reason if this end must not use it.
    #[must_use]
    pub fn new(leads: bool, base: PathKind, candidates: Vec<(PathKind, Result<(), String>)>, path: u64) -> Self {
        let candidate = |(kind, allowed): (PathKind, Result<(), String>)| Candidate {
            kind,
            allowed: allowed.is_ok(),
            retry_at: (leads && allowed.is_ok()).then_some(Duration::ZERO),
            pause: FIRST_PAUSE,
            offered_at: Duration::ZERO,
            reason: allowed.err().unwrap_or_default(),
        };
        let candidates = candidates.into_iter().map(candidate).collect();
        Self { leads, base, candidates, path, current: None, since: Duration::ZERO, pending: Pending::Nothing }
    }

    /// The number of the present path.
    #[must_use]
    pub fn path(&self) -> u64 {
        self.path
    }

    /// The kind of the present path.
    #[must_use]
    pub fn kind(&self) -> PathKind {
        self.current.map_or(self.base, |current| self.candidates[current].kind)
    }

    /// Why the present path is not of this kind; `None` if it is, or if the reason is not known.
    #[must_use]
    pub fn why_not(&self, kind: PathKind) -> Option<&str> {
        let candidate = self.candidates.iter().find(|candidate| candidate.kind == kind)?;
        (self.kind() != kind && !candidate.reason.is_empty()).then_some(candidate.reason.as_str())
    }

    /// Whether this kind is neither in use nor being negotiated: nothing has to be kept for it.
    #[must_use]
    pub fn is_idle(&self, kind: PathKind) -> bool {
        let pending = match self.pending {
            Pending::Nothing => None,
            Pending::Offering { candidate, .. } | Pending::Answered { candidate, .. } => Some(candidate),
        };
        [self.current, pending].into_iter().flatten().all(|candidate| self.candidates[candidate].kind != kind)
    }

    /// When [`Selector::tick`] is due.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.preferred().filter_map(|candidate| candidate.retry_at).min()
    }

    /// The time has come that [`Selector::due`] names.
    pub fn tick(&mut self, now: Duration) -> Vec<Step> {
        let is_due = |candidate: &Candidate| candidate.retry_at.is_some_and(|at| at <= now);
        let Some(index) = self.preferred().position(is_due) else { return Vec::new() };
        let candidate = &mut self.candidates[index];
        candidate.retry_at = None;
        if !self.leads {
            return vec![Step::Check(candidate.kind)];
        }
        candidate.offered_at = now;
        let path = self.path + 1;
        self.pending = Pending::Offering { candidate: index, path, broken: false };
        vec![Step::Prepare(path, candidate.kind)]
    }

    /// The endpoint for this path was prepared, or cannot be.
    pub fn prepared(&mut self, now: Duration, path: u64, endpoint: Result<Vec<u8>, String>) -> Vec<Step> {
        let Some(candidate) = self.offering(path) else { return Vec::new() };
        match endpoint {
            Ok(endpoint) => {
                vec![Step::Send(Signal::Offer { path, kind: self.candidates[candidate].kind, endpoint })]
            }
            Err(reason) => self.refused(now, candidate, reason, CHECK_EVERY),
        }
    }

    /// An endpoint of this kind can be prepared again, or still cannot.
    pub fn checked(&mut self, now: Duration, kind: PathKind, result: Result<(), String>) -> Vec<Step> {
        match result {
            Ok(()) => vec![Step::Send(Signal::Available { kind })],
            Err(reason) => {
                if let Some(candidate) = self.candidate_mut(kind) {
                    candidate.reason = reason;
                    candidate.retry_at = Some(now + CHECK_EVERY);
                }
                Vec::new()
            }
        }
    }

    /// An endpoint of this end was connected to the one that was offered, or cannot be.
    pub fn answered(&mut self, path: u64, kind: PathKind, endpoint: Result<Vec<u8>, String>) -> Vec<Step> {
        let Some(index) = self.index(kind) else { return Vec::new() };
        let candidate = &mut self.candidates[index];
        candidate.retry_at = None;
        match endpoint {
            Ok(endpoint) => {
                self.pending = Pending::Answered { candidate: index, path };
                vec![Step::Send(Signal::Accept { path, endpoint })]
            }
            Err(reason) => {
                candidate.reason.clone_from(&reason);
                vec![Step::Send(Signal::Decline { path, reason })]
            }
        }
    }

    /// This end could not prepare an endpoint to connect to the one that was offered.
    pub fn unable(&mut self, now: Duration, path: u64, kind: PathKind, reason: String) -> Vec<Step> {
        let steps = self.answered(path, kind, Err(reason));
        if let Some(candidate) = self.candidate_mut(kind) {
            candidate.retry_at = Some(now + CHECK_EVERY);
        }
        steps
    }

    /// The prepared endpoint is connected and the path in use, or it cannot be connected.
    pub fn completed(&mut self, now: Duration, path: u64, kind: PathKind, result: Result<(), String>) -> Vec<Step> {
        let Some(candidate) = self.index(kind) else { return Vec::new() };
        // Also after a failure: the other end has connected already, and waits on this number for what becomes of it.
        self.begin(now, candidate, path);
        match result {
            Ok(()) => vec![Step::Send(Signal::Confirm { path })],
            Err(reason) => self.lost(now, path, reason),
        }
    }

    /// The path of this number is lost. The loss of an earlier one was to be expected and changes nothing.
    pub fn lost(&mut self, now: Duration, path: u64, reason: String) -> Vec<Step> {
        if path != self.path {
            return Vec::new();
        }
        match &mut self.pending {
            Pending::Offering { broken, .. } => {
                // The answer to the offer is under way and decides what comes next.
                *broken = true;
                return Vec::new();
            }
            // The other end has left the path for the one that was offered, or is about to say that it will not.
            Pending::Answered { .. } => return Vec::new(),
            Pending::Nothing => {}
        }
        if let Some(current) = self.current {
            self.candidates[current].reason = reason;
        }
        let path = self.path + 1;
        let mut steps = vec![Step::Send(Signal::FallBack { path })];
        steps.extend(self.fall_back(now, path));
        steps
    }

    /// A signal of the other end has arrived.
    pub fn receive(&mut self, now: Duration, signal: Signal) -> Vec<Step> {
        match signal {
            // A number that is not above the present path's was sent before the other end knew of that path.
            Signal::Offer { path, .. } if self.leads || path <= self.path => Vec::new(),
            Signal::Offer { path, kind, endpoint } => match self.candidate_mut(kind) {
                Some(candidate) if candidate.allowed => vec![Step::Answer(path, kind, endpoint)],
                Some(candidate) => {
                    let reason = candidate.reason.clone();
                    vec![Step::Send(Signal::Decline { path, reason })]
                }
                None => {
                    let reason = format!("this node has no paths by {kind}");
                    vec![Step::Send(Signal::Decline { path, reason })]
                }
            },
            Signal::Accept { path, endpoint } => match self.offering(path) {
                Some(candidate) => vec![Step::Complete(path, self.candidates[candidate].kind, endpoint)],
                None => Vec::new(),
            },
            Signal::Decline { path, reason } => match self.offering(path) {
                Some(candidate) => self.refused(now, candidate, reason, LAST_PAUSE),
                None => Vec::new(),
            },
            Signal::Confirm { path } => match self.pending {
                Pending::Answered { candidate, path: answered } if answered == path => {
                    self.begin(now, candidate, path);
                    vec![Step::Use(path)]
                }
                _ => Vec::new(),
            },
            Signal::FallBack { path } if path > self.path => self.fall_back(now, path),
            Signal::FallBack { .. } => Vec::new(),
            Signal::Available { kind } => {
                let is_wanted = self.leads && self.preferred().any(|candidate| candidate.kind == kind);
                if is_wanted && let Some(candidate) = self.candidate_mut(kind).filter(|candidate| candidate.allowed) {
                    // The other end may send this as often as it likes; offers keep their distance.
                    candidate.retry_at = Some(now.max(candidate.offered_at + FIRST_PAUSE));
                }
                Vec::new()
            }
        }
    }

    fn index(&self, kind: PathKind) -> Option<usize> {
        self.candidates.iter().position(|candidate| candidate.kind == kind)
    }

    fn candidate_mut(&mut self, kind: PathKind) -> Option<&mut Candidate> {
        self.candidates.iter_mut().find(|candidate| candidate.kind == kind)
    }

    /// The candidates that are preferred to the present path, unless a negotiation is under way: then none.
    fn preferred(&self) -> impl Iterator<Item = &Candidate> {
        let count = if self.pending == Pending::Nothing { self.current.unwrap_or(self.candidates.len()) } else { 0 };
        self.candidates[..count].iter()
    }

    /// The candidate for which this end has offered the path of this number.
    fn offering(&self, path: u64) -> Option<usize> {
        match self.pending {
            Pending::Offering { candidate, path: offered, .. } if offered == path => Some(candidate),
            _ => None,
        }
    }

    fn begin(&mut self, now: Duration, candidate: usize, path: u64) {
        if let Some(before) = self.current.filter(|&before| self.leads && before != candidate) {
            // Left for a better one, not lost: it is offered at once if the better one is.
            self.candidates[before].retry_at = Some(now);
        }
        self.path = path;
        self.current = Some(candidate);
        self.since = now;
        self.pending = Pending::Nothing;
        self.candidates[candidate].reason.clear();
    }

    /// `longest`: the longest pause before the next offer.
    fn refused(&mut self, now: Duration, candidate: usize, reason: String, longest: Duration) -> Vec<Step> {
        let broken = matches!(self.pending, Pending::Offering { broken: true, .. });
        self.pending = Pending::Nothing;
        self.candidates[candidate].reason.clone_from(&reason);
        self.candidates[candidate].pause = self.candidates[candidate].pause.min(longest);
        self.retry_later(now, candidate);
        if broken { self.lost(now, self.path, reason) } else { Vec::new() }
    }

    fn fall_back(&mut self, now: Duration, path: u64) -> Vec<Step> {
        let pending = match std::mem::replace(&mut self.pending, Pending::Nothing) {
            Pending::Nothing => None,
            Pending::Offering { candidate, .. } | Pending::Answered { candidate, .. } => Some(candidate),
        };
        let current = self.current.take();
        if let Some(current) = current.filter(|_| now.saturating_sub(self.since) >= STABLE) {
            self.candidates[current].pause = FIRST_PAUSE;
        }
        self.path = path;
        for index in 0..self.candidates.len() {
            let is_involved = current == Some(index) || pending == Some(index);
            if is_involved && self.candidates[index].reason.is_empty() {
                self.candidates[index].reason = "the other node has lost it".into();
            }
            // The base was lost: the network is in trouble, and every kind waits.
            if is_involved || (current.is_none() && pending.is_none()) {
                self.retry_later(now, index);
            }
        }
        vec![Step::UseBase(path)]
    }

    fn retry_later(&mut self, now: Duration, index: usize) {
        let candidate = &mut self.candidates[index];
        if self.leads && candidate.allowed {
            candidate.retry_at = Some(now + candidate.pause);
            candidate.pause = (candidate.pause * 2).min(LAST_PAUSE);
        }
    }
}
