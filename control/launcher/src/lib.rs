//! The launcher: a small process that is the parent of every function process.
//!
//! A node daemon maps gigabytes and runs many threads; forking it costs tens of milliseconds and is unsound between its
//! threads. So the daemon starts a second, single-threaded process of its own program *before* it grows, and asks that
//! process, over a Unix socket, to start and to kill attempts. `dflow-worker` is the one user of this crate; it knows
//! nothing of streams and uses no other crate of the workspace.
//!
//! ```text
//!   dflow (daemon)                     dflow __launcher                      function processes
//!   Launcher ── SpawnRequest, stop ──▶ serve() ── clone3 / fork, exec ──────▶ attempt 1, attempt 2, …
//!            ◀───── LauncherEvent ────         ◀── SIGCHLD, stderr ─────────
//! ```
//!
//! What it promises:
//!
//! - **An attempt has ended when nothing of it runs any more.** When its main process ends, whatever it left behind
//!   (background jobs, daemonised grandchildren) is killed, and only then is [`LauncherEvent::Exited`] sent.
//! - **Nothing outlives the daemon.** When the daemon's end of the socket closes, for whatever reason, every attempt is
//!   killed and the launcher ends. When the launcher itself is killed, its attempts die too.
//! - **An attempt has time to clean up.** [`Launcher::stop`] sends SIGTERM to all of it, and kills only what is left after
//!   its grace.
//! - **An attempt inherits only what it was given**: its descriptors, its environment, its directory; default signal
//!   dispositions, except that a signal which the daemon ignored stays ignored, as with a shell (SIGHUP under nohup); an
//!   empty signal mask, a session of its own.
//!
//! How the processes of an attempt are held together is its [`Containment`]: a cgroup of its own where the machine
//! allows it, else a subreaper process of its own.
//!
//! ```no_run
//! use dflow_launcher::{ARGUMENT, Launcher, LauncherEvent, LauncherOptions, SpawnRequest};
//!
//! fn main() -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
//!     // First thing in `main`: no thread and no memory yet.
//!     if std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT) {
//!         return Ok(dflow_launcher::serve());
//!     }
//!     let mut launcher = Launcher::start(&LauncherOptions::default())?;
//!     launcher.spawn(1, SpawnRequest::new("/bin/true"))?;
//!     loop {
//!         // A daemon waits until the launcher's descriptor is readable, instead of spinning.
//!         if let Some(LauncherEvent::Exited { id, status, .. }) = launcher.recv()? {
//!             println!("attempt {id}: {status}");
//!             break;
//!         }
//!     }
//!     launcher.shutdown()?;
//!     Ok(std::process::ExitCode::SUCCESS)
//! }
//! ```

mod attempt;
mod cgroup;
mod channel;
mod client;
mod codec;
mod containment;
mod diagnose;
mod error;
mod event;
mod exec;
mod executable;
mod message;
#[cfg(test)]
#[path = "../../../dataplane/protocol/tests/mutation/mod.rs"]
mod mutation;
mod reaper;
mod request;
mod server;
mod startup;
mod sys;
mod tail;
mod watched;

pub use client::{Launcher, LauncherOptions};
pub use containment::{Containment, ContainmentChoice, ContainmentKind, MemoryLimits};
pub use error::Error;
pub use event::{ExitStatus, LauncherEvent, Usage};
pub use executable::{explain_exec, explain_line_ends};
pub use request::SpawnRequest;
pub use server::serve;
pub use sys::ignore_file_size_signal;

/// The hidden first argument with which the daemon's program is started as a launcher: see [`serve`].
pub const ARGUMENT: &str = "__launcher";

/// How many attempts may live at the same time.
pub const MAX_ATTEMPTS: usize = 16_384;

/// How many descriptors one attempt may be given at its start (the kernel passes at most 253 in one message).
pub const MAX_DESCRIPTORS: usize = 250;

/// The highest descriptor number that an attempt may be given.
pub const MAX_TARGET: i32 = 1023;

/// The largest request in bytes: program, arguments, environment and directory together. It is above what the kernel
/// accepts for one program (6 MiB at most), so that the kernel's own limit is the one that a user meets.
pub const MAX_REQUEST_BYTES: usize = 8 << 20;

/// How much of the end of an attempt's standard error can be kept, in bytes.
pub const MAX_STDERR_TAIL: usize = 32 << 10;

/// The longest grace of an attempt: see [`Launcher::stop`]. A longer one is cut.
pub const MAX_GRACE: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);
/// The most bytes of a program's output in one [`LauncherEvent::Output`].
pub const MAX_OUTPUT_BYTES: usize = 32 << 10;

/// How many messages may wait to be sent in either direction.
pub const MAX_QUEUED: usize = 4096;
