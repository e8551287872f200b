//! The name of an address that was dialed without asking for one.
//!
//! Applications know addresses of services from environment variables and from configurations. The address alone says
//! nothing about who is to be expected there, so its name is looked up (RFC 1035 section 3.5) and believed only where the
//! name's own answer has the address: anybody may write any name into a reverse zone of their own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use weft_core::DnsName;

use crate::lookup::{Freshness, Lookup, family, resolve};
use crate::resolver::Resolver;
use crate::wire::{Query, TYPE_A, TYPE_AAAA, TYPE_PTR};

/// Names of one address that are looked at. A service has one; a pod behind several services may have as many.
const NAMES: usize = 8;

/// The names that `ip` has both ways, with how long that holds; none where DNS does not say.
pub(crate) async fn names_of(resolver: &Arc<Resolver>, ip: IpAddr) -> Vec<(DnsName, Duration)> {
    let ip = ip.to_canonical();
    let mut confirmed = Vec::new();
    for name in pointers(resolver, ip).await {
        let qtype = if ip.is_ipv4() { TYPE_A } else { TYPE_AAAA };
        if let Lookup::Found(addresses, ttl) = family(resolver, &name, qtype, ANY).await
            && addresses.contains(&ip)
        {
            confirmed.push((name, ttl));
        }
    }
    confirmed
}

/// A name that was right is better than none while DNS is away.
const ANY: Freshness = Freshness { max_age: None, stale: true };

async fn pointers(resolver: &Arc<Resolver>, ip: IpAddr) -> Vec<DnsName> {
    let Some(question) = reverse_name(ip) else { return Vec::new() };
    let Lookup::Found(found, _) = resolve(resolver, &Query::new(&question, TYPE_PTR), ANY).await else {
        return Vec::new();
    };
    let Ok(message) = Message::from_vec(found.answer.bytes()) else { return Vec::new() };
    let targets = message.answers.iter().filter_map(|record| match &record.data {
        RData::PTR(target) => target.to_ascii().parse().ok(),
        _ => None,
    });
    targets.take(NAMES).collect()
}

/// Octets under `in-addr.arpa` (RFC 1035 section 3.5), nibbles under `ip6.arpa` (RFC 3596 section 2.5), the last first.
fn reverse_name(ip: IpAddr) -> Option<DnsName> {
    let mut text = String::with_capacity(74);
    match ip {
        IpAddr::V4(v4) => v4.octets().iter().rev().for_each(|octet| text.push_str(&format!("{octet}."))),
        IpAddr::V6(v6) => {
            for octet in v6.octets().iter().rev() {
                text.push_str(&format!("{:x}.{:x}.", octet & 0x0f, octet >> 4));
            }
        }
    }
    text.push_str(if ip.is_ipv4() { "in-addr.arpa" } else { "ip6.arpa" });
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_names_are_those_of_the_standards() {
        let name = |ip: &str| reverse_name(ip.parse().unwrap()).unwrap().to_string();
        assert_eq!(name("10.96.0.1"), "1.0.96.10.in-addr.arpa");
        assert_eq!(
            name("2001:db8::567:89ab"),
            "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
        );
    }
}
