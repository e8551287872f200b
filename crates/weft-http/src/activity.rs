//! Tells an idle connection and a slow request head apart, without reading a clock per request.
//!
//! hyper has a header-read timeout, but it allocates and registers a timer for every request, and it also ends idle
//! connections. Here the socket counts its reads, the service counts its requests, and a timer that fires rarely compares
//! what it saw last time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::Http1Limits;
use crate::ticker::Ticker;

/// What happened on one connection. It is shared within one worker; hyper asks that the socket be `Send`, hence atomics.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    reads: AtomicU64,
    /// `reads` when the last request head was complete.
    reads_at_request: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    /// The last write did not go through: something is still to be written.
    write_blocked: AtomicBool,
    /// The bytes may have become another protocol's, whose sides close one by one.
    taken_over: AtomicBool,
}

impl Activity {
    /// A request head is complete; the guard ends with its answer.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        // Single writer: plain load and store, no locked instruction.
        self.begun.store(self.begun.load(Relaxed) + 1, Relaxed);
        self.reads_at_request.store(self.reads.load(Relaxed), Relaxed);
        InFlight(Arc::clone(self))
    }

    /// A request for an upgrade, or CONNECT, has come.
    pub(crate) fn take_over(&self) {
        self.taken_over.store(true, Relaxed);
    }

    fn read(&self) {
        self.reads.store(self.reads.load(Relaxed) + 1, Relaxed);
    }

    fn in_flight(&self) -> bool {
        self.begun.load(Relaxed) != self.ended.load(Relaxed)
    }
}

/// One request in flight.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.ended.store(self.0.ended.load(Relaxed) + 1, Relaxed);
        self.0.reads_at_request.store(self.0.reads.load(Relaxed), Relaxed);
    }
}

/// What a quiet connection has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quiet {
    /// Between two requests for a while, with nothing read and nothing to write: its buffers can be given back.
    Parked,
    /// A request head has begun and not ended in time.
    Head,
    /// No request for long.
    Idle,
}

/// How long a connection is between two requests before its buffers are given back. Long enough that a connection with
/// traffic never notices; parking and waking cost about a microsecond.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// Compares the activity of one tick with the last.
#[derive(Debug)]
pub(crate) struct Watch {
    activity: Arc<Activity>,
    ticker: Ticker,
    head_ticks: u32,
    idle_ticks: u32,
    begun: u64,
    quiet: u32,
    partial: u32,
}

impl Watch {
    pub(crate) fn new(activity: Arc<Activity>, limits: &Http1Limits) -> Self {
        let tick = limits.header_read.min(limits.idle).min(PARK_AFTER).max(Duration::from_millis(10));
        let ticks = |limit: Duration| {
            u32::try_from(limit.as_millis().div_ceil(tick.as_millis())).unwrap_or(u32::MAX).max(1)
        };
        Self {
            activity,
            ticker: Ticker::new(tick),
            head_ticks: ticks(limits.header_read),
            idle_ticks: ticks(limits.idle),
            begun: 0,
            quiet: 0,
            partial: 0,
        }
    }

    /// Ready when there is something to do about the connection; `parked` says that its buffers are gone already.
    pub(crate) fn poll_quiet(&mut self, parked: bool, cx: &mut Context<'_>) -> Poll<Quiet> {
        loop {
            ready!(self.ticker.poll_tick(cx));
            match self.look() {
                Some(Quiet::Parked) if parked => {}
                Some(quiet) => return Poll::Ready(quiet),
                None => {}
            }
        }
    }

    fn look(&mut self) -> Option<Quiet> {
        let activity = &self.activity;
        let begun = activity.begun.load(Relaxed);
        if activity.in_flight() || begun != self.begun {
            (self.begun, self.quiet, self.partial) = (begun, 0, 0);
            return None;
        }
        self.quiet += 1;
        if activity.reads.load(Relaxed) > activity.reads_at_request.load(Relaxed) {
            // The tick in which the head began does not count, so that nobody gets less than the limit.
            self.partial += 1;
            return (self.partial > self.head_ticks).then_some(Quiet::Head);
        }
        self.partial = 0;
        if self.quiet >= self.idle_ticks {
            return Some(Quiet::Idle);
        }
        (!activity.write_blocked.load(Relaxed)).then_some(Quiet::Parked)
    }
}

