//! What can be wrong with the files by which nodes know each other, and what to do about it.

use super::identity::MAX_NAME;
use std::io;
use std::path::PathBuf;

/// Why an authority or an identity cannot be made, saved or loaded.
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
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A key that others can read.
    #[error("{} holds a private key and can be read by others (mode {mode:o}): run chmod 600 on it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// There is no node's identity where one is looked for.
    #[error(
        "there is no identity of a node in {}: {file} is missing; give the directory DIR/NAME that 'dflow cluster create \
         DIR --node NAME', or 'dflow cluster add' of the same form, has made for this node",
        directory.display()
    )]
    NoIdentity {
        /// Where it was looked for.
        directory: PathBuf,
        /// The file that is missing.
        file: &'static str,
    },
    /// There is no authority where one is looked for.
    #[error(
        "there is no authority of a cluster in {}: {file} is missing; give the directory of a cluster that 'dflow cluster \
         create DIR --node NAME' has made, or make a new one",
        directory.display()
    )]
    NoAuthority {
        /// Where it was looked for.
        directory: PathBuf,
        /// The file that is missing.
        file: &'static str,
    },
    /// An authority is never replaced.
    #[error(
        "there is an authority in {} already, and another one in its place would part its cluster; 'dflow cluster add DIR \
         --node NAME' makes more nodes of it",
        directory.display()
    )]
    AuthorityExists {
        /// Where it is.
        directory: PathBuf,
    },
    /// A key that belongs to another certificate.
    #[error(
        "{} is not the key of the certificate {}: copy both again from where 'dflow cluster' has made them; for a node, 'dflow \
         cluster add DIR --node NAME' makes another pair",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// A file with other contents.
    #[error(
        "{} is no {what}: {detail}; copy it again from where 'dflow cluster' has made it, or make another with 'dflow \
         cluster add DIR --node NAME'",
        path.display()
    )]
    Contents {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The certificate, its key and the authority do not belong together, or cannot be used.
    #[error("this certificate cannot be used: {0}; issue another one with the cluster's authority")]
    Unusable(String),
    /// The certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}
