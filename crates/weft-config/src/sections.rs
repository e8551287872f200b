//! The fields of `weft.yaml`: one function a section, each default with its reason.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::env::{Env, Role};
use crate::error::{ConfigErrors, Origin, Problem, ProblemKind};
use crate::read::{Bad, Reader, Section};
use crate::scalar::{self, MaybeSpan, Span};
use crate::tree::{self, Scalar};
use crate::types::{
    Bind, DnsConfig, HalfClose, Http2Limits, HttpConfig, Keepalive, Limits, ProxyConfig, Retries,
    RetryBudget, Timeouts, Workers, Workload,
};
use crate::value::{Listen, Size};
use crate::{edge, identity, policy, probes, resources, telemetry};

/// A ConfigMap holds 1 MiB at most; a file beyond this is not a configuration but a mistake in `--config`.
const MAX_FILE: u64 = 8 << 20;

pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

impl ProxyConfig {
    /// Reads and checks the file at `path`, with `env` laid over it.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(path: &Path, env: &Env) -> Result<Self, ConfigErrors> {
        Self::from_text(path, &Self::read(path)?, env)
    }

    /// Reads the file at `path`, and checks only that it is text of a configuration's size.
    pub(crate) fn read(path: &Path) -> Result<String, ConfigErrors> {
        read_file(path).map_err(|problem| ConfigErrors::one(path, problem))
    }

    /// Checks `text`; `path` is named in errors.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn from_text(path: &Path, text: &str, env: &Env) -> Result<Self, ConfigErrors> {
        let mut root = tree::parse(text).map_err(|problem| ConfigErrors::one(path, problem))?;
        let reader = Reader::new(env);
        probes::overlay(&mut root, &reader);
        let config = document(&reader.root(&root), path);
        let mut found = reader.finish();
        found.problems.extend(env.unknown_flags(&found.used).map(|(flag, field)| Problem {
            kind: ProblemKind::UnknownField,
            origin: Origin::Flag(flag.to_owned()),
            field: field.to_owned(),
            reason: "there is no such field, or it can be set in the file only".to_owned(),
            cure: "see docs/reference/configuration.md".to_owned(),
        }));
        match config {
            Some(mut config) if found.problems.is_empty() => {
                let named = |name| format!("environment variable {name} names no field of the configuration");
                config.warnings = env.unknown(&found.used).map(named).collect();
                let mut effective = found.effective;
                effective.sort_by(|a, b| a.field.cmp(&b.field));
                Arc::make_mut(&mut config.snapshot).effective = effective.into();
                Ok(config)
            }
            _ => Err(ConfigErrors { path: path.to_owned(), problems: found.problems }),
        }
    }
}

fn read_file(path: &Path) -> Result<String, Problem> {
    use std::io::Read;
    let told = |reason: String, cure: &str| Problem {
        kind: ProblemKind::Unreadable,
        origin: Origin::Default,
        field: String::new(),
        reason,
        cure: cure.to_owned(),
    };
    let file = std::fs::File::open(path)
        .map_err(|e| told(format!("the file cannot be read: {e}"), "name a readable file with --config"))?;
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes);
    read.map_err(|e| told(format!("the file cannot be read: {e}"), "name a readable file with --config"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(told(
            format!("the file is larger than {}", Size(MAX_FILE)),
            "name a configuration with --config",
        ));
    }
    String::from_utf8(bytes).map_err(|e| {
        let line =
            1 + e.as_bytes().iter().take(e.utf8_error().valid_up_to()).filter(|b| **b == b'\n').count();
        told(format!("the file is not UTF-8 (line {line})"), "save it as UTF-8")
    })
}

/// The whole document. `None` only where a problem was told.
fn document(root: &Section<'_, '_>, path: &Path) -> Option<ProxyConfig> {
    let identity = identity::identity(&root.section("identity"));
    let trust_domain = identity.as_ref().map(|id| id.trust_domain.clone());
    let workload = workload(&root.section("workload"));
    let workers = workers(root);
    let bind = bind(&root.section("bind"));
    let dns = dns(&root.section("dns"));
    let (telemetry, sampling, access_log) = telemetry::telemetry(&root.section("telemetry"));
    let limits = limits(&root.section("limits"));
    let http = http(&root.section("http"));
    let timeouts = timeouts(&root.section("timeouts"));
    let retries = retries(&root.section("retries"));
    root.refuse_for_gateway(&["probes"], "no application stands beside it");
    let probes = probes::probes(root);
    let gateway = root.section("gateway");
    let resources = resources::resources(root, &gateway, path);
    let edge = edge::edge(&gateway);
    let policy = policy::policy(root, trust_domain, sampling, access_log, &bind);
    Some(ProxyConfig {
        path: path.to_owned(),
        role: root.reader().role(),
        workload,
        workers,
        bind,
        identity: identity?,
        dns,
        telemetry,
        limits,
        timeouts,
        http,
        retries,
        listeners: policy.listeners,
        proxy_protocol: policy.proxy_protocol,
        probes,
        resources: resources?,
        edge,
        snapshot: Arc::new(policy.snapshot?),
        warnings: Vec::new(),
    })
}

