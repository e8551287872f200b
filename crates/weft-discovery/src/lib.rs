//! DNS as the discovery system: the intercepting server, the resolver, and endpoint sets.
//!
//! A sidecar answers the DNS queries of its pod. That gives it three things at once: a cache that survives an outage of
//! the cluster's DNS, the name behind every address that the application dials (for TCP, where nothing else tells it),
//! and the endpoints of exactly the services that the pod talks to, without a control plane pushing the rest.
//!
//! * [`Discovery`] is the handle that workers hold: [`Discovery::name_of`] and [`Discovery::watch`].
//! * [`DiscoveryTask`] does the work, on the control thread: the server on [`DnsListeners`] and the refreshes.
//!
//! Inside: `wire` (bytes to bytes, no I/O), `upstream` (asks servers), `resolver` (cache, coalescing, stale answers),
//! `server` (the application's side), `learned` (names by address), `endpoints` (from a service to its endpoints) and
//! `services` (who watches what). `docs/design/discovery.md` has the reasons.

mod bounded;
mod config;
mod endpoints;
mod error;
mod learned;
mod lookup;
mod resolv_conf;
mod resolver;
mod server;
mod services;
mod stats;
mod upstream;
mod wire;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use weft_core::{DnsName, Drain, EndpointAddr, ServiceKey};

pub use config::{DiscoveryConfig, StaticService, Upstreams};
pub use endpoints::protocol_of_label;
pub use error::DiscoveryError;
pub use resolv_conf::ResolvConf;
pub use server::DnsListeners;
pub use services::ServiceWatch;
pub use stats::{Counter, DiscoveryStats, ServiceStatus};

use learned::Learned;
use resolver::Resolver;
use server::Server;
use services::{Service, Services};

/// How often what has run out is forgotten. Both maps are bounded; this only gives memory back.
const SWEEP: Duration = Duration::from_secs(60);

/// The handle on discovery; clones share it, from any thread.
#[derive(Clone, Debug)]
pub struct Discovery {
    learned: Arc<Learned>,
    services: Arc<Services>,
    resolver: Arc<Resolver>,
}

/// The work behind [`Discovery`]; without it running, watches give the dialed address only once it is dropped.
#[derive(Debug)]
pub struct DiscoveryTask {
    discovery: Discovery,
    server: Arc<Server>,
    started: mpsc::UnboundedReceiver<Arc<Service>>,
}

impl Discovery {
    /// The handle and its task. Nothing is done before the task runs.
    pub fn new(config: DiscoveryConfig) -> (Self, DiscoveryTask) {
        let stats = Arc::new(DiscoveryStats::default());
        let (tx, started) = mpsc::unbounded_channel();
        let resolver = Arc::new(Resolver::new(&config, Arc::clone(&stats)));
        let learned = Arc::new(Learned::new(config.learned_entries, config.learned_grace));
        let server = Arc::new(Server::new(&config, Arc::clone(&resolver), Arc::clone(&learned)));
        let services = Arc::new(Services::new(config, stats, tx));
        let discovery = Self { learned, services, resolver };
        let task = DiscoveryTask { discovery: discovery.clone(), server, started };
        (discovery, task)
    }

    /// The name that the application asked for when it last got `ip` as an answer: the question's name, not the name
    /// that a CNAME led to. Where several names gave it, the one of the highest rank ([`Discovery::rank_names`]), and of
    /// equals the latest. Prolongs the memory of it.
    pub fn name_of(&self, ip: IpAddr) -> Option<DnsName> {
        self.learned.name_of(ip, Instant::now())
    }

    /// Sets how much is asked of a peer at a name, so that no other name can take a service's address away from it. Only
    /// the first call counts; without one all names are equal. `rank` is called for connections, so it should be quick.
    pub fn rank_names(&self, rank: impl Fn(&DnsName) -> u8 + Send + Sync + 'static) {
        self.learned.rank_by(rank);
    }

    /// The endpoints of `key`, whose address `dialed` an application has just dialed; without one, DNS alone tells, and
    /// the list may be empty. Starts following the service, or joins those who do; following ends a while after the last
    /// watch was dropped. Every call is a query to DNS the first time, so call it for destinations inside the mesh.
    pub fn watch(&self, key: &ServiceKey, dialed: impl Into<Option<EndpointAddr>>) -> ServiceWatch {
        self.services.watch(key, dialed.into())
    }

