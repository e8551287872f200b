//! A throw-away certificate authority in a directory, by `openssl`: P-256 keys, made anew for each run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// The authority's own name among the files.
const CA: &str = "ca";

/// Where its files are: `<name>.pem` and `<name>.key` (PKCS #8).
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    directory: PathBuf,
    days: &'static str,
}

impl Authority {
    /// Makes the authority itself, whose certificates last so many days.
    pub(crate) fn make(
        directory: &Path,
        days: &'static str,
        subject: &str,
        extensions: &[&str],
    ) -> Result<Self> {
        let made = Self { directory: directory.to_owned(), days };
        made.new_key(CA)?;
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-new", "-days", days, "-subj", subject]);
        for extension in extensions {
            command.args(["-addext", extension]);
        }
        process::capture(command.arg("-key").arg(made.key(CA)).arg("-out").arg(made.ca()))?;
        Ok(made)
    }

    /// A certificate for clients and servers, with these subject alternative names.
    pub(crate) fn leaf(&self, name: &str, subject: &str, names: Option<&str>) -> Result<()> {
        let request = self.directory.join(format!("{name}.csr"));
        let extensions = self.directory.join(format!("{name}.ext"));
        self.new_key(name)?;
        process::capture(
            Command::new("openssl")
                .args(["req", "-new", "-subj", subject, "-key"])
                .arg(self.key(name))
                .arg("-out")
                .arg(&request),
        )?;
        let names = names.map_or_else(String::new, |names| format!("subjectAltName={names}\n"));
        let text = format!(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
             extendedKeyUsage=serverAuth,clientAuth\n{names}"
        );
        fs::write(&extensions, text).context("cannot write a certificate's extensions")?;
        process::capture(
            Command::new("openssl")
                .args(["x509", "-req", "-days", self.days, "-CAcreateserial", "-in"])
                .arg(&request)
                .arg("-CA")
                .arg(self.ca())
                .arg("-CAkey")
                .arg(self.key(CA))
                .arg("-extfile")
                .arg(&extensions)
                .arg("-out")
                .arg(self.certificate(name)),
        )?;
        Ok(())
    }

    /// A key without a certificate.
    pub(crate) fn new_key(&self, name: &str) -> Result<()> {
        process::capture(
            Command::new("openssl")
                .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"])
                .arg(self.key(name)),
        )?;
        Ok(())
    }

    /// The authority's own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.certificate(CA)
    }

    /// A certificate.
    pub(crate) fn certificate(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }

    /// Its key.
    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }
}
