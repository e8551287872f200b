//! Clients of every kind that ask again and again, and count what fails.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_testbed::eventually;

use super::doors::PATIENCE;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    tls: bool,
    http2: bool,
    /// It keeps its connection, and makes another only when it must.
    keeps: bool,
}

const KINDS: [Kind; 6] = [
    Kind { tls: false, http2: false, keeps: true },
    Kind { tls: false, http2: false, keeps: false },
    Kind { tls: true, http2: false, keeps: true },
    Kind { tls: true, http2: false, keeps: false },
    Kind { tls: true, http2: true, keeps: true },
    Kind { tls: true, http2: true, keeps: false },
];

/// All of them, as threads that run until nobody takes their connections or they are told to stop.
pub(crate) struct Crowd {
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    failed: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

/// Where a client goes.
#[derive(Clone)]
struct Way {
    http: SocketAddr,
    https: SocketAddr,
    connector: [TlsConnector; 2],
    pause: Duration,
}

/// How one round ended.
enum Ended {
    /// The server wants no more on this connection.
    Connection,
    /// Nobody listens any more.
    Refused,
}

impl Crowd {
    /// Some of each kind, with a CA to trust.
    pub(crate) fn start(http: SocketAddr, https: SocketAddr, ca: &Path) -> Result<Self> {
        Self::paced(http, https, ca, Duration::from_millis(1))
    }

    /// The same that wait so long between two requests; before a new connection at least 3 ms, so that handshakes leave something of
    /// the machine to others.
    pub(crate) fn paced(http: SocketAddr, https: SocketAddr, ca: &Path, pause: Duration) -> Result<Self> {
        let way = Way { http, https, connector: [connector(ca, b"http/1.1")?, connector(ca, b"h2")?], pause };
        let mut crowd = Self {
            answered: Arc::default(),
            stop: Arc::default(),
            failed: Arc::default(),
            threads: Vec::new(),
        };
        for kind in KINDS.into_iter().cycle().take(2 * KINDS.len()) {
            let (way, answered, stop) = (way.clone(), Arc::clone(&crowd.answered), Arc::clone(&crowd.stop));
            let failed = Arc::clone(&crowd.failed);
            crowd.threads.push(std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let went = match runtime {
                    Ok(runtime) => runtime.block_on(ask(kind, &way, &answered, &stop)),
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = went {
                    failed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(format!("{kind:?}: {error:#}"));
                }
            }));
        }
        Ok(crowd)
    }

    /// Waits until so many more requests were answered.
    pub(crate) fn wait_for(&self, more: usize) -> Result<()> {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("the crowd to be answered", PATIENCE, || {
            let now = self.answered.load(Ordering::Relaxed);
            ensure!(self.failures().is_empty(), "{:?}", self.failures());
            Ok((now >= before + more).then_some(()))
        })
    }

    fn failures(&self) -> Vec<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells them to stop.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until all have ended by themselves, and none has failed.
    pub(crate) fn ended(self) -> Result<usize> {
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a client"))?;
        }
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(failed.is_empty(), "{} failed: {failed:?}", failed.len());
        Ok(self.answered.load(Ordering::Relaxed))
    }
}

/// A client of TLS that trusts a CA and speaks one protocol.
pub(crate) fn connector(ca: &Path, alpn: &[u8]) -> Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&std::fs::read(ca)?)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn ask(kind: Kind, way: &Way, answered: &AtomicUsize, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        match connection(kind, way, answered, stop).await? {
            Ended::Connection => {}
            Ended::Refused => return Ok(()),
        }
        tokio::time::sleep(way.pause.max(Duration::from_millis(3))).await;
    }
    Ok(())
}

/// Something that has to come about in time.
async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work).await.context("no answer in time")?
}

