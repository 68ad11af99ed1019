//! The error that a function returns.

use std::fmt;

/// Why a function failed. Any error converts into it with `?`, and a text does with [`Error::new`].
///
/// It does not implement [`std::error::Error`] itself, so that every type which does can be converted.
pub struct Error {
    message: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Failed,
    Unread,
}

impl Error {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: Kind::Failed }
    }

    pub(crate) fn unread(output: &str) -> Self {
        Self { message: format!("nobody reads the output '{output}' any more"), kind: Kind::Unread }
    }

    /// Whether the reason is that nobody reads the function's output any more: it may end for this reason without
    /// failing the run.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        self.kind == Kind::Unread
    }

    /// The same error as an [`std::io::Error`]; [`std::io::ErrorKind::BrokenPipe`] if nobody reads any more.
    #[must_use]
    pub fn into_io(self) -> std::io::Error {
        match self.kind {
            Kind::Unread => std::io::Error::new(std::io::ErrorKind::BrokenPipe, self.message),
            Kind::Failed => std::io::Error::other(self.message),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::new(message)
    }
}
