//! `weft certs`: what each proxy shows to others, and what it trusts.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use serde::Serialize;
use weft_control::names::CA_SECRET;
use weft_identity::TrustBundle;

use super::Unscraped;
use crate::OpsError;
use crate::scrape::{self, ProxyMetrics};
use crate::view::{View, Workload};

/// One proxy.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyCerts {
    /// Where it is.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// What the pod belongs to.
    pub workload: Workload,
    /// The SPIFFE id in its certificate; None while it has none.
    pub identity: Option<String>,
    /// When that expires, Unix time in seconds.
    pub expires: Option<f64>,
    /// What is left, in seconds; negative when it has expired.
    pub seconds_left: Option<f64>,
    /// SHA-256 of its trust bundle, in hex.
    pub bundle: Option<String>,
    /// The bundle is the mesh's; None where one of the two is not known.
    pub bundle_current: Option<bool>,
    /// Certificates fetched since it started, but for the first.
    pub renewals: f64,
    /// Tries that failed.
    pub renewals_failed: f64,
}

/// A root of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// Its subject.
    pub subject: String,
    /// When it expires, Unix time in seconds.
    pub expires: u64,
    /// What is left, in seconds; 0 when it has expired.
    pub seconds_left: u64,
}

/// What `weft certs` tells.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertsReport {
    /// SHA-256 of the mesh's trust bundle in hex; None where neither the Secret nor a `weft-mesh` may be read.
    pub bundle: Option<String>,
    /// The roots in it.
    pub roots: Vec<Root>,
    /// By namespace and name.
    pub proxies: Vec<ProxyCerts>,
    /// Pods that could not be asked.
    pub unscraped: Vec<Unscraped>,
}

/// Asks the proxies of a namespace, or all.
///
/// # Errors
/// [`OpsError::List`] where pods cannot be listed.
pub async fn certs(client: &Client, own: &str, scope: Option<&str>) -> Result<CertsReport, OpsError> {
    let view = View::of(client, own, scope).await?;
    let bundle = bundle(client, own, &view).await;
    let running = view.injected(scope).filter(|(_, pod)| pod.proxy_runs);
    let running: Vec<_> = running.map(|(key, _)| key.clone()).collect();
    let mut pages = scrape::all(client, running.into_iter()).await;
    let now = SystemTime::now();
    let mut report = CertsReport {
        bundle: bundle.as_ref().map(|bundle| bundle.hash().to_owned()),
        roots: bundle.iter().flat_map(|bundle| roots(bundle, now)).collect(),
        proxies: Vec::new(),
        unscraped: Vec::new(),
    };
    let now = since_epoch(now).as_secs_f64();
    for (key, pod) in view.injected(scope) {
        match pages.remove(key) {
            Some(Ok(scraped)) => {
                let metrics = ProxyMetrics::from(&*scraped.page);
                let of = (key.namespace.clone(), key.name.clone(), pod.workload.clone());
                report.proxies.push(proxy(of, metrics, report.bundle.as_deref(), now));
            }
            Some(Err(reason)) => report.unscraped.push(Unscraped { pod: key.to_string(), reason }),
            None => {
                let reason = pod.trouble.clone().unwrap_or_else(|| "weft-proxy does not run".to_owned());
                report.unscraped.push(Unscraped { pod: key.to_string(), reason });
            }
        }
    }
    Ok(report)
}

/// From the Secret, else from a `weft-mesh`.
async fn bundle(client: &Client, own: &str, view: &View) -> Option<TrustBundle> {
    let secret = Api::<Secret>::namespaced(client.clone(), own).get_opt(CA_SECRET).await.ok().flatten();
    let pem = secret.and_then(|secret| secret.data).and_then(|mut data| data.remove("root.pem"));
    if let Some(bundle) = pem.and_then(|pem| TrustBundle::from_pem(&pem.0).ok()) {
        return Some(bundle);
    }
    let of = |mesh: &ConfigMap| TrustBundle::from_pem(mesh.data.as_ref()?.get("root.pem")?.as_bytes()).ok();
    view.meshes.values().find_map(of)
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn roots(bundle: &TrustBundle, now: SystemTime) -> Vec<Root> {
    let root = |(subject, end): (&str, SystemTime)| Root {
        subject: subject.to_owned(),
        expires: since_epoch(end).as_secs(),
        seconds_left: end.duration_since(now).map_or(0, |left| left.as_secs()),
    };
    bundle.subjects().map(root).collect()
}

fn proxy(
    (namespace, pod, workload): (String, String, Workload),
    metrics: ProxyMetrics,
    mesh: Option<&str>,
    now: f64,
) -> ProxyCerts {
    let leaf = metrics.leaf;
    ProxyCerts {
        namespace,
        pod,
        workload,
        expires: leaf.as_ref().map(|leaf| leaf.expires),
        seconds_left: leaf.as_ref().map(|leaf| leaf.expires - now),
        identity: leaf.map(|leaf| leaf.identity),
        bundle_current: metrics.bundle.as_deref().zip(mesh).map(|(own, mesh)| own == mesh),
        bundle: metrics.bundle,
        renewals: metrics.renewals,
        renewals_failed: metrics.renewals_failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrape::Leaf;

    #[test]
    fn a_proxys_holdings_are_told() {
        let of = || ("n".to_owned(), "p".to_owned(), Workload { kind: "pod".into(), name: "p".into() });
        let metrics = ProxyMetrics {
            leaf: Some(Leaf { identity: "spiffe://a/ns/n/sa/s".into(), expires: 150.0 }),
            bundle: Some("ab".into()),
            renewals: 2.0,
            ..ProxyMetrics::default()
        };
        let told = proxy(of(), metrics.clone(), Some("cd"), 100.0);
        assert_eq!((told.seconds_left, told.bundle_current, told.renewals), (Some(50.0), Some(false), 2.0));
        assert_eq!(proxy(of(), metrics.clone(), Some("ab"), 100.0).bundle_current, Some(true));
        assert_eq!(proxy(of(), metrics, None, 100.0).bundle_current, None);
        assert_eq!(proxy(of(), ProxyMetrics::default(), Some("ab"), 0.0).identity, None);
    }
}
