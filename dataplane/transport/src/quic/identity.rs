//! Who a node is: its certificate from the cluster's own certificate authority.

use super::identity_error::IdentityError;
use super::tls::belong_together;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The longest name of a node or a cluster, in bytes: that of a DNS name.
pub(super) const MAX_NAME: usize = 253;
/// The longest part of a node's name between dots, in bytes.
const MAX_LABEL: usize = 63;
/// The largest certificate or key file that is read, in bytes.
const MAX_PEM: u64 = 64 * 1024;
/// The longest validity of a node's certificate.
const MAX_VALIDITY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// A certificate is valid from a little before it is made, since clocks differ.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Where the files of an authority, and of a node's identity, are within their directory.
const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const NODE_CERTIFICATE: &str = "node.pem";
const NODE_KEY: &str = "node.key";

/// The certificate authority of a cluster. Whoever has it can let nodes into the cluster; nodes need only what
/// [`ClusterCa::issue`] makes.
#[derive(Debug)]
pub struct ClusterCa {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// When a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub from: SystemTime,
    /// Until then.
    pub until: SystemTime,
}

/// Whether a certificate holds at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not before so long.
    Early(Duration),
    /// Yes, and for so long.
    Holds(Duration),
    /// Not any more since so long.
    Expired(Duration),
}

/// A node's certificate, its key, and the certificate of the cluster's authority.
pub struct Identity {
    name: String,
    validity: Validity,
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    authority: CertificateDer<'static>,
}

impl ClusterCa {
    /// Ten years, as an authority's certificate that nobody has to think of.
    pub const VALIDITY: Duration = Duration::from_secs(3650 * 24 * 3600);

    /// A new authority for the cluster of this name, with a new key, valid for [`Self::VALIDITY`].
    ///
    /// # Errors
    /// If the name cannot be in a certificate.
    pub fn create(cluster: &str) -> Result<Self, IdentityError> {
        check_name(cluster)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("dflow cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = SystemTime::now();
        set_validity(&mut params, now - CLOCK_SKEW, now + Self::VALIDITY);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// The certificate and key of a node, valid for `validity` from now on (at most a hundred years). `node`: what its
    /// peers know it by.
    ///
    /// # Errors
    /// If the name is none that a node can have.
    pub fn issue(&self, node: &str, validity: Duration) -> Result<Identity, IdentityError> {
        let now = SystemTime::now();
        self.issue_between(node, now - CLOCK_SKEW, now + validity.min(MAX_VALIDITY))
    }

    /// As [`Self::issue`], valid between two points in time.
    ///
    /// # Errors
    /// If the name is none that a node can have.
    pub fn issue_between(&self, node: &str, from: SystemTime, until: SystemTime) -> Result<Identity, IdentityError> {
        check_name(node)?;
        let mut params = CertificateParams::new(vec![node.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, node);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
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

    /// Writes the authority into a directory: `ca.pem` and `ca.key`, which only this user can read. It never replaces one
    /// that is there.
    ///
    /// # Errors
    /// If there is one already, or a file cannot be written.
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
    /// If a file is missing, can be read by others, or is something else.
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
        if belong_together(vec![certificate.clone()], der) == Ok(false) {
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

    /// When its certificate holds.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Writes it into a directory: `node.pem`, `node.key`, which only this user can read, and `ca.pem`. It replaces one
    /// that is there.
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
            // Beside the old file first: whoever reads meanwhile sees a whole one.
            let path = directory.join(name);
            let fresh = directory.join(format!("{name}.new"));
            let _ = fs::remove_file(&fresh);
            write_new(&fresh, &text)?;
            fs::rename(&fresh, &path).map_err(|source| IdentityError::File { action: "replace", path, source })?;
        }
        Ok(())
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// If a file is missing or is something else, if others can read the key, if that is another's, or if the certificate
    /// names no node.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        if let Some(file) = missing(directory, &[NODE_CERTIFICATE, NODE_KEY, CA_CERTIFICATE]) {
            return Err(IdentityError::NoIdentity { directory: directory.to_owned(), file });
        }
        let [certificate_path, key_path] = [NODE_CERTIFICATE, NODE_KEY].map(|file| directory.join(file));
        let certificate = read_certificate(&certificate_path)?;
        let authority = read_certificate(&directory.join(CA_CERTIFICATE))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(read_secret(&key_path)?.as_bytes());
        let no_key = |detail| IdentityError::Contents {
            path: key_path.clone(),
            what: "private key in PEM form (PKCS #8)",
            detail,
        };
        let key = key.map_err(|error| no_key(error.to_string()))?;
        let no_node =
            |detail| IdentityError::Contents { path: certificate_path.clone(), what: "certificate of a node", detail };
        let name = node_name(&certificate).map_err(no_node)?;
        let validity = Validity::of(&certificate).map_err(no_node)?;
        let identity = Self { name, validity, certificate, key, authority };
        match belong_together(identity.chain(), identity.key()) {
            Ok(true) => Ok(identity),
            Ok(false) => Err(IdentityError::Mismatch { key: key_path, certificate: certificate_path }),
            Err(detail) => Err(no_key(detail)),
        }
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }

    pub(super) fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }
}

impl Validity {
    /// Whether it holds at this time.
    #[must_use]
    pub fn standing(&self, now: SystemTime) -> Standing {
        match (self.from.duration_since(now), self.until.duration_since(now)) {
            (Ok(until_then), _) if !until_then.is_zero() => Standing::Early(until_then),
            (_, Ok(left)) => Standing::Holds(left),
            (_, Err(since)) => Standing::Expired(since.duration()),
        }
    }

