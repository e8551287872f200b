//! An answer to CONNECT that hyper takes for a tunnel, and that is none ([`crate::judge::is_tunnel`]).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Request};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Body;

/// The connection behind the answer's head, with a head in front that says how long the body is and no word of CONNECT:
/// hyper reads the body as that of any answer. What hyper asks is not sent.
struct Rest {
    head: Bytes,
    io: TokioIo<Upgraded>,
    asked: bool,
    waits: Option<Waker>,
}

/// The body of a declined CONNECT. Its connection ends with it.
///
/// # Errors
/// The framing is no HTTP.
pub async fn declined(io: Upgraded, headers: &HeaderMap) -> Result<Body, hyper::Error> {
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING] {
        for value in headers.get_all(&name) {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
    }
    head.extend_from_slice(b"\r\n");
    let rest = Rest { head: head.into(), io: TokioIo::new(io), asked: false, waits: None };
    let (mut send, driver) = http1::handshake(TokioIo::new(rest)).await?;
    tokio::task::spawn_local(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "the answer to a CONNECT broke off");
        }
    });
    let answer = send.send_request(Request::new(Body::Empty)).await?;
    Ok(Body::from_incoming(answer.into_body()))
}

impl AsyncRead for Rest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
            // An answer that nobody asked for yet would be a fault.
            self.waits = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.head.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let taken = self.head.len().min(buf.remaining());
        buf.put_slice(&self.head[..taken]);
        self.head.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rest {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        if let Some(waker) = self.waits.take() {
            waker.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
