//! The reloadable sections: `mesh`, `inbound`, `outbound`, `services`, `log`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use weft_core::{AppProtocol, DnsName, EndpointAddr, MtlsMode, Namespace, ServiceKey, TrustDomain};

use crate::error::{Origin, ProblemKind};
use crate::listeners::{self, Listeners};
use crate::membership::{DomainPattern, Membership, MembershipSpec, NamePattern};
use crate::mode::DestinationMode;
use crate::proxy_protocol::{self, ProxyProtocolPorts};
use crate::read::{Bad, Item, Section};
use crate::scalar;
use crate::snapshot::{InboundPolicy, OutboundPolicy, Services, Snapshot, StaticService};
use crate::tree::Scalar;
use crate::types::{AccessLogMode, Bind};
use crate::value::PortSet;

/// Kubernetes' names for services and for the pods of headless ones, in a cluster with the usual domain.
const DOMAINS: [&str; 2] =
    ["{service}.{namespace}.svc.cluster.local", "{pod}.{service}.{namespace}.svc.cluster.local"];

/// The API server is asked by name from nearly every pod, is no workload of the mesh, and speaks its own TLS.
const EXCEPTIONS: [&str; 1] = ["kubernetes.default.svc.cluster.local"];

/// What these sections say.
pub(crate) struct Policy {
    /// `None` where the trust domain is not known (which was told already).
    pub(crate) snapshot: Option<Snapshot>,
    // These stand in the same sections but are not reloadable, and so no part of the snapshot.
    pub(crate) listeners: Listeners,
    pub(crate) proxy_protocol: ProxyProtocolPorts,
}

pub(crate) fn policy(
    root: &Section<'_, '_>,
    trust_domain: Option<TrustDomain>,
    sampling: f64,
    access_log: AccessLogMode,
    bind: &Bind,
) -> Policy {
    root.refuse_for_gateway(&["inbound", "outbound"], "no application stands beside it");
    let membership = mesh(&root.section("mesh"), trust_domain).map(Membership::new);
    let s = root.section("inbound");
    let mode = s.or("mode", MtlsMode::Strict, scalar::word(scalar::MODES));
    let (inbound, doors_in) = (inbound_policy(&s, mode), listeners::inbound(&s));
    let proxy_protocol = proxy_protocol::ports(&s);
    let s = root.section("outbound");
    let (outbound, doors_out) =
        (OutboundPolicy { opaque_ports: ports(&s, "opaquePorts") }, listeners::outbound(&s));
    let listeners = listeners::checked(root, doors_out, doors_in, bind, membership.as_ref());
    let services = services(root);
    let log = root.or("log", "info".to_owned(), scalar::directives).into();
    let effective = std::sync::Arc::from([]);
    let snapshot = membership.map(|membership| Snapshot {
        version: 1,
        membership,
        inbound,
        outbound,
        services,
        log,
        sampling,
        access_log,
        effective,
    });
    Policy { snapshot, listeners, proxy_protocol }
}

fn inbound_policy(s: &Section<'_, '_>, mode: MtlsMode) -> InboundPolicy {
    InboundPolicy { mode, opaque_ports: ports(s, "opaquePorts"), connect_ports: ports(s, "connectPorts") }
}

fn ports(s: &Section<'_, '_>, field: &'static str) -> PortSet {
    let ranges = s.list(field, scalar::ports).unwrap_or_default();
    PortSet::new(ranges.into_iter().map(|(range, _)| range).collect())
}

