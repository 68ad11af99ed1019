//! The io_uring implementation: several blocks in flight at once. A call returns when all of them have completed.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};
use rustix::io::Errno;

use crate::blocks::{Block, Blocks};
use crate::io::SpillIo;
use crate::plain::{Direction, Plain, TRY_AGAIN_LIMIT, check_range};
use crate::{DiskError, SharedBytes, SpillFile};

/// The largest request in bytes.
const LARGEST: usize = 1 << 20;

/// The most requests in flight.
const DEPTH: usize = 8;

/// The pause between two polls for completions of a ring whose system call fails.
const BROKEN_POLL: Duration = Duration::from_micros(100);

/// io_uring, or plain I/O once the ring itself has failed.
pub(crate) struct Ring {
    /// Taken while a transfer runs; not put back if the ring fails.
    ring: Option<IoUring>,
}

impl Ring {
    /// Sets up a ring and checks that it works. The error says why it does not.
    pub(crate) fn open() -> Result<Ring, String> {
        let mut ring = IoUring::new(DEPTH as u32).map_err(|error| explain("io_uring_setup", &error))?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).map_err(|error| explain("io_uring_register", &error))?;
        if !(probe.is_supported(opcode::Write::CODE) && probe.is_supported(opcode::Read::CODE)) {
            return Err("this kernel's io_uring has no read and write (it takes Linux 5.6)".into());
        }
        // A sandbox may allow io_uring_setup and still forbid io_uring_enter.
        ring.submit_and_wait(0).map_err(|error| explain("io_uring_enter", &error))?;
        // Nothing was submitted, so the queue must be empty.
        debug_assert!(ring.completion().is_empty());
        Ok(Ring { ring: Some(ring) })
    }

    /// Moves `len` bytes between `memory` and `offset` of `file`; `Ok(false)` means that the ring has failed and is
    /// closed.
    ///
    /// # Safety
    /// `memory` is the beginning of `len` bytes that stay mapped during the call and that the kernel may write, if
    /// `direction` is `Read`, or read, if it is a write.
    unsafe fn transfer(
        &mut self,
        file: &SpillFile,
        direction: Direction,
        offset: u64,
        memory: *mut u8,
        len: usize,
    ) -> Result<bool, DiskError> {
        let end = check_range(file, direction, offset, len)?;
        let Some(mut ring) = self.ring.take() else {
            return Ok(false);
        };
        let mut flight = Flight { ring: &mut ring, in_flight: 0 };
        let mut blocks = Blocks::new(offset, memory as usize, len, LARGEST, file.is_direct());
        let mut slots: [Option<Request>; DEPTH] = [const { None }; DEPTH];
        let mut again: Option<Request> = None;
        let mut moved_in_all = 0;
        let mut failure = None;

        loop {
            while failure.is_none() {
                let Some(free) = slots.iter().position(Option::is_none) else {
                    break;
                };
                let next = again.take().or_else(|| blocks.next().map(Request::new));
                let Some(request) = next else { break };
                slots[free] = Some(request);
                // SAFETY: the block lies within the `len` bytes that the caller vouches for until this call returns,
                // and `flight` does not let it return, or unwind, before the kernel is done with them.
                let pushed = unsafe { flight.push(request.entry(file, direction, memory, free as u64)) };
                if let Err(error) = pushed {
                    return Ok(ring_failed(&error));
                }
            }
            if flight.in_flight == 0 {
                break;
            }
            let completion = match flight.wait() {
                Ok(completion) => completion,
                Err(error) => return Ok(ring_failed(&error)),
            };
            let slot = usize::try_from(completion.user_data()).ok().and_then(|slot| slots.get_mut(slot));
            let Some(request) = slot.and_then(Option::take) else {
                return Ok(ring_failed(&io::Error::other("a completion that belongs to no request")));
            };
            match request.landed(file, direction, completion.result()) {
                Landed::Done(moved) => moved_in_all += moved,
                Landed::Again(moved, rest) => {
                    moved_in_all += moved;
                    again = Some(rest);
                }
                Landed::Failed(error) => failure = failure.or(Some(error)),
            }
        }

        drop(flight);
        self.ring = Some(ring);
        match failure {
            None => Ok(true),
            Some(error) => {
                Err(DiskError::transfer(direction.op(), file.dir(), (len - moved_in_all) as u64, end, error))
            }
        }
    }
}

impl SpillIo for Ring {
    fn name(&self) -> &'static str {
        if self.ring.is_some() { "io-uring" } else { Plain.name() }
    }

    fn write(&mut self, file: &SpillFile, offset: u64, bytes: SharedBytes<'_>) -> Result<(), DiskError> {
        // SAFETY: `SharedBytes::new` promises the mapping; the kernel only reads it, and Rust code does not touch it.
        let moved = unsafe { self.transfer(file, Direction::Write, offset, bytes.as_ptr().cast_mut(), bytes.len())? };
        if moved { Ok(()) } else { Plain.write(file, offset, bytes) }
    }

    fn read(&mut self, file: &SpillFile, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        // SAFETY: `into` is exclusively borrowed for the whole call.
        let moved = unsafe { self.transfer(file, Direction::Read, offset, into.as_mut_ptr(), into.len())? };
        if moved { Ok(()) } else { Plain.read(file, offset, into) }
    }
}

