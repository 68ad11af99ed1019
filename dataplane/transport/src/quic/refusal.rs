//! Why two nodes do not come together.

use super::connection::REFUSED;
use crate::log_limit::LogLimit;
use quinn::{ConnectionError, TransportErrorCode};
use rustls::AlertDescription;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;

/// Why a connection was refused or did not come about, as far as it can be told from one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The certificate is not from this cluster's authority.
    Authority,
    /// The certificate has expired, or is not valid yet.
    Validity,
    /// The certificate is that of another node.
    Name,
    /// Something else about the certificate, or none was shown.
    Certificate,
    /// The other side speaks another version, or is not dflow.
    Version,
    /// Nothing came, or no proof within the time for it.
    Silence,
    /// There are too many connections already.
    Busy,
    /// The other side, or the network, ended it.
    Closed,
}

impl Cause {
    /// All of them, in their order.
    pub const ALL: [Self; 8] = [
        Self::Authority,
        Self::Validity,
        Self::Name,
        Self::Certificate,
        Self::Version,
        Self::Silence,
        Self::Busy,
        Self::Closed,
    ];

    /// One word for it, as metrics and reports have it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Validity => "validity",
            Self::Name => "name",
            Self::Certificate => "certificate",
            Self::Version => "version",
            Self::Silence => "silence",
            Self::Busy => "busy",
            Self::Closed => "closed",
        }
    }

    /// What the error of a handshake means.
    pub(super) fn of(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::TransportError(error) => Self::of_code(error.code),
            ConnectionError::ConnectionClosed(close) => Self::of_code(close.error_code),
            ConnectionError::VersionMismatch => Self::Version,
            ConnectionError::TimedOut => Self::Silence,
            // So it is closed only while both sides greet each other.
            ConnectionError::ApplicationClosed(close) if close.error_code == REFUSED => Self::Version,
            ConnectionError::ApplicationClosed(_)
            | ConnectionError::Reset
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => Self::Closed,
        }
    }

    fn of_code(code: TransportErrorCode) -> Self {
        let is =
            |alerts: &[AlertDescription]| alerts.iter().any(|&alert| code == TransportErrorCode::crypto(alert.into()));
        if is(&[AlertDescription::UnknownCA, AlertDescription::DecryptError]) {
            Self::Authority
        } else if is(&[AlertDescription::CertificateExpired]) {
            Self::Validity
        } else if is(&[AlertDescription::NoApplicationProtocol, AlertDescription::ProtocolVersion]) {
            Self::Version
        } else if is(&[
            AlertDescription::BadCertificate,
            AlertDescription::UnsupportedCertificate,
            AlertDescription::CertificateUnknown,
            AlertDescription::CertificateRequired,
            AlertDescription::AccessDenied,
        ]) {
            Self::Certificate
        } else if code == TransportErrorCode::CONNECTION_REFUSED {
            Self::Busy
        } else {
            Self::Closed
        }
    }
}

/// A connection that does not come about.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) cause: Cause,
    /// For people.
    pub(super) reason: String,
}

impl Refusal {
    pub(super) fn new(cause: Cause, reason: impl Into<String>) -> Self {
        Self { cause, reason: reason.into() }
    }
}

impl From<&ConnectionError> for Refusal {
    fn from(error: &ConnectionError) -> Self {
        let reason = super::tls::reason(error);
        // rustls has one alert for all that is wrong with a certificate; its words tell more.
        let cause = match Cause::of(error) {
            Cause::Certificate if reason.contains("not valid for name") => Cause::Name,
            cause => cause,
        };
        Self { cause, reason }
    }
}

/// How many were refused, by the cause, and what the log says of them: strangers can cause lines, but only so many.
#[derive(Debug, Default)]
pub(super) struct Refusals([(AtomicU64, LogLimit); Cause::ALL.len()]);

impl Refusals {
    /// One more. `runtime`: that of the endpoint.
    pub(super) fn note(&self, runtime: &Handle, from: SocketAddr, refusal: &Refusal) {
        let (count, lines) = &self.0[refusal.cause as usize];
        // Whoever sees it counted finds the line.
        lines.warn(runtime, from, format!("refused a connection: {}", refusal.reason));
        count.fetch_add(1, Ordering::Release);
    }

    pub(super) fn get(&self, cause: Cause) -> u64 {
        self.0[cause as usize].0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_place_and_its_word() {
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index);
            assert_eq!(Cause::ALL.into_iter().filter(|other| other.word() == cause.word()).count(), 1);
        }
    }
}
