//! Certificates of a run: one CA, one client and one server leaf, P-256, made anew each time by `openssl`.
//!
//! The leaves are X.509-SVIDs (one URI name, `spiffe://`), as Weft requires. The server's also has a DNS name,
//! because nginx can only check one of those.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::authority::Authority;

/// The DNS name in the server's certificate.
pub(crate) const SERVER_NAME: &str = "server.bench.weft.local";
/// The client's identity.
pub(crate) const CLIENT_ID: &str = "spiffe://weft.local/ns/bench/sa/client";
/// The server's identity.
pub(crate) const SERVER_ID: &str = "spiffe://weft.local/ns/bench/sa/server";

/// Where the PEM files are.
#[derive(Clone, Debug)]
pub(crate) struct Certificates {
    directory: PathBuf,
    authority: Authority,
}

/// Which of the two sides of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// The proxy beside the client.
    Client,
    /// The proxy beside the backend.
    Server,
}

impl Side {
    /// For file names and messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

impl Certificates {
    /// Makes all files in `directory`.
    pub(crate) fn make(directory: &Path) -> Result<Self> {
        let extensions = ["keyUsage=critical,keyCertSign,cRLSign", "subjectAltName=URI:spiffe://weft.local"];
        let authority = Authority::make(directory, "2", "/CN=weft bench CA", &extensions)?;
        let made = Self { directory: directory.to_owned(), authority };
        made.leaf(Side::Client, &format!("URI:{CLIENT_ID}"))?;
        made.leaf(Side::Server, &format!("URI:{SERVER_ID},DNS:{SERVER_NAME}"))?;
        Ok(made)
    }

    fn leaf(&self, side: Side, names: &str) -> Result<()> {
        self.authority.leaf(side.name(), "/O=weft bench", Some(names))?;
        // HAProxy reads certificate and key from one file.
        let both = fs::read_to_string(self.certificate(side))? + &fs::read_to_string(self.key(side))?;
        fs::write(self.certificate_and_key(side), both).context("cannot write a certificate")
    }

    /// The CA's certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.authority.ca()
    }

    /// A leaf.
    pub(crate) fn certificate(&self, side: Side) -> PathBuf {
        self.authority.certificate(side.name())
    }

    /// Its key (PKCS #8).
    pub(crate) fn key(&self, side: Side) -> PathBuf {
        self.authority.key(side.name())
    }

    /// Both in one file.
    pub(crate) fn certificate_and_key(&self, side: Side) -> PathBuf {
        self.directory.join(format!("{}.both.pem", side.name()))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::{process, setup};

    #[test]
    fn leaves_verify_against_the_ca_and_carry_their_identity() {
        if setup::find_program("openssl").is_none() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let made = Certificates::make(directory.path()).unwrap();
        for (side, id) in [(Side::Client, CLIENT_ID), (Side::Server, SERVER_ID)] {
            let leaf = made.certificate(side);
            process::capture(Command::new("openssl").arg("verify").arg("-CAfile").arg(made.ca()).arg(&leaf))
                .unwrap();
            let text =
                process::text(Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&leaf));
            assert!(text.unwrap().contains(id));
        }
    }
}
