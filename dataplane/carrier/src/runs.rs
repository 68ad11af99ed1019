//! The runs whose streams this node carries, each with its attachment to the store.

use crate::ports::Ports;
use crate::watch::Watched;
use dflow_ports::{Attachment, SessionError};
use dflow_protocol::{PortId, RunId};
use dflow_shm::{BellWait, PeerWord, Wait, Watchers};
use std::collections::HashMap;
use std::time::Duration;

/// The most bells that the carrier itself watches while it sleeps: those of the runs whose store has sent messages last.
/// [`Watchers`] watch the others.
const WATCHED: usize = 16;

/// The number of a run in the carrier. A run that begins again under the same id has another one: streams of its
/// predecessor may still be closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RunNumber(pub(super) u32);

/// A run.
pub(super) struct Run {
    pub(super) id: RunId,
    pub(super) attachment: Attachment,
    bell: BellWait,
    /// The turn in which messages came last.
    active: u64,
    /// [`Watchers`] watch its bell.
    is_watched: bool,
}

/// Ports with messages from the store, and the runs whose channels have failed.
#[derive(Default)]
pub(super) struct Mail {
    pub(super) ports: Vec<(RunNumber, PortId)>,
    pub(super) failed: Vec<(RunNumber, String)>,
}

/// The runs. Those that are asleep cost nothing in a turn: their bells are watched by [`Watchers`].
#[derive(Default)]
pub(super) struct Runs {
    runs: Ports<RunNumber, Run>,
    numbers: HashMap<RunId, RunNumber>,
    last: u32,
    turn: u64,
}

impl Runs {
    /// One more run.
    ///
    /// # Errors
    /// If the store is gone.
    pub(super) fn begin(&mut self, id: RunId, attachment: Attachment) -> Result<RunNumber, SessionError> {
        let bell = attachment.bell();
        // From now on it lists the ports that have messages. There is none yet.
        attachment.ports_with_mail()?;
        self.last = self.last.wrapping_add(1);
        let number = RunNumber(self.last);
        self.runs.insert(number, Run { id, attachment, bell, active: self.turn, is_watched: false });
        self.numbers.insert(id, number);
        Ok(number)
    }

    /// Removes a run. Its channel is closed with the last of its streams.
    pub(super) fn remove(&mut self, number: RunNumber, watchers: &mut Watchers) -> Option<Run> {
        let run = self.runs.remove(&number)?;
        self.numbers.remove(&run.id);
        if run.is_watched {
            watchers.forget(Watched::Bell(number).name());
        }
        Some(run)
    }

    pub(super) fn number(&self, id: RunId) -> Option<RunNumber> {
        self.numbers.get(&id).copied()
    }

    /// The run of this id, if it has begun.
    pub(super) fn get(&self, id: RunId) -> Option<(RunNumber, &Run)> {
        let number = self.number(id)?;
        Some((number, self.runs.get(&number)?))
    }

    /// The bell of this run may have been rung.
    pub(super) fn wake(&mut self, number: RunNumber) {
        self.runs.wake(&number, |run| run.is_watched = false);
    }

    /// Takes the messages of the store for the runs that are awake.
    pub(super) fn take_mail(&mut self) -> Mail {
        self.turn += 1;
        let mut mail = Mail::default();
        for (&number, run) in self.runs.awake_mut() {
            if run.bell.take_news() {
                run.active = self.turn;
                match run.attachment.ports_with_mail() {
                    Ok(ports) => mail.ports.extend(ports.into_iter().map(|port| (number, port))),
                    Err(error) => mail.failed.push((number, error.to_string())),
                }
            }
        }
        mail
    }

    /// Prepares for sleep: of the runs that are awake, the most active stay so, and watchers take over the others' bells.
    pub(super) fn rest(&mut self, watchers: &mut Watchers) {
        if self.runs.awake().count() <= WATCHED {
            return;
        }
        let mut active: Vec<u64> = self.runs.awake().map(|run| run.active).collect();
        // Down to half: otherwise the next active run would make this due again.
        let mut left = active.len() - WATCHED / 2;
        let (_, &mut last, _) = active.select_nth_unstable(left - 1);
        let mut list: Vec<(u64, PeerWord, u64)> = Vec::new();
        self.runs.put_to_sleep(|&number, run| {
            let leaves = left > 0 && run.active <= last && !run.bell.ready();
            if leaves && let Some((word, value)) = run.bell.peer_word() {
                left -= 1;
                run.is_watched = true;
                list.push((Watched::Bell(number).name(), word, value));
            }
            leaves
        });
        if let Err(error) = watchers.watch(&mut list) {
            tracing::warn!(%error, "cannot start a thread that watches idle runs: the carrier watches them itself");
        }
        for (name, ..) in list {
            if let Watched::Bell(number) = Watched::named(name) {
                self.wake(number);
            }
        }
    }

    /// Waits until one of `ports` can go on, the store has sent messages to a run, or the time is up.
    pub(super) fn wait<'a>(&'a mut self, mut ports: Vec<&'a mut dyn Wait>, limit: Duration) {
        let mut latest: Option<(u64, &Attachment)> = None;
        for (_, Run { bell, attachment, active, .. }) in self.runs.awake_mut() {
            ports.push(bell);
            if latest.is_none_or(|(before, _)| before < *active) {
                latest = Some((*active, attachment));
            }
        }
        match latest {
            Some((_, attachment)) => attachment.wait(&mut ports, limit),
            None => _ = dflow_shm::wait_at_most(&mut ports, None, dflow_shm::Idle::SLEEP, limit),
        }
    }
}
