//! An HTTP/1 application that takes every word of RFC 9112 seriously, and keeps what it was sent. How it treats the requests
//! themselves is another matter: see [`Manner`].

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use weft_testbed::Pod;

/// One request, as the bytes say.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    pub(crate) head: String,
    pub(crate) body: String,
}

/// How the application deals with a request. None of it is wrong, and whoever sends it requests has to bear each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Reads all of it, then answers; the connection stays.
    Late,
    /// Answers at the head, reads the rest and throws it away; the connection stays.
    EarlyAndDiscards,
    /// Answers at the head, and ends the connection.
    EarlyAndCloses,
    /// Reads all of it and ends the connection without an answer.
    Never,
}

impl Manner {
    pub(crate) const ALL: [Self; 4] = [Self::Late, Self::EarlyAndDiscards, Self::EarlyAndCloses, Self::Never];

    fn is_early(self) -> bool {
        matches!(self, Self::EarlyAndDiscards | Self::EarlyAndCloses)
    }
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\njudged";

const LAST_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 6\r\n\r\njudged";

/// What came in, or why it was no good.
type Verdict = std::result::Result<Judged, String>;

/// The application.
pub(crate) struct Judge {
    shared: Arc<Shared>,
    _running: watch::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    seen: Mutex<Vec<Verdict>>,
    manner: Mutex<Manner>,
}

impl Shared {
    fn push(&self, verdict: Verdict) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(verdict);
    }

    fn manner(&self) -> Manner {
        *self.manner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Judge {
    pub(crate) fn start(pod: &Pod, port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = pod.run(async || {
            let listener = std::net::TcpListener::bind(address).context("binding")?;
            listener.set_nonblocking(true).context("judge")?;
            Ok(listener)
        })?;
        let (running, mut ended) = watch::channel(());
        let shared = Arc::new(Shared { seen: Mutex::default(), manner: Mutex::new(Manner::Late) });
        let served = Arc::clone(&shared);
        pod.start(async move || {
            let listener = TcpListener::from_std(listener).context("judge")?;
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        tokio::spawn(serve(stream, Arc::clone(&served)));
                    },
                    _ = ended.changed() => return Ok(()),
                }
            }
        })?;
        Ok(Self { shared, _running: running })
    }

    /// Everything since the last call.
    pub(crate) fn take(&self) -> Vec<Verdict> {
        std::mem::take(&mut self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From the next request on it behaves like this.
    pub(crate) fn behave(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    loop {
        match next(&mut stream, &mut buffer, &shared).await {
            Ok(Some(Manner::Late)) if stream.write_all(ANSWER).await.is_ok() => {}
            Ok(Some(Manner::EarlyAndDiscards)) => {}
            Ok(_) => return,
            Err(error) => {
                return shared.push(Err(format!("{error:#}: {:?}", String::from_utf8_lossy(&buffer))));
            }
        }
    }
}

/// Reads the next request, and answers it where that comes before its end.
async fn next(stream: &mut TcpStream, buffer: &mut Vec<u8>, shared: &Shared) -> Result<Option<Manner>> {
    let Some(head) = until(stream, buffer, b"\r\n\r\n").await? else {
        // A client that is cut off half-way through a request is broken off here too.
        return Ok(None);
    };
    let head = String::from_utf8(head).context("a head that is not text")?;
    let framing = judge(&head)?;
    let manner = shared.manner();
    if manner.is_early() {
        // It counts from its answer on, whether the rest of it comes or not.
        shared.push(Ok(Judged { head: head.clone(), body: String::new() }));
        let answer = if manner == Manner::EarlyAndCloses { LAST_ANSWER } else { ANSWER };
        if stream.write_all(answer).await.is_err() || manner == Manner::EarlyAndCloses {
            return Ok(None);
        }
    }
    let body = match framing {
        Framing::Length(length) => exactly(stream, buffer, length).await,
        Framing::Chunked => chunks(stream, buffer).await?,
    };
    let Some(body) = body else { return Ok(None) };
    if !manner.is_early() {
        shared.push(Ok(Judged { head, body: String::from_utf8_lossy(&body).into_owned() }));
    }
    Ok(Some(manner))
}

async fn chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let Some(line) = until(stream, buffer, b"\r\n").await? else { return Ok(None) };
        let line = String::from_utf8(line).context("a chunk's size")?;
        let size = usize::from_str_radix(line.trim_end(), 16).context("a chunk's size")?;
        if size == 0 {
            break;
        }
        let Some(chunk) = exactly(stream, buffer, size + 2).await else { return Ok(None) };
        ensure!(chunk.ends_with(b"\r\n"), "a chunk without an end");
        body.extend_from_slice(&chunk[..size]);
    }
    while until(stream, buffer, b"\r\n").await?.is_some_and(|line| line != b"\r\n") {}
    Ok(Some(body))
}

/// Up to and with `end`.
async fn until(stream: &mut TcpStream, buffer: &mut Vec<u8>, end: &[u8]) -> Result<Option<Vec<u8>>> {
    loop {
        if let Some(at) = buffer.windows(end.len()).position(|window| window == end) {
            return Ok(Some(buffer.drain(..at + end.len()).collect()));
        }
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return Ok(None);
        }
    }
}

async fn exactly(stream: &mut TcpStream, buffer: &mut Vec<u8>, count: usize) -> Option<Vec<u8>> {
    while buffer.len() < count {
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    Some(buffer.drain(..count).collect())
}

enum Framing {
    Length(usize),
    Chunked,
}

/// RFC 9112 sections 2.2, 3, 5 and 6, as strictly as they can be read.
fn judge(head: &str) -> Result<Framing> {
    ensure!(!head.replace("\r\n", "").contains(['\r', '\n', '\0']), "a bare CR, LF or NUL");
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let line = lines.next().unwrap_or_default();
    ensure!(line.split(' ').count() == 3 && line.contains(" HTTP/1."), "the request line {line:?}");
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        let (name, value) = line.split_once(':').with_context(|| format!("no colon in {line:?}"))?;
        let token = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        ensure!(token && !name.is_empty(), "the header name {name:?}");
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value.trim().to_owned()),
            "transfer-encoding" => codings.push(value.trim().to_ascii_lowercase()),
            "host" => hosts += 1,
            _ => {}
        }
    }
    ensure!(hosts == 1 || line.ends_with("HTTP/1.0"), "{hosts} hosts");
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(Framing::Length(length.parse().context("a length")?))
        }
        ([], [coding]) if coding == "chunked" => Ok(Framing::Chunked),
        _ => bail!("lengths {lengths:?} and codings {codings:?}"),
    }
}
