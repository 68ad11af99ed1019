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
//! One machine can decide a whole run, or each node decides its part ([`Scope`]): then the machines keep the same state of
//! all instances, each decides for those of its own node (`scope`) and tells the others what they have to know
//! ([`Fact`], `audience`), and replays what it hears (`mirror`). The first node is the coordinator too: it decides when
//! the run is over (`commit`), what depends on instances of several nodes at once (`release`), and what runs again when
//! nodes are lost (`recovery`).
//!
//! Before a run, the [`planner`] decides which node each instance should run on.
//!
//! A node that several runs share grants them its slots with a [`SlotPool`]. Time limits are kept by the node on which an
//! attempt runs, because it knows first when the attempt waits: [`Stopwatch`].

mod action;
mod attach;
mod attempt;
mod audience;
mod commit;
mod event;
mod expand;
mod fact;
mod finality;
mod gate;
pub mod limits;
mod lists;
mod machine;
mod mirror;
mod options;
mod part;
mod plan;
pub mod planner;
mod race;
mod record;
mod recovery;
mod release;
mod report;
mod restart;
mod scope;
mod slot_pool;
mod slots;
mod state;
mod stopwatch;
mod switch;
mod table;
mod unread;

pub use action::{Action, Producer};
pub use dflow_protocol::{Epoch, InstanceId, StreamId};
pub use event::{Event, Outcome};
pub use fact::{AttemptProgress, Fact, InstanceStanding, Inventory, KnownParts, Standing, StreamCopy};
pub use machine::{RunMachine, RunState};
pub use options::{Invocation, Place, PlaceOptions, PlanError, RunOptions, Scope};
pub use part::PartPath;
pub use record::{AttemptEnd, AttemptRecord};
pub use report::{Counts, InstanceKind, InstanceState, InstanceView, OutputStream};
pub use slot_pool::SlotPool;
pub use stopwatch::{Overrun, Spent, Stopwatch, TimeLimits, Wait};
