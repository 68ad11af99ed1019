//! Which part of a partitioned stream an instance or a stream belongs to.

use std::fmt;

/// The position of an instance or a stream among the parts of a `foreach`: one number for each level of partitioning
/// upstream, outermost first; empty without one. It depends on the data alone, never on timing, and sorts in the order
/// of the parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartPath(Vec<u32>);

impl PartPath {
    /// The path without a partition.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// The path one level deeper.
    #[must_use]
    pub fn child(&self, part: u32) -> Self {
        let mut path = Vec::with_capacity(self.0.len() + 1);
        path.extend_from_slice(&self.0);
        path.push(part);
        Self(path)
    }

    /// The numbers, outermost first.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }

    /// The part at the last level; 0 if there are no parts.
    pub(crate) fn last_part(&self) -> usize {
        self.as_slice().last().map_or(0, |part| *part as usize)
    }

    /// There is no partition upstream.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

/// The numbers with dots between them: `3`, or `3.0` for a part of a part.
impl fmt::Display for PartPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (level, part) in self.0.iter().enumerate() {
            if level > 0 {
                f.write_str(".")?;
            }
            fmt::Display::fmt(part, f)?;
        }
        Ok(())
    }
}
