//! What all threads of the process share. Everything a worker reads here is an atomic load.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tokio::runtime::Handle;
use weft_balance::{EndpointSet, Timestamp};
use weft_config::{ConfigHandle, ProxyConfig};
use weft_core::{AppProtocol, Drain, EndpointAddr, EndpointList, EndpointSource, OriginalDst, ServiceKey};
use weft_discovery::{Discovery, ServiceWatch};
use weft_identity::Identity;
use weft_resource::value::BackendHost;
use weft_telemetry::{AccessLog, Registry, Sampler, SpanSink};

use crate::connections::Connections;
use crate::gateway::doors::DoorStatus;
use crate::program::ProgramHandle;

/// How often to ask for a refresh while a request waits for one; discovery makes at most one a second.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_millis(250);

/// The process-wide state, made before the workers start.
pub(crate) struct Shared {
    pub(crate) config: ProxyConfig,
    pub(crate) snapshot: Arc<ConfigHandle>,
    pub(crate) identity: Identity,
    pub(crate) discovery: Discovery,
    /// The workload's own addresses: a call to one of them goes through its own inbound side.
    pub(crate) own_addrs: Vec<IpAddr>,
    pub(crate) drain: Drain,
    /// The control thread, for following services.
    pub(crate) control: Handle,
    pub(crate) registry: Registry,
    pub(crate) sampler: Arc<Sampler>,
    pub(crate) spans: Option<SpanSink>,
    pub(crate) access: AccessLog,
    pub(crate) connections: Connections,
    pub(crate) trim: fn(),
    pub(crate) services: Services,
    /// Gateways and routes in force.
    pub(crate) program: Arc<ProgramHandle>,
    /// The ports of a gateway.
    pub(crate) doors: Arc<DoorStatus>,
}

/// The services that workers hold, shared between them.
#[derive(Debug, Default)]
pub(crate) struct Services(Mutex<HashMap<ServiceKey, Weak<Service>>>);

impl Shared {
    /// Whether `ip` is the workload itself.
    pub(crate) fn is_own(&self, ip: IpAddr) -> bool {
        self.own_addrs.contains(&ip)
    }

    /// Whether a captured inbound connection may go on to `ip`: to the workload itself, and to nobody else. Anyone on the
    /// same network can address a packet to the pod's interface and to any IP, loopback ones included, and the rules
    /// redirect it before the kernel would have thrown it away. Interfaces may get addresses after the start, so they
    /// are asked again where the known ones do not have it.
    pub(crate) fn is_served(&self, ip: IpAddr) -> bool {
        self.is_own(ip) || interface_addrs().is_ok_and(|addrs| addrs.contains(&ip))
    }

    /// Whether a captured connection leads to this proxy itself, and so would come back for ever.
    pub(crate) fn is_loop(&self, dst: OriginalDst) -> bool {
        let own = dst.ip().is_loopback() || self.is_own(dst.ip());
        own && self.config.bind.takes(dst.get())
    }

    /// The endpoints of a service, shared by all workers: those that the configuration lists, or those that discovery finds,
    /// followed by one task on the control thread for as long as a worker holds it.
    pub(crate) fn service(&self, key: &ServiceKey, dialed: Option<EndpointAddr>) -> Arc<Service> {
        let mut services = self.services.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = services.get(key).and_then(Weak::upgrade);
        let snapshot = self.snapshot.load();
        let listed = snapshot.services.get(key).map(|service| {
            let endpoints = service.endpoints.to_vec();
            EndpointList::new(snapshot.version, endpoints, service.protocol, EndpointSource::Static)
        });
        let service = match (known, listed) {
            (Some(known), Some(list)) if known.is_listed() => {
                known.list(&list);
                return known;
            }
            (Some(known), None) if !known.is_listed() => return known,
            (_, Some(list)) => Service::listed(&list),
            (_, None) => {
                let watch = self.discovery.watch(key, dialed);
                let service =
                    Arc::new(Service { set: OnceLock::new(), source: Source::Watched(watch.clone()) });
                self.control.spawn(follow(Arc::downgrade(&service), watch));
                service
            }
        };
        services.retain(|_, service| service.strong_count() > 0);
        services.insert(key.clone(), Arc::downgrade(&service));
        service
    }
}

impl Shared {
    /// The endpoints of hosts and addresses outside the mesh, followed by a task for each name for as long as a worker holds them.
    pub(crate) fn hosts(&self, hosts: &[(BackendHost, u16)]) -> Arc<Service> {
        let (mut watches, mut fixed) = (Vec::new(), Vec::new());
        for (host, port) in hosts {
            match host {
                BackendHost::Address(ip) => fixed.push(EndpointAddr::new((*ip, *port).into())),
                // No name server is asked about it (RFC 6761 section 6.3).
                BackendHost::Name(name) if name.as_str() == "localhost" => {
                    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
                    fixed.extend(loopback.map(|ip| EndpointAddr::new((ip, *port).into())));
                }
                BackendHost::Name(name) => {
                    if let Ok(name) = name.as_str().parse() {
                        watches.push(self.discovery.watch(&ServiceKey::new(name, *port), None));
                    }
                }
            }
        }
        if watches.is_empty() {
            return Service::listed(&EndpointList::new(
                1,
                fixed,
                AppProtocol::Detect,
                EndpointSource::Static,
            ));
        }
        let service =
            Arc::new(Service { set: OnceLock::new(), source: Source::Hosts(Hosts::new(watches, fixed)) });
        for watch in service.hosts() {
            self.control.spawn(follow(Arc::downgrade(&service), watch.clone()));
        }
        service
    }
}

