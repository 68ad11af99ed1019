//! Which of the known names was probably meant by one that is not known.

use crate::limits::MAX_NAME_BYTES;

/// What the searches of one report may cost: pairs of characters that are compared, and [`NAME`] for each name. A file
/// has up to 100,000 functions, and a report shows up to fifty errors, each with a search.
const MAX_COST: usize = 24_000_000;
/// The cost of looking at a name, whatever its length.
const NAME: usize = 32;

/// Minimum length of an abbreviation, in bytes.
const MIN_ABBREVIATION: usize = 3;

/// Searches, which together take a limited time: once that is used up, errors have no suggestion.
pub(crate) struct Search {
    left: usize,
}

impl Default for Search {
    fn default() -> Self {
        Self { left: MAX_COST }
    }
}

impl Search {
    /// The known name that was probably meant by `given`: the first of those that differ least, without regard to
    /// case. If none is near, the only one that `given` abbreviates.
    pub(crate) fn nearest<'k>(&mut self, given: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
        if given.len() > 2 * MAX_NAME_BYTES {
            return None;
        }
        let given = given.to_lowercase();
        let allowed = (given.chars().count() / 3).max(1);
        let mut best: Option<(usize, &str)> = None;
        // The names of which `given` is an abbreviation: the first, and whether there is another.
        let mut longer: Option<(&str, bool)> = None;
        let mut lower = String::new();
        for name in known {
            if self.left == 0 {
                break;
            }
            self.left = self.left.saturating_sub(NAME);
            if given.len() >= MIN_ABBREVIATION
                && name.get(..given.len()).is_some_and(|start| start.eq_ignore_ascii_case(&given))
            {
                longer = Some(longer.map_or((name, false), |(first, _)| (first, true)));
            }
            // A character has up to four bytes.
            if name.len().abs_diff(given.len()) > 4 * allowed {
                continue;
            }
            lower.clear();
            lower.extend(name.chars().flat_map(char::to_lowercase));
            let (one, other) = without_common_ends(&given, &lower);
            if one.is_ascii() && other.is_ascii() && one.len().abs_diff(other.len()) > allowed {
                continue;
            }
            self.left = self.left.saturating_sub(one.len() * other.len());
            let distance = strsim::osa_distance(one, other);
            let likely = distance <= allowed && distance < name.len();
            if likely && best.is_none_or(|(least, _)| distance < least) {
                best = Some((distance, name));
                if distance <= 1 {
                    break;
                }
            }
        }
        let abbreviated = longer.and_then(|(name, others)| (!others).then_some(name));
        best.map(|(_, name)| name).or(abbreviated)
    }
}

/// [`Search::nearest`] with a budget of its own, for lists that are short.
pub(crate) fn nearest<'k>(given: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    Search::default().nearest(given, known)
}

/// Both without the characters that they begin and end with alike, which do not count for their distance. The names of
/// generated workflows are long and differ in a few digits.
fn without_common_ends<'a>(one: &'a str, other: &'a str) -> (&'a str, &'a str) {
    let alike =
        |a: &mut dyn Iterator<Item = u8>, b: &mut dyn Iterator<Item = u8>| a.zip(b).take_while(|(a, b)| a == b).count();
    let start = one.floor_char_boundary(alike(&mut one.bytes(), &mut other.bytes()));
    let (one, other) = (&one[start..], &other[start..]);
    let mut end = alike(&mut one.bytes().rev(), &mut other.bytes().rev());
    while !one.is_char_boundary(one.len() - end) {
        end -= 1;
    }
    (&one[..one.len() - end], &other[..other.len() - end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_name_that_was_meant() {
        let known = ["split", "count", "merge"];
        assert_eq!(nearest("splt", known.into_iter()), Some("split"));
        assert_eq!(nearest("Count", known.into_iter()), Some("count"));
        assert_eq!(nearest("mereg", known.into_iter()), Some("merge"));
        assert_eq!(nearest("sort", known.into_iter()), None);
        assert_eq!(nearest("mem", ["cpu", "memory"].into_iter()), Some("memory"));
        assert_eq!(nearest("par", ["partition", "parameters"].into_iter()), None);
        assert_eq!(nearest("me", ["memory"].into_iter()), None);
        assert_eq!(nearest("x", ["y"].into_iter()), None);
        assert_eq!(nearest(&"a".repeat(1000), known.into_iter()), None);
        assert_eq!(nearest("wörtr", ["würter", "wörter"].into_iter()), Some("wörter"));
    }

    #[test]
    fn the_last_of_many_names_is_found() {
        let names: Vec<String> = (0..100_000).map(|number| format!("mProject_{number:08}")).collect();
        let known = || names.iter().map(String::as_str);
        assert_eq!(nearest("mProjct_00099999", known()), Some("mProject_00099999"));
        // And when nothing is left to spend, nothing is said.
        let mut search = Search::default();
        let found: Vec<Option<&str>> = (0..50).map(|_| search.nearest("mProject_x0099999", known())).collect();
        assert_eq!(found[0], Some("mProject_00099999"));
        assert_eq!((found[49], search.left), (None, 0));
    }

    proptest! {
        #[test]
        fn common_ends_do_not_count(one in "[abä]{0,6}", other in "[abä]{0,6}", start in "[abä]{0,3}", end in "[abä]{0,3}") {
            let (one, other) = (format!("{start}{one}{end}"), format!("{start}{other}{end}"));
            let (a, b) = without_common_ends(&one, &other);
            prop_assert_eq!(strsim::osa_distance(a, b), strsim::osa_distance(&one, &other));
        }
    }
}
