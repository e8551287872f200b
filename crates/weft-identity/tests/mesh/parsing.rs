//! Certificates and bundles from anywhere: never a panic, never an identity that is not there.

use std::sync::LazyLock;

use crate::support::{TestCa, good};
use proptest::prelude::*;
use rustls::pki_types::CertificateDer;
use weft_identity::{IdentityError, PeerIdentity, TrustBundle};

const WEB: &str = "spiffe://weft.local/ns/shop/sa/web";

static LEAF: LazyLock<Vec<u8>> =
    LazyLock::new(|| TestCa::new("mesh").sign(&good(WEB)).certificate.der().to_vec());

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_identity(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let der = CertificateDer::from(bytes.as_slice());
        prop_assert!(PeerIdentity::from_chain(&[der]).is_err());
        prop_assert!(TrustBundle::from_der(vec![CertificateDer::from(bytes.clone())]).is_err());
        prop_assert!(TrustBundle::from_pem(&bytes).is_err());
    }

    #[test]
    fn damaged_certificates_never_panic(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut der = LEAF.clone();
        for (at, value) in &changes {
            let at = at.index(der.len());
            der[at] = *value;
        }
        let _ = PeerIdentity::from_chain(&[CertificateDer::from(der.as_slice())]);
        let cut = cut.index(der.len());
        prop_assert!(PeerIdentity::from_chain(&[CertificateDer::from(&LEAF[..cut])]).is_err());
    }
}

#[test]
fn a_chain_is_one_certificate_after_the_other() {
    assert!(matches!(PeerIdentity::from_chain(&[]), Err(IdentityError::NoCertificate)));
    let mut longer = LEAF.clone();
    longer.push(0);
    assert!(PeerIdentity::from_chain(&[CertificateDer::from(longer)]).is_err());
    let peer = PeerIdentity::from_chain(&[CertificateDer::from(LEAF.as_slice())]).unwrap();
    assert_eq!(peer.id.to_string(), WEB);
}

#[test]
fn a_bundle_is_a_set() {
    let (a, b) = (TestCa::new("a"), TestCa::new("b"));
    let (da, db) = (a.certificate.der().clone(), b.certificate.der().clone());
    let one = TrustBundle::from_der(vec![da.clone(), db.clone(), da.clone()]).unwrap();
    let two = TrustBundle::from_der(vec![db.clone(), da.clone()]).unwrap();
    assert_eq!(one, two);
    assert_eq!(one.hash(), two.hash());
    assert_eq!(one.hash().len(), 64);
    assert_eq!(one.certificates().count(), 2);
    assert_ne!(one.hash(), a.bundle().hash());
    let pem = format!("{}\n{}", b.certificate.pem(), a.certificate.pem());
    assert_eq!(TrustBundle::from_pem(pem.as_bytes()).unwrap(), one);
    assert_eq!(a.bundle().union(&b.bundle()).unwrap(), one);
}

#[test]
fn a_leaf_is_never_a_root() {
    let error = TrustBundle::from_der(vec![CertificateDer::from(LEAF.clone())]).unwrap_err();
    assert!(error.to_string().contains("not a CA certificate"), "{error}");
    assert!(TrustBundle::from_der(Vec::new()).is_err());
}
