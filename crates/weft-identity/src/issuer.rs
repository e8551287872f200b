//! What a certificate must be to sign others: the part of path validation that webpki leaves to its caller.
//!
//! webpki checks of each intermediate: signature, time, basic constraints (`cA` and the path length), extended key usage,
//! name constraints (those on URI names refuse every SPIFFE id: it cannot judge them and fails closed), unknown critical
//! extensions. It does not look at key usage, and of a root it knows name and key only. So a certificate with `cA` whose
//! key is for TLS handshakes alone could sign workloads, and a root that has ended, or that allows no intermediates, could
//! go on. OpenSSL and Go refuse all of these, too.

use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use webpki::VerifiedPath;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::TrustBundle;
use crate::leaf::rfc3339;
use crate::svid::{parse_certificate, system_time};

/// What is looked at of a root once it is in use.
#[derive(Debug, Clone)]
pub(crate) struct RootLimits {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// How many intermediates may stand between it and a leaf (RFC 5280 section 4.2.1.9).
    path_len: Option<u32>,
}

impl RootLimits {
    /// Reads a root, and refuses one that must not sign certificates at all.
    pub(crate) fn of(cert: &X509Certificate<'_>) -> Result<Self, String> {
        if !cert.is_ca() {
            return Err(format!("{} is not a CA certificate", cert.subject()));
        }
        may_sign(cert)?;
        let constraints = cert.basic_constraints().map_err(|_| twice(cert, "basic constraints"))?;
        Ok(Self {
            not_before: system_time(cert.validity().not_before),
            not_after: system_time(cert.validity().not_after),
            path_len: constraints.and_then(|extension| extension.value.path_len_constraint),
        })
    }

    /// Whether it vouches at `now` for a chain with so many intermediates.
    fn vouches(&self, subject: &str, intermediates: u32, now: SystemTime) -> Result<(), String> {
        if now > self.not_after {
            return Err(format!("the root {subject} expired at {}", rfc3339(self.not_after)));
        }
        if now < self.not_before {
            let begins = rfc3339(self.not_before);
            return Err(format!("the root {subject} is not valid before {begins}; is a clock wrong?"));
        }
        match self.path_len {
            Some(most) if intermediates > most => {
                Err(format!("the root {subject} allows {most} intermediates, there are {intermediates}"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether everything above the leaf may stand there.
pub(crate) fn check_path(path: &VerifiedPath<'_>, bundle: &TrustBundle, now: UnixTime) -> Result<(), String> {
    let mut intermediates = 0;
    for intermediate in path.intermediate_certificates() {
        intermediates += 1;
        may_sign(&parse_certificate(&intermediate.der()).map_err(|error| error.to_string())?)?;
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
    match bundle.root_of(path.anchor()) {
        Some((subject, limits)) => limits.vouches(subject, intermediates, now),
        None => Err("its root is not one of the bundle".to_owned()),
    }
}

/// Key usage, where it is there, has to say `keyCertSign` (RFC 5280 section 6.1.4 (n)), and a SPIFFE id in a signing
/// certificate names a trust domain and no workload (X509-SVID section 3.2).
fn may_sign(cert: &X509Certificate<'_>) -> Result<(), String> {
    let subject = cert.subject();
    match cert.key_usage() {
        Ok(Some(usage)) if !usage.value.key_cert_sign() => {
            return Err(format!("the key usage of {subject} does not let it sign certificates"));
        }
        Ok(_) => {}
        Err(_) => return Err(twice(cert, "key usage")),
    }
    let names = cert.subject_alternative_name().map_err(|_| twice(cert, "subject alternative name"))?;
    let workload = names.iter().flat_map(|extension| &extension.value.general_names).find_map(|name| {
        let GeneralName::URI(uri) = name else { return None };
        let path = uri.strip_prefix("spiffe://")?.split_once('/')?.1;
        (!path.is_empty()).then_some(uri)
    });
    match workload {
        Some(uri) => Err(format!("{subject} is the workload {uri:.300}, and workloads sign nothing")),
        None => Ok(()),
    }
}

fn twice(cert: &X509Certificate<'_>, extension: &str) -> String {
    format!("{} has more than one {extension} extension", cert.subject())
}
