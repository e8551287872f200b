//! A worker's handles on everything it counts, found once.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

use http::Version;
use weft_http::ErrorCode;
use weft_telemetry::metrics::{CodeCounters, Direction, HttpLabels, TlsLabel, families};
use weft_telemetry::{
    AccessLog, Counter, Gauge, Histogram, HttpSeries, Registry, Sampler, Shard, SpanSink, Tracer,
};

/// The handles of one worker.
pub(crate) struct WorkerTelemetry {
    pub(crate) shard: Shard,
    pub(crate) tracer: RefCell<Tracer>,
    pub(crate) spans: Option<SpanSink>,
    pub(crate) access: AccessLog,
    pub(crate) inbound: DirectionTelemetry,
    pub(crate) outbound: DirectionTelemetry,
    /// A sidecar has none of it.
    gateway: OnceCell<DirectionTelemetry>,
    pub(crate) passthrough: CodeCounters,
    /// The own identity as `namespace/service-account`, once it is known.
    own_workload: RefCell<Arc<str>>,
    /// The own identity as text.
    own_identity: RefCell<Option<Arc<str>>>,
}

/// What is counted per direction.
pub(crate) struct DirectionTelemetry {
    pub(crate) accepted: Counter,
    pub(crate) open: Gauge,
    pub(crate) accept_errors: CodeCounters,
    pub(crate) detections: CodeCounters,
    pub(crate) handshakes: CodeCounters,
    pub(crate) handshake_duration: Histogram,
    pub(crate) errors: CodeCounters,
}

impl DirectionTelemetry {
    fn new(shard: &Shard, direction: Direction) -> Self {
        let label = direction.as_str();
        let (handshakes, handshake_duration) = match direction {
            Direction::Gateway => (
                CodeCounters::new(shard, &families::EDGE_HANDSHAKES, &[]),
                shard.histogram(&families::EDGE_HANDSHAKE_DURATION, &[]),
            ),
            Direction::Inbound | Direction::Outbound => (
                CodeCounters::new(shard, &families::HANDSHAKES, &[label]),
                shard.histogram(&families::HANDSHAKE_DURATION, &[label]),
            ),
        };
        Self {
            accepted: shard.counter(&families::ACCEPTED, &[label]),
            open: shard.gauge(&families::ACCEPTED_ACTIVE, &[label]),
            accept_errors: CodeCounters::new(shard, &families::ACCEPT_ERRORS, &[label]),
            detections: CodeCounters::new(shard, &families::DETECTIONS, &[label]),
            handshakes,
            handshake_duration,
            errors: CodeCounters::new(shard, &families::ERRORS, &[label]),
        }
    }

    pub(crate) fn error(&self, code: ErrorCode) {
        self.errors.inc(code.as_str());
    }
}

impl WorkerTelemetry {
    pub(crate) fn new(
        registry: &Registry,
        sampler: &Arc<Sampler>,
        spans: Option<&SpanSink>,
        access: &AccessLog,
    ) -> Self {
        let shard = registry.shard();
        Self {
            // A proxy that exports nothing must not put spans into traces that nobody will ever see.
            tracer: RefCell::new(match spans {
                Some(_) => Tracer::new(Arc::clone(sampler)),
                None => Tracer::passive(),
            }),
            spans: spans.map(|sink| sink.for_shard(&shard)),
            access: access.for_shard(&shard),
            inbound: DirectionTelemetry::new(&shard, Direction::Inbound),
            outbound: DirectionTelemetry::new(&shard, Direction::Outbound),
            gateway: OnceCell::new(),
            passthrough: CodeCounters::new(&shard, &families::PASSTHROUGH, &[]),
            own_workload: RefCell::new(Arc::from("")),
            own_identity: RefCell::default(),
            shard,
        }
    }

    pub(crate) fn of(&self, direction: Direction) -> &DirectionTelemetry {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
            Direction::Gateway => self.gateway(),
        }
    }

    /// What is counted of a gateway's listeners.
    pub(crate) fn gateway(&self) -> &DirectionTelemetry {
        self.gateway.get_or_init(|| DirectionTelemetry::new(&self.shard, Direction::Gateway))
    }

    pub(crate) fn set_own(&self, id: &weft_core::SpiffeId) {
        *self.own_workload.borrow_mut() = workload_of(id);
        *self.own_identity.borrow_mut() = Some(Arc::from(id.to_string()));
    }

    /// The own identity, once it is known.
    pub(crate) fn own_identity(&self) -> Option<Arc<str>> {
        self.own_identity.borrow().clone()
    }

    pub(crate) fn own_workload(&self) -> Arc<str> {
        Arc::clone(&self.own_workload.borrow())
    }
}

/// The HTTP series of one destination or peer, per version, each found when the first request needs it.
pub(crate) struct SeriesByVersion {
    http10: OnceCell<HttpSeries>,
    http11: OnceCell<HttpSeries>,
    http2: OnceCell<HttpSeries>,
    labels: Labels,
}

/// Everything but the version.
pub(crate) struct Labels {
    pub(crate) direction: Direction,
    pub(crate) source_workload: Arc<str>,
    pub(crate) destination_service: Arc<str>,
    pub(crate) destination_workload: Arc<str>,
    pub(crate) peer_identity: Arc<str>,
    pub(crate) tls: TlsLabel,
}

impl SeriesByVersion {
    pub(crate) fn new(labels: Labels) -> Self {
        Self { http10: Default::default(), http11: Default::default(), http2: Default::default(), labels }
    }

    pub(crate) fn get(&self, shard: &Shard, version: Version) -> &HttpSeries {
        let cell = match version {
            Version::HTTP_10 | Version::HTTP_09 => &self.http10,
            Version::HTTP_2 => &self.http2,
            _ => &self.http11,
        };
        cell.get_or_init(|| {
            shard.http_series(&HttpLabels {
                direction: self.labels.direction,
                source_workload: &self.labels.source_workload,
                destination_service: &self.labels.destination_service,
                destination_workload: &self.labels.destination_workload,
                peer_identity: &self.labels.peer_identity,
                protocol: version,
                tls: self.labels.tls,
            })
        })
    }
}

/// `namespace/service-account` of an identity, the form in which workloads appear as labels.
pub(crate) fn workload_of(id: &weft_core::SpiffeId) -> Arc<str> {
    Arc::from(format!("{}/{}", id.namespace, id.service_account))
}