/// The addresses of this network namespace, without those of loopback.
///
/// # Errors
/// The kernel does not list them.
pub(crate) fn interface_addrs() -> std::io::Result<Vec<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs().map_err(std::io::Error::from)?;
    let mut found: Vec<IpAddr> = interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|ip| !ip.is_loopback())
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The endpoints of one service and their state, for all workers.
#[derive(Debug)]
pub(crate) struct Service {
    set: OnceLock<EndpointSet>,
    source: Source,
}

/// Where endpoints come from.
#[derive(Debug)]
enum Source {
    /// The configuration.
    Listed,
    /// DNS.
    Watched(ServiceWatch),
    /// DNS for several names, and addresses besides.
    Hosts(Hosts),
}

#[derive(Debug)]
struct Hosts {
    watches: Vec<ServiceWatch>,
    fixed: Vec<EndpointAddr>,
    /// Counts the lists that were made of theirs.
    version: AtomicU64,
}

impl Hosts {
    fn new(watches: Vec<ServiceWatch>, fixed: Vec<EndpointAddr>) -> Self {
        Self { watches, fixed, version: AtomicU64::new(0) }
    }

    /// All that is known of them.
    fn list(&self) -> EndpointList {
        let known = self.watches.iter().filter_map(ServiceWatch::current);
        let mut endpoints: Vec<EndpointAddr> = known.flat_map(|list| list.endpoints.to_vec()).collect();
        endpoints.extend(&self.fixed);
        endpoints.sort_unstable();
        endpoints.dedup();
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        EndpointList::new(version, endpoints, AppProtocol::Detect, EndpointSource::Static)
    }
}

impl Service {
    /// The service of an address that was dialed without a name: that address.
    pub(crate) fn fixed(addr: EndpointAddr) -> Arc<Self> {
        Self::listed(&EndpointList::new(1, vec![addr], AppProtocol::Detect, EndpointSource::Dialed))
    }

    /// A service whose endpoints are listed.
    pub(crate) fn listed(list: &EndpointList) -> Arc<Self> {
        let set = OnceLock::new();
        let _ = set.set(EndpointSet::new(list, Timestamp::now()));
        Arc::new(Self { set, source: Source::Listed })
    }

    /// Whether its endpoints come from the configuration.
    fn is_listed(&self) -> bool {
        matches!(self.source, Source::Listed)
    }

    /// Takes another list over, where it says something else.
    fn list(&self, list: &EndpointList) {
        let same = self.set.get().map(EndpointSet::load).is_some_and(|current| {
            let endpoints = current.endpoints.iter().map(|endpoint| endpoint.addr());
            current.protocol == list.protocol && endpoints.eq(list.endpoints.iter().copied())
        });
        if !same {
            self.take(list);
        }
    }

    /// The endpoints, once the first resolution has ended.
    pub(crate) async fn ready(&self) -> Option<&EndpointSet> {
        if self.set.get().is_none() {
            match &self.source {
                Source::Listed => {}
                Source::Watched(watch) => {
                    let list = watch.clone().ready().await;
                    self.take(&list);
                }
                Source::Hosts(hosts) => {
                    for watch in &hosts.watches {
                        watch.clone().ready().await;
                    }
                    self.take(&hosts.list());
                }
            }
        }
        self.set.get()
    }

    /// The endpoints, if they are known yet.
    pub(crate) fn known(&self) -> Option<&EndpointSet> {
        self.set.get()
    }

    /// Waits until DNS names an endpoint besides `tried`, asking it as often as it may be asked. `false`: it never will.
    pub(crate) async fn other_than(&self, tried: &[EndpointAddr]) -> bool {
        let Source::Watched(watch) = &self.source else { return false };
        let mut watch = watch.clone();
        let mut list = watch.ready().await;
        while list.endpoints.iter().all(|endpoint| tried.contains(endpoint)) {
            watch.refresh_soon();
            if let Ok(changed) = tokio::time::timeout(ASK_AGAIN, watch.changed()).await {
                list = changed;
            }
        }
        self.take(&list);
        true
    }

    /// Asks DNS again before the TTL is over, because an endpoint did not answer.
    pub(crate) fn refresh_soon(&self) {
        for watch in self.hosts() {
            watch.refresh_soon();
        }
    }

    /// The names that are followed.
    fn hosts(&self) -> &[ServiceWatch] {
        match &self.source {
            Source::Listed => &[],
            Source::Watched(watch) => std::slice::from_ref(watch),
            Source::Hosts(hosts) => &hosts.watches,
        }
    }

    /// One of the names has this list now.
    fn follow(&self, list: &EndpointList) {
        match &self.source {
            Source::Hosts(hosts) => self.take(&hosts.list()),
            Source::Listed | Source::Watched(_) => self.take(list),
        }
    }

    fn take(&self, list: &EndpointList) {
        let now = Timestamp::now();
        self.set.get_or_init(|| EndpointSet::new(list, now)).update(list, now);
    }
}

async fn follow(service: Weak<Service>, mut watch: ServiceWatch) {
    let mut list = watch.ready().await;
    while let Some(service) = service.upgrade() {
        service.follow(&list);
        drop(service);
        list = watch.changed().await;
    }
}
