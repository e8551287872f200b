//! SPIFFE ids, compared as parsed values and never as patterns over strings.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::ParseError;

macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The value as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                if text.is_empty() || text.len() > $max {
                    return Err(ParseError::new($what, text, concat!("must have 1 to ", stringify!($max), " characters")));
                }
                let allowed: fn(u8) -> bool = $allowed;
                if !text.bytes().all(allowed) {
                    return Err(ParseError::new($what, text, "has a character that is not allowed"));
                }
                if text.bytes().all(|b| b == b'.') {
                    // "." and ".." are path segments that SPIFFE-ID section 2.2 forbids.
                    return Err(ParseError::new($what, text, "consists of dots only"));
                }
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

token!(
    /// The trust domain of a mesh (SPIFFE-ID section 2.1): lower-case letters, digits, `.`, `-`, `_`.
    TrustDomain,
    "trust domain",
    255,
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_')
);
token!(
    /// A namespace: an RFC 1123 label in Kubernetes.
    Namespace,
    "namespace",
    63,
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
);
token!(
    /// A service account: an RFC 1123 subdomain in Kubernetes.
    ServiceAccount,
    "service account",
    253,
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.')
);

/// A workload's identity: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// The mesh that vouches for the identity.
    pub trust_domain: TrustDomain,
    /// Where the workload runs.
    pub namespace: Namespace,
    /// What the workload runs as.
    pub service_account: ServiceAccount,
}

impl FromStr for SpiffeId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let shape = || {
            ParseError::new(
                "SPIFFE id",
                text,
                "is not spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>",
            )
        };
        // SPIFFE-ID section 2.3: 2048 bytes at the most.
        if text.len() > 2048 {
            return Err(shape());
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(shape)?;
        let mut parts = rest.split('/');
        let (td, ns_word, ns, sa_word, sa, end) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next());
        match (td, ns_word, ns, sa_word, sa, end) {
            (Some(td), Some("ns"), Some(ns), Some("sa"), Some(sa), None) => {
                Ok(Self { trust_domain: td.parse()?, namespace: ns.parse()?, service_account: sa.parse()? })
            }
            _ => Err(shape()),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which identities the other end of a mesh link may have.
///
/// The trust domain is always required. The namespace is the one in the dialed name, so that a DNS lie or a reused
/// address cannot put another namespace's workload in a service's place; it is open only for addresses dialed without a
/// name. Service accounts narrow it further where policy says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRule {
    /// The mesh's own trust domain.
    pub trust_domain: TrustDomain,
    /// The namespace the service belongs to, where the name tells it.
    pub namespace: Option<Namespace>,
    /// The service accounts that may serve it; empty means every one of the namespace.
    pub service_accounts: Vec<ServiceAccount>,
}

impl PeerRule {
    /// Whether `id` may stand at the other end.
    pub fn allows(&self, id: &SpiffeId) -> bool {
        self.trust_domain == id.trust_domain
            && self.namespace.as_ref().is_none_or(|ns| *ns == id.namespace)
            && (self.service_accounts.is_empty() || self.service_accounts.contains(&id.service_account))
    }
}

impl fmt::Display for PeerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.namespace.as_ref().map_or("*", Namespace::as_str);
        write!(f, "spiffe://{}/ns/{ns}/sa/", self.trust_domain)?;
        match self.service_accounts.as_slice() {
            [] => f.write_str("*"),
            accounts => {
                let names: Vec<&str> = accounts.iter().map(ServiceAccount::as_str).collect();
                write!(f, "{{{}}}", names.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let text = "spiffe://weft.local/ns/shop/sa/orders";
        assert_eq!(text.parse::<SpiffeId>().unwrap().to_string(), text);
    }

    #[test]
    fn refuses_every_other_shape() {
        for text in [
            "",
            "spiffe://weft.local",
            "spiffe:///ns/a/sa/b",
            "spiffe://weft.local/ns/a/sa/b/c",
            "spiffe://weft.local/ns/a/sa/b/",
            "spiffe://weft.local/ns//sa/b",
            "spiffe://weft.local/ns/../sa/b",
            "spiffe://weft.local/ns/a/sa/..",
            "SPIFFE://weft.local/ns/a/sa/b",
            "spiffe://Weft.local/ns/a/sa/b",
            "spiffe://weft.local/ns/a/sa/b?x=y",
            "spiffe://weft.local/ns/a/sa/b#f",
            "spiffe://user@weft.local/ns/a/sa/b",
            "spiffe://weft.local:80/ns/a/sa/b",
            "spiffe://weft.local/ns/a%2fb/sa/b",
            "https://weft.local/ns/a/sa/b",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_rule_compares_each_part() {
        let id: SpiffeId = "spiffe://weft.local/ns/shop/sa/orders".parse().unwrap();
        let rule = |td: &str, ns: Option<&str>, sa: &[&str]| PeerRule {
            trust_domain: td.parse().unwrap(),
            namespace: ns.map(|ns| ns.parse().unwrap()),
            service_accounts: sa.iter().map(|sa| sa.parse().unwrap()).collect(),
        };
        assert!(rule("weft.local", None, &[]).allows(&id));
        assert!(rule("weft.local", Some("shop"), &[]).allows(&id));
        assert!(rule("weft.local", Some("shop"), &["web", "orders"]).allows(&id));
        assert!(!rule("weft.local", Some("shop"), &["web"]).allows(&id));
        assert!(!rule("weft.local", Some("sho"), &[]).allows(&id));
        assert!(!rule("other.local", Some("shop"), &[]).allows(&id));
    }
}
