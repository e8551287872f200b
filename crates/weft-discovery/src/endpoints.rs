//! From a service to its endpoints: which names are asked for, in which order, and what an answer means.
//!
//! The order (docs/design/discovery.md): SRV of the twin, SRV of the name itself, addresses of the name, the dialed
//! address. "There is none" moves on to the next source; "no answer" does not, where that source gave the endpoints that
//! are in use: a resolver that is down must not move a service from its pods to its virtual IP and back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use weft_core::{AppProtocol, DnsName, EndpointAddr, EndpointList, EndpointSource, ServiceKey};

use crate::lookup::{self, Freshness, Lookup, Target};
use crate::resolver::Resolver;

/// Endpoints of one service at the most. Larger sets want subsetting, which needs all of them first: this is a bound
/// on what one answer can make us do, not a design size.
const MAX_ENDPOINTS: usize = 4096;
/// SRV targets whose addresses are asked for at a time.
const TARGETS_AT_A_TIME: usize = 16;

/// Which protocol a service name (the label of an SRV record, or a port's name) stands for. `p<port>` and anything
/// unknown tell nothing.
pub fn protocol_of_label(label: &str) -> AppProtocol {
    let label = label.strip_prefix('_').unwrap_or(label).to_ascii_lowercase();
    // Kubernetes port names carry the protocol before the first dash: `http-metrics`, `grpc-web`, `tcp-backup`.
    match label.split('-').next().unwrap_or("") {
        "http" | "http2" | "h2" | "h2c" | "grpc" => AppProtocol::Http,
        "tcp" | "tls" | "https" | "redis" | "mysql" | "mariadb" | "postgres" | "postgresql" | "mongo"
        | "mongodb" | "smtp" | "imap" | "pop3" | "amqp" | "kafka" | "mqtt" | "ldap" | "nats"
        | "memcached" | "cassandra" => AppProtocol::Opaque,
        _ => AppProtocol::Detect,
    }
}

/// The names to ask SRV records for, best first, each with the protocol that it tells.
pub(crate) fn srv_names(key: &ServiceKey, labels: &HashMap<u16, String>) -> Vec<(DnsName, AppProtocol)> {
    let name = key.name.as_str();
    let (first, rest) = name.split_once('.').map_or((name, ""), |(first, rest)| (first, rest));
    let mut names = Vec::with_capacity(3);
    // A name that is too long for its prefix cannot exist in DNS: it is left out.
    let mut push = |text: String, protocol| names.extend(text.parse().ok().map(|name| (name, protocol)));
    if !first.ends_with("-endpoints") {
        let dot = if rest.is_empty() { "" } else { "." };
        push(format!("_p{}._tcp.{first}-endpoints{dot}{rest}", key.port), AppProtocol::Detect);
    }
    push(format!("_p{}._tcp.{name}", key.port), AppProtocol::Detect);
    if let Some(label) = labels.get(&key.port) {
        push(format!("_{}._tcp.{name}", label.strip_prefix('_').unwrap_or(label)), protocol_of_label(label));
    }
    names
}

/// What is to be found out, and what is known.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) key: &'a ServiceKey,
    pub(crate) srv_names: &'a [(DnsName, AppProtocol)],
    pub(crate) dialed: Option<EndpointAddr>,
    pub(crate) last: Option<&'a EndpointList>,
    /// Answers older than this are asked for anew.
    pub(crate) max_age: Option<Duration>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// Endpoints, and for how long they are good.
    Endpoints { endpoints: Vec<EndpointAddr>, protocol: AppProtocol, source: EndpointSource, ttl: Duration },
    /// Nothing: the last good endpoints stay, or the dialed address, if there is one, where there were none.
    Nothing(&'static str),
}

