//! The root as PEM: made, and checked before anything is signed with it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use weft_core::{SpiffeId, TrustDomain};
use weft_identity::{Leaf, TrustBundle};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::CaError;
use crate::issue::{LeafIssuer, Subject};

/// The certificate to sign with.
pub(crate) const CERTIFICATE: &str = "ca.pem";
/// Its key.
pub(crate) const KEY: &str = "ca-key.pem";
/// The public bundle; may hold several roots.
pub(crate) const BUNDLE: &str = "root.pem";
/// The start of a new root is set back as a leaf's is, and a little more.
const BACKDATE: Duration = Duration::from_secs(3600);

/// What a CA signs with, and the roots that its mesh trusts, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct RootPem {
    /// The certificate to sign with: a root of the bundle, or an intermediate under one.
    pub certificate: String,
    /// Its private key (PKCS #8).
    pub key: String,
    /// One or more roots.
    pub bundle: String,
}

impl RootPem {
    /// Makes a root for a mesh, valid from an hour ago until `lifetime` from now. The bundle is the root alone.
    ///
    /// # Errors
    /// [`CaError::Sign`] where the system has no randomness.
    pub fn generate(trust_domain: &TrustDomain, lifetime: Duration) -> Result<Self, CaError> {
        let fail = |error: rcgen::Error| CaError::Sign(error.to_string());
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
        let certificate = params.self_signed(&key).map_err(fail)?.pem();
        Ok(Self { bundle: certificate.clone(), certificate, key: key.serialize_pem() })
    }
}

impl fmt::Debug for RootPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootPem").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A name with a part of the key's hash: two roots of one mesh, during a rotation, are told apart by it.
fn common_name(trust_domain: &TrustDomain, key: &KeyPair) -> String {
    let hash = digest(&SHA256, key.public_key_raw());
    let tag: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    // RFC 5280 appendix A.1 bounds a common name at 64 characters.
    let domain: String = trust_domain.as_str().chars().take(40).collect();
    format!("{domain} mesh root {tag}")
}

/// What the three parts are called where they came from, for error messages.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) bundle: PathBuf,
}

impl Default for Names {
    fn default() -> Self {
        Self { certificate: CERTIFICATE.into(), key: KEY.into(), bundle: BUNDLE.into() }
    }
}

/// A certificate that leaves are signed with, checked.
pub(crate) struct Signer {
    pub(crate) issuer: LeafIssuer,
    pub(crate) subject: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// The bundle of `pem`.
pub(crate) fn bundle(pem: &RootPem, names: &Names) -> Result<TrustBundle, CaError> {
    TrustBundle::from_pem(pem.bundle.as_bytes()).map_err(|error| CaError::file(&names.bundle, error))
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl Signer {
    /// Checks certificate and key, and that peers who trust `bundle` would accept what they sign.
    pub(crate) fn new(
        pem: &RootPem,
        names: &Names,
        bundle: &TrustBundle,
        leaf_lifetime: Duration,
        server_id: &SpiffeId,
    ) -> Result<Self, CaError> {
        let certificate = CertificateDer::from_pem_slice(pem.certificate.as_bytes())
            .map_err(|error| CaError::file(&names.certificate, format!("no certificate in PEM: {error}")))?;
        let key = KeyPair::from_pem(&pem.key)
            .map_err(|_| CaError::file(&names.key, "no private key in PEM that can sign"))?;
        let (subject, not_before, not_after) = check(names, &certificate, &key)?;
        // A certificate that the bundle lacks is an intermediate: it travels with each leaf.
        let intermediates = if bundle.certificates().any(|root| *root == certificate) {
            Vec::new()
        } else {
            vec![certificate.clone()]
        };
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| CaError::file(&names.certificate, format!("cannot sign with it: {error}")))?;
        let issuer = LeafIssuer::new(issuer, not_after, leaf_lifetime, intermediates);
        let signer = Self { issuer, subject, not_before, not_after };
        signer.vouched_by(bundle, server_id).map_err(|reason| {
            let reason = format!("{} does not vouch for it: {reason}", names.bundle.display());
            CaError::file(&names.certificate, reason)
        })?;
        Ok(signer)
    }

    /// Proves with a throw-away leaf that peers who trust `bundle` accept what is signed.
    pub(crate) fn vouched_by(&self, bundle: &TrustBundle, id: &SpiffeId) -> Result<(), CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| CaError::Sign(error.to_string()))?;
        let now = SystemTime::now();
        let issued = self.issuer.issue(Subject::Workload(id), &key, now)?;
        let leaf = Leaf::new(issued.chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
        Ok(leaf.check(bundle, now)?)
    }
}

/// The certificate must be a CA's, in time, and the key's.
fn check(
    names: &Names,
    certificate: &CertificateDer<'static>,
    key: &KeyPair,
) -> Result<(String, SystemTime, SystemTime), CaError> {
    let fail = |reason: &str| CaError::file(&names.certificate, reason);
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
        return Err(CaError::file(&names.key, format!("is not the key of {}", names.certificate.display())));
    }
    let time = |seconds: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    let not_before = time(parsed.validity().not_before.timestamp());
    let not_after = time(parsed.validity().not_after.timestamp());
    if not_before > SystemTime::now() {
        let begins = humantime::format_rfc3339_seconds(not_before);
        return Err(fail(&format!("is not valid before {begins}; is a clock wrong?")));
    }
    if not_after <= SystemTime::now() {
        return Err(fail(&format!("expired at {}", humantime::format_rfc3339_seconds(not_after))));
    }
    Ok((parsed.subject().to_string(), not_before, not_after))
}

/// The same three names inside a directory.
pub(crate) fn in_directory(directory: &Path) -> Names {
    let names = Names::default();
    Names {
        certificate: directory.join(names.certificate),
        key: directory.join(names.key),
        bundle: directory.join(names.bundle),
    }
}