/// Requests that the kernel may be working on. Its drop waits until the kernel has finished with all of them, on error
/// paths, too: until then the kernel may access their memory.
struct Flight<'a> {
    ring: &'a mut IoUring,
    /// Pushed and not yet completed.
    in_flight: usize,
}

impl Flight<'_> {
    /// Queues a request for the next [`Flight::wait`].
    ///
    /// # Safety
    /// The memory that `entry` names must stay valid for the kernel for as long as this value exists.
    unsafe fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller vouches for the memory until this value is gone, and its drop waits for the completion.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        self.in_flight += 1;
        Ok(())
    }

    /// Submits what was pushed and waits for one completion; an error is one of the ring, not of a request.
    fn wait(&mut self) -> io::Result<cqueue::Entry> {
        let mut tries = 0;
        loop {
            if let Some(completion) = self.take() {
                return Ok(completion);
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    // The kernel is short of memory or completions; both pass when something completes.
                    Some(Errno::AGAIN | Errno::BUSY) if tries < TRY_AGAIN_LIMIT => {
                        tries += 1;
                        std::thread::yield_now();
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    fn take(&mut self) -> Option<cqueue::Entry> {
        let completion = self.ring.completion().next()?;
        self.in_flight -= 1;
        Some(completion)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        // Entries that the kernel has not taken are never submitted: a ring that gets here with any is not used again.
        let never_taken = self.ring.submission().len();
        while self.in_flight > never_taken {
            if self.take().is_none() {
                std::thread::sleep(BROKEN_POLL);
            }
        }
    }
}

/// One request, with the number of its EAGAINs.
#[derive(Clone, Copy)]
struct Request {
    block: Block,
    tries: u32,
}

/// The outcome of a request.
enum Landed {
    /// All of its bytes moved; their number.
    Done(usize),
    /// Some bytes moved; their number, and a request for the rest.
    Again(usize, Request),
    Failed(io::Error),
}

impl Request {
    fn new(block: Block) -> Request {
        Request { block, tries: 0 }
    }

    fn entry(&self, file: &SpillFile, direction: Direction, memory: *mut u8, user_data: u64) -> squeue::Entry {
        let fd = types::Fd(file.descriptor(self.block.direct).as_raw_fd());
        let part = memory.wrapping_add(self.block.at);
        let len = self.block.len as u32;
        match direction {
            Direction::Write => opcode::Write::new(fd, part, len).offset(self.block.offset).build(),
            Direction::Read => opcode::Read::new(fd, part, len).offset(self.block.offset).build(),
        }
        .user_data(user_data)
    }

    fn landed(self, file: &SpillFile, direction: Direction, result: i32) -> Landed {
        let again = Request { block: self.block, tries: self.tries + 1 };
        match usize::try_from(result) {
            Ok(0) => Landed::Failed(direction.moved_nothing()),
            Ok(moved) => match self.block.rest(moved) {
                None => Landed::Done(moved),
                Some(rest) => Landed::Again(moved, Request::new(rest)),
            },
            Err(_) => match Errno::from_raw_os_error(-result) {
                Errno::INTR | Errno::AGAIN if self.tries < TRY_AGAIN_LIMIT => Landed::Again(0, again),
                Errno::INVAL if self.block.direct => {
                    file.stop_direct();
                    let block = Block { direct: false, ..self.block };
                    Landed::Again(0, Request::new(block))
                }
                errno => Landed::Failed(errno.into()),
            },
        }
    }
}

/// Logs that plain I/O takes over. Returns `false`, the result of such a transfer.
fn ring_failed(error: &io::Error) -> bool {
    tracing::warn!(%error, "the io_uring of a spill thread failed; it goes on with plain reads and writes");
    false
}

/// Explains why a call of io_uring failed.
fn explain(call: &str, error: &io::Error) -> String {
    let why = match Errno::from_io_error(error) {
        Some(Errno::NOSYS) => "this kernel has no io_uring, or a sandbox hides it",
        Some(Errno::PERM | Errno::ACCESS) => {
            "it is forbidden here (by kernel.io_uring_disabled, or by the seccomp filter of a container)"
        }
        Some(Errno::NOMEM) => "the locked memory limit (ulimit -l) or the machine's memory is too small for a ring",
        Some(Errno::MFILE | Errno::NFILE) => "no descriptor is left for a ring (ulimit -n)",
        _ => "it failed in a way that is not expected",
    };
    format!("{why} ({call}: {error})")
}
