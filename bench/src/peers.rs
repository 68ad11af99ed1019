//! Clients of the peers that several topics measure.

#[cfg(feature = "peers")]
pub mod iceoryx;
pub mod redis;
pub mod unix_socket;

/// Why a peer is absent from a build without the `peers` feature.
#[cfg(not(feature = "peers"))]
pub const NOT_BUILT: &str = "this build leaves it out; scripts/bench builds with it (--features peers)";
