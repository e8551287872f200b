//! One relayed connection.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use weft_http::ErrorCode;
use weft_net::{RelayCounters, RelayOutcome};
use weft_telemetry::TcpSeries;
use weft_telemetry::access::{AccessProtocol, AccessRecord};
use weft_telemetry::span::unix_nanos;

use super::ConnectionFacts;
use crate::telemetry::WorkerTelemetry;

/// How often the bytes of a relay that goes on are reported: once per scrape of a keen Prometheus.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// One relayed connection.
pub(crate) struct TcpRecord {
    telemetry: Rc<WorkerTelemetry>,
    facts: ConnectionFacts,
    series: TcpSeries,
    started: Instant,
    pub(crate) upstream: Option<SocketAddr>,
    sent: u64,
    received: u64,
    error: Option<&'static str>,
}

impl TcpRecord {
    pub(crate) fn open(telemetry: &Rc<WorkerTelemetry>, facts: ConnectionFacts, series: TcpSeries) -> Self {
        series.open();
        Self {
            telemetry: Rc::clone(telemetry),
            facts,
            series,
            started: Instant::now(),
            upstream: None,
            sent: 0,
            received: 0,
            error: None,
        }
    }

    /// Weft ended the connection, or could not make it.
    pub(crate) fn failed(&mut self, code: ErrorCode) {
        self.error = Some(code.as_str());
        self.telemetry.of(self.facts.direction).error(code);
    }

    /// Runs a relay to its end, or until it must `end`: then `None`, and both sides are to be reset, so
    /// that nobody takes half a transfer for a whole one. Bytes are reported while it runs: a connection to a database
    /// may live for days.
    pub(crate) async fn run(
        &mut self,
        relaying: impl Future<Output = RelayOutcome>,
        counters: &RelayCounters,
        end: impl Future<Output = ()>,
    ) -> Option<RelayOutcome> {
        let mut relaying = std::pin::pin!(relaying);
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                biased;
                outcome = relaying.as_mut() => {
                    self.count(counters);
                    if outcome.failed() {
                        self.error = Some("relay-failed");
                    }
                    return Some(outcome);
                }
                () = end.as_mut() => {
                    self.count(counters);
                    self.error = Some("drain-deadline");
                    return None;
                }
                () = tokio::time::sleep(REPORT_EVERY) => self.count(counters),
            }
        }
    }

    fn count(&mut self, counters: &RelayCounters) {
        let (sent, received) = (counters.to_upstream(), counters.to_client());
        self.series.sent(sent - self.sent);
        self.series.received(received - self.received);
        (self.sent, self.received) = (sent, received);
    }
}

impl Drop for TcpRecord {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.series.close(took);
        let access = &self.telemetry.access;
        if !access.wants(self.error.is_some(), false) {
            return;
        }
        let end = unix_nanos(SystemTime::now());
        access.submit(AccessRecord {
            start_unix_nanos: end.saturating_sub(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)),
            duration: took,
            direction: self.facts.direction,
            protocol: AccessProtocol::Tcp,
            destination_service: Some(Arc::clone(&self.facts.service)),
            upstream: self.upstream,
            forwarded_for: None,
            client: Some(self.facts.client),
            source_identity: self.facts.source_identity.clone(),
            destination_identity: self.facts.destination_identity.clone(),
            tls: self.facts.tls,
            sent_bytes: self.sent,
            received_bytes: self.received,
            error: self.error,
        });
    }
}
