//! What outbound connections are going to: mesh services, or something outside.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use weft_config::{AddrVerdict, ConfigHandle, NameVerdict, Outside, Snapshot};
use weft_core::{DnsName, EndpointAddr, MtlsMode, OriginalDst, ServiceKey};
use weft_discovery::{Judge, Standing};
use weft_route::{HttpTable, Program};

use crate::cluster::{Beyond, Cluster, MeshRule, Ways};
use crate::shared::{Service, Shared};

/// A mesh destination, as one worker sees it. As long as a connection holds it, it is the one that new connections to the
/// same target get, and what the configuration changes about it changes here.
pub(crate) struct Destination {
    target: Target,
    /// Where the connection that made it was going.
    dialed: Option<EndpointAddr>,
    pub(crate) label: Arc<str>,
    /// Host and port that applications dial, for spans.
    pub(crate) server: (Arc<str>, u16),
    pub(crate) spoken: Cell<Spoken>,
    pub(crate) cluster: Rc<Cluster>,
    /// Whether it is in the mesh now. What has left it is no destination of new connections, which pass through; the requests
    /// of open ones go in plaintext as well, from the next on.
    in_mesh: Cell<bool>,
    /// The routes that hang on it, as the program has them now.
    routes: RefCell<Option<Arc<HttpTable>>>,
    /// A connection has asked for it since the last sweep.
    used: Cell<bool>,
}

/// What connections to a destination have spoken so far; decides how long to wait for the client's first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// The client spoke first.
    ClientFirst,
    /// The server spoke first: there is nothing to wait for.
    ServerFirst,
}

impl Destination {
    /// The mode that the configuration has for an endpoint now; `None`: it is outside the mesh.
    pub(crate) fn mode_now(&self, shared: &Shared, endpoint: EndpointAddr) -> Option<MtlsMode> {
        let rule = rule(&shared.snapshot.load(), &self.target)?;
        Some(rule.mode.towards(endpoint.ip()))
    }

    /// Whether the configuration has it in the mesh.
    pub(crate) fn is_in_mesh(&self) -> bool {
        self.in_mesh.get()
    }

    /// The routes of its requests; `None`: they go to its own endpoints. What is outside the mesh has none.
    pub(crate) fn routes(&self) -> Option<Arc<HttpTable>> {
        self.routes.borrow().as_ref().filter(|_| self.in_mesh.get()).map(Arc::clone)
    }

    /// A destination for tests: a cluster, and nothing that follows a configuration.
    #[cfg(test)]
    pub(crate) fn of_cluster(cluster: &Rc<Cluster>) -> Rc<Self> {
        Rc::new(Self {
            target: Target::Addr(EndpointAddr::new(([0; 4], 0).into())),
            dialed: None,
            label: Arc::clone(&cluster.label),
            server: (Arc::clone(&cluster.label), 80),
            spoken: Cell::default(),
            cluster: Rc::clone(cluster),
            in_mesh: Cell::new(true),
            routes: RefCell::default(),
            used: Cell::default(),
        })
    }

    fn follow(&self, shared: &Shared, snapshot: &Snapshot) {
        let rule = rule(snapshot, &self.target);
        self.in_mesh.set(rule.is_some());
        let rule = rule.unwrap_or_else(|| MeshRule::new(MtlsMode::Disable.into(), self.cluster.peer()));
        let service = match &self.target {
            Target::Service(key) => Some(shared.service(key, self.dialed)),
            Target::Addr(_) => None,
        };
        self.cluster.follow(rule, service);
    }
}

/// The destinations of a worker.
pub(crate) struct Destinations {
    shared: Arc<Shared>,
    ways: Rc<Ways>,
    known: RefCell<HashMap<Target, Rc<Destination>>>,
    /// The version of the configuration that they follow.
    version: Cell<u64>,
}

impl Destinations {
    pub(crate) fn new(shared: Arc<Shared>, ways: Rc<Ways>) -> Rc<Self> {
        Rc::new(Self { shared, ways, known: RefCell::default(), version: Cell::default() })
    }

    /// A mesh destination; `None`: the target is outside the mesh. Membership is asked when a destination is new and when
    /// the configuration has changed, not for each connection.
    pub(crate) fn get(&self, target: &Target, dialed: Option<EndpointAddr>) -> Option<Rc<Destination>> {
        self.follow();
        let mut known = self.known.borrow_mut();
        if let Some(destination) = known.get(target) {
            destination.used.set(true);
            return destination.in_mesh.get().then(|| Rc::clone(destination));
        }
        let rule = rule(&self.shared.snapshot.load(), target)?;
        let (service, server) = match target {
            Target::Service(key) => {
                (self.shared.service(key, dialed), (Arc::from(key.name.as_str()), key.port))
            }
            Target::Addr(addr) => (Service::fixed(*addr), (Arc::from(addr.ip().to_string()), addr.port())),
        };
        let label = target.label();
        let destination = Rc::new(Destination {
            target: target.clone(),
            dialed,
            server,
            spoken: Cell::default(),
            cluster: Cluster::new(&self.ways, &label, rule, service, Beyond::default()),
            in_mesh: Cell::new(true),
            routes: RefCell::new(routes(&self.shared.program.load(), target)),
            used: Cell::new(true),
            label,
        });
        known.insert(target.clone(), Rc::clone(&destination));
        Some(destination)
    }