fn mesh(s: &Section<'_, '_>, trust_domain: Option<TrustDomain>) -> Option<MembershipSpec> {
    let domains = domains(s);
    let namespaces = s.list("namespaces", scalar::parsed::<Namespace>("write a Kubernetes namespace"));
    if namespaces.is_none() {
        s.default("namespaces", &"all");
    }
    let name = scalar::parsed::<NamePattern>("write a DNS name, or *.suffix for all names below one");
    let exceptions = match s.list("exceptions", name) {
        Some(written) => written.into_iter().map(|(name, _)| name).collect(),
        None => {
            s.default("exceptions", &EXCEPTIONS.join(", "));
            EXCEPTIONS.iter().filter_map(|name| name.parse().ok()).collect()
        }
    };
    let mode = s.or("mode", MtlsMode::Strict, scalar::word(scalar::MODES));
    let cidrs = cidrs(s, mode);
    let service_cidrs = s.list("serviceCidrs", scalar::cidr).unwrap_or_default();
    let modes = modes(s);
    let name = scalar::parsed::<NamePattern>("write a DNS name, or *.suffix for all names below one");
    let affinity = s.list("sessionAffinity", name).unwrap_or_default();
    Some(MembershipSpec {
        trust_domain: trust_domain?,
        domains,
        namespaces: namespaces.map(|list| list.into_iter().map(|(ns, _)| ns).collect()),
        exceptions,
        cidrs,
        service_cidrs: service_cidrs.into_iter().map(|(net, _)| net).collect(),
        mode,
        modes,
        affinity: affinity.into_iter().map(|(name, _)| name).collect(),
    })
}

fn domains(s: &Section<'_, '_>) -> Vec<DomainPattern> {
    s.declare_items("domains", &["pattern", "namespace"]);
    // Only the file can bind a namespace to a pattern; plain patterns may come from a variable or a flag.
    if s.overlaid("domains") || !s.has("domains") {
        if let Some(written) = s.list("domains", |v| pattern(v, None)) {
            return written.into_iter().map(|(pattern, _)| pattern).collect();
        }
        s.default("domains", &DOMAINS.join(", "));
        return DOMAINS.iter().filter_map(|text| DomainPattern::parse(text, None).ok()).collect();
    }
    let mut patterns = Vec::new();
    for item in s.items("domains") {
        if let Some(written) = item.as_scalar() {
            match pattern(written, None) {
                Ok(pattern) => patterns.push(pattern),
                Err(bad) => s.reader().refuse(item.origin(), &item.path, bad),
            }
        } else {
            let section = item.section();
            let bound = section.required("namespace", scalar::parsed("write a Kubernetes namespace"));
            patterns.extend(section.required("pattern", |written| pattern(written, bound)));
        }
    }
    patterns
}

fn pattern(written: &Scalar, bound: Option<Namespace>) -> Result<DomainPattern, Bad> {
    let text = scalar::text(written)?;
    DomainPattern::parse(text.trim(), bound).map_err(|(reason, cure)| Bad::value(reason, cure))
}

/// Networks, each with the mode of the mesh or one of its own. Only the file can give one of its own.
fn cidrs(s: &Section<'_, '_>, mode: MtlsMode) -> Vec<(IpNet, MtlsMode)> {
    s.declare_items("cidrs", &["cidr", "mode"]);
    if s.overlaid("cidrs") {
        let written = s.list("cidrs", scalar::cidr).unwrap_or_default();
        return written.into_iter().map(|(net, _)| (net, mode)).collect();
    }
    let mut nets = Vec::new();
    for item in s.items("cidrs") {
        if let Some(written) = item.as_scalar() {
            match scalar::cidr(written) {
                Ok(net) => nets.push((net, mode)),
                Err(bad) => s.reader().refuse(item.origin(), &item.path, bad),
            }
        } else {
            let section = item.section();
            let mode = section.or("mode", mode, scalar::word(scalar::MODES));
            nets.extend(section.required("cidr", scalar::cidr).map(|net| (net, mode)));
        }
    }
    nets
}