/// One connection to its end.
async fn connection(kind: Kind, way: &Way, answered: &AtomicUsize, stop: &AtomicBool) -> Result<Ended> {
    let stream = match TcpStream::connect(if kind.tls { way.https } else { way.http }).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(Ended::Refused),
        Err(error) => return Err(error).context("connecting"),
    };
    stream.set_nodelay(true)?;
    let [http1, http2] = &way.connector;
    let goes_on = || kind.keeps && !stop.load(Ordering::Relaxed);
    if !kind.tls {
        return requests(stream, way.pause, answered, goes_on).await;
    }
    let name = ServerName::try_from("a.shop.test")?;
    let connector = if kind.http2 { http2 } else { http1 };
    let stream = in_time(async { connector.connect(name, stream).await.context("TLS") }).await?;
    match kind.http2 {
        true => streams(stream, way.pause, answered, goes_on).await,
        false => requests(stream, way.pause, answered, goes_on).await,
    }
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    pause: Duration,
    answered: &AtomicUsize,
    goes_on: impl Fn() -> bool,
) -> Result<Ended> {
    let mut stream = BufReader::new(stream);
    loop {
        let last = !goes_on();
        let closes = in_time(async {
            stream.write_all(b"GET /crowd HTTP/1.1\r\nhost: a.shop.test\r\n\r\n").await.context("sending")?;
            stream.flush().await.context("sending")?;
            answer(&mut stream).await
        });
        let closes = closes.await?;
        answered.fetch_add(1, Ordering::Relaxed);
        if closes || last {
            return Ok(Ended::Connection);
        }
        tokio::time::sleep(pause).await;
    }
}

/// Reads an answer. Whether the connection ends behind it.
async fn answer(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Result<bool> {
    let (mut closes, mut length, mut status) = (false, 0, String::new());
    loop {
        let mut line = String::new();
        let read = stream.read_line(&mut line).await.context("reading the head")?;
        ensure!(read > 0, "closed without an answer");
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(": ") {
            None if line.is_empty() => break,
            None => status = line,
            Some(("connection", "close")) => closes = true,
            Some(("content-length", octets)) => length = octets.parse()?,
            Some(_) => {}
        }
    }
    ensure!(status.starts_with("http/1.1 200"), "{status}");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.context("reading the body")?;
    Ok(closes)
}

async fn streams(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    pause: Duration,
    answered: &AtomicUsize,
    goes_on: impl Fn() -> bool,
) -> Result<Ended> {
    let (mut send, connection) = h2::client::handshake(stream).await.context("HTTP/2")?;
    let asking = async {
        let mut fresh = true;
        loop {
            let last = !goes_on();
            send = match send.ready().await {
                Ok(ready) => ready,
                // It was told before it asked.
                Err(error) if error.is_go_away() && !fresh => return Ok(Ended::Connection),
                Err(error) => return Err(error).context(format!("no stream; the first: {fresh}")),
            };
            let request = http::Request::get("https://a.shop.test/crowd").body(())?;
            let (response, _) = send.send_request(request, true)?;
            let response = tokio::time::timeout(PATIENCE, response).await.context("no answer in time")?;
            let (head, mut body) = match response {
                Ok(response) => response.into_parts(),
                // Its stream comes behind the last that counts: nobody has looked at it, and it is to be sent again elsewhere
                // (RFC 9113 section 6.8). This client's library lets the answer to a PING overtake its requests.
                Err(error) if error.is_go_away() && error.is_remote() && !fresh => {
                    return Ok(Ended::Connection);
                }
                Err(error) => return Err(error).context(format!("the answer; the first: {fresh}")),
            };
            ensure!(head.status == 200, "{}", head.status);
            while let Some(data) = in_time(async { Ok(body.data().await) }).await? {
                let data = data.context("the body")?;
                body.flow_control().release_capacity(data.len())?;
            }
            answered.fetch_add(1, Ordering::Relaxed);
            fresh = false;
            if last {
                return Ok(Ended::Connection);
            }
            tokio::time::sleep(pause).await;
        }
    };
    tokio::pin!(connection);
    tokio::pin!(asking);
    tokio::select! {
        biased;
        asked = &mut asking => asked,
        ended = &mut connection => match ended {
            // The streams hear of it.
            Ok(()) => asking.await,
            Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) => asking.await,
            Err(error) => {
                let io: io::Error = error.into_io().unwrap_or_else(|| io::Error::other("HTTP/2"));
                bail!("the connection: {io}");
            }
        },
    }
}
