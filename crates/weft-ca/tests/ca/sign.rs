//! What is signed, and for whom.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::Code;
use weft_identity::proto::SignRequest;
use weft_identity::{LinkProtocol, PeerIdentity, link_protocol, peer_of};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::support::{EXPIRED_TOKEN, ORDERS_TOKEN, Site, WEB_TOKEN, csr, raw, raw_from, with_credential};

#[tokio::test]
async fn two_workloads_get_their_identities_and_talk() {
    let site = Site::new();
    let ca = site.ca("").await;
    let (web, orders) = (site.client(ca.address, WEB_TOKEN), site.client(ca.address, ORDERS_TOKEN));
    let (web, orders) = (web.ready().await, orders.ready().await);
    assert_eq!(web.own.to_string(), "spiffe://weft.local/ns/shop/sa/web");
    assert_eq!(orders.own.to_string(), "spiffe://weft.local/ns/shop/sa/orders");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (config, peer) = (orders.server.clone(), web.own.clone());
    let server = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = TlsAcceptor::from(config).accept(tcp).await.unwrap();
        assert_eq!(peer_of(tls.get_ref().1).unwrap().id, peer);
        assert_eq!(link_protocol(tls.get_ref().1).unwrap(), LinkProtocol::Tcp);
        tls.write_all(b"hello").await.unwrap();
        tls.shutdown().await.unwrap();
    });
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::IpAddress(address.ip().into());
    let mut tls = TlsConnector::from(web.client_tcp.clone()).connect(name, tcp).await.unwrap();
    assert_eq!(peer_of(tls.get_ref().1).unwrap().id, orders.own);
    let mut text = String::new();
    tls.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
    server.await.unwrap();
}

#[tokio::test]
async fn the_token_decides_whatever_the_request_asks_for() {
    let site = Arc::new(Site::new());
    let ca = site.ca("leafLifetime: 1h").await;
    let mut raw = raw(&site, ca.address).await;
    let greedy = csr(|params| {
        let id = Ia5String::try_from("spiffe://weft.local/ns/bank/sa/vault".to_owned()).unwrap();
        params.subject_alt_names = vec![SanType::URI(id), SanType::DnsName("vault.bank".try_into().unwrap())];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    });
    let request = with_credential(SignRequest { csr: greedy }, Some(&format!("Bearer {WEB_TOKEN}")));
    let answer = raw.client.sign(request).await.unwrap().into_inner();
    assert_eq!(answer.spiffe_id, "spiffe://weft.local/ns/shop/sa/web");
    assert_eq!(answer.certificate_chain.len(), 1);
    let der = CertificateDer::from(answer.certificate_chain[0].clone());
    assert_eq!(
        PeerIdentity::from_chain(std::slice::from_ref(&der)).unwrap().id.to_string(),
        answer.spiffe_id
    );

    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(&der).unwrap();
    let names = &cert.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "an empty subject makes the name critical");
    assert!(matches!(names.value.general_names.as_slice(), [GeneralName::URI(_)]));
    assert!(!cert.is_ca());
    let usage = cert.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let extended = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.code_signing);
    assert_eq!(cert.raw_serial().len(), 16);

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let (from, to) = (cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp());
    assert_eq!(to, answer.not_after_unix_seconds);
    assert!((3590..=3601).contains(&(to - now)), "ends in {} s", to - now);
    assert!((290..=310).contains(&(now - from)), "starts {} s ago", now - from);
}

#[tokio::test]
async fn no_credential_no_certificate_and_no_reason() {
    let site = Arc::new(Site::new());
    let ca = site.ca("").await;
    let cases = [
        None,
        Some("Bearer wrong-token-0123456789abcdef".to_owned()),
        Some(format!("Bearer {EXPIRED_TOKEN}")),
        Some(format!("Bearer {WEB_TOKEN}x")),
        Some(format!("Basic {WEB_TOKEN}")),
        Some(WEB_TOKEN.to_owned()),
        Some("Bearer ".to_owned()),
    ];
    for (number, credential) in (1..).zip(cases) {
        // Each from an address of its own: a few refusals end a connection, and some more silence an address.
        let mut raw = raw_from([127, 0, 1, number], &site, ca.address);
        let request = with_credential(SignRequest { csr: csr(|_| {}) }, credential.as_deref());
        let status = raw.client.sign(request).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unauthenticated, "credential refused"),
            "{credential:?}"
        );
        let request = with_credential(tokio_stream::iter([]), credential.as_deref());
        let status = raw.client.watch_bundle(request).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unauthenticated, "credential refused"),
            "{credential:?}"
        );
    }
}

#[tokio::test]
async fn a_request_that_is_none_is_refused() {
    let site = Arc::new(Site::new());
    let ca = site.ca("").await;
    let mut raw = raw(&site, ca.address).await;
    let token = format!("Bearer {WEB_TOKEN}");
    let cases = [
        (Vec::new(), Code::InvalidArgument),
        (b"not a request".to_vec(), Code::InvalidArgument),
        (vec![0; 9000], Code::InvalidArgument),
        // Larger than any message may be: refused before it is read.
        (vec![0; 100_000], Code::OutOfRange),
    ];
    for (csr, code) in cases {
        let size = csr.len();
        let status = raw.client.sign(with_credential(SignRequest { csr }, Some(&token))).await.unwrap_err();
        assert_eq!(status.code(), code, "{size}: {status:?}");
    }
}

#[tokio::test]
async fn a_leaf_ends_with_the_root_at_the_latest() {
    let site = Arc::new(Site::new());
    let ca = site.ca("leafLifetime: 1h\nrootLifetime: 1h").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut raw = raw(&site, ca.address).await;
    let request = with_credential(SignRequest { csr: csr(|_| {}) }, Some(&format!("Bearer {WEB_TOKEN}")));
    let answer = raw.client.sign(request).await.unwrap().into_inner();
    let root = weft_identity::TrustBundle::from_file(&site.bundle()).unwrap();
    let (_, root_ends) = root.subjects().next().unwrap();
    let root_ends = root_ends.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    assert_eq!(answer.not_after_unix_seconds, root_ends);
}
