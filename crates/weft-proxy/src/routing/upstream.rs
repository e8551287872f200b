//! What routes lead to, as one worker keeps connections to it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use weft_core::{MtlsMode, PeerRule};
use weft_route::{Upstream, UpstreamEndpoint};

use super::kept::Kept;
use super::place::ByPlace;
use crate::cluster::{Beyond, Cluster, MeshRule, Outside, Ways};
use crate::destination::{Destination, Destinations, Target};
use crate::shared::Shared;

/// The upstreams of a worker. One is kept, with its connections and what is known of its endpoints, as long as routes lead to it and
/// requests go there, however often routes change: equal ones are one.
pub(crate) struct Upstreams {
    shared: Arc<Shared>,
    ways: Rc<Ways>,
    known: RefCell<Kept<Arc<Upstream>, Way>>,
    /// The same by where the program has them, so that a request compares no names. Emptied when anything changes.
    placed: RefCell<HashMap<usize, Placed, ByPlace>>,
}

/// The upstream is held with its cluster, so that nothing else can come to lie in its place.
type Placed = (Arc<Upstream>, Rc<Cluster>);

/// How an upstream is reached.
enum Way {
    /// A service of the mesh: the cluster is its destination's, and follows the configuration with it.
    Mesh(Rc<Destination>),
    /// Anything else: plaintext, or TLS as the routes say.
    Outside(Rc<Cluster>),
}

impl Way {
    fn cluster(&self) -> &Rc<Cluster> {
        match self {
            Self::Mesh(destination) => &destination.cluster,
            Self::Outside(cluster) => cluster,
        }
    }

    /// Whether something is under way there.
    fn is_held(&self) -> bool {
        match self {
            Self::Mesh(destination) => Rc::strong_count(destination) > 2,
            Self::Outside(cluster) => Rc::strong_count(cluster) > 1,
        }
    }
}

impl Upstreams {
    pub(crate) fn new(shared: Arc<Shared>, ways: Rc<Ways>) -> Self {
        Self { shared, ways, known: RefCell::default(), placed: RefCell::default() }
    }

    /// The cluster of an upstream.
    pub(crate) fn get(&self, upstream: &Arc<Upstream>, destinations: &Destinations) -> Rc<Cluster> {
        let place = Arc::as_ptr(upstream).addr();
        if let Some((_, cluster)) = self.placed.borrow().get(&place) {
            return Rc::clone(cluster);
        }
        let cluster = self.find(upstream, destinations);
        self.placed.borrow_mut().insert(place, (Arc::clone(upstream), Rc::clone(&cluster)));
        cluster
    }

    fn find(&self, upstream: &Arc<Upstream>, destinations: &Destinations) -> Rc<Cluster> {
        let mesh = match &upstream.endpoint {
            UpstreamEndpoint::Service(key) => destinations.get(&Target::Service(key.clone()), None),
            UpstreamEndpoint::Listed(_) => None,
        };
        let mut known = self.known.borrow_mut();
        match mesh {
            // A link of the mesh proves more than TLS with a certificate would: it takes its place.
            Some(destination) => known.insert(Arc::clone(upstream), Way::Mesh(destination)),
            None if !matches!(known.get(upstream), Some(Way::Outside(_))) => {
                known.insert(Arc::clone(upstream), Way::Outside(self.outside(upstream)));
            }
            None => {}
        }
        known.get(upstream).map_or_else(|| self.outside(upstream), |way| Rc::clone(way.cluster()))
    }

    fn outside(&self, upstream: &Upstream) -> Rc<Cluster> {
        let trust_domain = self.shared.config.identity.trust_domain.clone();
        let nobody = PeerRule { trust_domain, namespace: None, service_accounts: Vec::new() };
        let rule = MeshRule::new(MtlsMode::Disable.into(), nobody);
        let service = match &upstream.endpoint {
            UpstreamEndpoint::Service(key) => self.shared.service(key, None),
            UpstreamEndpoint::Listed(hosts) => self.shared.hosts(hosts),
        };
        let tls = upstream.tls.as_ref().map(|tls| Rc::new(Outside::new(tls, upstream)));
        let beyond = Beyond { tls, announced: upstream.proxy_protocol };
        Cluster::new(&self.ways, &upstream.label, rule, service, beyond)
    }

    /// Routes or membership have changed: what upstreams are is looked up again. Their connections stay, but for those to where no
    /// route leads any more.
    pub(crate) fn follow(&self) {
        self.placed.borrow_mut().clear();
        let program = self.shared.program.load();
        self.known.borrow_mut().follow(|upstream| program.upstreams.contains(upstream), Way::is_held);
    }

    /// Forgets those that no request has asked for, so that memory follows what is used.
    pub(crate) fn sweep(&self) {
        self.placed.borrow_mut().clear();
        self.known.borrow_mut().sweep(Way::is_held);
    }
}
