//! Reading for detection.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::ready;

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use super::{Detected, Detection, OpaqueReason, detect};
use crate::pool::{Buffer, SizeClass};

/// Reads once (16 KiB at most) and appends to `buf`; 0 means that the client closed its side.
///
/// The read goes by a buffer of the thread's pool, so that a connection that never speaks costs no memory, and one that
/// speaks costs as much as it said. (Waiting for readiness first would not do: tokio takes a freshly accepted socket for
/// readable until a read has shown otherwise.)
///
/// Cancel-safe: bytes are either in `buf` or still in the socket.
///
/// # Errors
/// What the stream says.
pub async fn read_more<S: AsyncRead + Unpin>(stream: &mut S, buf: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut buffer = Buffer::take(SizeClass::Small);
        let mut read = ReadBuf::new(&mut buffer);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
        buf.extend_from_slice(read.filled());
        Ok(read.filled().len()).into()
    })
    .await
}

/// Reads until there is a verdict. `buf` then holds everything that was read, to be put in front of what reads next
/// ([`crate::Prefixed`]).
///
/// Cancel-safe: it may be dropped at any time, for a timer or for the server's first bytes, and be called again.
///
/// # Errors
/// What the stream says.
pub async fn detect_first<S: AsyncRead + Unpin>(stream: &mut S, buf: &mut BytesMut) -> io::Result<Detected> {
    loop {
        if let Detection::Done(detected) = detect(buf) {
            return Ok(detected);
        }
        if read_more(stream, buf).await? == 0 {
            let reason = if buf.is_empty() { OpaqueReason::Empty } else { OpaqueReason::Closed };
            return Ok(Detected::Opaque(reason));
        }
    }
}
