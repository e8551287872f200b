//! What stands between a leaf and its root, and the root itself.

use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
};
use weft_identity::{IdentityError, Leaf, TrustBundle};

use crate::handshake::{accepted, refused};
use crate::support::{HOUR, TestCa, good, uri};

const WEB: &str = "spiffe://weft.local/ns/shop/sa/web";

fn root() -> TestCa {
    TestCa::with("mesh", |_| {})
}

#[test]
fn an_intermediate_that_may_sign_is_taken_on_both_sides() {
    let root = root();
    accepted(&root, &root.intermediate("one", |_| {}), &good(WEB));
    // Without key usage nothing is said about it (RFC 5280 section 6.1.4 (n)).
    accepted(&root, &root.intermediate("one", |params| params.key_usages.clear()), &good(WEB));
    // Two of them, and a signing certificate that is an SVID of the trust domain itself.
    let one = root.intermediate("one", |params| params.subject_alt_names = vec![uri("spiffe://weft.local")]);
    accepted(&root, &one.intermediate("two", |_| {}), &good(WEB));
}

#[test]
fn an_intermediate_that_must_not_sign_is_refused_on_both_sides() {
    type Change = fn(&mut CertificateParams);
    let cases: [(Change, &str); 8] = [
        (|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature], "does not let it sign certificates"),
        (|p| p.key_usages = vec![KeyUsagePurpose::CrlSign], "does not let it sign certificates"),
        (|p| p.is_ca = IsCa::ExplicitNoCa, "EndEntityUsedAsCa"),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://weft.local/ns/shop/sa/orders")],
            "workloads sign nothing",
        ),
        (|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning], "RequiredEkuNotFound"),
        // webpki cannot judge constraints on URI names; they refuse every SPIFFE id, permitted or not.
        (|p| p.custom_extensions = vec![only_uris_of("weft.local")], "NameConstraintViolation"),
        (|p| p.custom_extensions = vec![unknown_and_critical()], "UnsupportedCriticalExtension"),
        (|p| p.not_after = (SystemTime::now() - HOUR).into(), "Expired"),
    ];
    for (change, expected) in cases {
        let root = root();
        let bad = root.intermediate("bad", change);
        refused(&root, &bad, &good(WEB), expected);
        // Nor further up.
        refused(&root, &bad.intermediate("below", |_| {}), &good(WEB), expected);
    }
}

#[test]
fn the_length_of_a_path_is_what_each_certificate_above_allows() {
    let root = root();
    let last = root.intermediate("last", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    accepted(&root, &last, &good(WEB));
    refused(&root, &last.intermediate("one more", |_| {}), &good(WEB), "PathLenConstraintViolated");
    let strict = TestCa::new("mesh");
    accepted(&strict, &strict, &good(WEB));
    refused(&strict, &strict.intermediate("one", |_| {}), &good(WEB), "allows 0 intermediates, there are 1");
}

#[test]
fn a_root_vouches_only_in_its_time() {
    let over = TestCa::with("over", |p| p.not_after = (SystemTime::now() - HOUR).into());
    refused_for_time(&over, "the root CN=over expired at ");
    let early = TestCa::with("early", |p| p.not_before = (SystemTime::now() + HOUR).into());
    refused_for_time(&early, "the root CN=early is not valid before ");
}

fn refused_for_time(root: &TestCa, expected: &str) {
    let signed = root.sign(&good(WEB));
    let leaf = Leaf::new(signed.chain(), signed.secret()).unwrap();
    let error = leaf.check(&root.bundle(), SystemTime::now()).unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
}

#[test]
fn a_root_that_must_not_sign_is_in_no_bundle() {
    let ca = TestCa::with("no", |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let error = TrustBundle::from_der(vec![ca.certificate.der().clone()]).unwrap_err().to_string();
    assert!(error.contains("does not let it sign certificates"), "{error}");
}

#[test]
fn not_yet_valid_and_expired_are_told_apart() {
    let root = root();
    let said = |change: fn(&mut CertificateParams)| {
        let signed = root.sign(&good(WEB).with(change));
        let leaf = Leaf::new(signed.chain(), signed.secret()).unwrap();
        let error = leaf.check(&root.bundle(), SystemTime::now()).unwrap_err();
        assert!(matches!(error, IdentityError::Chain(_)), "{error:?}");
        error.to_string()
    };
    let early = said(|p| p.not_before = (SystemTime::now() + HOUR / 2).into());
    assert!(early.contains("is not valid before 2") && early.contains("clock"), "{early}");
    let late = said(|p| p.not_after = (SystemTime::now() - HOUR / 2).into());
    assert!(late.contains("expired at 2") && !late.contains("not valid"), "{late}");
}

/// Name constraints in DER (RFC 5280 section 4.2.1.10): one permitted subtree, of URI names. rcgen has none of this form.
fn only_uris_of(host: &str) -> CustomExtension {
    let length = |content: &[u8]| u8::try_from(content.len()).unwrap();
    let wrap = |tag: u8, content: &[u8]| [&[tag, length(content)], content].concat();
    let subtree = wrap(0x30, &wrap(0x86, host.as_bytes()));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], wrap(0x30, &wrap(0xa0, &subtree)));
    extension.set_criticality(true);
    extension
}

fn unknown_and_critical() -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    extension
}
