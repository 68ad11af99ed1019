//! Mutual TLS between nodes of one cluster.

use super::identity::{Identity, Validity, node_name};
use super::identity_error::IdentityError;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, TransportErrorCode};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

/// What both sides say they speak, within TLS.
const ALPN: &[u8] = b"dflow";
/// The longest reason that is taken from a peer, in characters.
const MAX_REASON: usize = 300;

/// Both sides of TLS for one identity.
pub(super) struct Tls {
    pub(super) client: Arc<QuicClientConfig>,
    pub(super) server: Arc<QuicServerConfig>,
}

impl Tls {
    pub(super) fn new(identity: &Identity) -> Result<Self, IdentityError> {
        let unusable = |error: &dyn std::fmt::Display| IdentityError::Unusable(error.to_string());
        let provider = Arc::new(provider());
        let mut roots = RootCertStore::empty();
        roots.add(identity.authority().clone()).map_err(|error| unusable(&error))?;
        let roots = Arc::new(roots);
        let versions = &[&rustls::version::TLS13];

        let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| unusable(&error))?;
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| unusable(&error))?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(identity.chain(), identity.key())
            .map_err(|error| unusable(&error))?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        // Every connection looks at the certificates anew: one that has expired meanwhile does not get in.
        client.resumption = Resumption::disabled();

        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| unusable(&error))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| unusable(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(identity.chain(), identity.key())
            .map_err(|error| unusable(&error))?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        Ok(Self {
            client: Arc::new(QuicClientConfig::try_from(client).map_err(|error| unusable(&error))?),
            server: Arc::new(QuicServerConfig::try_from(server).map_err(|error| unusable(&error))?),
        })
    }
}

/// Whether a key is that of a certificate.
///
/// # Errors
/// If it is no key that can be used.
pub(super) fn belong_together(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<bool, String> {
    match CertifiedKey::from_der(chain, key, &provider()) {
        Ok(_) => Ok(true),
        Err(rustls::Error::InconsistentKeys(_)) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

/// AES-128 first: as strong as the rest of it, and the fastest.
fn provider() -> CryptoProvider {
    use aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256],
        ..aws_lc_rs::default_provider()
    }
}

/// The name in the certificate that the other side has shown, and that was verified; and how long it holds.
pub(super) fn peer(connection: &quinn::Connection) -> Result<(String, Validity), String> {
    let chain = connection.peer_identity().and_then(|identity| identity.downcast::<Vec<CertificateDer<'_>>>().ok());
    let certificate = chain.as_ref().and_then(|chain| chain.first()).ok_or("it has shown no certificate")?;
    let name = node_name(certificate).and_then(|name| Ok((name, Validity::of(certificate)?)));
    name.map_err(|problem| format!("its certificate cannot be used: {problem}"))
}

/// Why a connection is closed on which nothing comes any more.
pub(super) const NOTHING_HAS_COME: &str = "nothing has come from the other side for too long";

/// Why a connection has ended, or has not come about, for people to read.
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
        ConnectionError::TimedOut => NOTHING_HAS_COME.to_owned(),
        ConnectionError::LocallyClosed => "this node closed it".to_owned(),
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => error.to_string(),
    }
}

/// What an alert of TLS means among nodes, where the reason has the words of certificates only.
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

/// Text that came from outside, fit for a line of a log.
fn clean(text: &str, or: &str) -> String {
    let text: String = text.chars().take(MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().is_empty() { or.to_owned() } else { text }
}