impl Question<'_> {
    fn last_from(&self, source: EndpointSource) -> bool {
        self.last.is_some_and(|last| last.source == source)
    }

    fn want(&self) -> Freshness {
        // A dialed address is what serves while DNS says nothing: even an old answer is better.
        let stale = self.last.is_none_or(|last| last.source == EndpointSource::Dialed);
        Freshness { max_age: self.max_age, stale }
    }

    pub(crate) async fn resolve(&self, resolver: &Arc<Resolver>) -> Resolved {
        // "There is no SRV record" is good for as long as DNS says, so that a twin that comes is seen.
        let mut none_for = Duration::MAX;
        for (name, protocol) in self.srv_names {
            match self.srv(resolver, name).await {
                Lookup::Found(endpoints, ttl) => {
                    let source = EndpointSource::Srv;
                    return Resolved::Endpoints { endpoints, protocol: *protocol, source, ttl };
                }
                Lookup::Absent(ttl) => none_for = none_for.min(ttl),
                Lookup::Failed if self.last_from(EndpointSource::Srv) => {
                    return Resolved::Nothing("no answer to the SRV query");
                }
                Lookup::Failed => none_for = Duration::ZERO,
            }
        }
        let (v4, v6) = lookup::addresses(resolver, &self.key.name, self.want()).await;
        match self.addresses(v4, v6) {
            Lookup::Found(endpoints, ttl) => {
                let dialed = endpoints.as_slice() == self.dialed.as_slice();
                let source = if dialed { EndpointSource::Dialed } else { EndpointSource::Headless };
                let ttl = ttl.min(none_for);
                Resolved::Endpoints { endpoints, protocol: AppProtocol::Detect, source, ttl }
            }
            Lookup::Absent(_) => Resolved::Nothing("the name has no records"),
            Lookup::Failed => Resolved::Nothing("no answer to the address query"),
        }
    }

    /// SRV records with the addresses of their targets.
    async fn srv(&self, resolver: &Arc<Resolver>, name: &DnsName) -> Lookup<Vec<EndpointAddr>> {
        let (targets, mut ttl) = match lookup::srv(resolver, name, self.want()).await {
            Lookup::Found(targets, ttl) => (targets, ttl),
            Lookup::Absent(ttl) => return Lookup::Absent(ttl),
            Lookup::Failed => return Lookup::Failed,
        };
        let (mut endpoints, mut failed) = (Vec::new(), false);
        let mut lookups: JoinSet<(Target, _)> = JoinSet::new();
        let mut targets = targets.into_iter().take(MAX_ENDPOINTS);
        loop {
            while lookups.len() < TARGETS_AT_A_TIME
                && let Some(target) = targets.next()
            {
                if target.addresses.is_empty() {
                    let (resolver, want) = (Arc::clone(resolver), self.want());
                    lookups.spawn(async move {
                        let found = lookup::addresses(&resolver, &target.name, want).await;
                        (target, found)
                    });
                } else {
                    endpoints.extend(at_port(&target.addresses, target.port));
                }
            }
            let Some(done) = lookups.join_next().await else { break };
            let Ok((target, (v4, v6))) = done else { continue };
            for found in [v4, v6] {
                match found {
                    Lookup::Found(addresses, good_for) => {
                        ttl = ttl.min(good_for);
                        endpoints.extend(at_port(&addresses, target.port));
                    }
                    Lookup::Absent(good_for) => ttl = ttl.min(good_for),
                    Lookup::Failed => failed = true,
                }
            }
        }
        // A part of the set is better than none, but not better than the whole of it as it was.
        if failed && (endpoints.is_empty() || self.last_from(EndpointSource::Srv)) {
            return Lookup::Failed;
        }
        finish(endpoints, if failed { Duration::ZERO } else { ttl })
    }

    /// Both families together. Where one does not answer, what is known of it stays.
    fn addresses(&self, v4: Lookup<Vec<IpAddr>>, v6: Lookup<Vec<IpAddr>>) -> Lookup<Vec<EndpointAddr>> {
        let known =
            self.last.filter(|last| matches!(last.source, EndpointSource::Headless | EndpointSource::Dialed));
        let (mut endpoints, mut ttl, mut failures) = (Vec::new(), Duration::MAX, 0);
        for (found, is_v4) in [(v4, true), (v6, false)] {
            match found {
                Lookup::Found(addresses, good_for) => {
                    ttl = ttl.min(good_for);
                    endpoints.extend(at_port(&addresses, self.key.port));
                }
                Lookup::Absent(good_for) => ttl = ttl.min(good_for),
                Lookup::Failed => {
                    failures += 1;
                    ttl = Duration::ZERO;
                    let last = known.iter().flat_map(|last| last.endpoints.iter());
                    endpoints.extend(last.filter(|endpoint| endpoint.ip().is_ipv4() == is_v4));
                }
            }
        }
        if failures == 2 || (failures == 1 && endpoints.is_empty()) {
            return Lookup::Failed;
        }
        finish(endpoints, ttl)
    }
}

fn at_port(addresses: &[IpAddr], port: u16) -> impl Iterator<Item = EndpointAddr> + '_ {
    addresses.iter().map(move |ip| EndpointAddr::new((*ip, port).into()))
}

