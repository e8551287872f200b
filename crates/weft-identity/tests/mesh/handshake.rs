//! Mesh handshakes between good and bad peers, in memory.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::support::{HOUR, LeafSpec, TestCa, good, handshake, handshake_to, mesh, send, uri};
use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, HandshakeKind, NamedGroup, ServerConfig};
use weft_core::PeerRule;
use weft_identity::{
    ALPN_HTTP, ALPN_TCP, IdentityError, Leaf, LinkProtocol, PeerVerifier, TlsGeneration, TrustBundle,
    crypto_provider, link_protocol, peer_at, peer_of,
};

const WEB: &str = "spiffe://weft.local/ns/shop/sa/web";
const ORDERS: &str = "spiffe://weft.local/ns/shop/sa/orders";

#[test]
fn two_workloads_know_each_other_and_agree_on_a_protocol() {
    let ca = TestCa::new("mesh");
    let (web, orders) = (ca.generation(WEB), ca.generation(ORDERS));
    for (config, alpn, protocol) in
        [(&web.client_http, ALPN_HTTP, LinkProtocol::Http), (&web.client_tcp, ALPN_TCP, LinkProtocol::Tcp)]
    {
        let (mut client, mut server) = handshake(config, &orders.server).unwrap();
        assert_eq!(peer_of(&client).unwrap().id, orders.own);
        assert_eq!(peer_of(&server).unwrap().id, web.own);
        assert_eq!(client.alpn_protocol(), Some(alpn));
        assert_eq!(link_protocol(&client).unwrap(), protocol);
        assert_eq!(link_protocol(&server).unwrap(), protocol);
        assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        assert_eq!(send(&mut client, &mut server, b"hello"), b"hello");
    }
}

#[test]
fn what_the_peer_proved_is_what_a_rule_judges() {
    let ca = TestCa::new("mesh");
    let (web, orders) = (ca.generation(WEB), ca.generation(ORDERS));
    let (client, _) = handshake(&web.client_http, &orders.server).unwrap();
    let rule = |namespace: &str| PeerRule {
        trust_domain: mesh(),
        namespace: Some(namespace.parse().unwrap()),
        service_accounts: Vec::new(),
    };
    let peer = peer_of(&client).unwrap();
    assert!(rule("shop").allows(&peer.id));
    assert!(!rule("bank").allows(&peer.id));
}

#[test]
fn the_second_connection_resumes_and_still_knows_its_peer() {
    let ca = TestCa::new("mesh");
    let (web, orders) = (ca.generation(WEB), ca.generation(ORDERS));
    let (first, _) = handshake(&web.client_tcp, &orders.server).unwrap();
    assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
    // Each resumption must leave a ticket for the next.
    for _ in 0..3 {
        let (client, server) = handshake(&web.client_tcp, &orders.server).unwrap();
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(peer_of(&client).unwrap().id, orders.own);
        assert_eq!(peer_of(&server).unwrap().id, web.own);
        assert_eq!(link_protocol(&server).unwrap(), LinkProtocol::Tcp);
    }
}

#[test]
fn many_endpoints_are_remembered_each_by_its_address() {
    let ca = TestCa::new("mesh");
    let web = ca.generation(WEB);
    let servers: Vec<_> = (0..100).map(|_| ca.generation(ORDERS)).collect();
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        for (number, server) in servers.iter().enumerate() {
            let (client, _) =
                handshake_to(&format!("10.0.1.{number}"), &web.client_http, &server.server).unwrap();
            assert_eq!(client.handshake_kind(), Some(kind), "{number}");
        }
    }
    // Another server at a known address (a reused pod address) cannot read the ticket: a full handshake, no failure.
    let (client, _) = handshake_to("10.0.1.0", &web.client_http, &servers[1].server).unwrap();
    assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn a_resumed_session_does_not_outlive_the_leaf() {
    let ca = TestCa::new("mesh");
    let (web, orders) = (ca.generation(WEB), ca.generation(ORDERS));
    handshake(&web.client_http, &orders.server).unwrap();
    let (client, server) = handshake(&web.client_http, &orders.server).unwrap();
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Resumed));
    let later = SystemTime::now() + 2 * HOUR;
    assert!(matches!(peer_at(&server, later), Err(IdentityError::Expired { .. })));
    assert!(matches!(peer_at(&client, later), Err(IdentityError::Expired { .. })));
    assert!(peer_at(&server, later - 3 * HOUR / 2).is_ok());
}

