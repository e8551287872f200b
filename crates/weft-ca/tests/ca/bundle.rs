//! The bundle as it reaches the proxies.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::Code;
use weft_identity::proto::WatchBundleRequest;
use weft_identity::{CaSource, TrustBundle};

use crate::support::{
    CA_ID, Client, RunningCa, SOON, Site, WEB_TOKEN, eventually, log, raw, with_credential,
};

fn another_root() -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.self_signed(&key).unwrap().pem()
}

#[tokio::test]
async fn a_new_root_reaches_the_proxies_without_a_new_leaf() {
    let site = Site::new();
    let ca = site.ca("").await;
    let client = site.client(ca.address, WEB_TOKEN);
    let first = client.ready().await;
    let own = fs::read_to_string(site.bundle()).unwrap();
    let both = format!("{own}{}", another_root());
    site.write("data/root.pem", &both);
    client.generation(first.generation + 1).await;
    let second = client.identity.current().unwrap();
    assert_eq!(second.serial, first.serial);
    assert_eq!(second.bundle_hash, TrustBundle::from_pem(both.as_bytes()).unwrap().hash());
    assert_eq!(client.identity.status().bundle.unwrap().roots.len(), 2);

    // Broken, and without the root that leaves are signed with: both keep the last good bundle.
    for bad in ["-----BEGIN CERTIFICATE-----\n", &another_root()] {
        site.write("data/root.pem", bad);
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(client.identity.current().unwrap().generation, second.generation);
    }
    site.write("data/root.pem", &own);
    client.generation(second.generation + 1).await;
    assert_eq!(client.identity.current().unwrap().bundle_hash, first.bundle_hash);
}

#[tokio::test]
async fn the_streamed_bundle_wins_over_the_file() {
    let site = Site::new();
    let ca = site.ca("").await;
    let own = fs::read_to_string(site.bundle()).unwrap();
    let expected = TrustBundle::from_pem(own.as_bytes()).unwrap();
    // The file trusts one root more than the mesh does: enough to find the CA, not to judge peers by.
    site.write("token", WEB_TOKEN);
    site.write("file-bundle.pem", &format!("{own}{}", another_root()));
    let client = Client::start(CaSource {
        address: ca.address.to_string(),
        bundle: site.path("file-bundle.pem"),
        server_id: CA_ID.parse().unwrap(),
        token_file: site.path("token"),
        expected_id: None,
    });
    client.ready().await;
    uses(&client, &expected).await;
}

