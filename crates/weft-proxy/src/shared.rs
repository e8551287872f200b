//! What all threads of the process share. Everything a worker reads here is an atomic load.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tokio::runtime::Handle;
use weft_balance::{EndpointSet, Timestamp};
use weft_config::{ConfigHandle, ProxyConfig};
use weft_core::{AppProtocol, Drain, EndpointAddr, EndpointList, EndpointSource, OriginalDst, ServiceKey};
use weft_discovery::{Discovery, ServiceWatch};
use weft_identity::Identity;
use weft_telemetry::{AccessLog, Registry, Sampler, SpanSink};

use crate::connections::Connections;

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
                let service = Arc::new(Service { set: OnceLock::new(), watch: Some(watch.clone()) });
                self.control.spawn(follow(Arc::downgrade(&service), watch));
                service
            }
        };
        services.retain(|_, service| service.strong_count() > 0);
        services.insert(key.clone(), Arc::downgrade(&service));
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
    watch: Option<ServiceWatch>,
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
        Arc::new(Self { set, watch: None })
    }

    /// Whether its endpoints come from the configuration.
    fn is_listed(&self) -> bool {
        self.watch.is_none()
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
        if self.set.get().is_none()
            && let Some(watch) = &self.watch
        {
            let list = watch.clone().ready().await;
            self.take(&list);
        }
        self.set.get()
    }

    /// The endpoints, if they are known yet.
    pub(crate) fn known(&self) -> Option<&EndpointSet> {
        self.set.get()
    }

    /// Waits until DNS names an endpoint besides `tried`, asking it as often as it may be asked. `false`: it never will.
    pub(crate) async fn other_than(&self, tried: &[EndpointAddr]) -> bool {
        let Some(watch) = &self.watch else { return false };
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
        if let Some(watch) = &self.watch {
            watch.refresh_soon();
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
        service.take(&list);
        drop(service);
        list = watch.changed().await;
    }
}
