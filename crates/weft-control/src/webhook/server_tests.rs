use std::sync::Mutex;
use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_identity::crypto_provider;

use super::super::PATH;
use super::super::certificate::ServingCertificate;
use super::super::handler::MAX_BODY;
use super::super::namespaces::Labels;
use super::*;
use crate::inject::{INJECT_LABEL, InjectSettings};

/// An authority with one root, which signs leaves of any length.
pub(super) struct Root {
    issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: CertificateDer<'static>,
    lifetime: Duration,
    signed: Mutex<Vec<CertificateDer<'static>>>,
    changes: tokio::sync::Mutex<watch::Receiver<()>>,
}

impl Root {
    pub(super) fn new(lifetime: Duration) -> (Arc<Self>, watch::Sender<()>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let (sender, changes) = watch::channel(());
        let root = Self {
            issuer: Issuer::new(params, key),
            certificate,
            lifetime,
            signed: Mutex::default(),
            changes: tokio::sync::Mutex::new(changes),
        };
        (Arc::new(root), sender)
    }

    fn signed(&self) -> Vec<CertificateDer<'static>> {
        self.signed.lock().unwrap().clone()
    }
}

impl ServingSigner for Root {
    fn sign(&self, name: &str) -> Result<ServingCertificate, String> {
        let key = KeyPair::generate().unwrap();
        let leaf =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        self.signed.lock().unwrap().push(leaf.der().clone());
        Ok(ServingCertificate {
            chain: vec![leaf.der().clone()],
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            not_after: SystemTime::now() + self.lifetime,
        })
    }

    fn bundle_pem(&self) -> String {
        "roots".to_owned()
    }

    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            if self.changes.lock().await.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

pub(super) fn options(signer: Arc<Root>) -> WebhookOptions {
    let injector = Injector {
        settings: InjectSettings::new("weft:1"),
        native: true,
        own_namespace: "weft-system".to_owned(),
        ca: None,
    };
    let bind = "127.0.0.1:0".parse().unwrap();
    let (callers, spans) = (WebhookSettings::default(), ServerSpans::default());
    WebhookOptions { bind, injector, callers, signer, client: None, registry: Registry::default(), spans }
}

/// One request over a connection of its own, as the API server would make it: the status, and the body.
pub(super) async fn call(address: SocketAddr, root: &Root, request: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let (head, body) = exchange(connect(address, root).await, request, body).await;
    (head.get(9..12).unwrap().parse().unwrap(), body)
}

/// The same over any connection: the whole head, and the body.
pub(super) async fn exchange<S>(mut tls: TlsStream<S>, request: &str, body: &[u8]) -> (String, Vec<u8>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let head = format!(
        "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    tls.write_all(head.as_bytes()).await.unwrap();
    // A body that is too large may be refused before all of it is sent.
    let _ = tls.write_all(body).await;
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer).await;
    let split = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8(answer[..split].to_vec()).unwrap();
    (head, answer[split + 4..].to_vec())
}

/// A connection from 127.0.0.`last`.
pub(super) async fn dial(address: SocketAddr, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
    socket.connect(address).await.unwrap()
}

pub(super) async fn connect(address: SocketAddr, root: &Root) -> TlsStream<TcpStream> {
    trusting(dial(address, 1).await, root.certificate.clone()).await.unwrap()
}

pub(super) async fn trusting<S>(stream: S, root: CertificateDer<'static>) -> std::io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    shaken(stream, client(root).with_no_client_auth()).await
}

pub(super) fn client(
    root: CertificateDer<'static>,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    ClientConfig::builder_with_provider(crypto_provider().clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
}

pub(super) async fn shaken<S>(stream: S, config: ClientConfig) -> std::io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from("weft-injector.weft-system.svc").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

pub(super) fn review(pod: &Value) -> Vec<u8> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "u", "kind": {"kind": "Pod"}, "operation": "CREATE", "namespace": "shop", "object": pod},
    });
    review.to_string().into_bytes()
}

pub(super) fn pod() -> Value {
    json!({"spec": {"containers": [{"name": "app"}]}})
}

