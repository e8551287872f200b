//! The end of a client's HTTP/2 connection.
//!
//! A socket that is closed while its peer still sends answers with a reset, which makes the peer's system throw away what it has
//! not read yet. That would be the GOAWAY: a client that does not get to see which of its requests count must take them all for lost
//! (RFC 9113 section 6.8), and so would be one that sent a PONG or a request in the wrong moment.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long a client that was told of the end may take to close its side.
const LONGEST: Duration = Duration::from_secs(1);
/// Reads in one turn, before others of the worker have theirs.
const READS: usize = 16;

/// Closes the sending half, and reads what the client still sends.
#[derive(Debug, Default)]
pub(crate) struct Parting {
    told: bool,
    limit: Option<Pin<Box<Sleep>>>,
}

impl Parting {
    /// Ready when the client has closed its side or has had its time.
    pub(crate) fn poll<S>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !self.told {
            ready!(Pin::new(&mut *io).poll_shutdown(cx))?;
            self.told = true;
        }
        let limit = self.limit.get_or_insert_with(|| Box::pin(tokio::time::sleep(LONGEST)));
        if limit.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut buffer = [0; 2048];
        for _ in 0..READS {
            let mut read = ReadBuf::new(&mut buffer);
            match Pin::new(&mut *io).poll_read(cx, &mut read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
