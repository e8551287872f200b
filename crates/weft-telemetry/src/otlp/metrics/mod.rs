//! Metrics to a collector: collected on the control thread, once in an interval.
//!
//! Requests go on writing their own counters; here those are read, as a scrape reads them, and sent as cumulative values.
//! One collection is under way at a time. While the collector is away nothing piles up: what could not be sent is
//! forgotten and counted, and the next collection has newer values of the same series.

mod convert;
mod names;

use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::time::{Instant, sleep_until, timeout};
use weft_core::Drain;

use self::convert::Collection;
use super::config::Signal;
use super::delivery::Delivery;
use super::{MetricsConfig, convert::resource};
use crate::TelemetryError;
use crate::metrics::{Counter, Registry, families};

/// Sends metrics to the collector. Run it on the control thread.
pub struct MetricsExporter {
    interval: Duration,
    resource: Resource,
    delivery: Delivery,
    registry: Registry,
    exported: Counter,
    failed: Counter,
    rejected: Counter,
    shutdown: Counter,
    /// The data points of the collection under way that neither arrived nor are given up.
    pending: u64,
}

impl MetricsExporter {
    /// Checks the configuration. Nothing is sent or connected before [`MetricsExporter::run`].
    ///
    /// Must be called inside a tokio runtime, because the gRPC channel starts its task at once.
    ///
    /// # Errors
    /// When the endpoint, a header or the CA file is not usable.
    pub fn new(config: MetricsConfig, registry: &Registry) -> Result<Self, TelemetryError> {
        let delivery = Delivery::new(config.collector, Signal::Metrics, &families::METRIC_EXPORTS, registry)?;
        let shard = registry.shared();
        let dropped = |reason| shard.counter(&families::METRIC_POINTS_DROPPED, &[reason]);
        Ok(Self {
            interval: config.interval,
            resource: resource(&config.resource),
            delivery,
            registry: registry.clone(),
            exported: shard.counter(&families::METRIC_POINTS_EXPORTED, &[]),
            failed: dropped("export_failed"),
            rejected: dropped("rejected"),
            shutdown: dropped("shutdown"),
            pending: 0,
        })
    }

    /// Exports until `drain` closes, and then once more, for `last_flush` at the most: the last values are the whole truth.
    pub async fn run(mut self, mut drain: Drain, last_flush: Duration) {
        // The sidecars of a node start together, and must not all export in the same moment for ever after.
        let mut due = Instant::now() + self.interval.mul_f64(fastrand::f64());
        loop {
            tokio::select! {
                biased;
                () = drain.closed() => break,
                () = sleep_until(due) => {}
            }
            // Not before now: what a slow collector has made late is not made up for.
            due = (due + self.interval).max(Instant::now());
            tokio::select! {
                biased;
                // What was under way is not lost: the last collection has it all.
                () = drain.closed() => break,
                () = self.export(due) => {}
            }
        }
        self.pending = 0;
        if timeout(last_flush, self.export(Instant::now() + last_flush)).await.is_err() {
            self.shutdown.add(self.pending);
        }
    }

    /// Collects and sends. A request that does not get through is tried again until `give_up`; the rest is then left.
    async fn export(&mut self, give_up: Instant) {
        let points = self.registry.points();
        let mut collection = Collection::new(self.resource.clone(), SystemTime::now(), points);
        self.pending = collection.points_left();
        while let Some((body, count)) = collection.next_request() {
            match self.delivery.send(&body, give_up).await {
                None => {
                    self.failed.add(self.pending);
                    self.pending = 0;
                    return;
                }
                Some(rejected) => {
                    let rejected = rejected.min(count);
                    self.rejected.add(rejected);
                    self.exported.add(count - rejected);
                    self.pending -= count;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
