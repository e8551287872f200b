//! What a request needs, compiled.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_core::{ProxyProtocol, ServiceKey};
use weft_resource::ResourceId;
use weft_resource::http::SessionPersistence;
use weft_resource::value::{BackendHost, HostPattern, PreciseHost};

use crate::filter::Filters;
use crate::table::{HostTable, HttpTable};

/// One version of all listeners and routes: immutable, shared by the workers.
#[derive(Debug, Default)]
pub struct Program {
    /// What is to be listened on, by port.
    pub sockets: Vec<Arc<Sockets>>,
    /// Routes of services that workloads dial (GAMMA).
    pub services: HashMap<ServiceKey, Arc<HttpTable>>,
    /// Every upstream that a rule leads to, once.
    pub upstreams: HashSet<Arc<Upstream>>,
}

/// One port: the listeners that share it, told apart by host or server name.
#[derive(Debug)]
pub struct Sockets {
    /// The port.
    pub port: u16,
    /// The addresses; empty: all.
    pub addresses: Vec<IpAddr>,
    /// Whether clients begin with TLS: HTTPS and TLS listeners share a port, HTTP ones another, a TCP one has its own.
    pub kind: SocketKind,
    /// The listeners by host name; for [`SocketKind::Tcp`] the single one is that of every name.
    pub listeners: HostTable<Arc<Listener>>,
}

/// What clients begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// A request in plaintext.
    Http,
    /// A ClientHello.
    Tls,
    /// Anything.
    Tcp,
    /// A ClientHello of a sidecar.
    Mesh,
}

/// Which listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId {
    /// The gateway's namespace.
    pub namespace: Arc<str>,
    /// The gateway's name.
    pub gateway: Arc<str>,
    /// The listener's.
    pub name: Arc<str>,
}

impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.gateway, self.name)
    }
}

/// What the listeners of one gateway have in common.
#[derive(Debug, Default, PartialEq)]
pub struct Gateway {
    /// The certificate that is shown to backends.
    pub client_certificate: Option<Arc<Certificate>>,
}

/// One listener with what hangs on it.
#[derive(Debug)]
pub struct Listener {
    /// Which.
    pub id: ListenerId,
    /// The same as text, for metrics and logs.
    pub label: Arc<str>,
    /// Its port.
    pub port: u16,
    /// The host names it takes; `None`: all.
    pub hostname: Option<HostPattern>,
    /// What it does.
    pub kind: ListenerKind,
    /// Its gateway.
    pub gateway: Arc<Gateway>,
}

/// What a listener does.
#[derive(Debug)]
pub enum ListenerKind {
    /// Requests in plaintext.
    Http(Arc<HttpTable>),
    /// Requests over TLS.
    Https(TlsTermination, Arc<HttpTable>),
    /// Bytes over TLS, terminated; rules by server name.
    Tls(TlsTermination, HostTable<Arc<L4Rule>>),
    /// TLS passed through; rules by server name.
    Passthrough(HostTable<Arc<L4Rule>>),
    /// Bytes.
    Tcp(Option<Arc<L4Rule>>),
    /// Requests of the mesh's own workloads.
    Mesh(Arc<HttpTable>),
}

/// How a listener terminates TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsTermination {
    /// The certificates; at least one.
    pub certificates: Vec<Arc<Certificate>>,
    /// Whether clients show one.
    pub clients: Option<Arc<ClientValidation>>,
}

/// A certificate chain with its key, both PEM, read and found to be such.
#[derive(PartialEq, Eq)]
pub struct Certificate {
    /// Where it comes from.
    pub id: ResourceId,
    /// The chain, leaf first.
    pub chain: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("id", &self.id).finish_non_exhaustive()
    }
}

/// How certificates of clients are checked.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientValidation {
    /// Who vouches for them: PEM.
    pub roots: Vec<Vec<u8>>,
    /// A client without a valid one is served all the same, as one without any.
    pub insecure_fallback: bool,
}

/// Which rule of which route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleId {
    /// The route.
    pub route: ResourceId,
    /// The rule's place in it, from 0.
    pub index: usize,
    /// Its name, where it has one.
    pub name: Option<Arc<str>>,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} rule {name}", self.route),
            None => write!(f, "{} rule {}", self.route, self.index),
        }
    }
}

/// One rule of an HTTPRoute or GRPCRoute, for requests that were found to be its.
#[derive(Debug)]
pub struct Rule {
    /// Which.
    pub id: RuleId,
    /// `namespace/name` of the route, for metrics, spans and logs.
    pub label: Arc<str>,
    /// Whether it comes from a GRPCRoute: its failures are told in gRPC.
    pub grpc: bool,
    /// What is done to every request.
    pub filters: Filters,
    /// Where requests go.
    pub backends: Backends,
    /// How long a request may take, all tries included. `Some(None)`: for ever. `None`: what the process has.
    pub request_timeout: Option<Option<Duration>>,
    /// How long one try may take.
    pub try_timeout: Option<Duration>,
    /// Whether it is tried again.
    pub retry: Option<RetryPolicy>,
    /// Whether a client keeps its endpoint.
    pub session: Option<SessionPersistence>,
}

