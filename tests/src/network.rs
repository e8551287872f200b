//! What connects the pods of a mesh: a bridge, or the loopback interface.
//!
//! On loopback nothing is redirected and nothing can be captured, and every program of the machine reaches every pod. It
//! is for a machine that allows no namespaces at all: the demo there, and stories about workloads without interception.
//! All of 127.0.0.0/8 is this machine on Linux, without any right, so each pod gets an address of it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// The number of the name server's pod. Fixed, so that every `resolv.conf` can name it.
pub(crate) const DNS_NUMBER: u16 = 10;

/// The node: the pods' default gateway.
const NODE_NUMBER: u16 = 1;

/// A number that no pod gets, and the port that a mesh holds there to have its part of loopback for itself.
const CLAIM_NUMBER: u8 = 254;
const CLAIM_PORT: u16 = 15998;

/// How many parts of loopback are tried.
const TRIES: usize = 32;

/// Where the pods are.
#[derive(Debug)]
pub(crate) enum Network {
    /// Network namespaces on a bridge: 10.77.0.0/16 and `fd77::/64` (each mesh has a bridge of its own, so all may use
    /// the same).
    Bridge,
    /// Addresses of loopback.
    Loopback(Loopback),
}

/// The part of 127.0.0.0/8 that one mesh uses.
#[derive(Debug)]
pub(crate) struct Loopback {
    /// The first three octets.
    net: [u8; 3],
    /// Keeps other meshes away, of this process and of others.
    _claim: Option<TcpListener>,
    /// What programs of this machine that listen on all addresses leave over: by the port that was wanted.
    ports: Mutex<HashMap<u16, u16>>,
}

impl Network {
    /// A part of loopback that no other mesh uses.
    pub(crate) fn loopback() -> Self {
        // 127.0.0.0/16 is where people put things by hand. Where the port of the claim is taken on all addresses, a part
        // at random has to do.
        let candidates = || std::iter::repeat_with(|| [127, fastrand::u8(1..), fastrand::u8(..)]);
        let claimed = candidates().take(TRIES).find_map(|net| {
            let claim = TcpListener::bind((address(net, CLAIM_NUMBER), CLAIM_PORT)).ok()?;
            Some((net, Some(claim)))
        });
        let (net, claim) = claimed.unwrap_or(([127, fastrand::u8(1..), fastrand::u8(..)], None));
        Self::Loopback(Loopback { net, _claim: claim, ports: Mutex::default() })
    }

    pub(crate) fn is_loopback(&self) -> bool {
        matches!(self, Self::Loopback(_))
    }

    pub(crate) fn v4(&self, number: u16) -> Ipv4Addr {
        let [high, low] = number.to_be_bytes();
        match self {
            Self::Bridge => Ipv4Addr::new(10, 77, high, low),
            Self::Loopback(loopback) => address(loopback.net, low),
        }
    }

    /// Loopback has one IPv6 address, which is not enough for pods.
    pub(crate) fn v6(&self, number: u16) -> Option<Ipv6Addr> {
        (!self.is_loopback()).then(|| Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number))
    }

    /// The node's addresses on the bridge.
    pub(crate) fn node(&self) -> (Ipv4Addr, Option<Ipv6Addr>) {
        (self.v4(NODE_NUMBER), self.v6(NODE_NUMBER))
    }

    /// The port to use where `wanted` is the usual one: on loopback another, if a program of this machine listens there
    /// on all addresses. The same for all pods and for good.
    pub(crate) fn port(&self, wanted: u16) -> u16 {
        let Self::Loopback(loopback) = self else { return wanted };
        let mut ports = loopback.ports.lock().unwrap_or_else(PoisonError::into_inner);
        *ports.entry(wanted).or_insert_with(|| {
            let free = TcpListener::bind((address(loopback.net, CLAIM_NUMBER), wanted)).is_ok();
            let other = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr();
            if free { wanted } else { other().map_or(wanted, |address| address.port()) }
        })
    }
}

fn address([a, b, c]: [u8; 3], number: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_on_all_addresses_is_replaced_for_good() {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let wanted = taken.local_addr().unwrap().port();
        let network = Network::loopback();
        let other = network.port(wanted);
        assert_ne!(other, wanted);
        drop(taken);
        assert_eq!(network.port(wanted), other);
        assert_eq!(Network::Bridge.port(wanted), wanted);
        assert!(network.v4(DNS_NUMBER).is_loopback());
        assert_ne!(Network::loopback().v4(DNS_NUMBER), network.v4(DNS_NUMBER));
    }
}
