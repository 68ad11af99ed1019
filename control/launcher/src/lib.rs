//! The launcher: a small process that is the parent of every function process.
//!
//! A node daemon maps gigabytes and runs many threads; forking it costs tens of milliseconds and is unsound between its
//! threads. So the daemon starts its own program as a second, single-threaded process *before* it grows, and asks that
//! process, over a Unix socket, to start and to kill attempts. `dflow-worker` is the only user of this crate. The crate
//! does not deal with streams and uses no other crate of the workspace.
//!
//! ```text
//!   dflow (daemon)                     dflow __launcher                      function processes
//!   Launcher ── SpawnRequest, stop ──▶ serve() ── clone3 / fork, exec ──────▶ attempt 1, attempt 2, …
//!            ◀───── LauncherEvent ────         ◀── SIGCHLD, stderr ─────────
//! ```
//!
//! Guarantees:
//!
//! - **An attempt has ended when all of its processes have ended.** When its main process ends, all other processes of
//!   the attempt (background jobs, daemonised grandchildren) are killed, and only then is [`LauncherEvent::Exited`]
//!   sent.
//! - **No attempt outlives the daemon.** When the daemon's end of the socket closes, for whatever reason, every attempt
//!   is killed and the launcher exits. When the launcher itself is killed, its attempts die too.
//! - **An attempt has time to clean up.** [`Launcher::stop`] sends SIGTERM to all of its processes, and kills only
//!   those that remain after its grace.
//! - **An attempt gets only what the request contains**: descriptors, environment, directory. It starts in a new
//!   session, with an empty signal mask and default signal dispositions, except that signals ignored by the daemon stay
//!   ignored, as with a shell (SIGHUP under nohup).
//!
//! The processes of an attempt are held together by its [`Containment`]: a separate cgroup if the machine allows it,
//! otherwise a separate subreaper process.
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
mod containment;
mod diagnose;
mod error;
mod event;
mod exec;
mod executable;
mod message;
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
pub use message::MessageError;
pub use request::SpawnRequest;
pub use server::serve;
pub use sys::ignore_file_size_signal;

/// The hidden first argument with which the daemon's program is started as a launcher: see [`serve`].
pub const ARGUMENT: &str = "__launcher";

/// Maximum number of attempts that may be alive at the same time.
pub const MAX_ATTEMPTS: usize = 16_384;

/// Maximum number of descriptors of one attempt (the kernel passes at most 253 in one message).
pub const MAX_DESCRIPTORS: usize = 250;

/// The highest descriptor number that a request may use.
pub const MAX_TARGET: i32 = 1023;

/// Maximum size of a request in bytes: program, arguments, environment and directory together. It is larger than what
/// the kernel accepts for one program (6 MiB at most), so that users encounter only the kernel's limit.
pub const MAX_REQUEST_BYTES: usize = 8 << 20;

/// Maximum number of bytes that are kept from the end of an attempt's standard error.
pub const MAX_STDERR_TAIL: usize = 32 << 10;

/// Maximum grace of an attempt: see [`Launcher::stop`]. A longer one is shortened to this.
pub const MAX_GRACE: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);
/// Maximum number of bytes in one [`LauncherEvent::Output`].
pub const MAX_OUTPUT_BYTES: usize = 32 << 10;

/// Maximum number of messages that wait to be sent, in each direction.
pub const MAX_QUEUED: usize = 4096;