    /// How long it holds from its beginning to its end.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.until.duration_since(self.from).unwrap_or_default()
    }

    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| format!("it is no certificate ({error})"))?;
        let time = |at: x509_parser::time::ASN1Time| {
            let seconds = Duration::from_secs(at.timestamp().unsigned_abs());
            let time = if at.timestamp() < 0 {
                SystemTime::UNIX_EPOCH.checked_sub(seconds)
            } else {
                SystemTime::UNIX_EPOCH.checked_add(seconds)
            };
            time.ok_or_else(|| "its validity is out of all range".to_owned())
        };
        Ok(Self { from: time(parsed.validity().not_before)?, until: time(parsed.validity().not_after)? })
    }
}

/// Keys stay out of logs.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The node that a certificate names: its one DNS name.
pub(super) fn node_name(certificate: &CertificateDer<'_>) -> Result<String, String> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|error| format!("it is no certificate of a node ({error:?})"))?;
    let mut names = parsed.valid_dns_names();
    match (names.next(), names.next()) {
        (Some(name), None) if check_name(name).is_ok() => Ok(name.to_owned()),
        (None, _) => Err("it names no node".to_owned()),
        _ => Err("it does not name exactly one node".to_owned()),
    }
}

/// Whether a node can have this name. A name is none that could also be read as an address.
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

fn certificate_pem(certificate: &CertificateDer<'_>) -> String {
    pem("CERTIFICATE", certificate)
}

fn pem(label: &str, der: &[u8]) -> String {
    pem::encode_config(&pem::Pem::new(label, der), pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

fn make_directory(path: &Path) -> Result<(), IdentityError> {
    fs::create_dir_all(path).map_err(|source| IdentityError::File {
        action: "make the directory",
        path: path.to_owned(),
        source,
    })
}

/// Writes a file that is not there yet and that only this user can read.
fn write_new(path: &Path, text: &str) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::File { action: "write", path: path.to_owned(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// The first of these files that is not there.
fn missing(directory: &Path, files: &[&'static str]) -> Option<&'static str> {
    let is_missing = |file: &&&str| {
        let look = fs::metadata(directory.join(file));
        look.is_err_and(|error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
    };
    files.iter().find(is_missing).copied()
}

fn read(path: &Path) -> Result<(String, u32), IdentityError> {
    let failed = |source| IdentityError::File { action: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    let text = io::read_to_string(io::Read::take(file, MAX_PEM)).map_err(failed)?;
    Ok((text, mode))
}

fn read_secret(path: &Path) -> Result<String, IdentityError> {
    match read(path)? {
        (text, mode) if mode & 0o077 == 0 => Ok(text),
        (_, mode) => Err(IdentityError::Exposed { path: path.to_owned(), mode }),
    }
}

fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(read(path)?.0.as_bytes()).map_err(|error| IdentityError::Contents {
        path: path.to_owned(),
        what: "certificate in PEM form",
        detail: error.to_string(),
    })
}
