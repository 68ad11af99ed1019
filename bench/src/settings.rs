//! The options of the program, and the order in which subjects are measured.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::failure::{Failure, Trying};
use crate::payload::WORD;
use crate::subject::Subject;
use crate::topology::Topology;

/// Maximum payload size, in bytes.
const SIZE_LIMIT: usize = 1 << 30;

/// The options common to all topics.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Payload sizes such as 64, 4K or 1M (handoff, stream), or stream lengths (quic, nodes) [default: set by each
    /// topic]
    #[arg(long, value_delimiter = ',', value_parser = size)]
    sizes: Vec<usize>,
    /// Measure only subjects whose name contains one of these words
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Number of repeats of each measurement; medians are reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Directory for histograms of all latencies, as .hlog files
    #[arg(long, value_name = "DIR")]
    hlog: Option<PathBuf>,
    /// Output format: tables, or one JSON document
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    /// Short runs to check that everything works; the figures are not representative
    #[arg(long)]
    quick: bool,
    /// Also measure over a network limited to this rate, in the syntax of tc: 1gbit, 400mbit (quic; requires root)
    #[arg(long, value_name = "RATE")]
    cap: Option<String>,
    /// Directory on the disk to measure (spill)
    #[arg(long, value_name = "DIR", default_value = ".")]
    spill_dir: PathBuf,
}

/// The format of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables.
    Human,
    /// One JSON document.
    Json,
}

/// The options as applied to this machine.
pub struct Settings {
    /// Payload sizes; empty for the defaults of each topic.
    pub sizes: Vec<usize>,
    /// Number of repeats of each measurement.
    pub repeats: u32,
    /// Approximate duration of one repeat.
    pub budget: Duration,
    /// Whether runs are short.
    pub quick: bool,
    /// Directory for histograms.
    pub hlog: Option<PathBuf>,
    /// The format of the report.
    pub format: Format,
    /// The rate of an additional, rate-limited network.
    pub cap: Option<String>,
    /// Directory for spill files.
    pub spill_dir: PathBuf,
    topology: Topology,
    only: Vec<String>,
}

impl Settings {
    /// Applies the options to this machine.
    pub fn new(options: Options, topology: Topology) -> Result<Settings, Failure> {
        let spill_dir = std::path::absolute(&options.spill_dir).trying("resolve --spill-dir")?;
        Ok(Settings {
            sizes: options.sizes,
            repeats: if options.quick { options.repeats.min(3) } else { options.repeats },
            budget: Duration::from_millis(if options.quick { 50 } else { 1000 }),
            quick: options.quick,
            hlog: options.hlog,
            format: options.format,
            cap: options.cap,
            spill_dir,
            topology,
            only: options.only,
        })
    }

    /// The two cores for a pair of processes.
    pub fn two_cores(&self) -> Result<(usize, usize), Failure> {
        self.topology.two_cores()
    }

    /// Whether the subject with this name is selected.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(word.as_str()))
    }

    /// The selected subjects.
    pub fn wanted<'a, S: Subject + ?Sized>(&self, all: &[&'a S]) -> Vec<&'a S> {
        all.iter().copied().filter(|subject| self.wants(subject.card().name)).collect()
    }

    /// The given sizes, or the topic's defaults.
    pub fn sizes_or(&self, own: &[usize]) -> Vec<usize> {
        if self.sizes.is_empty() { own.to_vec() } else { self.sizes.clone() }
    }

    /// Measures every subject `repeats` times, in turns, so that a noisy phase of the machine affects all subjects.
    ///
    /// A subject that fails is not repeated; the others continue.
    pub fn in_turns<'a, S: Subject + ?Sized, R>(
        &self,
        what: &str,
        subjects: &[&'a S],
        mut measure: impl FnMut(&'a S) -> Result<R, Failure>,
    ) -> Vec<(&'a S, Result<Vec<R>, Failure>)> {
        let mut results: Vec<_> = subjects
            .iter()
            .map(|subject| match subject.missing() {
                Some(reason) => (*subject, Err(Failure::new(reason))),
                None => (*subject, Ok(Vec::new())),
            })
            .collect();
        for repeat in 1..=self.repeats {
            for (subject, result) in &mut results {
                let Ok(so_far) = result else { continue };
                progress(&format!("{what}: {} ({repeat} of {})", subject.card().name, self.repeats));
                match measure(subject) {
                    Ok(found) => so_far.push(found),
                    Err(failure) => *result = Err(failure),
                }
            }
        }
        progress("");
        results
    }
}

/// Shows the current measurement on a terminal.
fn progress(text: &str) {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        // A closed terminal is no reason to stop measuring.
        let _ = write!(out, "\r\x1b[K{text}").and_then(|()| out.flush());
    }
}

/// A payload size as "64", "4K" or "1M".
fn size(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.trim_end_matches("iB").char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        _ => (text, 1),
    };
    let size = digits.parse::<usize>().ok().and_then(|digits| digits.checked_mul(unit));
    size.filter(|size| (WORD..=SIZE_LIMIT).contains(size) && size.is_multiple_of(WORD)).ok_or_else(|| {
        format!("a size must be a multiple of {WORD} bytes from {WORD} to {SIZE_LIMIT}, such as 64, 4K or 1M")
    })
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(size("64"), Ok(64));
        assert_eq!(size("4K"), Ok(4096));
        assert_eq!(size("1MiB"), Ok(1 << 20));
        for wrong in ["", "0", "7", "K", "-8", "99999999999999999999", "2000M", "64é"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
