//! This node's own certificate: whether other nodes will accept it.

use super::error::ClusterError;
use dflow_transport::identity::{Identity, Standing};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A certificate with fewer days left should be renewed.
pub(crate) const SOON_DAYS: u32 = 14;
/// A certificate should be renewed when less than this fraction of its validity is left, or [`SOON_DAYS`] before its
/// end, whichever is later.
const LAST_PART: u32 = 10;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Reads the identity of this node.
///
/// # Errors
/// If it is missing, or if its certificate is not valid now: no other node would accept this one.
pub(crate) fn load(directory: &Path) -> Result<Identity, ClusterError> {
    let identity = Identity::load(directory)?;
    let standing = match identity.validity().standing(SystemTime::now()) {
        Standing::Holds(_) => return Ok(identity),
        Standing::Expired(since) => format!("expired {} ago", about(since)),
        Standing::Early(until_then) => format!("does not hold before {} from now", about(until_then)),
    };
    Err(ClusterError::Certificate { node: identity.name().to_owned(), directory: directory.to_owned(), standing })
}

/// A warning if a valid certificate should be renewed soon.
pub(crate) fn warning(identity: &Identity, directory: &Path, now: SystemTime) -> Option<String> {
    let validity = identity.validity();
    let Standing::Holds(left) = validity.standing(now) else { return None };
    let soon = (DAY * SOON_DAYS).min(validity.length() / LAST_PART);
    (left < soon).then(|| {
        format!(
            "the certificate of node {node} in {} expires in {}: make another with 'dflow cluster add DIR --node {node}' where \
             DIR/authority is, put it in the place of this one, and start again before that",
            directory.display(),
            about(left),
            node = identity.name(),
        )
    })
}

/// A duration in words.
fn about(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (count, unit) = [(DAY.as_secs(), "day"), (3600, "hour"), (60, "minute")]
        .into_iter()
        .find(|(size, _)| seconds >= *size)
        .map_or((seconds, "second"), |(size, unit)| (seconds / size, unit));
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_transport::identity::ClusterCa;

    fn issued(from: SystemTime, days: u32) -> (tempfile::TempDir, Identity) {
        let directory = tempfile::tempdir().unwrap();
        let ca = ClusterCa::create("test").unwrap();
        ca.issue_between("b", from, from + DAY * days).unwrap().save(directory.path()).unwrap();
        let identity = Identity::load(directory.path()).unwrap();
        (directory, identity)
    }

    #[test]
    fn what_does_not_hold_is_refused_with_what_to_do() {
        let now = SystemTime::now();
        for (from, expected) in [(now - DAY * 3, "expired 2 days ago"), (now + DAY * 2, "1 day from now")] {
            let (directory, _) = issued(from, 1);
            let text = load(directory.path()).unwrap_err().to_string();
            for words in [expected, "node b", "dflow cluster add DIR --node b", directory.path().to_str().unwrap()] {
                assert!(text.contains(words), "'{words}' is not in: {text}");
            }
        }
        let (directory, _) = issued(now - DAY, 3);
        assert_eq!(load(directory.path()).unwrap().name(), "b");
    }

    #[test]
    fn the_end_is_announced_in_time() {
        let now = SystemTime::now();
        // A tenth of 20 days is less than the days for long ones.
        for (length, left, announced) in [(20, 3, false), (20, 1, true), (1000, 20, false), (1000, 13, true)] {
            let (directory, identity) = issued(now, length);
            let text = warning(&identity, directory.path(), now + DAY * (length - left));
            assert_eq!(text.is_some(), announced, "{length} days, {left} left: {text:?}");
            let days = format!("expires in {} day", left - 1);
            // The certificate says its times in whole seconds.
            assert!(text.is_none_or(|text| text.contains(&days) || text.contains("expires in 23 hours")));
        }
    }

    #[test]
    fn durations_in_words() {
        let texts = [1, 59, 60, 7200, 86_399, 86_400, 200_000].map(|seconds| about(Duration::from_secs(seconds)));
        assert_eq!(texts, ["1 second", "59 seconds", "1 minute", "2 hours", "23 hours", "1 day", "2 days"]);
    }
}