/// A socket that counts its reads.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    inner: S,
    activity: Arc<Activity>,
    /// What was read before: the byte that woke a parked connection, or what a parser gave back.
    ahead: Bytes,
}

impl<S> Counted<S> {
    pub(crate) fn new(inner: S, activity: Arc<Activity>) -> Self {
        Self { inner, activity, ahead: Bytes::new() }
    }

    /// Puts bytes in front of what is read next.
    pub(crate) fn unread(mut self, bytes: Bytes) -> Self {
        // An empty `Bytes` may still keep the buffer alive that it was cut from.
        self.ahead = if bytes.is_empty() { Bytes::new() } else { bytes };
        self
    }
}

impl<S: AsyncRead + Unpin> Counted<S> {
    /// Waits for the next byte, without a buffer. False: the peer has closed.
    pub(crate) async fn wait(&mut self) -> std::io::Result<bool> {
        if !self.ahead.is_empty() {
            return Ok(true);
        }
        let mut byte = [0; 1];
        let read = self.inner.read(&mut byte).await?;
        self.ahead = Bytes::copy_from_slice(&byte[..read]);
        Ok(read == 1)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        if !self.ahead.is_empty() && buf.remaining() > 0 {
            let taken = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(taken));
            self.activity.read();
            // What follows is most likely there too, and saves the parser a round.
            return match Pin::new(&mut self.inner).poll_read(cx, buf) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Ready(Ok(())),
            };
        }
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.read();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.activity.write_blocked.store(result.is_pending(), Relaxed);
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    /// HTTP/1 shuts a connection down only to drop it next. Closing sends the same FIN; one system call is enough.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if !self.activity.taken_over.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.activity.write_blocked.store(result.is_pending(), Relaxed);
        result
    }
}

/// An answer's body that keeps its request counted as in flight.
#[derive(Debug)]
pub(crate) struct Tracked<B> {
    body: B,
    _in_flight: InFlight,
}

impl<B> Tracked<B> {
    pub(crate) fn new(body: B, in_flight: InFlight) -> Self {
        Self { body, _in_flight: in_flight }
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> (Arc<Activity>, Watch) {
        let activity = Arc::new(Activity::default());
        let limits = Http1Limits {
            header_read: Duration::from_secs(1),
            idle: Duration::from_secs(3),
            ..Http1Limits::default()
        };
        let watch = Watch::new(Arc::clone(&activity), &limits);
        (activity, watch)
    }

    #[test]
    fn a_started_head_gets_its_whole_time() {
        let (activity, mut watch) = watch();
        activity.read();
        assert_eq!(watch.look(), None);
        activity.read(); // a byte more is not progress: it is how slowloris works
        assert_eq!(watch.look(), Some(Quiet::Head));
    }

    #[test]
    fn requests_keep_a_connection() {
        let (activity, mut watch) = watch();
        for _ in 0..10 {
            activity.read();
            drop(activity.begin());
            assert_eq!(watch.look(), None);
        }
        let looks = [watch.look(), watch.look(), watch.look()];
        assert_eq!(looks, [Some(Quiet::Parked), Some(Quiet::Parked), Some(Quiet::Idle)]);
    }

    #[test]
    fn a_long_request_is_not_idle() {
        let (activity, mut watch) = watch();
        let request = activity.begin();
        assert!((0..10).all(|_| watch.look().is_none()));
        drop(request);
        assert_eq!(watch.look(), Some(Quiet::Parked));
    }

    #[test]
    fn an_answer_that_is_not_written_yet_keeps_the_buffers() {
        let (activity, mut watch) = watch();
        drop(activity.begin());
        watch.look();
        activity.write_blocked.store(true, Relaxed);
        assert_eq!(watch.look(), None);
    }
}
