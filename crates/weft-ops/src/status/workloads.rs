//! `weft status`: one line for each workload.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::Client;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};
use weft_control::controller::facts::Key;

use super::traffic::{Sum, Traffic};
use crate::OpsError;
use crate::scrape::{self, ProxyMetrics, Scraped};
use crate::view::{PodView, View, Workload};

/// One workload of the mesh.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// Where it is.
    pub namespace: String,
    /// What it is.
    #[serde(flatten)]
    pub workload: Workload,
    /// Its pods that have not ended.
    pub pods: usize,
    /// Those of them that have a sidecar.
    pub meshed: usize,
    /// Those of them whose sidecar is ready.
    pub ready: usize,
    /// The versions of Weft that its sidecars are of, as they say or, where they cannot be asked, as they were injected.
    pub versions: BTreeSet<String>,
    /// What its proxies let in; None where none of them could be asked twice.
    pub traffic: Option<Traffic>,
    /// How clients call its Services: the modes found, `strict`, `permissive`, `disable`; empty without a Service.
    pub client_modes: BTreeSet<String>,
    /// `strict` or `permissive`: whether its pods let plaintext in, by their namespace and annotations.
    pub inbound_modes: BTreeSet<String>,
    /// Connections in plaintext that were served since the proxies started, by caller.
    pub plaintext_callers: BTreeMap<String, f64>,
}

/// A pod whose metrics could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unscraped {
    /// `namespace/name`.
    pub pod: String,
    /// Why.
    pub reason: String,
}

/// What `weft status` tells.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// Between the two looks, in seconds.
    pub window_seconds: f64,
    /// By namespace and name.
    pub workloads: Vec<WorkloadStatus>,
    /// Pods that are missing from the traffic.
    pub unscraped: Vec<Unscraped>,
    /// Only one namespace was seen, because the rest may not be read: callers from elsewhere are told by address.
    pub partial: bool,
}

/// Looks twice, `window` apart, at the pods of a namespace or of all that take part. How many sidecars are asked is told by
/// `waiting` before that time passes; where there is none nothing is waited for, and nothing told.
///
/// # Errors
/// [`OpsError::List`] where pods cannot be listed.
pub async fn status(
    client: &Client,
    own: &str,
    scope: Option<&str>,
    window: Duration,
    waiting: impl FnOnce(usize),
) -> Result<StatusReport, OpsError> {
    let view = View::of(client, own, scope).await?;
    let pods: Vec<Key> =
        view.injected(scope).filter(|(_, pod)| pod.proxy_runs).map(|(key, _)| key.clone()).collect();
    if !pods.is_empty() {
        waiting(pods.len());
    }
    let start = Instant::now();
    let before = scrape::all(client, pods.iter().cloned()).await;
    if !pods.is_empty() {
        sleep_until(start + window).await;
    }
    let after = scrape::all(client, pods.into_iter()).await;
    Ok(report(&view, scope, window, &before, &after))
}

fn report(
    view: &View,
    scope: Option<&str>,
    window: Duration,
    before: &BTreeMap<Key, Scraped>,
    after: &BTreeMap<Key, Scraped>,
) -> StatusReport {
    let mut rows: BTreeMap<(String, Workload), Row> = BTreeMap::new();
    let mut unscraped = Vec::new();
    let shown = |key: &Key| match scope {
        Some(namespace) => key.namespace == namespace,
        None => view.world.members.contains(&key.namespace),
    };
    for (key, facts) in view.world.seen.pods.iter().filter(|(key, facts)| shown(key) && !facts.finished) {
        let Some(pod) = view.pods.get(key) else { continue };
        let row = rows.entry((key.namespace.clone(), pod.workload.clone())).or_default();
        row.pods += 1;
        row.uids.insert(facts.uid.clone());
        if !facts.injected {
            continue;
        }
        row.inbound.insert(facts.mode.unwrap_or_else(|| view.world.inbound(&key.namespace)).to_string());
        if let Err(reason) = row.add(view, pod, before.get(key), after.get(key)) {
            unscraped.push(Unscraped { pod: key.to_string(), reason });
        }
    }
    let modes = Modes::of(view);
    let workloads = rows.into_iter().map(|((namespace, workload), row)| WorkloadStatus {
        client_modes: modes.towards(view, &namespace, &row.uids),
        namespace,
        workload,
        pods: row.pods,
        meshed: row.meshed,
        ready: row.ready,
        versions: row.versions,
        traffic: row.traffic.as_ref().map(Sum::traffic),
        inbound_modes: row.inbound,
        plaintext_callers: row.plaintext,
    });
    StatusReport {
        window_seconds: window.as_secs_f64(),
        workloads: workloads.collect(),
        unscraped,
        partial: !view.whole,
    }
}

