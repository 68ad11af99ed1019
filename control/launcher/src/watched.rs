//! The descriptors of attempts that the launcher waits for, in one epoll set.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::event::epoll::{self, EventData, EventFlags};

/// Which descriptor of an attempt is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The report of a new process on its way to `execve`.
    Report = 0,
    /// Its standard error.
    Captured = 1,
    /// The alarm of its memory cgroup.
    Memory = 2,
}

impl Source {
    /// The number of bits that it takes in a token.
    const BITS: u32 = 2;
    const MASK: u64 = (1 << Self::BITS) - 1;

    /// The attempt's number and the source of an event.
    pub(crate) fn of(token: EventData) -> (u64, Self) {
        let source = match token.u64() & Self::MASK {
            0 => Self::Report,
            1 => Self::Captured,
            _ => Self::Memory,
        };
        (token.u64() >> Self::BITS, source)
    }

    fn token(self, attempt: u64) -> EventData {
        EventData::new_u64(attempt << Self::BITS | self as u64)
    }
}

/// A descriptor in the epoll set that is removed explicitly before it is closed.
///
/// Closing alone is not enough: a freshly forked process holds a copy until it execs, and until then epoll keeps the
/// descriptor in the set. Once ready, it would turn every wait into a busy loop.
#[derive(Debug)]
pub(crate) struct Watched {
    fd: OwnedFd,
    epoll: Rc<OwnedFd>,
}

impl Watched {
    /// Watches a descriptor of an attempt. Attempt numbers are never reused, so a late event cannot hit another
    /// attempt.
    pub(crate) fn new(epoll: &Rc<OwnedFd>, fd: OwnedFd, attempt: u64, source: Source) -> io::Result<Self> {
        epoll::add(&**epoll, &fd, source.token(attempt), EventFlags::IN)?;
        Ok(Self { fd, epoll: Rc::clone(epoll) })
    }
}

impl Watched {
    /// Stops waiting for it. A descriptor whose other end is closed would be ready all the time even with an empty set
    /// of events, so it leaves the set.
    pub(crate) fn pause(&self) -> io::Result<()> {
        Ok(epoll::delete(&*self.epoll, &self.fd)?)
    }

    /// Waits for it again.
    pub(crate) fn resume(&self, attempt: u64, source: Source) -> io::Result<()> {
        Ok(epoll::add(&*self.epoll, &self.fd, source.token(attempt), EventFlags::IN)?)
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // This can only fail if the descriptor is not in the set, which is the desired state.
        let _ = epoll::delete(&*self.epoll, &self.fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::Timespec;
    use rustix::event::epoll::CreateFlags;
    use rustix::pipe::{PipeFlags, pipe_with};

    #[test]
    fn a_closed_descriptor_is_not_ready_although_another_process_has_a_copy() {
        let epoll = Rc::new(epoll::create(CreateFlags::CLOEXEC).unwrap());
        let ready = || {
            let mut events = Vec::with_capacity(4);
            epoll::wait(&*epoll, rustix::buffer::spare_capacity(&mut events), Some(&Timespec::default())).unwrap();
            events.iter().map(|event| Source::of(event.data)).collect::<Vec<_>>()
        };
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        // The effect of a fork.
        let _inherited = reader.try_clone().unwrap();
        let watched = Watched::new(&epoll, reader, 7, Source::Captured).unwrap();
        drop(writer);
        assert_eq!(ready(), [(7, Source::Captured)]);
        drop(watched);
        assert_eq!(ready(), []);
    }
}
