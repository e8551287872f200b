//! HTTP/1, on both sides: towards clients and towards applications.
//!
//! A server or client library hides what a proxy has to decide: whether an early answer is passed on while the request
//! still comes, when a connection may be used again, which interim answers pass, which odd bytes. So the framing is our
//! own, on the `httparse` crate for the syntax of heads.
//!
//! | module | holds |
//! |---|---|
//! | [`table`] | where an incoming message ends: the one table of RFC 9112 section 6.3 |
//! | [`parse`] | bytes to heads; hop-by-hop fields and the mesh's own names never get into the map |
//! | [`chunked`], [`decode`] | bytes to the data and trailers of a body |
//! | [`heads`] | the only functions that write heads; framing comes from the message that is sent |
//! | [`output`] | what is to be written: heads, data, chunk lines, in as few system calls as possible |
//! | [`feed`] | a body on its way into that queue |
//! | [`input`] | what was read; a connection that waits holds no buffer |
//! | [`conn`] | a socket with both, and the incoming body that others read from it |
//! | [`server`], [`linger`] | serves a client's connection |
//! | [`exchange`], [`pool`] | sends requests to an application; a connection is used again by proof |
//! | [`login`] | logins that belong to a connection (NTLM): whose connection to the application is whose |
//! | [`testing`] | readers and writers from bytes to bytes, for fuzz targets |
//! | [`names`], [`target`] | what `http`'s types cannot hold: the case of names, raw targets, reason phrases |
//!
//! What comes in ([`table::Framing`]) and what goes out ([`heads::Outgoing`]) are different types, and no function makes
//! one from the other: whoever writes a head has to say what body it has.

mod chunked;
mod conn;
mod decode;
mod exchange;
mod feed;
pub(crate) mod heads;
mod input;
mod linger;
mod login;
mod names;
mod output;
mod parse;
mod pool;
mod server;
pub(crate) mod table;
mod target;
pub mod testing;

pub use conn::{IncomingBody, Rest};
pub use names::{NameCase, Reason};
pub use pool::{Connected, Http1Error, Http1Pool, Opened, ResetOnClose, Sending, Unanswered};
pub use server::{Ended, serve_http1};
pub use target::RawTarget;

pub(crate) use login::Login;
pub(crate) use parse::Upgrade;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What ended a connection or a message before its time.
#[derive(Debug, thiserror::Error)]
pub enum Http1Fault {
    /// The socket failed.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The peer closed in the middle of a message.
    #[error("the peer closed in the middle of a message")]
    Incomplete,
    /// The peer closed before the first byte of an answer.
    #[error("the peer closed without an answer")]
    NoAnswer,
    /// What came is no HTTP/1.
    #[error("malformed HTTP/1: {0}")]
    Malformed(&'static str),
    /// The peer sent nothing, or took nothing, for too long.
    #[error("the peer made no progress for too long")]
    Stalled,
    /// The body that was to be sent ended before or after its length.
    #[error("the body does not have its length")]
    WrongLength,
}

/// Bytes both ways.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// A socket, of whatever kind.
pub(crate) trait Socket: Io {
    /// Has it reset when it is closed, so that the peer does not take what it got for all there is.
    fn reset_on_close(&self);
}

/// One of which somebody else knows how it is reset.
struct Resettable<S> {
    io: S,
    reset_on_close: fn(&S),
}

impl<S: Io> Socket for Resettable<S> {
    fn reset_on_close(&self) {
        (self.reset_on_close)(&self.io);
    }
}

impl<S: Io> AsyncRead for Resettable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: Io> AsyncWrite for Resettable<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