fn workload(s: &Section<'_, '_>) -> Workload {
    Workload {
        name: s.scalar("name", scalar::text).map(|(name, _)| name),
        namespace: s.scalar("namespace", scalar::parsed("write a Kubernetes namespace")).map(|(ns, _)| ns),
        service_account: s
            .scalar("serviceAccount", scalar::parsed("write a Kubernetes service account"))
            .map(|(sa, _)| sa),
        addresses: s
            .list("addresses", scalar::ip)
            .unwrap_or_default()
            .into_iter()
            .map(|(ip, _)| ip)
            .collect(),
    }
}

fn workers(root: &Section<'_, '_>) -> Workers {
    // More than this is not a machine but a typing mistake; each worker costs a thread and its own pools.
    const MOST: u64 = 1024;
    let read = |written: &Scalar| match written {
        Scalar::Str(text) | Scalar::Text(text) if text.trim() == "auto" => Ok(Workers::Auto),
        other => {
            let count = scalar::whole(1..=MOST)(other).map_err(|mut bad| {
                bad.cure = format!("write a number from 1 to {MOST}, or auto");
                bad
            })?;
            let count = usize::try_from(count).ok().and_then(NonZeroUsize::new);
            count.map(Workers::Count).ok_or_else(|| Bad::value("this is not a number of threads", ""))
        }
    };
    match root.scalar("workers", read) {
        Some((workers, _)) => workers,
        None if root.reader().role() == Role::Gateway => {
            root.default("workers", &"auto");
            Workers::Auto
        }
        None => {
            // One: a sidecar shares its pod's cores with the application (DESIGN section 9, rule 1).
            root.default("workers", &1);
            Workers::Count(NonZeroUsize::MIN)
        }
    }
}

fn bind(s: &Section<'_, '_>) -> Bind {
    // Captured outbound connections and queries are redirected to loopback by the OUTPUT chain's REDIRECT, so nothing
    // but the workload itself needs to reach those two; the admin server is never for others.
    s.refuse_for_gateway(&["outbound", "inbound", "dns"], "nothing is captured there");
    let of =
        |name, default, of_port: fn(u16) -> Listen| s.or(name, of_port(default), scalar::listen(of_port));
    let captured = |name, default, of_port: fn(u16) -> Listen| match s.reader().role() {
        Role::Sidecar => Some(of(name, default, of_port)),
        // Read all the same, so that it is known.
        Role::Gateway => s.scalar(name, scalar::listen(of_port)).map(|(listen, _)| listen),
    };
    let bind = Bind {
        outbound: captured("outbound", 15001, Listen::Loopback),
        inbound: captured("inbound", 15006, Listen::Any),
        dns: captured("dns", 15053, Listen::Loopback),
        admin: of("admin", 15000, Listen::Loopback),
        metrics: of("metrics", 15020, Listen::Any),
        health: of("health", 15021, Listen::Any),
    };
    let all: Vec<(&str, Listen)> = bind.all().collect();
    for (i, (name, listen)) in all.iter().enumerate() {
        let port = listen.port();
        if let Some((earlier, _)) = all.iter().take(i).find(|(_, earlier)| earlier.port() == port) {
            let reason = format!("port {port} is used by bind.{earlier} as well");
            let cure = "give each listener its own port".to_owned();
            let bad = Bad { kind: ProblemKind::Conflict, reason, cure };
            s.reader().refuse(s.origin(), &format!("{}.{name}", s.path()), bad);
        }
    }
    bind
}

