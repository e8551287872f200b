//! Octets to a header. The verdict never changes when more octets come: each prefix of an input gives [`Parsed::NeedMore`] or
//! the verdict of the whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{MAX_HEADER, MAX_LINE, ProxyHeader};

/// What is known of a header so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// All of it fits, and there is too little.
    NeedMore,
    /// It is whole.
    Done {
        /// What it says.
        header: ProxyHeader,
        /// How many octets it has; the connection begins behind them.
        length: usize,
    },
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

/// What every header of version 1 begins with.
const LINE: &[u8; 6] = b"PROXY ";
/// What every header of version 2 begins with.
pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family and protocol, and the length of what follows.
pub(super) const FIXED: usize = 16;
/// What a header of version 2 over TCP and IPv4 has behind the fixed part: two addresses, two ports.
pub(super) const INET: u16 = 12;
/// The same over IPv6.
pub(super) const INET6: u16 = 36;
/// And of UNIX sockets: two paths.
const UNIX: u16 = 216;

/// Looks at the first octets of a connection.
///
/// ```
/// use weft_net::proxy_protocol::{Parsed, parse};
///
/// assert_eq!(parse(b"PROXY TCP4 192.0.2.1 192.0."), Ok(Parsed::NeedMore));
/// assert!(matches!(parse(b"PROXY UNKNOWN\r\nGET /"), Ok(Parsed::Done { length: 15, .. })));
/// assert!(parse(b"GET / HTTP/1.1\r\n").is_err());
/// ```
///
/// # Errors
/// What came is no header, whatever may follow.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    match bytes.first() {
        None => Ok(Parsed::NeedMore),
        Some(b'P') => line(bytes),
        Some(_) => binary(bytes),
    }
}

/// Whether `bytes` begin with `start`, as far as they go.
fn agrees(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(a, b)| a == b)
}

fn line(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if !agrees(bytes, LINE) {
        return Err(Malformed("the first octets are those of neither version"));
    }
    let longest = bytes.get(..MAX_LINE).unwrap_or(bytes);
    let too_long = Malformed("the line has more than 107 octets");
    // A CR or a LF alone ends no line, and stands in none (section 2.1).
    let alone = Malformed("a CR or a LF by itself");
    let Some(end) = longest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if longest.len() == MAX_LINE { Err(too_long) } else { Ok(Parsed::NeedMore) };
    };
    match (longest.get(end), longest.get(end + 1)) {
        (Some(b'\r'), Some(b'\n')) => {}
        (Some(b'\r'), None) if longest.len() == MAX_LINE => return Err(too_long),
        (Some(b'\r'), None) => return Ok(Parsed::NeedMore),
        _ => return Err(alone),
    }
    let text = longest.get(LINE.len()..end).unwrap_or_default();
    let header = match text.strip_prefix(b"UNKNOWN") {
        // What follows is to be ignored.
        Some([] | [b' ', ..]) => ProxyHeader::Unknown,
        _ => words(std::str::from_utf8(text).map_err(|_| Malformed("the line is not ASCII"))?)?,
    };
    Ok(Parsed::Done { header, length: end + 2 })
}

/// What stands behind `PROXY `, each word one space from the next.
fn words(text: &str) -> Result<ProxyHeader, Malformed> {
    let (family, rest) = text.split_once(' ').unwrap_or((text, ""));
    let address: fn(&str) -> Option<IpAddr> = match family {
        "TCP4" => |word: &str| word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        // The last two groups may also be written as an IPv4 address: inet_ntop(3), which senders use, does so.
        "TCP6" => |word: &str| word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return Err(Malformed("the line names neither TCP4 nor TCP6 nor UNKNOWN")),
    };
    let mut words = rest.split(' ');
    let mut ip = || words.next().and_then(address);
    let (Some(source), Some(destination)) = (ip(), ip()) else {
        return Err(Malformed("the line has a malformed address"));
    };
    let mut port = || words.next().and_then(port);
    let (Some(from), Some(to)) = (port(), port()) else {
        return Err(Malformed("the line has a malformed port"));
    };
    if words.next().is_some() {
        return Err(Malformed("the line has too many words"));
    }
    Ok(proxied((source, from), (destination, to)))
}

