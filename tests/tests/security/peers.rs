//! Peers that are not Weft: TLS clients and servers with whatever certificate a story gives them, who accept everybody.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, HandshakeKind, ServerConfig, SignatureScheme,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_identity::crypto_provider;
use weft_testbed::Pod;

use crate::certs::Credential;

/// Only a safety net: every refusal is a closed connection.
const DEADLINE: Duration = Duration::from_secs(20);

/// Takes every certificate. Signatures are checked all the same, which any stack does.
#[derive(Debug)]
struct Anybody;

type Verified = std::result::Result<HandshakeSignatureValid, rustls::Error>;

fn signed(message: &[u8], certificate: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Verified {
    let algorithms = &crypto_provider().signature_verification_algorithms;
    rustls::crypto::verify_tls13_signature(message, certificate, dss, algorithms)
}

fn schemes() -> Vec<SignatureScheme> {
    crypto_provider().signature_verification_algorithms.supported_schemes()
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Verified {
        signed(m, c, d)
    }

    fn verify_tls13_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Verified {
        signed(m, c, d)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Verified {
        signed(m, c, d)
    }

    fn verify_tls13_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Verified {
        signed(m, c, d)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

/// A client of mesh links: `None` shows no certificate.
pub(crate) fn client(credential: Option<&Credential>, alpn: &[&str]) -> Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(crypto_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match credential {
        Some(own) => builder
            .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
            .context("a client's certificate")?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// A server of mesh links that asks for a certificate and takes any.
pub(crate) fn server(credential: &Credential) -> Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(crypto_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_client_cert_verifier(Arc::new(Anybody))
        .with_single_cert(credential.chain.clone(), credential.key.clone_key())
        .context("a server's certificate")?;
    config.alpn_protocols = vec![b"weft/http".to_vec(), b"weft/tcp".to_vec()];
    Ok(Arc::new(config))
}

/// What came of a client's attempt.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The handshake failed, or the connection closed without a byte of an answer.
    Refused { resumed: bool },
    /// The application answered.
    Answered { status: u16, body: String },
}

impl Outcome {
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// Connects to a pod's port, with TLS.
pub(crate) async fn connect(
    to: SocketAddr,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    secure(TcpStream::connect(to).await?, to, config).await
}

/// [`connect`] of a client that says nothing until `begin`.
pub(crate) async fn connect_late(
    to: SocketAddr,
    config: &Arc<ClientConfig>,
    begin: impl Fn() -> bool,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(to).await?;
    while !begin() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    secure(tcp, to, config).await
}

async fn secure(
    tcp: TcpStream,
    to: SocketAddr,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    TlsConnector::from(Arc::clone(config)).connect(ServerName::IpAddress(to.ip().into()), tcp).await
}

/// One request over a `weft/http` link, with headers.
pub(crate) fn request(
    from: &Pod,
    to: SocketAddr,
    config: &Arc<ClientConfig>,
    headers: &[(&str, &str)],
) -> Result<Outcome> {
    let work = async || {
        let Ok(stream) = connect(to, config).await else { return Ok(Outcome::Refused { resumed: false }) };
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        let refused = Ok(Outcome::Refused { resumed });
        let io = TokioIo::new(stream);
        let Ok((mut sender, connection)) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await
        else {
            return refused;
        };
        let driver = tokio::spawn(connection);
        let mut builder = http::Request::builder().uri("http://orders.shop/evil");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let request = builder.body(Empty::<Bytes>::new()).context("a request")?;
        let Ok(response) = sender.send_request(request).await else { return refused };
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.context("the answer's body")?.to_bytes();
        driver.abort();
        Ok(Outcome::Answered { status, body: String::from_utf8_lossy(&body).into_owned() })
    };
    from.run(async || tokio::time::timeout(DEADLINE, work()).await.context("neither refused nor answered")?)
}

/// Sends bytes over a TLS connection and reads to its end, or to the first bytes of an answer.
pub(crate) fn send_bytes(
    from: &Pod,
    to: SocketAddr,
    config: &Arc<ClientConfig>,
    bytes: &[u8],
) -> Result<Outcome> {
    let work = async || {
        let refused = Outcome::Refused { resumed: false };
        let Ok(mut stream) = connect(to, config).await else { return Ok(refused) };
        if stream.write_all(bytes).await.is_err() || stream.flush().await.is_err() {
            return Ok(refused);
        }
        let mut answer = [0; 256];
        match stream.read(&mut answer).await {
            Ok(0) | Err(_) => Ok(refused),
            Ok(count) => Ok(Outcome::Answered {
                status: 0,
                body: String::from_utf8_lossy(&answer[..count]).into_owned(),
            }),
        }
    };
    from.run(async || tokio::time::timeout(DEADLINE, work()).await.context("neither refused nor answered")?)
}

/// Sends bytes over a link and nothing more, and waits for the other side to end it.
pub(crate) fn hold(from: &Pod, to: SocketAddr, config: &Arc<ClientConfig>, bytes: &[u8]) -> Result<()> {
    let work = async || {
        let mut stream = connect(to, config).await.context("the link")?;
        stream.write_all(bytes).await.context("writing")?;
        stream.flush().await.context("writing")?;
        let _ = stream.read_to_end(&mut Vec::new()).await;
        Ok(())
    };
    from.run(async || tokio::time::timeout(DEADLINE, work()).await.context("the link stays open")?)
}

/// [`send_bytes`] without TLS. Half-closes, so that a server that waits for more does not.
pub(crate) fn send_plain(from: &Pod, to: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let work = async || {
        let mut answer = Vec::new();
        let mut stream = match TcpStream::connect(to).await {
            Ok(stream) => stream,
            // The sidecar took the connection and has ended it before we looked.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(answer),
            Err(error) => return Err(error).context("connecting"),
        };
        if stream.write_all(bytes).await.is_ok() && stream.shutdown().await.is_ok() {
            // A reset is as good as an end.
            let _ = stream.read_to_end(&mut answer).await;
        }
        Ok(answer)
    };
    from.run(async || tokio::time::timeout(DEADLINE, work()).await.context("the connection stays open")?)
}

/// What a [`Rogue`] saw of its clients.
#[derive(Debug, Default)]
struct Seen {
    /// How each finished handshake went.
    handshakes: Vec<Option<HandshakeKind>>,
    /// Bytes after the handshake.
    bytes: Vec<u8>,
    connections: usize,
}

/// A server in the place of a service's sidecar. It speaks HTTP/2 to whoever trusts it.
#[derive(Debug)]
pub(crate) struct Rogue {
    seen: Arc<Mutex<Seen>>,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    early: Arc<Mutex<Vec<IpAddr>>>,
    _running: watch::Sender<()>,
}

impl Rogue {
    pub(crate) fn start(pod: &Pod, port: u16, config: Arc<ServerConfig>) -> Result<Self> {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = pod.run(async || {
            let listener = std::net::TcpListener::bind(address).context("binding the rogue")?;
            listener.set_nonblocking(true).context("rogue")?;
            Ok(listener)
        })?;
        let (running, mut ended) = watch::channel(());
        let seen = Arc::<Mutex<Seen>>::default();
        let config = Arc::new(Mutex::new(config));
        let early = Arc::<Mutex<Vec<IpAddr>>>::default();
        let (shared, current, greeted) = (Arc::clone(&seen), Arc::clone(&config), Arc::clone(&early));
        pod.start(async move || {
            let listener = TcpListener::from_std(listener).context("rogue")?;
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((mut stream, _)) = accepted {
                        if is_early(&stream, &greeted) {
                            stream.write_all(b"220 anybody there?\r\n").await?;
                            lock(&shared).connections += 1;
                            continue;
                        }
                        let config = Arc::clone(&lock(&current));
                        tokio::spawn(rogue(stream, config, Arc::clone(&shared)));
                    },
                    _ = ended.changed() => return Ok(()),
                }
            }
        })?;
        Ok(Self { seen, config, early, _running: running })
    }

    /// The next connection to each of these addresses is greeted in plaintext.
    pub(crate) fn greets_early(&self, addresses: &[IpAddr]) {
        *lock(&self.early) = addresses.to_vec();
    }

    /// Shows another certificate from the next connection on.
    pub(crate) fn show(&self, config: Arc<ServerConfig>) {
        *lock(&self.config) = config;
        *lock(&self.seen) = Seen::default();
    }

    /// How many bytes came after a handshake.
    pub(crate) fn application_bytes(&self) -> usize {
        lock(&self.seen).bytes.len()
    }

    pub(crate) fn connections(&self) -> usize {
        lock(&self.seen).connections
    }

    /// Full or resumed, in order.
    pub(crate) fn handshakes(&self) -> Vec<Option<HandshakeKind>> {
        lock(&self.seen).handshakes.clone()
    }
}

fn is_early(stream: &TcpStream, greeted: &Mutex<Vec<IpAddr>>) -> bool {
    let Ok(to) = stream.local_addr() else { return false };
    let mut early = lock(greeted);
    let found = early.iter().position(|address| *address == to.ip().to_canonical());
    found.map(|index| early.remove(index)).is_some()
}

async fn rogue(stream: TcpStream, config: Arc<ServerConfig>, seen: Arc<Mutex<Seen>>) -> Result<()> {
    lock(&seen).connections += 1;
    let tls = TlsAcceptor::from(config).accept(stream).await?;
    lock(&seen).handshakes.push(tls.get_ref().1.handshake_kind());
    let counted = Inspect { inner: tls, seen };
    let service = service_fn(|_request: http::Request<hyper::body::Incoming>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from_static(b"rogue\n"))))
    });
    let io = TokioIo::new(counted);
    if let Err(error) =
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    {
        bail!("{error}");
    }
    Ok(())
}

/// Notes what is read.
struct Inspect<S> {
    inner: S,
    seen: Arc<Mutex<Seen>>,
}

impl<S: tokio::io::AsyncRead + Unpin> tokio::io::AsyncRead for Inspect<S> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let result = std::pin::Pin::new(&mut self.inner).poll_read(cx, buffer);
        lock(&self.seen).bytes.extend_from_slice(&buffer.filled()[before..]);
        result
    }
}

impl<S: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for Inspect<S> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
