//! Both directions of a relay and its idle timer, as one future.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};

use super::flow::{Flow, FlowError, Progress};
use super::outcome::{ClosedBy, ErrorKind, RelayError, RelayOutcome, Side};
use super::splice::{Splice, SpliceEnd};
use super::{RelayCounters, RelayOptions};
use crate::PlainTcp;

/// How often the timer looks whether bytes have moved, per idle timeout.
const TICKS: u32 = 4;

/// How one direction is carried from `R` to `W`.
pub(super) trait Carrier<R, W> {
    /// Moves what can be moved; ready when the data has ended and `writer` is shut down.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        counter: &Cell<u64>,
    ) -> Poll<Result<(), FlowError>>;

    /// From now on the end of the data is not passed on as a shutdown.
    fn keep_end(&mut self);
}

/// By a buffer, whatever the streams are.
#[derive(Debug)]
pub(super) struct Copying(Flow);

impl Copying {
    pub(super) fn new() -> Self {
        Self(Flow::new(None))
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Carrier<R, W> for Copying {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        counter: &Cell<u64>,
    ) -> Poll<Result<(), FlowError>> {
        self.0.poll(cx, reader, writer, counter).map_ok(|_| ())
    }

    fn keep_end(&mut self) {
        self.0.keep_end();
    }
}

/// By a buffer first, and by the kernel once the flow is bulk.
#[derive(Debug)]
pub(super) struct Splicing {
    flow: Flow,
    splice: Option<Splice>,
}

impl Splicing {
    pub(super) fn new(options: &RelayOptions) -> Self {
        Self { flow: Flow::new(options.splice_after), splice: None }
    }

    /// What the kernel cannot carry any further goes on by a buffer.
    fn end_splice(&mut self, end: SpliceEnd) -> Result<(), FlowError> {
        if let Some(splice) = self.splice.take() {
            match end {
                SpliceEnd::Eof => self.flow.end(),
                SpliceEnd::Unsupported => {
                    self.flow.never_bulk();
                    splice.give_up(&mut self.flow).map_err(FlowError::Read)?;
                }
            }
        }
        Ok(())
    }
}

impl<R: PlainTcp, W: PlainTcp> Carrier<R, W> for Splicing {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        counter: &Cell<u64>,
    ) -> Poll<Result<(), FlowError>> {
        loop {
            if let Some(splice) = &mut self.splice {
                let end = ready!(splice.poll(cx, reader.tcp(), writer.tcp(), counter))?;
                self.end_splice(end)?;
            }
            match ready!(self.flow.poll(cx, reader, writer, counter))? {
                Progress::Finished => return Poll::Ready(Ok(())),
                // A prefix that is longer than the switch-over point is carried to its end first.
                Progress::Bulk if !reader.is_drained() => {}
                Progress::Bulk => self.splice = Some(Splice::new()),
            }
        }
    }

    fn keep_end(&mut self) {
        self.flow.keep_end();
    }
}

/// One direction, and whether it is over.
struct Direction<D> {
    carrier: D,
    done: bool,
}

pub(super) struct Driver<'a, C, U, D> {
    client: &'a mut C,
    upstream: &'a mut U,
    counters: &'a RelayCounters,
    to_upstream: Direction<D>,
    to_client: Direction<D>,
    closed_by: Option<ClosedBy>,
    error: Option<RelayError>,
    aborted: bool,
}

