//! Which addresses a cluster has: decided once, before anything is made.
//!
//! Pods and services have the same addresses in every cluster, because nothing outside of the cluster's namespaces
//! sees them. The nodes' network does end in the machine's own namespace (that is how `kubectl` on the machine reaches
//! the API server), so each cluster gets one that nothing there uses.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Services' addresses (IPv4).
pub(crate) const SERVICES_V4: &str = "10.96.0.0/16";
/// Services' addresses (IPv6).
pub(crate) const SERVICES_V6: &str = "fd77:6566:7496::/112";
/// Pods' addresses of all nodes (IPv4).
pub(crate) const PODS_V4: &str = "10.244.0.0/16";
/// Pods' addresses of all nodes (IPv6).
pub(crate) const PODS_V6: &str = "fd77:6566:7444::/56";
/// The `kubernetes` service.
pub(crate) const API_SERVICE: &str = "10.96.0.1";
/// Its IPv6 twin.
pub(crate) const API_SERVICE_V6: &str = "fd77:6566:7496::1";
/// The DNS service.
pub(crate) const DNS_SERVICE: &str = "10.96.0.10";
/// The API server's port.
pub(crate) const API_PORT: u16 = 6443;
/// How many clusters can be up at once.
const SLOTS: u8 = 64;
/// The longest name: with its prefix it is the name of a link, and those have at most 15 bytes.
const LONGEST_NAME: usize = 11;

/// The addresses of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The cluster's name.
    pub(crate) name: String,
    /// Which of the networks for nodes it has.
    pub(crate) slot: u8,
    /// Whether there are IPv6 addresses beside those of IPv4.
    pub(crate) dual_stack: bool,
    /// How many nodes.
    pub(crate) nodes: u8,
}

/// One address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

impl Plan {
    /// A plan whose nodes' network overlaps nothing in `taken`, the output of `ip address` and `ip route`.
    ///
    /// # Errors
    /// The name cannot name a link, or all networks are taken.
    pub(crate) fn new(name: &str, nodes: u8, dual_stack: bool, taken: &str) -> Result<Self> {
        check_name(name)?;
        let taken = networks(taken);
        let slot = (0..SLOTS)
            .find(|slot| {
                let mine = (u32::from(Ipv4Addr::new(10, 245, *slot, 0)), 24);
                !taken.iter().any(|other| overlap(mine, *other))
            })
            .context("no network free for the nodes: 10.245.0.0 to 10.245.63.255 are all in use here")?;
        Ok(Self { name: name.to_owned(), slot, dual_stack, nodes })
    }

    /// The number of each node, from 1.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.nodes
    }

    fn wire(&self, host: u8) -> Pair {
        let net = 0x7400 | u16::from(self.slot);
        Pair {
            v4: Ipv4Addr::new(10, 245, self.slot, host),
            v6: Ipv6Addr::new(0xfd77, 0x6566, net, 0, 0, 0, 0, u16::from(host)),
        }
    }

    /// The nodes' default gateway, behind which there is nothing.
    pub(crate) fn gateway(&self) -> Pair {
        self.wire(1)
    }

    /// The machine's own address in the nodes' network.
    pub(crate) fn machine(&self) -> Pair {
        self.wire(254)
    }

    /// A node's address.
    pub(crate) fn node(&self, number: u8) -> Pair {
        self.wire(10_u8.saturating_add(number))
    }

    /// A node's addresses as `--node-ip` wants them.
    pub(crate) fn node_ips(&self, number: u8) -> String {
        let pair = self.node(number);
        if self.dual_stack { format!("{},{}", pair.v4, pair.v6) } else { pair.v4.to_string() }
    }

    /// The networks of a node's pods, the IPv4 one first.
    pub(crate) fn pods(&self, number: u8) -> Vec<String> {
        let mut networks = vec![format!("10.244.{number}.0/24")];
        if self.dual_stack {
            networks.push(format!("fd77:6566:7444:{number:x}::/64"));
        }
        networks
    }

    /// The networks of all pods, with a comma between the families.
    pub(crate) fn all_pods(&self) -> String {
        if self.dual_stack { format!("{PODS_V4},{PODS_V6}") } else { PODS_V4.to_owned() }
    }

    /// The networks of all services, with a comma between the families.
    pub(crate) fn services(&self) -> String {
        if self.dual_stack { format!("{SERVICES_V4},{SERVICES_V6}") } else { SERVICES_V4.to_owned() }
    }

    /// The link in the machine's own namespace.
    pub(crate) fn link(&self) -> String {
        format!("wk-{}", self.name)
    }

    /// Where the API server is.
    pub(crate) fn api_url(&self) -> String {
        format!("https://{}:{API_PORT}", self.node(1).v4)
    }
}