#[derive(Default)]
struct Row {
    pods: usize,
    meshed: usize,
    ready: usize,
    uids: BTreeSet<String>,
    versions: BTreeSet<String>,
    inbound: BTreeSet<String>,
    traffic: Option<Sum>,
    plaintext: BTreeMap<String, f64>,
}

impl Row {
    /// Adds a pod with a sidecar, with the two looks at it. An error is why it is missing from the traffic.
    fn add(
        &mut self,
        view: &View,
        pod: &PodView,
        before: Option<&Scraped>,
        after: Option<&Scraped>,
    ) -> Result<(), String> {
        self.meshed += 1;
        self.ready += usize::from(pod.proxy_ready);
        let metrics = after.and_then(|scraped| scraped.as_ref().ok());
        let metrics = metrics.map(|scrape| ProxyMetrics::from(&*scrape.page)).unwrap_or_default();
        self.versions.extend(metrics.version.or_else(|| pod.version.clone()));
        let (before, after) = match (before, after) {
            (Some(Ok(before)), Some(Ok(after))) => (before, after),
            (Some(Err(reason)), _) | (_, Some(Err(reason))) => return Err(reason.clone()),
            _ => return Err("weft-proxy does not run".to_owned()),
        };
        let between = after.at.duration_since(before.at);
        self.traffic.get_or_insert_default().add(&before.page, &after.page, between);
        for caller in metrics.plaintext.iter().filter(|caller| caller.served > 0.0) {
            *self.plaintext.entry(view.name_of(caller.source)).or_default() += caller.served;
        }
        Ok(())
    }
}

/// The modes of clients, by what proxies are told: `weft.yaml` of a `weft-mesh`, which lists what is not strict.
struct Modes(Option<BTreeMap<String, String>>);

#[derive(Deserialize)]
struct WeftYaml {
    mesh: MeshSection,
}

#[derive(Deserialize)]
struct MeshSection {
    #[serde(default)]
    modes: Vec<ModeEntry>,
}

#[derive(Deserialize)]
struct ModeEntry {
    name: String,
    mode: String,
}

impl Modes {
    /// All say the same of the mesh; the first that can be read is taken.
    fn of(view: &View) -> Self {
        let texts = view.meshes.values().filter_map(|mesh| mesh.data.as_ref()?.get("weft.yaml"));
        let read = texts.filter_map(|text| serde_saphyr::from_str::<WeftYaml>(text).ok()).next();
        Self(read.map(|yaml| yaml.mesh.modes.into_iter().map(|entry| (entry.name, entry.mode)).collect()))
    }

