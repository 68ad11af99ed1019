//! A process's connection to its node's daemon, shared by all its ports.

use crate::error::SessionError;
use crate::inbox::{Inbox, InputMail, Mail};
use crate::input::InPort;
use crate::opening::Opening;
use dflow_protocol::PortId;
use dflow_protocol::limits::{MAX_MESSAGE, MAX_REASON};
use dflow_protocol::message::{OutputStreams, ProgramState, Setup, ToDaemon};
use dflow_shm::{Bell, Control, Doorbell, Idle, Listener, Memory, Park, Wait, channel, finish, wait_until};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The daemon is told of a sleep that lasts this long, so that another instance can have the slot. Shorter sleeps are
/// not worth the message.
pub(crate) const PARK_AFTER: Duration = Duration::from_millis(1);

/// A port that can be waited for: [`crate::InPort`], [`crate::OutPort`], [`crate::FanIn`] or [`crate::Parts`].
pub trait Port: Wait {
    /// How many of the daemon's messages this port has seen. A wait ends as soon as there are more.
    fn seen(&self) -> u64;

    /// When to try again although nothing has happened.
    fn try_again_at(&self) -> Option<Instant> {
        None
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// A port may be able to go on: try again.
    Ready,
    /// The limit has passed.
    TimedOut,
    /// [`Interrupter::interrupt`] was called.
    Interrupted,
}

/// The connection of one attempt to its daemon. Every port holds an `Arc` of it.
///
/// There is one session for each attempt, and usually one for each process. It may be used by any number of threads; each
/// port belongs to one thread at a time.
pub struct Session {
    socket: Arc<OwnedFd>,
    pub(crate) bell: Bell,
    pub(crate) control: Arc<Control>,
    setup: Setup,
    idle: Idle,
    arena: Arc<Memory>,
    inbox: Mutex<Inbox>,
    hit_unread: AtomicBool,
    pub(crate) calls: Arc<Calls>,
}

/// What other threads of this process tell those that wait on a session.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    bell: Arc<Doorbell>,
    interrupted: AtomicBool,
    /// Something may ring: waits listen to the bell only from then on.
    in_use: AtomicBool,
}

impl Calls {
    /// From now on waits listen to [`Calls::ring`].
    pub(crate) fn use_them(&self) {
        self.in_use.store(true, Ordering::Release);
    }

    /// Wakes every wait on the session, so that its port is looked at again.
    pub(crate) fn ring(&self) {
        self.bell.ring();
    }

    /// A listener that has heard everything so far.
    pub(crate) fn listener(&self) -> Listener {
        let mut listener = Listener::new(Arc::clone(&self.bell));
        listener.hear();
        listener
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }
}

/// Ends waits on a session from another thread, or from a signal handler's thread: [`Session::interrupter`].
#[derive(Clone, Debug)]
pub struct Interrupter(Arc<Calls>);

impl Interrupter {
    /// Ends all present waits on the session with [`Waited::Interrupted`], and all later ones at once, until
    /// [`Interrupter::clear`]. Ports stay as they are, and streams lose nothing.
    pub fn interrupt(&self) {
        self.0.interrupted.store(true, Ordering::Release);
        self.0.ring();
    }

    /// Waits wait again.
    pub fn clear(&self) {
        self.0.interrupted.store(false, Ordering::Release);
    }
}

impl Session {
    /// The session on this channel, whose first messages are in the inbox already.
    pub(crate) fn new(
        socket: Arc<OwnedFd>,
        bell: Bell,
        control: Control,
        setup: Setup,
        arena: Arc<Memory>,
        inbox: Inbox,
    ) -> Self {
        let idle = Idle { spin: Duration::from_nanos(setup.spin_nanos) };
        Self {
            socket,
            bell,
            control: Arc::new(control),
            setup,
            idle,
            arena,
            inbox: Mutex::new(inbox),
            hit_unread: AtomicBool::new(false),
            calls: Arc::default(),
        }
    }

    /// Connects to the daemon at the other end of this socket: reads the setup, makes the control page, says hello. Waits
    /// for the daemon's first messages.
    ///
    /// # Errors
    /// [`SessionError`] if the daemon is gone, speaks another version or breaks the protocol.
    pub fn open(socket: impl Into<Arc<OwnedFd>>) -> Result<Arc<Self>, SessionError> {
        let mut opening = Opening::new(socket.into());
        loop {
            if let Some(session) = opening.advance(true)? {
                return Ok(session);
            }
        }
    }

