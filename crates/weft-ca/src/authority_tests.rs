use std::time::Duration;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn pem() -> RootPem {
    RootPem::generate(&"weft.local".parse().unwrap(), 100 * DAY).unwrap()
}

fn authority(pem: &RootPem) -> Authority {
    let id = "spiffe://weft.local/ns/weft-system/sa/weft-ca".parse().unwrap();
    Authority::new(pem.clone(), id, 2 * DAY).unwrap()
}

fn both(one: &RootPem, other: &RootPem) -> String {
    format!("{}{}", one.bundle, other.bundle)
}

#[test]
fn a_root_is_replaced_in_the_order_of_a_rotation() {
    let (old, new) = (pem(), pem());
    let authority = authority(&old);
    let subject = || authority.signer().subject.clone();
    let first = subject();
    authority.update(&RootPem { bundle: both(&old, &new), ..old.clone() }).unwrap();
    assert_eq!((authority.bundle().certificates().count(), subject()), (2, first.clone()));
    authority.update(&RootPem { bundle: both(&old, &new), ..new.clone() }).unwrap();
    assert_ne!(subject(), first);
    authority.update(&new).unwrap();
    assert_eq!(authority.bundle().certificates().count(), 1);
    assert_eq!(authority.pem(), new);
}

#[test]
fn what_would_cut_the_mesh_off_is_not_taken() {
    let (old, new) = (pem(), pem());
    let authority = authority(&old);
    let hash = authority.bundle().hash().to_owned();
    let error = authority.update(&new).unwrap_err().to_string();
    assert!(error.contains("root.pem: lacks the root that leaves are signed with"), "{error}");
    let error = authority.update(&RootPem { bundle: "none".to_owned(), ..old.clone() }).unwrap_err();
    assert!(error.to_string().contains("root.pem: "), "{error}");
    assert_eq!((authority.bundle().hash(), authority.pem()), (hash.as_str(), old));
}

#[test]
fn a_bad_certificate_or_key_is_not_taken_but_the_bundle_beside_it_is() {
    let (old, new) = (pem(), pem());
    let authority = authority(&old);
    let cases = [
        (RootPem { key: new.key.clone(), ..old.clone() }, "ca-key.pem: is not the key of ca.pem"),
        (RootPem { certificate: "x".to_owned(), ..old.clone() }, "ca.pem: no certificate in PEM"),
        (RootPem { bundle: old.bundle.clone(), ..new.clone() }, "ca.pem: root.pem does not vouch for it"),
    ];
    for (changed, expected) in cases {
        let error = authority.update(&changed).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        assert_eq!(authority.pem(), old);
    }
    let bundle = both(&old, &new);
    authority.update(&RootPem { key: "x".to_owned(), bundle: bundle.clone(), ..new }).unwrap_err();
    assert_eq!(authority.pem(), RootPem { bundle, ..old });
    assert_eq!(authority.bundle().certificates().count(), 2);
}

#[test]
fn a_root_that_is_not_whole_is_no_authority() {
    let (one, other) = (pem(), pem());
    let id: SpiffeId = "spiffe://weft.local/ns/weft-system/sa/weft-ca".parse().unwrap();
    for bad in [
        RootPem { key: other.key.clone(), ..one.clone() },
        RootPem { bundle: other.bundle, ..one.clone() },
        RootPem { bundle: String::new(), ..one.clone() },
    ] {
        Authority::new(bad, id.clone(), DAY).unwrap_err();
    }
    assert!(!format!("{one:?}").contains("PRIVATE KEY"));
}

#[test]
fn a_server_certificate_has_names_and_can_be_no_workload() {
    let authority = authority(&pem());
    let names = ["weft-injector.weft-system.svc", "weft-injector"];
    let made = authority.issue_server(&names).unwrap();
    let (_, cert) = X509Certificate::from_der(&made.chain[0]).unwrap();
    let san = cert.subject_alternative_name().unwrap().unwrap();
    let found: Vec<_> = san
        .value
        .general_names
        .iter()
        .map(|name| match name {
            GeneralName::DNSName(name) => *name,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(found, names);
    let usage = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
    let left = made.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(left <= DAY + Duration::from_secs(1) && left > DAY - Duration::from_secs(60), "{left:?}");
    weft_identity::Leaf::new(made.chain, made.key.into()).unwrap_err();
    authority.issue_server(&[]).unwrap_err();
    authority.issue_server(&["not a name"]).unwrap_err();
}
