//! Identity from files: changed, swapped, broken.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::{LeafSpec, TestCa, good, mesh};
use tokio::time::timeout;
use weft_core::drain;
use weft_identity::{FilesSource, Identity, identity};

const WEB: &str = "spiffe://weft.local/ns/shop/sa/web";
const SOON: Duration = Duration::from_secs(10);

/// Writes certificate, key and bundle as a deployment tool would: one after the other.
fn write(directory: &Path, ca: &TestCa, spec: &LeafSpec) {
    let signed = ca.sign(spec);
    fs::write(directory.join("tls.crt"), signed.certificate.pem()).unwrap();
    fs::write(directory.join("tls.key"), signed.key.serialize_pem()).unwrap();
    fs::write(directory.join("ca.crt"), ca.certificate.pem()).unwrap();
}

fn source(directory: &Path) -> FilesSource {
    FilesSource {
        certificate: directory.join("tls.crt"),
        key: directory.join("tls.key"),
        bundle: directory.join("ca.crt"),
    }
}

async fn generation(identity: &Identity, number: u64) {
    let mut generations = identity.subscribe();
    timeout(SOON, generations.wait_for(|current| *current >= number))
        .await
        .expect("no new generation")
        .unwrap();
}

async fn failure(identity: &Identity, expected: &str) {
    let seen = timeout(SOON, async {
        loop {
            if let Some((_, error)) = identity.status().last_error
                && error.contains(expected)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    seen.await.unwrap_or_else(|_| panic!("no error with {expected:?}: {:?}", identity.status().last_error));
}

/// The count follows the generation by a moment.
async fn eventually_renewed(identity: &Identity, count: u64) {
    let seen = timeout(SOON, async {
        while identity.status().renewals_ok != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    seen.await.unwrap_or_else(|_| panic!("{:?}", identity.status()));
}

#[tokio::test]
async fn a_changed_certificate_becomes_the_next_generation() {
    let directory = tempfile::tempdir().unwrap();
    let ca = TestCa::new("mesh");
    write(directory.path(), &ca, &good(WEB));
    let (_trigger, drain) = drain();
    let (publisher, identity) = identity(mesh());
    assert!(identity.current().is_none());
    tokio::spawn(source(directory.path()).run(publisher, drain));
    let first = timeout(SOON, identity.ready()).await.unwrap();
    assert_eq!((first.generation, first.own.to_string().as_str()), (1, WEB));
    assert_eq!(identity.status().renewals_ok, 0, "the first renews nothing");

    write(directory.path(), &ca, &good(WEB));
    generation(&identity, 2).await;
    let second = identity.current().unwrap();
    assert_ne!(second.serial, first.serial);
    assert_eq!(second.bundle_hash, first.bundle_hash);
    assert_eq!(identity.status().last_error, None);
    eventually_renewed(&identity, 1).await;
    // Another bundle beside the same leaf renews nothing either.
    let both = format!("{}{}", ca.certificate.pem(), TestCa::new("next").certificate.pem());
    fs::write(directory.path().join("ca.crt"), both).unwrap();
    generation(&identity, 3).await;
    eventually_renewed(&identity, 1).await;
}

#[tokio::test]
async fn a_bad_file_is_named_and_the_last_good_identity_stays() {
    let directory = tempfile::tempdir().unwrap();
    let ca = TestCa::new("mesh");
    write(directory.path(), &ca, &good(WEB));
    let (_trigger, drain) = drain();
    let (publisher, identity) = identity(mesh());
    tokio::spawn(source(directory.path()).run(publisher, drain));
    let first = timeout(SOON, identity.ready()).await.unwrap();

    fs::write(directory.path().join("tls.key"), "not a key").unwrap();
    failure(&identity, "tls.key: no private key in PEM").await;
    let other = ca.sign(&good(WEB));
    fs::write(directory.path().join("tls.key"), other.key.serialize_pem()).unwrap();
    failure(&identity, "tls.key: not the key of").await;
    fs::write(directory.path().join("ca.crt"), "").unwrap();
    failure(&identity, "ca.crt: trust bundle: no certificate").await;
    fs::remove_file(directory.path().join("ca.crt")).unwrap();
    failure(&identity, "ca.crt: cannot be opened").await;
    // All three whole again, but signed by a root that the mesh does not have.
    write(directory.path(), &TestCa::new("other"), &good(WEB));
    fs::write(directory.path().join("ca.crt"), ca.certificate.pem()).unwrap();
    failure(&identity, "tls.crt: peers would refuse it").await;
    assert_eq!(identity.current().unwrap().generation, first.generation);
    assert!(identity.status().renewals_failed >= 5);

    write(directory.path(), &ca, &good(WEB));
    generation(&identity, 2).await;
    assert_eq!(identity.status().last_error, None);
}

#[tokio::test]
async fn a_symlink_swap_as_kubernetes_does_it_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let ca = TestCa::new("mesh");
    for version in ["..1", "..2"] {
        fs::create_dir(root.join(version)).unwrap();
        write(&root.join(version), &ca, &good(WEB));
    }
    std::os::unix::fs::symlink("..1", root.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        std::os::unix::fs::symlink(Path::new("..data").join(file), root.join(file)).unwrap();
    }
    let (_trigger, drain) = drain();
    let (publisher, identity) = identity(mesh());
    tokio::spawn(source(root).run(publisher, drain));
    let first = timeout(SOON, identity.ready()).await.unwrap();
    std::os::unix::fs::symlink("..2", root.join("..tmp")).unwrap();
    fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
    generation(&identity, 2).await;
    assert_ne!(identity.current().unwrap().serial, first.serial);
}

#[tokio::test]
async fn files_that_come_late_are_waited_for_and_the_drain_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let (trigger, drain) = drain();
    let (publisher, identity) = identity(mesh());
    let running = tokio::spawn(source(directory.path()).run(publisher, drain));
    failure(&identity, "ca.crt: cannot be opened").await;
    write(directory.path(), &TestCa::new("mesh"), &good(WEB));
    timeout(SOON, identity.ready()).await.unwrap();
    // Draining is not the end: outbound connections are still made and need an identity.
    trigger.start(SOON);
    write(directory.path(), &TestCa::new("mesh"), &good(WEB));
    generation(&identity, 2).await;
    trigger.close();
    timeout(SOON, running).await.unwrap().unwrap();
}
