//! Ways to fail.

use dflow_function::{Context, Error};
use std::time::Duration;

/// The kind and the time of the failure.
pub struct Failure {
    how: Option<String>,
    at: u64,
}

impl Failure {
    /// Reads `fail`, `fail_at` and `fail_attempts`. The ways: `error` (an error with a message), `exit` (status 3
    /// without a word), `panic`, `kill` (SIGKILL to itself), `kill-in-chunk` (the same between filling a room and
    /// committing it), `abort` (SIGABRT), `hang` (sleeps forever), `spin` (computes forever), `orphan` (leaves a
    /// background process that ignores signals, then continues).
    pub fn from_params(ctx: &Context) -> Result<Self, Error> {
        let attempts: u32 = ctx.param("fail_attempts")?.unwrap_or(u32::MAX);
        let how = ctx.param_text("fail")?.filter(|_| ctx.attempt() <= attempts).map(str::to_owned);
        Ok(Self { how, at: ctx.param("fail_at")?.unwrap_or(0) })
    }

    /// To be called when a chunk has been read, or written and committed.
    pub fn after(&mut self, bytes: u64) -> Result<(), Error> {
        match self.how.take_if(|how| bytes >= self.at && how != "kill-in-chunk") {
            Some(how) => act(&how),
            None => Ok(()),
        }
    }

    /// To be called when a chunk has been filled and not committed.
    pub fn in_the_middle(&mut self, bytes: u64) -> Result<(), Error> {
        match self.how.take_if(|how| bytes >= self.at && how == "kill-in-chunk") {
            Some(_) => act("kill"),
            None => Ok(()),
        }
    }
}

fn act(how: &str) -> Result<(), Error> {
    match how {
        "error" => Err(Error::new("it was told to fail")),
        "exit" => std::process::exit(3),
        "panic" => panic!("it was told to panic"),
        "abort" => std::process::abort(),
        "kill" => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            Err(Error::new("it has survived SIGKILL"))
        }
        "hang" => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        "spin" => loop {
            std::hint::spin_loop();
        },
        "orphan" => std::process::Command::new("sh")
            .args(["-c", "trap '' TERM HUP INT; (setsid sleep 12345 &) ; exit 0"])
            .status()
            .map(|_| ())
            .map_err(Error::from),
        other => Err(Error::new(format!("there is no way to fail called '{other}'"))),
    }
}
