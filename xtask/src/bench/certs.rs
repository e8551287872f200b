//! Certificates of a run: one CA, one client and one server leaf, P-256, made anew each time by `openssl`.
//!
//! The leaves are X.509-SVIDs (one URI name, `spiffe://`), as Weft requires. The server's also has a DNS name,
//! because nginx can only check one of those.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

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
        let made = Self { directory: directory.to_owned() };
        let ca_key = made.file("ca.key");
        new_key(&ca_key)?;
        process::capture(
            Command::new("openssl")
                .args(["req", "-x509", "-new", "-days", "2", "-subj", "/CN=weft bench CA"])
                .args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"])
                .args(["-addext", "subjectAltName=URI:spiffe://weft.local"])
                .arg("-key")
                .arg(&ca_key)
                .arg("-out")
                .arg(made.ca()),
        )?;
        made.leaf(Side::Client, &format!("URI:{CLIENT_ID}"))?;
        made.leaf(Side::Server, &format!("URI:{SERVER_ID},DNS:{SERVER_NAME}"))?;
        Ok(made)
    }

    fn leaf(&self, side: Side, names: &str) -> Result<()> {
        let request = self.file(&format!("{}.csr", side.name()));
        let extensions = self.file(&format!("{}.ext", side.name()));
        new_key(&self.key(side))?;
        process::capture(
            Command::new("openssl")
                .args(["req", "-new", "-subj", "/O=weft bench", "-key"])
                .arg(self.key(side))
                .arg("-out")
                .arg(&request),
        )?;
        let text = format!(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
             extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName={names}\n"
        );
        fs::write(&extensions, text)?;
        process::capture(
            Command::new("openssl")
                .args(["x509", "-req", "-days", "2", "-CAcreateserial", "-in"])
                .arg(&request)
                .arg("-CA")
                .arg(self.ca())
                .arg("-CAkey")
                .arg(self.file("ca.key"))
                .arg("-extfile")
                .arg(&extensions)
                .arg("-out")
                .arg(self.certificate(side)),
        )?;
        // HAProxy reads certificate and key from one file.
        let both = fs::read_to_string(self.certificate(side))? + &fs::read_to_string(self.key(side))?;
        fs::write(self.certificate_and_key(side), both).context("cannot write a certificate")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The CA's certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// A leaf.
    pub(crate) fn certificate(&self, side: Side) -> PathBuf {
        self.file(&format!("{}.pem", side.name()))
    }

    /// Its key (PKCS #8).
    pub(crate) fn key(&self, side: Side) -> PathBuf {
        self.file(&format!("{}.key", side.name()))
    }

    /// Both in one file.
    pub(crate) fn certificate_and_key(&self, side: Side) -> PathBuf {
        self.file(&format!("{}.both.pem", side.name()))
    }
}

fn new_key(file: &Path) -> Result<()> {
    process::capture(
        Command::new("openssl")
            .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"])
            .arg(file),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup;

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
