//! Topic `spill`: bytes to disk and back, compared with `dd` with direct I/O.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use dflow_disk::{IoChoice, SharedBytes, SpillDir, choose};

use crate::failure::{Failure, Trying};
use crate::latency::median;
use crate::payload::{WORD, bytes, bytes_mut, fill};
use crate::report::{Column, Report, Row, Table, Unit, size};
use crate::settings::Settings;
use crate::subject::{Card, Role, Subject, Waiting};

/// The number of bytes to move, and in quick runs.
const LENGTH: [usize; 2] = [1 << 30, 64 << 20];

/// The size of one I/O in bytes: a cold extent of a stream.
const EXTENT: usize = 8 << 20;

/// The alignment of an extent in memory, as in segments.
const PAGE: usize = 4096;

const COLUMNS: &[Column] = &[
    Column { key: "write_bytes_per_second", head: "write", unit: Unit::Bandwidth },
    Column { key: "read_bytes_per_second", head: "read", unit: Unit::Bandwidth },
    Column { key: "write_of_limit", head: "write/dd", unit: Unit::Ratio },
    Column { key: "read_of_limit", head: "read/dd", unit: Unit::Ratio },
];

/// A way to write to a disk and read back.
trait Disk: Subject {
    /// Writes `length` bytes to a new file on the disk of `dir` and reads them back. Returns the bytes per second of
    /// both.
    fn write_and_read(&self, dir: &Path, length: usize) -> Result<(f64, f64), Failure>;
}

/// All subjects. A new subject is one more line here.
const SUBJECTS: &[&dyn Disk] = &[&Dd, &IO_URING, &PLAIN];

/// Measures the topic.
pub fn measure(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let wanted = settings.wanted(SUBJECTS);
    let length = LENGTH[usize::from(settings.quick)];
    let case = format!("{} in {} pieces", size(length), size(EXTENT));
    let found = settings.in_turns("spill", &wanted, |subject| subject.write_and_read(&settings.spill_dir, length));
    let found: Vec<_> = found
        .into_iter()
        .map(|(subject, repeats)| {
            let medians = repeats.map(|repeats| {
                let (writes, reads): (Vec<_>, Vec<_>) = repeats.into_iter().unzip();
                (median(writes).unwrap_or(f64::NAN), median(reads).unwrap_or(f64::NAN))
            });
            (subject, medians)
        })
        .collect();
    let limit = found.iter().find(|(subject, _)| subject.card().role == Role::Limit);
    let limit = limit.and_then(|(_, rates)| rates.as_ref().ok().copied());
    let figures = |(write, read): (f64, f64)| {
        vec![Some(write), Some(read), limit.map(|limit| write / limit.0), limit.map(|limit| read / limit.1)]
    };
    let rows = found.into_iter().map(|(subject, rates)| Row::new(&case, subject, rates.map(figures))).collect();
    report.add(Table {
        topic: "spill",
        title: format!("to disk and back, in {}", settings.spill_dir.display()),
        notes: vec!["new files, bypassing the page cache; no subject flushes the device's own cache".into()],
        columns: COLUMNS,
        rows,
    })
}

/// `dd` with direct I/O, 1 MiB at a time.
struct Dd;

impl Subject for Dd {
    fn card(&self) -> Card {
        Card {
            name: "dd",
            about: "dd bs=1M with oflag=direct, then iflag=direct",
            role: Role::Limit,
            waiting: Waiting::Sleeping,
        }
    }
}

impl Disk for Dd {
    fn write_and_read(&self, dir: &Path, length: usize) -> Result<(f64, f64), Failure> {
        let file = tempfile::Builder::new().prefix(".dflow-bench-").tempfile_in(dir);
        let file = file.trying(format_args!("create a file in {}", dir.display()))?;
        let path = file.path().display();
        let count = format!("count={}", length >> 20);
        let write = dd(length, &["if=/dev/zero", &format!("of={path}"), "bs=1M", &count, "oflag=direct"])?;
        let read = dd(length, &[&format!("if={path}"), "of=/dev/null", "bs=1M", "iflag=direct"])?;
        Ok((write, read))
    }
}

/// The bytes per second of a `dd`.
fn dd(length: usize, arguments: &[&str]) -> Result<f64, Failure> {
    let began = Instant::now();
    let outcome = Command::new("dd").args(arguments).stdin(Stdio::null()).output().trying("run dd")?;
    if !outcome.status.success() {
        let words = String::from_utf8_lossy(&outcome.stderr);
        return Err(Failure::new(format!("dd failed: {}", words.lines().next().unwrap_or_default())));
    }
    Ok(length as f64 / began.elapsed().as_secs_f64())
}

/// Spill files by io_uring.
static IO_URING: Spill =
    Spill { name: "dflow-io-uring", about: "a spill file of dflow, by io_uring", choice: IoChoice::IoUring };

/// Spill files by plain I/O.
static PLAIN: Spill =
    Spill { name: "dflow-plain", about: "a spill file of dflow, by plain reads and writes", choice: IoChoice::Plain };

struct Spill {
    name: &'static str,
    about: &'static str,
    choice: IoChoice,
}

impl Subject for Spill {
    fn card(&self) -> Card {
        Card { name: self.name, about: self.about, role: Role::Ours, waiting: Waiting::Sleeping }
    }
}

impl Disk for Spill {
    fn write_and_read(&self, dir: &Path, length: usize) -> Result<(f64, f64), Failure> {
        let (mut io, _) = choose(self.choice).trying("set up spill I/O")?;
        let file = SpillDir::open(dir).and_then(|dir| dir.create()).trying("create a spill file")?;
        let mut memory = vec![0; (EXTENT + PAGE) / WORD];
        let skip = bytes(&memory).as_ptr().align_offset(PAGE) / WORD;
        let extent = &mut memory[skip..skip + EXTENT / WORD];

        let mut write = 0.0;
        for offset in (0..length).step_by(EXTENT) {
            // Each extent begins with its number, so that reading detects a misplaced extent.
            fill(&mut extent[..1], offset as u64);
            let began = Instant::now();
            io.write(&file, offset as u64, SharedBytes::from(bytes(extent))).trying("spill")?;
            write += began.elapsed().as_secs_f64();
        }
        let mut read = 0.0;
        for offset in (0..length).step_by(EXTENT) {
            let began = Instant::now();
            io.read(&file, offset as u64, bytes_mut(extent)).trying("read a spill file")?;
            read += began.elapsed().as_secs_f64();
            if extent[0] != offset as u64 {
                return Err(Failure::new(format!("the bytes of extent {} were found at {offset}", extent[0])));
            }
        }
        Ok((length as f64 / write, length as f64 / read))
    }
}
