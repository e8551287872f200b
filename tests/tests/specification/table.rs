//! Rows, and how they are held against a gateway.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use weft_testbed::Gateway;

/// Long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a row says: the field, the request, and what becomes of it.
///
/// A request is `[@PORT[=SERVER NAME]] METHOD HOST/TARGET [| name: value]...`, port 8080 unless it is said; a server name makes it one over
/// TLS. What becomes of it is `STATUS [BACKEND] [| what]...`, where `x` in a status is any digit and each `what` one of
///
/// | | |
/// |---|---|
/// | `name: value` | the answer has this header, and no other of the name |
/// | `!name` | the answer has it not |
/// | `>GET /path` | the backend saw this request line |
/// | `>name: value` | the backend saw this header; lines of one name are joined by a comma |
/// | `>!name` | the backend saw it not |
///
/// `{ip}` in them is the address of the gateway. The status `end` is a connection that ends without an answer.
pub(crate) type Row = (&'static str, &'static str, &'static str);

/// The version that the requests of a table are sent in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// A request of a row.
#[derive(Debug)]
pub(crate) struct Asked {
    port: u16,
    server_name: Option<String>,
    method: String,
    host: String,
    target: String,
    headers: Vec<(String, String)>,
}

/// An answer, and the request as its backend tells it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) status: u16,
    headers: Headers,
    backend: String,
    line: String,
    seen: Headers,
}

/// Names in small letters, each with its values.
type Headers = HashMap<String, Vec<String>>;

/// Holds a gateway against a table: everything that differs is told at once.
pub(crate) fn hold(gateway: &Gateway, version: Version, rows: &[Row]) -> Result<()> {
    let mut wrong = Vec::new();
    for (field, ask, expected) in rows {
        let own = |text: &str| text.replace("{ip}", &gateway.ip().to_string());
        let (asked, expected) = (Asked::read(&own(ask))?, own(expected));
        let told = ask_over(gateway, version, &asked)
            .with_context(|| format!("{field}: {ask}\n{}", gateway.process().log()))?;
        let differs = told.differs(&expected);
        if !differs.is_empty() {
            wrong.push(format!(
                "{field} ({version:?}): {ask}\n    wants {expected}\n    {}",
                differs.join("\n    ")
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), gateway.process().log());
    Ok(())
}

fn ask_over(gateway: &Gateway, version: Version, asked: &Asked) -> Result<Told> {
    match version {
        Version::Http1 => asked.over_http1(gateway),
        Version::Http2 => asked.over_http2(gateway),
    }
}

/// One request, for what no row can say.
pub(crate) fn ask(gateway: &Gateway, version: Version, request: &str) -> Result<Told> {
    ask_over(gateway, version, &Asked::read(request)?)
}

impl Asked {
    fn read(text: &str) -> Result<Self> {
        let mut parts = text.split(" | ");
        let line = parts.next().unwrap_or_default();
        let mut words = line.split(' ').peekable();
        let (mut port, mut server_name) = (8080, None);
        if let Some(door) = words.next_if(|word| word.starts_with('@')) {
            let door = door.trim_start_matches('@');
            let (number, name) = door.split_once('=').map_or((door, None), |(port, name)| (port, Some(name)));
            (port, server_name) = (number.parse()?, name.map(str::to_owned));
        }
        let (Some(method), Some(url)) = (words.next(), words.next()) else { bail!("no request: {text}") };
        let at = url.find('/').with_context(|| format!("no path: {text}"))?;
        let (host, target) = url.split_at(at);
        let headers =
            parts.map(|part| part.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())));
        let headers = headers.collect::<Option<_>>().with_context(|| format!("no header: {text}"))?;
        let (method, host, target) = (method.to_owned(), host.to_owned(), target.to_owned());
        Ok(Self { port, server_name, method, host, target, headers })
    }

    fn over_http1(&self, gateway: &Gateway) -> Result<Told> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n",
            self.method, self.target, self.host
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let said = match &self.server_name {
            None => converse(connect(gateway.at(self.port))?, head.as_bytes()),
            Some(name) => {
                let stream = connect(gateway.at(self.port))?;
                let client =
                    ClientConnection::new(trusting(gateway, &[])?, ServerName::try_from(name.clone())?)?;
                converse(StreamOwned::new(client, stream), head.as_bytes())
            }
        };
        Told::read(&said?)
    }

    fn over_http2(&self, gateway: &Gateway) -> Result<Told> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = async {
            let stream = tokio::net::TcpStream::connect(gateway.at(self.port)).await?;
            match &self.server_name {
                None => self.over_streams(stream).await,
                Some(name) => {
                    let config = trusting(gateway, &[b"h2"])?;
                    let name = ServerName::try_from(name.clone())?;
                    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
                    self.over_streams(stream).await
                }
            }
        };
        runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await })?
    }

    async fn over_streams(
        &self,
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Told> {
        let (mut sender, connection) = h2::client::handshake(stream).await?;
        let driven = tokio::spawn(connection);
        let scheme = if self.server_name.is_some() { "https" } else { "http" };
        let mut request = http::Request::builder()
            .method(self.method.as_str())
            .uri(format!("{scheme}://{}{}", self.host, self.target));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let (answer, _) = sender.send_request(request.version(http::Version::HTTP_2).body(())?, true)?;
        let (head, mut body) = answer.await?.into_parts();
        let mut said = Vec::new();
        while let Some(data) = body.data().await {
            let data: Bytes = data?;
            body.flow_control().release_capacity(data.len())?;
            said.extend_from_slice(&data);
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        drop(sender);
        driven.abort();
        let mut told = Told { status: head.status.as_u16(), ..Told::default() };
        for (name, value) in head.headers.iter().chain(&trailers) {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            told.headers.entry(name.as_str().to_owned()).or_default().push(value);
        }
        told.read_body(&String::from_utf8_lossy(&said));
        Ok(told)
    }
}

/// A connection to a port.
pub(crate) fn connect(at: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A client that trusts the CA of the gateway's directory.
pub(crate) fn trusting(gateway: &Gateway, protocols: &[&[u8]]) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(gateway.dir().join("ca.pem"))?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = versions.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Whether this is an answer that says how long it is, to its end. Where bytes are passed on, nobody closes behind it.
fn is_whole(said: &[u8]) -> bool {
    let said = String::from_utf8_lossy(said);
    let Some((head, body)) = said.split_once("\r\n\r\n") else { return false };
    let length = headers(head.lines()).remove("content-length").and_then(|mut lengths| lengths.pop());
    length.and_then(|length| length.parse().ok()).is_some_and(|length: usize| body.len() >= length)
}

/// Says something and reads an answer to its end, or that of the connection; a reset is one.
pub(crate) fn converse(mut stream: impl Read + Write, said: &[u8]) -> Result<String> {
    let (mut came, mut buffer) = (Vec::new(), [0; 4096]);
    // It may be over before all is said.
    let _ = stream.write_all(said).and_then(|()| stream.flush());
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                came.extend_from_slice(buffer.get(..read).unwrap_or_default());
                if is_whole(&came) {
                    break;
                }
            }
            // TLS that is cut off, or refused.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset
                        | ErrorKind::UnexpectedEof
                        | ErrorKind::InvalidData
                        | ErrorKind::BrokenPipe
                ) =>
            {
                break;
            }
            Err(error) => return Err(error).context("waiting for the end"),
        }
    }
    Ok(String::from_utf8_lossy(&came).into_owned())
}

