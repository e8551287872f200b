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
    /// `gateway.limits.requestBody`: octets of a request's body; `None`: no limit.
    pub request_body: Option<u64>,
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
        request_body: request_body(&s.section("limits")),
    }
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
