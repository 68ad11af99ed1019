//! TLS as QUIC uses it, and what its errors mean.

use crate::identity::{Identity, IdentityError, TlsConfigs, Validity, verified_peer};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, TransportErrorCode};
use rustls::AlertDescription;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;

/// The application protocol that both sides name within TLS.
const ALPN: &[u8] = b"dflow";
/// The longest reason that is accepted from a peer, in characters.
const MAX_REASON: usize = 300;

/// Both sides of TLS over QUIC for one identity.
pub(super) struct Tls {
    pub(super) client: Arc<QuicClientConfig>,
    pub(super) server: Arc<QuicServerConfig>,
}

impl Tls {
    pub(super) fn new(identity: &Identity) -> Result<Self, IdentityError> {
        let unusable = |error: &dyn std::fmt::Display| IdentityError::Unusable(error.to_string());
        let TlsConfigs { client, server } = TlsConfigs::new(identity, ALPN)?;
        Ok(Self {
            client: Arc::new(QuicClientConfig::try_from(client).map_err(|error| unusable(&error))?),
            server: Arc::new(QuicServerConfig::try_from(server).map_err(|error| unusable(&error))?),
        })
    }
}

/// The verified name of the peer, and the validity of its certificate.
///
/// # Errors
/// Why its certificate cannot be that of a node.
pub(super) fn peer(connection: &quinn::Connection) -> Result<(String, Validity), String> {
    let chain = connection.peer_identity().and_then(|identity| identity.downcast::<Vec<CertificateDer<'_>>>().ok());
    verified_peer(chain.as_deref().map(Vec::as_slice))
}

/// The reason with which a silent connection is closed.
pub(super) const SILENT_REASON: &str = "nothing has come from the other side for too long";

/// Why a connection has ended or was not established, for people.
pub(super) fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TransportError(error) => clean(&error.reason, &error.code.to_string()) + advice(error.code),
        ConnectionError::ConnectionClosed(close) => {
            let reason = clean(&String::from_utf8_lossy(&close.reason), &close.error_code.to_string());
            format!("the other side refused: {reason}{}", advice(close.error_code))
        }
        ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason);
            format!("the other side closed it: {}", clean(&reason, "without a reason"))
        }
        ConnectionError::Reset => "the other side does not know the connection: it was probably restarted".to_owned(),
        ConnectionError::TimedOut => SILENT_REASON.to_owned(),
        ConnectionError::LocallyClosed => "this node closed it".to_owned(),
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => error.to_string(),
    }
}

/// What a TLS alert means among nodes: the reason that comes with it speaks of certificates only.
fn advice(code: TransportErrorCode) -> &'static str {
    let is = |alert: AlertDescription| code == TransportErrorCode::crypto(alert.into());
    if is(AlertDescription::UnknownCA) || is(AlertDescription::DecryptError) {
        "; it was issued by the authority of another cluster"
    } else if is(AlertDescription::CertificateExpired) {
        "; have the cluster's authority issue another one"
    } else {
        ""
    }
}

/// Text from a peer, made safe for a line of the log.
fn clean(text: &str, or: &str) -> String {
    let text: String = text.chars().take(MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().is_empty() { or.to_owned() } else { text }
}
