//! All programs of a run that cannot run on a node, in one error.

use super::program::Wanted;
use std::collections::HashMap;
use std::fmt;

/// How many programs an error lists.
const MAX_PROGRAMS: usize = 10;

/// How many functions an error lists for one program.
const MAX_FUNCTIONS: usize = 3;

/// The programs that cannot run on a node, in the order of the functions that need them. `E` says why not.
#[derive(Debug)]
pub struct UnusablePrograms<E> {
    programs: Vec<Unusable<E>>,
    /// The place of each in the list.
    places: HashMap<Wanted, usize>,
}

/// A program that cannot run on a node.
#[derive(Debug)]
struct Unusable<E> {
    error: E,
    /// The first functions that need it.
    functions: Vec<String>,
    /// How many functions need it.
    count: usize,
}

impl<E> Default for UnusablePrograms<E> {
    fn default() -> Self {
        Self { programs: Vec::new(), places: HashMap::new() }
    }
}

impl<E> UnusablePrograms<E> {
    /// Searches for the program of a function with `find`, unless it is known that it cannot run. `None` if it cannot.
    pub(crate) fn find<T>(
        &mut self,
        function: &str,
        wanted: &Wanted,
        find: impl FnOnce(&Wanted) -> Result<T, E>,
    ) -> Option<T> {
        if let Some(&at) = self.places.get(wanted) {
            self.programs[at].need(function);
            return None;
        }
        match find(wanted) {
            Ok(found) => Some(found),
            Err(error) => {
                let mut unusable = Unusable { error, functions: Vec::new(), count: 0 };
                unusable.need(function);
                self.places.insert(wanted.clone(), self.programs.len());
                self.programs.push(unusable);
                None
            }
        }
    }

    /// `Err` if a program cannot run.
    pub(crate) fn check(self) -> Result<(), Self> {
        if self.programs.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl<E> Unusable<E> {
    fn need(&mut self, function: &str) {
        if self.functions.len() < MAX_FUNCTIONS {
            self.functions.push(format!("'{function}'"));
        }
        self.count += 1;
    }

    fn functions(&self) -> String {
        let named = self.functions.join(", ");
        match self.count - self.functions.len() {
            0 => named,
            more => format!("{named} and {more} more"),
        }
    }
}

impl<E: fmt::Display> fmt::Display for UnusablePrograms<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [program] = &self.programs[..] {
            let noun = if program.count == 1 { "function" } else { "functions" };
            return write!(f, "the {noun} {} cannot run: {}", program.functions(), program.error);
        }
        write!(f, "{} programs cannot run:", self.programs.len())?;
        for program in self.programs.iter().take(MAX_PROGRAMS) {
            write!(f, "\n{}: {}", program.functions(), program.error)?;
        }
        match self.programs.len().saturating_sub(MAX_PROGRAMS) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for UnusablePrograms<E> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::program::ProgramError;

    fn wanted(name: &str) -> Wanted {
        Wanted::from_parts(name.to_owned(), false, b"/".to_vec())
    }

    fn missing(wanted: &Wanted) -> Result<(), ProgramError> {
        Err(ProgramError::Missing { name: wanted.name.clone(), searched: vec!["/bin".into()] })
    }

    #[test]
    fn programs_are_listed_once_each_with_their_functions() {
        let mut unusable = UnusablePrograms::default();
        assert!(unusable.find("ok", &wanted("cat"), |_| Ok(())).is_some());
        for function in ["a", "b", "c", "d", "e"] {
            assert!(unusable.find(function, &wanted("one"), missing).is_none());
        }
        let end = "there is no program 'one' in /bin; install it, or give a path with a '/'";
        assert_eq!(unusable.to_string(), format!("the functions 'a', 'b', 'c' and 2 more cannot run: {end}"));
        for number in 0..MAX_PROGRAMS {
            unusable.find("f", &wanted(&format!("p{number}")), missing);
        }
        let text = unusable.check().unwrap_err().to_string();
        assert!(
            text.starts_with(&format!("11 programs cannot run:\n'a', 'b', 'c' and 2 more: {end}\n'f': there")),
            "{text}"
        );
        assert!(text.ends_with("\nand 1 more") && text.lines().count() == MAX_PROGRAMS + 2, "{text}");
        assert!(UnusablePrograms::<ProgramError>::default().check().is_ok());
    }
}