fn finish(mut endpoints: Vec<EndpointAddr>, ttl: Duration) -> Lookup<Vec<EndpointAddr>> {
    endpoints.sort_unstable();
    endpoints.dedup();
    endpoints.truncate(MAX_ENDPOINTS);
    if endpoints.is_empty() { Lookup::Absent(ttl) } else { Lookup::Found(endpoints, ttl) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(key: &str, port: u16, labels: &[(u16, &str)]) -> Vec<String> {
        let key = ServiceKey::new(key.parse().unwrap(), port);
        let labels = labels.iter().map(|(port, label)| (*port, (*label).to_owned())).collect();
        srv_names(&key, &labels).into_iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn the_twin_is_asked_first_then_the_name_itself() {
        assert_eq!(
            names("orders.shop.svc.cluster.local", 80, &[(80, "http"), (81, "x")]),
            [
                "_p80._tcp.orders-endpoints.shop.svc.cluster.local",
                "_p80._tcp.orders.shop.svc.cluster.local",
                "_http._tcp.orders.shop.svc.cluster.local"
            ]
        );
        assert_eq!(names("orders", 80, &[]), ["_p80._tcp.orders-endpoints", "_p80._tcp.orders"]);
        assert_eq!(names("orders-endpoints.shop", 80, &[]), ["_p80._tcp.orders-endpoints.shop"]);
        // "-endpoints" does not fit behind a label of 60.
        let long = "x".repeat(60);
        assert_eq!(names(&long, 80, &[]), [format!("_p80._tcp.{long}")]);
    }

    #[test]
    fn labels_name_protocols() {
        for label in ["http", "_http", "HTTP2", "h2c", "grpc", "grpc-api"] {
            assert_eq!(protocol_of_label(label), AppProtocol::Http, "{label}");
        }
        for label in ["tcp", "redis", "mysql", "https", "tcp-backup"] {
            assert_eq!(protocol_of_label(label), AppProtocol::Opaque, "{label}");
        }
        for label in ["p80", "", "-", "web"] {
            assert_eq!(protocol_of_label(label), AppProtocol::Detect, "{label}");
        }
    }

    fn question<'a>(key: &'a ServiceKey, last: Option<&'a EndpointList>) -> Question<'a> {
        let dialed = Some(EndpointAddr::new("10.96.0.1:80".parse().unwrap()));
        Question { key, srv_names: &[], dialed, last, max_age: None }
    }

    #[test]
    fn a_family_that_does_not_answer_keeps_its_last_addresses() {
        let key = ServiceKey::new("x.y".parse().unwrap(), 80);
        let endpoints: Vec<EndpointAddr> =
            ["10.0.0.1:80", "[fd00::1]:80"].map(|addr| EndpointAddr::new(addr.parse().unwrap())).into();
        let last = EndpointList::new(1, endpoints, AppProtocol::Detect, EndpointSource::Headless);
        let ttl = Duration::from_secs(5);
        let v4 = Lookup::Found(vec!["10.0.0.2".parse().unwrap()], ttl);
        let expected: Vec<EndpointAddr> =
            ["10.0.0.2:80", "[fd00::1]:80"].map(|addr| EndpointAddr::new(addr.parse().unwrap())).into();
        let asked = question(&key, Some(&last));
        assert_eq!(
            asked.addresses(v4.clone(), Lookup::Failed),
            Lookup::Found(expected.clone(), Duration::ZERO)
        );
        assert_eq!(asked.addresses(v4, Lookup::Absent(ttl)), Lookup::Found(vec![expected[0]], ttl));
        assert_eq!(asked.addresses(Lookup::Failed, Lookup::Failed), Lookup::Failed);
        assert_eq!(question(&key, None).addresses(Lookup::Absent(ttl), Lookup::Failed), Lookup::Failed);
        assert_eq!(asked.addresses(Lookup::Absent(ttl), Lookup::Absent(ttl)), Lookup::Absent(ttl));
    }

    #[test]
    fn a_mapped_address_is_the_same_endpoint() {
        let key = ServiceKey::new("x.y".parse().unwrap(), 80);
        let ttl = Duration::from_secs(5);
        let v4 = Lookup::Found(vec!["10.0.0.1".parse().unwrap()], ttl);
        let v6 = Lookup::Found(vec!["::ffff:10.0.0.1".parse().unwrap()], ttl);
        let one = vec![EndpointAddr::new("10.0.0.1:80".parse().unwrap())];
        assert_eq!(question(&key, None).addresses(v4, v6), Lookup::Found(one, ttl));
    }
}
