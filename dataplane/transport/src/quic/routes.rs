//! Dispatch of the QUIC streams that a peer opens on a connection to the present path.

use super::connection::Shared;
use super::header::{Content, HEADER, Header};
use super::incoming::{Receiving, read_flow, read_messages, refuse};
use super::lock;
use super::settings::{FIRST_STREAMS, MOST_STREAMS};
use crate::path::{PathError, PathKind};
use quinn::{ReadExactError, RecvStream, VarInt};
use std::sync::Arc;

/// Streams that a peer may open beyond one for each flow and path: the messages of paths that it begins before this node
/// does.
const SPARE_STREAMS: u64 = 16;

/// The present path, and which streams may still be opened.
pub(super) struct Routes {
    current: Option<Arc<Receiving>>,
    /// The number of the last path on this connection.
    last: Option<u64>,
    /// The messages of a path that this node has not begun yet.
    ahead: Option<(u64, RecvStream)>,
    /// How many more streams the peer may open: one for each flow that it was granted a window for, one for each path.
    allowed: u64,
    /// QUIC's own limit on streams that are open at once.
    at_once: u32,
    dead: Option<PathError>,
}

impl Default for Routes {
    fn default() -> Self {
        Self { current: None, last: None, ahead: None, allowed: SPARE_STREAMS, at_once: FIRST_STREAMS, dead: None }
    }
}

impl Routes {
    /// Whether the peer may have opened one more stream.
    fn take_one(&mut self) -> bool {
        let left = self.allowed.checked_sub(1);
        self.allowed = left.unwrap_or(0);
        left.is_some()
    }
}

impl Shared {
    /// Streams belong to this path from now on.
    pub(super) fn begin(self: &Arc<Self>, receiving: &Arc<Receiving>) -> Result<(), PathError> {
        let incarnation = receiving.incarnation();
        if let Some(error) = self.quic.close_reason() {
            return Err(over(&self.reason(&error)));
        }
        let mut routes = lock(&self.routes);
        if let Some(error) = &routes.dead {
            return Err(error.clone());
        }
        if routes.last.is_some_and(|last| incarnation <= last) {
            let problem =
                format!("path {incarnation} or a later one has been on this connection already: use a higher number");
            return Err(PathError::Resource(problem));
        }
        routes.last = Some(incarnation);
        routes.allowed += 1;
        if let Some(before) = routes.current.replace(receiving.clone()) {
            before.lost(over("this node has begun another path"));
        }
        match routes.ahead.take() {
            Some((theirs, stream)) if theirs == incarnation => {
                receiving.take_messages();
                self.runtime.spawn(read_messages(self.clone(), receiving.clone(), stream));
            }
            Some((theirs, stream)) if theirs > incarnation => {
                routes.ahead = Some((theirs, stream));
                drop(routes);
                receiving.lost(over("the peer has begun another path"));
            }
            _ => {}
        }
        Ok(())
    }

    /// The path is over.
    pub(super) fn end(&self, receiving: &Arc<Receiving>) {
        let mut routes = lock(&self.routes);
        if routes.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, receiving)) {
            routes.current = None;
        }
    }

    /// The peer may open a stream for one more flow. `flows`: the number of flows.
    pub(super) fn allow(&self, flows: usize) {
        let mut routes = lock(&self.routes);
        routes.allowed += 1;
        let needed = u32::try_from(flows).unwrap_or(u32::MAX).saturating_mul(2);
        if needed > routes.at_once && routes.at_once < MOST_STREAMS {
            routes.at_once = needed.saturating_mul(2).min(MOST_STREAMS);
            self.quic.set_max_concurrent_uni_streams(VarInt::from_u32(routes.at_once));
        }
    }

    /// The connection is closed, or about to be, for this reason: the path on it is lost.
    pub(super) fn broken(&self, error: &PathError) {
        let mut routes = lock(&self.routes);
        routes.dead.get_or_insert_with(|| error.clone());
        routes.ahead = None;
        if let Some(current) = routes.current.take() {
            current.lost(error.clone());
        }
    }
}

/// Reads the header of a stream and hands it to the present path.
pub(super) async fn route(shared: Arc<Shared>, mut stream: RecvStream) {
    let mut bytes = [0; HEADER];
    let outcome = stream.read_exact(&mut bytes).await;
    let outcome = match outcome {
        _ if !lock(&shared.routes).take_one() => {
            Err(PathError::Protocol("more streams than there are flows".to_owned()))
        }
        Ok(()) => match Header::decode(&bytes) {
            Some(header) => dispatch(&shared, header, stream),
            None => Err(PathError::Protocol("a stream with a malformed header".to_owned())),
        },
        Err(ReadExactError::FinishedEarly(bytes)) => {
            Err(PathError::Protocol(format!("a stream that ends after {bytes} bytes, within its header")))
        }
        // Reset with its path before the header arrived; or the connection is gone, which `serve` reports.
        Err(ReadExactError::ReadError(_)) => Ok(()),
    };
    if let Err(error) = outcome {
        shared.violation(&error);
    }
}

fn dispatch(shared: &Arc<Shared>, header: Header, stream: RecvStream) -> Result<(), PathError> {
    let mut routes = lock(&shared.routes);
    let current = routes.current.clone().filter(|current| current.incarnation() == header.incarnation);
    let is_over = routes.last.is_some_and(|last| header.incarnation <= last);
    match (header.content, current) {
        (Content::Messages, Some(current)) => {
            drop(routes);
            if !current.take_messages() {
                return Err(PathError::Protocol("a second stream for messages".to_owned()));
            }
            tokio::spawn(read_messages(shared.clone(), current, stream));
        }
        (Content::Flow { flow, start }, Some(current)) => {
            drop(routes);
            match current.open(flow, start)? {
                Some(inflow) => {
                    tokio::spawn(read_flow(shared.clone(), current, inflow, start, stream));
                }
                None => refuse(stream),
            }
        }
        (_, None) if is_over => refuse(stream),
        (Content::Messages, None) => {
            let newer = routes.ahead.as_ref().is_none_or(|(ahead, _)| header.incarnation > *ahead);
            let unwanted = if newer { routes.ahead.replace((header.incarnation, stream)) } else { None };
            if let Some((_, unwanted)) = unwanted {
                refuse(unwanted);
            }
            if let Some(current) = &routes.current {
                current.lost(over("the peer has begun another path"));
            }
        }
        (Content::Flow { .. }, None) => {
            return Err(PathError::Protocol("bytes of a path that this node has not begun".to_owned()));
        }
    }
    Ok(())
}

pub(super) fn over(reason: &str) -> PathError {
    PathError::Lost { kind: PathKind::Quic, reason: reason.to_owned() }
}
