//! What can be wrong with the files of an authority or an identity, and what to do about it.

use super::MAX_NAME;
use std::io;
use std::path::PathBuf;

/// Why an authority or an identity cannot be created, saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A name that cannot be in a certificate.
    #[error(
        "{name:?} cannot be the name of a node: use labels of lower-case letters, digits and hyphens, joined by dots; \
         each begins with a letter, and the whole is not longer than {MAX_NAME} bytes"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Other users can read a key.
    #[error("{} holds a private key, but other users can read it (mode {mode:o}): run chmod 600 on it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A directory holds no identity of a node.
    #[error(
        "{} holds no identity of a node: {file} is missing; give the directory DIR/NAME that 'dflow cluster create \
         DIR --node NAME', or 'dflow cluster add' of the same form, has made for this node",
        directory.display()
    )]
    NoIdentity {
        /// The directory.
        directory: PathBuf,
        /// The missing file.
        file: &'static str,
    },
    /// A directory holds no authority.
    #[error(
        "{} holds no authority of a cluster: {file} is missing; give the directory of a cluster that 'dflow cluster \
         create DIR --node NAME' has made, or make a new one",
        directory.display()
    )]
    NoAuthority {
        /// The directory.
        directory: PathBuf,
        /// The missing file.
        file: &'static str,
    },
    /// The directory holds an authority already, which is never replaced.
    #[error(
        "{} holds an authority already; a new one in its place would split its cluster; 'dflow cluster add DIR \
         --node NAME' adds nodes to it",
        directory.display()
    )]
    AuthorityExists {
        /// The directory.
        directory: PathBuf,
    },
    /// A key does not belong to the certificate beside it.
    #[error(
        "{} is not the key of the certificate {}: copy both again from where 'dflow cluster' made them; for a node, 'dflow \
         cluster add DIR --node NAME' makes another pair",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// A file is malformed.
    #[error(
        "{} is not a {what}: {detail}; copy it again from where 'dflow cluster' made it, or make another with 'dflow \
         cluster add DIR --node NAME'",
        path.display()
    )]
    Contents {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// TLS does not accept the certificate, its key or the authority.
    #[error("this certificate cannot be used: {0}; issue another one with the cluster's authority")]
    Unusable(String),
    /// A certificate could not be made.
    #[error("cannot create a certificate: {0}")]
    Make(#[from] rcgen::Error),
}
