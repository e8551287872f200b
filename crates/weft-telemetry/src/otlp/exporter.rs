//! The task that empties the queue of spans.

use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tokio::time::{Instant, sleep, timeout_at};
use weft_core::Drain;

use super::config::Signal;
use super::delivery::Delivery;
use super::{TracingConfig, convert};
use crate::metrics::{Counter, Registry, families};
use crate::span::{SpanQueue, SpanRecord, SpanSink};
use crate::{Sampler, TelemetryError};

/// Spans per request: the OpenTelemetry batch processor's default.
const BATCH: usize = 512;
/// How long one batch is tried for. Newer spans wait in the queue meanwhile, and drop when it is full.
const GIVE_UP: Duration = Duration::from_secs(60);

/// Sends spans to the collector. Run it on the control thread.
pub struct Exporter {
    flush_interval: Duration,
    resource: Resource,
    delivery: Delivery,
    queue: SpanQueue,
    counters: Counters,
}

struct Counters {
    exported: Counter,
    failed: Counter,
    rejected: Counter,
    shutdown: Counter,
}

impl Counters {
    fn new(registry: &Registry) -> Self {
        let shard = registry.shared();
        let dropped = |reason| shard.counter(&families::SPANS_DROPPED, &[reason]);
        Self {
            exported: shard.counter(&families::SPANS_EXPORTED, &[]),
            failed: dropped("export_failed"),
            rejected: dropped("rejected"),
            shutdown: dropped("shutdown"),
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
        let delivery = Delivery::new(config.collector, Signal::Traces, &families::SPAN_EXPORTS, registry)?;
        let (sink, queue) = SpanSink::new(config.queue, &registry.shared());
        let resource = convert::resource(&config.resource);
        let (flush_interval, counters) = (config.flush_interval, Counters::new(registry));
        Ok((sink, Self { flush_interval, resource, delivery, queue, counters }))
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
            () = sleep(self.flush_interval) => {}
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
        let spans = batch.len() as u64;
        match self.delivery.send(&body, Instant::now() + GIVE_UP).await {
            None => self.counters.failed.add(spans),
            Some(rejected) => {
                let rejected = rejected.min(spans);
                self.counters.exported.add(spans - rejected);
                self.counters.rejected.add(rejected);
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
