//! Mutual TLS 1.3 between the nodes of one cluster.

use super::{Identity, IdentityError, Validity, node_name};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

/// Both sides of TLS for one identity. The kind of connection adds its own ALPN protocol.
pub(crate) struct TlsConfigs {
    /// For connections that this node opens. It verifies that the peer has the name that was dialed.
    pub(crate) client: ClientConfig,
    /// For connections from others. It requires a certificate of the same cluster.
    pub(crate) server: ServerConfig,
}

impl TlsConfigs {
    /// # Errors
    /// [`IdentityError::Unusable`] if TLS does not accept the certificate, the key or the authority.
    pub(crate) fn new(identity: &Identity, alpn: &[u8]) -> Result<Self, IdentityError> {
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
        client.alpn_protocols = vec![alpn.to_vec()];
        // A resumed session would skip the certificates, and admit a node whose certificate has expired since.
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
        server.alpn_protocols = vec![alpn.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        Ok(Self { client, server })
    }
}

/// Whether the key belongs to the certificate.
///
/// # Errors
/// Why the key cannot be used at all.
pub(super) fn key_matches(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<bool, String> {
    match CertifiedKey::from_der(chain, key, &provider()) {
        Ok(_) => Ok(true),
        Err(rustls::Error::InconsistentKeys(_)) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

/// AES-128 comes first: it is as strong as the key exchange and the fastest here.
fn provider() -> CryptoProvider {
    use aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256],
        ..aws_lc_rs::default_provider()
    }
}

/// The name in the certificate that the peer presented and TLS verified, and the certificate's validity.
///
/// # Errors
/// Why the certificate cannot be that of a node.
pub(crate) fn verified_peer(chain: Option<&[CertificateDer<'_>]>) -> Result<(String, Validity), String> {
    let certificate = chain.and_then(<[_]>::first).ok_or("it presented no certificate")?;
    let name = node_name(certificate).and_then(|name| Ok((name, Validity::of(certificate)?)));
    name.map_err(|problem| format!("its certificate cannot be used: {problem}"))
}
