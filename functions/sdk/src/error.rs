//! The error that a function returns.

use dflow_ports::WriteError;
use std::fmt;

/// Why a function failed. Any error converts into it with `?`; a text does with [`Error::new`].
///
/// The text of an error includes the texts of its causes. The daemon prints it with the name of the instance, and
/// retries the function if its workflow says so. So the text should name the operation that failed, its object, and the
/// reason:
///
/// ```
/// use dflow_function::Error;
///
/// fn parse(line: &str) -> Result<u32, Error> {
///     line.trim().parse().map_err(|error| Error::new(format!("'{line}' is not a number of visitors: {error}")))
/// }
///
/// assert_eq!(parse("many").unwrap_err().to_string(), "'many' is not a number of visitors: invalid digit found in string");
/// ```
///
/// It does not implement [`std::error::Error`] itself, so that every type that does can be converted.
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

    /// An error that says that an output has no reader left, for a binding that has this from elsewhere.
    #[doc(hidden)]
    pub fn unread(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: Kind::Unread }
    }

    /// Whether the reason is that the function's output has no reader left: a function that returns this error has not
    /// failed.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        self.kind == Kind::Unread
    }

    /// The same error as an [`std::io::Error`]; [`std::io::ErrorKind::BrokenPipe`] if there is no reader left.
    /// Converted back, it is still [`Error::is_unread`].
    #[must_use]
    pub fn into_io(self) -> std::io::Error {
        match self.kind {
            Kind::Unread => std::io::Error::new(std::io::ErrorKind::BrokenPipe, Unread(self.message)),
            Kind::Failed => std::io::Error::other(self.message),
        }
    }
}

/// An unread output as it travels inside of an [`std::io::Error`].
#[derive(Debug)]
struct Unread(String);

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unread {}

/// Whether an error, or an error wrapped in it, means that an output has no reader left.
fn is_unread(error: &(dyn std::error::Error + 'static)) -> bool {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.downcast_ref::<WriteError>().is_some_and(WriteError::is_unread)
        || wrapped.is_some_and(|inner| inner.is::<Unread>())
        || error.source().is_some_and(is_unread)
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

impl<E: std::error::Error + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let unread = is_unread(&error);
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many errors print their cause themselves.
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Self { message, kind: if unread { Kind::Unread } else { Kind::Failed } }
    }
}
