//! Which destinations belong to the mesh, and whom to expect there.
//!
//! Membership is what decides between mutual TLS and plaintext, so it must not depend on anything that an attacker can
//! move: it looks at the *name* that the application asked DNS for, or, where an address was dialed without a name, at
//! the address itself. The namespace that the name contains becomes part of the rule for the server's identity.
//!
//! Everything is compiled: patterns to labels, exceptions and modes to hash tables, CIDRs to sorted ranges. A lookup
//! walks the labels of the name; it allocates only for a namespace that the configuration does not list.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_core::{AddrSet, DnsName, MtlsMode, Namespace, PeerRule, TrustDomain};

use crate::mode::DestinationMode;

/// What membership says about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameVerdict<'n> {
    /// A mesh destination.
    Mesh {
        /// The label that stands for the service.
        service: &'n str,
        /// The label that stands for one pod, where the pattern has one and the name is of a single pod.
        pod: Option<&'n str>,
        /// The namespace in the name (or the one that the pattern is bound to).
        namespace: Namespace,
        /// How much mutual TLS to ask for.
        mode: DestinationMode,
        /// Whom to accept at the other end.
        peer: PeerRule,
        /// Whether a client is to keep its endpoint.
        affinity: bool,
    },
    /// Not a mesh destination: pass through.
    Outside(Outside),
}

/// What membership says about an address dialed without a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddrVerdict {
    /// A mesh destination.
    Mesh {
        /// How much mutual TLS to ask for.
        mode: MtlsMode,
        /// Whom to accept at the other end: any namespace, since no name tells one.
        peer: PeerRule,
    },
    /// Not a mesh destination: pass through.
    Outside,
}

/// Why a name is outside, for metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outside {
    /// No pattern of `mesh.domains` matches.
    NoDomain,
    /// Named in `mesh.exceptions`.
    Exception,
    /// Its namespace is not in `mesh.namespaces`.
    Namespace,
}

/// One entry of `mesh.domains`, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainPattern {
    labels: Box<[Label]>,
    /// The namespace of every name that matches, for a pattern without `{namespace}`.
    bound: Option<Namespace>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Label {
    Literal(Box<str>),
    Service,
    Namespace,
    Pod,
}

impl DomainPattern {
    /// Parses a pattern such as `{service}.{namespace}.svc.cluster.local`.
    ///
    /// A placeholder stands for exactly one whole label. `{service}` must be there once; `{namespace}` once, or else
    /// `bound` names the namespace; `{pod}` at most once.
    ///
    /// # Errors
    /// The reason and the cure.
    pub fn parse(text: &str, bound: Option<Namespace>) -> Result<Self, (String, String)> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut labels = Vec::new();
        for part in text.split('.') {
            labels.push(Label::parse(part)?);
        }
        let count = |wanted: &Label| labels.iter().filter(|label| *label == wanted).count();
        let told = |reason: &str, cure: &str| Err((reason.to_owned(), cure.to_owned()));
        if labels.len() > 127 || text.len() > 512 {
            return told("the pattern is longer than any DNS name", "");
        }
        match (count(&Label::Service), count(&Label::Namespace), count(&Label::Pod), &bound) {
            (0, ..) => told("the pattern has no {service}", "put {service} where the service's label stands"),
            (2.., ..) => told("the pattern has {service} twice", "keep one"),
            (_, 2.., ..) => told("the pattern has {namespace} twice", "keep one"),
            (_, _, 2.., _) => told("the pattern has {pod} twice", "keep one"),
            (_, 0, _, None) => told(
                "the pattern has no {namespace}, and without it any namespace could serve these names",
                "put {namespace} into it, or write { pattern: ..., namespace: ... }",
            ),
            (_, 1, _, Some(_)) => {
                told("the namespace is given twice", "drop {namespace} or the namespace beside the pattern")
            }
            _ => Ok(Self { labels: labels.into(), bound }),
        }
    }

    /// The service, pod and namespace labels of `name`, if the pattern matches.
    fn captures<'n>(&self, name: &'n DnsName) -> Option<Captures<'n>> {
        let mut found = Captures { service: "", pod: None, namespace: None };
        let mut labels = name.labels();
        for expected in &self.labels {
            let label = labels.next()?;
            match expected {
                Label::Literal(literal) if **literal == *label => {}
                Label::Literal(_) => return None,
                Label::Service => found.service = label,
                Label::Namespace => found.namespace = Some(label),
                Label::Pod => found.pod = Some(label),
            }
        }
        if labels.next().is_some() { None } else { Some(found) }
    }
}

