//! Sizes and durations for display: three digits and a unit.

/// A size in bytes, in powers of 1024: `17 B`, `1.50 KiB`, `64.0 MiB`.
pub fn size(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // A number that would need four digits is displayed in the next unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", three_digits(value), UNITS[unit])
}

/// A duration in nanoseconds: `850 ns`, `1.84 s`, `2 min 05 s`, `3 h 12 min`.
pub fn duration(nanos: u64) -> String {
    let seconds = nanos / 1_000_000_000;
    if seconds >= 3600 {
        return format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60);
    }
    if seconds >= 100 {
        return format!("{} min {:02} s", seconds / 60, seconds % 60);
    }
    let nanos = nanos as f64;
    match nanos {
        _ if nanos < 999.5 => format!("{nanos} ns"),
        _ if nanos < 999.5e3 => format!("{} µs", three_digits(nanos / 1e3)),
        _ if nanos < 999.5e6 => format!("{} ms", three_digits(nanos / 1e6)),
        _ => format!("{} s", three_digits(nanos / 1e9)),
    }
}

/// `1 file`, `2 files`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

fn three_digits(value: f64) -> String {
    let decimals = match value {
        _ if value < 9.995 => 2,
        _ if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

/// One unit for all times of a table, so that they are easy to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The unit's name.
    pub unit: &'static str,
    nanos: u64,
    decimals: usize,
}

impl Clock {
    /// The unit for times up to `total` nanoseconds.
    pub fn up_to(total: u64) -> Self {
        match total {
            0..10_000_000 => Self { unit: "ms", nanos: 1_000_000, decimals: 3 },
            10_000_000..1_000_000_000 => Self { unit: "ms", nanos: 1_000_000, decimals: 1 },
            1_000_000_000..1_000_000_000_000 => Self { unit: "s", nanos: 1_000_000_000, decimals: 3 },
            _ => Self { unit: "s", nanos: 1_000_000_000, decimals: 1 },
        }
    }

    /// A time in the unit, without its name.
    pub fn show(&self, nanos: u64) -> String {
        format!("{:.*}", self.decimals, nanos as f64 / self.nanos as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1024, "1.00 KiB"),
            (10_240, "10.0 KiB"),
            (1_023_000, "999 KiB"),
            (1_023_999, "0.98 MiB"),
            (64 << 20, "64.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn durations_have_their_unit() {
        for (nanos, text) in [
            (0, "0 ns"),
            (850, "850 ns"),
            (12_345, "12.3 µs"),
            (999_600, "1.00 ms"),
            (1_842_000_000, "1.84 s"),
            (99_990_000_000, "100 s"),
            (125_000_000_000, "2 min 05 s"),
            (11_520_000_000_000, "3 h 12 min"),
        ] {
            assert_eq!(duration(nanos), text);
        }
    }

    #[test]
    fn a_clock_keeps_its_unit() {
        let clock = Clock::up_to(1_842_000_000);
        assert_eq!((clock.unit, clock.show(2_000_000).as_str()), ("s", "0.002"));
        assert_eq!(Clock::up_to(5_000_000).show(12_345), "0.012");
        assert_eq!(Clock::up_to(500_000_000).show(12_345_678), "12.3");
    }
}
