use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use weft_core::{AppProtocol, EndpointAddr, ServiceKey};

/// Where queries are forwarded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstreams {
    /// These servers, in this order.
    Servers(Vec<SocketAddr>),
    /// The servers and options of a resolv.conf; read again when the file changes. While it cannot be read or names no
    /// server, the last good list stays.
    ResolvConf(PathBuf),
}

/// Endpoints that do not come from DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticService {
    /// The service.
    pub key: ServiceKey,
    /// Its endpoints.
    pub endpoints: Vec<EndpointAddr>,
    /// Its protocol.
    pub protocol: AppProtocol,
}

/// How discovery works; [`Default`] fits a sidecar.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// Where queries go.
    pub upstreams: Upstreams,
    /// The resolv.conf with the search domains of the application, where `upstreams` is not one. Servers may take steps
    /// along them by themselves (CoreDNS' `autopath`), and then they tell which name was meant.
    pub search_from: Option<PathBuf>,
    /// How long one server has for one try. `None`: `options timeout:` of the resolv.conf, else 2 s.
    pub query_timeout: Option<Duration>,
    /// How often the whole list of servers is tried. `None`: `options attempts:` of the resolv.conf, else 2.
    pub attempts: Option<u32>,
    /// Positive answers are kept at least so long, even with a lower TTL. Zero (the default) keeps to the TTL.
    pub min_ttl: Duration,
    /// Positive answers are kept at most so long.
    pub max_ttl: Duration,
    /// Negative answers are kept at most so long (RFC 2308 gives the SOA minimum). Short, because a name that does not
    /// exist yet is normal while a system starts.
    pub max_negative_ttl: Duration,
    /// For so long after its TTL an answer is still given when no upstream server answers (RFC 8767).
    pub max_stale: Duration,
    /// Answers in the cache.
    pub cache_entries: usize,
    /// What they may take together, in octets of memory.
    pub cache_octets: usize,
    /// An answer that takes more is passed on and not kept.
    pub answer_octets: usize,
    /// Addresses whose names are remembered.
    pub learned_entries: usize,
    /// An address keeps its name for so long after it was last answered or last connected to.
    pub learned_grace: Duration,
    /// Upstream queries under way at a time; four times as many of the application's queries may wait for them.
    pub max_in_flight: usize,
    /// TCP connections of the application at a time.
    pub tcp_connections: usize,
    /// A TCP connection without a query is closed after so long (RFC 7766 section 6.2.3).
    pub tcp_idle: Duration,
    /// Endpoints are not refreshed more often than this, whatever the TTL.
    pub refresh_floor: Duration,
    /// How long the first connection to a service may wait for its endpoints; after that the dialed address serves
    /// until DNS answers.
    pub first_wait: Duration,
    /// A service that nobody watches is dropped after so long.
    pub idle_after: Duration,
    /// Services followed at a time; one beyond that gets its dialed address.
    pub max_services: usize,
    /// Names of ports: SRV `_<label>._tcp.<name>` is asked for a service on that port after `_p<port>._tcp.<name>`,
    /// and the label names the protocol ([`crate::protocol_of_label`]).
    pub srv_labels: HashMap<u16, String>,
    /// Services that do not come from DNS.
    pub statics: Vec<StaticService>,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            upstreams: Upstreams::ResolvConf("/etc/resolv.conf".into()),
            search_from: None,
            query_timeout: None,
            attempts: None,
            min_ttl: Duration::ZERO,
            max_ttl: Duration::from_secs(3600),
            max_negative_ttl: Duration::from_secs(30),
            max_stale: Duration::from_secs(3600),
            cache_entries: 4096,
            // 2 KiB for each of the entries on average, where most answers take a quarter of that.
            cache_octets: 8 << 20,
            // A thousand addresses and more; at least 128 of the largest fit.
            answer_octets: 64 << 10,
            learned_entries: 16_384,
            learned_grace: Duration::from_secs(3600),
            max_in_flight: 512,
            tcp_connections: 128,
            tcp_idle: Duration::from_secs(10),
            refresh_floor: Duration::from_secs(5),
            first_wait: Duration::from_secs(1),
            idle_after: Duration::from_secs(300),
            max_services: 10_000,
            srv_labels: HashMap::new(),
            statics: Vec::new(),
        }
    }
}
