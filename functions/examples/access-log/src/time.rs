//! The time in the log.

/// A second, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) year: u32,
    /// From 0.
    pub(crate) month: u32,
    /// From 1.
    pub(crate) day: u32,
    pub(crate) hour: u32,
    pub(crate) minute: u32,
    pub(crate) second: u32,
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Time {
    /// Goes on by one second.
    pub(crate) fn tick(&mut self) {
        let every = |years| self.year.is_multiple_of(years);
        let leap = every(4) && (!every(100) || every(400));
        let days = match self.month {
            1 => 28 + u32::from(leap),
            3 | 5 | 8 | 10 => 30,
            _ => 31,
        };
        let wheels = [
            (&mut self.second, 0, 60),
            (&mut self.minute, 0, 60),
            (&mut self.hour, 0, 24),
            (&mut self.day, 1, days + 1),
            (&mut self.month, 0, 12),
        ];
        for (wheel, first, end) in wheels {
            *wheel += 1;
            if *wheel < end {
                return;
            }
            *wheel = first;
        }
        self.year += 1;
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { year, month, day, hour, minute, second } = self;
        let month = MONTHS[*month as usize];
        write!(f, "{day:02}/{month}/{year}:{hour:02}:{minute:02}:{second:02} +0000")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(year: u32, month: u32, day: u32) -> String {
        let mut time = Time { year, month, day, hour: 23, minute: 59, second: 59 };
        time.tick();
        time.to_string()
    }

    #[test]
    fn days_months_and_years_end() {
        assert_eq!(next(2026, 0, 1), "02/Jan/2026:00:00:00 +0000");
        assert_eq!(next(2026, 1, 28), "01/Mar/2026:00:00:00 +0000");
        assert_eq!(next(2028, 1, 28), "29/Feb/2028:00:00:00 +0000");
        assert_eq!(next(2100, 1, 28), "01/Mar/2100:00:00:00 +0000");
        assert_eq!(next(2000, 1, 29), "01/Mar/2000:00:00:00 +0000");
        assert_eq!(next(2026, 3, 30), "01/May/2026:00:00:00 +0000");
        assert_eq!(next(2026, 11, 31), "01/Jan/2027:00:00:00 +0000");
    }

    #[test]
    fn a_year_has_its_seconds() {
        let mut time = Time { year: 2026, month: 0, day: 1, hour: 0, minute: 0, second: 0 };
        (0..365 * 24 * 3600).for_each(|_| time.tick());
        assert_eq!(time, Time { year: 2027, month: 0, day: 1, hour: 0, minute: 0, second: 0 });
    }
}
