//! The log on standard error, which `DFLOW_LOG` enables.

use std::env;
use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::error::CallError;
use crate::terminal::Look;

/// The environment variable that holds the filter.
const VARIABLE: &str = "DFLOW_LOG";

/// Libraries that log every received packet, even from unauthenticated senders. They log at this level unless the
/// filter names them.
const LIBRARIES: &str = "quinn=info,quinn_proto=info,quinn_udp=info,rustls=info,hyper=info";

/// Whether lines of the log may appear on standard error.
pub fn is_on() -> bool {
    env::var_os(VARIABLE).is_some_and(|filter| !filter.is_empty() && filter != "off")
}

/// Starts the log if it is enabled.
///
/// # Errors
/// If the filter is not valid.
pub fn start() -> Result<(), CallError> {
    if !is_on() {
        return Ok(());
    }
    let wanted = env::var(VARIABLE).map_err(|error| CallError::Log(error.to_string()))?;
    let filter = filter(&wanted)?;
    let color = Look::of(&io::stderr()).color;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(color).init();
    Ok(())
}

fn filter(wanted: &str) -> Result<EnvFilter, CallError> {
    let parse = |text: &str| EnvFilter::builder().parse(text).map_err(|error| CallError::Log(error.to_string()));
    let filter = parse(wanted)?;
    // Later directives take precedence over earlier ones.
    if filter.max_level_hint() > Some(LevelFilter::INFO) { parse(&format!("{LIBRARIES},{wanted}")) } else { Ok(filter) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_log_packets_only_if_the_filter_names_them() {
        let text = |wanted| filter(wanted).unwrap().to_string();
        assert_eq!(text("warn"), "warn");
        for (wanted, quinn) in [("debug", "quinn_proto=info"), ("debug,quinn_proto=trace", "quinn_proto=trace")] {
            let text = text(wanted);
            assert!(text.split(',').any(|part| part == quinn) && text.split(',').any(|part| part == "debug"), "{text}");
            assert_eq!(text.matches("quinn_proto").count(), 1, "{text}");
        }
        assert!(filter("dflow_worker=loud").is_err());
    }
}
