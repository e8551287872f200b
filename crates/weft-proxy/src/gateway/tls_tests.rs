use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_identity::edge::{ALPN_HTTP1, EdgeServer, Tickets, provider};
use weft_route::{Certificate, SocketKind, Sockets};

use super::*;
use crate::gateway::testing::{certificate, https, listener, sockets};

/// What listeners there are: name, host name, certificates.
type Written<'a> = (&'a str, Option<&'a str>, &'a [Arc<Certificate>]);

struct Scene {
    sockets: Arc<Sockets>,
    roots: RootCertStore,
}

impl Scene {
    fn new(listeners: &[Written<'_>]) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in listeners.iter().flat_map(|(_, _, certificates)| certificates.iter()) {
            roots.add(CertificateDer::from_pem_slice(&certificate.chain).unwrap()).unwrap();
        }
        let listeners: Vec<_> = listeners
            .iter()
            .map(|(name, host, certificates)| listener(name, 443, *host, https(certificates)))
            .collect();
        Self { sockets: sockets(SocketKind::Tls, &listeners), roots }
    }

    /// What both sides see of a handshake with this server name; an address: none is sent.
    async fn shake(&self, name: &str) -> (std::io::Result<TlsStream<TcpStream>>, Result<Agreed, Refused>) {
        let mut config = ClientConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        let near = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = near.local_addr().unwrap();
        let name: ServerName<'static> = name.to_owned().try_into().unwrap();
        let client = async {
            let tcp = TcpStream::connect(addr).await.unwrap();
            TlsConnector::from(Arc::new(config)).connect(name, tcp).await
        };
        let server = async {
            let (tcp, _) = near.accept().await.unwrap();
            let io = ReadAhead::new(Prefixed::new(Bytes::new(), tcp));
            handshake(io, |name| self.pick(name)).await
        };
        tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(client, server) }).await.unwrap()
    }

    fn pick(&self, name: &str) -> Option<(Arc<Listener>, Option<EdgeServer>, Drain)> {
        let listener = self.sockets.listeners.most_specific(name)?;
        let ListenerKind::Https(termination, _) = &listener.kind else { panic!("HTTPS") };
        let pairs = termination.certificates.iter().map(|one| (one.chain.as_slice(), one.key.as_slice()));
        let tls = EdgeServer::new(pairs, None, &[ALPN_H2, ALPN_HTTP1], &Tickets::new().unwrap()).ok();
        Some((Arc::clone(listener), tls, Drain::never()))
    }

    /// The listener, and the subject of the certificate that was shown.
    async fn served(&self, name: &str) -> (String, Vec<u8>) {
        let (client, server) = self.shake(name).await;
        let client = client.unwrap_or_else(|error| panic!("{name}: {error}"));
        let agreed = server.unwrap_or_else(|why| panic!("{name}: {}", why.detail));
        assert!(agreed.tls.h2);
        assert_eq!(agreed.tls.sni.as_deref(), Some(&*name.to_ascii_lowercase()));
        let shown = client.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        (agreed.tls.listener.id.name.to_string(), shown)
    }
}

fn der(certificate: &Certificate) -> Vec<u8> {
    CertificateDer::from_pem_slice(&certificate.chain).unwrap().to_vec()
}

#[tokio::test]
async fn the_most_specific_listener_takes_a_name_and_shows_its_certificate_for_it() {
    let [exact, wildcard, deep, any] = [
        certificate(&["a.shop.example"]),
        certificate(&["*.shop.example", "c.d.shop.example"]),
        certificate(&["x.d.shop.example"]),
        certificate(&["other.test", "*.other.test"]),
    ];
    let scene = Scene::new(&[
        ("any", None, &[Arc::clone(&any)]),
        ("wild", Some("*.shop.example"), &[Arc::clone(&deep), Arc::clone(&wildcard)]),
        ("exact", Some("a.shop.example"), &[Arc::clone(&exact)]),
    ]);
    for (name, listener, certificate) in [
        ("a.shop.example", "exact", &exact),
        ("A.Shop.Example", "exact", &exact),
        ("b.shop.example", "wild", &wildcard),
        ("c.d.shop.example", "wild", &wildcard),
        ("x.d.shop.example", "wild", &deep),
        ("other.test", "any", &any),
        ("www.other.test", "any", &any),
    ] {
        let (took, shown) = scene.served(name).await;
        assert_eq!(took, listener, "{name}");
        assert_eq!(shown, der(certificate), "{name}");
    }
}

#[tokio::test]
async fn a_name_that_no_listener_takes_is_refused_as_that() {
    let scene = Scene::new(&[("wild", Some("*.shop.example"), &[certificate(&["*.shop.example"])])]);
    for (name, alert, label) in [
        ("a.test", AlertDescription::UnrecognisedName, "failed_unknown_name"),
        ("shop.example", AlertDescription::UnrecognisedName, "failed_unknown_name"),
        ("127.0.0.1", AlertDescription::MissingExtension, "failed_no_name"),
    ] {
        let (client, server) = scene.shake(name).await;
        let told = client.err().unwrap();
        assert_eq!(weft_identity::tls_error(&told), Some(&rustls::Error::AlertReceived(alert)), "{name}");
        assert_eq!(server.err().map(|why| why.label), Some(label), "{name}");
    }
}

#[tokio::test]
async fn a_client_without_a_name_is_the_nameless_listeners() {
    let certificates = [certificate(&["127.0.0.1"])];
    let scene = Scene::new(&[("exact", Some("a.shop.example"), &certificates), ("any", None, &certificates)]);
    let (client, server) = scene.shake("127.0.0.1").await;
    client.unwrap();
    let tls = server.unwrap_or_else(|why| panic!("{}", why.detail)).tls;
    assert_eq!((&*tls.listener.id.name, tls.sni), ("any", None));
}

#[tokio::test]
async fn a_host_is_the_listeners_own_anothers_or_nobodys() {
    let certificates = [certificate(&["a.shop.example", "b.shop.example"])];
    let scene = Scene::new(&[
        ("a", Some("a.shop.example"), &certificates),
        ("b", Some("*.shop.example"), &certificates),
    ]);
    let (_client, server) = scene.shake("a.shop.example").await;
    let tls = server.unwrap_or_else(|why| panic!("{}", why.detail)).tls;
    use crate::gateway::edge::Coverage::{Nobody, Others, Own};
    for (host, expected) in
        [("a.shop.example", Own), ("b.shop.example", Others), ("a.test", Nobody), ("", Nobody)]
    {
        assert_eq!(tls.coverage(scene.sockets.listeners.most_specific(host)), expected, "{host}");
    }
}

#[tokio::test]
async fn what_is_no_hello_ends_in_an_alert() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let scene = Scene::new(&[("any", None, &[certificate(&["a.shop.example"])])]);
    for said in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[22, 3, 1, 0, 5, 1, 0, 0, 1, 9], &[22, 3, 1]] {
        let near = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(near.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = near.accept().await.unwrap();
        client.write_all(said).await.unwrap();
        client.shutdown().await.unwrap();
        let io = ReadAhead::new(Prefixed::new(Bytes::new(), tcp));
        assert!(handshake(io, |name| scene.pick(name)).await.is_err(), "{said:?}");
        let mut told = Vec::new();
        let _ = client.read_to_end(&mut told).await;
        assert!(told.is_empty() || told.starts_with(&[21, 3]), "{told:?}");
    }
}