/// Digits without a zero in front: another reader might take that for octal.
fn port(word: &str) -> Option<u16> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| digits)
}

fn proxied(source: (IpAddr, u16), destination: (IpAddr, u16)) -> ProxyHeader {
    let canonical = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
    ProxyHeader::Proxied { source: canonical(source), destination: canonical(destination) }
}

fn binary(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if !agrees(bytes, SIGNATURE) {
        return Err(Malformed("the first octets are those of neither version"));
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        // The version is known earlier, and with another the rest may be anything.
        return match bytes.get(SIGNATURE.len()) {
            Some(version) if version >> 4 != 2 => Err(Malformed("this version is not known")),
            _ => Ok(Parsed::NeedMore),
        };
    };
    let [.., version_command, family_protocol, high, low] = *fixed;
    if version_command >> 4 != 2 {
        return Err(Malformed("this version is not known"));
    }
    let says = Says::of(version_command & 0xf, family_protocol)?;
    let length = u16::from_be_bytes([high, low]);
    if length < says.least() {
        return Err(Malformed("the header is too short for its addresses"));
    }
    let whole = FIXED + usize::from(length);
    if whole > MAX_HEADER {
        return Err(Malformed("the header has more than 4096 octets"));
    }
    // Behind the addresses there may be more, which says nothing about whose the connection is (section 2.2).
    match rest.get(..usize::from(length)) {
        Some(block) => Ok(Parsed::Done { header: says.header(block), length: whole }),
        None => Ok(Parsed::NeedMore),
    }
}

/// What kind of addresses follow.
#[derive(Clone, Copy)]
enum Says {
    Local,
    Tcp4,
    Tcp6,
    Unix,
    Nothing,
}

impl Says {
    fn of(command: u8, family_protocol: u8) -> Result<Self, Malformed> {
        match (command, family_protocol >> 4, family_protocol & 0xf) {
            // The family is ignored.
            (0, ..) => Ok(Self::Local),
            (1, 1, 1) => Ok(Self::Tcp4),
            (1, 2, 1) => Ok(Self::Tcp6),
            (1, 3, 0..=2) => Ok(Self::Unix),
            // Datagrams and what is unspecified: as if it were AF_UNSPEC.
            (1, 0..=2, 0..=2) => Ok(Self::Nothing),
            (1, ..) => Err(Malformed("this family or protocol is not known")),
            _ => Err(Malformed("this command is not known")),
        }
    }

    fn least(self) -> u16 {
        match self {
            Self::Local | Self::Nothing => 0,
            Self::Tcp4 => INET,
            Self::Tcp6 => INET6,
            Self::Unix => UNIX,
        }
    }

    /// `block` is what follows the fixed part; it has room for the addresses.
    fn header(self, block: &[u8]) -> ProxyHeader {
        let addresses = match self {
            Self::Local => return ProxyHeader::Local,
            Self::Unix | Self::Nothing => None,
            Self::Tcp4 => addresses::<4>(block, |octets| Ipv4Addr::from(octets).into()),
            Self::Tcp6 => addresses::<16>(block, |octets| Ipv6Addr::from(octets).into()),
        };
        addresses.map_or(ProxyHeader::Unknown, |(source, destination)| proxied(source, destination))
    }
}

type Place = (IpAddr, u16);

/// Two addresses of `N` octets, then two ports.
fn addresses<const N: usize>(block: &[u8], ip: fn([u8; N]) -> IpAddr) -> Option<(Place, Place)> {
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (from, rest) = rest.split_first_chunk::<2>()?;
    let (to, _) = rest.split_first_chunk::<2>()?;
    Some(((ip(*source), u16::from_be_bytes(*from)), (ip(*destination), u16::from_be_bytes(*to))))
}
