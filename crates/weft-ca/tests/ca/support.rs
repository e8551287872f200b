//! A CA on a port of the kernel's choice, and clients of it.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;
use weft_ca::{Ca, CaConfig, CaError};
use weft_core::{DrainTrigger, drain};
use weft_identity::proto::identity_client::IdentityClient;
use weft_identity::{CaSource, Identity, PeerVerifier, TrustBundle, crypto_provider, identity};

pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const CA_ID: &str = "spiffe://weft.local/ns/weft-system/sa/weft-ca";
pub(crate) const WEB_TOKEN: &str = "web-token-0123456789abcdef";
pub(crate) const ORDERS_TOKEN: &str = "orders-token-0123456789abcdef";
pub(crate) const EXPIRED_TOKEN: &str = "expired-token-0123456789abcdef";

/// Everything this test program logs: one log for all threads, because tracing caches per call site who is interested.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

pub(crate) fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let targets = Targets::new().with_target("weft", LevelFilter::TRACE).with_default(LevelFilter::DEBUG);
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(log.clone());
        tracing_subscriber::registry().with(lines.with_filter(targets)).init();
        log
    })
}

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A directory with the files of a CA and its clients.
pub(crate) struct Site(TempDir);

impl Site {
    pub(crate) fn new() -> Self {
        log();
        let site = Self(tempfile::tempdir().unwrap());
        site.write(
            "tokens.yaml",
            &tokens(&[
                (WEB_TOKEN, "web", "2099-01-01T00:00:00Z"),
                (ORDERS_TOKEN, "orders", "2099-01-01T00:00:00Z"),
                (EXPIRED_TOKEN, "web", "2020-01-01T00:00:00Z"),
            ]),
        );
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.path("data/root.pem")
    }

    pub(crate) fn config(&self, listen: SocketAddr, more: &str) -> CaConfig {
        let text = format!(
            "trustDomain: weft.local\nlisten: \"{listen}\"\ndataDir: {}\ntokensFile: {}\n{more}\n",
            self.path("data").display(),
            self.path("tokens.yaml").display(),
        );
        CaConfig::from_yaml(Path::new("ca.yaml"), &text).unwrap()
    }

    /// Starts a CA; `more` is added to its `ca.yaml`.
    pub(crate) async fn ca(&self, more: &str) -> RunningCa {
        RunningCa::start(&self.config("127.0.0.1:0".parse().unwrap(), more)).await
    }

    /// An identity that follows the CA with a token.
    pub(crate) fn client(&self, ca: SocketAddr, token: &str) -> Client {
        let token_file = self.path(&format!("token-{token}"));
        fs::write(&token_file, format!("{token}\n")).unwrap();
        let source = CaSource {
            address: ca.to_string(),
            bundle: self.bundle(),
            server_id: CA_ID.parse().unwrap(),
            token_file,
            expected_id: None,
        };
        Client::start(source)
    }
}

/// A tokens file: token, service account in namespace shop, expiry.
pub(crate) fn tokens(entries: &[(&str, &str, &str)]) -> String {
    let mut text = "tokens:\n".to_owned();
    for (token, account, expires) in entries {
        text.push_str(&format!(
            "  - token: {token}\n    identity: {{namespace: shop, serviceAccount: {account}}}\n    expires: {expires}\n"
        ));
    }
    text
}

pub(crate) struct RunningCa {
    pub(crate) address: SocketAddr,
    pub(crate) trigger: DrainTrigger,
    pub(crate) task: JoinHandle<Result<(), CaError>>,
}

impl RunningCa {
    pub(crate) async fn start(config: &CaConfig) -> Self {
        Self::serve(Ca::bind(config).await.unwrap())
    }

    pub(crate) fn serve(ca: Ca) -> Self {
        let (trigger, drain) = drain();
        Self { address: ca.local_addr(), trigger, task: tokio::spawn(ca.serve(drain)) }
    }

    pub(crate) async fn stop(self) {
        self.trigger.close();
        timeout(SOON, self.task).await.unwrap().unwrap().unwrap();
    }
}

pub(crate) struct Client {
    pub(crate) identity: Identity,
    /// Dropping it ends the source.
    _trigger: DrainTrigger,
}

impl Client {
    pub(crate) fn start(source: CaSource) -> Self {
        let (trigger, drain) = drain();
        let (publisher, identity) = identity("weft.local".parse().unwrap());
        tokio::spawn(source.run(publisher, drain));
        Self { identity, _trigger: trigger }
    }

    pub(crate) async fn ready(&self) -> Arc<weft_identity::TlsGeneration> {
        timeout(SOON, self.identity.ready())
            .await
            .unwrap_or_else(|_| panic!("no identity: {:?}", self.identity.status().last_error))
    }

    pub(crate) async fn generation(&self, number: u64) {
        let mut generations = self.identity.subscribe();
        timeout(SOON, generations.wait_for(|current| *current >= number))
            .await
            .unwrap_or_else(|_| panic!("no generation {number}: {:?}", self.identity.status()))
            .unwrap();
    }

    pub(crate) async fn failure(&self, expected: &str) {
        eventually(|| {
            let error = self.identity.status().last_error.map(|(_, error)| error).unwrap_or_default();
            if error.contains(expected) { Ok(()) } else { Err(format!("{error:?} lacks {expected:?}")) }
        })
        .await;
    }
}

/// Waits for a state that is reached by real files and sockets.
pub(crate) async fn eventually(mut check: impl FnMut() -> Result<(), String>) {
    let mut last = String::new();
    let reached = timeout(SOON, async {
        while let Err(reason) = check() {
            last = reason;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(reached.is_ok(), "{last}");
}

/// A plain gRPC client, without any of the client library's manners, and how often it connected.
pub(crate) struct Raw {
    pub(crate) client: IdentityClient<Channel>,
    pub(crate) connects: Arc<AtomicUsize>,
}

/// TLS to the CA, verified as a proxy does.
pub(crate) async fn tls(site: &Site, address: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
    tls_over(site, TcpStream::connect(address).await.unwrap()).await.unwrap()
}

/// A connection from another loopback address: another pod, as far as the CA can tell.
pub(crate) async fn tcp_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    socket.connect(address).await.unwrap()
}

/// The same over a connection that is there.
pub(crate) async fn tls_over(
    site: &Site,
    tcp: TcpStream,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let address = tcp.peer_addr()?;
    let bundle = TrustBundle::from_file(&site.bundle()).unwrap();
    let mut config = ClientConfig::builder_with_provider(crypto_provider().clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerVerifier::only(bundle, CA_ID.parse().unwrap())))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(address.ip().into()), tcp).await
}

pub(crate) async fn raw(site: &Arc<Site>, address: SocketAddr) -> Raw {
    raw_from([127, 0, 0, 1], site, address)
}

/// The same from another address.
pub(crate) fn raw_from(source: [u8; 4], site: &Arc<Site>, address: SocketAddr) -> Raw {
    let connects = Arc::new(AtomicUsize::new(0));
    let (count, site) = (connects.clone(), site.clone());
    let connector = tower::service_fn(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        let site = site.clone();
        async move { tls_over(&site, tcp_from(source, address).await).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://ca").connect_with_connector_lazy(connector);
    Raw { client: IdentityClient::new(channel), connects }
}

/// A request with any `authorization` value, or none.
pub(crate) fn with_credential<T>(message: T, credential: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(credential) = credential {
        request.metadata_mut().insert("authorization", credential.parse().unwrap());
    }
    request
}

/// A CSR, with whatever it asks for.
pub(crate) fn csr(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(&key).unwrap().der().to_vec()
}