    /// What its clusters have in common.
    pub(crate) fn ways(&self) -> &Rc<Ways> {
        &self.ways
    }

    /// Takes a new version of the configuration over.
    pub(crate) fn follow(&self) {
        let snapshot = self.shared.snapshot.load();
        if self.version.replace(snapshot.version) != snapshot.version {
            for destination in self.known.borrow().values() {
                destination.follow(&self.shared, &snapshot);
            }
        }
    }

    /// Takes a new version of the routes over.
    pub(crate) fn reroute(&self) {
        let program = self.shared.program.load();
        for (target, destination) in self.known.borrow().iter() {
            destination.routes.replace(routes(&program, target));
        }
    }

    /// Forgets those that no connection uses, so that memory follows what the pod talks to.
    pub(crate) fn sweep(&self) {
        self.known.borrow_mut().retain(|_, known| known.used.replace(false) || Rc::strong_count(known) > 1);
    }
}

/// The routes that hang on a destination.
fn routes(program: &Program, target: &Target) -> Option<Arc<HttpTable>> {
    match target {
        Target::Service(key) => program.services.get(key).map(Arc::clone),
        Target::Addr(_) => None,
    }
}

/// How long a connection waits for the name of an address, as it waits for a service's endpoints.
const REVERSE: Duration = Duration::from_secs(1);

/// What was dialed: the key of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// An address that DNS gave out for this name, or a listener that stands for it.
    Service(ServiceKey),
    /// An address dialed without a name.
    Addr(EndpointAddr),
}

impl Target {
    /// Finds the name of `dst`: the one that the application got this address for from DNS, or, within the cluster's service
    /// ranges, the one that DNS has for it. What it says inside the connection (Host, SNI) is not looked at, because it may
    /// say what it likes.
    pub(crate) async fn of(shared: &Shared, dst: OriginalDst) -> Self {
        let service = |name| Self::Service(ServiceKey::new(name, dst.port()));
        let addr = || Self::Addr(EndpointAddr::new(dst.get()));
        let outside = match shared.discovery.name_of(dst.ip()) {
            Some(named) if !named.outside => return service(named.name),
            named => named.map(|named| named.name),
        };
        // Whoever answers for an outside name can answer with any address: it takes none out of the mesh's own.
        if shared.snapshot.load().membership.is_service_range(dst.ip()) {
            return Self::by_reverse(shared, dst, outside).await.map_or_else(addr, service);
        }
        let is_mesh = || shared.snapshot.load().membership.of_addr(dst.ip()) != AddrVerdict::Outside;
        match outside {
            Some(name) if !is_mesh() => service(name),
            _ => addr(),
        }
    }

    /// The name of an address in a service range. `asked` is the name outside the mesh that the application has asked for.
    /// A name that is no service's (no pattern of `mesh.domains` is for it) is not believed: then the address is judged.
    async fn by_reverse(shared: &Shared, dst: OriginalDst, asked: Option<DnsName>) -> Option<DnsName> {
        let found = tokio::time::timeout(REVERSE, shared.discovery.name_by_reverse(dst.ip())).await;
        let snapshot = shared.snapshot.load();
        let is_service =
            |name: &DnsName| snapshot.membership.of_name(name) != NameVerdict::Outside(Outside::NoDomain);
        // Of names that are told one way only, those alone are believed that the configuration has put outside.
        let excepted =
            |name: &DnsName| snapshot.membership.of_name(name) == NameVerdict::Outside(Outside::Exception);
        let name = found.ok().flatten().filter(is_service).or(asked.filter(excepted));
        if name.is_none() {
            tracing::warn!(address = %dst, "an address of a service without a name that DNS has for it: mutual TLS is asked for");
        }
        name
    }

    /// For labels and logs: `name:port` or `ip:port`.
    pub(crate) fn label(&self) -> Arc<str> {
        match self {
            Self::Service(key) => key.to_string().into(),
            Self::Addr(addr) => addr.to_string().into(),
        }
    }
}

/// Tells discovery which names are in the mesh, and how much is asked there: an address that several names have is the
/// strictest one's.
pub(crate) struct Names(pub(crate) Arc<ConfigHandle>);

impl Judge for Names {
    fn version(&self) -> u64 {
        self.0.load().version
    }

    fn standing(&self, name: &DnsName) -> Standing {
        match self.0.load().membership.of_name(name) {
            NameVerdict::Mesh { mode, namespace, .. } => Standing::Inside { mode: mode.of_all(), namespace },
            NameVerdict::Outside(Outside::Exception) => Standing::Excepted,
            NameVerdict::Outside(_) => Standing::Outside,
        }
    }
}

/// What membership says of a destination now; `None`: it is outside.
fn rule(snapshot: &Snapshot, target: &Target) -> Option<MeshRule> {
    match target {
        Target::Service(key) => match snapshot.membership.of_name(&key.name) {
            NameVerdict::Mesh { mode, peer, affinity, .. } => Some(MeshRule { mode, peer, affinity }),
            NameVerdict::Outside(_) => None,
        },
        Target::Addr(addr) => match snapshot.membership.of_addr(addr.ip()) {
            AddrVerdict::Mesh { mode, peer } => Some(MeshRule::new(mode.into(), peer)),
            AddrVerdict::Outside => None,
        },
    }
}
