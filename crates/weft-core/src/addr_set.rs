//! A set of networks that is asked for an address in one binary search.

use std::net::IpAddr;

use ipnet::IpNet;

/// Addresses as sorted, disjoint ranges.
#[derive(Clone, Debug, Default)]
pub struct AddrSet {
    v4: Box<[(u128, u128)]>,
    v6: Box<[(u128, u128)]>,
}

impl AddrSet {
    /// The addresses of all `nets`.
    pub fn new(nets: &[IpNet]) -> Self {
        let ranges = |v6: bool| {
            let of_family = nets.iter().filter(|net| matches!(net, IpNet::V6(_)) == v6);
            merge(of_family.map(|net| (bits(net.network()), bits(net.broadcast()))).collect())
        };
        Self { v4: ranges(false), v6: ranges(true) }
    }

    /// Whether `ip`, in canonical form, is among them. Allocates nothing.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let (ranges, ip) = (if ip.is_ipv4() { &self.v4 } else { &self.v6 }, bits(ip));
        let after = ranges.partition_point(|(first, _)| *first <= ip);
        after.checked_sub(1).and_then(|i| ranges.get(i)).is_some_and(|(_, last)| ip <= *last)
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn merge(mut ranges: Vec<(u128, u128)>) -> Box<[(u128, u128)]> {
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(previous) if first <= previous.1 => previous.1 = previous.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged.into()
}