fn modes(s: &Section<'_, '_>) -> Vec<(NamePattern, DestinationMode)> {
    s.declare_items("modes", &["name", "mode", "endpoints"]);
    let mut modes: Vec<(NamePattern, DestinationMode)> = Vec::new();
    // Thousands of entries are usual while a large mesh moves in.
    let mut named: HashSet<NamePattern> = HashSet::new();
    for item in s.items("modes") {
        let section = item.section();
        let name = section.required(
            "name",
            scalar::parsed::<NamePattern>("write a DNS name, or *.suffix for all names below one"),
        );
        let mode = section.required("mode", scalar::word(scalar::MODES));
        let sidecars = section.list("endpoints", scalar::parsed::<IpAddr>("write an IP address"));
        let (Some(name), Some(mode)) = (name, mode) else { continue };
        let told = |kind, reason: &str, cure: &str| {
            let bad = Bad { kind, reason: reason.to_owned(), cure: cure.to_owned() };
            s.reader().refuse(item.origin(), &item.path, bad);
        };
        if !named.insert(name.clone()) {
            told(ProblemKind::Conflict, "an entry above has the same name", "keep one");
        }
        if sidecars.is_some() && mode != MtlsMode::Permissive {
            let cure = "drop endpoints, or write mode: permissive";
            told(ProblemKind::Conflict, "endpoints tell who has a sidecar, which only permissive asks", cure);
        }
        modes.push((
            name,
            match sidecars {
                Some(list) => DestinationMode::known(list.into_iter().map(|(ip, _)| ip)),
                None => mode.into(),
            },
        ));
    }
    modes
}

fn services(root: &Section<'_, '_>) -> Services {
    root.declare_items("services", &["name", "port", "endpoints", "protocol"]);
    let mut services: Vec<StaticService> = Vec::new();
    let mut seen: HashMap<ServiceKey, Origin> = HashMap::new();
    for item in root.items("services") {
        let Some(service) = service(&item) else { continue };
        if let Some(first) = seen.insert(service.key.clone(), item.origin()) {
            let reason = format!("{} is listed twice, first at {first}", service.key);
            let cure = "put all its endpoints into one entry".to_owned();
            root.reader().refuse(
                item.origin(),
                &item.path,
                Bad { kind: ProblemKind::Conflict, reason, cure },
            );
        }
        services.push(service);
    }
    Services::new(services)
}

fn service(item: &Item<'_, '_>) -> Option<StaticService> {
    const PROTOCOLS: &[(&str, AppProtocol)] =
        &[("detect", AppProtocol::Detect), ("http", AppProtocol::Http), ("opaque", AppProtocol::Opaque)];
    let s = item.section();
    let name = s.required("name", scalar::parsed::<DnsName>("write the full name that applications dial"));
    let port = s.required("port", scalar::port);
    let protocol = s.or("protocol", AppProtocol::Detect, scalar::word(PROTOCOLS));
    let endpoints = s.list("endpoints", endpoint);
    match &endpoints {
        None => s.missing("endpoints"),
        Some(list) if list.is_empty() => {
            let bad = Bad::value(
                "no usable endpoint is listed",
                "write at least one ip:port, or leave the service to DNS",
            );
            s.reader().refuse(s.origin(), &format!("{}.endpoints", s.path()), bad);
        }
        Some(_) => {}
    }
    let mut endpoints: Vec<EndpointAddr> =
        endpoints?.into_iter().map(|(addr, _)| EndpointAddr::new(addr)).collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    Some(StaticService { key: ServiceKey::new(name?, port?), endpoints: endpoints.into(), protocol })
}

fn endpoint(written: &Scalar) -> Result<SocketAddr, Bad> {
    let addr = scalar::socket(written)?;
    if addr.ip().is_unspecified() || addr.ip().is_multicast() {
        return Err(Bad::value(
            format!("{addr} cannot be connected to"),
            "write the address of one endpoint",
        ));
    }
    Ok(addr)
}

/// An access log mode that prints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogMode(pub(crate) AccessLogMode);

const LOG_MODES: &[(&str, AccessLogMode)] = &[
    ("off", AccessLogMode::Off),
    ("errors", AccessLogMode::Errors),
    ("all", AccessLogMode::All),
    ("sampled", AccessLogMode::Sampled),
];

pub(crate) fn log_mode(written: &Scalar) -> Result<LogMode, Bad> {
    scalar::word(LOG_MODES)(written).map(LogMode)
}

impl fmt::Display for LogMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = LOG_MODES.iter().find(|(_, mode)| *mode == self.0).map_or("", |(word, _)| word);
        f.write_str(word)
    }
}
