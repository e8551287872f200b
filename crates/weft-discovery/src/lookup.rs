//! Our own questions, as typed answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData};
use weft_core::DnsName;

use crate::resolver::{Found, Resolver};
use crate::wire::{Kind, Query, TYPE_A, TYPE_AAAA, TYPE_SRV};

/// What a look-up came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup<T> {
    /// Records, and for how long they are good.
    Found(T, Duration),
    /// DNS says that there are none.
    Absent(Duration),
    /// DNS says nothing.
    Failed,
}

/// One SRV record, with the addresses that came along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: DnsName,
    pub(crate) port: u16,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Which answers a refresh can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Freshness {
    /// Answers older than this are asked for anew, whatever their TTL.
    pub(crate) max_age: Option<Duration>,
    /// Whether an answer past its TTL is better than none. Where endpoints are in use it is not: they are at least as
    /// new, and the outage should be seen.
    pub(crate) stale: bool,
}

pub(crate) async fn resolve(resolver: &Arc<Resolver>, query: &Query, want: Freshness) -> Lookup<Found> {
    match resolver.resolve(query, want.max_age).await {
        Ok(found) if found.is_stale() && !want.stale => Lookup::Failed,
        Ok(found) => match found.answer.kind {
            Kind::Failure => Lookup::Failed,
            Kind::Negative => Lookup::Absent(found.remaining()),
            Kind::Positive => {
                let ttl = found.remaining();
                Lookup::Found(found, ttl)
            }
        },
        Err(_) => Lookup::Failed,
    }
}

/// The SRV records of `name` that should be used: those of the best (lowest) priority (RFC 2782). The root as target
/// says that there is no such service.
pub(crate) async fn srv(resolver: &Arc<Resolver>, name: &DnsName, want: Freshness) -> Lookup<Vec<Target>> {
    let (found, ttl) = match resolve(resolver, &Query::new(name, TYPE_SRV), want).await {
        Lookup::Found(found, ttl) => (found, ttl),
        Lookup::Absent(ttl) => return Lookup::Absent(ttl),
        Lookup::Failed => return Lookup::Failed,
    };
    let Ok(message) = Message::from_vec(found.answer.bytes()) else { return Lookup::Failed };
    let records: Vec<_> = message
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) if !srv.target.is_root() && srv.port != 0 => Some(srv),
            _ => None,
        })
        .collect();
    let best = records.iter().map(|srv| srv.priority).min();
    let glue = glue(&message);
    let targets: Vec<Target> = records
        .iter()
        .filter(|srv| Some(srv.priority) == best)
        .filter_map(|srv| {
            let addresses = glue.get(&srv.target).cloned().unwrap_or_default();
            Some(Target { name: srv.target.to_ascii().parse().ok()?, port: srv.port, addresses })
        })
        .collect();
    if targets.is_empty() {
        return Lookup::Absent(ttl);
    }
    Lookup::Found(targets, ttl)
}

/// The addresses in the additional section, by name.
fn glue(message: &Message) -> HashMap<&Name, Vec<IpAddr>> {
    let mut addresses: HashMap<&Name, Vec<IpAddr>> = HashMap::new();
    for record in &message.additionals {
        let address = match &record.data {
            RData::A(a) => IpAddr::V4(a.0),
            RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
            _ => continue,
        };
        addresses.entry(&record.name).or_default().push(address);
    }
    addresses
}

/// The addresses of one family.
pub(crate) async fn family(
    resolver: &Arc<Resolver>,
    name: &DnsName,
    qtype: u16,
    want: Freshness,
) -> Lookup<Vec<IpAddr>> {
    match resolve(resolver, &Query::new(name, qtype), want).await {
        Lookup::Found(found, ttl) => Lookup::Found(found.answer.addresses.to_vec(), ttl),
        Lookup::Absent(ttl) => Lookup::Absent(ttl),
        Lookup::Failed => Lookup::Failed,
    }
}

/// The addresses of a name: IPv4, IPv6.
pub(crate) async fn addresses(
    resolver: &Arc<Resolver>,
    name: &DnsName,
    want: Freshness,
) -> (Lookup<Vec<IpAddr>>, Lookup<Vec<IpAddr>>) {
    tokio::join!(family(resolver, name, TYPE_A, want), family(resolver, name, TYPE_AAAA, want))
}

/// Asks ahead for what [`crate::endpoints`] will want to know, all at once; its questions then join these.
pub(crate) fn ask_ahead(resolver: &Arc<Resolver>, srv_names: &[DnsName], name: &DnsName) {
    let srv_queries = srv_names.iter().map(|name| Query::new(name, TYPE_SRV));
    for query in srv_queries.chain([Query::new(name, TYPE_A), Query::new(name, TYPE_AAAA)]) {
        let resolver = Arc::clone(resolver);
        tokio::spawn(async move { drop(resolver.resolve(&query, None).await) });
    }
}
