//! The root's files: made on the first start, the same ones ever after, or made by something else.
//!
//! Losing or changing the root silently cuts every workload off, so anything that is half there stops the start with
//! the name of what is missing; it is never "repaired" by making a new one.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::config::{CaConfig, RootSource};
use crate::material::{self, Names, RootPem};
use crate::{Authority, CaError};

/// Loads the root, or makes it where the data directory has none yet.
pub(crate) fn open(config: &CaConfig) -> Result<(Authority, Names), CaError> {
    let names = match &config.root {
        RootSource::DataDir(directory) => in_directory(directory, config)?,
        RootSource::Files { certificate, key, bundle } => Names {
            certificate: certificate.clone(),
            key: key.clone(),
            bundle: bundle.clone().unwrap_or_else(|| certificate.clone()),
        },
    };
    let pem = RootPem {
        certificate: read(&names.certificate)?,
        key: read(&names.key)?,
        bundle: read(&names.bundle)?,
    };
    let authority = Authority::named(pem, names.clone(), config.server_id.clone(), config.leaf_lifetime)?;
    Ok((authority, names))
}

/// The files in the data directory, made if none of them is there.
fn in_directory(directory: &Path, config: &CaConfig) -> Result<Names, CaError> {
    let files = material::in_directory(directory);
    match (files.certificate.exists(), files.key.exists(), files.bundle.exists()) {
        (false, false, false) => {
            fs::create_dir_all(directory).map_err(|error| CaError::file(directory, error))?;
            let pem = RootPem::generate(&config.trust_domain, config.root_lifetime)?;
            // The key first and the bundle last, each whole or not at all.
            write(&files.key, &pem.key, 0o600)?;
            write(&files.certificate, &pem.certificate, 0o644)?;
            write(&files.bundle, &pem.bundle, 0o644)?;
            tracing::info!(directory = %directory.display(), trust_domain = %config.trust_domain, "new root made");
        }
        (true, true, true) => {}
        // A start that was cut off after the key and the certificate: the bundle follows from them.
        (true, true, false) => write(&files.bundle, &read(&files.certificate)?, 0o644)?,
        (certificate, key, bundle) => {
            let there = |path: &Path, there| {
                format!("{} {}", path.display(), if there { "is there" } else { "is missing" })
            };
            return Err(CaError::Root(format!(
                "half there: {}, {}, {}; restore what is missing, or remove all of them to begin a new mesh",
                there(&files.certificate, certificate),
                there(&files.key, key),
                there(&files.bundle, bundle),
            )));
        }
    }
    Ok(files)
}

/// A PEM file. What is not text in it cannot be PEM; the replacement characters make the parser say so.
pub(crate) fn read(path: &Path) -> Result<String, CaError> {
    let content = fs::read(path).map_err(|error| CaError::file(path, format!("cannot be read: {error}")))?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// Writes a file so that after a crash it is whole or not there: a new file, synced, renamed, and the directory synced.
fn write(path: &Path, content: &str, mode: u32) -> Result<(), CaError> {
    let fail = |error: std::io::Error| CaError::file(path, format!("cannot be written: {error}"));
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    // `create_new` does not follow a symbolic link that someone left in the way of the key.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new).map_err(fail)?;
    file.write_all(content.as_bytes()).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    fs::rename(&new, path).map_err(fail)?;
    match path.parent().filter(|parent| *parent != Path::new("")) {
        Some(parent) => File::open(parent).and_then(|directory| directory.sync_all()).map_err(fail),
        None => Ok(()),
    }
}