#[tokio::test]
async fn reviews_over_tls() {
    let (root, _changes) = Root::new(Duration::from_secs(3600));
    let options = options(root.clone());
    let registry = options.registry.clone();
    let webhook = Webhook::bind(options).await.unwrap();
    let address = webhook.local_addr();
    let (trigger, drain) = weft_core::drain();
    let served = tokio::spawn(webhook.serve(drain.clone(), drain));

    let (status, body) = call(address, &root, "POST /inject?timeout=5s", &review(&pod())).await;
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &answer["response"]["patchType"]), (200, &json!("JSONPatch")));
    let taken = json!({"spec": {"containers": [{"name": "weft-proxy"}]}});
    let (status, body) = call(address, &root, "POST /inject", &review(&taken)).await;
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &answer["response"]["status"]["code"]), (200, &json!(422)));
    let off = json!({"metadata": {"labels": {INJECT_LABEL: "disabled"}}, "spec": {"containers": []}});
    assert_eq!(call(address, &root, "POST /inject", &review(&off)).await.0, 200);
    assert_eq!(call(address, &root, "POST /inject", b"{").await.0, 400);
    assert_eq!(call(address, &root, "GET /inject", b"").await.0, 405);
    assert_eq!(call(address, &root, "POST /", b"").await.0, 404);
    // An object as large as etcd takes is answered; what is larger than any is not even read.
    let mut large = pod();
    large["metadata"] = json!({"annotations": {"a": "x".repeat(3 << 20)}});
    assert_eq!(call(address, &root, "POST /inject", &review(&large)).await.0, 200);
    assert_eq!(PATH, "/inject");
    assert_eq!(call(address, &root, "POST /inject", &vec![b' '; MAX_BODY + 1]).await.0, 413);

    let mut text = String::new();
    registry.encode(&mut text);
    for line in [
        "weft_injections_total{outcome=\"injected\"} 2",
        "weft_injections_total{outcome=\"refused\"} 1",
        "weft_injections_total{outcome=\"skipped\"} 1",
        "weft_injections_total{outcome=\"invalid\"} 1",
        "weft_injections_total{outcome=\"too_large\"} 1",
        "weft_injection_duration_seconds_count 6",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    trigger.start(Duration::from_secs(5));
    served.await.unwrap();
}

#[tokio::test]
async fn a_drain_answers_what_has_begun_and_takes_nothing_new() {
    let (root, _changes) = Root::new(Duration::from_secs(3600));
    let webhook = Webhook::bind(options(root.clone())).await.unwrap();
    let address = webhook.local_addr();
    let (trigger, drain) = weft_core::drain();
    let served = tokio::spawn(webhook.serve(drain.clone(), drain));
    let mut idle = connect(address, &root).await;
    let mut begun = connect(address, &root).await;
    let body = review(&pod());
    let head = format!(
        "POST /inject HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    begun.write_all(head.as_bytes()).await.unwrap();
    // The server asks for the body: the request has begun.
    let mut asked = [0; 25];
    begun.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    trigger.start(Duration::from_secs(5));
    let mut nothing = Vec::new();
    let _ = idle.read_to_end(&mut nothing).await;
    assert!(nothing.is_empty());
    begun.write_all(&body).await.unwrap();
    let mut answer = Vec::new();
    let _ = begun.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    served.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn changed_roots_bring_another_certificate() {
    let (root, changes) = Root::new(Duration::from_secs(3600));
    let webhook = Webhook::bind(options(root.clone())).await.unwrap();
    let address = webhook.local_addr();
    let (trigger, drain) = weft_core::drain();
    let served = tokio::spawn(webhook.serve(drain.clone(), drain));
    let of = |tls: &TlsStream<TcpStream>| tls.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_eq!(of(&connect(address, &root).await), root.signed()[0]);
    changes.send(()).unwrap();
    while root.signed().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(of(&connect(address, &root).await), root.signed()[1]);
    trigger.close();
    served.await.unwrap();
}

#[tokio::test]
async fn the_meshs_own_authority_signs() {
    use rustls_pki_types::pem::PemObject as _;
    let mesh = "weft.local".parse().unwrap();
    let pem = weft_ca::RootPem::generate(&mesh, Duration::from_secs(3600)).unwrap();
    let id = "spiffe://weft.local/ns/weft-system/sa/weft-ca".parse().unwrap();
    let authority = weft_ca::Authority::new(pem, id, Duration::from_secs(600)).unwrap();
    let root = CertificateDer::from_pem_slice(authority.bundle_pem().as_bytes()).unwrap();
    let (other, _changes) = Root::new(Duration::from_secs(3600));
    let signer = Arc::new(super::super::AuthoritySigner::new(authority));
    let webhook = Webhook::bind(WebhookOptions { signer, ..options(other.clone()) }).await.unwrap();
    let address = webhook.local_addr();
    let (trigger, drain) = weft_core::drain();
    let served = tokio::spawn(webhook.serve(drain.clone(), drain));
    assert!(trusting(dial(address, 1).await, root).await.is_ok());
    assert!(trusting(dial(address, 1).await, other.certificate.clone()).await.is_err());
    trigger.close();
    served.await.unwrap();
}

/// Remembers one thing and knows another.
struct Behind;

impl Namespaces for Behind {
    fn labels<'a>(&'a self, name: &'a str, fresh: bool) -> Labels<'a> {
        assert_eq!(name, "shop");
        let labels =
            if fresh { [(INJECT_LABEL.to_owned(), "enabled".to_owned())].into() } else { Default::default() };
        Box::pin(std::future::ready(Some(labels)))
    }
}

#[tokio::test]
async fn a_namespace_that_was_labelled_just_now_counts() {
    let (root, _changes) = Root::new(Duration::from_secs(3600));
    let mut webhook = Webhook::bind(options(root.clone())).await.unwrap();
    let handler = Arc::get_mut(&mut webhook.handler).unwrap();
    handler.namespaces = Some(Box::new(Behind));
    let address = webhook.local_addr();
    let (trigger, drain) = weft_core::drain();
    let served = tokio::spawn(webhook.serve(drain.clone(), drain));
    let (_, body) = call(address, &root, "POST /inject", &review(&pod())).await;
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["response"]["patchType"], "JSONPatch");
    trigger.close();
    served.await.unwrap();
}
