//! CA certificates that somebody outside the mesh is verified by.

use std::fmt;
use std::path::PathBuf;

/// Where the certificates are. They are read by whoever verifies with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaCertificates {
    /// A PEM file.
    File(PathBuf),
    /// The PEM text itself, as it stands in a configuration.
    Pem(String),
}

impl fmt::Display for CaCertificates {
    /// Names the place, for messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Pem(_) => f.write_str("written in the configuration"),
        }
    }
}
