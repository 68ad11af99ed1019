//! Parameters of a function whose names were misspelt, in its program or where they are set.
//!
//! A program may ask for parameters that are optional, so a name that is not set is no error by itself. It is one if
//! the name differs by one slip from a parameter that is set and that the program has not asked for.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Names with fewer letters differ too easily: `x` and `y` are both right.
const LEAST_LETTERS: usize = 3;

/// The names of the parameters that a program has asked for.
#[derive(Default)]
pub(crate) struct Asked(Mutex<BTreeSet<String>>);

impl Asked {
    /// The program asks for this parameter.
    pub(crate) fn note(&self, name: &str) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
    }

    /// Those of `set` for which it has not asked.
    pub(crate) fn missing_from<'a>(&self, set: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        set.filter(|name| !names.contains(*name)).collect()
    }

    /// The names, for a person.
    pub(crate) fn list(&self) -> String {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// Whether one of two names is probably a misspelling of the other: they differ in one letter that is missing, added or
/// another, in two that are swapped, or only in capital letters and in `-` for `_`. Names that differ in a number, such
/// as `limit1` and `limit2`, do not.
pub(crate) fn is_misspelling(one: &str, other: &str) -> bool {
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let (one, other) = (plain(one), plain(other));
    let without_digits = |name: &str| name.chars().filter(|letter| !letter.is_ascii_digit()).collect::<String>();
    if one == other {
        return true;
    }
    one.chars().count().min(other.chars().count()) >= LEAST_LETTERS
        && strsim::osa_distance(&one, &other) == 1
        && without_digits(&one) != without_digits(&other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slip_is_a_misspelling() {
        for (one, other) in
            [("tpo", "top"), ("threshhold", "threshold"), ("max-rows", "max_rows"), ("Top", "top"), ("row", "rows")]
        {
            assert!(is_misspelling(one, other) && is_misspelling(other, one), "{one} {other}");
        }
        for (one, other) in [("min", "max"), ("x", "y"), ("limit1", "limit2"), ("limit", "limit2"), ("from", "to")] {
            assert!(!is_misspelling(one, other), "{one} {other}");
        }
    }
}
