//! TLS at an edge, without sockets: versions, sessions, certificates of clients.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, Error, HandshakeKind, ProtocolVersion, RootCertStore};
use rustls::{ServerConnection, SupportedProtocolVersion};
use weft_identity::TrustBundle;
use weft_identity::edge::{ALPN_H2, ALPN_HTTP1, ClientCheck, ClientRoots, EdgeServer, Tickets, provider};

struct Ca {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
struct Pair {
    chain: CertificateDer<'static>,
    key: Vec<u8>,
    pem: (Vec<u8>, Vec<u8>),
}

impl Ca {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key).unwrap();
        Self { certificate, issuer }
    }

    fn issue(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair {
            chain: certificate.der().clone(),
            key: key.serialize_der(),
            pem: (certificate.pem().into_bytes(), key.serialize_pem().into_bytes()),
        }
    }

    fn check(&self, insecure_fallback: bool) -> ClientCheck {
        let bundle = TrustBundle::from_pem(self.certificate.pem().as_bytes()).unwrap();
        ClientCheck { roots: Arc::new(ClientRoots::new(bundle)), insecure_fallback }
    }

    fn client(
        &self,
        own: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.key.clone()));
                builder.with_client_auth_cert(vec![pair.chain.clone()], key).unwrap()
            }
        };
        config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()];
        Arc::new(config)
    }
}

fn server(pair: &Pair, clients: Option<ClientCheck>, tickets: &Tickets) -> EdgeServer {
    let pairs = [(pair.pem.0.as_slice(), pair.pem.1.as_slice())];
    EdgeServer::new(pairs, clients, &[ALPN_H2, ALPN_HTTP1], tickets).unwrap()
}

/// Both ends of a handshake, and the tickets after it.
fn meet(
    client: &Arc<ClientConfig>,
    server: &EdgeServer,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let mut client = ClientConnection::new(Arc::clone(client), "a.example".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::clone(&server.config)).unwrap();
    let mut said = false;
    loop {
        let mut moved = 0;
        let mut bytes = Vec::new();
        while client.wants_write() {
            moved += client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        if !server.is_handshaking() && !said {
            said = true;
            server.writer().write_all(b"x").unwrap();
        }
        bytes.clear();
        while server.wants_write() {
            moved += server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
        if moved == 0 {
            let mut byte = [0];
            client.reader().read_exact(&mut byte).unwrap();
            return Ok((client, server));
        }
    }
}

fn kind(client: &Arc<ClientConfig>, server: &EdgeServer) -> HandshakeKind {
    meet(client, server).unwrap().1.handshake_kind().unwrap()
}

#[test]
fn both_versions_are_spoken_and_h2_is_agreed_on() {
    let ca = Ca::new("public");
    let server = server(&ca.issue("a.example"), None, &Tickets::new().unwrap());
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let (client, met) = meet(&ca.client(None, &[version]), &server).unwrap();
        assert_eq!(met.protocol_version(), Some(expected));
        assert_eq!(client.alpn_protocol(), Some(ALPN_H2));
    }
}

#[test]
fn a_session_is_resumed_with_its_listener_and_with_no_other() {
    let ca = Ca::new("public");
    let (tickets, pair) = (Tickets::new().unwrap(), ca.issue("a.example"));
    let one = server(&pair, None, &tickets);
    let renewed = server(&ca.issue("a.example"), None, &tickets);
    let other = server(&pair, None, &Tickets::new().unwrap());
    for version in [&TLS12, &TLS13] {
        let client = ca.client(None, &[version]);
        assert_eq!(kind(&client, &one), HandshakeKind::Full);
        assert_eq!(kind(&client, &one), HandshakeKind::Resumed);
        assert_eq!(kind(&client, &renewed), HandshakeKind::Resumed);
        assert_eq!(kind(&client, &other), HandshakeKind::Full);
    }
}

#[test]
fn a_client_shows_a_certificate_of_the_listeners_roots_or_is_refused() {
    let (public, staff, foreign) = (Ca::new("public"), Ca::new("staff"), Ca::new("foreign"));
    let server = server(&public.issue("a.example"), Some(staff.check(false)), &Tickets::new().unwrap());
    let (good, bad) = (staff.issue("alice"), foreign.issue("alice"));
    for version in [&TLS12, &TLS13] {
        let (_, met) = meet(&public.client(Some(&good), &[version]), &server).unwrap();
        let chain = server.client(met.peer_certificates(), false).unwrap().unwrap();
        assert_eq!(chain[0], good.chain);
        assert!(meet(&public.client(Some(&bad), &[version]), &server).is_err());
        assert!(meet(&public.client(None, &[version]), &server).is_err());
    }
}

#[test]
fn with_the_fallback_a_client_without_a_valid_certificate_has_none() {
    let (public, staff, foreign) = (Ca::new("public"), Ca::new("staff"), Ca::new("foreign"));
    let server = server(&public.issue("a.example"), Some(staff.check(true)), &Tickets::new().unwrap());
    let (good, bad) = (staff.issue("alice"), foreign.issue("alice"));
    for (own, valid) in [(Some(&good), true), (Some(&bad), false), (None, false)] {
        let (_, met) = meet(&public.client(own, &[&TLS13]), &server).unwrap();
        assert_eq!(server.client(met.peer_certificates(), false).unwrap().is_some(), valid);
    }
}

#[test]
fn a_resumed_session_does_not_outlive_the_roots_of_its_client() {
    let (public, staff, other) = (Ca::new("public"), Ca::new("staff"), Ca::new("other"));
    let (tickets, pair, alice) = (Tickets::new().unwrap(), public.issue("a.example"), staff.issue("alice"));
    let before = server(&pair, Some(staff.check(false)), &tickets);
    let after = server(&pair, Some(other.check(false)), &tickets);
    for version in [&TLS12, &TLS13] {
        let client = public.client(Some(&alice), &[version]);
        meet(&client, &before).unwrap();
        // The same keys seal its ticket, so that the handshake itself says nothing.
        let (_, met) = meet(&client, &after).unwrap();
        assert_eq!(met.handshake_kind(), Some(HandshakeKind::Resumed));
        assert!(after.client(met.peer_certificates(), true).is_err());
        assert!(before.client(met.peer_certificates(), true).unwrap().is_some());
    }
}

#[test]
fn a_certificate_that_must_not_sign_vouches_for_no_client() {
    let (public, staff) = (Ca::new("public"), Ca::new("staff"));
    let server = server(&public.issue("a.example"), Some(staff.check(false)), &Tickets::new().unwrap());
    // A CA certificate whose key is not for signing certificates: webpki alone would take it.
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let between = params.signed_by(&key, &staff.issuer).unwrap();
    let issuer = Issuer::from_ca_cert_der(between.der(), key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["mallory".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(&key, &issuer).unwrap();
    let chain = [leaf.der().clone(), between.der().clone()];
    assert!(server.client(Some(&chain), true).is_err());
}
