//! What a backend is told of the client: `x-forwarded-*` (de-facto) and `forwarded` (RFC 7239).
//!
//! Anybody can send these headers. What a client says is believed only where the configuration says that it is a proxy of ours:
//! by the number of trusted hops in front of the gateway, as the addresses that they have added stand at the end of
//! `x-forwarded-for`.

use std::net::{IpAddr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};
use weft_http::headers::{X_FORWARDED_FOR, X_FORWARDED_PROTO, X_REQUEST_ID};

/// The host that the client asked for.
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The port that the client connected to.
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// What one connection adds to its requests.
pub(crate) struct Forwarded {
    /// The client's address.
    from: IpAddr,
    address: HeaderValue,
    port: HeaderValue,
    secure: bool,
    /// Proxies of ours in front of the gateway.
    trusted_hops: usize,
}

impl Forwarded {
    /// Of a connection of `client` to the port `local`.
    pub(crate) fn new(client: SocketAddr, local: SocketAddr, secure: bool, trusted_hops: usize) -> Self {
        let from = client.ip().to_canonical();
        let address =
            HeaderValue::from_str(&from.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        Self { from, address, port: HeaderValue::from(local.port()), secure, trusted_hops }
    }

    /// Tells the backend. `host` is what the client asked for.
    pub(crate) fn apply(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        let proto = HeaderValue::from_static(if self.secure { "https" } else { "http" });
        if self.trusted_hops == 0 {
            for name in [X_REQUEST_ID, FORWARDED] {
                headers.remove(name);
            }
            // The nearest proxy is the one that speaks to the backend: its word replaces what the client says.
            headers.insert(X_FORWARDED_FOR, self.address.clone());
            headers.insert(X_FORWARDED_PROTO, proto);
            headers.insert(X_FORWARDED_HOST, host.clone());
            headers.insert(X_FORWARDED_PORT, self.port.clone());
            return;
        }
        weft_http::headers::add_forwarded_for(headers, &self.address);
        for (name, value) in [
            (X_FORWARDED_PROTO, proto),
            (X_FORWARDED_HOST, host.clone()),
            (X_FORWARDED_PORT, self.port.clone()),
        ] {
            headers.entry(name).or_insert(value);
        }
    }

    /// The address of the client, as far as it is known: of `x-forwarded-for` the one that the outermost trusted proxy has added.
    pub(crate) fn client(&self, headers: &HeaderMap) -> IpAddr {
        let Some(hops) = self.trusted_hops.checked_sub(1) else { return self.from };
        let lines = headers.get_all(X_FORWARDED_FOR).iter();
        let mut list: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).flat_map(|l| l.split(',')).collect();
        list.reverse();
        let said = list.get(hops).and_then(|text| text.trim().parse().ok());
        said.unwrap_or(self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(trusted_hops: usize) -> Forwarded {
        let (client, local) = ("192.0.2.1:40000".parse().unwrap(), "10.0.0.1:443".parse().unwrap());
        Forwarded::new(client, local, true, trusted_hops)
    }

    fn sent() -> HeaderMap {
        let pairs = [
            ("x-forwarded-for", "203.0.113.7, 198.51.100.2"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "for=203.0.113.7"),
            ("x-request-id", "mine"),
        ];
        pairs.into_iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_client_is_not_believed() {
        let mut headers = sent();
        forwarded(0).apply(&mut headers, &HeaderValue::from_static("shop.example"));
        let get = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(get("x-forwarded-for"), Some("192.0.2.1"));
        assert_eq!(get("x-forwarded-proto"), Some("https"));
        assert_eq!(get("x-forwarded-host"), Some("shop.example"));
        assert_eq!(get("x-forwarded-port"), Some("443"));
        assert_eq!((get("forwarded"), get("x-request-id")), (None, None));
        assert_eq!(forwarded(0).client(&sent()).to_string(), "192.0.2.1");
    }

    #[test]
    fn a_trusted_proxy_is() {
        let mut headers = sent();
        assert_eq!(forwarded(1).client(&headers).to_string(), "198.51.100.2");
        assert_eq!(forwarded(2).client(&headers).to_string(), "203.0.113.7");
        assert_eq!(forwarded(3).client(&headers).to_string(), "192.0.2.1", "fewer than there should be");
        forwarded(1).apply(&mut headers, &HeaderValue::from_static("shop.example"));
        let get = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(get("x-forwarded-for"), Some("203.0.113.7, 198.51.100.2, 192.0.2.1"));
        assert_eq!(get("x-forwarded-proto"), Some("http"));
        assert_eq!(get("x-forwarded-host"), Some("evil.example"));
    }
}
