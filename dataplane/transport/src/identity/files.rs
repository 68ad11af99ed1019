//! The files of an authority and of a node's identity.

use super::IdentityError;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The largest certificate or key file that is read, in bytes.
const MAX_PEM: u64 = 64 * 1024;

pub(super) const CA_CERTIFICATE: &str = "ca.pem";
pub(super) const CA_KEY: &str = "ca.key";
pub(super) const NODE_CERTIFICATE: &str = "node.pem";
pub(super) const NODE_KEY: &str = "node.key";

pub(super) fn certificate_pem(certificate: &CertificateDer<'_>) -> String {
    pem("CERTIFICATE", certificate)
}

pub(super) fn pem(label: &str, der: &[u8]) -> String {
    pem::encode_config(&pem::Pem::new(label, der), pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

pub(super) fn make_directory(path: &Path) -> Result<(), IdentityError> {
    fs::create_dir_all(path).map_err(|source| IdentityError::File {
        action: "create the directory",
        path: path.to_owned(),
        source,
    })
}

/// Creates a file that only this user can read. An existing file is an error.
pub(super) fn write_new(path: &Path, text: &str) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::File { action: "write", path: path.to_owned(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// Replaces the file `name` in a directory in one step.
pub(super) fn replace(directory: &Path, name: &str, text: &str) -> Result<(), IdentityError> {
    // Written beside the old file and renamed: a concurrent reader sees one whole file or the other.
    let path = directory.join(name);
    let fresh = directory.join(format!("{name}.new"));
    let _ = fs::remove_file(&fresh);
    write_new(&fresh, text)?;
    fs::rename(&fresh, &path).map_err(|source| IdentityError::File { action: "replace", path, source })
}

/// The first of these files that does not exist.
pub(super) fn missing(directory: &Path, files: &[&'static str]) -> Option<&'static str> {
    let is_missing = |file: &&&str| {
        let look = fs::metadata(directory.join(file));
        look.is_err_and(|error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
    };
    files.iter().find(is_missing).copied()
}

/// Reads a private key, unless other users can read it, too.
pub(super) fn read_secret(path: &Path) -> Result<String, IdentityError> {
    match read(path)? {
        (text, mode) if mode & 0o077 == 0 => Ok(text),
        (_, mode) => Err(IdentityError::Exposed { path: path.to_owned(), mode }),
    }
}

pub(super) fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(read(path)?.0.as_bytes()).map_err(|error| IdentityError::Contents {
        path: path.to_owned(),
        what: "certificate in PEM form",
        detail: error.to_string(),
    })
}

/// The contents of a file and its permission bits.
fn read(path: &Path) -> Result<(String, u32), IdentityError> {
    let failed = |source| IdentityError::File { action: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    // Of the descriptor, not of the path: the file that is checked is the one that is read.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    let text = io::read_to_string(io::Read::take(file, MAX_PEM)).map_err(failed)?;
    Ok((text, mode))
}
