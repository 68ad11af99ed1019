//! The log on standard error: off, unless `DFLOW_LOG` says what is wanted.

use std::env;
use std::io;

use tracing_subscriber::EnvFilter;

use crate::error::CallError;
use crate::terminal::Look;

/// The environment variable that holds the filter.
const VARIABLE: &str = "DFLOW_LOG";

/// Whether lines of the log may appear on standard error.
pub fn is_on() -> bool {
    env::var_os(VARIABLE).is_some_and(|filter| !filter.is_empty() && filter != "off")
}

/// Starts the log if it is wanted.
///
/// # Errors
/// The filter is not one.
pub fn start() -> Result<(), CallError> {
    if !is_on() {
        return Ok(());
    }
    let filter = EnvFilter::try_from_env(VARIABLE).map_err(|error| CallError::Log(error.to_string()))?;
    let color = Look::of(&io::stderr()).color;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(color).init();
    Ok(())
}
