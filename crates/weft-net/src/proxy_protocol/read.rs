//! A header from a stream.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::ready;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::{MAX_HEADER, Parsed, ProxyHeader, ProxyProtocolError, Trusted, parse};
use crate::pool::{Buffer, SizeClass};

/// Reads the header that a connection begins with, of either version. Whatever came behind it is in `buf` then, to be put in front
/// of what reads next ([`crate::Prefixed`], [`crate::detect_first`]); `buf` may also hold what was read already. No more
/// than [`MAX_HEADER`] octets are taken from the stream.
///
/// Section 2 asks for a deadline of no less than 3 s, so that one lost segment is no lost connection.
///
/// Cancel-safe: octets are either in `buf` or still in the stream.
///
/// # Errors
/// See [`ProxyProtocolError`]. The connection is to be closed, unread.
pub async fn read<S: AsyncRead + Unpin>(
    _: Trusted,
    stream: &mut S,
    buf: &mut BytesMut,
    deadline: Instant,
) -> Result<ProxyHeader, ProxyProtocolError> {
    match timeout_at(deadline, whole(stream, buf)).await {
        Ok(header) => header,
        Err(_) => Err(ProxyProtocolError::TimedOut { octets: buf.len() }),
    }
}

async fn whole<S: AsyncRead + Unpin>(
    stream: &mut S,
    buf: &mut BytesMut,
) -> Result<ProxyHeader, ProxyProtocolError> {
    loop {
        if let Parsed::Done { header, length } = parse(buf)? {
            buf.advance(length);
            if buf.is_empty() {
                // An empty one may still keep its memory.
                *buf = BytesMut::new();
            }
            return Ok(header);
        }
        // Never nothing: of so many octets there is a verdict.
        let room = MAX_HEADER.saturating_sub(buf.len());
        if read_some(stream, buf, room).await? == 0 {
            return Err(ProxyProtocolError::Closed { octets: buf.len() });
        }
    }
}

/// Reads once, and appends at most `room` octets to `buf`. By a buffer of the thread's pool: see [`crate::read_more`].
async fn read_some<S: AsyncRead + Unpin>(
    stream: &mut S,
    buf: &mut BytesMut,
    room: usize,
) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut buffer = Buffer::take(SizeClass::Small);
        let mut whole = ReadBuf::new(&mut buffer);
        let mut read = whole.take(room);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
        buf.extend_from_slice(read.filled());
        Ok(read.filled().len()).into()
    })
    .await
}