/// When a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Statuses that are tried again; 5xx and no others, besides failures to connect.
    pub codes: Vec<u16>,
    /// Further tries at most.
    pub attempts: u32,
    /// How long to wait before a further try at least.
    pub backoff: Duration,
}

/// The backends of a rule, each with its share.
#[derive(Debug, Default)]
pub struct Backends {
    list: Vec<Backend>,
    /// Sums of the weights up to each.
    sums: Vec<u64>,
}

/// One backend of a rule.
#[derive(Debug)]
pub struct Backend {
    /// Its share.
    pub weight: u32,
    /// Where its requests go, or why they cannot.
    pub upstream: Result<Arc<Upstream>, BackendProblem>,
    /// What is done to its requests, after the rule's filters.
    pub filters: Filters,
}

/// Why a backend cannot serve: its share of requests is answered with 500, as the Gateway API wants it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendProblem {
    /// It is not there.
    #[error("there is no {0}")]
    NotFound(ResourceId),
    /// It is in another namespace, and nothing there grants the reference.
    #[error("no ReferenceGrant in namespace {} lets this route refer to {}", .0.namespace, .0)]
    NotPermitted(ResourceId),
    /// No such kind can be a backend.
    #[error("`{0}` is no kind of a backend")]
    InvalidKind(String),
    /// The service has no such port, or the reference has none.
    #[error("{0}")]
    InvalidPort(String),
    /// A filter on it cannot be carried out.
    #[error("{0}")]
    InvalidFilter(String),
    /// What is to secure the way to it is wrong; plaintext is no substitute.
    #[error("{0}")]
    InvalidTls(String),
    /// It speaks something that the route does not.
    #[error("{0}")]
    UnsupportedProtocol(String),
}

impl Backends {
    /// These backends.
    pub fn new(list: Vec<Backend>) -> Self {
        let mut sum = 0;
        let sums = list.iter().map(|backend| {
            sum += u64::from(backend.weight);
            sum
        });
        Self { sums: sums.collect(), list }
    }

    /// All of them, those with weight 0 included.
    pub fn iter(&self) -> impl Iterator<Item = &Backend> {
        self.list.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The sum of the weights.
    pub fn total(&self) -> u64 {
        self.sums.last().copied().unwrap_or(0)
    }

    /// The backend for a request, by shares. `None`: there is none, or all have weight 0.
    pub fn pick(&self, rng: &mut fastrand::Rng) -> Option<&Backend> {
        self.get(self.place(rng)?)
    }

    /// The same by its place among all.
    pub fn place(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        match self.total() {
            0 => None,
            _ if self.list.len() == 1 => Some(0),
            total => {
                let point = rng.u64(..total);
                Some(self.sums.partition_point(|sum| *sum <= point))
            }
        }
    }

    /// The backend whose share has this point.
    pub fn at(&self, point: u64) -> Option<&Backend> {
        self.get(self.sums.partition_point(|sum| *sum <= point))
    }

    /// The backend at a place.
    pub fn get(&self, place: usize) -> Option<&Backend> {
        self.list.get(place)
    }
}

/// One rule of a TLSRoute or TCPRoute.
#[derive(Debug)]
pub struct L4Rule {
    /// Which.
    pub id: RuleId,
    /// `namespace/name` of the route.
    pub label: Arc<str>,
    /// Where connections go.
    pub backends: Backends,
}

/// What a worker keeps connections to. Equal ones are one: rules share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// For metrics and logs: `name:port` of a service, `namespace/name` of a `Backend`.
    pub label: Arc<str>,
    /// Where it is.
    pub endpoint: UpstreamEndpoint,
    /// What is spoken to it.
    pub protocol: UpstreamProtocol,
    /// TLS towards it, where it is not in the mesh; `None`: plaintext.
    pub tls: Option<Arc<UpstreamTls>>,
    /// What each connection to it begins with, before TLS; `None`: nothing.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamEndpoint {
    /// A service: its endpoints come from discovery, and membership says whether it is in the mesh.
    Service(ServiceKey),
    /// Hosts and ports that a `Backend` lists: never in the mesh.
    Listed(Vec<(BackendHost, u16)>),
}

/// What is spoken to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// What the client spoke: HTTP/1.1 or HTTP/2 in plaintext; over TLS what ALPN agrees on.
    Any,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: `kubernetes.io/h2c`, or `h2` over TLS.
    Http2,
    /// HTTP/2, and gRPC is what is spoken over it.
    Grpc,
    /// Bytes.
    Tcp,
}

/// TLS towards an upstream outside the mesh.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// The server name that is sent; `None`: the endpoint's host.
    pub server_name: Option<PreciseHost>,
    /// What the certificate must be.
    pub verification: Verification,
    /// The certificate that is shown to it.
    pub client_certificate: Option<Arc<Certificate>>,
}

impl std::hash::Hash for Certificate {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id.hash(state);
        self.chain.hash(state);
    }
}

/// How an upstream's certificate is checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Verification {
    /// Who vouches for it: PEM; `None`: the certificates of the machine.
    pub roots: Option<Vec<Vec<u8>>>,
    /// Names one of which it must have; empty: the server name.
    pub names: Vec<weft_resource::policy::SubjectAltName>,
}