    /// Waits until the daemon lets the function start: its gates are open.
    ///
    /// # Errors
    /// If the daemon is gone, which is how it cancels a function that has not started.
    pub fn wait_for_start(&self) -> Result<(), SessionError> {
        let mut inbox = self.lock();
        while !inbox.started {
            inbox.take_one(&self.socket)?;
        }
        Ok(())
    }

    /// What the daemon has said about this attempt: its name, parameters and ports.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// A handle that ends this session's waits. Waits that have begun before the first handle exists do not see it.
    #[must_use]
    pub fn interrupter(&self) -> Interrupter {
        self.calls.use_them();
        Interrupter(Arc::clone(&self.calls))
    }

    /// Waits until `port` may be able to go on, for at most `limit`.
    ///
    /// It spins for about as long as a wake-up costs and then sleeps on the words of the other process. The daemon is
    /// told of a sleep of more than a millisecond, and may give the function's slot to another instance meanwhile.
    pub fn wait<P: Port>(&self, port: &mut P, limit: Option<Duration>) -> Waited {
        let (seen, at) = (port.seen(), port.try_again_at());
        self.wait_limited(&mut [port], seen, at, limit)
    }

    /// Waits until one of `ports` may be able to go on, as [`Session::wait`] does.
    pub fn wait_any(&self, ports: &mut [&mut dyn Port], limit: Option<Duration>) -> Waited {
        // A message that came after the oldest look may be for that port.
        let seen = ports.iter().map(|port| port.seen()).min().unwrap_or_else(|| self.news());
        let at = ports.iter().filter_map(|port| port.try_again_at()).min();
        let mut waits: Vec<&mut dyn Wait> = ports.iter_mut().map(|port| &mut **port as &mut dyn Wait).collect();
        self.wait_limited(&mut waits, seen, at, limit)
    }

    /// Waits as [`Session::wait_on`] does, and no longer than until `at`. Such a wait is short, so that the function keeps
    /// its slot.
    fn wait_limited(
        &self,
        ports: &mut [&mut dyn Wait],
        seen: u64,
        at: Option<Instant>,
        limit: Option<Duration>,
    ) -> Waited {
        let Some(at) = at else { return self.wait_on(ports, seen, limit, true) };
        let until = at.saturating_duration_since(Instant::now());
        match self.wait_on(ports, seen, Some(limit.map_or(until, |limit| limit.min(until))), false) {
            Waited::TimedOut if limit.is_none_or(|limit| until <= limit) => Waited::Ready,
            waited => waited,
        }
    }

    /// Waits until a port is ready or the daemon has queued messages since `seen`. With `parks`, the daemon is told of a
    /// long sleep.
    pub(crate) fn wait_on(
        &self,
        ports: &mut [&mut dyn Wait],
        seen: u64,
        limit: Option<Duration>,
        parks: bool,
    ) -> Waited {
        let mut report = || self.park();
        let park: Option<Park<'_>> = if parks { Some((PARK_AFTER, &mut report)) } else { None };
        let bell = Some((&self.bell, seen));
        if !self.calls.in_use.load(Ordering::Acquire) {
            let woken = wait_until(ports, bell, self.idle, limit, park);
            return if woken.is_some() { Waited::Ready } else { Waited::TimedOut };
        }
        let mut listener = self.calls.listener();
        if self.calls.is_interrupted() {
            return Waited::Interrupted;
        }
        let mut all: Vec<&mut dyn Wait> = ports.iter_mut().map(|port| &mut **port as &mut dyn Wait).collect();
        all.push(&mut listener);
        let woken = wait_until(&mut all, bell, self.idle, limit, park);
        match woken {
            _ if self.calls.is_interrupted() => Waited::Interrupted,
            Some(_) => Waited::Ready,
            None => Waited::TimedOut,
        }
    }