fn dns(s: &Section<'_, '_>) -> DnsConfig {
    let span = |name, default: Duration, range| s.or(name, Span(default), scalar::duration(range)).0;
    let config = DnsConfig {
        servers: s
            .list("servers", scalar::socket_or(53))
            .unwrap_or_default()
            .into_iter()
            .map(|(a, _)| a)
            .collect(),
        resolv_conf: s.or("resolvConf", Shown("/etc/resolv.conf".into()), |v| scalar::path(v).map(Shown)).0,
        // A TTL of 0 would cost an upstream query for each connection of the application.
        min_ttl: span("minTtl", SECOND, Duration::ZERO..=MINUTE),
        // A record with a TTL of days, once wrong, would outlive the pod.
        max_ttl: span("maxTtl", HOUR, SECOND..=7 * DAY),
        // Kubernetes creates names moments after they are first asked for; RFC 2308 section 5 allows hours.
        negative_ttl: span("negativeTtl", 30 * SECOND, Duration::ZERO..=HOUR),
        // CoreDNS answers with TTL 5 in a cluster; asking more often finds nothing new.
        refresh_floor: span("refreshFloor", 5 * SECOND, 100 * MILLISECOND..=HOUR),
        // About 300 octets each: 3 MB at the most, more names than one pod talks to.
        cache_entries: to_usize(s.or("cacheEntries", 10_000, scalar::whole(16..=10_000_000))),
    };
    if config.min_ttl > config.max_ttl {
        let reason =
            format!("minTtl ({}) is more than maxTtl ({})", Span(config.min_ttl), Span(config.max_ttl));
        let bad =
            Bad { kind: ProblemKind::Conflict, reason, cure: "lower minTtl or raise maxTtl".to_owned() };
        s.reader().refuse(s.origin(), &format!("{}.minTtl", s.path()), bad);
    }
    config
}

fn limits(s: &Section<'_, '_>) -> Limits {
    let size = |s: &Section<'_, '_>, name, default, range| s.or(name, Size(default), scalar::size(range)).0;
    let http2 = s.section("http2");
    let most = u64::from(u32::MAX >> 1);
    Limits {
        // Room for large cookies and tokens (servers commonly take 8 to 64 KiB).
        max_header_bytes: to_usize(size(s, "maxHeaderBytes", 64 << 10, 8 << 10..=1 << 20)),
        // hyper's and Envoy's default.
        max_headers: to_usize(s.or("maxHeaders", 100, scalar::whole(8..=4096))),
        // nginx's and Apache's is 8 KiB, RFC 9112 section 3 asks for 8000 at least; long queries are common.
        max_target_bytes: to_usize(size(s, "maxTargetBytes", 32 << 10, 1 << 10..=1 << 20)),
        // The descriptor limit bounds them, and accept pauses there.
        max_connections: {
            let written = s.scalar("maxConnections", scalar::whole(1..=10_000_000)).map(|(n, _)| to_usize(n));
            if written.is_none() {
                s.default("maxConnections", &"none");
            }
            written
        },
        http2: Http2Limits {
            // RFC 9113 section 6.5.2 advises no less than 100. A mesh link carries many callers, and a stream costs
            // about a kilobyte.
            max_concurrent_streams: to_u32(http2.or("maxConcurrentStreams", 256, scalar::whole(1..=65_535))),
            // 1 MiB in flight is 1 GB/s over a millisecond; RFC 9113's 64 KiB would be 64 MB/s.
            initial_stream_window: to_u32(size(&http2, "initialStreamWindow", 1 << 20, 65_535..=most)),
            // Four full streams, and above all room for many small DATA frames: since 0.4.16 h2 closes a connection
            // whose buffered frames outgrow half of this window (RUSTSEC-2026-0258).
            initial_connection_window: to_u32(size(
                &http2,
                "initialConnectionWindow",
                4 << 20,
                65_535..=most,
            )),
            // A limit of streams is a connection's: callers of many pods, each with some long streams, need several to one
            // server, which would have had one from each.
            max_connections_per_endpoint: to_usize(http2.or(
                "maxConnectionsPerEndpoint",
                64,
                scalar::whole(1..=10_000),
            )),
            // hyper's and h2's default against rapid reset (CVE-2023-44487).
            max_pending_reset_streams: to_usize(http2.or(
                "maxPendingResetStreams",
                20,
                scalar::whole(1..=100_000),
            )),
            // RFC 9113 section 4.2: the least that may be announced, and what fits into one TLS record.
            max_frame_size: to_u32(size(&http2, "maxFrameSize", 131_072, 16_384..=(1 << 24) - 1)),
            // Those that a request or a body needs do not count; nobody needs a hundred beside them.
            max_control_frames: to_u32(http2.or("maxControlFrames", 1000, scalar::whole(10..=1_000_000))),
            // 4 KiB for each of 256 streams.
            head_budget: to_usize(size(&http2, "headBudget", 1 << 20, 64 << 10..=1 << 30)),
        },
    }
}

