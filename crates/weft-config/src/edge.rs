//! `gateway`: who stands in front of the listeners, and what their clients may do.
//!
//! It is fixed at the start. Who may say for whom it connects is a matter of trust, and a connection keeps what it was taken in with.

use ipnet::IpNet;

use crate::env::Role;
use crate::error::{Origin, ProblemKind};
use crate::read::{Bad, Section};
use crate::scalar;
use crate::value::PortSet;

/// What a gateway makes of those who connect to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EdgeConfig {
    /// `gateway.proxyProtocol`.
    pub proxy_protocol: ProxyProtocolSources,
    /// `gateway.trustedHops` or `gateway.trustedNetworks`: whose `x-forwarded-*` is believed.
    pub trust: ForwardedTrust,
    /// `gateway.forwarded`: whether backends are told by `forwarded` (RFC 7239) as well.
    pub forwarded: bool,
    /// `gateway.limits.requestBody`: octets of a request's body; `None`: no limit.
    pub request_body: Option<u64>,
}

/// Which proxies in front of the gateway are its operator's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardedTrust {
    /// So many, counted from the one that connects.
    Hops(usize),
    /// Those with addresses in these networks.
    Networks(Vec<IpNet>),
}

impl Default for ForwardedTrust {
    fn default() -> Self {
        Self::Hops(0)
    }
}

/// `gateway.proxyProtocol`: whose connections begin with a header that says for whom they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyProtocolSources {
    /// `trusted`: the networks of the load balancers in front. Empty: nobody's.
    pub trusted: Vec<IpNet>,
    /// `ports`: the ports where that holds. Empty: all.
    pub ports: PortSet,
}

impl ProxyProtocolSources {
    /// Whether it holds at a port.
    pub fn at(&self, port: u16) -> bool {
        !self.trusted.is_empty() && (self.ports.is_empty() || self.ports.contains(port))
    }
}

/// Reads what `gateway` has of it.
pub(crate) fn edge(s: &Section<'_, '_>) -> EdgeConfig {
    EdgeConfig {
        proxy_protocol: proxy_protocol(&s.section("proxyProtocol")),
        trust: trust(s),
        forwarded: forwarded(s),
        request_body: request_body(&s.section("limits")),
    }
}

fn trust(s: &Section<'_, '_>) -> ForwardedTrust {
    let hops = s.scalar("trustedHops", scalar::whole(0..=10));
    let networks = s.list("trustedNetworks", scalar::cidr);
    if s.reader().role() == Role::Sidecar {
        if let Some((_, origin)) = hops {
            let bad = conflict("a sidecar believes nobody's x-forwarded-for");
            s.reader().refuse(origin, "gateway.trustedHops", bad);
        }
        refuse_for_sidecar(s, "trustedNetworks", &networks, "a sidecar believes nobody's x-forwarded-for");
        return ForwardedTrust::default();
    }
    match (hops, networks) {
        (Some(_), Some(networks)) => {
            let origin = networks.first().map_or_else(|| s.origin(), |(_, origin)| origin.clone());
            let reason = "`trustedHops` is set as well: one counts proxies, the other knows their addresses";
            let cure = "keep one of them".to_owned();
            let bad = Bad { kind: ProblemKind::Conflict, reason: reason.to_owned(), cure };
            s.reader().refuse(origin, "gateway.trustedNetworks", bad);
            ForwardedTrust::default()
        }
        (None, Some(networks)) => {
            ForwardedTrust::Networks(networks.into_iter().map(|(net, _)| net).collect())
        }
        (hops, None) => {
            if hops.is_none() {
                s.default("trustedHops", &0);
            }
            ForwardedTrust::Hops(hops.and_then(|(hops, _)| usize::try_from(hops).ok()).unwrap_or(0))
        }
    }
}

fn forwarded(s: &Section<'_, '_>) -> bool {
    const WORDS: &[(&str, bool)] = &[("on", true), ("off", false), ("true", true), ("false", false)];
    let written = s.scalar("forwarded", scalar::word(WORDS));
    match (&written, s.reader().role()) {
        (Some((_, origin)), Role::Sidecar) => {
            let bad = conflict("a sidecar tells of nobody");
            s.reader().refuse(origin.clone(), "gateway.forwarded", bad);
        }
        (None, Role::Gateway) => s.default("forwarded", &"off"),
        _ => {}
    }
    written.is_some_and(|(on, _)| on)
}

fn request_body(s: &Section<'_, '_>) -> Option<u64> {
    // A terabyte: more is a typing mistake.
    let written = s.scalar("requestBody", scalar::size(1..=1 << 40));
    if s.reader().role() == Role::Sidecar {
        if let Some((_, origin)) = written {
            let bad = conflict("a sidecar bounds nobody's requests");
            s.reader().refuse(origin, &format!("{}.requestBody", s.path()), bad);
        }
        return None;
    }
    if written.is_none() {
        s.default("requestBody", &"none");
    }
    written.map(|(size, _)| size.0)
}

fn proxy_protocol(s: &Section<'_, '_>) -> ProxyProtocolSources {
    let trusted = s.list("trusted", scalar::cidr);
    let ports = s.list("ports", scalar::ports);
    refuse_for_sidecar(s, "trusted", &trusted, "a sidecar has no load balancers in front");
    refuse_for_sidecar(s, "ports", &ports, "a sidecar has no listeners of a Gateway");
    let (trusted, ports) = (trusted.unwrap_or_default(), ports.unwrap_or_default());
    if trusted.is_empty() && !ports.is_empty() {
        let origin = ports.first().map_or_else(|| s.origin(), |(_, origin)| origin.clone());
        let reason = "nobody's header is read at them: `trusted` names no network".to_owned();
        let cure = "write the networks of your load balancers into gateway.proxyProtocol.trusted".to_owned();
        let bad = Bad { kind: ProblemKind::Conflict, reason, cure };
        s.reader().refuse(origin, &format!("{}.ports", s.path()), bad);
    }
    ProxyProtocolSources {
        trusted: trusted.into_iter().map(|(net, _)| net).collect(),
        ports: PortSet::new(ports.into_iter().map(|(range, _)| range).collect()),
    }
}

/// Refuses a list that is written for a sidecar.
fn refuse_for_sidecar<T>(s: &Section<'_, '_>, name: &str, written: &Option<Vec<(T, Origin)>>, reason: &str) {
    if let (Some(list), Role::Sidecar) = (written, s.reader().role()) {
        let origin = list.first().map_or_else(|| s.origin(), |(_, origin)| origin.clone());
        s.reader().refuse(origin, &format!("{}.{name}", s.path()), conflict(reason));
    }
}

/// Something is written that only a gateway has.
pub(crate) fn conflict(reason: &str) -> Bad {
    let cure = "leave it out, or run `weft gateway`".to_owned();
    Bad { kind: ProblemKind::Conflict, reason: reason.to_owned(), cure }
}

#[cfg(test)]
#[path = "edge_tests.rs"]
mod tests;
