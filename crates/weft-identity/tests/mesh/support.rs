//! A throw-away CA that makes good and bad certificates, and a handshake without sockets.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use weft_core::TrustDomain;
use weft_identity::{Leaf, TlsGeneration, TrustBundle};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn mesh() -> TrustDomain {
    "weft.local".parse().unwrap()
}

pub(crate) struct TestCa {
    pub(crate) certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
    /// What travels with a leaf: itself and what is above it, without the root.
    above: Vec<CertificateDer<'static>>,
}

fn signing(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// What a leaf is to hold; starts out good.
pub(crate) struct LeafSpec {
    pub(crate) params: CertificateParams,
}

pub(crate) fn good(id: &str) -> LeafSpec {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + HOUR).into();
    LeafSpec { params }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

impl LeafSpec {
    pub(crate) fn with(mut self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        change(&mut self.params);
        self
    }
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))
    }

    /// A root that differs from a good one, which may have intermediates.
    pub(crate) fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = signing(name);
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key).unwrap();
        Self { certificate, issuer, above: Vec::new() }
    }

    /// An intermediate under this one that differs from a good one.
    pub(crate) fn intermediate(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = signing(name);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut above = vec![certificate.der().clone()];
        above.extend(self.above.iter().cloned());
        // Not from the certificate: a bad intermediate has to sign here.
        Self { issuer: Issuer::new(params, key), certificate, above }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_der(vec![self.certificate.der().clone()]).unwrap()
    }

    pub(crate) fn sign(&self, spec: &LeafSpec) -> Signed {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = spec.params.signed_by(&key, &self.issuer).unwrap();
        Signed { certificate, key, above: self.above.clone() }
    }

    pub(crate) fn leaf(&self, id: &str) -> Leaf {
        let signed = self.sign(&good(id));
        Leaf::new(signed.chain(), signed.secret()).unwrap()
    }

    pub(crate) fn generation(&self, id: &str) -> TlsGeneration {
        TlsGeneration::build(1, &self.leaf(id), &self.bundle(), &mesh()).unwrap()
    }
}

pub(crate) struct Signed {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
    above: Vec<CertificateDer<'static>>,
}

impl Signed {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        std::iter::once(self.certificate.der().clone()).chain(self.above.iter().cloned()).collect()
    }

    pub(crate) fn secret(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

pub(crate) struct Handshake {
    pub(crate) client: Result<ClientConnection, rustls::Error>,
    pub(crate) server: Result<ServerConnection, rustls::Error>,
}

impl Handshake {
    pub(crate) fn unwrap(self) -> (ClientConnection, ServerConnection) {
        (self.client.unwrap(), self.server.unwrap())
    }
}

/// A handshake in memory, tickets included. An error ends the side it happened on.
pub(crate) fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Handshake {
    handshake_to("10.0.0.7", client, server)
}

/// The same with an endpoint's address, under which the client keeps its session.
pub(crate) fn handshake_to(
    address: &str,
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Handshake {
    let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::try_from(address).unwrap()));
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    let (mut client_error, mut server_error) = (None, None);
    for _ in 0..20 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() && server_error.is_none() {
            server.read_tls(&mut rest).unwrap();
            server_error = server.process_new_packets().err();
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() && client_error.is_none() {
            client.read_tls(&mut rest).unwrap();
            client_error = client.process_new_packets().err();
        }
        if !client.wants_write() && !server.wants_write() {
            break;
        }
    }
    Handshake { client: client_error.map_or(Ok(client), Err), server: server_error.map_or(Ok(server), Err) }
}

/// One message through an established pair, there.
pub(crate) fn send(client: &mut ClientConnection, server: &mut ServerConnection, text: &[u8]) -> Vec<u8> {
    client.writer().write_all(text).unwrap();
    let mut wire = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut wire).unwrap();
    }
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        server.read_tls(&mut rest).unwrap();
        server.process_new_packets().unwrap();
    }
    let mut got = vec![0; text.len()];
    server.reader().read_exact(&mut got).unwrap();
    got
}
