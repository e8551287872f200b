//! Reading for detection.

use std::io;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{Detected, Detection, OpaqueReason, detect};

/// What is reserved when the first bytes arrive: most requests with their headers, and a hello with a post-quantum key
/// share, fit.
const FIRST_READ: usize = 4096;

/// Reads once and appends to `buf`; 0 means that the client closed its side. Memory is reserved only when the socket has
/// something, so a connection that never speaks costs none.
///
/// Cancel-safe: bytes are either in `buf` or still in the socket.
///
/// # Errors
/// What the socket says.
pub async fn read_more(stream: &mut TcpStream, buf: &mut BytesMut, at_least: usize) -> io::Result<usize> {
    stream.readable().await?;
    buf.reserve(at_least.saturating_sub(buf.len()).max(FIRST_READ));
    // Not `try_read_buf`: only the polled read takes a short read as the sign that the socket is empty, and so spares
    // whoever reads next one system call.
    stream.read_buf(buf).await
}

/// Reads until there is a verdict. `buf` then holds everything that was read, to be put in front of what reads next
/// ([`crate::Prefixed`]).
///
/// Cancel-safe: it may be dropped at any time, for a timer or for the server's first bytes, and be called again.
///
/// # Errors
/// What the socket says.
pub async fn detect_first(stream: &mut TcpStream, buf: &mut BytesMut) -> io::Result<Detected> {
    loop {
        let at_least = match detect(buf) {
            Detection::Done(detected) => return Ok(detected),
            Detection::NeedMore { at_least } => at_least,
        };
        if read_more(stream, buf, at_least).await? == 0 {
            let reason = if buf.is_empty() { OpaqueReason::Empty } else { OpaqueReason::Closed };
            return Ok(Detected::Opaque(reason));
        }
    }
}