/// The name of a node.
pub(crate) fn node_name(number: u8) -> String {
    format!("node-{number}")
}

/// Whether `name` can name a cluster: it becomes part of a link's name, of a path and of a control group.
///
/// # Errors
/// It cannot.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !starts || name.len() > LONGEST_NAME || !name.bytes().all(fine) {
        bail!("{name:?} cannot name a cluster: at most {LONGEST_NAME} of a-z, 0-9 and -");
    }
    Ok(())
}

/// Every IPv4 network in a text; a lone address counts as itself.
fn networks(text: &str) -> Vec<(u32, u32)> {
    text.split_whitespace()
        .filter_map(|word| {
            let (address, length) = word.split_once('/').unwrap_or((word, "32"));
            let address: Ipv4Addr = address.parse().ok()?;
            Some((u32::from(address), length.parse().ok().filter(|length| *length <= 32)?))
        })
        // The default route overlaps everything and takes nothing.
        .filter(|(_, length)| *length > 0)
        .collect()
}

fn overlap(a: (u32, u32), b: (u32, u32)) -> bool {
    let shorter = a.1.min(b.1);
    let mask = u32::MAX.checked_shl(32 - shorter).unwrap_or(0);
    a.0 & mask == b.0 & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_network_is_taken() {
        let of = |taken| Plan::new("weft", 1, false, taken).unwrap().slot;
        assert_eq!(of("inet 192.0.2.2/24 brd 192.0.2.255"), 0);
        assert_eq!(of("default via 10.0.0.1 dev eth0\n10.245.0.0/24 dev wk-a"), 1);
        assert_eq!(of("inet 10.245.0.9/32 x\n10.245.1.128/25 y\n10.245.2.0/23 z"), 4);
        assert!(Plan::new("weft", 1, false, "10.0.0.0/8 dev vpn").is_err(), "all of them are in use");
        assert_eq!(of("0.0.0.0/0 via 10.9.9.9"), 0);
    }

    #[test]
    fn addresses_are_distinct_and_inside_their_networks() {
        let plan = Plan { name: "a".into(), slot: 3, dual_stack: true, nodes: 2 };
        let all: Vec<Pair> = [plan.gateway(), plan.machine()]
            .into_iter()
            .chain(plan.numbers().map(|n| plan.node(n)))
            .collect();
        for (index, pair) in all.iter().enumerate() {
            assert!(pair.v4.octets().starts_with(&[10, 245, 3]));
            assert!(!all.iter().skip(index + 1).any(|other| other.v4 == pair.v4 || other.v6 == pair.v6));
        }
        assert_eq!(plan.node_ips(2), "10.245.3.12,fd77:6566:7403::c");
        assert_eq!(plan.pods(2), ["10.244.2.0/24", "fd77:6566:7444:2::/64"]);
        assert_eq!(plan.api_url(), "https://10.245.3.11:6443");
    }

    #[test]
    fn one_family_means_one_address_each() {
        let plan = Plan::new("x", 1, false, "").unwrap();
        assert_eq!(plan.pods(1), ["10.244.1.0/24"]);
        assert!(![plan.node_ips(1), plan.all_pods(), plan.services()].iter().any(|text| text.contains(',')));
    }

    #[test]
    fn a_name_must_fit_a_link() {
        assert!(check_name("weft").is_ok() && check_name("abcdefghijk").is_ok());
        for bad in ["", "-a", "A", "a/b", "a.b", "abcdefghijkl", ".."] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
