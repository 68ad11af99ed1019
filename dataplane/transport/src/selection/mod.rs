//! Which path two nodes use: the most preferred kind that both have, the base kind otherwise, and the base kind again
//! when another path is lost.
//!
//! [`Selector`] decides. There is one at each end of a connection, and one of the two *leads*: it offers each kind that is
//! preferred to the present path, at once, and again some time after it was declined or lost. An end that could not
//! prepare an endpoint checks now and then whether it can, and tells the leading end. Either end may fall back to the base
//! kind. Every path has a higher number than those before it, and both ends use paths in the order of their numbers; so it
//! does not matter if both notice a loss at the same time, or if signals cross.
//!
//! [`Negotiator`] carries the decisions out with the [`Provider`]s of the kinds.

mod selector;
mod signal;
#[cfg(test)]
mod tests;

pub use selector::{Selector, Step};
pub use signal::Signal;

use crate::kinds::{BASE, PathSettings, providers};
use crate::path::{Path, PathError, PathKind};
use crate::provider::{Provider, ProviderError};
use crate::quic::Connection;
use std::task::Waker;
use std::time::Instant;

/// What the owner of a connection has to do, in this order.
pub enum Effect {
    /// Send this to the peer, over the control channel of the connection.
    Send(Signal),
    /// Use this path, which has this number, in place of the one before.
    Use(Box<dyn Path>, u64),
    /// There is no path any more: close the connection, with this reason.
    Close(PathError),
}

/// One end's negotiation of the paths on a connection.
pub struct Negotiator {
    selector: Selector,
    /// The most preferred first.
    providers: Vec<Box<dyn Provider>>,
    /// A path that the other end has not confirmed yet.
    connected: Option<Box<dyn Path>>,
    started: Instant,
    /// The peer's name, for the log.
    peer: String,
}

impl Negotiator {
    /// Begins with a path of the base kind, which is returned. `leads`: this end makes the offers; exactly one of the two
    /// does. `number`: that of the path. `waker`: see [`Path`].
    ///
    /// # Errors
    /// If the connection is closed.
    pub fn begin(
        connection: &Connection,
        leads: bool,
        settings: &PathSettings,
        number: u64,
        waker: Waker,
    ) -> Result<(Self, Box<dyn Path>), PathError> {
        let path = connection.path(number, waker)?;
        let providers = providers(connection.address().ip(), settings);
        let allowed = providers.iter().map(|provider| provider.allowed().map_err(|error| error.to_string()));
        let candidates = providers.iter().map(|provider| provider.kind()).zip(allowed).collect();
        let selector = Selector::new(leads, BASE, candidates, number);
        let peer = connection.peer().to_owned();
        Ok((Self { selector, providers, connected: None, started: Instant::now(), peer }, path))
    }

    /// The number of the present path.
    #[must_use]
    pub fn path(&self) -> u64 {
        self.selector.path()
    }

    /// Since when the connection negotiates.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Why the present path is not of this kind; `None` if it is, or if the reason is not known.
    #[must_use]
    pub fn why_not(&self, kind: PathKind) -> Option<&str> {
        self.selector.why_not(kind)
    }

    /// A signal of the peer has arrived.
    pub fn receive(&mut self, connection: &Connection, waker: &Waker, signal: Signal) -> Vec<Effect> {
        let steps = self.selector.receive(self.started.elapsed(), signal);
        self.perform(connection, waker, steps)
    }

    /// The path of this number is lost.
    pub fn lost(&mut self, connection: &Connection, waker: &Waker, number: u64, error: &PathError) -> Vec<Effect> {
        let steps = self.selector.lost(self.started.elapsed(), number, error.to_string());
        self.perform(connection, waker, steps)
    }

    /// To be called now and then: makes the offers that are due.
    pub fn tick(&mut self, connection: &Connection, waker: &Waker) -> Vec<Effect> {
        let steps = self.selector.tick(self.started.elapsed());
        self.perform(connection, waker, steps)
    }

    fn perform(&mut self, connection: &Connection, waker: &Waker, steps: Vec<Step>) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take(connection, waker, steps, &mut effects);
        for provider in &mut self.providers {
            if self.selector.is_idle(provider.kind()) {
                provider.release();
            }
        }
        effects
    }

    fn take(&mut self, connection: &Connection, waker: &Waker, steps: Vec<Step>, effects: &mut Vec<Effect>) {
        for step in steps {
            let now = self.started.elapsed();
            let follow = match step {
                Step::Send(signal) => {
                    effects.push(Effect::Send(signal));
                    Vec::new()
                }
                Step::UseBase(number) => {
                    tracing::info!(node = self.peer, "streams go by {BASE} from now on");
                    self.connected = None;
                    effects.push(match connection.path(number, waker.clone()) {
                        Ok(path) => Effect::Use(path, number),
                        Err(error) => Effect::Close(error),
                    });
                    Vec::new()
                }
                Step::Prepare(number, kind) => {
                    let endpoint = self.prepare(kind, waker).map_err(|error| error.to_string());
                    if let Err(reason) = &endpoint
                        && self.selector.why_not(kind) != Some(reason)
                    {
                        tracing::info!(node = self.peer, reason, "no {kind}");
                    }
                    self.selector.prepared(now, number, endpoint)
                }
                Step::Answer(number, kind, endpoint) => match self.prepare(kind, waker) {
                    Ok(own) => {
                        let connected = self.connect(kind, &endpoint).map(|path| self.connected = Some(path));
                        self.selector.answered(number, kind, connected.map(|()| own).map_err(|error| error.to_string()))
                    }
                    Err(error) => self.selector.unable(now, number, kind, error.to_string()),
                },
                Step::Check(kind) => {
                    // Released again at once: an offer prepares another.
                    let result = self.prepare(kind, waker).map(drop);
                    self.selector.checked(now, kind, result.map_err(|error| error.to_string()))
                }
                Step::Use(number) => {
                    if let Some(path) = self.connected.take() {
                        effects.push(self.using(path, number));
                    }
                    Vec::new()
                }
                Step::Complete(number, kind, endpoint) => {
                    let result = self.connect(kind, &endpoint).map(|path| effects.push(self.using(path, number)));
                    self.selector.completed(now, number, kind, result.map_err(|error| error.to_string()))
                }
            };
            self.take(connection, waker, follow, effects);
        }
    }

    fn using(&self, path: Box<dyn Path>, number: u64) -> Effect {
        tracing::info!(node = self.peer, "streams go by {} from now on", path.kind());
        Effect::Use(path, number)
    }

    fn prepare(&mut self, kind: PathKind, waker: &Waker) -> Result<Vec<u8>, ProviderError> {
        self.provider(kind)?.prepare(waker.clone())
    }

    fn connect(&mut self, kind: PathKind, endpoint: &[u8]) -> Result<Box<dyn Path>, ProviderError> {
        self.provider(kind)?.connect(endpoint)
    }

    /// The selector only names kinds that it was given, and those have providers.
    fn provider(&mut self, kind: PathKind) -> Result<&mut Box<dyn Provider>, ProviderError> {
        self.providers.iter_mut().find(|provider| provider.kind() == kind).ok_or(ProviderError::NotPrepared)
    }
}