fn headers<'t>(lines: impl Iterator<Item = &'t str>) -> Headers {
    let mut all = Headers::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        all.entry(name.to_ascii_lowercase()).or_default().push(value.trim().to_owned());
    }
    all
}

impl Told {
    fn read(said: &str) -> Result<Self> {
        if said.is_empty() {
            return Ok(Self::default());
        }
        let (head, body) =
            said.split_once("\r\n\r\n").with_context(|| format!("half an answer: {said:?}"))?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
        let mut told = Self { status, headers: headers(lines), ..Self::default() };
        told.read_body(body);
        Ok(told)
    }

    /// What a backend of the scene says: its name, then the request as it came.
    fn read_body(&mut self, body: &str) {
        let mut lines = body.lines();
        self.backend = lines.next().unwrap_or_default().to_owned();
        self.line = lines.next().unwrap_or_default().to_owned();
        self.seen = headers(lines.take_while(|line| !line.is_empty()));
    }

    /// Who answered, and with what: `200 one`.
    pub(crate) fn who(&self) -> String {
        if self.status == 200 { format!("200 {}", self.backend) } else { self.status.to_string() }
    }

    fn differs(&self, expected: &str) -> Vec<String> {
        let mut parts = expected.split(" | ");
        let mut words = parts.next().unwrap_or_default().split(' ');
        let mut wrong = Vec::new();
        let status = words.next().unwrap_or_default();
        let got = if self.status == 0 { "end".to_owned() } else { self.status.to_string() };
        let fits = status.len() == got.len()
            && status.chars().zip(got.chars()).all(|(wanted, got)| wanted == 'x' || wanted == got);
        if !fits || words.next().is_some_and(|backend| backend != self.backend) {
            wrong.push(format!("got {got} {} {:?}", self.backend, self.headers.get("weft-error")));
        }
        wrong.extend(parts.filter_map(|part| self.lacks(part)));
        wrong
    }

    fn lacks(&self, wanted: &str) -> Option<String> {
        let (of, wanted, whose) = match wanted.strip_prefix('>') {
            Some(wanted) => (&self.seen, wanted, "the backend saw"),
            None => (&self.headers, wanted, "the answer has"),
        };
        if let Some(name) = wanted.strip_prefix('!') {
            return of.get(name).map(|got| format!("{whose} {name}: {got:?}"));
        }
        let Some((name, value)) = wanted.split_once(": ") else {
            let line = self.line.strip_suffix(" HTTP/1.1").unwrap_or(&self.line);
            return (line != wanted).then(|| format!("{whose} {:?}, not {wanted}", self.line));
        };
        let got = of.get(name).map(|values| values.join(","));
        (got.as_deref() != Some(value)).then(|| format!("{whose} {name}: {got:?}, not {value}"))
    }
}
