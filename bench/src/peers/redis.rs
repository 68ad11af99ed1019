//! A private Redis server, and the part of its protocol that sets and gets a key.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::clock::processor_time_of;
use crate::failure::{Failure, Trying};
use crate::peers::unix_socket::connect_to;
use crate::subject::Place;

/// The name of the program.
const PROGRAM: &str = "redis-server";

/// The name of the server's socket.
const SOCKET: &str = "redis";

/// Why Redis cannot be measured, if it cannot.
pub fn missing() -> Option<String> {
    let version = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match version {
        Ok(status) if status.success() => None,
        _ => Some(format!("{PROGRAM} is not installed (apt-get install redis-server; scripts/bench does)")),
    }
}

/// A server without persistence, which ends when this value is dropped.
pub struct Server(Child);

impl Server {
    /// Starts a server and waits until it answers.
    pub fn start(place: &Place) -> Result<Server, Failure> {
        Server::start_as(Command::new(PROGRAM), place, None)
    }

    /// Starts a server that also accepts TCP connections to this address. `command` creates the command for a program.
    pub fn start_at(
        address: SocketAddr,
        place: &Place,
        command: impl FnOnce(&str) -> Command,
    ) -> Result<Server, Failure> {
        Server::start_as(command(PROGRAM), place, Some(address))
    }

    fn start_as(mut command: Command, place: &Place, address: Option<SocketAddr>) -> Result<Server, Failure> {
        let port = address.map_or(0, |address| address.port());
        command
            .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--unixsocket")
            .arg(place.path(SOCKET))
            .arg("--dir")
            .arg(place.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(address) = address {
            command.args(["--bind", &address.ip().to_string(), "--protected-mode", "no"]);
        }
        // SAFETY: between fork and exec, the closure makes one system call, which is async-signal-safe.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
        let server = Server(command.spawn().trying(format_args!("start {PROGRAM}"))?);
        Client::connect(place)?.set("ready", b"yes")?;
        Ok(server)
    }

    /// The processor time used by the server, in nanoseconds.
    pub fn processor_time(&self) -> Result<u64, Failure> {
        processor_time_of(self.0.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection to the server.
pub struct Client {
    requests: Box<dyn Write>,
    answers: BufReader<Box<dyn Read>>,
}

impl Client {
    /// Connects over a Unix socket.
    pub fn connect(place: &Place) -> Result<Client, Failure> {
        let requests = connect_to(&place.path(SOCKET))?;
        let answers = requests.try_clone().trying("share a socket")?;
        Ok(Client { requests: Box::new(requests), answers: BufReader::new(Box::new(answers)) })
    }

    /// Connects over TCP.
    pub fn connect_at(address: SocketAddr) -> Result<Client, Failure> {
        let requests = TcpStream::connect(address).trying("connect to Redis")?;
        requests.set_nodelay(true).trying("set TCP_NODELAY")?;
        let answers = requests.try_clone().trying("share a socket")?;
        Ok(Client { requests: Box::new(requests), answers: BufReader::new(Box::new(answers)) })
    }

    /// Sets a key.
    pub fn set(&mut self, key: &str, value: &[u8]) -> Result<(), Failure> {
        let mut head = Vec::with_capacity(64);
        let length = value.len();
        write!(head, "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${length}\r\n", key.len()).trying("write a request")?;
        // A small request is sent with one write; a large value is not copied into the request.
        if length <= 4096 {
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
            self.requests.write_all(&head).trying("write to Redis")?;
        } else {
            for part in [&head, value, b"\r\n"] {
                self.requests.write_all(part).trying("write to Redis")?;
            }
        }
        match self.line()?.as_str() {
            "+OK" => Ok(()),
            other => Err(Failure::new(format!("Redis answered {other:?} to SET"))),
        }
    }

    /// Gets a key whose value is exactly as long as `into`.
    pub fn get(&mut self, key: &str, into: &mut [u8]) -> Result<(), Failure> {
        let request = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
        self.requests.write_all(request.as_bytes()).trying("write to Redis")?;
        let answer = self.line()?;
        if answer != format!("${}", into.len()) {
            return Err(Failure::new(format!("Redis answered {answer:?} to GET of {} bytes", into.len())));
        }
        self.answers.read_exact(into).trying("read from Redis")?;
        self.line().map(drop)
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.answers.read_line(&mut line).trying("read from Redis")?;
        Ok(line.trim_end().to_owned())
    }
}
