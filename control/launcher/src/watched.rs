//! The descriptors of attempts that the launcher waits for, all in one epoll set.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::event::epoll::{self, EventData, EventFlags};

/// Which descriptor of an attempt is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// How far the new process came.
    Report = 0,
    /// What it writes.
    Captured = 1,
    /// Its memory cgroup.
    Memory = 2,
}

impl Source {
    /// How many bits of a token it takes.
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

/// A descriptor in the epoll set, which leaves it before it is closed.
///
/// To close it would not do: a process that has just been forked has it until it becomes its program, for as long the
/// descriptor stays in the set, and once it is ready there is no more waiting.
#[derive(Debug)]
pub(crate) struct Watched {
    fd: OwnedFd,
    epoll: Rc<OwnedFd>,
}

impl Watched {
    /// Waits for a descriptor of an attempt. The attempt's number is one that is never used again, so that a late event
    /// cannot hit another one.
    pub(crate) fn new(epoll: &Rc<OwnedFd>, fd: OwnedFd, attempt: u64, source: Source) -> io::Result<Self> {
        epoll::add(&**epoll, &fd, source.token(attempt), EventFlags::IN)?;
        Ok(Self { fd, epoll: Rc::clone(epoll) })
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // It can only fail if it is not in the set, and then all is well.
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
    fn what_is_closed_is_not_ready_although_another_process_has_it() {
        let epoll = Rc::new(epoll::create(CreateFlags::CLOEXEC).unwrap());
        let ready = || {
            let mut events = Vec::with_capacity(4);
            epoll::wait(&*epoll, rustix::buffer::spare_capacity(&mut events), Some(&Timespec::default())).unwrap();
            events.iter().map(|event| Source::of(event.data)).collect::<Vec<_>>()
        };
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        // What a fork does.
        let _inherited = reader.try_clone().unwrap();
        let watched = Watched::new(&epoll, reader, 7, Source::Captured).unwrap();
        drop(writer);
        assert_eq!(ready(), [(7, Source::Captured)]);
        drop(watched);
        assert_eq!(ready(), []);
    }
}
