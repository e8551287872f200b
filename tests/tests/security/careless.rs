//! An HTTP/1 application as there are many: it answers before it reads, keeps its connections, and does what it is told by
//! whatever head it reads next.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use weft_testbed::Pod;

/// It answers by the first line of a head; see [`answer`].
pub(crate) struct Careless {
    seen: Arc<Mutex<Vec<String>>>,
    _running: watch::Sender<()>,
}

impl Careless {
    pub(crate) fn start(pod: &Pod, port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = pod.run(async || {
            let listener = std::net::TcpListener::bind(address).context("binding")?;
            listener.set_nonblocking(true).context("an application")?;
            Ok(listener)
        })?;
        let (running, mut ended) = watch::channel(());
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let shared = Arc::clone(&seen);
        pod.start(async move || {
            let listener = TcpListener::from_std(listener).context("an application")?;
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

    /// The heads that it has read since the last call, of all its connections.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every head since the last call is one of these requests, whole, and of this caller: `caller` is how its
    /// `x-forwarded-client-cert` ends, `None` is a caller in plaintext. In any order; a request that was refused is not there.
    pub(crate) fn saw_only(&self, caller: Option<&str>, requests: &[&str]) -> Result<Vec<String>> {
        let seen = self.take();
        for head in &seen {
            let known = requests.iter().any(|line| head.starts_with(&format!("{line} HTTP/1.")));
            ensure!(known, "a request that nobody sent: {head:?}");
            let told: Vec<_> = values(head, "x-forwarded-client-cert").collect();
            let honest = told.len() == usize::from(caller.is_some())
                && told.iter().all(|told| caller.is_some_and(|caller| told.ends_with(caller)));
            ensure!(honest, "told of {told:?} in {head:?}");
            ensure!(values(head, "host").count() == 1, "hosts in {head:?}");
            ensure!(!head.contains("weft-"), "a mark in {head:?}");
            let takes_over = head.starts_with("CONNECT ") || values(head, "upgrade").count() > 0;
            let framed = values(head, "content-length").chain(values(head, "transfer-encoding")).count();
            ensure!(!takes_over || framed == 0, "an upgrade with a length: {head:?}");
        }
        Ok(seen)
    }
}

fn values<'a>(head: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    head.lines().skip(1).filter_map(move |line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// What it answers, and whether it takes the connection for something else from then on.
fn answer(head: &str) -> (&'static [u8], bool) {
    let line = head.lines().next().unwrap_or_default();
    if line.starts_with("CONNECT tunnel.example:") {
        return (b"HTTP/1.1 200 OK\r\n\r\n", true);
    }
    if line.starts_with("CONNECT chunks.example:") {
        return (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nno p\r\n5\r\nroxy\n\r\n0\r\n\r\n",
            false,
        );
    }
    if line.starts_with("CONNECT ") {
        // As Go's net/http.
        return (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nno proxy\n", false);
    }
    let words = [
        // With whatever an upgrade does not have.
        ("/switch", &b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: made-up/1\r\ncontent-length: 0\r\n\r\n"[..], true),
        // The status that it was asked for, by a library that knows nothing of upgrades.
        ("/status/101", &b"HTTP/1.1 101 Switching Protocols\r\n\r\n"[..], false),
        ("/status/h2c", &b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"[..], false),
    ];
    let found = words.into_iter().find(|(path, ..)| line.contains(path));
    found.map_or((b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n", false), |(_, bytes, over)| {
        (bytes, over)
    })
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<String>>>) -> Result<()> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head: Vec<u8> = buffer.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let chunked = values(&head, "transfer-encoding").count() > 0;
        let (bytes, over) = answer(&head);
        let mut left = values(&head, "content-length").next().and_then(|n| n.parse().ok()).unwrap_or(0_usize);
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(head);
        // At once; what it was sent besides is thrown away when it comes.
        stream.write_all(bytes).await?;
        if over {
            return echo(stream, buffer).await;
        }
        if chunked {
            while last_chunk(&buffer).is_none() {
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
            }
            buffer.drain(..last_chunk(&buffer).unwrap_or(0));
        }
        while left > 0 {
            if buffer.is_empty() && stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            let gone = left.min(buffer.len());
            buffer.drain(..gone);
            left -= gone;
        }
    }
}

/// Where a body in chunks ends, if it is all there.
fn last_chunk(buffer: &[u8]) -> Option<usize> {
    buffer.windows(5).position(|window| window == b"0\r\n\r\n").map(|at| at + 5)
}

async fn echo(mut stream: TcpStream, mut buffer: Vec<u8>) -> Result<()> {
    loop {
        stream.write_all(&buffer).await?;
        buffer.clear();
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(stream.shutdown().await?);
        }
    }
}
