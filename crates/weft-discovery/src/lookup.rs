//! Our own questions, as typed answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData};
use weft_core::DnsName;

use crate::resolver::Resolver;
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

/// The SRV records of `name` that should be used: those of the best (lowest) priority (RFC 2782). The root as target
/// says that there is no such service.
pub(crate) async fn srv(
    resolver: &Arc<Resolver>,
    name: &DnsName,
    max_age: Option<Duration>,
) -> Lookup<Vec<Target>> {
    let found = match resolver.resolve(&Query::new(name, TYPE_SRV), max_age).await {
        Ok(found) => found,
        Err(_) => return Lookup::Failed,
    };
    match found.answer.kind {
        Kind::Failure => return Lookup::Failed,
        Kind::Negative => return Lookup::Absent(found.remaining()),
        Kind::Positive => {}
    }
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
    let targets: Vec<Target> = records
        .iter()
        .filter(|srv| Some(srv.priority) == best)
        .filter_map(|srv| {
            let addresses = glue(&message, &srv.target);
            Some(Target { name: srv.target.to_ascii().parse().ok()?, port: srv.port, addresses })
        })
        .collect();
    if targets.is_empty() {
        return Lookup::Absent(found.remaining());
    }
    Lookup::Found(targets, found.remaining())
}

/// The addresses of `target` in the additional section.
fn glue(message: &Message, target: &Name) -> Vec<IpAddr> {
    message
        .additionals
        .iter()
        .filter(|record| record.name == *target)
        .filter_map(|record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        })
        .collect()
}

/// The addresses of one family.
async fn family(
    resolver: &Arc<Resolver>,
    name: &DnsName,
    qtype: u16,
    max_age: Option<Duration>,
) -> Lookup<Vec<IpAddr>> {
    match resolver.resolve(&Query::new(name, qtype), max_age).await {
        Err(_) => Lookup::Failed,
        Ok(found) => match found.answer.kind {
            Kind::Failure => Lookup::Failed,
            Kind::Negative => Lookup::Absent(found.remaining()),
            Kind::Positive => Lookup::Found(found.answer.addresses.to_vec(), found.remaining()),
        },
    }
}

/// The addresses of a name: IPv4, IPv6.
pub(crate) async fn addresses(
    resolver: &Arc<Resolver>,
    name: &DnsName,
    max_age: Option<Duration>,
) -> (Lookup<Vec<IpAddr>>, Lookup<Vec<IpAddr>>) {
    tokio::join!(family(resolver, name, TYPE_A, max_age), family(resolver, name, TYPE_AAAA, max_age))
}

/// Asks ahead for what [`crate::endpoints`] will want to know, all at once; its questions then join these.
pub(crate) fn ask_ahead(resolver: &Arc<Resolver>, srv_names: &[DnsName], name: &DnsName) {
    let srv_queries = srv_names.iter().map(|name| Query::new(name, TYPE_SRV));
    for query in srv_queries.chain([Query::new(name, TYPE_A), Query::new(name, TYPE_AAAA)]) {
        let resolver = Arc::clone(resolver);
        tokio::spawn(async move { drop(resolver.resolve(&query, None).await) });
    }
}
