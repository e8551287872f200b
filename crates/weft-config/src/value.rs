//! The scalar types of `weft.yaml` that the standard library does not have.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Where one listener binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A port alone, for a listener that only the workload itself may reach: `127.0.0.1` and `::1`.
    Loopback(u16),
    /// A port alone, for a listener that others reach: every address of both families.
    Any(u16),
    /// An `ip:port`.
    Exact(SocketAddr),
}

impl Listen {
    /// The port.
    pub fn port(self) -> u16 {
        match self {
            Self::Loopback(port) | Self::Any(port) => port,
            Self::Exact(addr) => addr.port(),
        }
    }

    /// The addresses to bind, IPv4 first. Each is a socket of its own (IPv6 sockets with IPV6_V6ONLY); where the kernel
    /// has no IPv6, binding the second fails with EAFNOSUPPORT or EADDRNOTAVAIL and that is no error.
    pub fn addrs(self) -> Vec<SocketAddr> {
        match self {
            Self::Loopback(port) => {
                vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
            }
            Self::Any(port) => {
                vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
            }
            Self::Exact(addr) => vec![addr],
        }
    }

    /// Whether a connection to `addr` of this machine comes here.
    pub fn takes(self, addr: SocketAddr) -> bool {
        let (port, ip) = (addr.port(), addr.ip());
        port == self.port()
            && match self {
                Self::Loopback(_) => ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST,
                Self::Any(_) => true,
                Self::Exact(own) => {
                    own.ip() == ip || (own.ip().is_unspecified() && own.is_ipv4() == ip.is_ipv4())
                }
            }
    }

    /// Whether some connection could come to both.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.addrs().into_iter().any(|addr| other.takes(addr))
            || other.addrs().into_iter().any(|addr| self.takes(addr))
    }

    /// Whether only processes of this machine can come here.
    pub(crate) fn is_loopback(self) -> bool {
        self.addrs().iter().all(|addr| addr.ip().is_loopback())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(port) | Self::Any(port) => port.fmt(f),
            Self::Exact(addr) => addr.fmt(f),
        }
    }
}

/// `host:port` or `ip:port` (IPv6 in brackets).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A DNS name or an address, without brackets.
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

impl HostPort {
    /// The address, if the host is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl FromStr for HostPort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return match addr.port() {
                0 => Err("port 0 cannot be dialed"),
                port => Ok(Self { host: addr.ip().to_canonical().to_string(), port }),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
        let port = match port.parse::<u16>() {
            Ok(0) => return Err("port 0 cannot be dialed"),
            Ok(port) => port,
            Err(_) => return Err("has no port between 1 and 65535 after the last ':'"),
        };
        let name: weft_core::DnsName =
            host.parse().map_err(|_| "the host is neither an address nor a DNS name")?;
        if name.labels().last().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit())) {
            // RFC 1123 section 2.1: a name whose last label is all digits is a mistyped IPv4 address.
            return Err("the host looks like an IPv4 address but is not one");
        }
        Ok(Self { host: name.as_str().to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A number of octets: `65536`, `64KiB`, `1MiB`, `1GiB` (also `Ki`, `Mi`, `Gi` as in Kubernetes, and `B`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim() {
            "" | "B" => 0,
            "KiB" | "Ki" => 10,
            "MiB" | "Mi" => 20,
            "GiB" | "Gi" => 30,
            _ => return Err("is not a size"),
        };
        let number: u64 = number.parse().map_err(|_| "is not a size")?;
        number.checked_mul(1 << shift).map(Self).ok_or("is too large")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A set of ports, written as numbers and ranges (`6000-6100`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet {
    /// First and last of each range; sorted, disjoint, not adjacent.
    ranges: Box<[(u16, u16)]>,
}

impl PortSet {
    /// The set of all ports in `ranges`, each first to last.
    pub fn new(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(previous) if u32::from(first) <= u32::from(previous.1) + 1 => {
                    previous.1 = previous.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self { ranges: merged.into() }
    }

    /// Whether `port` is in the set. Allocates nothing.
    pub fn contains(&self, port: u16) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= port);
        after.checked_sub(1).and_then(|i| self.ranges.get(i)).is_some_and(|(_, last)| port <= *last)
    }

    /// Whether no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges, first and last of each, sorted.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.ranges
    }
}

/// One entry of a [`PortSet`] as written: a port, or `first-last`.
pub(crate) fn parse_port_range(text: &str) -> Result<(u16, u16), &'static str> {
    let port = |text: &str| match text.trim().parse::<u16>() {
        Ok(0) | Err(_) => Err("is not a port between 1 and 65535 or a range such as 6000-6100"),
        Ok(port) => Ok(port),
    };
    match text.split_once('-') {
        None => port(text).map(|p| (p, p)),
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            if first > last { Err("begins after it ends") } else { Ok((first, last)) }
        }
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_read_and_print() {
        for (text, octets, shown) in [
            ("65536", 65536, "64KiB"),
            ("64KiB", 65536, "64KiB"),
            ("3Mi", 3 << 20, "3MiB"),
            ("7B", 7, "7"),
            ("0", 0, "0"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (octets, shown));
        }
        for text in ["", "KiB", "1kB", "-1", "1.5MiB", "99999999999999999999", "18446744073709551615GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        let shown = |text: &str| text.parse::<HostPort>().map(|h| h.to_string());
        assert_eq!(shown("weft-ca.weft-system:15012").unwrap(), "weft-ca.weft-system:15012");
        assert_eq!(shown("[fd00::1]:1").unwrap(), "[fd00::1]:1");
        assert_eq!(shown("[::ffff:10.0.0.1]:1").unwrap(), "10.0.0.1:1");
        for text in
            ["", "ca", "ca:", "ca:0", "ca:70000", "fd00::1:1", ":80", "10.0.0:80", "10.0.0.300:80", "a b:1"]
        {
            assert!(shown(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_port_set_is_the_union_of_its_ranges(
            ranges in proptest::collection::vec((1u16..400, 1u16..400), 0..8),
            port in 0u16..420,
        ) {
            let naive = ranges.iter().any(|(a, b)| *a <= port && port <= *b);
            let set = PortSet::new(ranges);
            prop_assert_eq!(set.contains(port), naive);
            prop_assert!(set.ranges().windows(2).all(|w| u32::from(w[0].1) + 1 < u32::from(w[1].0)));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<Size>();
            let _ = text.parse::<HostPort>();
            let _ = parse_port_range(&text);
        }
    }
}
