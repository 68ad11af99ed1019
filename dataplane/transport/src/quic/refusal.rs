//! Why a connection between two nodes is refused or fails.

use super::connection::REFUSED;
use crate::log_limit::LogLimit;
use quinn::{ConnectionError, TransportErrorCode};
use rustls::AlertDescription;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;

/// The cause of a refused or failed connection, as far as this end can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The certificate is not from this cluster's authority.
    Authority,
    /// The certificate has expired or is not valid yet.
    Validity,
    /// The certificate names another node.
    Name,
    /// Another problem with the certificate, or there was none.
    Certificate,
    /// The other side speaks another version, or is not dflow.
    Version,
    /// No answer, or no completed handshake within the timeout.
    Silence,
    /// Too many connections.
    Busy,
    /// The other side or the network ended it.
    Closed,
}

impl Cause {
    /// All causes, in the order of declaration.
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

    /// The word for it in metrics and reports.
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

    /// The cause behind a handshake's error.
    pub(super) fn of(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::TransportError(error) => Self::of_code(error.code),
            ConnectionError::ConnectionClosed(close) => Self::of_code(close.error_code),
            ConnectionError::VersionMismatch => Self::Version,
            ConnectionError::TimedOut => Self::Silence,
            // Only the exchange of greetings closes with this code.
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

/// A refused or failed connection.
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
        // TLS has one alert for most problems with a certificate; only rustls's text names this one.
        let cause = match Cause::of(error) {
            Cause::Certificate if reason.contains("not valid for name") => Cause::Name,
            cause => cause,
        };
        Self { cause, reason }
    }
}

/// Counts refusals by cause, and logs them at a limited rate: strangers can cause as many as they like.
#[derive(Debug, Default)]
pub(super) struct Refusals([(AtomicU64, LogLimit); Cause::ALL.len()]);

impl Refusals {
    /// Counts and logs one. `runtime`: that of the endpoint.
    pub(super) fn note(&self, runtime: &Handle, from: SocketAddr, refusal: &Refusal) {
        let (count, lines) = &self.0[refusal.cause as usize];
        // Logged before it is counted: a test or an operator that sees the count finds the line.
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