fn http(s: &Section<'_, '_>) -> HttpConfig {
    const HALF_CLOSE: &[(&str, HalfClose)] = &[("serve", HalfClose::Serve), ("cancel", HalfClose::Cancel)];
    // As most servers have it: without a proxy such a client gets its answer.
    HttpConfig { half_close: s.or("halfClose", HalfClose::Serve, scalar::word(HALF_CLOSE)) }
}

fn timeouts(s: &Section<'_, '_>) -> Timeouts {
    let span = |name, default: Duration, range| s.or(name, Span(default), scalar::duration(range)).0;
    let maybe = |name, default, range| s.or(name, MaybeSpan(default), scalar::maybe_duration(range)).0;
    Timeouts {
        // Three SYNs (1 s and 2 s apart, RFC 6298 section 2) and a little.
        connect: span("connect", 5 * SECOND, 10 * MILLISECOND..=5 * MINUTE),
        handshake: span("handshake", 10 * SECOND, 10 * MILLISECOND..=5 * MINUTE),
        // hyper's default; a slow client holds a connection no longer than this.
        header_read: span("headerRead", 30 * SECOND, 100 * MILLISECOND..=HOUR),
        // Longer than common clients keep a connection (browsers and Go: 90 s to 5 min), so that they close first.
        idle: span("idle", 10 * MINUTE, SECOND..=7 * DAY),
        // Shorter than common servers keep one (nginx 75 s, Apache's 5 s is met by the retry on a lost reuse race).
        pool_idle: span("poolIdle", MINUTE, SECOND..=7 * DAY),
        // Long enough for an upload over a bad line, short enough that slow clients cannot be collected.
        body_pause: maybe("bodyPause", Some(5 * MINUTE), SECOND..=DAY),
        // Database pools idle for hours on purpose; dead peers are found by keepalive.
        tcp_idle: maybe("tcpIdle", None, SECOND..=30 * DAY),
        // Streams and long polls are requests too.
        request: maybe("request", None, MILLISECOND..=7 * DAY),
        // A client that speaks first has its first octets on the way already; a server-first protocol waits this long
        // once (issue of the added delay: under 20 ms on a first connection).
        detect: span("detect", 10 * MILLISECOND, Duration::ZERO..=10 * SECOND),
        // Kubernetes' terminationGracePeriodSeconds.
        drain: span("drain", 30 * SECOND, Duration::ZERO..=DAY),
        keepalive: keepalive(&s.section("keepalive")),
        // What Envoy gives a stream to be flushed.
        write_stall: maybe("writeStall", Some(5 * MINUTE), SECOND..=DAY),
        ping: maybe("ping", Some(10 * SECOND), SECOND..=HOUR),
        ping_timeout: span("pingTimeout", 20 * SECOND, 100 * MILLISECOND..=HOUR),
    }
}

fn keepalive(s: &Section<'_, '_>) -> Keepalive {
    let span = |name, default: Duration| s.or(name, Span(default), scalar::duration(SECOND..=DAY)).0;
    Keepalive {
        // Below the idle limits of cloud load balancers and NATs (350 s and up); a dead peer is known after
        // 60 + 5 x 15 s.
        idle: span("idle", MINUTE),
        interval: span("interval", 15 * SECOND),
        // The kernel takes 127 at the most (tcp(7)).
        count: to_u32(s.or("count", 5, scalar::whole(1..=127))),
    }
}

fn retries(s: &Section<'_, '_>) -> Retries {
    // The dead endpoint, and two more before the caller is told.
    let connect_attempts = to_u32(s.or("connectAttempts", 3, scalar::whole(1..=16)));
    let s = s.section("budget");
    // What Linkerd and the Gateway API's retry constraint have as defaults.
    let budget = RetryBudget {
        percent: to_u32(s.or("percent", 20, scalar::whole(0..=100))),
        min_per_second: to_u32(s.or("minPerSecond", 10, scalar::whole(0..=10_000))),
    };
    Retries { connect_attempts, budget }
}

/// A path that prints.
pub(crate) struct Shown(pub(crate) std::path::PathBuf);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.display().fmt(f)
    }
}

/// For numbers whose range was checked.
pub(crate) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// For numbers whose range was checked.
fn to_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
