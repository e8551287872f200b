//! `resolv.conf(5)`, read as leniently as the C library reads it: what is not understood is passed over, because a file
//! that every other program in the pod can live with must not stop the proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// `MAXNS` of the C library. Further servers are never asked by anybody else either.
const MAX_SERVERS: usize = 3;

/// What a resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The servers, on port 53; the local host where none is named.
    pub servers: Vec<SocketAddr>,
    /// Search domains, in order. They are the application's resolver's job; here they tell which names it made of one.
    pub search: Vec<String>,
    /// Names with at least so many dots are first tried as they are (1; at most 15).
    pub ndots: u8,
    /// `options timeout:`, at most 30 s.
    pub timeout: Option<Duration>,
    /// `options attempts:`, at most 5.
    pub attempts: Option<u32>,
    /// `options use-vc`: servers are asked over TCP.
    pub use_tcp: bool,
    /// `options rotate`: servers are asked in turn.
    pub rotate: bool,
    /// Whether a server has the name of an interface with it, which has to be looked up again now and then.
    pub has_interface_names: bool,
}

impl ResolvConf {
    /// Reads the text of a resolv.conf. There is no text that it fails on.
    pub fn parse(text: &str) -> Self {
        // An interface that is not there has no number, and its server cannot be asked.
        Self::parse_with(text, |name| nix::net::if_::if_nametoindex(name).ok())
    }

    fn parse_with(text: &str, interface: impl Fn(&str) -> Option<u32>) -> Self {
        let mut conf = Self { ndots: 1, ..Self::default() };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or("");
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let word = words.next().unwrap_or("");
                    conf.has_interface_names |= word.contains('%');
                    if let Some(server) = server(word, &interface)
                        && conf.servers.len() < MAX_SERVERS
                    {
                        conf.servers.push(server);
                    }
                }
                // The last of the two directives wins.
                Some("search") => conf.search = words.map(str::to_owned).collect(),
                Some("domain") => conf.search = words.take(1).map(str::to_owned).collect(),
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.servers.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53));
        }
        conf
    }

    fn option(&mut self, word: &str) {
        let number = |text: &str| text.parse::<u64>().ok();
        if let Some(value) = word.strip_prefix("ndots:").and_then(number) {
            self.ndots = value.min(15) as u8;
        } else if let Some(value) = word.strip_prefix("timeout:").and_then(number) {
            self.timeout = Some(Duration::from_secs(value.clamp(1, 30)));
        } else if let Some(value) = word.strip_prefix("attempts:").and_then(number) {
            self.attempts = Some(value.clamp(1, 5) as u32);
        } else {
            self.use_tcp |= word == "use-vc";
            self.rotate |= word == "rotate";
        }
    }
}

/// An address on port 53. What stands after `%` is an interface (RFC 4007 section 11): its number, or its name.
fn server(word: &str, interface: &impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    if let Some((addr, zone)) = word.split_once('%') {
        let addr: Ipv6Addr = addr.parse().ok()?;
        let scope = match zone.parse() {
            Ok(number) => number,
            Err(_) => interface(zone).filter(|_| !zone.is_empty())?,
        };
        // Other addresses have no zone; the C library takes no notice of one.
        let scope = if addr.is_unicast_link_local() { scope } else { 0 };
        return Some(SocketAddrV6::new(addr, 53, 0, scope).into());
    }
    let addr = word.parse().ok().or_else(|| legacy_v4(word).map(IpAddr::V4))?;
    Some(SocketAddr::new(addr, 53))
}

