//! What the checks want to know of a proxy or of `weft control`, taken from its page.

use std::net::IpAddr;

use super::{Page, Sample};

/// A proxy's certificate.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaf {
    /// The SPIFFE id in it.
    pub identity: String,
    /// When it expires, Unix time in seconds.
    pub expires: f64,
}

/// Plaintext connections of one caller since the proxy started.
#[derive(Debug, Clone, PartialEq)]
pub struct PlaintextCaller {
    /// Where they came from; None for what the proxy's limit on series has put together.
    pub source: Option<IpAddr>,
    /// Let in.
    pub served: f64,
    /// Turned away, because the mode is strict.
    pub refused: f64,
}

/// A proxy by its own account.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProxyMetrics {
    /// `weft_build_info`.
    pub version: Option<String>,
    /// `weft_certificate_expiry_timestamp_seconds`; None while there is no certificate.
    pub leaf: Option<Leaf>,
    /// `weft_trust_bundle_info`: SHA-256 in hex.
    pub bundle: Option<String>,
    /// Certificates fetched in place of another.
    pub renewals: f64,
    /// Tries that failed.
    pub renewals_failed: f64,
    /// Configurations refused since it started.
    pub reloads_invalid: f64,
    /// `process_start_time_seconds`.
    pub started: Option<f64>,
    /// Queries to name servers, and those without an answer in time.
    pub dns_sent: f64,
    /// As above.
    pub dns_timeouts: f64,
    /// Services that it knows: name with port, where the endpoints came from, how many.
    pub endpoints: Vec<(String, String, f64)>,
    /// Who called in plaintext, by address.
    pub plaintext: Vec<PlaintextCaller>,
}

impl From<&Page> for ProxyMetrics {
    fn from(page: &Page) -> Self {
        let first = |name: &'static str| page.of(name).next();
        let sum = |name: &'static str, label: &str, value: &str| -> f64 {
            let wanted = page.of(name).filter(|sample| sample.label(label) == value);
            wanted.map(|sample| sample.value).sum()
        };
        Self {
            version: first("weft_build_info").map(|sample| sample.label("version").to_owned()),
            leaf: first("weft_certificate_expiry_timestamp_seconds")
                .map(|sample| Leaf { identity: sample.label("identity").to_owned(), expires: sample.value }),
            bundle: first("weft_trust_bundle_info").map(|sample| sample.label("hash").to_owned()),
            renewals: sum("weft_certificate_renewals_total", "outcome", "ok"),
            renewals_failed: sum("weft_certificate_renewals_total", "outcome", "failed"),
            reloads_invalid: sum("weft_config_reloads_total", "outcome", "invalid"),
            started: first("process_start_time_seconds").map(|sample| sample.value),
            dns_sent: sum("weft_dns_upstream_queries_total", "outcome", "sent"),
            dns_timeouts: sum("weft_dns_upstream_queries_total", "outcome", "timeout"),
            endpoints: page
                .of("weft_endpoints")
                .map(|s| (s.label("destination_service").to_owned(), s.label("source").to_owned(), s.value))
                .collect(),
            plaintext: plaintext(page),
        }
    }
}

/// A pod of `weft control` by its own account.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ControlMetrics {
    /// `weft_build_info`.
    pub version: Option<String>,
    /// `weft_ca_root_expiry_timestamp_seconds`: when the certificate that leaves are signed with ends, Unix time in seconds;
    /// None while the CA does not run there.
    pub issuer_expires: Option<f64>,
    /// `weft_ca_expires_soon`: whether the last weeks of that certificate have begun; None where it is not said.
    pub issuer_ends_soon: Option<bool>,
    /// `weft_ca_roots_made_total`: roots that it made although there was a mesh already.
    pub roots_lost: f64,
}

impl From<&Page> for ControlMetrics {
    fn from(page: &Page) -> Self {
        let first = |name: &'static str| page.of(name).next();
        Self {
            version: first("weft_build_info").map(|sample| sample.label("version").to_owned()),
            // 0 is what a gauge says that was never set.
            issuer_expires: first("weft_ca_root_expiry_timestamp_seconds")
                .map(|sample| sample.value)
                .filter(|end| *end > 0.0),
            issuer_ends_soon: page
                .of("weft_ca_expires_soon")
                .find(|sample| sample.label("certificate") == "issuer")
                .map(|sample| sample.value > 0.0),
            roots_lost: page
                .of("weft_ca_roots_made_total")
                .filter(|sample| sample.label("reason") == "lost")
                .map(|sample| sample.value)
                .sum(),
        }
    }
}

