//! The identity of a node: its certificate from the certificate authority of its cluster, and TLS with it.
//!
//! Every kind of connection between nodes authenticates with these. A certificate names one node; its name is what
//! peers verify, wherever the node listens.

mod error;
mod files;
mod tls;
mod validity;

pub use error::IdentityError;
pub use validity::{Standing, Validity};

pub(crate) use tls::{TlsConfigs, verified_peer};

use files::{
    CA_CERTIFICATE, CA_KEY, NODE_CERTIFICATE, NODE_KEY, certificate_pem, make_directory, missing, pem,
    read_certificate, read_secret, replace, write_new,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::path::Path;
use std::time::{Duration, SystemTime};
use tls::key_matches;

/// The longest name of a node or a cluster, in bytes: that of a DNS name.
const MAX_NAME: usize = 253;
/// The longest label in a node's name, in bytes.
const MAX_LABEL: usize = 63;
/// The longest validity of a node's certificate.
const MAX_VALIDITY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// The validity begins this long before the certificate is made, because clocks differ.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// The certificate authority of a cluster. Its key admits nodes to the cluster; a node needs only what
/// [`ClusterCa::issue`] makes.
#[derive(Debug)]
pub struct ClusterCa {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A node's certificate and key, and the certificate of the cluster's authority.
pub struct Identity {
    name: String,
    validity: Validity,
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    authority: CertificateDer<'static>,
}

impl ClusterCa {
    /// The validity of an authority's own certificate: ten years, so that it need not be renewed.
    pub const VALIDITY: Duration = Duration::from_secs(3650 * 24 * 3600);

    /// A new authority for the cluster of this name, with a new key, valid for [`Self::VALIDITY`].
    ///
    /// # Errors
    /// [`IdentityError::Name`] if the name cannot be in a certificate.
    pub fn create(cluster: &str) -> Result<Self, IdentityError> {
        check_name(cluster)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("dflow cluster {cluster}"));
        // It signs nodes, and no other authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = SystemTime::now();
        set_validity(&mut params, now - CLOCK_SKEW, now + Self::VALIDITY);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Issues a certificate and key for the node of this name, valid from now for `validity` (at most a hundred years).
    ///
    /// # Errors
    /// [`IdentityError::Name`] if a node cannot have this name.
    pub fn issue(&self, node: &str, validity: Duration) -> Result<Identity, IdentityError> {
        let now = SystemTime::now();
        self.issue_between(node, now - CLOCK_SKEW, now + validity.min(MAX_VALIDITY))
    }

    /// As [`Self::issue`], valid between two points in time.
    ///
    /// # Errors
    /// [`IdentityError::Name`] if a node cannot have this name.
    pub fn issue_between(&self, node: &str, from: SystemTime, until: SystemTime) -> Result<Identity, IdentityError> {
        check_name(node)?;
        let mut params = CertificateParams::new(vec![node.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, node);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Each node dials others and is dialed by them.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, from, until);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        Ok(Identity {
            name: node.to_owned(),
            validity: Validity { from, until },
            certificate,
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            authority: self.certificate.clone(),
        })
    }

    /// Writes the authority into a directory: `ca.pem` and `ca.key`, readable by this user only. It never replaces an
    /// existing authority.
    ///
    /// # Errors
    /// If the directory holds an authority already, or a file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), IdentityError> {
        if [CA_KEY, CA_CERTIFICATE].iter().any(|file| directory.join(file).exists()) {
            return Err(IdentityError::AuthorityExists { directory: directory.to_owned() });
        }
        make_directory(directory)?;
        write_new(&directory.join(CA_KEY), &self.issuer.key().serialize_pem())?;
        write_new(&directory.join(CA_CERTIFICATE), &certificate_pem(&self.certificate))
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// If a file is missing or malformed, or other users can read the key.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        if let Some(file) = missing(directory, &[CA_CERTIFICATE, CA_KEY]) {
            return Err(IdentityError::NoAuthority { directory: directory.to_owned(), file });
        }
        let certificate = read_certificate(&directory.join(CA_CERTIFICATE))?;
        let path = directory.join(CA_KEY);
        let contents = |error: rcgen::Error| IdentityError::Contents {
            path: path.clone(),
            what: "private key in PEM form",
            detail: error.to_string(),
        };
        let key = KeyPair::from_pem(&read_secret(&path)?).map_err(contents)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        if key_matches(vec![certificate.clone()], der) == Ok(false) {
            return Err(IdentityError::Mismatch { key: path.clone(), certificate: directory.join(CA_CERTIFICATE) });
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(contents)?;
        Ok(Self { certificate, issuer })
    }
}

impl Identity {
    /// The name in the certificate.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The validity period of its certificate.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Writes it into a directory: `ca.pem`, `node.pem` and `node.key`, readable by this user only. It replaces an
    /// existing identity.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), IdentityError> {
        make_directory(directory)?;
        let key = pem("PRIVATE KEY", self.key.secret_pkcs8_der());
        for (name, text) in [
            (NODE_KEY, key),
            (NODE_CERTIFICATE, certificate_pem(&self.certificate)),
            (CA_CERTIFICATE, certificate_pem(&self.authority)),
        ] {
            replace(directory, name, &text)?;
        }
        Ok(())
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// If a file is missing or malformed, if other users can read the key, if it is not the key of the certificate, or
    /// if the certificate does not name a node.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        if let Some(file) = missing(directory, &[NODE_CERTIFICATE, NODE_KEY, CA_CERTIFICATE]) {
            return Err(IdentityError::NoIdentity { directory: directory.to_owned(), file });
        }
        let [certificate_path, key_path] = [NODE_CERTIFICATE, NODE_KEY].map(|file| directory.join(file));
        let certificate = read_certificate(&certificate_path)?;
        let authority = read_certificate(&directory.join(CA_CERTIFICATE))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(read_secret(&key_path)?.as_bytes());
        let bad_key = |detail| IdentityError::Contents {
            path: key_path.clone(),
            what: "private key in PEM form (PKCS #8)",
            detail,
        };
        let key = key.map_err(|error| bad_key(error.to_string()))?;
        let bad_certificate =
            |detail| IdentityError::Contents { path: certificate_path.clone(), what: "certificate of a node", detail };
        let name = node_name(&certificate).map_err(bad_certificate)?;
        let validity = Validity::of(&certificate).map_err(bad_certificate)?;
        let identity = Self { name, validity, certificate, key, authority };
        match key_matches(identity.chain(), identity.key()) {
            Ok(true) => Ok(identity),
            Ok(false) => Err(IdentityError::Mismatch { key: key_path, certificate: certificate_path }),
            Err(detail) => Err(bad_key(detail)),
        }
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }

    fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }
}

/// Leaves the key out: it must not reach a log.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The name of the node: the one DNS name in its certificate.
fn node_name(certificate: &CertificateDer<'_>) -> Result<String, String> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|error| format!("it is not a certificate of a node ({error:?})"))?;
    let mut names = parsed.valid_dns_names();
    match (names.next(), names.next()) {
        (Some(name), None) if check_name(name).is_ok() => Ok(name.to_owned()),
        (None, _) => Err("it does not name a node".to_owned()),
        _ => Err("it does not name exactly one node".to_owned()),
    }
}

/// Checks that a node can have this name. An address is never a name.
///
/// # Errors
/// [`IdentityError::Name`] if it cannot.
pub fn check_name(name: &str) -> Result<(), IdentityError> {
    let label = |label: &str| {
        label.len() <= MAX_LABEL
            && label.starts_with(|first: char| first.is_ascii_lowercase())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.ends_with('-')
    };
    if name.len() <= MAX_NAME && name.split('.').all(label) {
        Ok(())
    } else {
        Err(IdentityError::Name { name: name.chars().take(MAX_NAME).collect() })
    }
}

fn set_validity(params: &mut CertificateParams, from: SystemTime, until: SystemTime) {
    params.not_before = from.into();
    params.not_after = until.into();
}
