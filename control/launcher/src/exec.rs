//! Turns a new process into the function's program: everything between fork and `execve`.
//!
//! The parent prepares all memory ([`Plan`]); the child only makes system calls ([`Plan::run`]).

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::ptr;

use libc::{c_char, c_int};

/// The child's steps, prepared so that they need no allocation.
pub(crate) struct Plan<'a> {
    program: &'a CStr,
    /// Pointers to the strings, and a null at the end.
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    cwd: Option<&'a CStr>,
    /// Descriptors of the parent and the numbers that they get in the child.
    moves: Vec<(RawFd, RawFd)>,
    /// The lowest number above all targets.
    floor: RawFd,
    /// Where the child reports: a close-on-exec pipe.
    report: RawFd,
    /// Whether it reports its pid before anything else.
    report_pid: bool,
    /// The `tasks` file of its memory cgroup.
    memory: Option<RawFd>,
    oom_score_adj: Option<CString>,
    open_files: libc::rlimit,
    /// Signals that stay ignored: see [`sys::ignored_signals`](crate::sys::ignored_signals).
    ignored: u64,
    /// The process that creates the child.
    pub(crate) parent: i32,
}

/// The arguments of [`Plan::new`].
pub(crate) struct PlanParts<'a> {
    pub(crate) program: &'a CStr,
    pub(crate) argv: &'a [CString],
    pub(crate) env: &'a [CString],
    pub(crate) cwd: Option<&'a CStr>,
    pub(crate) moves: Vec<(RawFd, RawFd)>,
    pub(crate) report: RawFd,
    pub(crate) report_pid: bool,
    pub(crate) memory: Option<RawFd>,
    pub(crate) oom_score_adj: Option<i16>,
    pub(crate) open_files: libc::rlimit,
    pub(crate) ignored: u64,
}

/// The step at which a child failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Fork = 1,
    Session,
    Memory,
    OomScore,
    Descriptors,
    Directory,
    Exec,
}

/// A failure as the child reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: i32,
}

impl Failure {
    /// Length of a failure in the report.
    pub(crate) const LENGTH: usize = 8;

    pub(crate) fn from_bytes(bytes: [u8; Self::LENGTH]) -> Option<Self> {
        let [a, b, c, d, errno @ ..] = bytes;
        let number = i32::from_ne_bytes([a, b, c, d]);
        let steps =
            [Step::Fork, Step::Session, Step::Memory, Step::OomScore, Step::Descriptors, Step::Directory, Step::Exec];
        let step = steps.into_iter().find(|&step| step as i32 == number)?;
        Some(Self { step, errno: i32::from_ne_bytes(errno) })
    }
}

impl<'a> Plan<'a> {
    pub(crate) fn new(parts: PlanParts<'a>) -> Self {
        let highest = parts.moves.iter().map(|&(_, target)| target).max().unwrap_or(0);
        Self {
            program: parts.program,
            argv: pointers(parts.argv),
            env: pointers(parts.env),
            cwd: parts.cwd,
            moves: parts.moves,
            floor: highest.max(libc::STDERR_FILENO) + 1,
            report: parts.report,
            report_pid: parts.report_pid,
            memory: parts.memory,
            oom_score_adj: parts.oom_score_adj.and_then(|adjustment| CString::new(adjustment.to_string()).ok()),
            open_files: parts.open_files,
            ignored: parts.ignored,
            parent: std::process::id() as i32,
        }
    }

    /// Executes the program, or reports the failure and exits.
    ///
    /// # Safety
    /// This process is a fresh child: no other code uses its descriptors, and it has one thread.
    pub(crate) unsafe fn run(&mut self) -> ! {
        // SAFETY: the caller's promise; `try_run` allocates nothing and takes no lock.
        let failure = unsafe { self.try_run() };
        self.fail(failure)
    }

