//! What requests need that follow routes, at a gateway and in a sidecar alike.
//!
//! A [`target`] is what a request asks for, in one form. A rule leads to [`upstream`]s; a [`session`] keeps a client where it
//! was; [`convert`] makes a request one of the version that its backend speaks.

pub(crate) mod convert;
mod kept;
mod place;
pub(crate) mod session;
pub(crate) mod target;
mod upstream;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use weft_route::{Rule, Upstream};
use weft_telemetry::Counter;
use weft_telemetry::metrics::{CodeCounters, families};

use crate::cluster::Cluster;
use crate::destination::Destinations;
use crate::exchange::Mirrors;
use crate::shared::Shared;
use crate::telemetry::WorkerTelemetry;
use place::ByPlace;
use upstream::Upstreams;

/// What the routed requests of one worker have in common.
pub(crate) struct Routing {
    pub(crate) telemetry: Rc<WorkerTelemetry>,
    destinations: Rc<Destinations>,
    upstreams: Upstreams,
    pub(crate) rng: RefCell<fastrand::Rng>,
    /// Copies of requests that are under way, and what became of the others.
    pub(crate) mirrors: Mirrors,
    pub(crate) mirrored: CodeCounters,
    requests: RefCell<HashMap<Place, Counted, ByPlace>>,
}

/// Where a request went: parent, rule and cluster, by where they lie.
type Place = [usize; 3];

/// A counter of requests with what it counts for, which is held so that nothing else can come to lie in its place.
struct Counted {
    counter: Counter,
    _of: (Arc<str>, Arc<Rule>, Rc<Cluster>),
}

impl Routing {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        telemetry: &Rc<WorkerTelemetry>,
        destinations: &Rc<Destinations>,
    ) -> Rc<Self> {
        let ways = Rc::clone(destinations.ways());
        Rc::new(Self {
            destinations: Rc::clone(destinations),
            upstreams: Upstreams::new(Arc::clone(shared), ways),
            rng: RefCell::default(),
            mirrors: Mirrors::default(),
            mirrored: CodeCounters::new(&telemetry.shard, &families::ROUTE_MIRRORED, &[]),
            requests: RefCell::default(),
            telemetry: Rc::clone(telemetry),
        })
    }

    /// The cluster of an upstream.
    pub(crate) fn cluster(&self, upstream: &Arc<Upstream>) -> Rc<Cluster> {
        self.upstreams.get(upstream, &self.destinations)
    }

    /// Counts a request that has found its way. `parent` is what the route hangs on: a listener, or a service.
    pub(crate) fn count(&self, parent: &Arc<str>, rule: &Arc<Rule>, cluster: &Rc<Cluster>) {
        let place =
            [Arc::as_ptr(parent).cast::<u8>().addr(), Arc::as_ptr(rule).addr(), Rc::as_ptr(cluster).addr()];
        let mut requests = self.requests.borrow_mut();
        let counted = requests.entry(place).or_insert_with(|| {
            let labels = [&**parent, &*rule.label, &*cluster.label];
            let counter = self.telemetry.shard.counter(&families::ROUTE_REQUESTS, &labels);
            Counted { counter, _of: (Arc::clone(parent), Arc::clone(rule), Rc::clone(cluster)) }
        });
        counted.counter.inc();
    }

    /// Routes or membership have changed.
    pub(crate) fn follow(&self) {
        self.requests.borrow_mut().clear();
        self.upstreams.follow();
    }

    /// Forgets what nothing uses.
    pub(crate) fn sweep(&self) {
        self.requests.borrow_mut().clear();
        self.upstreams.sweep();
    }
}
