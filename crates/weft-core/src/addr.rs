//! Addresses, told apart by the role they play.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Maps an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2) to its IPv4 form.
///
/// A dual-stack listener reports IPv4 peers in the mapped form; every address is brought to this form where it enters,
/// so that two spellings of one address never compare as different.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(SocketAddr);

        impl $name {
            /// Wraps an address, in canonical form.
            pub fn new(addr: SocketAddr) -> Self {
                Self(canonical(addr))
            }

            /// The socket address.
            pub fn get(self) -> SocketAddr {
                self.0
            }

            /// The address without the port.
            pub fn ip(self) -> IpAddr {
                self.0.ip()
            }

            /// The port.
            pub fn port(self) -> u16 {
                self.0.port()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

address!(
    /// Where a captured connection was going before iptables redirected it (`SO_ORIGINAL_DST`).
    OriginalDst
);
address!(
    /// The remote end of an accepted connection.
    ClientAddr
);
address!(
    /// One `ip:port` that serves a service.
    EndpointAddr
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_equals_its_ipv4_form() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        let plain: SocketAddr = "10.0.0.1:80".parse().unwrap();
        assert_eq!(OriginalDst::new(mapped), OriginalDst::new(plain));
        assert_eq!(EndpointAddr::new(mapped).to_string(), "10.0.0.1:80");
    }
}