    /// Reports `failure` and exits, when the child cannot even be created.
    pub(crate) fn fail(&self, failure: Failure) -> ! {
        let mut bytes = [0; Failure::LENGTH];
        bytes[..4].copy_from_slice(&(failure.step as i32).to_ne_bytes());
        bytes[4..].copy_from_slice(&failure.errno.to_ne_bytes());
        // SAFETY: `bytes` is alive and of that length.
        unsafe { libc::write(self.report, bytes.as_ptr().cast(), bytes.len()) };
        crate::sys::exit_now(127)
    }

    /// # Safety
    /// As for [`Self::run`].
    unsafe fn try_run(&mut self) -> Failure {
        // SAFETY: all pointers are to memory prepared by the parent, of which this process has a copy; the calls are
        // async-signal-safe; descriptors are this process's own.
        unsafe {
            // Ends the child when its parent is killed. The parent has one thread, so the signal is tied to the process
            // and not to a thread that may end earlier.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid() != self.parent {
                crate::sys::exit_now(127);
            }
            if libc::setsid() == -1 {
                return failure(Step::Session);
            }
            // `0` stands for the writing process.
            if let Some(entrance) = self.memory
                && libc::write(entrance, c"0".as_ptr().cast(), 1) != 1
            {
                return failure(Step::Memory);
            }
            if let Some(adjustment) = &self.oom_score_adj
                && !write_file(c"/proc/self/oom_score_adj", adjustment)
            {
                return failure(Step::OomScore);
            }

            // All sources move above every target first, so that no move overwrites a descriptor that a later one
            // needs.
            let sources = self.moves.iter_mut().map(|(fd, _)| fd);
            for fd in sources.chain([&mut self.report]).filter(|fd| **fd < self.floor) {
                match libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, self.floor) {
                    -1 => return failure(Step::Descriptors),
                    moved => *fd = moved,
                }
            }
            if self.report_pid {
                let pid = libc::getpid().to_ne_bytes();
                libc::write(self.report, pid.as_ptr().cast(), pid.len());
            }
            for &(fd, target) in &self.moves {
                if libc::dup2(fd, target) == -1 {
                    return failure(Step::Descriptors);
                }
            }
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const self.open_files);

            if let Some(cwd) = self.cwd
                && libc::chdir(cwd.as_ptr()) == -1
            {
                return failure(Step::Directory);
            }
            default_signals(self.ignored);
            libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.env.as_ptr());
            failure(Step::Exec)
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

fn failure(step: Step) -> Failure {
    // SAFETY: errno is this thread's own.
    let errno = unsafe { *libc::__errno_location() };
    Failure { step, errno }
}

/// # Safety
/// As for [`Plan::run`].
unsafe fn write_file(path: &CStr, text: &CStr) -> bool {
    // SAFETY: both strings are alive; the descriptor is opened and closed here.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd == -1 {
            return false;
        }
        let length = text.count_bytes();
        let written = libc::write(fd, text.as_ptr().cast(), length);
        // The error of the write, if any, stays in errno: closing succeeds.
        libc::close(fd);
        written == length as isize
    }
}

/// Gives every signal its default action, except those that are to stay ignored, and unblocks all of them: the launcher
/// blocks them, and Rust ignores SIGPIPE.
///
/// # Safety
/// As for [`Plan::run`].
unsafe fn default_signals(ignored: u64) {
    const LAST_SIGNAL: c_int = 64;
    /// `sizeof(sigset_t)` of the kernel.
    const SET_SIZE: usize = 8;
    // All zeroes is SIG_DFL without flags and with an empty mask; at least as long as the kernel's `struct sigaction`.
    let default = [0u64; 8];
    // SAFETY: the kernel reads `default`, and refuses the signals that cannot be changed. Not by the C library's
    // sigaction, which refuses two more; those may have been inherited ignored as well.
    unsafe {
        for signal in (1..=LAST_SIGNAL).filter(|signal| ignored & (1 << (signal - 1)) == 0) {
            let nothing = ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), nothing, SET_SIZE);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}
