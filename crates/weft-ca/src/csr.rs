//! The key out of a signing request.

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// A request for a P-256 key has about 300 octets; tools that add extensions make it a kilobyte or two.
pub(crate) const MAX_CSR: usize = 8 * 1024;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CsrError {
    #[error("the request has more than {MAX_CSR} octets")]
    TooLarge,
    #[error("the request is not PKCS #10 in DER")]
    Malformed,
    #[error("the key is not ECDSA P-256")]
    KeyType,
    #[error("the request is not signed by its own key")]
    Signature,
}

/// The key of a request whose sender holds the private half.
///
/// Only ECDSA P-256 is taken: every TLS stack has it, its signatures are the cheapest to make, and one kind of key
/// leaves nothing to choose wrong. Everything else the request says is ignored: names, extensions, attributes.
pub(crate) fn key(der: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    if der.len() > MAX_CSR {
        return Err(CsrError::TooLarge);
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|_| CsrError::KeyType)?;
    if key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(CsrError::KeyType);
    }
    request.verify_signature().map_err(|_| CsrError::Signature)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    fn request(key: &KeyPair) -> Vec<u8> {
        CertificateParams::new(["a.example".to_owned()])
            .unwrap()
            .serialize_request(key)
            .unwrap()
            .der()
            .to_vec()
    }

    #[test]
    fn takes_the_key_of_a_request_that_it_signs() {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        assert_eq!(key(&request(&pair)).unwrap().der_bytes(), pair.public_key_raw());
    }

    #[test]
    fn refuses_other_keys_and_other_signers() {
        for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(key(&request(&pair)).unwrap_err(), CsrError::KeyType);
        }
        // The public key of one request put into another: same length, wrong signer.
        let (one, two) = (
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        );
        let mut stolen = request(&one);
        let at = stolen.windows(65).position(|window| window == one.public_key_raw()).unwrap();
        stolen[at..at + 65].copy_from_slice(two.public_key_raw());
        assert_eq!(key(&stolen).unwrap_err(), CsrError::Signature);
        let mut longer = request(&one);
        longer.push(0);
        assert_eq!(key(&longer).unwrap_err(), CsrError::Malformed);
        assert_eq!(key(&vec![0x30; MAX_CSR + 1]).unwrap_err(), CsrError::TooLarge);
    }

    proptest! {
        #[test]
        fn arbitrary_and_damaged_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            at in any::<proptest::sample::Index>(),
            value in any::<u8>(),
        ) {
            prop_assert!(key(&bytes).is_err());
            let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            let mut der = request(&pair);
            let at = at.index(der.len());
            der[at] = value;
            // Damage may fall where nobody looks, but never changes which key is taken.
            if let Ok(taken) = key(&der) {
                prop_assert_eq!(taken.der_bytes(), pair.public_key_raw());
            }
        }
    }
}
