use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::IdentityError;
use crate::issuer::RootLimits;
use crate::svid::{hex, parse_certificate};

/// Roots in one bundle at the most. A rotation has two, a federation a few; a bundle may come from the network.
const MAX_ROOTS: usize = 64;

/// The set of CA certificates that peers are verified with. Always a set: two or more roots at once are normal.
///
/// Two bundles with the same certificates are equal and have the same hash, whatever order they came in.
#[derive(Clone)]
pub struct TrustBundle {
    /// Sorted by DER, without duplicates; each parsed once and kept with what the admin page shows.
    roots: Arc<[Root]>,
    anchors: Arc<[TrustAnchor<'static>]>,
    hash: Arc<str>,
}

/// One CA certificate of a bundle.
struct Root {
    der: CertificateDer<'static>,
    subject: String,
    limits: RootLimits,
}

impl TrustBundle {
    /// A bundle of DER certificates, in any order.
    ///
    /// # Errors
    /// [`IdentityError::Bundle`] where there is none, more than 64, or one that is not a CA certificate (RFC 5280
    /// section 4.2.1.9) or must not sign certificates: a leaf in the bundle would otherwise be trusted as a root.
    pub fn from_der(certificates: Vec<CertificateDer<'static>>) -> Result<Self, IdentityError> {
        let mut certificates = certificates;
        certificates.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        certificates.dedup();
        if certificates.is_empty() {
            return Err(IdentityError::Bundle("no certificate in it".to_owned()));
        }
        if certificates.len() > MAX_ROOTS {
            return Err(IdentityError::Bundle(format!("more than {MAX_ROOTS} certificates")));
        }
        let mut roots = Vec::with_capacity(certificates.len());
        let mut anchors = Vec::with_capacity(certificates.len());
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for (index, der) in certificates.into_iter().enumerate() {
            let refuse =
                |reason: String| IdentityError::Bundle(format!("certificate {}: {reason}", index + 1));
            let (subject, limits) = {
                let cert = parse_certificate(&der).map_err(|error| refuse(error.to_string()))?;
                (cert.subject().to_string(), RootLimits::of(&cert).map_err(refuse)?)
            };
            let anchor = webpki::anchor_from_trusted_cert(&der)
                .map_err(|error| refuse(format!("not usable as a root: {error}")))?
                .to_owned();
            hash.update(&u32::try_from(der.len()).unwrap_or(u32::MAX).to_be_bytes());
            hash.update(&der);
            anchors.push(anchor);
            roots.push(Root { der, subject, limits });
        }
        let hash = hex(hash.finish().as_ref()).into();
        Ok(Self { roots: roots.into(), anchors: anchors.into(), hash })
    }

    /// A bundle of PEM `CERTIFICATE` blocks.
    ///
    /// # Errors
    /// [`IdentityError::Bundle`] as for [`TrustBundle::from_der`], and where the PEM is broken.
    pub fn from_pem(pem: &[u8]) -> Result<Self, IdentityError> {
        let certificates = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| IdentityError::Bundle(format!("not PEM: {error}")))?;
        Self::from_der(certificates)
    }

    /// Reads a PEM file.
    ///
    /// # Errors
    /// [`IdentityError::File`] naming the file and what is wrong with it.
    pub fn from_file(path: &Path) -> Result<Self, IdentityError> {
        let pem = crate::files::read(path)?;
        Self::from_pem(&pem)
            .map_err(|error| IdentityError::File { path: path.to_owned(), reason: error.to_string() })
    }

    /// Both sets together.
    ///
    /// # Errors
    /// [`IdentityError::Bundle`] where they are too many.
    pub fn union(&self, other: &Self) -> Result<Self, IdentityError> {
        Self::from_der(self.certificates().chain(other.certificates()).cloned().collect())
    }

    /// The certificates, in ascending order of their DER.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().map(|root| &root.der)
    }

    /// Lower-case hex SHA-256 over the set, as defined in `identity.proto`.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Subject and end of validity of each certificate.
    pub fn subjects(&self) -> impl Iterator<Item = (&str, SystemTime)> {
        self.roots.iter().map(|root| (root.subject.as_str(), root.limits.not_after))
    }

    /// Start and end of validity of each certificate.
    pub fn validity(&self) -> impl Iterator<Item = (SystemTime, SystemTime)> {
        self.roots.iter().map(|root| (root.limits.not_before, root.limits.not_after))
    }

    /// Subject and limits of the root that an anchor of [`TrustBundle::anchors`] was made from.
    pub(crate) fn root_of(&self, anchor: &TrustAnchor<'_>) -> Option<(&str, &RootLimits)> {
        // By address: a root that was renewed under its old key makes an anchor equal to that of the old certificate.
        let index = self.anchors.iter().position(|one| std::ptr::eq(one, anchor))?;
        self.roots.get(index).map(|root| (root.subject.as_str(), &root.limits))
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for TrustBundle {}

impl std::fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustBundle").field("hash", &self.hash).field("roots", &self.roots.len()).finish()
    }
}
