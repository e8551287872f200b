//! An application that keeps every byte it gets, for stories about what must never reach it.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::pod::Pod;

/// What ends an HTTP/1 request head.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Its answer to each of them.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nrecorded\n";

#[derive(Debug, Default)]
struct Seen {
    connections: usize,
    bytes: Vec<u8>,
}

/// The application. It answers each HTTP/1 request head with 200, and keeps silent on everything else. It ends when it
/// is dropped.
#[derive(Debug)]
pub struct Recorder {
    seen: Arc<Mutex<Seen>>,
    _running: watch::Sender<()>,
}

impl Recorder {
    /// Starts it on a port of the pod, on all addresses.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(pod: &Pod, port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        // Bound inside the pod's network, where it stays; served on a thread of its own.
        let listener = pod.run(async || {
            let listener = std::net::TcpListener::bind(address).context("binding the recorder")?;
            listener.set_nonblocking(true).context("recorder")?;
            Ok(listener)
        })?;
        let (running, ended) = watch::channel(());
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        pod.start(async move || serve(listener, shared, ended).await)?;
        Ok(Self { seen, _running: running })
    }

    /// How many connections it has taken.
    pub fn connections(&self) -> usize {
        lock(&self.seen).connections
    }

    /// All bytes of all connections, in the order in which they came.
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.seen).bytes.clone()
    }

    /// The same as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.seen).bytes).into_owned()
    }

    /// Forgets what it has seen.
    pub fn clear(&self) {
        *lock(&self.seen) = Seen::default();
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    listener: std::net::TcpListener,
    seen: Arc<Mutex<Seen>>,
    mut ended: watch::Receiver<()>,
) -> Result<()> {
    let listener = TcpListener::from_std(listener).context("recorder")?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Only ever an error: the sender is gone.
            _ = ended.changed() => return Ok(()),
        };
        if let Ok((stream, _)) = accepted {
            lock(&seen).connections += 1;
            tokio::spawn(record(stream, Arc::clone(&seen)));
        }
    }
}

async fn record(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let mut head = Vec::new();
    while let Ok(count) = stream.read_buf(&mut head).await {
        if count == 0 {
            return;
        }
        let new = head.len() - count;
        lock(&seen).bytes.extend_from_slice(&head[new..]);
        while let Some(at) = head.windows(HEAD_END.len()).position(|window| window == HEAD_END) {
            head.drain(..at + HEAD_END.len());
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}
