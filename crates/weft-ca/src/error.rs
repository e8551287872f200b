use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use weft_identity::IdentityError;

/// Why the CA cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A YAML file is not what it should be.
    #[error("{}{}{}: {reason}", path.display(), at(*line), named(field))]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where one can be told.
        line: Option<u64>,
        /// The field, where one can be told.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The files of the root do not make a whole.
    #[error("root certificate: {0}")]
    Root(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// A certificate, key or bundle is not usable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A certificate could not be signed.
    #[error("cannot sign: {0}")]
    Sign(String),
}

impl CaError {
    pub(crate) fn file(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::File { path: path.to_owned(), reason: reason.to_string() }
    }
}

fn at(line: Option<u64>) -> String {
    line.map(|line| format!(":{line}")).unwrap_or_default()
}

fn named(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!(": {field}") }
}
