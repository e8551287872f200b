//! What a backend is told of the client: `x-forwarded-*` (de-facto), and `forwarded` (RFC 7239) where that is wanted.
//!
//! Anybody can send these headers. What a client says is believed only where the configuration says that it is a proxy of ours: by
//! the number of trusted hops in front of the gateway, or by the networks that such proxies are in. Each of them has added the
//! address that it was called from at the end, so that the list is read from its end, and only as far as those who wrote it are
//! ours. Where that ends stands the client. What stands before it is the client's own say, and goes no further. Of `x-forwarded-proto`,
//! `-host` and `-port` the word of the same proxy counts: the one that the client has called.

mod chain;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use weft_config::{EdgeConfig, ForwardedTrust};
use weft_core::AddrSet;
use weft_http::headers::{X_FORWARDED_FOR, X_FORWARDED_PROTO, is_forwarding};

use chain::{Hop, Node};

/// The host that the client asked for.
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The port that the client connected to.
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED: HeaderName = http::header::FORWARDED;

/// Whom a gateway believes, and what it tells.
#[derive(Debug)]
pub(crate) struct Telling {
    trust: Trust,
    /// By `forwarded` as well.
    forwarded: bool,
}

#[derive(Debug)]
enum Trust {
    Hops(usize),
    Networks(AddrSet),
}

impl Telling {
    pub(crate) fn new(config: &EdgeConfig) -> Rc<Self> {
        let trust = match &config.trust {
            ForwardedTrust::Hops(hops) => Trust::Hops(*hops),
            ForwardedTrust::Networks(networks) => Trust::Networks(AddrSet::new(networks)),
        };
        Rc::new(Self { trust, forwarded: config.forwarded })
    }

    /// Workloads of the mesh are believed as far as what they tell can be read.
    pub(crate) fn of_mesh(config: &EdgeConfig) -> Rc<Self> {
        Rc::new(Self { trust: Trust::Hops(usize::MAX), forwarded: config.forwarded })
    }

    /// Whether the word of `node` counts, of which so many were believed already.
    fn believes(&self, node: &Node, believed: usize) -> bool {
        match (&self.trust, node) {
            (Trust::Hops(hops), _) => believed < *hops,
            (Trust::Networks(networks), Node::Address(ip)) => networks.contains(*ip),
            // One whose address nobody tells is in no network.
            (Trust::Networks(_), Node::Hidden(_)) => false,
        }
    }
}

/// What one connection adds to its requests.
pub(crate) struct Forwarded {
    telling: Rc<Telling>,
    peer: Node,
    address: HeaderValue,
    port: HeaderValue,
    proto: HeaderValue,
    /// Whether its peer is a proxy of ours.
    believed: bool,
}

impl Forwarded {
    /// Of a connection of `client` to the port `local`.
    pub(crate) fn new(client: SocketAddr, local: SocketAddr, secure: bool, telling: &Rc<Telling>) -> Self {
        let from = client.ip().to_canonical();
        let address = HeaderValue::from_str(&from.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        let peer = Node::Address(from);
        Self {
            believed: telling.believes(&peer, 0),
            telling: Rc::clone(telling),
            peer,
            address,
            port: HeaderValue::from(local.port()),
            proto: HeaderValue::from_static(if secure { "https" } else { "http" }),
        }
    }

    /// Tells the backend. `host` is what the client asked for. The client's address, where proxies of ours have told it.
    pub(crate) fn apply(&self, headers: &mut HeaderMap, host: &HeaderValue) -> Option<IpAddr> {
        if self.believed {
            return self.pass_on(headers, host);
        }
        // Many servers read a name with other signs as the one with hyphens.
        remove(headers, is_forwarding);
        // The nearest proxy is the one that speaks to the backend: its word replaces what the client says.
        headers.insert(X_FORWARDED_FOR, self.address.clone());
        headers.insert(X_FORWARDED_PROTO, self.proto.clone());
        headers.insert(X_FORWARDED_HOST, host.clone());
        headers.insert(X_FORWARDED_PORT, self.port.clone());
        if self.telling.forwarded {
            let own = [self.peer.clone()];
            headers.insert(FORWARDED, chain::element_list(own.iter(), host, &self.proto));
        }
        None
    }

    /// Passes on what proxies of ours have told, as far as they are.
    fn pass_on(&self, headers: &mut HeaderMap, host: &HeaderValue) -> Option<IpAddr> {
        let hops = self.hops(headers);
        remove(headers, |name| is_forwarding(name) && is_disguised(name));
        let client = hops.last().cloned();
        let told = |value: Option<Box<str>>| value.and_then(|value| HeaderValue::from_str(&value).ok());
        let (of_host, of_proto) =
            client.as_ref().map_or((None, None), |hop| (told(hop.host.clone()), told(hop.proto.clone())));
        // Each of ours has told one; without a list the peer alone is.
        let mut complete = |name, valid: fn(&str) -> bool, own: &HeaderValue| {
            let word = chain::word(headers, &name, hops.len()).filter(|word| valid(word));
            let word = word.and_then(|word| HeaderValue::from_str(word).ok());
            headers.insert(name, word.unwrap_or_else(|| own.clone()));
        };
        complete(X_FORWARDED_PROTO, chain::is_proto, of_proto.as_ref().unwrap_or(&self.proto));
        complete(X_FORWARDED_HOST, chain::is_host, of_host.as_ref().unwrap_or(host));
        complete(X_FORWARDED_PORT, chain::is_port, &self.port);
        // The farthest first.
        let mut list = Vec::new();
        for hop in hops.iter().rev() {
            list.extend_from_slice(hop.node.to_string().as_bytes());
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(self.address.as_bytes());
        // Addresses, names and commas are visible ASCII.
        let list = HeaderValue::from_maybe_shared(Bytes::from(list)).unwrap_or(self.address.clone());
        headers.insert(X_FORWARDED_FOR, list);
        headers.remove(FORWARDED);
        if self.telling.forwarded {
            let nodes = hops.iter().rev().map(|hop| &hop.node).chain([&self.peer]);
            let host = headers.get(X_FORWARDED_HOST).cloned().unwrap_or(host.clone());
            let proto = headers.get(X_FORWARDED_PROTO).cloned().unwrap_or(self.proto.clone());
            let list = chain::element_list(nodes, &host, &proto);
            headers.insert(FORWARDED, list);
        }
        match client?.node {
            Node::Address(ip) => Some(ip),
            Node::Hidden(_) => None,
        }
    }

    /// Those in front of the peer, the nearest first, up to the client.
    fn hops(&self, headers: &HeaderMap) -> Vec<Hop> {
        let mut hops: Vec<Hop> = Vec::new();
        let mut at = self.peer.clone();
        for hop in chain::told(headers) {
            if !self.telling.believes(&at, hops.len()) {
                break;
            }
            at = hop.node.clone();
            hops.push(hop);
        }
        hops
    }
}

/// Whether a name is one of those only to servers that read any other sign as a hyphen.
fn is_disguised(name: &str) -> bool {
    !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn remove(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;
