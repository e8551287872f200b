//! A small HTTP client for stories: one request over a connection of its own, HTTP/1.1 or HTTP/2 by prior knowledge, or
//! over TLS with a CA that the request trusts.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::resolve::Resolver;

/// How long a request of a story may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// How long connecting to one address may take: two repetitions of a lost SYN (after 1 s and 3 s).
const CONNECT_DEADLINE: Duration = Duration::from_secs(4);

/// A request to send with [`crate::Pod::send`].
#[derive(Debug, Clone)]
pub struct Request {
    method: Method,
    url: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    http2: bool,
    roots: RootCertStore,
}

impl Request {
    /// GET.
    pub fn get(url: &str) -> Self {
        Self::new("GET", url)
    }

    /// POST with a body.
    pub fn post(url: &str, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::new("POST", url) }
    }

    /// Any method. One that is not a token is sent as GET.
    pub fn new(method: &str, url: &str) -> Self {
        let method = method.parse().unwrap_or(Method::GET);
        Self {
            method,
            url: url.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            http2: false,
            roots: RootCertStore::empty(),
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Uses another method. One that is not a token is sent as GET.
    pub fn method(mut self, method: &str) -> Self {
        self.method = method.parse().unwrap_or(Method::GET);
        self
    }

    /// Gives it a body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Trusts the CA of this PEM file, where the URL is `https://`.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn trust(mut self, pem: &Path) -> Result<Self> {
        self.roots.add(CertificateDer::from_pem_file(pem).context("reading a CA certificate")?)?;
        Ok(self)
    }

    /// Uses HTTP/2 by prior knowledge (RFC 9113 section 3.3).
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: StatusCode,
    /// The HTTP version of the connection.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The trailers, if there were any.
    pub trailers: HeaderMap,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is something else; the error shows it.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("{}: not JSON: {}", self.status, self.text()))
    }

    /// A header as text, or "" where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

/// A client inside a pod; use it within [`crate::Pod::run`].
#[derive(Debug, Clone)]
pub struct Client {
    names: Names,
}

/// Where addresses come from.
#[derive(Debug, Clone)]
enum Names {
    /// A stub resolver, for threads of this process that are in different pods.
    Stub(Resolver),
    /// The C library, for a process that is in a pod as a whole.
    System,
}

impl Names {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>> {
        match self {
            Self::Stub(resolver) => resolver.resolve(host).await,
            Self::System => {
                let host = host.trim_matches(['[', ']']);
                let found = tokio::net::lookup_host((host, 0)).await;
                Ok(found.with_context(|| format!("resolving {host}"))?.map(|address| address.ip()).collect())
            }
        }
    }
}

/// A connection that takes one request after the other.
pub(crate) struct Connection {
    sender: Sender,
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub(crate) fn new(resolver: Resolver) -> Self {
        Self { names: Names::Stub(resolver) }
    }

    /// A client that resolves as this process does.
    pub fn of_this_process() -> Self {
        Self { names: Names::System }
    }

    /// Connects to the host and port of a URL; the first address that answers.
    ///
    /// # Errors
    /// The name does not resolve, or no address takes the connection.
    pub async fn connect(&self, url: &str) -> Result<TcpStream> {
        let uri: Uri = url.parse().with_context(|| format!("URL {url}"))?;
        let host = uri.host().context("a URL without a host")?;
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let mut last = None;
        for ip in self.names.resolve(host).await? {
            let attempt = timeout(CONNECT_DEADLINE, TcpStream::connect(SocketAddr::new(ip, port)));
            match attempt.await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    stream.set_nodelay(true).context("TCP_NODELAY")?;
                    return Ok(stream);
                }
                Err(error) => last = Some((ip, error)),
            }
        }
        let (ip, error) = last.context("no address")?;
        bail!("connecting to {ip}:{port}: {error}")
    }

    /// Sends a request over a connection of its own.
    ///
    /// # Errors
    /// No complete answer came within 15 s.
    pub async fn send(&self, request: Request) -> Result<Response> {
        let what = format!("{} {}", request.method, request.url);
        let work = async {
            let mut connection = self.open(&request).await?;
            connection.send(&request).await
        };
        timeout(DEADLINE, work)
            .await
            .with_context(|| format!("{what}: no answer in {DEADLINE:?}"))?
            .context(what)
    }

    pub(crate) async fn open(&self, request: &Request) -> Result<Connection> {
        let stream = self.connect(&request.url).await?;
        if !request.url.starts_with("https:") {
            return Connection::over(stream, request.http2).await;
        }
        let uri: Uri = request.url.parse()?;
        let host = ServerName::try_from(uri.host().unwrap_or_default().to_owned())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = versions.with_root_certificates(request.roots.clone()).with_no_client_auth();
        config.alpn_protocols = vec![if request.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let stream = TlsConnector::from(Arc::new(config)).connect(host, stream).await.context("TLS")?;
        Connection::over(stream, request.http2).await
    }
}

impl Connection {
    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, http2: bool) -> Result<Self> {
        let io = TokioIo::new(stream);
        let sender = if http2 {
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
            tokio::spawn(connection);
            Sender::Http1(sender)
        };
        Ok(Self { sender })
    }

    /// Whether it takes another request.
    pub(crate) async fn is_usable(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    pub(crate) async fn send(&mut self, request: &Request) -> Result<Response> {
        let uri: Uri = request.url.parse().with_context(|| format!("URL {}", request.url))?;
        let mut builder = http::Request::builder().method(&request.method);
        builder = match &self.sender {
            Sender::Http1(_) => {
                let authority = uri.authority().context("a URL without a host")?;
                let path = uri.path_and_query().map_or("/", |path| path.as_str());
                builder.uri(path).header("host", authority.as_str())
            }
            Sender::Http2(_) => builder.uri(uri),
        };
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let message = builder.body(Full::new(request.body.clone())).context("building the request")?;
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(message).await?
            }
            Sender::Http2(sender) => sender.send_request(message).await?,
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await.context("reading the body")?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(Response {
            status: head.status,
            version: head.version,
            headers: head.headers,
            body: body.to_bytes(),
            trailers,
        })
    }
}