#[test]
fn a_new_generation_forgets_the_sessions_of_the_last() {
    let (ca, next) = (TestCa::new("mesh"), TestCa::new("next root"));
    let (web, orders) = (ca.generation(WEB), ca.generation(ORDERS));
    handshake(&web.client_http, &orders.server).unwrap();
    // The server now trusts only the next root; the client's session was accepted under the old one.
    let rotated = TlsGeneration::build(2, &ca.leaf(ORDERS), &next.bundle(), &mesh()).unwrap();
    let result = handshake(&web.client_http, &rotated.server);
    assert!(matches!(result.server, Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))));
}

#[test]
fn during_a_rotation_leaves_of_both_roots_are_good() {
    let (old, new) = (TestCa::new("old"), TestCa::new("new"));
    let both = old.bundle().union(&new.bundle()).unwrap();
    let web = TlsGeneration::build(1, &old.leaf(WEB), &both, &mesh()).unwrap();
    let orders = TlsGeneration::build(1, &new.leaf(ORDERS), &both, &mesh()).unwrap();
    let (client, server) = handshake(&web.client_http, &orders.server).unwrap();
    assert_eq!(peer_of(&client).unwrap().id, orders.own);
    assert_eq!(peer_of(&server).unwrap().id, web.own);
}

/// A server and a client that use whatever certificate they are given and accept whatever the mesh has.
fn rogue(bundle: &TrustBundle, ca: &TestCa, spec: &LeafSpec) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let signed = ca.sign(spec);
    let verifier = Arc::new(PeerVerifier::new(bundle.clone(), mesh()));
    let mut client = ClientConfig::builder_with_provider(crypto_provider().clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_auth_cert(signed.chain(), signed.secret())
        .unwrap();
    client.alpn_protocols = vec![ALPN_HTTP.to_vec()];
    let mut server = ServerConfig::builder_with_provider(crypto_provider().clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(signed.chain(), signed.secret())
        .unwrap();
    server.alpn_protocols = vec![ALPN_HTTP.to_vec()];
    (Arc::new(client), Arc::new(server))
}

/// Asserts that the mesh takes a certificate on both sides.
pub(crate) fn accepted(mesh_ca: &TestCa, signer: &TestCa, spec: &LeafSpec) {
    let honest = mesh_ca.generation(ORDERS);
    let (client, server) = rogue(&mesh_ca.bundle(), signer, spec);
    handshake(&client, &honest.server).unwrap();
    handshake(&honest.client_http, &server).unwrap();
}

/// Asserts that the mesh refuses a certificate on both sides, and what it says.
pub(crate) fn refused(mesh_ca: &TestCa, signer: &TestCa, spec: &LeafSpec, expected: &str) {
    let honest = mesh_ca.generation(ORDERS);
    let (client, server) = rogue(&mesh_ca.bundle(), signer, spec);
    for error in [
        handshake(&client, &honest.server).server.expect_err("the server accepted it"),
        handshake(&honest.client_http, &server).client.expect_err("the client accepted it"),
    ] {
        assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error:?}");
        let text = format!("{error:?} {error}");
        assert!(text.contains(expected), "{text:?} lacks {expected:?}");
    }
}

#[test]
fn a_good_certificate_passes_the_test_of_the_bad_ones() {
    let ca = TestCa::new("mesh");
    accepted(&ca, &ca, &good(WEB));
}

