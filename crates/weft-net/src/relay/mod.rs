//! Carries bytes between two connections, both ways at once.
//!
//! A relay has to be invisible: what one side sends, the other side gets, in order, and how one side ends is how the
//! other sees it end. Three rules follow.
//!
//! - **Half-close is kept.** The end of one side's data is passed on as a shutdown, after everything before it, and the
//!   other direction goes on for as long as it likes.
//! - **An abort is not an end.** Where reading fails (reset, TLS cut off without close_notify), nothing is shut down: a
//!   clean end of data would tell the other side that it has the whole. The outcome says [`RelayOutcome::aborted`], and
//!   the caller resets what is left ([`crate::reset_on_drop`]); [`relay_plain`] does so itself.
//! - **A write that fails does not stop the other direction.** A server may answer and close before it has read all of
//!   the request; its answer is still in our socket and is delivered. It ends in order if the server had ended it, and by
//!   an abort if the server has reset the connection instead.
//!
//! Buffers come from the thread's pool when bytes are there and go back when there are none; they grow from 16 to 256 KiB
//! while reads fill them. Where both ends are plain TCP, a direction that has carried 256 KiB is handed to the kernel
//! (`splice(2)`), see [`relay_plain`]. One direction moves about half a MiB at most before the other tasks of the worker
//! get their turn. Numbers are in `docs/design/tcp-relay.md`.

mod driver;
mod flow;
mod outcome;
mod splice;

use std::cell::Cell;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::PlainTcp;
use driver::{Copying, Driver, Splicing};
pub use outcome::{ClosedBy, ErrorKind, RelayError, RelayOutcome, Side};

/// After how many bytes in one direction a plaintext relay turns to `splice`. Below it the two extra system calls per
/// turn and the pipe cost more than the copies they save.
pub const SPLICE_AFTER: u64 = 256 << 10;

/// Bytes carried so far, readable while the relay runs. A relay is the only writer; both live on one thread.
#[derive(Debug, Default)]
pub struct RelayCounters {
    to_upstream: Cell<u64>,
    to_client: Cell<u64>,
}

impl RelayCounters {
    /// Bytes that were written to the upstream.
    pub fn to_upstream(&self) -> u64 {
        self.to_upstream.get()
    }

    /// Bytes that were written to the client.
    pub fn to_client(&self) -> u64 {
        self.to_client.get()
    }
}

/// How to relay.
#[derive(Clone, Copy, Debug)]
pub struct RelayOptions {
    /// Ends the relay when no byte has moved in either direction for this long (up to a quarter longer: time is looked
    /// at four times per timeout, not per byte). It covers half-closed connections too.
    pub idle_timeout: Option<Duration>,
    /// For [`relay_plain`]: after how many bytes in one direction the kernel takes over ([`SPLICE_AFTER`]); `None` keeps
    /// to buffers.
    pub splice_after: Option<u64>,
}

impl Default for RelayOptions {
    /// No idle timeout, `splice` after [`SPLICE_AFTER`] bytes.
    fn default() -> Self {
        Self { idle_timeout: None, splice_after: Some(SPLICE_AFTER) }
    }
}

/// Relays between any two streams until both directions have ended, one was aborted, or the idle timeout passed.
///
/// `counters` are written as bytes move; the outcome repeats what they hold at the end. The streams are not closed: after
/// an abort the caller resets them, after a clean end both were shut down already.
pub async fn relay<C, U>(
    client: &mut C,
    upstream: &mut U,
    options: &RelayOptions,
    counters: &RelayCounters,
) -> RelayOutcome
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    Driver::new(client, upstream, counters, Copying::new).run(options.idle_timeout).await
}

/// As [`relay`], for two plain TCP connections: bulk flows are carried by the kernel, and an abort of one side is passed
/// on to the other as a reset when the streams are dropped.
pub async fn relay_plain<C, U>(
    client: &mut C,
    upstream: &mut U,
    options: &RelayOptions,
    counters: &RelayCounters,
) -> RelayOutcome
where
    C: PlainTcp,
    U: PlainTcp,
{
    let driver = Driver::new(client, upstream, counters, || Splicing::new(options));
    let outcome = driver.run(options.idle_timeout).await;
    if outcome.aborted {
        crate::reset_on_drop(client);
        crate::reset_on_drop(upstream);
    }
    outcome
}

#[cfg(test)]
mod tests;
