//! An output whose parts are opened while the function runs.

use crate::error::WriteError;
use crate::output::OutPort;
use crate::session::{Port, Session};
use dflow_protocol::PortId;
use dflow_protocol::message::ToDaemon;
use dflow_shm::Wait;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// An output whose parts are opened while the function runs.
pub struct Parts {
    session: Arc<Session>,
    name: Arc<str>,
    /// Its place among the outputs of the setup.
    index: u32,
    seen: u64,
    asked: bool,
}

impl Parts {
    /// The output with this place among those of the setup.
    #[must_use]
    pub fn new(session: Arc<Session>, name: Arc<str>, index: u32) -> Self {
        Self { session, name, index, seen: 0, asked: false }
    }

    /// The session that the output belongs to.
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Opens one more part. `None` until the daemon has answered: wait, and call it again.
    ///
    /// # Errors
    /// [`WriteError::PartRefused`] if there are too many parts; [`WriteError`] if the daemon is gone.
    pub fn try_open(&mut self) -> Result<Option<OutPort>, WriteError> {
        if !std::mem::replace(&mut self.asked, true) {
            self.session.send(&ToDaemon::OpenPart { output: self.index })?;
        }
        let Some(answer) = self.session.part(self.index, &mut self.seen)? else { return Ok(None) };
        self.asked = false;
        let port: PortId =
            answer.map_err(|reason| WriteError::PartRefused { output: self.name.to_string(), reason })?;
        Ok(Some(OutPort::new(Arc::clone(&self.session), Arc::clone(&self.name), port)))
    }
}

impl Port for Parts {
    fn seen(&self) -> u64 {
        self.seen
    }
}

/// It waits for the daemon's answer alone, which the bell announces.
impl Wait for Parts {
    fn ready(&mut self) -> bool {
        false
    }

    fn settle(&mut self) {}

    fn announce(&mut self) {}

    fn word(&self) -> Option<(&AtomicU64, u64)> {
        None
    }

    fn retract(&mut self) {}
}
