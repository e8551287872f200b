//! HTTP that begins where detection has stopped looking.
//!
//! Detection must come to an end: a client that leaves half a line is taken for opaque after a while, because there are
//! protocols whose clients do so, and a first byte that no request begins with ends it at once. What is then carried as
//! bytes goes past everything that is done to requests, such as taking headers out that only the mesh may write. A
//! client that wants just that sends its request in a shape that detection gives up on and that the server, more lenient
//! (RFC 9112 section 3 allows it to be), takes nevertheless. So the connection's beginning stays watched while it passes, by an
//! automaton that keeps none of it and is as lenient as any server is known to be ([`super::line`]).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::PlainTcp;

use super::line::{Beginning, Verdict};

/// A client's connection whose beginning is watched while it is read. It fails, and hands nothing on any more, where that
/// turns out to be what some server takes for a request.
#[derive(Debug)]
pub struct Watched<S> {
    inner: S,
    line: Beginning,
}

impl<S> Watched<S> {
    /// Watches from the first byte that `inner` gives, which must be the first of the connection.
    pub fn new(inner: S) -> Self {
        Self { inner, line: Beginning::NEW }
    }

    /// Nothing to watch: whose bytes they are has been said.
    pub fn unwatched(inner: S) -> Self {
        Self { inner, line: Beginning::NEVER }
    }

    /// Whether HTTP has begun.
    pub fn is_http(&self) -> bool {
        self.line.verdict() == Verdict::Http
    }

    /// The connection itself.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

/// Told to who reads on.
#[derive(Debug, thiserror::Error)]
#[error("a request in a connection that is carried as bytes")]
pub struct LateHttp;

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        if this.line.verdict() == Verdict::Never {
            return read;
        }
        this.line = this.line.after(buf.filled().get(before..).unwrap_or_default());
        if this.line.verdict() == Verdict::Http {
            buf.set_filled(before);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, LateHttp)));
        }
        read
    }
}

write_through!(Watched);

impl<S: PlainTcp> PlainTcp for Watched<S> {
    fn tcp(&self) -> &TcpStream {
        self.inner.tcp()
    }

    /// Not while the kernel would move bytes past the watch.
    fn is_drained(&self) -> bool {
        self.line.verdict() == Verdict::Never && self.inner.is_drained()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_late_request_is_not_handed_on() {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut watched = Watched::new(server);
        let mut got = [0; 64];
        tokio::io::AsyncWriteExt::write_all(&mut client, b"GET x HT").await.unwrap();
        assert_eq!(watched.read(&mut got).await.unwrap(), 8);
        tokio::io::AsyncWriteExt::write_all(&mut client, b"TP/1.1\r\nx: y\r\n").await.unwrap();
        let error = watched.read(&mut got).await.unwrap_err();
        assert!(error.get_ref().is_some_and(|error| error.is::<LateHttp>()), "{error}");
        assert!(watched.is_http());
    }
}
