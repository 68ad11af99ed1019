//! DScheduler's run state machine: which instance of which function starts when, what happens when one fails, and when
//! a run is complete.
//!
//! [`RunMachine`] takes a checked workflow from `dflow-workflow`, receives events ([`Event`]) and emits actions
//! ([`Action`]). It has no sockets, no processes, no threads and no clock: `dflow-worker` drives it with real processes
//! and a real store, the tests drive it with a simulated node. Every decision that depends on the order of events is
//! made here and nowhere else.
//!
//! The rules, one to a file: `expand` (which instances and streams there are), `lists` (the order of parts), `gate`
//! (when an instance may start), `attach` (the streams of an attempt), `slots` (which instance starts first), `attempt`
//! and `restart` (the life of an attempt, failures, void epochs), `switch` (which functions run at all), `finality`
//! (what is certain, and which subscriptions can be closed), `unread` (producers without readers) and `race`
//! (candidates of a k-of-n choice that fail).
//!
//! A node that several runs share grants them its slots with a [`SlotPool`]. Time limits are kept by the node on which an
//! attempt runs, because it knows first when the attempt waits: [`Stopwatch`].

mod action;
mod attach;
mod attempt;
mod event;
mod expand;
mod finality;
mod gate;
pub mod limits;
mod lists;
mod machine;
mod options;
mod part;
mod plan;
mod race;
mod report;
mod restart;
mod slot_pool;
mod slots;
mod state;
mod stopwatch;
mod switch;
mod unread;

pub use action::{Action, Producer};
pub use dflow_protocol::{Epoch, InstanceId, StreamId};
pub use event::{Event, Outcome};
pub use machine::{RunMachine, RunState};
pub use options::{Invocation, Place, PlaceOptions, PlanError, RunOptions};
pub use part::PartPath;
pub use report::{AttemptEnd, AttemptRecord, Counts, InstanceKind, InstanceState, InstanceView, OutputStream};
pub use slot_pool::SlotPool;
pub use stopwatch::{Overrun, Spent, Stopwatch, TimeLimits, Wait};
