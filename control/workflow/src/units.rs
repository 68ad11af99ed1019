//! Durations and sizes as people write them: `1m30s`, `250ms`, `64MiB`, `1.5GB`.

use std::time::Duration;

/// Why a text is not a duration or a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// A number is missing in a duration.
    #[error("`{0}` is not a duration: write a number and a unit, such as 250ms, 30s, 5m or 1h30m")]
    NotADuration(String),
    /// A number in a duration has no unit, or an unknown one.
    #[error("`{text}` is not a duration: the unit of time {unit}; use us, ms, s, m, h or d, as in 30s")]
    TimeUnit {
        /// The text.
        text: String,
        /// What is wrong with its unit.
        unit: String,
    },
    /// A duration is longer than [`MAX_DURATION`].
    #[error("`{0}` is too long: at most 365d")]
    TooLong(String),
    /// A size does not start with a number.
    #[error("`{0}` is not a size: write a number and a unit, such as 512MiB or 2GB")]
    NotASize(String),
    /// The unit of a size does not exist.
    #[error(
        "`{text}` is not a size: there is no unit `{unit}`; use B, KiB, MiB, GiB, TiB (or K, M, G, T for these) or kB, MB, GB, TB"
    )]
    SizeUnit {
        /// The text.
        text: String,
        /// The unit that stands in it.
        unit: String,
    },
    /// A size does not fit in 64 bits.
    #[error("`{0}` is too large: at most 8388607TiB")]
    TooLarge(String),
}

/// The longest duration that a file may state.
pub const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads a duration: one or more numbers, each with its unit (`us`, `ms`, `s`, `m`, `h`, `d`), such as `1m30s` or
/// `0.5s`.
///
/// # Errors
/// If the text is not a duration, or longer than [`MAX_DURATION`].
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(UnitError::NotADuration(text.into()));
    }
    let mut nanos = 0_u128;
    while !rest.is_empty() {
        let (number, after) = Decimal::split(rest).ok_or_else(|| UnitError::NotADuration(text.into()))?;
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let scale: u128 = match unit {
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3600 * 1_000_000_000,
            "d" => 86_400 * 1_000_000_000,
            "" => return Err(UnitError::TimeUnit { text: text.into(), unit: "is missing".into() }),
            other => return Err(UnitError::TimeUnit { text: text.into(), unit: format!("`{other}` does not exist") }),
        };
        nanos = number
            .times(scale)
            .and_then(|part| nanos.checked_add(part))
            .filter(|&nanos| nanos <= MAX_DURATION.as_nanos())
            .ok_or_else(|| UnitError::TooLong(text.into()))?;
        rest = after.trim_start();
    }
    // At most 365 days of nanoseconds: 3.2e16, which fits.
    Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
}

/// Reads a size in bytes: a number and a unit. `KiB`, `MiB`, `GiB`, `TiB` and their short forms `K`, `M`, `G`, `T`
/// count in powers of 1024; `kB`, `MB`, `GB`, `TB` in powers of 1000; `B` or nothing means bytes.
///
/// # Errors
/// If the text is not a size, or does not fit in 64 bits.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = Decimal::split(text.trim()).ok_or_else(|| UnitError::NotASize(text.into()))?;
    let scale: u128 = match unit.trim() {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        other => return Err(UnitError::SizeUnit { text: text.into(), unit: other.into() }),
    };
    number
        .times(scale)
        .and_then(|bytes| u64::try_from(bytes).ok())
        .filter(|&bytes| i64::try_from(bytes).is_ok())
        .ok_or_else(|| UnitError::TooLarge(text.into()))
}

/// Reads a percentage such as `50%` or `0.5 %` as a share: 0.5 or 0.005. `None` if the text is not one.
#[must_use]
pub fn parse_percent(text: &str) -> Option<f64> {
    let (number, unit) = Decimal::split(text.trim())?;
    (unit.trim() == "%").then(|| number.digits as f64 / 10_f64.powi(number.decimals.cast_signed()) / 100.0)
}

/// A number such as `12` or `1.5`: `digits` divided by ten to the power of `decimals`.
struct Decimal {
    digits: u128,
    decimals: u32,
}

impl Decimal {
    /// Further digits are insignificant and could overflow.
    const MAX_DIGITS: usize = 18;

    /// Splits the number off the front of a text.
    fn split(text: &str) -> Option<(Self, &str)> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, rest) = text.split_at(end);
        let (whole, fraction) = match number.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return None,
            None => (number, ""),
        };
        if whole.is_empty() || fraction.contains('.') || whole.len() + fraction.len() > Self::MAX_DIGITS {
            return None;
        }
        let digits = format!("{whole}{fraction}").parse().ok()?;
        Some((Self { digits, decimals: u32::try_from(fraction.len()).ok()? }, rest))
    }

    /// The number times a scale, rounded down.
    fn times(&self, scale: u128) -> Option<u128> {
        Some(self.digits.checked_mul(scale)? / 10_u128.checked_pow(self.decimals)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("30s", 30_000),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("0.5s", 500),
            ("1h", 3_600_000),
            ("0s", 0),
            (" 1 m 5 s ", 65_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration("5us"), Ok(Duration::from_micros(5)));
        assert_eq!(parse_duration("365d"), Ok(MAX_DURATION));
        for text in ["", "s", "30", "30 parsecs", "-1s", "1.s", "1..5s", "366d", "1s,", "99999999999999999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("1GiB", 1 << 30), ("64M", 64 << 20), ("1.5kB", 1500), ("17", 17), ("0 B", 0), ("2TB", 2_000_000_000_000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "1gib", "1 X", "-1", "1.", "99999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn percentages() {
        for (text, share) in [("50%", 0.5), (" 2.5 % ", 0.025), ("0%", 0.0), ("300%", 3.0)] {
            assert_eq!(parse_percent(text), Some(share), "{text}");
        }
        for text in ["", "%", "50", "50 MB", "-1%", "1.%", "5%%"] {
            assert_eq!(parse_percent(text), None, "{text}");
        }
    }

    #[test]
    fn errors_say_what_to_write() {
        assert!(parse_duration("30").unwrap_err().to_string().contains("30s"));
        assert!(parse_duration("3 parsecs").unwrap_err().to_string().contains("use us, ms, s"));
        assert!(parse_size("1 X").unwrap_err().to_string().contains("KiB"));
    }
}