#[tokio::test]
async fn the_stream_begins_with_the_current_bundle_and_takes_reports() {
    let site = Arc::new(Site::new());
    let ca = site.ca("").await;
    let mut raw = raw(&site, ca.address).await;
    let token = format!("Bearer {WEB_TOKEN}");
    let expected = TrustBundle::from_file(&site.bundle()).unwrap();
    // Whatever the caller says it has, even the same: the first message is the current bundle.
    let report = WatchBundleRequest { bundle_hash: expected.hash().to_owned() };
    let (reports, requests) = tokio::sync::mpsc::channel(4);
    reports.send(report.clone()).await.unwrap();
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut stream =
        raw.client.watch_bundle(with_credential(requests, Some(&token))).await.unwrap().into_inner();
    let first = timeout(SOON, stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.bundle_hash, expected.hash());
    assert_eq!(first.ca_certificates.len(), 1);
    // What is no hash ends the stream.
    reports.send(WatchBundleRequest { bundle_hash: "x".repeat(1000) }).await.unwrap();
    let status = timeout(SOON, stream.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);

    // A caller that says nothing and just listens is served too.
    let request = with_credential(tokio_stream::iter([]), Some(&token));
    let mut stream = raw.client.watch_bundle(request).await.unwrap().into_inner();
    assert!(timeout(SOON, stream.next()).await.unwrap().unwrap().is_ok());
    site.write("data/root.pem", &format!("{}{}", fs::read_to_string(site.bundle()).unwrap(), another_root()));
    let second = timeout(SOON, stream.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(second.ca_certificates.len(), 2);
}

#[tokio::test]
async fn a_drain_ends_streams_and_the_server() {
    let site = Arc::new(Site::new());
    let ca = site.ca("").await;
    let mut raw = raw(&site, ca.address).await;
    let request = with_credential(tokio_stream::iter([]), Some(&format!("Bearer {WEB_TOKEN}")));
    let mut stream = raw.client.watch_bundle(request).await.unwrap().into_inner();
    timeout(SOON, stream.message()).await.unwrap().unwrap().unwrap();
    ca.trigger.start(SOON);
    assert!(timeout(SOON, stream.message()).await.unwrap().unwrap().is_none());
    // The idle connection does not keep it.
    timeout(SOON, ca.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_root_is_replaced_step_by_step_and_nobody_is_cut_off() {
    const SHORT: &str = "leafLifetime: 4s";
    let site = Site::new();
    let ca = site.ca(SHORT).await;
    let address = ca.address;
    let old = fs::read_to_string(site.bundle()).unwrap();
    // The proxy's file never hears of the rotation: only the stream tells it.
    site.write("token", WEB_TOKEN);
    site.write("file-bundle.pem", &old);
    let client = Client::start(CaSource {
        address: address.to_string(),
        bundle: site.path("file-bundle.pem"),
        server_id: CA_ID.parse().unwrap(),
        token_file: site.path("token"),
        expected_id: None,
    });
    client.ready().await;

    let next = Site::new();
    next.ca("").await.stop().await;
    let new = fs::read_to_string(next.bundle()).unwrap();
    let both = TrustBundle::from_pem(format!("{old}{new}").as_bytes()).unwrap();
    site.write("data/root.pem", &format!("{old}{new}"));
    uses(&client, &both).await;
    let said = format!("every connected proxy uses the bundle bundle=\"{}\" proxies=1", both.hash());
    eventually(|| if log().text().contains(&said) { Ok(()) } else { Err(said.clone()) }).await;
    ca.stop().await;
    for file in ["ca.pem", "ca-key.pem"] {
        fs::copy(next.path("data").join(file), site.path("data").join(file)).unwrap();
    }
    let serial = client.identity.current().unwrap().serial.clone();
    let ca = RunningCa::start(&site.config(address, SHORT)).await;
    eventually(|| {
        let current = client.identity.current().unwrap();
        if current.serial == serial { Err(format!("{:?}", client.identity.status())) } else { Ok(()) }
    })
    .await;
    site.write("data/root.pem", &new);
    let only = TrustBundle::from_pem(new.as_bytes()).unwrap();
    uses(&client, &only).await;
    // Renewal goes on under the new root alone.
    let renewed = client.identity.status().renewals_ok;
    eventually(|| {
        let status = client.identity.status();
        if status.renewals_ok > renewed { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert!(client.identity.current().unwrap().is_valid_at(std::time::SystemTime::now()));
    ca.stop().await;
}

#[tokio::test]
async fn a_leaf_that_the_new_bundle_does_not_vouch_for_is_replaced_at_once() {
    let site = Site::new();
    let ca = site.ca("").await;
    let address = ca.address;
    let client = site.client(address, WEB_TOKEN);
    let first = client.ready().await;
    ca.stop().await;
    // A new mesh at the same address, which the proxy's file now trusts.
    fs::remove_dir_all(site.path("data")).unwrap();
    let ca = RunningCa::start(&site.config(address, "")).await;
    eventually(|| {
        let current = client.identity.current().unwrap();
        let done = current.bundle_hash != first.bundle_hash && current.serial != first.serial;
        if done { Ok(()) } else { Err(format!("{:?}", client.identity.status())) }
    })
    .await;
    ca.stop().await;
}

async fn uses(client: &Client, bundle: &TrustBundle) {
    eventually(|| {
        let current = client.identity.current().unwrap();
        if current.bundle_hash == bundle.hash() {
            Ok(())
        } else {
            Err(format!("{:?}", client.identity.status()))
        }
    })
    .await;
}