    /// The modes towards the Services that select these pods.
    fn towards(&self, view: &View, namespace: &str, uids: &BTreeSet<String>) -> BTreeSet<String> {
        let Some(listed) = &self.0 else { return BTreeSet::new() };
        let selecting = view.world.mesh_services().filter(|(key, service)| {
            key.namespace == namespace
                && view.world.pods_of(key, service).iter().any(|pod| uids.contains(&pod.uid))
        });
        let mode = |name: &str| {
            let prefix = format!("{name}.{namespace}.svc.");
            listed
                .iter()
                .find(|(listed, _)| listed.starts_with(&prefix))
                .map_or_else(|| "strict".to_owned(), |(_, mode)| mode.clone())
        };
        selecting.map(|(key, _)| mode(&key.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::scrape::{Page, Scrape};
    use crate::view::tests::{namespace, pod, service, view};

    fn look(requests: u32, plaintext: u32, at: Instant) -> Scraped {
        let text = format!(
            "weft_build_info{{version=\"0.2.0\"}} 1\n\
             http_server_request_duration_seconds_bucket{{http_response_status_code=\"200\",le=\"0.1\"}} {requests}\n\
             http_server_request_duration_seconds_bucket{{http_response_status_code=\"200\",le=\"+Inf\"}} {requests}\n\
             weft_plaintext_connections_total{{source=\"10.9.0.1\",outcome=\"served\"}} {plaintext}\n"
        );
        Ok(Scrape { page: Arc::new(Page::parse(&text).unwrap()), at })
    }

    fn mesh(modes: &str) -> Value {
        json!({"kind": "ConfigMap", "metadata": {"name": "weft-mesh", "namespace": "shop"},
               "data": {"weft.yaml": format!("identity: {{trustDomain: a}}\nmesh:\n  namespaces: [shop]\n  modes: {modes}\ninbound: {{mode: strict}}\n")}})
    }

    #[tokio::test(start_paused = true)]
    async fn workloads_are_told_with_their_traffic() {
        let mut db = pod("shop", "db", "10.0.0.3", true);
        db["metadata"]["annotations"]["weft.dev/mode"] = "strict".into();
        let seen = view(&[
            namespace("shop", json!({"weft.dev/inject": "enabled"})),
            namespace("plain", json!({})),
            service("shop", "web"),
            service("shop", "db"),
            pod("shop", "web", "10.0.0.1", true),
            pod("shop", "web", "10.0.0.2", false),
            db,
            pod("plain", "x", "10.9.0.1", false),
            mesh(
                "[{name: web.shop.svc.cluster.local, mode: permissive, endpoints: &e0 [10.0.0.1]}, {name: \"*.web.shop.svc.cluster.local\", mode: permissive, endpoints: *e0 }]",
            ),
        ]);
        let start = Instant::now();
        let end = start + Duration::from_secs(5);
        let web = Key::new("shop", "web-5d4f8-10-0-0-1");
        let before = [
            (web.clone(), look(10, 1, start)),
            (Key::new("shop", "db-5d4f8-10-0-0-3"), Err("no answer".to_owned())),
        ]
        .into();
        let after = [(web, look(60, 3, end))].into();
        let report = report(&seen, None, Duration::from_secs(5), &before, &after);
        assert_eq!(report.workloads.len(), 2, "{report:?}");
        let (db, web) = (&report.workloads[0], &report.workloads[1]);
        assert_eq!((web.pods, web.meshed, web.workload.name.as_str()), (2, 1, "web"));
        // The one says it, the other cannot be asked and was injected so.
        assert_eq!(
            (web.versions.clone(), db.versions.clone()),
            (["0.2.0".to_owned()].into(), ["0.1.0".to_owned()].into())
        );
        assert_eq!(web.traffic.unwrap().requests_per_second, 10.0);
        assert_eq!(web.client_modes, ["permissive".to_owned()].into());
        assert_eq!(web.inbound_modes, ["permissive".to_owned()].into());
        assert_eq!(
            web.plaintext_callers,
            [("deployment plain/x (pod x-5d4f8-10-9-0-1)".to_owned(), 3.0)].into()
        );
        assert_eq!(
            (db.traffic, db.client_modes.clone(), db.inbound_modes.clone()),
            (None, ["strict".to_owned()].into(), ["strict".to_owned()].into())
        );
        assert_eq!(
            report.unscraped,
            [Unscraped { pod: "shop/db-5d4f8-10-0-0-3".into(), reason: "no answer".into() }]
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["workloads"][1]["kind"], "deployment");
        assert_eq!(json["workloads"][1]["traffic"]["requestsPerSecond"], 10.0);
    }
}
