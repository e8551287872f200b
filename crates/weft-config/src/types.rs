//! The sections of `weft.yaml` as types: what a process is told once, at its start.
//!
//! Each struct is one section. What may change while the process runs is in [`Snapshot`](crate::Snapshot) instead.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use weft_core::{CaCertificates, LogFormat, Namespace, ServiceAccount, SpiffeId, TrustDomain};

use crate::Snapshot;
use crate::edge::EdgeConfig;
use crate::env::Role;
use crate::listeners::Listeners;
use crate::probes::Probe;
use crate::proxy_protocol::ProxyProtocolPorts;
use crate::resources::Resources;
use crate::value::{HostPort, Listen};

/// The whole of `weft.yaml`, validated, with environment and flags applied.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The file it was read from.
    pub path: PathBuf,
    /// For whom it was read.
    pub role: Role,
    /// Who the workload is.
    pub workload: Workload,
    /// How many workers carry traffic.
    pub workers: Workers,
    /// Where the proxy listens.
    pub bind: Bind,
    /// Where the workload's certificate comes from.
    pub identity: IdentityConfig,
    /// The resolver.
    pub dns: DnsConfig,
    /// Traces, access log, resource attributes.
    pub telemetry: TelemetryConfig,
    /// Sizes and counts that bound what a peer can make the proxy hold.
    pub limits: Limits,
    /// Durations.
    pub timeouts: Timeouts,
    /// How HTTP is spoken.
    pub http: HttpConfig,
    /// Retries.
    pub retries: Retries,
    /// What is listened on for one service or one port of the application each.
    pub listeners: Listeners,
    /// Ports of the application that are told who connects.
    pub proxy_protocol: ProxyProtocolPorts,
    /// The application's health checks that the proxy carries out.
    pub probes: Vec<Probe>,
    /// Where gateways and routes come from.
    pub resources: Resources,
    /// What a gateway makes of those who connect to it.
    pub edge: EdgeConfig,
    /// The part that is reloaded while the process runs, as it was at the start.
    pub snapshot: Arc<Snapshot>,
    /// What is odd but no error, such as a `WEFT_*` variable that names no field. To be logged once.
    pub warnings: Vec<String>,
}

/// `workload`: who the proxy stands beside. Used for telemetry labels; the identity comes from the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The pod's name; `None`: the host's name.
    pub name: Option<String>,
    /// The pod's namespace; `None`: the one in the certificate.
    pub namespace: Option<Namespace>,
    /// The pod's service account; `None`: the one in the certificate.
    pub service_account: Option<ServiceAccount>,
    /// The pod's addresses; empty: all addresses of the interfaces at the start, without loopback.
    pub addresses: Vec<IpAddr>,
}

/// `workers`: threads that carry traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One for each core that the process may run on.
    Auto,
    /// This many.
    Count(NonZeroUsize),
}

impl Workers {
    /// The number of threads.
    pub fn resolve(self) -> NonZeroUsize {
        match self {
            Self::Auto => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            Self::Count(n) => n,
        }
    }
}

/// `bind`: where the proxy listens. Ports are those of DESIGN section 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Captured outbound connections arrive here; `None`: nothing is captured, as at a gateway.
    pub outbound: Option<Listen>,
    /// Captured inbound connections arrive here; `None` as for `outbound`.
    pub inbound: Option<Listen>,
    /// Captured DNS queries arrive here, UDP and TCP; `None` as for `outbound`.
    pub dns: Option<Listen>,
    /// The admin server.
    pub admin: Listen,
    /// `/metrics` for a scraper outside the pod.
    pub metrics: Listen,
    /// `/live` and `/ready` for the kubelet.
    pub health: Listen,
}

impl Bind {
    /// Every port that is the proxy's own.
    pub fn ports(&self) -> Vec<u16> {
        self.all().map(|(_, listen)| listen.port()).collect()
    }

    /// Whether a connection to `addr` of this machine comes to the proxy itself: captured, it would come back for ever. On
    /// a port of which the proxy has the loopback addresses only, the workload's own addresses are the application's.
    pub fn takes(&self, addr: SocketAddr) -> bool {
        self.all().any(|(_, listen)| listen.takes(addr))
    }

    /// All of them with their fields' names.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, Listen)> {
        let captured = [("outbound", self.outbound), ("inbound", self.inbound), ("dns", self.dns)];
        let own = [("admin", self.admin), ("metrics", self.metrics), ("health", self.health)];
        captured.into_iter().filter_map(|(name, listen)| Some((name, listen?))).chain(own)
    }
}

