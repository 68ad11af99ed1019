//! iperf3, the usual tool to measure a network.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, set_parent_process_death_signal};
use serde::Deserialize;

use crate::failure::{Failure, Trying};
use crate::quic::bulk::Bulk;
use crate::quic::net::Net;
use crate::quic::rendezvous::Rendezvous;
use crate::quic::transfer::{Party, Transfer, Work};
use crate::subject::{Card, Role, Side, Subject, Waiting};

/// The name of the program.
const PROGRAM: &str = "iperf3";

/// One TCP stream between two processes of iperf3.
pub struct Iperf;

impl Subject for Iperf {
    fn card(&self) -> Card {
        Card {
            name: "iperf3",
            about: "iperf3, one TCP stream: no encryption, and no process generates or checks the bytes",
            role: Role::Peer,
            waiting: Waiting::Sleeping,
        }
    }

    fn missing(&self) -> Option<String> {
        let version = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        match version {
            Ok(status) if status.success() => None,
            _ => Some(format!("{PROGRAM} is not installed (apt-get install {PROGRAM}; scripts/bench does)")),
        }
    }
}

impl Transfer for Iperf {
    fn does(&self, work: Work) -> bool {
        work == Work::Stream
    }

    fn join(&self, _: Work, _: Side, _: &Rendezvous) -> Result<Box<dyn Party>, Failure> {
        Err(Failure::new("iperf3 runs in its own processes"))
    }

    fn stream(&self, net: &Net, bytes: u64) -> Result<Bulk, Failure> {
        let [_, address] = net.addresses();
        let port = free_port(address, net)?;
        let _server = Server::start(net, address, port)?;
        let (address, port, bytes) = (address.to_string(), port.to_string(), bytes.to_string());
        let mut client = net.command(Side::First, PROGRAM);
        client.args(["--client", &address, "--port", &port, "--bytes", &bytes, "--json"]).stdin(Stdio::null());
        let outcome = client.output().trying(format_args!("run {PROGRAM}"))?;
        reported(&outcome.stdout)
    }
}

/// A port that is unused at the moment; any port in a separate namespace.
pub fn free_port(address: IpAddr, net: &Net) -> Result<u16, Failure> {
    const ANY: u16 = 5201;
    match net {
        Net::Loopback => {
            let listener = TcpListener::bind((address, 0)).trying("find a free port")?;
            listener.local_addr().map(|address| address.port()).trying("get the port of a socket")
        }
        Net::Veth(_) => Ok(ANY),
    }
}

/// The server, killed when this value is dropped.
struct Server(Child);

impl Server {
    /// Starts a server and waits until it listens.
    fn start(net: &Net, address: IpAddr, port: u16) -> Result<Server, Failure> {
        let mut command = net.command(Side::Second, PROGRAM);
        command
            .args([
                "--server",
                "--one-off",
                "--forceflush",
                "--bind",
                &address.to_string(),
                "--port",
                &port.to_string(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // SAFETY: between fork and exec, the closure makes one system call, which is async-signal-safe.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
        let mut server = Server(command.spawn().trying(format_args!("start {PROGRAM}"))?);
        let output = server.0.stdout.take().ok_or_else(|| Failure::new("a server has no standard output"))?;
        let mut lines = BufReader::new(output);
        let mut line = String::new();
        while !line.contains("listening") {
            line.clear();
            if lines.read_line(&mut line).trying(format_args!("read the output of {PROGRAM}"))? == 0 {
                return Err(Failure::new(format!("{PROGRAM} does not listen at {address}, port {port}")));
            }
        }
        // The rest of its output must be read, or the server would block on a full pipe.
        std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The used part of a client's report.
#[derive(Deserialize)]
struct Report {
    error: Option<String>,
    #[serde(default)]
    end: End,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct End {
    sum_sent: Sum,
    sum_received: Sum,
    cpu_utilization_percent: Cpu,
}

#[derive(Default, Deserialize)]
struct Sum {
    seconds: f64,
    bytes: u64,
}

/// Processor use during the test, in percent of one core.
#[derive(Default, Deserialize)]
struct Cpu {
    host_total: f64,
    remote_total: f64,
}

fn reported(text: &[u8]) -> Result<Bulk, Failure> {
    let Report { error, end } = serde_json::from_slice(text).trying(format_args!("read the report of {PROGRAM}"))?;
    if let Some(error) = error {
        return Err(Failure::new(format!("{PROGRAM}: {error}")));
    }
    let cores = (end.cpu_utilization_percent.host_total + end.cpu_utilization_percent.remote_total) / 100.0;
    let took = end.sum_received.seconds * 1e9;
    Ok(Bulk { bytes: end.sum_received.bytes, took, cpu: cores * end.sum_sent.seconds * 1e9 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_with_both_sides_processor_time() {
        let text = r#"{ "start": {}, "intervals": [], "end": {
            "sum_sent": { "start": 0, "seconds": 2.0, "bytes": 1073741824, "bits_per_second": 1 },
            "sum_received": { "start": 0, "seconds": 2.5, "bytes": 1073741824, "bits_per_second": 1 },
            "cpu_utilization_percent": { "host_total": 30.0, "host_user": 1, "remote_total": 20.0 } } }"#;
        let bulk = reported(text.as_bytes()).unwrap();
        assert_eq!((bulk.bytes, bulk.took, bulk.cpu), (1 << 30, 2.5e9, 1e9));
        assert_eq!(bulk.cpu_of_gib(), 1e9);
        let refused = br#"{ "start": {}, "end": {}, "error": "unable to connect" }"#;
        assert!(reported(refused).unwrap_err().to_string().contains("unable to connect"));
        assert!(reported(b"").is_err());
    }
}
