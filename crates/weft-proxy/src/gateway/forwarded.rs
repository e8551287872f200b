//! What a backend is told of the client: `x-forwarded-*` (de-facto) and `forwarded` (RFC 7239).
//!
//! Anybody can send these headers. What a client says is believed only where the configuration says that it is a proxy of ours:
//! by the number of trusted hops in front of the gateway, as the addresses that they have added stand at the end of
//! `x-forwarded-for`.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use weft_http::headers::{X_FORWARDED_FOR, X_FORWARDED_PROTO, is_forwarding};

/// The host that the client asked for.
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The port that the client connected to.
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// What one connection adds to its requests.
pub(crate) struct Forwarded {
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
        let address = HeaderValue::from_str(&from.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        Self { address, port: HeaderValue::from(local.port()), secure, trusted_hops }
    }

    /// Tells the backend. `host` is what the client asked for.
    pub(crate) fn apply(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        let proto = HeaderValue::from_static(if self.secure { "https" } else { "http" });
        if self.trusted_hops == 0 {
            // Many servers read a name with other signs as the one with hyphens.
            let said: Vec<HeaderName> =
                headers.keys().filter(|name| is_forwarding(name.as_str())).cloned().collect();
            for name in said {
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
        pairs
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
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
    }

    #[test]
    fn a_trusted_proxy_is() {
        let mut headers = sent();
        forwarded(1).apply(&mut headers, &HeaderValue::from_static("shop.example"));
        let get = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(get("x-forwarded-for"), Some("203.0.113.7, 198.51.100.2, 192.0.2.1"));
        assert_eq!(get("x-forwarded-proto"), Some("http"));
        assert_eq!(get("x-forwarded-host"), Some("evil.example"));
    }
}
