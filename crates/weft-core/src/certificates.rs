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

/// Where distributions keep the CA certificates that they trust, all in one file.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

impl CaCertificates {
    /// Where the machine's own may be, in the order in which to look: the first file that is there has them.
    pub fn of_the_machine() -> impl Iterator<Item = PathBuf> {
        // SSL_CERT_FILE is what OpenSSL, Go and others read for the same purpose.
        let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        named.into_iter().chain(SYSTEM.map(PathBuf::from))
    }
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