    /// Tells the daemon what the program does for which this process is the adapter.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn tell_program_state(&self, state: ProgramState) -> Result<(), SessionError> {
        self.send(&ToDaemon::Program(state))
    }

    /// Tells the daemon that the function sleeps; its tickets say on what.
    pub(crate) fn park(&self) {
        // If the daemon is gone its launcher ends this process; nothing else is to be done about it here.
        let _ = self.send(&ToDaemon::Parked);
    }

    /// Finishes every output that was declared before the start, and those that `opened` names, unless they have ended.
    pub fn finish_outputs(&self, opened: impl IntoIterator<Item = PortId>) {
        let declared = self.setup.outputs.iter().flat_map(|output| match output.streams {
            OutputStreams::Single(port) => port.0..port.0 + 1,
            OutputStreams::Fixed(port, count) => port.0..port.0 + count,
            OutputStreams::Discovered => 0..0,
        });
        for port in declared.map(PortId).chain(opened) {
            finish(&self.control, port);
        }
    }

    /// Tells the daemon that the attempt has ended: well, or why not. A reason is cut to [`MAX_REASON`] bytes. `unread`
    /// says that it ended because nobody reads its outputs any more, which is no failure.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn end(&self, outcome: Result<(), String>, unread: bool) -> Result<(), SessionError> {
        let message = match outcome {
            Ok(()) => ToDaemon::Done,
            Err(mut reason) => {
                reason.truncate(reason.floor_char_boundary(MAX_REASON));
                ToDaemon::Failed { reason, unread: unread || self.hit_unread.load(Ordering::Relaxed) }
            }
        };
        self.send(&message)
    }

    /// The memory in which outputs have their first windows.
    pub(crate) fn arena(&self) -> &Arc<Memory> {
        &self.arena
    }

    /// How many messages the daemon has ever queued.
    pub(crate) fn news(&self) -> u64 {
        self.bell.count()
    }

    /// Whether messages have come since `seen` was set.
    #[inline]
    pub(crate) fn has_news(&self, seen: u64) -> bool {
        self.bell.count() != seen
    }

    /// Takes the mail of one port, in order, and notes in `seen` up to where it has been taken.
    pub(crate) fn mail(&self, port: PortId, seen: &mut u64) -> Result<VecDeque<Mail>, SessionError> {
        let mut inbox = self.up_to_date(seen)?;
        Ok(inbox.ports.get_mut(port.0 as usize).map(std::mem::take).unwrap_or_default())
    }

    /// Takes the daemon's new messages and lets the ports for which there is none among them know that. Polling them then
    /// costs no lock each, which counts where a function waits for any of thousands.
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn catch_up<'p>(&self, ports: impl IntoIterator<Item = &'p mut InPort>) -> Result<(), SessionError> {
        let mut received = 0;
        let inbox = self.up_to_date(&mut received)?;
        for port in ports {
            if inbox.ports.get(port.id().0 as usize).is_none_or(VecDeque::is_empty) {
                port.catch_up(received);
            }
        }
        Ok(())
    }

    /// Ports for which mail has come since the last call, taken or not; the first call starts the list.
    pub(crate) fn ports_with_mail(&self) -> Result<Vec<PortId>, SessionError> {
        let mut inbox = self.up_to_date(&mut 0)?;
        Ok(inbox.news.replace(Vec::new()).unwrap_or_default())
    }

    /// Takes the mail of a fan-in.
    pub(crate) fn input_mail(&self, input: u32, seen: &mut u64) -> Result<VecDeque<InputMail>, SessionError> {
        let mut inbox = self.up_to_date(seen)?;
        Ok(inbox.inputs.get_mut(&input).map(std::mem::take).unwrap_or_default())
    }

    /// Takes an answer to [`ToDaemon::OpenPart`].
    pub(crate) fn part(&self, output: u32, seen: &mut u64) -> Result<Option<Result<PortId, String>>, SessionError> {
        let mut inbox = self.up_to_date(seen)?;
        Ok(inbox.parts.get_mut(&output).and_then(VecDeque::pop_front))
    }

    fn up_to_date(&self, seen: &mut u64) -> Result<MutexGuard<'_, Inbox>, SessionError> {
        let mut inbox = self.lock();
        // The daemon rings before it sends, so this may wait a moment for a packet that is on its way.
        while inbox.received < self.bell.count() {
            inbox.take_one(&self.socket)?;
        }
        for port in std::mem::take(&mut inbox.retired) {
            self.control.reset(port);
            self.send(&ToDaemon::Retired { port })?;
        }
        *seen = inbox.received;
        Ok(inbox)
    }

    pub(crate) fn send(&self, message: &ToDaemon) -> Result<(), SessionError> {
        channel::send(self.socket.as_fd(), &message.encode()?, &[], true)?;
        Ok(())
    }

    /// Notes that the function was told that nobody reads one of its outputs.
    pub(crate) fn note_unread(&self) {
        self.hit_unread.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        // Nothing panics while it holds the lock in an inconsistent state, so a poisoned inbox can be used.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const _: () = assert!(MAX_REASON < MAX_MESSAGE, "a reason fits into a message");
