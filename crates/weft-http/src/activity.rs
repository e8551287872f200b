//! Tells an idle connection and a slow request head apart, without reading a clock per request.
//!
//! hyper has a header-read timeout, but it allocates and registers a timer for every request, and it also ends idle
//! connections. Here the socket counts its reads, the service counts its requests, and a timer that fires rarely compares
//! what it saw last time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Http1Limits;

/// What happened on one connection. It is shared within one worker; hyper asks that the socket be `Send`, hence atomics.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    reads: AtomicU64,
    /// `reads` when the last request head was complete.
    reads_at_request: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Activity {
    /// A request head is complete; the guard ends with its answer.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        // Single writer: plain load and store, no locked instruction.
        self.begun.store(self.begun.load(Relaxed) + 1, Relaxed);
        self.reads_at_request.store(self.reads.load(Relaxed), Relaxed);
        InFlight(Arc::clone(self))
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

/// Why a connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// A request head has begun and not ended.
    Head,
    /// No request for long.
    Idle,
}

/// Compares the activity of one tick with the last.
#[derive(Debug)]
pub(crate) struct Watch {
    activity: Arc<Activity>,
    tick: Duration,
    idle_ticks: u32,
    begun: u64,
    quiet: u32,
    partial: bool,
}

impl Watch {
    pub(crate) fn new(activity: Arc<Activity>, limits: &Http1Limits) -> Self {
        // A head is given between one and two ticks, so that nobody gets less than the limit.
        let tick = limits.header_read.min(limits.idle).max(Duration::from_millis(10));
        let idle_ticks = u32::try_from(limits.idle.as_millis() / tick.as_millis()).unwrap_or(u32::MAX).max(1);
        Self { activity, tick, idle_ticks, begun: 0, quiet: 0, partial: false }
    }

    /// Resolves when the connection is to be closed.
    pub(crate) async fn expired(&mut self) -> Expired {
        loop {
            tokio::time::sleep(self.tick).await;
            if let Some(expired) = self.look() {
                return expired;
            }
        }
    }

    fn look(&mut self) -> Option<Expired> {
        let activity = &self.activity;
        let begun = activity.begun.load(Relaxed);
        if activity.in_flight() || begun != self.begun {
            (self.begun, self.quiet, self.partial) = (begun, 0, false);
            return None;
        }
        let partial = activity.reads.load(Relaxed) > activity.reads_at_request.load(Relaxed);
        if partial && self.partial {
            return Some(Expired::Head);
        }
        self.partial = partial;
        self.quiet += 1;
        (self.quiet >= self.idle_ticks).then_some(Expired::Idle)
    }
}

/// A socket that counts its reads.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    inner: S,
    activity: Arc<Activity>,
}

impl<S> Counted<S> {
    pub(crate) fn new(inner: S, activity: Arc<Activity>) -> Self {
        Self { inner, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
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
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
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
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
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
    fn a_started_head_gets_one_whole_tick() {
        let (activity, mut watch) = watch();
        activity.read();
        assert_eq!(watch.look(), None);
        activity.read(); // a byte more is not progress: it is how slowloris works
        assert_eq!(watch.look(), Some(Expired::Head));
    }

    #[test]
    fn requests_keep_a_connection() {
        let (activity, mut watch) = watch();
        for _ in 0..10 {
            activity.read();
            drop(activity.begin());
            assert_eq!(watch.look(), None);
        }
        assert_eq!([watch.look(), watch.look(), watch.look()], [None, None, Some(Expired::Idle)]);
    }

    #[test]
    fn a_long_request_is_not_idle() {
        let (activity, mut watch) = watch();
        let request = activity.begin();
        assert!((0..10).all(|_| watch.look().is_none()));
        drop(request);
        assert_eq!([watch.look(), watch.look()], [None, None]);
    }
}
