//! The signals that end a run or a worker.
//!
//! The first SIGINT, SIGTERM or SIGHUP ends it gracefully: functions receive SIGTERM and get time to clean up. A second
//! signal, or SIGQUIT, ends it at once, and so does any signal before a run has begun. A signal that was ignored when
//! `dflow` started stays ignored, such as SIGHUP under `nohup`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use dflow_worker::Canceller;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// The signals that were received.
pub struct Caught(Arc<AtomicI32>);

impl Caught {
    /// The first signal that was received.
    pub fn first(&self) -> Option<i32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
    }
}

/// Handles signals in a separate thread for the lifetime of the process.
///
/// # Errors
/// If the handlers cannot be installed or the thread cannot be started.
pub fn watch(canceller: Canceller) -> io::Result<Caught> {
    let ignored = ignored();
    let watched = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];
    let mut signals = Signals::new(watched.iter().filter(|signal| ignored & (1 << (*signal - 1)) == 0))?;
    let first = Arc::new(AtomicI32::new(0));
    let caught = Caught(Arc::clone(&first));
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut count = 0;
        for signal in signals.forever() {
            let _ = first.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
            count += 1;
            let name = name(signal);
            let delivered = match count {
                1 if signal != SIGQUIT => canceller.cancel(name),
                1 | 2 => canceller.kill(name),
                // Two signals have had no effect: the event loop is stuck.
                _ => false,
            };
            if !delivered {
                // The launcher notices the death of this process and kills all functions.
                let _ = emulate_default_handler(signal);
            }
        }
    })?;
    Ok(caught)
}

/// The name of a signal, for messages.
fn name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "SIGINT, as by Ctrl-C",
        SIGTERM => "SIGTERM",
        SIGHUP => "SIGHUP, as when the terminal is closed",
        SIGQUIT => "SIGQUIT",
        _ => "a signal",
    }
}

/// The signals that this process ignores, as a mask whose lowest bit is signal 1; 0 if that cannot be read.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.unwrap_or(0)
}