/// `identity`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityConfig {
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Where certificates come from.
    pub source: IdentitySource,
}

/// `identity.ca` or `identity.files`: exactly one; a gateway may have neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// A mesh CA signs a key that the proxy makes.
    Ca(CaSource),
    /// PEM files, watched.
    Files(FileSource),
    /// Nowhere: a gateway without upstreams in the mesh.
    None,
}

/// `identity.ca`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaSource {
    /// Where the CA is.
    pub address: HostPort,
    /// PEM file with the roots that vouch for the CA's own certificate.
    pub bundle: PathBuf,
    /// The id that the CA's certificate must carry.
    pub server_id: SpiffeId,
    /// File with the credential, read again at each use.
    pub token_file: PathBuf,
}

/// `identity.files`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSource {
    /// PEM certificate chain, leaf first.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// PEM roots that peers are verified with.
    pub bundle: PathBuf,
}

/// `dns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// The servers to ask; empty: those of `resolv_conf`.
    pub servers: Vec<SocketAddr>,
    /// The file with servers and search domains, in the format of resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// A record is kept at least this long, whatever its TTL.
    pub min_ttl: Duration,
    /// A record is kept at most this long, whatever its TTL.
    pub max_ttl: Duration,
    /// A negative answer is kept at most this long.
    pub negative_ttl: Duration,
    /// Endpoints are not looked up more often than this.
    pub refresh_floor: Duration,
    /// Answers the cache holds at most.
    pub cache_entries: usize,
}

/// `telemetry`.
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetryConfig {
    /// Export of traces; `None`: none are exported, contexts are still propagated.
    pub tracing: Option<TracingConfig>,
    /// Export of metrics over OTLP, beside `/metrics`; `None`: they are there to be scraped only.
    pub metrics: Option<MetricsConfig>,
    /// Where the access log goes. Its mode is reloadable and in the snapshot.
    pub access_log: AccessLogSink,
    /// What its lines say.
    pub log_format: LogFormat,
    /// Attributes of the OpenTelemetry resource.
    pub resource: BTreeMap<String, String>,
}

/// What a process that is no proxy exports (`weft control`): the fields of `telemetry` that it shares with proxies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExportConfig {
    /// `telemetry.tracing`; `None`: no spans are made.
    pub tracing: Option<TracingConfig>,
    /// `telemetry.tracing.sampling`: the share of calls with a span where the caller has not decided, from 0 to 1.
    pub sampling: f64,
    /// `telemetry.metrics.otlp`; `None`: metrics are there to be scraped only.
    pub metrics: Option<MetricsConfig>,
    /// `telemetry.resource`.
    pub resource: BTreeMap<String, String>,
}

/// `telemetry.tracing`. The sampling rate is reloadable and in the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracingConfig {
    /// Where the spans go.
    pub collector: CollectorConfig,
    /// Spans that wait for export at most; more are dropped and counted.
    pub queue: usize,
}

/// `telemetry.metrics.otlp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Where the metrics go.
    pub collector: CollectorConfig,
    /// From one export to the next.
    pub interval: Duration,
}

/// How a collector is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct CollectorConfig {
    /// The collector's URL. For OTLP/HTTP without a path, `/v1/traces` or `/v1/metrics` is appended (OTLP specification,
    /// "Endpoint URLs").
    pub endpoint: String,
    /// gRPC or HTTP.
    pub protocol: OtlpProtocol,
    /// Headers (gRPC: metadata) on each export: lower-case names and values, such as an authorization.
    pub headers: Vec<(String, String)>,
    /// An export may take this long.
    pub timeout: Duration,
    /// Who vouches for the collector of an `https://` endpoint; `None`: the CA certificates of the system.
    pub ca: Option<CaCertificates>,
}

impl std::fmt::Debug for CollectorConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Header values are credentials more often than not.
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("CollectorConfig")
            .field("endpoint", &self.endpoint)
            .field("protocol", &self.protocol)
            .field("headers", &names)
            .field("timeout", &self.timeout)
            .field("ca", &self.ca)
            .finish()
    }
}

/// The two transports of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with protobuf bodies.
    Http,
}

