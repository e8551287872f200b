//! HTTP that begins where detection has stopped looking.
//!
//! Detection must come to an end: a client that leaves half a line is taken for opaque after a while, because there are
//! protocols whose clients do so, and a first byte that no request begins with ends it at once. What is then carried as
//! bytes goes past everything that is done to requests, such as taking headers out that only the mesh may write. A
//! client that wants just that sends its request in a shape that detection gives up on and that the server, more lenient
//! (RFC 9112 section 3 allows it to be), takes nevertheless. So the first line stays watched while it passes, by an
//! automaton that keeps none of it and is as lenient as a server may be.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::PlainTcp;

use super::http::is_tchar;

/// What a version begins with, after white space.
const VERSION: &[u8] = b"HTTP/";

/// How far the first line has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Nothing but white space and line ends so far.
    Leading,
    /// In the first word.
    Method,
    /// Behind the first word. So many bytes of [`VERSION`] have followed white space; `None`: this word is another one.
    Rest(Option<usize>),
    /// It is a request line.
    Http,
    /// It is none.
    Other,
}

impl Line {
    /// Where the line is after these bytes.
    fn after(mut self, bytes: &[u8]) -> Self {
        for byte in bytes {
            if matches!(self, Self::Http | Self::Other) {
                break;
            }
            self = self.step(*byte);
        }
        self
    }

    fn step(self, byte: u8) -> Self {
        // CR, too: a lenient server may take one that no LF follows for white space.
        let space = matches!(byte, b' ' | b'\t' | b'\x0b' | b'\x0c' | b'\r');
        match self {
            Self::Leading if space || byte == b'\n' => Self::Leading,
            Self::Leading if is_tchar(byte) => Self::Method,
            Self::Leading => Self::Other,
            Self::Method | Self::Rest(_) if byte == b'\n' => Self::Other,
            Self::Method | Self::Rest(_) if space => Self::Rest(Some(0)),
            Self::Method if is_tchar(byte) => Self::Method,
            Self::Method => Self::Other,
            Self::Rest(Some(matched)) if matched == VERSION.len() && byte.is_ascii_digit() => Self::Http,
            Self::Rest(Some(matched)) if VERSION.get(matched) == Some(&byte) => Self::Rest(Some(matched + 1)),
            Self::Rest(_) => Self::Rest(None),
            Self::Http | Self::Other => self,
        }
    }
}

/// A client's connection whose first line is watched while it is read. It fails, and hands nothing on any more, where that
/// turns out to be a request line of HTTP/1 or the preface of HTTP/2.
#[derive(Debug)]
pub struct Watched<S> {
    inner: S,
    line: Line,
}

impl<S> Watched<S> {
    /// Watches from the first byte that `inner` gives, which must be the first of the connection.
    pub fn new(inner: S) -> Self {
        Self { inner, line: Line::Leading }
    }

    /// Nothing to watch: whose bytes they are has been said.
    pub fn unwatched(inner: S) -> Self {
        Self { inner, line: Line::Other }
    }

    /// Whether HTTP has begun.
    pub fn is_http(&self) -> bool {
        self.line == Line::Http
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
        if this.line == Line::Other {
            return read;
        }
        this.line = this.line.after(buf.filled().get(before..).unwrap_or_default());
        if this.line == Line::Http {
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
        self.line == Line::Other && self.inner.is_drained()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::detect::{Detected, Detection, detect};

    fn line(bytes: &[u8]) -> Line {
        Line::Leading.after(bytes)
    }

    #[test]
    fn requests_in_every_shape_that_a_server_may_take() {
        let long_method = format!("{} / HTTP/1.1\r\n", "A".repeat(9000));
        let long_target = format!("GET /{} HTTP/1.1\r\n", "a".repeat(9000));
        for request in [
            "GET / HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n",
            "  GET / HTTP/1.1\r\n",
            "GET\t/\tHTTP/1.1\r\n",
            "GET\r/\rHTTP/1.1\r\n",
            "GET / HTTP/HTTP/ HTTP/1.0",
            "GET HTTP/1.1\n",
            &long_method,
            &long_target,
        ] {
            assert_eq!(line(request.as_bytes()), Line::Http, "{request:.40?}");
        }
    }

    #[test]
    fn other_protocols_pass() {
        for bytes in [
            b"*1\r\n$4\r\nPING\r\n".as_slice(),
            b"PING\r\nGET / HTTP/1.1\r\n",
            b"GET key\r\n",
            b"{\"method\": \"x\"} HTTP/1.1",
            b"\x16\x03\x01\x02\0\x01",
            b"\r\n\r\n\0\r\nQUIT\n",
            b"OPTIONS rtsp://example.com RTSP/1.0\r\n",
        ] {
            assert_eq!(line(bytes), Line::Other, "{:?}", String::from_utf8_lossy(bytes));
        }
        assert!(matches!(line(b"ruok"), Line::Method), "and half a line may still become a request");
        assert!(matches!(line(b"JDWP-Handshake"), Line::Method));
    }

    #[tokio::test]
    async fn a_late_request_is_not_handed_on() {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut watched = Watched::new(server);
        let mut got = [0; 64];
        tokio::io::AsyncWriteExt::write_all(&mut client, b"GET / HT").await.unwrap();
        assert_eq!(watched.read(&mut got).await.unwrap(), 8);
        tokio::io::AsyncWriteExt::write_all(&mut client, b"TP/1.1\r\nx: y\r\n").await.unwrap();
        let error = watched.read(&mut got).await.unwrap_err();
        assert!(error.get_ref().is_some_and(|error| error.is::<LateHttp>()), "{error}");
        assert!(watched.is_http());
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes in "[ \t\r\nGEHTP/1.0A\u{7f}]{0,40}", at in 0usize..40) {
            let bytes = bytes.as_bytes();
            let (first, second) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(line(first).after(second), line(bytes));
        }

        #[test]
        fn whatever_detection_calls_http_is_http_here(
            bytes in "(\r\n){0,3}[A-Z!]{0,4}[ \t]?[/*a é]{0,4}[ ]?(HTTP/[012][.]?[019x]?)?(\r?\n)?",
        ) {
            if let Detection::Done(Detected::Http1 | Detected::Http2) = detect(bytes.as_bytes()) {
                prop_assert_eq!(line(bytes.as_bytes()), Line::Http);
            }
        }
    }
}
