//! An HTTP/1 application that takes every word of RFC 9112 seriously, and keeps what it was sent.

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

/// What came in, or why it was no good.
type Verdict = std::result::Result<Judged, String>;

/// The application.
pub(crate) struct Judge {
    seen: Arc<Mutex<Vec<Verdict>>>,
    _running: watch::Sender<()>,
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
        let seen = Arc::<Mutex<Vec<Verdict>>>::default();
        let shared = Arc::clone(&seen);
        pod.start(async move || {
            let listener = TcpListener::from_std(listener).context("judge")?;
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        tokio::spawn(serve(stream, Arc::clone(&shared)));
                    },
                    _ = ended.changed() => return Ok(()),
                }
            }
        })?;
        Ok(Self { seen, _running: running })
    }

    /// Everything since the last call.
    pub(crate) fn take(&self) -> Vec<Verdict> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<Verdict>>>) {
    let mut buffer = Vec::new();
    loop {
        let verdict = match request(&mut stream, &mut buffer).await {
            Ok(None) => return,
            Ok(Some(judged)) => Ok(judged),
            Err(error) => Err(format!("{error:#}: {:?}", String::from_utf8_lossy(&buffer))),
        };
        let bad = verdict.is_err();
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(verdict);
        if bad || stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\njudged").await.is_err() {
            return;
        }
    }
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

async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Judged>> {
    let Some(head) = until(stream, buffer, b"\r\n\r\n").await? else {
        // A client that is cut off half-way through a request is broken off here too.
        return Ok(None);
    };
    let head = String::from_utf8(head).context("a head that is not text")?;
    let framing = judge(&head)?;
    let body = match framing {
        Framing::Length(length) => exactly(stream, buffer, length).await,
        Framing::Chunked => {
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
            Some(body)
        }
    };
    let Some(body) = body else { return Ok(None) };
    Ok(Some(Judged { head, body: String::from_utf8_lossy(&body).into_owned() }))
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