    /// Like [`ServiceWatch::refresh_soon`], by key.
    pub fn refresh_soon(&self, key: &ServiceKey) {
        self.services.refresh_soon(key);
    }

    /// The counters.
    pub fn stats(&self) -> &DiscoveryStats {
        &self.resolver.stats
    }

    /// Answers in the cache.
    pub fn cached_answers(&self) -> usize {
        self.resolver.cached_answers()
    }

    /// Addresses whose name is known.
    pub fn learned_addresses(&self) -> usize {
        self.learned.len()
    }

    /// All followed services, by name.
    pub fn snapshot(&self) -> Vec<ServiceStatus> {
        self.services.status()
    }
}

impl DiscoveryTask {
    /// Serves DNS on `listeners` and keeps watched services up to date, until `drain` closes. It goes on through the
    /// draining phase, in which the application may still call others.
    ///
    /// # Errors
    /// [`DiscoveryError::Listen`] if a socket cannot be used on this runtime.
    pub async fn run(mut self, listeners: DnsListeners, mut drain: Drain) -> Result<(), DiscoveryError> {
        let resolver = Arc::clone(&self.discovery.resolver);
        resolver.upstream.set_own(listeners.addrs());
        // Aborts its tasks when this function ends.
        let mut tasks = JoinSet::new();
        for socket in listeners.udp {
            let socket = adopt_udp(socket)?;
            tasks.spawn(Arc::clone(&self.server).serve_udp(socket));
        }
        for listener in listeners.tcp {
            let listener = adopt_tcp(listener)?;
            tasks.spawn(Arc::clone(&self.server).serve_tcp(listener));
        }
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                () = drain.closed() => return Ok(()),
                Some(service) = self.started.recv() => {
                    let services = Arc::clone(&self.discovery.services);
                    tasks.spawn(services.keep(service, Arc::clone(&resolver)));
                }
                Some(_) = tasks.join_next() => {}
                _ = sweep.tick() => {
                    resolver.sweep();
                    self.discovery.learned.sweep(Instant::now());
                }
            }
        }
    }
}

/// Everything that is done with bytes from a network, without one: `request` as from the application, `answer` as from
/// an upstream server. For fuzz targets; returns the packets that would be sent to the application.
pub fn exercise_wire(request: &[u8], answer: &[u8]) -> Vec<Vec<u8>> {
    wire::exercise(request, answer)
}

impl Drop for DiscoveryTask {
    fn drop(&mut self) {
        self.discovery.services.close();
    }
}

fn adopt_udp(socket: std::net::UdpSocket) -> Result<tokio::net::UdpSocket, DiscoveryError> {
    let addr = socket.local_addr().unwrap_or_else(|_| unspecified());
    if addr.ip().is_unspecified() {
        return Err(DiscoveryError::Wildcard(addr));
    }
    let adopt = || {
        socket.set_nonblocking(true)?;
        tokio::net::UdpSocket::from_std(socket)
    };
    adopt().map_err(|source| DiscoveryError::Listen { addr, source })
}

fn adopt_tcp(listener: std::net::TcpListener) -> Result<tokio::net::TcpListener, DiscoveryError> {
    let addr = listener.local_addr().unwrap_or_else(|_| unspecified());
    let adopt = || {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    adopt().map_err(|source| DiscoveryError::Listen { addr, source })
}

fn unspecified() -> std::net::SocketAddr {
    (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_go_to_every_worker() {
        fn shared<T: Clone + Send + Sync + 'static>() {}
        shared::<Discovery>();
        shared::<ServiceWatch>();
    }

    #[tokio::test]
    async fn a_wildcard_socket_is_refused_when_it_is_handed_over_too() {
        let (_discovery, task) = Discovery::new(DiscoveryConfig::default());
        let udp = vec![std::net::UdpSocket::bind("0.0.0.0:0").unwrap()];
        let (_trigger, drain) = weft_core::drain();
        let ended = task.run(DnsListeners { udp, tcp: Vec::new() }, drain).await;
        assert!(matches!(ended, Err(DiscoveryError::Wildcard(_))), "{ended:?}");
    }
}