#[test]
fn bad_certificates_are_refused_on_both_sides() {
    let (ca, other) = (TestCa::new("mesh"), TestCa::new("other"));
    refused(&ca, &other, &good(WEB), "UnknownIssuer");
    let now = SystemTime::now();
    let second = Duration::from_secs(5);
    refused(&ca, &ca, &good(WEB).with(|p| p.not_after = (now - second).into()), "Expired");
    refused(&ca, &ca, &good(WEB).with(|p| p.not_before = (now + HOUR / 2).into()), "NotValidYet");
    refused(&ca, &ca, &good("spiffe://other.local/ns/shop/sa/web"), "TrustDomain");
    refused(&ca, &ca, &good(WEB).with(|p| p.subject_alt_names.push(uri(WEB))), "UriNames(2)");
    refused(
        &ca,
        &ca,
        &good(WEB).with(|p| p.subject_alt_names.push(uri("https://a.example/"))),
        "UriNames(2)",
    );
    refused(&ca, &ca, &good("https://weft.local/ns/shop/sa/web"), "SPIFFE id");
    refused(&ca, &ca, &good("spiffe://weft.local/shop/web"), "SPIFFE id");
    let dns = || vec![SanType::DnsName("orders.shop".try_into().unwrap())];
    refused(&ca, &ca, &good(WEB).with(|p| p.subject_alt_names = dns()), "UriNames(0)");
    refused(&ca, &ca, &good(WEB).with(|p| p.subject_alt_names.clear()), "UriNames(0)");
    refused(&ca, &ca, &good(WEB).with(|p| p.extended_key_usages.clear()), "extended key usage");
    refused(
        &ca,
        &ca,
        &good(WEB).with(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        "may sign certificates",
    );
    refused(
        &ca,
        &ca,
        &good(WEB).with(|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
        "Chain",
    );
}

#[test]
fn a_leaf_for_one_side_is_refused_on_the_other() {
    let ca = TestCa::new("mesh");
    let honest = ca.generation(ORDERS);
    let only = |usage| good(WEB).with(|p| p.extended_key_usages = vec![usage]);
    let (client, server) = rogue(&ca.bundle(), &ca, &only(ExtendedKeyUsagePurpose::ServerAuth));
    assert!(handshake(&client, &honest.server).server.is_err());
    assert!(handshake(&honest.client_http, &server).client.is_ok());
    let (client, server) = rogue(&ca.bundle(), &ca, &only(ExtendedKeyUsagePurpose::ClientAuth));
    assert!(handshake(&client, &honest.server).server.is_ok());
    assert!(handshake(&honest.client_http, &server).client.is_err());
}

#[test]
fn without_a_certificate_or_a_mesh_protocol_nobody_comes_in() {
    let ca = TestCa::new("mesh");
    let honest = ca.generation(ORDERS);
    let anonymous = |alpn: &[&[u8]]| {
        let mut config = ClientConfig::builder_with_provider(crypto_provider().clone())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PeerVerifier::new(ca.bundle(), mesh())))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
        Arc::new(config)
    };
    let error = handshake(&anonymous(&[ALPN_HTTP]), &honest.server).server.unwrap_err();
    assert_eq!(error, rustls::Error::NoCertificatesPresented);
    let error = handshake(&anonymous(&[b"h2"]), &honest.server).server.unwrap_err();
    assert_eq!(error, rustls::Error::NoApplicationProtocol);
    // A certificate, but no ALPN at all: the handshake succeeds and the helper refuses it.
    let mut quiet = ClientConfig::clone(&honest.client_http);
    quiet.alpn_protocols.clear();
    let (_, server) = handshake(&Arc::new(quiet), &honest.server).unwrap();
    assert!(matches!(link_protocol(&server), Err(IdentityError::NoMeshProtocol)));
}

#[test]
fn there_is_no_peer_before_the_handshake_is_done() {
    let ca = TestCa::new("mesh");
    let server = rustls::ServerConnection::new(ca.generation(ORDERS).server).unwrap();
    assert!(matches!(peer_of(&server), Err(IdentityError::NoCertificate)));
}

#[test]
fn only_one_identity_may_be_the_ca() {
    let ca = TestCa::new("mesh");
    let (_, server) = rogue(&ca.bundle(), &ca, &good(WEB));
    let client = |id: &str| {
        let verifier = PeerVerifier::only(ca.bundle(), id.parse().unwrap());
        let signed = ca.sign(&good(ORDERS));
        let config = ClientConfig::builder_with_provider(crypto_provider().clone())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(signed.chain(), signed.secret())
            .unwrap();
        Arc::new(config)
    };
    handshake(&client(WEB), &server).unwrap();
    let error = handshake(&client(ORDERS), &server).client.unwrap_err();
    assert!(format!("{error:?}").contains("WrongIdentity"), "{error:?}");
}

#[test]
fn a_leaf_of_another_mesh_or_key_makes_no_generation() {
    let ca = TestCa::new("mesh");
    let foreign = ca.leaf("spiffe://other.local/ns/shop/sa/web");
    assert!(matches!(
        TlsGeneration::build(1, &foreign, &ca.bundle(), &mesh()),
        Err(IdentityError::TrustDomain { .. })
    ));
    let (one, two) = (ca.sign(&good(WEB)), ca.sign(&good(WEB)));
    assert!(matches!(Leaf::new(one.chain(), two.secret()), Err(IdentityError::KeyMismatch)));
}
