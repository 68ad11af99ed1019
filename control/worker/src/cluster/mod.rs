//! A node that serves runs which others drive, and the probe of what is between two nodes.

mod absence;
mod joined;
pub(crate) mod probe;
mod serve;
mod serving;
mod session;

pub use probe::{PathTrial, PeerRdma, PeerReport, Rates, examine_peers};
pub use serve::{Listening, ServeOptions, serve};
