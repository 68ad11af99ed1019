//! Latencies: HDR histograms, their summaries, and `.hlog` files.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Trying};

/// Maximum recorded latency, in nanoseconds. Longer ones are recorded as this.
const LONGEST: u64 = 60_000_000_000;

/// Significant decimal digits of each latency.
const DIGITS: u8 = 3;

/// An empty histogram of nanoseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("the bounds are constants that a histogram accepts")
}

/// A histogram for transfer between processes: pairs of nanoseconds and a count.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Recorded(Vec<(u64, u64)>);

impl Recorded {
    /// The recorded values.
    pub fn of(histogram: &Histogram<u64>) -> Recorded {
        let seen = histogram.iter_recorded();
        Recorded(seen.map(|at| (at.value_iterated_to(), at.count_at_value())).collect())
    }

    /// The median; 0 if empty.
    #[cfg(feature = "rdma")]
    pub fn median(&self) -> u64 {
        let mut histogram = histogram();
        self.add_to(&mut histogram);
        histogram.value_at_quantile(0.5)
    }

    /// Adds the recorded values to a histogram.
    pub fn add_to(&self, histogram: &mut Histogram<u64>) {
        for (value, count) in &self.0 {
            histogram.saturating_record_n(*value, *count);
        }
    }
}

/// The summary of a histogram in the report, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub p10: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub p9999: f64,
    pub max: f64,
}

impl Summary {
    /// The median over the repeats of each percentile; `None` without repeats.
    pub fn of_repeats(repeats: &[Repeat]) -> Option<Summary> {
        let over = |quantile: f64| {
            let values = repeats.iter().map(|repeat| repeat.histogram.value_at_quantile(quantile) as f64);
            median(values.collect())
        };
        Some(Summary {
            p10: over(0.1)?,
            p50: over(0.5)?,
            p90: over(0.9)?,
            p99: over(0.99)?,
            p999: over(0.999)?,
            p9999: over(0.9999)?,
            max: over(1.0)?,
        })
    }
}

/// The median; `None` if empty.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// One repeat of a latency measurement.
#[derive(Clone, Debug)]
pub struct Repeat {
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// The latencies, in nanoseconds.
    pub histogram: Histogram<u64>,
}

/// Writes the repeats of one measurement as the intervals of a `.hlog` file.
pub fn write_log(dir: &Path, name: &str, repeats: &[Repeat]) -> Result<(), Failure> {
    let Some(first) = repeats.first() else { return Ok(()) };
    std::fs::create_dir_all(dir).trying(format_args!("create the directory {}", dir.display()))?;
    let path = dir.join(format!("{name}.hlog"));
    let failed = || format!("write {}", path.display());
    let mut file = BufWriter::new(File::create(&path).trying(failed())?);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(&format!("dflow-bench {name}, nanoseconds; each interval is one repeat"))
        .with_start_time(first.began)
        .with_base_time(first.began)
        // Readers of these logs expect the interval's maximum in milliseconds.
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut file, &mut serializer)
        .trying(failed())?;
    let tag = Tag::new(name);
    for repeat in repeats {
        let since = repeat.began.duration_since(first.began).unwrap_or_default();
        log.write_histogram(&repeat.histogram, since, repeat.took, tag).trying(failed())?;
    }
    drop(log);
    std::io::Write::flush(&mut file).trying(failed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    fn repeat(values: &[u64]) -> Repeat {
        let mut histogram = histogram();
        for value in values {
            histogram.saturating_record(*value);
        }
        Repeat { began: SystemTime::UNIX_EPOCH, took: Duration::from_secs(1), histogram }
    }

    #[test]
    fn a_summary_takes_the_median_of_each_percentile() {
        let repeats = [repeat(&[10, 10, 90]), repeat(&[20, 20, 20]), repeat(&[30, 30, 100])];
        let summary = Summary::of_repeats(&repeats).unwrap();
        assert_eq!((summary.p50, summary.max), (20.0, 90.0));
        assert_eq!(Summary::of_repeats(&[]), None);
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn a_histogram_survives_the_way_between_processes() {
        let sent = repeat(&[1, 40, 40, 1_000_000, LONGEST * 2]).histogram;
        let mut arrived = histogram();
        Recorded::of(&sent).add_to(&mut arrived);
        assert_eq!(arrived, sent);
    }

    #[test]
    fn a_log_holds_one_interval_for_each_repeat() {
        let dir = tempfile::tempdir().unwrap();
        write_log(dir.path(), "handoff-atomic-64", &[repeat(&[5]), repeat(&[7])]).unwrap();
        let text = std::fs::read(dir.path().join("handoff-atomic-64.hlog")).unwrap();
        let intervals = IntervalLogIterator::new(&text)
            .filter(|entry| matches!(entry, Ok(LogEntry::Interval(interval)) if interval.tag().is_some()))
            .count();
        assert_eq!(intervals, 2);
    }
}
