//! The validity period of a certificate.

use rustls_pki_types::CertificateDer;
use std::time::{Duration, SystemTime};

/// The validity period of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its start.
    pub from: SystemTime,
    /// Its end.
    pub until: SystemTime,
}

/// Whether a certificate is valid at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not yet: it becomes valid after this time.
    Early(Duration),
    /// It is valid, and stays so for this time.
    Holds(Duration),
    /// It expired this long ago.
    Expired(Duration),
}

impl Validity {
    /// Whether the certificate is valid at `now`.
    #[must_use]
    pub fn standing(&self, now: SystemTime) -> Standing {
        match (self.from.duration_since(now), self.until.duration_since(now)) {
            (Ok(until_then), _) if !until_then.is_zero() => Standing::Early(until_then),
            (_, Ok(left)) => Standing::Holds(left),
            (_, Err(since)) => Standing::Expired(since.duration()),
        }
    }

    /// The length of the period.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.until.duration_since(self.from).unwrap_or_default()
    }

    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| format!("it is not a certificate ({error})"))?;
        let time = |at: x509_parser::time::ASN1Time| {
            let seconds = Duration::from_secs(at.timestamp().unsigned_abs());
            let time = if at.timestamp() < 0 {
                SystemTime::UNIX_EPOCH.checked_sub(seconds)
            } else {
                SystemTime::UNIX_EPOCH.checked_add(seconds)
            };
            time.ok_or_else(|| "its validity period is out of range".to_owned())
        };
        Ok(Self { from: time(parsed.validity().not_before)?, until: time(parsed.validity().not_after)? })
    }
}
