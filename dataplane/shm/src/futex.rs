//! Sleeping on control words and waking sleepers, by shared futexes.

use dflow_protocol::words::Platform;
use rustix::io::Errno;
use rustix::thread::futex::{self, WaitFlags, WaitPtr, WaitvFlags};
use rustix::time::Timespec;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

/// The most words that one sleep can watch (the kernel's `FUTEX_WAITV_MAX`).
pub const MAX_WORDS: usize = 128;

/// The protocol's platform: words in mapped memory, `futex_waitv` and `FUTEX_WAKE`.
#[derive(Debug)]
pub struct Kernel;

impl Platform for Kernel {
    type Word = AtomicU64;

    fn fence() {
        fence(Ordering::SeqCst);
    }

    fn wake(word: &AtomicU64) {
        // SAFETY: the low half of a live, aligned 64-bit word. The reference is only turned back into an address by the
        // system call; nothing in this process loads or stores through it.
        let low = unsafe { &*std::ptr::from_ref(word).cast::<AtomicU32>() };
        // Without FUTEX_PRIVATE_FLAG: sleepers are in other processes. A wake-up cannot fail on mapped memory.
        let _ = futex::wake(low, futex::Flags::empty(), i32::MAX as u32);
    }

    fn sleep(words: &[(&AtomicU64, u64)]) {
        sleep_until(words, None);
    }
}

/// [`Platform::sleep`] with a limit. At most [`MAX_WORDS`] words are watched.
pub fn sleep_until(words: &[(&AtomicU64, u64)], limit: Option<Duration>) {
    let mut waiters = [futex::Wait::new(); MAX_WORDS];
    let count = words.len().min(MAX_WORDS);
    for (waiter, (word, value)) in waiters.iter_mut().zip(words) {
        waiter.val = value & u64::from(u32::MAX);
        waiter.uaddr = WaitPtr::new(std::ptr::from_ref(*word).cast_mut().cast());
        waiter.flags = WaitFlags::SIZE_U32;
    }
    let deadline = limit.map(|limit| {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let nanos = now.tv_nsec + i64::from(limit.subsec_nanos());
        Timespec {
            tv_sec: now.tv_sec + i64::try_from(limit.as_secs()).unwrap_or(i64::MAX / 2) + nanos / 1_000_000_000,
            tv_nsec: nanos % 1_000_000_000,
        }
    });
    let result =
        futex::waitv(&waiters[..count], WaitvFlags::empty(), deadline.as_ref(), rustix::thread::ClockId::Monotonic);
    // Kernels before 5.16 and some seccomp filters have no futex_waitv: poll instead. Any other error is a wake-up, a
    // changed value or a time-out, and the caller looks at its words again in any case.
    if let Err(Errno::NOSYS | Errno::PERM) = result {
        const NAP: Duration = Duration::from_micros(200);
        std::thread::sleep(limit.map_or(NAP, |limit| limit.min(NAP)));
    }
}
