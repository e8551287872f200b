//! DNS as the discovery system: the intercepting server, the resolver, and endpoint sets.
//!
//! A sidecar answers the DNS queries of its pod. That gives it three things at once: a cache that survives an outage of
//! the cluster's DNS, the name behind every address that the application dials (for TCP, where nothing else tells it),
//! and the endpoints of exactly the services that the pod talks to, without a control plane pushing the rest.
//!
//! * [`Discovery`] is the handle that workers hold: [`Discovery::name_of`] and [`Discovery::watch`].
//! * [`DiscoveryTask`] does the work, on the control thread: the server on [`DnsListeners`] and the refreshes.
//!
//! Inside: `wire` (bytes to bytes, no I/O), `servers` (which to ask), `upstream` (asks them), `edns` (who takes it), `resolver` (cache, coalescing,
//! stale answers), `server` (the application's side), `standing` (which names are in the mesh, and which of a chain is meant),
//! `learned` (names by address), `reverse` (names of addresses that nobody asked a name for), `endpoints` (from a service to its endpoints) and `services` (who watches what). `docs/design/discovery.md` has the reasons.

mod bounded;
mod config;
mod edns;
mod endpoints;
mod error;
mod exercise;
mod learned;
mod lookup;
mod resolv_conf;
mod resolver;
mod reverse;
mod server;
mod servers;
mod services;
mod standing;
mod stats;
mod upstream;
mod wire;

use std::collections::HashMap;
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
pub use learned::Named;
pub use resolv_conf::ResolvConf;
pub use server::DnsListeners;
pub use services::ServiceWatch;
pub use standing::{Judge, Standing};
pub use stats::{Counter, DiscoveryStats, ServiceStatus};

use learned::{Again, Learned};
use resolver::Resolver;
use server::Server;
use services::{Service, Services};
use wire::{Kind, Query, TYPE_A, TYPE_AAAA};

/// Mesh names that are asked for again at a time, so that an idle sidecar's memory is no load on the cluster's DNS.
const ASK_AGAIN: usize = 32;
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

    /// The name that the application got `ip` for when it last asked: the question's, or the name inside the mesh that a
    /// chain of CNAMEs led to and that owns the address. A mesh name goes before any other, of several the one that asks most
    /// of its peer ([`Discovery::judge_names`]), and of equals the latest. Prolongs the memory of it.
    pub fn name_of(&self, ip: IpAddr) -> Option<Named> {
        self.learned.name_of(ip, Instant::now())
    }

    /// The name of `ip` by DNS' own account: what its reverse record says, where the answer for that name has the address. A
    /// mesh name goes before any other. Mesh names are remembered as if the application had asked for them; others are not,
    /// so that they are asked for again (of the cache, as a rule). For addresses that are known to be a cluster's own.
    pub async fn name_by_reverse(&self, ip: IpAddr) -> Option<DnsName> {
        let names = reverse::names_of(&self.resolver, ip).await;
        for (name, ttl) in &names {
            if self.learned.is_mesh(name) {
                self.learned.remember(name, &[ip], *ttl, Instant::now());
            }
        }
        match self.learned.name_of(ip, Instant::now()) {
            Some(named) if !named.outside => Some(named.name),
            _ => names.into_iter().next().map(|(name, _)| name),
        }
    }

    /// Sets who says which names are in the mesh, so that no other name can take a service's address away from it. Only the
    /// first call counts; without one all names are outside.
    pub fn judge_names(&self, judge: impl Judge + 'static) {
        self.learned.judge_by(judge);
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

    /// What the answers in the cache take, in octets.
    pub fn cached_octets(&self) -> usize {
        self.resolver.cached_octets()
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
                    let learned = Arc::clone(&self.discovery.learned);
                    learned.sweep(Instant::now());
                    tasks.spawn(ask_again(learned, Arc::clone(&resolver)));
                }
            }
        }
    }
}

/// Asks for mesh names whose time is over: what an application has once been told is a mesh address stays one until the
/// name's own answer says otherwise. Where DNS does not answer, it is asked at the next turn.
async fn ask_again(learned: Arc<Learned>, resolver: Arc<Resolver>) {
    let mut answers = HashMap::new();
    for (name, v6) in learned.unsure(ASK_AGAIN, Instant::now()) {
        let query = Query::new(&name, if v6 { TYPE_AAAA } else { TYPE_A });
        let answer = match resolver.resolve(&query, None).await {
            Ok(found) if !found.is_stale() && found.answer.kind == Kind::Positive => {
                Again::Has(found.answer.addresses.to_vec(), found.remaining())
            }
            Ok(found) if !found.is_stale() && found.answer.kind == Kind::Negative => Again::Denied,
            _ => continue,
        };
        answers.insert((name, v6), answer);
    }
    if !answers.is_empty() {
        learned.settle(&answers, Instant::now());
    }
}

/// Everything that is done with bytes from a network, without one: `request` as from the application, `answer` as from
/// an upstream server. For fuzz targets; returns the packets that would be sent to the application.
pub fn exercise_wire(request: &[u8], answer: &[u8]) -> Vec<Vec<u8>> {
    wire::exercise(request, answer)
}

/// What is known of mesh addresses after `answers`, packets of upstream servers of which those about names outside the mesh
/// are learned from. For fuzz targets: it must not depend on them.
pub fn exercise_names(answers: &[&[u8]]) -> Vec<Option<Named>> {
    exercise::names(answers)
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

    struct AllInside;

    impl Judge for AllInside {
        fn version(&self) -> u64 {
            1
        }

        fn standing(&self, _: &DnsName) -> Standing {
            Standing::Inside { mode: weft_core::MtlsMode::Strict, namespace: "shop".parse().unwrap() }
        }
    }

    #[tokio::test]
    async fn a_mesh_name_whose_time_is_over_is_asked_for_again() {
        // Answers everything with 10.0.0.1.
        let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = server.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let mut packet = [0; 512];
            loop {
                let (length, client) = server.recv_from(&mut packet).await.unwrap();
                // The question alone, without the OPT record at the end; then one A record.
                let mut answer = packet[..length - 11].to_vec();
                answer[2..12].copy_from_slice(&[0x80, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]);
                server.send_to(&answer, client).await.unwrap();
            }
        });
        let upstreams = Upstreams::Servers(vec![addr]);
        let config =
            DiscoveryConfig { upstreams, learned_grace: Duration::ZERO, ..DiscoveryConfig::default() };
        let (discovery, _task) = Discovery::new(config);
        discovery.judge_names(AllInside);
        let both = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let orders = "orders.shop.x".parse().unwrap();
        discovery.learned.remember(&orders, &both, Duration::ZERO, Instant::now());
        ask_again(Arc::clone(&discovery.learned), Arc::clone(&discovery.resolver)).await;
        assert_eq!(both.map(|ip| discovery.name_of(ip).is_some()), [true, false]);
        assert_eq!(discovery.learned.unsure(9, Instant::now()), []);
        answering.abort();
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
