//! A function that violates the protocol: it writes arbitrary values into every control word that it can reach, sends
//! arbitrary messages to its daemon, or goes on living when it can do nothing more. The environment variable
//! `PROBE_HOSTILE` selects how: `words`, `messages` or `packets`; `silent` (it never says hello); `close`, `shut-read`,
//! `shut-write` (it closes its channel, or one direction of it), `done`, `failed` (it says so), and then lives on.

use dflow_protocol::limits::{MAX_MESSAGE, PROTOCOL_VERSION};
use dflow_protocol::message::{ToDaemon, ToFunction};
use dflow_protocol::{PortId, limits};
use dflow_shm::{Control, channel};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

const VARIABLE: &str = "PROBE_HOSTILE";

pub fn is_wanted() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

pub fn run() -> ExitCode {
    let how = std::env::var(VARIABLE).unwrap_or_default();
    // The result does not matter: the process continues until the daemon ends it.
    let _ = misbehave(&how);
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}

/// A generator whose seed makes a run repeatable (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

fn misbehave(how: &str) -> Result<(), Box<dyn std::error::Error>> {
    if how == "silent" {
        return Ok(());
    }
    let number: i32 = std::env::var("DFLOW_SOCKET")?.parse()?;
    let socket = channel::inherit(number)?;
    let mut buffer = vec![0; MAX_MESSAGE];
    let control = Control::create()?;
    let hello = ToDaemon::Hello { version: PROTOCOL_VERSION }.encode()?;
    channel::send(socket.as_fd(), &hello, &[control.segment().as_fd()], true)?;
    loop {
        let (length, _) = channel::receive(socket.as_fd(), &mut buffer, true)?;
        if length == 0 || ToFunction::decode(&buffer[..length])? == ToFunction::Start {
            break;
        }
    }
    let send = |message: ToDaemon| channel::send(socket.as_fd(), &message.encode()?, &[], true).map_err(Into::into);
    match how {
        // At the end of this function it is closed.
        "close" => return Ok(()),
        "shut-read" => {
            rustix::net::shutdown(&socket, rustix::net::Shutdown::Read)?;
            // The answer does not arrive.
            return live_on(&socket, send(ToDaemon::NeedWindow { port: PortId(0), at: 0, least: 1, held: false }));
        }
        "shut-write" => return live_on(&socket, Ok(rustix::net::shutdown(&socket, rustix::net::Shutdown::Write)?)),
        "done" => return live_on(&socket, send(ToDaemon::Done)),
        "failed" => return live_on(&socket, send(ToDaemon::Failed { reason: "it gave up".into(), unread: false })),
        _ => {}
    }
    let mut random = Random(0x5EED);
    for round in 0..20_000u64 {
        match how {
            "words" => words(&control, &mut random, &socket)?,
            "messages" => message(&mut random, &socket)?,
            _ => packet(&mut random, &socket)?,
        }
        if round % 1000 == 0 {
            std::thread::yield_now();
        }
    }
    Ok(())
}

/// Stays as it is, with the channel open.
fn live_on(_channel: &OwnedFd, done: Result<(), Box<dyn std::error::Error>>) -> Result<(), Box<dyn std::error::Error>> {
    done?;
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}

fn words(control: &Control, random: &mut Random, socket: &OwnedFd) -> Result<(), Box<dyn std::error::Error>> {
    let port = PortId((random.next() % 8) as u32);
    let words = control.port(port);
    let value = match random.next() % 4 {
        0 => u64::MAX,
        1 => random.next(),
        2 => random.next() % 100_000,
        _ => 0,
    };
    match random.next() % 3 {
        0 => words.progress.store(value, Ordering::Relaxed),
        1 => words.ticket.store(value, Ordering::Relaxed),
        _ => words.first_byte.store(value, Ordering::Relaxed),
    }
    // Something must make the daemon look.
    if random.next().is_multiple_of(64) {
        let message = match random.next() % 3 {
            0 => ToDaemon::FirstBytes { port },
            1 => ToDaemon::Parked,
            _ => ToDaemon::NextPiece { port, at: value, lends: value.is_multiple_of(2) },
        };
        channel::send(socket.as_fd(), &message.encode()?, &[], true)?;
    }
    Ok(())
}

fn message(random: &mut Random, socket: &OwnedFd) -> Result<(), Box<dyn std::error::Error>> {
    let port = PortId((random.next() % u64::from(2 * limits::MAX_PORTS)) as u32 % 7);
    let message = match random.next() % 9 {
        0 => ToDaemon::Hello { version: random.next() as u32 },
        1 => ToDaemon::FirstBytes { port },
        2 => ToDaemon::NeedWindow {
            port,
            at: random.next(),
            least: random.next(),
            held: random.next().is_multiple_of(2),
        },
        3 => ToDaemon::NextPiece { port, at: random.next(), lends: random.next().is_multiple_of(2) },
        4 => ToDaemon::CloseInput { port },
        5 => ToDaemon::Parked,
        6 => ToDaemon::Finished { port },
        7 => ToDaemon::OpenPart { output: random.next() as u32 % 5 },
        _ => ToDaemon::NeedWindow { port, at: 0, least: 1, held: true },
    };
    channel::send(socket.as_fd(), &message.encode()?, &[], true)?;
    Ok(())
}

fn packet(random: &mut Random, socket: &OwnedFd) -> Result<(), Box<dyn std::error::Error>> {
    let length = 1 + (random.next() % 300) as usize;
    let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
    channel::send(socket.as_fd(), &bytes, &[], true)?;
    Ok(())
}