impl<'a, C, U, D> Driver<'a, C, U, D>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
    D: Carrier<C, U> + Carrier<U, C>,
{
    pub(super) fn new(
        client: &'a mut C,
        upstream: &'a mut U,
        counters: &'a RelayCounters,
        carrier: impl Fn() -> D,
    ) -> Self {
        Self {
            client,
            upstream,
            counters,
            to_upstream: Direction { carrier: carrier(), done: false },
            to_client: Direction { carrier: carrier(), done: false },
            closed_by: None,
            error: None,
            aborted: false,
        }
    }

    pub(super) async fn run(mut self, idle_timeout: Option<Duration>) -> RelayOutcome {
        match idle_timeout {
            None => poll_fn(|cx| self.poll(cx)).await,
            Some(timeout) => self.run_until_idle(timeout).await,
        }
        RelayOutcome {
            to_upstream_bytes: self.counters.to_upstream(),
            to_client_bytes: self.counters.to_client(),
            closed_by: self.closed_by.unwrap_or(ClosedBy::IdleTimeout),
            error: self.error,
            aborted: self.aborted,
        }
    }

    async fn run_until_idle(&mut self, timeout: Duration) {
        let mut idle = Idle::new(timeout);
        let mut timer = pin!(sleep(idle.tick));
        poll_fn(|cx| {
            if self.poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let moved = self.counters.to_upstream().wrapping_add(self.counters.to_client());
            ready!(idle.poll(cx, timer.as_mut(), moved));
            self.closed_by = Some(ClosedBy::IdleTimeout);
            self.aborted = true;
            Poll::Ready(())
        })
        .await;
    }

    /// Ready when nothing more can be carried.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.to_upstream.done
            && let Poll::Ready(result) =
                self.to_upstream.carrier.poll(cx, self.client, self.upstream, &self.counters.to_upstream)
        {
            self.to_upstream.done = true;
            self.ended(Side::Client, result);
        }
        if !self.to_client.done
            && let Poll::Ready(result) =
                self.to_client.carrier.poll(cx, self.upstream, self.client, &self.counters.to_client)
        {
            self.to_client.done = true;
            self.ended(Side::Upstream, result);
        }
        if self.aborted || (self.to_upstream.done && self.to_client.done) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// The direction that reads from `from` is over.
    fn ended(&mut self, from: Side, result: Result<(), FlowError>) {
        let (side, error) = match result {
            Ok(()) => {
                self.closed_by.get_or_insert(from.into());
                // It had reset before (see below), and now all it sent has been carried.
                self.aborted |= self.has_broken_off(from);
                return;
            }
            Err(FlowError::Read(error)) => {
                self.aborted = true;
                (from, error)
            }
            Err(FlowError::Write(error)) => (from.other(), error),
        };
        self.closed_by.get_or_insert(side.into());
        self.error.get_or_insert_with(|| RelayError::new(side, error));
        // A write fails because the peer has reset. What it sent before is still to be read and carried on (an early answer
        // of a server, for instance); after that the kernel reports an ordinary end of data, the error having been reported
        // by the write. Unless it had ended its data before, that is no end: it must not look complete.
        if self.has_broken_off(side) {
            match side {
                Side::Client => <D as Carrier<C, U>>::keep_end(&mut self.to_upstream.carrier),
                Side::Upstream => <D as Carrier<U, C>>::keep_end(&mut self.to_client.carrier),
            }
        }
    }

    /// Whether a write to this side has shown that it is gone in the middle of its data. To a server that had ended them
    /// before (`EPIPE`), a rest of the request is of no use any more, and its answer is whole. A client that has ended its
    /// request is to take the answer.
    fn has_broken_off(&self, side: Side) -> bool {
        self.error.as_ref().is_some_and(|error| {
            error.side == side && (side == Side::Client || error.kind != ErrorKind::BrokenPipe)
        })
    }
}

/// Finds out that no byte has moved, by looking at the counters four times per timeout and not at a clock per byte.
struct Idle {
    tick: Duration,
    unchanged: u32,
    seen: u64,
}

impl Idle {
    fn new(timeout: Duration) -> Self {
        Self { tick: (timeout / TICKS).max(Duration::from_millis(1)), unchanged: 0, seen: 0 }
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>, moved: u64) -> Poll<()> {
        loop {
            ready!(timer.as_mut().poll(cx));
            if moved == self.seen {
                self.unchanged += 1;
                if self.unchanged >= TICKS {
                    return Poll::Ready(());
                }
            } else {
                self.seen = moved;
                self.unchanged = 0;
            }
            timer.as_mut().reset(Instant::now() + self.tick);
        }
    }
}
