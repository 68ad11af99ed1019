//! Where the instances of each function run.

use crate::options::Place;
use dflow_workflow::FunctionId;
use std::collections::BTreeMap;

/// The places of each function's instances: of part 0, of part 1 and so on, repeating from the first. A function
/// without places runs at the first place of the run.
///
/// All places are in one list, with the end of each function's share beside it: a workflow of 100,000 functions takes
/// 800 kB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Where the places of each function end in `places`.
    ends: Vec<u32>,
    places: Vec<Place>,
}

impl Placement {
    /// Adds the places of the next function.
    ///
    /// # Panics
    /// If there are more than `u32::MAX` places, which the limits of a run exclude.
    pub fn push(&mut self, places: &[Place]) {
        self.places.extend_from_slice(places);
        self.ends.push(u32::try_from(self.places.len()).expect("a run has far fewer instances"));
    }

    /// The places of a function; empty if it has none.
    #[must_use]
    pub fn places_of(&self, function: FunctionId) -> &[Place] {
        let index = function.0 as usize;
        let Some(end) = self.ends.get(index) else { return &[] };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.places[start as usize..*end as usize]
    }

    /// Where part `part` of a function runs (0 if the function has one instance).
    #[must_use]
    pub fn place(&self, function: FunctionId, part: u32) -> Place {
        let places = self.places_of(function);
        places.get(part as usize % places.len().max(1)).copied().unwrap_or(0)
    }

    /// The functions that have places, with these.
    pub fn iter(&self) -> impl Iterator<Item = (FunctionId, &[Place])> {
        let functions = (0..).map(FunctionId).take(self.ends.len());
        functions.map(|function| (function, self.places_of(function))).filter(|(_, places)| !places.is_empty())
    }
}

impl From<BTreeMap<FunctionId, Vec<Place>>> for Placement {
    fn from(all: BTreeMap<FunctionId, Vec<Place>>) -> Self {
        let mut placement = Self::default();
        for (function, places) in all {
            // Functions without an entry get an empty share.
            while placement.ends.len() < function.0 as usize {
                placement.push(&[]);
            }
            placement.push(&places);
        }
        placement
    }
}

impl FromIterator<(FunctionId, Vec<Place>)> for Placement {
    fn from_iter<I: IntoIterator<Item = (FunctionId, Vec<Place>)>>(all: I) -> Self {
        BTreeMap::from_iter(all).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_repeat_and_default_to_the_first() {
        let placement = Placement::from(BTreeMap::from([(FunctionId(1), vec![2, 0]), (FunctionId(3), vec![1])]));
        assert_eq!((0..5).map(|part| placement.place(FunctionId(1), part)).collect::<Vec<_>>(), [2, 0, 2, 0, 2]);
        assert_eq!([0, 2, 3, 9].map(|function| placement.place(FunctionId(function), 7)), [0, 0, 1, 0]);
        let listed: Vec<_> = placement.iter().collect();
        assert_eq!(listed, [(FunctionId(1), &[2, 0][..]), (FunctionId(3), &[1][..])]);
    }
}
