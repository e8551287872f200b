//! A header to a stream.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_core::{ProxyProtocol, canonical};

use super::parse::{INET, INET6, SIGNATURE};
use super::{MAX_LINE, ProxyHeader};

/// Version 2 with the command LOCAL, and with PROXY (section 2.2).
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
/// AF_UNSPEC; TCP over IPv4; TCP over IPv6.
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Sends a header: what a connection begins with, before anybody may use it. In one piece, as section 2 asks; the buffer of
/// a connection that was just made has room for it.
///
/// # Errors
/// What the stream says.
pub async fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    version: ProxyProtocol,
    header: &ProxyHeader,
) -> io::Result<()> {
    stream.write_all(&header.encode(version)).await?;
    stream.flush().await
}

/// The header of a connection that this process makes for itself. Version 1 has no word for that which servers
/// are bound to take, so there it tells the connection's own addresses (section 2.1).
///
/// # Errors
/// The connection has no addresses any more: it was reset.
pub fn own(version: ProxyProtocol, stream: &TcpStream) -> io::Result<ProxyHeader> {
    Ok(match version {
        ProxyProtocol::V1 => ProxyHeader::Proxied {
            source: canonical(stream.local_addr()?),
            destination: canonical(stream.peer_addr()?),
        },
        ProxyProtocol::V2 => ProxyHeader::Local,
    })
}

impl ProxyHeader {
    /// The header's octets.
    pub fn encode(&self, version: ProxyProtocol) -> Bytes {
        let addresses = match self {
            Self::Proxied { source, destination } => Some(Pair::new(*source, *destination)),
            Self::Local | Self::Unknown => None,
        };
        match version {
            ProxyProtocol::V1 => line(addresses.as_ref()),
            ProxyProtocol::V2 => binary(*self == Self::Local, addresses.as_ref()),
        }
    }
}

/// Two addresses of one family.
struct Pair {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    is_v6: bool,
}

impl Pair {
    /// Where the families differ, the IPv4 address is written as an IPv6 one.
    fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        let (source, destination) = (canonical(source), canonical(destination));
        let is_v6 = source.is_ipv6() || destination.is_ipv6();
        let of = |addr: SocketAddr| match addr.ip() {
            IpAddr::V4(ip) if is_v6 => (IpAddr::V6(ip.to_ipv6_mapped()), addr.port()),
            ip => (ip, addr.port()),
        };
        Self { source: of(source), destination: of(destination), is_v6 }
    }
}

/// An address as version 1 has it: a mapped one in hexadecimal groups as well.
struct Written(IpAddr);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
                let [.., high, low] = Ipv6Addr::segments(&ip);
                write!(f, "::ffff:{high:x}:{low:x}")
            }
            ip => ip.fmt(f),
        }
    }
}

fn line(addresses: Option<&Pair>) -> Bytes {
    use std::fmt::Write as _;
    let mut out = BytesMut::with_capacity(MAX_LINE);
    // A `BytesMut` takes whatever it is given.
    let _ = match addresses {
        None => out.write_str("PROXY UNKNOWN\r\n"),
        Some(Pair { source, destination, is_v6 }) => {
            let family = if *is_v6 { "TCP6" } else { "TCP4" };
            let (from, to) = (Written(source.0), Written(destination.0));
            write!(out, "PROXY {family} {from} {to} {} {}\r\n", source.1, destination.1)
        }
    };
    out.freeze()
}

fn binary(local: bool, addresses: Option<&Pair>) -> Bytes {
    let mut out = BytesMut::with_capacity(SIGNATURE.len() + 4 + usize::from(INET6));
    out.put_slice(SIGNATURE);
    out.put_u8(if local { LOCAL } else { PROXY });
    let Some(Pair { source, destination, is_v6 }) = addresses else {
        out.put_u8(UNSPECIFIED);
        out.put_u16(0);
        return out.freeze();
    };
    out.put_u8(if *is_v6 { TCP6 } else { TCP4 });
    out.put_u16(if *is_v6 { INET6 } else { INET });
    for (ip, _) in [source, destination] {
        match ip {
            IpAddr::V4(ip) => out.put_slice(&ip.octets()),
            IpAddr::V6(ip) => out.put_slice(&ip.octets()),
        }
    }
    out.put_u16(source.1);
    out.put_u16(destination.1);
    out.freeze()
}
