//! Sending one request until the collector has it, or it is no longer worth it: what spans and metrics have in common.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::client::{Client, ExportError};
use super::config::Signal;
use crate::metrics::{Counter, Family, Registry};
use crate::{CollectorConfig, TelemetryError};

/// The first wait after a failure, doubled with each further one, up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A collector's own wish is kept up to this: beyond it newer spans and values are worth more than those in hand.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// The way to the collector, and what became of what was sent.
pub(super) struct Delivery {
    client: Client,
    config: CollectorConfig,
    /// What is sent, for the log.
    what: &'static str,
    /// Export requests by outcome.
    ok: Counter,
    retryable: Counter,
    permanent: Counter,
    /// Whether the last try failed, so that an outage is logged once and not with every batch.
    failing: bool,
}

impl Delivery {
    /// Must be called inside a tokio runtime, because the gRPC channel starts its task at once.
    pub(super) fn new(
        config: CollectorConfig,
        signal: Signal,
        requests: &'static Family,
        registry: &Registry,
    ) -> Result<Self, TelemetryError> {
        let client = Client::new(&config, signal)?;
        let what = match signal {
            Signal::Traces => "spans",
            Signal::Metrics => "metrics",
        };
        let shard = registry.shared();
        let count = |outcome| shard.counter(requests, &[outcome]);
        let (ok, retryable, permanent) = (count("ok"), count("retryable"), count("permanent"));
        Ok(Self { client, config, what, ok, retryable, permanent, failing: false })
    }

    /// Sends a request, again and again while that makes sense and `give_up` has not come. Returns how many of its items
    /// the collector refused, or `None` where it did not take the request.
    pub(super) async fn send(&mut self, body: &Bytes, give_up: Instant) -> Option<u64> {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let error = match self.try_once(body).await {
                Ok(rejected) => return Some(rejected),
                Err(error) => error,
            };
            let wait = match error.after {
                Some(after) => after.min(MAX_RETRY_AFTER),
                // Half fixed, half random: the sidecars of a node must not come back all at once.
                None => backoff.mul_f64(0.5 + fastrand::f64() / 2.0),
            };
            if !error.retryable || Instant::now() + wait > give_up {
                return None;
            }
            sleep(wait).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    async fn try_once(&mut self, body: &Bytes) -> Result<u64, ExportError> {
        let (endpoint, what) = (&self.config.endpoint, self.what);
        match self.client.export(body.clone(), self.config.timeout).await {
            Ok(accepted) => {
                self.ok.inc();
                if !accepted.message.is_empty() {
                    let rejected = accepted.rejected;
                    tracing::warn!(rejected, message = %accepted.message, "the collector has remarks on {what}");
                }
                if std::mem::take(&mut self.failing) {
                    tracing::info!(%endpoint, "the collector takes {what} again");
                }
                Ok(accepted.rejected)
            }
            Err(error) => {
                if error.retryable { &self.retryable } else { &self.permanent }.inc();
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%endpoint, error = %error.message, "the collector does not take {what}");
                }
                Err(error)
            }
        }
    }
}
