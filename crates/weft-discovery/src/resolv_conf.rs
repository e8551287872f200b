//! `resolv.conf(5)`, read as leniently as the C library reads it: what is not understood is passed over, because a file
//! that every other program in the pod can live with must not stop the proxy.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// `MAXNS` of the C library. Further servers are never asked by anybody else either.
const MAX_SERVERS: usize = 3;

/// What a resolv.conf says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// The servers, on port 53; the local host where none is named.
    pub servers: Vec<SocketAddr>,
    /// Search domains, in order. They are the application's resolver's job; kept for the admin page and tests.
    pub search: Vec<String>,
    /// Names with at least so many dots are first tried as they are (1; at most 15).
    pub ndots: u8,
    /// `options timeout:`, at most 30 s.
    pub timeout: Option<Duration>,
    /// `options attempts:`, at most 5.
    pub attempts: Option<u32>,
}

impl ResolvConf {
    /// Reads the text of a resolv.conf. There is no text that it fails on.
    pub fn parse(text: &str) -> Self {
        let mut conf =
            Self { servers: Vec::new(), search: Vec::new(), ndots: 1, timeout: None, attempts: None };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or("");
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    if let Some(server) = words.next().and_then(server)
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
        }
    }
}

/// An address on port 53; a scope after `%` must be an interface index (names would need a system call).
fn server(word: &str) -> Option<SocketAddr> {
    if let Some((addr, scope)) = word.split_once('%') {
        return Some(SocketAddrV6::new(addr.parse().ok()?, 53, 0, scope.parse().ok()?).into());
    }
    Some(SocketAddr::new(word.parse().ok()?, 53))
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
    fn no_server_means_the_local_host() {
        assert_eq!(ResolvConf::parse("").servers, ["127.0.0.1:53".parse().unwrap()]);
    }

    proptest! {
        #[test]
        fn any_text_gives_at_least_one_server(text in "(nameserver |options |search |[ -~\n])*") {
            prop_assert!((1..=MAX_SERVERS).contains(&ResolvConf::parse(&text).servers.len()));
        }
    }
}
