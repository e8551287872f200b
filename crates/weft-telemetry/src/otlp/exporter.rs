//! The task that empties the queue.

use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tokio::time::{Instant, sleep, timeout_at};
use weft_core::Drain;

use super::client::{Client, ExportError};
use super::{TracingConfig, convert};
use crate::metrics::{Counter, Registry, families};
use crate::span::{SpanQueue, SpanRecord, SpanSink};
use crate::{Sampler, TelemetryError};

/// Spans per request: the OpenTelemetry batch processor's default.
const BATCH: usize = 512;
/// The first wait after a failure, doubled with each further one, up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A collector's own wish is kept up to this: beyond it newer spans are worth more than the batch in hand.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// How long one batch is tried for. Newer spans wait in the queue meanwhile, and drop when it is full.
const GIVE_UP: Duration = Duration::from_secs(60);

/// Sends spans to the collector. Run it on the control thread.
pub struct Exporter {
    config: TracingConfig,
    resource: Resource,
    client: Client,
    queue: SpanQueue,
    counters: Counters,
    /// Whether the last try failed, so that an outage is logged once and not with every batch.
    failing: bool,
}

struct Counters {
    exported: Counter,
    failed: Counter,
    rejected: Counter,
    shutdown: Counter,
    ok: Counter,
    retryable: Counter,
    permanent: Counter,
}

impl Counters {
    fn new(registry: &Registry) -> Self {
        let shard = registry.shared();
        let dropped = |reason| shard.counter(&families::SPANS_DROPPED, &[reason]);
        let requests = |outcome| shard.counter(&families::SPAN_EXPORTS, &[outcome]);
        Self {
            exported: shard.counter(&families::SPANS_EXPORTED, &[]),
            failed: dropped("export_failed"),
            rejected: dropped("rejected"),
            shutdown: dropped("shutdown"),
            ok: requests("ok"),
            retryable: requests("retryable"),
            permanent: requests("permanent"),
        }
    }
}

impl Exporter {
    /// Checks the configuration and makes the queue. Nothing is sent or connected before [`Exporter::run`].
    ///
    /// Must be called inside a tokio runtime, because the gRPC channel starts its task at once.
    ///
    /// # Errors
    /// When the endpoint, a header, the sampling ratio or the CA file is not usable.
    pub fn new(config: TracingConfig, registry: &Registry) -> Result<(SpanSink, Self), TelemetryError> {
        Sampler::new(config.sampling)?;
        let client = Client::new(&config)?;
        let (sink, queue) = SpanSink::new(config.queue, &registry.shared());
        let resource = convert::resource(&config);
        let counters = Counters::new(registry);
        Ok((sink, Self { config, resource, client, queue, counters, failing: false }))
    }

    /// Exports until `drain` closes or all sinks are gone; then sends what is queued, for `last_flush` at the most.
    pub async fn run(mut self, mut drain: Drain, last_flush: Duration) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut closing = drain.clone();
        loop {
            tokio::select! {
                biased;
                () = closing.closed() => break,
                more = self.gather(&mut batch) => if !more { break },
            }
            while !batch.is_empty() {
                tokio::select! {
                    biased;
                    // The batch in hand stays in hand, for the last flush.
                    () = drain.closed() => break,
                    () = self.export(&batch) => batch.clear(),
                }
                self.fill(&mut batch);
            }
        }
        self.finish(batch, Instant::now() + last_flush).await;
    }

    /// Waits for a span, then a while for company. False when there is no one left to send any.
    async fn gather(&mut self, batch: &mut Vec<SpanRecord>) -> bool {
        if batch.is_empty() {
            match self.queue.receiver.recv().await {
                Some(span) => batch.push(span),
                None => return false,
            }
        }
        tokio::select! {
            () = sleep(self.config.flush_interval) => {}
            () = self.queue.wake.notified() => {}
        }
        self.fill(batch);
        true
    }

    fn fill(&mut self, batch: &mut Vec<SpanRecord>) {
        while batch.len() < BATCH {
            match self.queue.receiver.try_recv() {
                Ok(span) => batch.push(span),
                Err(_) => return,
            }
        }
    }

    /// Sends a batch, again and again while that makes sense.
    async fn export(&mut self, batch: &[SpanRecord]) {
        let body = Bytes::from(convert::request(&self.resource, batch).encode_to_vec());
        let give_up = Instant::now() + GIVE_UP;
        let mut backoff = FIRST_BACKOFF;
        loop {
            let Err(error) = self.try_once(&body, batch.len()).await else { return };
            let wait = match error.after {
                Some(after) => after.min(MAX_RETRY_AFTER),
                // Half fixed, half random: the sidecars of a node must not come back all at once.
                None => backoff.mul_f64(0.5 + fastrand::f64() / 2.0),
            };
            if !error.retryable || Instant::now() + wait > give_up {
                self.counters.failed.add(batch.len() as u64);
                return;
            }
            sleep(wait).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    async fn try_once(&mut self, body: &Bytes, spans: usize) -> Result<(), ExportError> {
        match self.client.export(body.clone(), self.config.timeout).await {
            Ok(accepted) => {
                let rejected = accepted.rejected.min(spans as u64);
                self.counters.ok.inc();
                self.counters.exported.add(spans as u64 - rejected);
                self.counters.rejected.add(rejected);
                if !accepted.message.is_empty() {
                    tracing::warn!(rejected, message = %accepted.message, "the collector has remarks");
                }
                if std::mem::take(&mut self.failing) {
                    tracing::info!(endpoint = %self.config.endpoint, "the collector takes spans again");
                }
                Ok(())
            }
            Err(error) => {
                if error.retryable { &self.counters.retryable } else { &self.counters.permanent }.inc();
                if !std::mem::replace(&mut self.failing, true) {
                    let endpoint = &self.config.endpoint;
                    tracing::warn!(%endpoint, error = %error.message, "the collector does not take spans");
                }
                Err(error)
            }
        }
    }

    /// Takes no more spans, and sends those it has until the deadline.
    async fn finish(mut self, mut batch: Vec<SpanRecord>, deadline: Instant) {
        self.queue.receiver.close();
        self.fill(&mut batch);
        while !batch.is_empty() {
            if timeout_at(deadline, self.export(&batch)).await.is_err() {
                let left = batch.len() + self.queue.receiver.len();
                self.counters.shutdown.add(left as u64);
                return;
            }
            batch.clear();
            self.fill(&mut batch);
        }
    }
}
