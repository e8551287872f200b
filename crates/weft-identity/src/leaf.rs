use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use weft_core::SpiffeId;

use crate::svid::Svid;
use crate::tls::crypto_provider;
use crate::{IdentityError, TrustBundle};

/// Certificates in one chain at the most, the leaf included: a leaf and two intermediates are already unusual.
const MAX_CHAIN: usize = 8;

/// A fresh ECDSA P-256 key, in memory only, and the request to have it signed.
pub struct LeafKey(KeyPair);

impl LeafKey {
    /// Makes a key.
    ///
    /// # Errors
    /// [`IdentityError::Key`] where the system has no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(key_error)
    }

    /// A PKCS #10 request (RFC 2986) for this key, signed by it. It names nobody: the CA takes only the key from it.
    ///
    /// # Errors
    /// [`IdentityError::Key`] where signing fails.
    pub fn signing_request(&self) -> Result<CertificateSigningRequestDer<'static>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&self.0).map_err(key_error)?;
        Ok(request.der().clone())
    }

    /// The key with the certificates that came back for it, leaf first.
    ///
    /// # Errors
    /// As [`Leaf::new`].
    pub fn with_chain(&self, chain: Vec<CertificateDer<'static>>) -> Result<Leaf, IdentityError> {
        let key = PrivatePkcs8KeyDer::from(self.0.serialize_der());
        Leaf::new(chain, key.into())
    }
}

impl fmt::Debug for LeafKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeafKey(..)")
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn key_error(error: rcgen::Error) -> IdentityError {
    IdentityError::Key(error.to_string())
}

/// This workload's own certificate chain with its key.
#[derive(Clone)]
pub struct Leaf {
    certified: Arc<CertifiedKey>,
    svid: Svid,
}

impl Leaf {
    /// Puts chain (leaf first) and key together.
    ///
    /// # Errors
    /// [`IdentityError::KeyMismatch`] where the leaf is for another key, [`IdentityError::Key`] where the key is not
    /// usable, and the errors of a certificate that is no workload's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, IdentityError> {
        let first = chain.first().ok_or(IdentityError::NoCertificate)?;
        if chain.len() > MAX_CHAIN {
            return Err(IdentityError::Certificate(format!("a chain of more than {MAX_CHAIN} certificates")));
        }
        let svid = Svid::parse(first)?;
        let certified =
            CertifiedKey::from_der(chain, key, crypto_provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => IdentityError::KeyMismatch,
                other => IdentityError::Key(other.to_string()),
            })?;
        Ok(Self { certified: Arc::new(certified), svid })
    }

    /// Reads a PEM chain (leaf first) and a PEM key (PKCS #8, SEC1 or PKCS #1).
    ///
    /// # Errors
    /// [`IdentityError::File`] naming the file that is wrong.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let in_file = |path: &Path, reason: String| IdentityError::File { path: path.to_owned(), reason };
        let chain = CertificateDer::pem_slice_iter(&crate::files::read(certificate)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| in_file(certificate, format!("not PEM: {error}")))?;
        let secret = PrivateKeyDer::from_pem_slice(&crate::files::read(key)?)
            .map_err(|error| in_file(key, format!("no private key in PEM: {error}")))?;
        Self::new(chain, secret).map_err(|error| match error {
            IdentityError::Key(_) => in_file(key, error.to_string()),
            IdentityError::KeyMismatch => in_file(key, format!("not the key of {}", certificate.display())),
            IdentityError::NoCertificate => in_file(certificate, "no certificate in it".to_owned()),
            other => in_file(certificate, other.to_string()),
        })
    }

    /// Whose leaf it is.
    pub fn id(&self) -> &SpiffeId {
        &self.svid.id
    }

    /// The start of its validity.
    pub fn not_before(&self) -> SystemTime {
        self.svid.not_before
    }

    /// The end of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.svid.not_after
    }

    /// Its serial number in lower-case hex.
    pub fn serial(&self) -> &str {
        &self.svid.serial
    }

    /// Whether a peer that trusts `bundle` would accept it at `now`, as a client and as a server.
    ///
    /// # Errors
    /// What the peer would say.
    pub fn check(&self, bundle: &TrustBundle, now: SystemTime) -> Result<(), IdentityError> {
        crate::verify::check_own_chain(self.chain(), bundle, now)
    }

    /// The certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("id", self.id()).field("serial", &self.serial()).finish_non_exhaustive()
    }
}

/// A time as RFC 3339 in UTC with whole seconds, as log lines show it.
pub(crate) fn rfc3339(time: SystemTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(time)
}
