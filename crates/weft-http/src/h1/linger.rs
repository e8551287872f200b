//! The ends of a client's connection: how long it may be silent, and how it is closed without taking the last answer
//! away.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::conn::SharedConn;
use crate::Http1Limits;
use crate::ticker::Ticker;

/// What is read of a request's body that nobody wants, so that its connection can be kept. More costs more than a new
/// connection.
pub(super) const MOST_DRAINED: u64 = 256 * 1024;

/// How long a client may be silent while its connection is being closed, and how long it may go on sending: nginx's
/// `lingering_timeout` and `lingering_time`.
const SILENCE: Duration = Duration::from_secs(5);
const LINGER: Duration = Duration::from_secs(30);

/// Closes the sending half and reads what the client still sends. A socket that is closed with unread bytes answers with
/// RST, which makes the client's system throw away the answer it may not have read yet (RFC 9112 section 9.6).
pub(super) async fn linger(conn: &SharedConn) {
    let closing = async {
        let shut = poll_fn(|cx| {
            let mut conn = conn.borrow_mut();
            conn.output.clear();
            Pin::new(&mut *conn.io).poll_shutdown(cx)
        });
        if shut.await.is_err() {
            return;
        }
        loop {
            let read = poll_fn(|cx| {
                let mut conn = conn.borrow_mut();
                conn.input.buf.clear();
                conn.poll_fill(cx)
            });
            match tokio::time::timeout(SILENCE, read).await {
                Ok(Ok(read)) if read > 0 => {}
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, closing).await;
}

/// Counts ticks in which nothing happened, so that no request costs a look at the clock.
#[derive(Debug)]
pub(super) struct Ticks {
    ticker: Ticker,
    head: u32,
    idle: u32,
    pause: u32,
    /// Ticks since something happened.
    quiet: u32,
    /// Ticks since a head began.
    begun: u32,
    moved: u64,
}

/// A limit is looked at this often, so that what passes it is late by a quarter at most.
const LOOKS: u32 = 4;

impl Ticks {
    pub(super) fn new(limits: &Http1Limits) -> Self {
        let shortest = limits.header_read.min(limits.idle).min(limits.pause);
        let tick = (shortest / LOOKS).max(Duration::from_millis(10));
        let ticks = |limit: Duration| {
            u32::try_from(limit.as_millis().div_ceil(tick.as_millis())).unwrap_or(u32::MAX).max(1)
        };
        Self {
            ticker: Ticker::new(tick),
            head: ticks(limits.header_read),
            idle: ticks(limits.idle),
            pause: ticks(limits.pause),
            quiet: 0,
            begun: 0,
            moved: 0,
        }
    }

    /// Something has happened.
    pub(super) fn begin(&mut self) {
        (self.quiet, self.begun) = (0, 0);
    }

    /// Ready when a head has not ended in time, or none has begun for long.
    pub(super) fn poll_waiting(&mut self, cx: &mut Context<'_>, begun: bool) -> Poll<()> {
        while self.ticker.poll_tick(cx).is_ready() {
            self.quiet += 1;
            self.begun = if begun { self.begun + 1 } else { 0 };
            // The tick in which it began does not count, so that nobody gets less than the limit.
            let over = if begun { self.begun > self.head } else { self.quiet > self.idle };
            if over {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Ready when nothing has moved for long although it should: `moved` counts reads and writes.
    pub(super) fn poll_moving(&mut self, cx: &mut Context<'_>, moved: u64, should: bool) -> Poll<()> {
        while self.ticker.poll_tick(cx).is_ready() {
            if self.moved != moved || !should {
                (self.moved, self.quiet) = (moved, 0);
            } else {
                self.quiet += 1;
            }
            if self.quiet > self.pause {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}
