//! The lines of the log.

use crate::random::Random;
use crate::site::{Answer, Site};
use crate::time::Time;
use std::io::Write;

/// The average number of requests a second.
const REQUESTS_A_SECOND: u32 = 25;

/// A log that never ends.
#[derive(Debug)]
pub(crate) struct Log {
    random: Random,
    site: Site,
    time: Time,
    /// The time in the format of the log, with everything up to the method.
    stamp: Vec<u8>,
}

impl Log {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let site = Site::new(&mut random);
        let time = Time { year: 2026, month: 0, day: 1, hour: 0, minute: 0, second: 0 };
        let mut log = Self { random, site, time, stamp: Vec::new() };
        log.write_stamp();
        log
    }

    /// Appends the next line to `text`.
    pub(crate) fn line(&mut self, text: &mut Vec<u8>) {
        let Self { random, site, .. } = self;
        let (path, status, size) = match *site.answers.pick(random) {
            Answer::Page(status) => {
                let page = site.pages.pick(random);
                (&page.path, status, page.size.as_str())
            }
            Answer::Short(status, size) => (&site.pages.pick(random).path, status, size),
            Answer::Missing(status, size) => (site.missing.pick(random), status, size),
        };
        text.extend_from_slice(site.clients.pick(random).as_bytes());
        text.extend_from_slice(&self.stamp);
        text.extend_from_slice(site.methods.pick(random).as_bytes());
        text.push(b' ');
        text.extend_from_slice(path.as_bytes());
        text.extend_from_slice(b" HTTP/1.1\" ");
        text.extend_from_slice(status.as_bytes());
        text.push(b' ');
        text.extend_from_slice(size.as_bytes());
        text.extend_from_slice(b" \"");
        text.extend_from_slice(site.referrers.pick(random).as_bytes());
        text.extend_from_slice(b"\" \"");
        text.extend_from_slice(site.browsers.pick(random).as_bytes());
        text.extend_from_slice(b"\"\n");
        if random.below(REQUESTS_A_SECOND) == 0 {
            self.time.tick();
            self.write_stamp();
        }
    }

    fn write_stamp(&mut self) {
        self.stamp.clear();
        // A vector takes everything.
        let _ = write!(self.stamp, " - - [{}] \"", self.time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn lines(seed: u64, count: usize) -> Vec<String> {
        let mut log = Log::new(seed);
        let mut text = Vec::new();
        (0..count).for_each(|_| log.line(&mut text));
        String::from_utf8(text).unwrap().lines().map(String::from).collect()
    }

    /// The fields as in the definition of the format: client, request, status, size, referrer, browser.
    fn fields(line: &str) -> Option<[&str; 6]> {
        let (client, rest) = line.split_once(" - - [")?;
        let (_, rest) = rest.split_once("] \"")?;
        let (request, rest) = rest.split_once("\" ")?;
        let (status, rest) = rest.split_once(' ')?;
        let (size, rest) = rest.split_once(" \"")?;
        let (referrer, rest) = rest.split_once("\" \"")?;
        let browser = rest.strip_suffix('"')?;
        Some([client, request, status, size, referrer, browser])
    }

    #[test]
    fn every_line_is_in_the_format() {
        for line in lines(7, 20_000) {
            let [client, request, status, size, referrer, browser] = fields(&line).expect(&line);
            assert!(client.parse::<std::net::IpAddr>().is_ok(), "{line}");
            let [method, path, protocol] = request.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            assert!(
                ["GET", "POST", "HEAD"].contains(&method) && path.starts_with('/') && protocol == "HTTP/1.1",
                "{line}"
            );
            assert!(status.parse::<u16>().is_ok_and(|status| (200..600).contains(&status)), "{line}");
            assert!(size == "-" || size.parse::<u64>().is_ok(), "{line}");
            assert!(!referrer.contains('"') && !browser.contains('"'), "{line}");
        }
    }

    #[test]
    fn a_seed_makes_a_log() {
        assert_eq!(lines(1, 100), lines(1, 100));
        assert_ne!(lines(1, 100), lines(2, 100));
    }

    #[test]
    fn a_few_missing_pages_make_most_of_the_misses() {
        let mut misses = HashMap::<String, usize>::new();
        for line in lines(3, 50_000) {
            let [_, request, status, ..] = fields(&line).expect(&line);
            if status == "404" {
                *misses.entry(request.split(' ').nth(1).unwrap_or_default().into()).or_default() += 1;
            }
        }
        let all: usize = misses.values().sum();
        assert!((2_500..4_500).contains(&all), "{all} of 50,000 requests miss");
        let mut counts: Vec<usize> = misses.into_values().collect();
        counts.sort_unstable_by(|one, other| other.cmp(one));
        let top: usize = counts.iter().take(20).sum();
        assert!(counts.len() > 500 && top * 3 > all, "{} missing pages, 20 of them with {top} of {all}", counts.len());
    }
}
