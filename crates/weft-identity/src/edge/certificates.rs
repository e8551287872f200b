//! Which certificate a client is shown.

use std::sync::Arc;

use rustls::SignatureAlgorithm;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::provider;
use crate::IdentityError;

/// The certificates of one listener, in the order in which they are listed.
#[derive(Debug)]
pub(super) struct Certificates(Vec<Shown>);

/// One certificate with the names it is for, in lower case.
#[derive(Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    names: Vec<Box<str>>,
    ecdsa: bool,
}

/// How well a certificate is for a name: the lesser, the better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Exact,
    Wildcard,
    Other,
}

impl Certificates {
    pub(super) fn new<'a>(
        pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, IdentityError> {
        let shown = pairs.into_iter().map(|(chain, key)| Shown::new(chain, key));
        let shown = shown.collect::<Result<Vec<_>, _>>()?;
        if shown.is_empty() { Err(IdentityError::NoCertificate) } else { Ok(Self(shown)) }
    }

    /// The certificate for a name, in lower case. Among those that fit it equally, one with an ECDSA key is shown to whoever
    /// can verify it, because its signature costs a twentieth of one by RSA; then the first.
    fn choose(&self, name: Option<&str>, usable: impl Fn(&CertifiedKey) -> bool) -> Option<&Shown> {
        let rank = |shown: &&Shown| (shown.fit(name), !shown.ecdsa);
        let best = self.0.iter().filter(|shown| usable(&shown.key)).min_by_key(rank);
        // Where the client can verify none, the handshake says so.
        best.or(self.0.first())
    }
}

impl Shown {
    fn new(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| IdentityError::Certificate(format!("not PEM: {error}")))?;
        let leaf = chain.first().ok_or(IdentityError::NoCertificate)?;
        let parsed = webpki::EndEntityCert::try_from(leaf).map_err(IdentityError::Chain)?;
        let names = parsed.valid_dns_names().map(|name| name.to_ascii_lowercase().into()).collect();
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| IdentityError::Key(format!("no private key in PEM: {error}")))?;
        let key = CertifiedKey::from_der(chain, key, provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => IdentityError::KeyMismatch,
            other => IdentityError::Key(other.to_string()),
        })?;
        let ecdsa = key.key.algorithm() == SignatureAlgorithm::ECDSA;
        Ok(Self { key: Arc::new(key), names, ecdsa })
    }

    fn fit(&self, name: Option<&str>) -> Fit {
        let Some(name) = name else { return Fit::Other };
        // A wildcard stands for exactly one label (RFC 9525 section 6.3).
        let base = name.split_once('.').map(|(_, base)| base);
        let fit = |own: &str| match own.strip_prefix("*.") {
            Some(own) if Some(own) == base => Fit::Wildcard,
            None if own == name => Fit::Exact,
            _ => Fit::Other,
        };
        self.names.iter().map(|own| fit(own)).min().unwrap_or(Fit::Other)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let [only] = self.0.as_slice() {
            return Some(Arc::clone(&only.key));
        }
        // rustls has taken out those that no cipher suite of the client's goes with (TLS 1.2).
        let usable = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.choose(name.as_deref(), usable).map(|shown| Arc::clone(&shown.key))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

    use super::*;

    fn pair(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }

    fn certificates(pairs: &[(Vec<u8>, Vec<u8>)]) -> Certificates {
        Certificates::new(pairs.iter().map(|(chain, key)| (chain.as_slice(), key.as_slice()))).unwrap()
    }

    #[test]
    fn an_exact_name_comes_before_a_wildcard_and_the_first_is_for_all_others() {
        let list = [
            pair(&["first.example"], &PKCS_ED25519),
            pair(&["*.shop.example"], &PKCS_ED25519),
            pair(&["A.shop.example", "other.example"], &PKCS_ED25519),
        ];
        let certificates = certificates(&list);
        let chosen = |name| {
            let shown = certificates.choose(name, |_| true).unwrap();
            certificates.0.iter().position(|one| std::ptr::eq(one, shown)).unwrap()
        };
        for (name, expected) in [
            (Some("a.shop.example"), 2),
            (Some("b.shop.example"), 1),
            (Some("c.b.shop.example"), 0),
            (Some("shop.example"), 0),
            (Some("other.example"), 2),
            (Some("first.example"), 0),
            (Some("nobody.example"), 0),
            (None, 0),
        ] {
            assert_eq!(chosen(name), expected, "{name:?}");
        }
    }

    #[test]
    fn ecdsa_is_shown_to_whoever_can_verify_it() {
        let list = [pair(&["a.example"], &PKCS_ED25519), pair(&["a.example"], &PKCS_ECDSA_P256_SHA256)];
        let certificates = certificates(&list);
        let ecdsa =
            |usable: fn(&CertifiedKey) -> bool| certificates.choose(Some("a.example"), usable).unwrap().ecdsa;
        assert!(ecdsa(|_| true));
        assert!(!ecdsa(|key| key.key.algorithm() != SignatureAlgorithm::ECDSA));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (one, other) = (pair(&["a.example"], &PKCS_ED25519), pair(&["a.example"], &PKCS_ED25519));
        let mixed = Certificates::new([(one.0.as_slice(), other.1.as_slice())]);
        assert!(matches!(mixed, Err(IdentityError::KeyMismatch)), "{mixed:?}");
        assert!(matches!(Certificates::new([]), Err(IdentityError::NoCertificate)));
    }
}