fn plaintext(page: &Page) -> Vec<PlaintextCaller> {
    let mut callers: Vec<PlaintextCaller> = Vec::new();
    for sample in page.of("weft_plaintext_connections_total") {
        let source = caller(sample);
        let index = callers.iter().position(|caller| caller.source == source);
        let index = index.unwrap_or_else(|| {
            callers.push(PlaintextCaller { source, served: 0.0, refused: 0.0 });
            callers.len() - 1
        });
        if let Some(caller) = callers.get_mut(index) {
            match sample.label("outcome") {
                "refused" => caller.refused += sample.value,
                _ => caller.served += sample.value,
            }
        }
    }
    callers
}

/// A socket that takes both families tells an IPv4 address as one of IPv6.
fn caller(sample: &Sample) -> Option<IpAddr> {
    sample.label("source").parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_page_is_understood() {
        let page = Page::parse(
            "weft_build_info{version=\"0.1.0\",revision=\"x\"} 1\n\
             weft_certificate_expiry_timestamp_seconds{identity=\"spiffe://weft.local/ns/a/sa/b\"} 1700000000\n\
             weft_trust_bundle_info{trust_domain=\"weft.local\",hash=\"ab\"} 1\n\
             weft_certificate_renewals_total{outcome=\"ok\"} 3\nweft_certificate_renewals_total{outcome=\"failed\"} 2\n\
             weft_dns_upstream_queries_total{outcome=\"sent\"} 9\nweft_dns_upstream_queries_total{outcome=\"timeout\"} 4\n\
             weft_plaintext_connections_total{source=\"10.0.0.1\",outcome=\"served\"} 5\n\
             weft_plaintext_connections_total{source=\"::ffff:10.0.0.1\",outcome=\"refused\"} 6\n\
             weft_plaintext_connections_total{overflow=\"true\"} 7\n\
             weft_endpoints{destination_service=\"a.b.svc.cluster.local:80\",source=\"twin\"} 2\n",
        )
        .unwrap();
        let metrics = ProxyMetrics::from(&page);
        assert_eq!(metrics.version.as_deref(), Some("0.1.0"));
        let leaf = metrics.leaf.unwrap();
        assert_eq!(
            (leaf.identity.as_str(), leaf.expires),
            ("spiffe://weft.local/ns/a/sa/b", 1_700_000_000.0)
        );
        assert_eq!(metrics.bundle.as_deref(), Some("ab"));
        assert_eq!((metrics.renewals, metrics.renewals_failed), (3.0, 2.0));
        assert_eq!((metrics.dns_sent, metrics.dns_timeouts, metrics.reloads_invalid), (9.0, 4.0, 0.0));
        assert_eq!(metrics.plaintext.len(), 2);
        assert_eq!((metrics.plaintext[0].served, metrics.plaintext[0].refused), (5.0, 6.0));
        assert_eq!((metrics.plaintext[1].source, metrics.plaintext[1].served), (None, 7.0));
        assert_eq!(metrics.endpoints, [("a.b.svc.cluster.local:80".to_owned(), "twin".to_owned(), 2.0)]);
        assert_eq!(ProxyMetrics::from(&Page::default()), ProxyMetrics::default());
    }

    #[test]
    fn a_control_parts_page_is_understood() {
        let of = |text: &str| ControlMetrics::from(&Page::parse(text).unwrap());
        let said =
            of("weft_build_info{version=\"0.1.0\"} 1\nweft_ca_root_expiry_timestamp_seconds 1800000000\n");
        assert_eq!((said.version.as_deref(), said.issuer_expires), (Some("0.1.0"), Some(1.8e9)));
        let said = of(
            "weft_ca_expires_soon{certificate=\"root\"} 1\nweft_ca_expires_soon{certificate=\"issuer\"} 0\n\
             weft_ca_roots_made_total{reason=\"first\"} 1\nweft_ca_roots_made_total{reason=\"lost\"} 2\n",
        );
        assert_eq!((said.issuer_ends_soon, said.roots_lost), (Some(false), 2.0));
        assert_eq!(of("weft_ca_root_expiry_timestamp_seconds 0\n"), ControlMetrics::default());
    }
}
