//! The limit: the programs of perftest, between the same two machines.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::{Machine, Side, Transfer, Work};
use crate::failure::{Failure, Trying};
use crate::latency::histogram;
use crate::subject::{Card, Role, Subject, Waiting};

/// The port of the listening program.
const PORT: u16 = 18_575;
/// How long the program may take to listen.
const START: Duration = Duration::from_secs(20);
/// Minimum number of iterations that the programs accept.
const LEAST: u64 = 5;

/// `ib_write_lat` and `ib_write_bw`.
pub struct Perftest;

impl Subject for Perftest {
    fn card(&self) -> Card {
        Card {
            name: "perftest",
            about: "ib_write_lat and ib_write_bw: RDMA WRITE; the reader polls its memory, the writer its completions",
            role: Role::Limit,
            waiting: Waiting::Spinning,
        }
    }

    fn missing(&self) -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).any(|dir| Path::new(&dir).join("ib_write_lat").exists());
        (!found).then(|| "ib_write_lat is not installed (the package perftest)".to_owned())
    }
}

impl Transfer for Perftest {
    fn latency(&self, machine: &mut Machine, work: &Work) -> Result<Histogram<u64>, Failure> {
        let said = run(machine, "ib_write_lat", work, &["--report-unsorted"])?;
        let mut histogram = histogram();
        if machine.side == Side::First {
            for nanoseconds in latencies(&said) {
                histogram.saturating_record(nanoseconds);
            }
            if histogram.is_empty() {
                return Err(Failure::new(format!("ib_write_lat has printed no latencies: {said}")));
            }
        }
        Ok(histogram)
    }

    fn stream(&self, machine: &mut Machine, work: &Work) -> Result<Option<Duration>, Failure> {
        let said = run(machine, "ib_write_bw", work, &["--report_gbits"])?;
        if machine.side == Side::Second {
            return Ok(None);
        }
        let rate = bits_per_second(&said)
            .ok_or_else(|| Failure::new(format!("ib_write_bw has printed no bandwidth: {said}")))?;
        Ok(Some(Duration::from_secs_f64((work.count * work.size as u64 * 8) as f64 / rate)))
    }
}

/// Runs a program on both machines to its end. Returns its output.
fn run(machine: &mut Machine, name: &str, work: &Work, more: &[&str]) -> Result<String, Failure> {
    let mut command = Command::new(name);
    command.args(["-F", "-i", "1", "-d", &machine.device_name(), "-x", &machine.gid_index().to_string()]);
    command.args(["-p", &PORT.to_string(), "-s", &work.size.to_string(), "-n", &work.count.max(LEAST).to_string()]);
    command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if machine.side == Side::First {
        // The other machine's program listens.
        let () = machine.line.receive()?;
        command.arg(machine.peer()?.ip().to_string());
    }
    let mut child = Ended(command.spawn().trying(format_args!("start {name}"))?);
    if machine.side == Side::Second {
        wait_until_it_listens(&mut child.0, name)?;
        machine.line.send(&())?;
    }
    let (mut said, mut complaint) = (String::new(), String::new());
    // Error messages are short enough to fit in the pipe until they are read.
    if let Some(out) = &mut child.0.stdout {
        out.read_to_string(&mut said).trying(format_args!("read what {name} prints"))?;
    }
    if let Some(out) = &mut child.0.stderr {
        out.read_to_string(&mut complaint).trying(format_args!("read what {name} prints"))?;
    }
    let status = child.0.wait().trying(format_args!("wait for {name}"))?;
    if status.success() {
        Ok(said)
    } else {
        Err(Failure::new(format!("{name} failed with {status}: {}", complaint.trim())))
    }
}

/// A program that does not outlive its measurement.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Nothing to do if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until_it_listens(child: &mut Child, name: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + START;
    while Instant::now() < deadline {
        let listens = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .any(|table| std::fs::read_to_string(table).is_ok_and(|table| has_listener(&table, PORT)));
        if listens {
            return Ok(());
        }
        if let Some(status) = child.try_wait().trying(format_args!("check {name}"))? {
            return Err(Failure::new(format!("{name} ended with {status} before it listened")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Failure::new(format!("{name} does not listen on port {PORT}")))
}

/// Whether a socket listens on the port, according to the kernel's socket table.
fn has_listener(table: &str, port: u16) -> bool {
    const LISTENING: &str = "0A";
    table.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        local.is_some_and(|local| local.ends_with(&format!(":{port:04X}"))) && state == Some(LISTENING)
    })
}

/// Parses the latencies in nanoseconds from the output of `ib_write_lat --report-unsorted`, with lines such as "17,
/// 241.03".
fn latencies(said: &str) -> impl Iterator<Item = u64> {
    said.lines().filter_map(|line| {
        let (number, microseconds) = line.split_once(',')?;
        number.trim().parse::<u64>().ok()?;
        let microseconds = microseconds.trim().parse::<f64>().ok()?;
        Some((microseconds * 1e3) as u64)
    })
}

/// Parses the average in bits per second from the output of `ib_write_bw --report_gbits`: size, iterations, peak,
/// average, rate.
fn bits_per_second(said: &str) -> Option<f64> {
    said.lines().find_map(|line| {
        let numbers: Option<Vec<f64>> = line.split_ascii_whitespace().map(|word| word.parse().ok()).collect();
        numbers.filter(|numbers| numbers.len() == 5).map(|numbers| numbers[3] * 1e9)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_the_programs_is_parsed() {
        let said =
            " #bytes #iterations    t_min[usec]\n#, usec\n1, 240.5\n2, 1.25\n------\n 64      2          240.0\n";
        assert_eq!(latencies(said).collect::<Vec<_>>(), [240_500, 1250]);
        let said = " #bytes     #iterations    BW peak[Gb/sec]    BW average[Gb/sec]   MsgRate[Mpps]\n \
                    65536      300              0.28               0.27               0.000515\n";
        assert_eq!(bits_per_second(said), Some(0.27e9));
        assert_eq!(bits_per_second("nothing"), None);
    }

    #[test]
    fn a_listener_is_found_in_the_table_of_the_kernel() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
                     0: 00000000:488F 00000000:0000 0A 00000000:00000000 00:00000000\n   \
                     1: 0100007F:1F90 00000000:0000 01 00000000:00000000 00:00000000\n";
        assert!(has_listener(table, 18_575));
        assert!(!has_listener(table, 8080) && !has_listener(table, 18_576));
    }
}