/// `telemetry.accessLog.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogMode {
    /// No line.
    Off,
    /// Requests answered with 5xx or a failed gRPC status, and connections that failed.
    Errors,
    /// Every request and connection.
    All,
    /// Those whose trace is sampled.
    Sampled,
}

/// `telemetry.accessLog.path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogSink {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// `limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All header fields of a message together, octets.
    pub max_header_bytes: usize,
    /// Header fields of a message.
    pub max_headers: usize,
    /// An HTTP/1 request's target, octets.
    pub max_target_bytes: usize,
    /// Accepted connections at once, inbound and outbound together; `None`: as many as descriptors allow.
    pub max_connections: Option<usize>,
    /// HTTP/2.
    pub http2: Http2Limits,
}

/// `limits.http2`: for application connections and mesh links alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Limits {
    /// SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113 section 6.5.2).
    pub max_concurrent_streams: u32,
    /// Receive window of a stream, octets.
    pub initial_stream_window: u32,
    /// Receive window of a connection, octets.
    pub initial_connection_window: u32,
    /// Connections of a worker to one endpoint, or to one address of the application. Requests beyond what the peer takes
    /// on all of them wait.
    pub max_connections_per_endpoint: usize,
    /// Streams that a peer may reset before they were accepted, before the connection is closed.
    pub max_pending_reset_streams: usize,
    /// SETTINGS_MAX_FRAME_SIZE, octets.
    pub max_frame_size: u32,
    /// Frames a second that carry nothing, before the connection is closed.
    pub max_control_frames: u32,
    /// What the heads of unanswered requests of a connection may take of memory, octets.
    pub head_budget: usize,
}

/// `timeouts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connect to an endpoint or to the application.
    pub connect: Duration,
    /// TLS handshake, either side.
    pub handshake: Duration,
    /// From the first octet of a request to the end of its header.
    pub header_read: Duration,
    /// An HTTP connection without a request is closed after this.
    pub idle: Duration,
    /// A pooled connection to an application or endpoint without a request is closed after this.
    pub pool_idle: Duration,
    /// How long an HTTP/1 client may send nothing in the middle of a body, or take nothing of an answer; `None`: no limit.
    pub body_pause: Option<Duration>,
    /// A relayed TCP connection without an octet in either direction is closed after this; `None`: never.
    pub tcp_idle: Option<Duration>,
    /// A whole request, from its header to the end of its answer; `None`: no limit.
    pub request: Option<Duration>,
    /// How long protocol detection waits for the client's first octet before it dials the server.
    pub detect: Duration,
    /// How long a drain may take: of the process when it is told to end, and of open plaintext connections when the inbound
    /// mode becomes strict.
    pub drain: Duration,
    /// How long a write may make no progress; `None`: for ever.
    pub write_stall: Option<Duration>,
    /// TCP keepalive.
    pub keepalive: Keepalive,
    /// HTTP/2 PING on mesh links that are in use; `None`: none.
    pub ping: Option<Duration>,
    /// A mesh link whose PING is not answered for this long is dead.
    pub ping_timeout: Duration,
}

/// `http`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// A client that closes its sending half while its request is answered.
    pub half_close: HalfClose,
}

/// `http.halfClose`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfClose {
    /// It still gets its answer.
    Serve,
    /// It has gone away, and its request is cancelled.
    Cancel,
}

impl std::fmt::Display for HalfClose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Serve => "serve",
            Self::Cancel => "cancel",
        })
    }
}

/// `timeouts.keepalive`: TCP keepalive probes (tcp(7)), set on every accepted and dialed connection, because a probe
/// does not pass through a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// TCP_KEEPIDLE: idle time before the first probe.
    pub idle: Duration,
    /// TCP_KEEPINTVL: time between probes.
    pub interval: Duration,
    /// TCP_KEEPCNT: probes without an answer before the connection is dead.
    pub count: u32,
}

/// `retries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Endpoints tried for one request or connection, the first included. A further try is made only where no octet of
    /// the request was sent, or where the request is idempotent (RFC 9110 section 9.2.2).
    pub connect_attempts: u32,
    /// How many of a destination's requests may be sent again.
    pub budget: RetryBudget,
}

/// `retries.budget`, of one worker and destination. It holds for requests that may have been seen: what an upstream surely
/// did not look at goes elsewhere without asking it, as gRPC's transparent retries do (gRFC A6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Retries in 100 requests of the last seconds.
    pub percent: u32,
    /// Retries a second that are always there.
    pub min_per_second: u32,
}