struct Captures<'n> {
    service: &'n str,
    pod: Option<&'n str>,
    namespace: Option<&'n str>,
}

impl Label {
    fn parse(text: &str) -> Result<Self, (String, String)> {
        match text {
            "{service}" => Ok(Self::Service),
            "{namespace}" => Ok(Self::Namespace),
            "{pod}" => Ok(Self::Pod),
            text if text.contains(['{', '}']) => Err((
                format!("\"{text}\" is not a placeholder"),
                "a label is {service}, {namespace}, {pod} or plain text; a placeholder fills a whole label"
                    .to_owned(),
            )),
            text if text.contains('*') => Err((
                format!("\"{text}\" is a wildcard"),
                "write {service} or {pod} for a label that varies".to_owned(),
            )),
            text => match text.parse::<DnsName>() {
                Ok(name) => Ok(Self::Literal(name.as_str().into())),
                Err(_) => Err((format!("\"{text}\" is not a DNS label"), String::new())),
            },
        }
    }
}

/// An exact name, or `*.suffix`: every name that ends in `.suffix`, at any depth, without the suffix itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// This name.
    Exact(DnsName),
    /// Names below this one.
    Below(DnsName),
}

impl std::str::FromStr for NamePattern {
    type Err = weft_core::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("*.") {
            Some(suffix) => suffix.parse().map(Self::Below),
            None => text.parse().map(Self::Exact),
        }
    }
}

/// Names and suffixes with a value each; the exact name wins, then the longest suffix.
#[derive(Clone, Debug)]
struct NameTable<T> {
    exact: HashMap<Box<str>, T>,
    below: HashMap<Box<str>, T>,
}

impl<T: Clone> NameTable<T> {
    fn new(entries: impl IntoIterator<Item = (NamePattern, T)>) -> Self {
        let mut table = Self { exact: HashMap::new(), below: HashMap::new() };
        for (pattern, value) in entries {
            match pattern {
                NamePattern::Exact(name) => table.exact.insert(name.as_str().into(), value),
                NamePattern::Below(name) => table.below.insert(name.as_str().into(), value),
            };
        }
        table
    }

    fn get(&self, name: &DnsName) -> Option<T> {
        if let Some(value) = self.exact.get(name.as_str()) {
            return Some(value.clone());
        }
        if self.below.is_empty() {
            return None;
        }
        let mut rest = name.as_str();
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(value) = self.below.get(suffix) {
                return Some(value.clone());
            }
            rest = suffix;
        }
        None
    }
}

/// What [`Membership`] is compiled from.
#[derive(Clone, Debug)]
pub struct MembershipSpec {
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// `mesh.domains`, in order.
    pub domains: Vec<DomainPattern>,
    /// `mesh.namespaces`; `None`: all.
    pub namespaces: Option<Vec<Namespace>>,
    /// `mesh.exceptions`.
    pub exceptions: Vec<NamePattern>,
    /// `mesh.cidrs`; where networks overlap, the strictest mode decides.
    pub cidrs: Vec<(IpNet, MtlsMode)>,
    /// `mesh.serviceCidrs`.
    pub service_cidrs: Vec<IpNet>,
    /// `mesh.mode`.
    pub mode: MtlsMode,
    /// `mesh.modes`.
    pub modes: Vec<(NamePattern, DestinationMode)>,
    /// `mesh.sessionAffinity`.
    pub affinity: Vec<NamePattern>,
}

/// The compiled `mesh` section.
#[derive(Clone, Debug)]
pub struct Membership {
    trust_domain: TrustDomain,
    domains: Box<[DomainPattern]>,
    namespaces: Option<HashMap<Box<str>, Namespace>>,
    exceptions: NameTable<()>,
    /// By mode, the strictest first.
    cidrs: [(MtlsMode, AddrSet); 3],
    service_cidrs: AddrSet,
    mode: MtlsMode,
    modes: NameTable<DestinationMode>,
    affinity: NameTable<()>,
}

