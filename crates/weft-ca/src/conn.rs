//! An accepted connection: who it is from, and how long it may stay without a credential.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// A client sends its token with its first request, at once. Who has shown none after this time is only taking up room.
const PROOF_TIMEOUT: Duration = Duration::from_secs(30);

/// A TLS connection that counts against the limit while it lives.
pub(crate) struct PeerStream {
    tls: TlsStream<TcpStream>,
    info: PeerInfo,
    /// Runs until a call on the connection was authenticated.
    deadline: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

/// What a call knows of its connection.
#[derive(Debug, Clone)]
pub(crate) struct PeerInfo {
    /// The other end, for the audit log.
    pub(crate) address: SocketAddr,
    authenticated: Arc<AtomicBool>,
}

impl PeerInfo {
    /// A call on this connection had a good credential: it may stay.
    pub(crate) fn authenticated(&self) {
        self.authenticated.store(true, Ordering::Relaxed);
    }
}

impl PeerStream {
    pub(crate) fn new(tls: TlsStream<TcpStream>, address: SocketAddr, permit: OwnedSemaphorePermit) -> Self {
        // A socket for both families shows IPv4 peers as IPv6.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let info = PeerInfo { address, authenticated: Arc::default() };
        Self { tls, info, deadline: Some(Box::pin(sleep(PROOF_TIMEOUT))), _permit: permit }
    }

    /// Fails the connection when its time without a credential is over.
    fn check_deadline(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(deadline) = &mut self.deadline else { return Ok(()) };
        if self.info.authenticated.load(Ordering::Relaxed) {
            self.deadline = None;
        } else if deadline.as_mut().poll(cx).is_ready() {
            tracing::debug!(peer = %self.info.address, "closed: no credential within {PROOF_TIMEOUT:?}");
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl Connected for PeerStream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Err(error) = self.check_deadline(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}
