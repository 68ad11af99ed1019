//! The daemon's end of an attempt's channel.

use dflow_protocol::limits::MAX_MESSAGE;
use dflow_protocol::message::ToDaemon;
use dflow_shm::{Bells, channel};
use dflow_store::{Outgoing, ProcessId};
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

/// The number of messages that may wait for an attempt that does not read; beyond it, the attempt is ended.
const MAX_WAITING: usize = 1 << 20;
/// Messages taken from one attempt before the others have their turn.
const BATCH: usize = 64;

thread_local! {
    /// Packets are received one after the other, so one buffer serves all channels.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_MESSAGE]);
}

/// Something that came from an attempt.
pub(crate) enum Arrival {
    /// A message, or why a packet is not one.
    Message(ProcessId, Result<ToDaemon, String>, Vec<OwnedFd>),
    /// The channel can take packets again.
    Writable(ProcessId),
    /// The attempt has closed its channel, at least in one direction: it can say nothing any more, or hear nothing.
    Closed(ProcessId),
}

/// The daemon's end of an attempt's channel. Sending never blocks: messages that do not fit into the channel wait here.
pub(crate) struct Connection {
    /// A `SOCK_SEQPACKET` socket. tokio has no type for it, but only its readiness is needed.
    socket: Rc<UnixDatagram>,
    waiting: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    /// The number of packets ever queued.
    count: u64,
    bell: u32,
    process: ProcessId,
    arrivals: UnboundedSender<Arrival>,
    reading: JoinHandle<()>,
    waits_for_room: bool,
}

impl Connection {
    /// Starts reading from the channel; must be called on a tokio `LocalSet`.
    pub(crate) fn open(
        process: ProcessId,
        socket: OwnedFd,
        arrivals: UnboundedSender<Arrival>,
    ) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let socket = Rc::new(UnixDatagram::from_std(socket.into())?);
        let reading = tokio::task::spawn_local(read(process, Rc::clone(&socket), arrivals.clone()));
        let waiting = VecDeque::new();
        Ok(Self { socket, waiting, count: 0, bell: 0, process, arrivals, reading, waits_for_room: false })
    }

    /// Queues a message and rings the attempt's bell.
    pub(crate) fn send(&mut self, outgoing: Outgoing, bells: &Bells) -> Result<(), String> {
        let packets = outgoing.message.packets().map_err(|error| error.to_string())?;
        if self.waiting.len() >= MAX_WAITING {
            return Err(format!("it has not read any of {MAX_WAITING} messages"));
        }
        let mut fd = outgoing.fd;
        for packet in packets {
            self.waiting.push_back((packet, fd.take()));
            self.count += 1;
        }
        self.bell = outgoing.bell;
        // The packet is queued before the bell is raised, because an attempt that sees the bell waits for the packet.
        bells.ring(outgoing.bell, self.count);
        self.flush();
        Ok(())
    }

    /// Sends as many messages as fit into the channel.
    pub(crate) fn flush(&mut self) {
        while let Some((packet, fd)) = self.waiting.front() {
            let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
            let sent = self.socket.try_io(Interest::WRITABLE, || {
                channel::send(self.socket.as_fd(), packet, &fds, false).map_err(Into::into)
            });
            match sent {
                Ok(()) => {
                    self.waiting.pop_front();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.wait_for_room(),
                Err(_) => {
                    self.waiting.clear();
                    // When the run is over nobody listens, and nobody has to.
                    let _ = self.arrivals.send(Arrival::Closed(self.process));
                }
            }
        }
    }

    fn wait_for_room(&mut self) {
        if std::mem::replace(&mut self.waits_for_room, true) {
            return;
        }
        let (socket, arrivals, process) = (Rc::clone(&self.socket), self.arrivals.clone(), self.process);
        tokio::task::spawn_local(async move {
            if socket.writable().await.is_ok() {
                let _ = arrivals.send(Arrival::Writable(process));
            }
        });
    }

    /// The channel can take packets again.
    pub(crate) fn writable(&mut self) {
        self.waits_for_room = false;
        self.flush();
    }

    /// All unread messages of an attempt that is dead.
    pub(crate) fn drain(&self) -> Vec<(Result<ToDaemon, String>, Vec<OwnedFd>)> {
        let mut messages = Vec::new();
        while let Ok(Some(message)) = receive_now(&self.socket) {
            messages.push(message);
        }
        messages
    }

    /// Ends a function that runs in a thread of this process by closing its channel.
    pub(crate) fn hang_up(&mut self, bells: &Bells) {
        if let Err(error) = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both) {
            // A sandbox may forbid it. An empty packet says the same, once everything before it has been read.
            tracing::debug!(%error, "a channel is ended by an empty packet");
            self.waiting.push_back((Vec::new(), None));
            self.flush();
        }
        // Before its first message it has no bell and waits for the channel itself.
        if self.bell != 0 {
            self.count += 1;
            bells.ring(self.bell, self.count);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn read(process: ProcessId, socket: Rc<UnixDatagram>, arrivals: UnboundedSender<Arrival>) {
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        for _ in 0..BATCH {
            let arrival = match socket.try_io(Interest::READABLE, || receive_now(&socket).map_err(Into::into)) {
                Ok(None) => {
                    let _ = arrivals.send(Arrival::Closed(process));
                    return;
                }
                Ok(Some((message, fds))) => Arrival::Message(process, message, fds),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    let _ = arrivals.send(Arrival::Message(process, Err(error.to_string()), Vec::new()));
                    return;
                }
            };
            if arrivals.send(arrival).is_err() {
                return;
            }
        }
        tokio::task::yield_now().await;
    }
}

type Packet = (Result<ToDaemon, String>, Vec<OwnedFd>);

/// The next packet; `None` if the attempt has closed the channel.
fn receive_now(socket: &UnixDatagram) -> Result<Option<Packet>, Errno> {
    BUFFER.with_borrow_mut(|buffer| {
        let (length, fds) = channel::receive(socket.as_fd(), buffer, false)?;
        let message = || ToDaemon::decode(&buffer[..length]).map_err(|error| error.to_string());
        Ok((length > 0).then(|| (message(), fds)))
    })
}