impl Membership {
    /// Compiles the matchers.
    pub fn new(spec: MembershipSpec) -> Self {
        let by_text = |ns: Vec<Namespace>| ns.into_iter().map(|ns| (Box::from(ns.as_str()), ns)).collect();
        Self {
            trust_domain: spec.trust_domain,
            domains: spec.domains.into(),
            namespaces: spec.namespaces.map(by_text),
            exceptions: NameTable::new(spec.exceptions.into_iter().map(|name| (name, ()))),
            cidrs: [MtlsMode::Strict, MtlsMode::Permissive, MtlsMode::Disable].map(|mode| {
                let nets: Vec<IpNet> =
                    spec.cidrs.iter().filter(|(_, of)| *of == mode).map(|(net, _)| *net).collect();
                (mode, AddrSet::new(&nets))
            }),
            service_cidrs: AddrSet::new(&spec.service_cidrs),
            mode: spec.mode,
            modes: NameTable::new(spec.modes),
            affinity: NameTable::new(spec.affinity.into_iter().map(|name| (name, ()))),
        }
    }

    /// Whether `name` is a mesh destination. The first pattern of `mesh.domains` that matches decides; an exception
    /// wins over all.
    pub fn of_name<'n>(&self, name: &'n DnsName) -> NameVerdict<'n> {
        let Some((pattern, found)) =
            self.domains.iter().find_map(|p| p.captures(name).map(|found| (p, found)))
        else {
            return NameVerdict::Outside(Outside::NoDomain);
        };
        if self.exceptions.get(name).is_some() {
            return NameVerdict::Outside(Outside::Exception);
        }
        let Some(namespace) = self.namespace(pattern, found.namespace) else {
            return NameVerdict::Outside(Outside::Namespace);
        };
        NameVerdict::Mesh {
            service: found.service,
            pod: found.pod,
            mode: self.modes.get(name).unwrap_or_else(|| self.mode.into()),
            peer: self.peer(Some(namespace.clone())),
            affinity: self.affinity.get(name).is_some(),
            namespace,
        }
    }

    /// Whether `ip`, dialed without a name, is a mesh destination. A service's address is one whose service is not known:
    /// nothing less than strict would do for all that it may be.
    pub fn of_addr(&self, ip: IpAddr) -> AddrVerdict {
        match self.cidrs.iter().find(|(_, set)| set.contains(ip)) {
            Some((mode, _)) => AddrVerdict::Mesh { mode: *mode, peer: self.peer(None) },
            None if self.is_service_range(ip) => {
                AddrVerdict::Mesh { mode: MtlsMode::Strict, peer: self.peer(None) }
            }
            None => AddrVerdict::Outside,
        }
    }

    /// Whether `ip` is one that the cluster gives to services.
    pub fn is_service_range(&self, ip: IpAddr) -> bool {
        self.service_cidrs.contains(ip)
    }

    /// The mode of destinations that `mesh.modes` does not name.
    pub fn mode(&self) -> MtlsMode {
        self.mode
    }

    /// The same destinations, vouched for by `trust_domain`.
    #[must_use]
    pub fn within(self, trust_domain: TrustDomain) -> Self {
        Self { trust_domain, ..self }
    }

    /// The mesh's trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The namespace, if it is in the mesh.
    fn namespace(&self, pattern: &DomainPattern, label: Option<&str>) -> Option<Namespace> {
        let text = label.or_else(|| pattern.bound.as_ref().map(Namespace::as_str))?;
        match (&self.namespaces, &pattern.bound) {
            (Some(members), _) => members.get(text).cloned(),
            (None, Some(bound)) if label.is_none() => Some(bound.clone()),
            (None, _) => text.parse().ok(),
        }
    }

    fn peer(&self, namespace: Option<Namespace>) -> PeerRule {
        PeerRule { trust_domain: self.trust_domain.clone(), namespace, service_accounts: Vec::new() }
    }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