/// The other spellings of an IPv4 address that `inet_aton(3)` takes: one to four numbers, the last of which fills what is
/// left (`127.1`), in decimal, octal (`0177`) or hexadecimal (`0x7f`).
fn legacy_v4(word: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if part.len() > 1 && part.starts_with('0') => u32::from_str_radix(part, 8).ok(),
        None => part.parse().ok(),
    };
    let parts: Vec<u32> = word.split('.').map(number).collect::<Option<_>>()?;
    let (last, octets) = parts.split_last()?;
    let left = 4_u32.checked_sub(u32::try_from(octets.len()).ok()?).filter(|left| *left > 0)?;
    let mut value = u64::from(*last);
    if value >= 1 << (8 * left) {
        return None;
    }
    for (octet, place) in octets.iter().zip((1..4).rev()) {
        value |= u64::from(u8::try_from(*octet).ok()?) << (8 * place);
    }
    u32::try_from(value).ok().map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_a_kubelet_writes() {
        let conf = ResolvConf::parse(
            "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
        );
        assert_eq!(conf.servers, ["10.96.0.10:53".parse().unwrap()]);
        assert_eq!(conf.search, ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
        assert_eq!((conf.ndots, conf.timeout, conf.attempts), (5, None, None));
    }

    #[test]
    fn passes_over_what_it_does_not_know() {
        let conf = ResolvConf::parse(
            "# comment\n; comment\nnameserver fd00::10 # the first\nnameserver\nnameserver x\n\tnameserver fe80::1%2\n\
             sortlist 1.2.3.4\noptions rotate timeout:99 attempts:0 ndots:x trust-ad\ndomain a.example extra\n\
             nameserver 1.1.1.1\nnameserver 2.2.2.2\n",
        );
        let servers: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["[fd00::10]:53", "[fe80::1%2]:53", "1.1.1.1:53"]);
        assert_eq!(conf.search, ["a.example"]);
        assert_eq!((conf.ndots, conf.timeout, conf.attempts), (1, Some(Duration::from_secs(30)), Some(1)));
    }

    #[test]
    fn a_server_on_a_link_has_its_interface_by_number_or_by_name() {
        let text = "nameserver fe80::1%eth0\nnameserver fe80::2%gone\nnameserver fe80::3%7\nnameserver fd00::1%eth0\n";
        let conf = ResolvConf::parse_with(text, |name| (name == "eth0").then_some(3));
        let servers: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["[fe80::1%3]:53", "[fe80::3%7]:53", "[fd00::1]:53"]);
        assert!(conf.has_interface_names);
        // The one interface that is everywhere.
        let lo = ResolvConf::parse("nameserver fe80::1%lo");
        assert_eq!(lo.servers, ["[fe80::1%1]:53".parse().unwrap()]);
    }

    #[test]
    fn addresses_are_read_in_every_spelling_of_the_c_library() {
        for (word, expected) in [
            ("127.1", Some("127.0.0.1")),
            ("10.1.2", Some("10.1.0.2")),
            ("0x7f.0.0.1", Some("127.0.0.1")),
            ("010.0.0.1", Some("8.0.0.1")),
            ("2130706433", Some("127.0.0.1")),
            ("256.0.0.1", None),
            ("10.0.0.256", None),
            ("1.2.3.4.5", None),
            ("4294967296", None),
            ("1..2", None),
            ("", None),
            ("dns.example", None),
        ] {
            let found = server(word, &|_| None).map(|addr| addr.ip().to_string());
            assert_eq!(found.as_deref(), expected, "{word}");
        }
    }

    #[test]
    fn options_say_how_servers_are_asked() {
        let conf = ResolvConf::parse("options use-vc edns0\noptions rotate single-request-reopen\r\n");
        assert!(conf.use_tcp && conf.rotate);
        let none = ResolvConf::parse("options trust-ad no-aaaa\n");
        assert!(!none.use_tcp && !none.rotate);
    }

    #[test]
    fn no_server_means_the_local_host() {
        assert_eq!(ResolvConf::parse("").servers, ["127.0.0.1:53".parse().unwrap()]);
    }

    proptest! {
        #[test]
        fn any_text_gives_at_least_one_server(text in "(nameserver |options |search |%lo|0x|[ -~\n])*") {
            prop_assert!((1..=MAX_SERVERS).contains(&ResolvConf::parse(&text).servers.len()));
        }
    }
}
