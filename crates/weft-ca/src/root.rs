//! The root: made on the first start, the same one ever after, or loaded from files that something else made.
//!
//! Losing or changing the root silently cuts every workload off, so anything that is half there stops the start with
//! the name of what is missing; it is never "repaired" by making a new one.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use weft_core::TrustDomain;
use weft_identity::TrustBundle;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::CaError;
use crate::config::{CaConfig, RootSource};
use crate::issue::LeafIssuer;

/// In the data directory: the certificate to sign with.
const CERTIFICATE: &str = "ca.pem";
/// In the data directory: its key.
const KEY: &str = "ca-key.pem";
/// In the data directory: the public bundle, for distribution; may hold several roots.
const BUNDLE: &str = "root.pem";
/// The start of a new root is set back as a leaf's is, and a little more.
const BACKDATE: Duration = Duration::from_secs(3600);

/// What the CA signs with.
pub(crate) struct Root {
    pub(crate) issuer: LeafIssuer,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) subject: String,
    pub(crate) not_after: SystemTime,
    /// The file with the bundle.
    pub(crate) bundle_file: PathBuf,
}

/// The three files of a root.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    bundle: PathBuf,
}

impl Root {
    /// Loads the root, or makes it where the data directory has none yet.
    pub(crate) fn open(config: &CaConfig) -> Result<Self, CaError> {
        let files = match &config.root {
            RootSource::DataDir(directory) => in_directory(directory, config)?,
            RootSource::Files { certificate, key, bundle } => Files {
                certificate: certificate.clone(),
                key: key.clone(),
                bundle: bundle.clone().unwrap_or_else(|| certificate.clone()),
            },
        };
        load(files, config.leaf_lifetime)
    }
}

/// The files in the data directory, made if none of them is there.
fn in_directory(directory: &Path, config: &CaConfig) -> Result<Files, CaError> {
    let files = Files {
        certificate: directory.join(CERTIFICATE),
        key: directory.join(KEY),
        bundle: directory.join(BUNDLE),
    };
    match (files.certificate.exists(), files.key.exists(), files.bundle.exists()) {
        (false, false, false) => make(directory, &files, &config.trust_domain, config.root_lifetime)?,
        (true, true, true) => {}
        // A start that was cut off after the key and the certificate: the bundle follows from them.
        (true, true, false) => {
            let pem = read(&files.certificate)?;
            write(&files.bundle, &pem, 0o644)?;
        }
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

/// Makes a root. The key is written first and the bundle last, each whole or not at all.
fn make(
    directory: &Path,
    files: &Files,
    trust_domain: &TrustDomain,
    lifetime: Duration,
) -> Result<(), CaError> {
    let fail = |error: rcgen::Error| CaError::Sign(error.to_string());
    fs::create_dir_all(directory).map_err(|error| CaError::file(directory, error))?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fail)?;
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Weft");
    name.push(DnType::CommonName, common_name(trust_domain, &key));
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now.checked_sub(BACKDATE).unwrap_or(SystemTime::UNIX_EPOCH).into();
    params.not_after = now.checked_add(lifetime).unwrap_or(now).into();
    let certificate = params.self_signed(&key).map_err(fail)?;
    write(&files.key, key.serialize_pem().as_bytes(), 0o600)?;
    write(&files.certificate, certificate.pem().as_bytes(), 0o644)?;
    write(&files.bundle, certificate.pem().as_bytes(), 0o644)?;
    tracing::info!(directory = %directory.display(), %trust_domain, "new root made");
    Ok(())
}

/// A name with a part of the key's hash: two roots of one mesh, during a rotation, are told apart by it.
fn common_name(trust_domain: &TrustDomain, key: &KeyPair) -> String {
    let hash = digest(&SHA256, key.public_key_raw());
    let tag: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    // RFC 5280 appendix A.1 bounds a common name at 64 characters.
    let domain: String = trust_domain.as_str().chars().take(40).collect();
    format!("{domain} mesh root {tag}")
}

fn load(files: Files, leaf_lifetime: Duration) -> Result<Root, CaError> {
    let certificate = CertificateDer::from_pem_slice(&read(&files.certificate)?)
        .map_err(|error| CaError::file(&files.certificate, format!("no certificate in PEM: {error}")))?;
    let key_pem = read(&files.key)?;
    let key = std::str::from_utf8(&key_pem)
        .ok()
        .and_then(|pem| KeyPair::from_pem(pem).ok())
        .ok_or_else(|| CaError::file(&files.key, "no private key in PEM that can sign"))?;
    let (subject, not_after) = check(&files, &certificate, &key)?;
    let bundle = TrustBundle::from_file(&files.bundle)?;
    // A certificate that the bundle lacks is an intermediate: it travels with each leaf.
    let intermediates = if bundle.certificates().any(|root| *root == certificate) {
        Vec::new()
    } else {
        vec![certificate.clone()]
    };
    let issuer = Issuer::from_ca_cert_der(&certificate, key)
        .map_err(|error| CaError::file(&files.certificate, format!("cannot sign with it: {error}")))?;
    Ok(Root {
        issuer: LeafIssuer::new(issuer, not_after, leaf_lifetime, intermediates),
        certificate,
        subject,
        not_after,
        bundle_file: files.bundle,
    })
}

/// The certificate must be a CA's, in time, and the key's.
fn check(
    files: &Files,
    certificate: &CertificateDer<'static>,
    key: &KeyPair,
) -> Result<(String, SystemTime), CaError> {
    let fail = |reason: &str| CaError::file(&files.certificate, reason);
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| fail("is not X.509"))?;
    if !parsed.is_ca() {
        return Err(fail("is not a CA certificate (basic constraints)"));
    }
    if let Ok(Some(usage)) = parsed.key_usage()
        && !usage.value.key_cert_sign()
    {
        return Err(fail("may not sign certificates (key usage)"));
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(CaError::file(&files.key, format!("is not the key of {}", files.certificate.display())));
    }
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    if not_after <= SystemTime::now() {
        return Err(fail(&format!("expired at {}", humantime::format_rfc3339_seconds(not_after))));
    }
    Ok((parsed.subject().to_string(), not_after))
}

fn read(path: &Path) -> Result<Vec<u8>, CaError> {
    fs::read(path).map_err(|error| CaError::file(path, format!("cannot be read: {error}")))
}

/// Writes a file so that after a crash it is whole or not there: a new file, synced, renamed, and the directory synced.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), CaError> {
    let fail = |error: std::io::Error| CaError::file(path, format!("cannot be written: {error}"));
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    // `create_new` does not follow a symbolic link that someone left in the way of the key.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new).map_err(fail)?;
    file.write_all(content).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    fs::rename(&new, path).map_err(fail)?;
    match path.parent().filter(|parent| *parent != Path::new("")) {
        Some(parent) => File::open(parent).and_then(|directory| directory.sync_all()).map_err(fail),
        None => Ok(()),
    }
}
