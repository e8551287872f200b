//! The controller in a large cluster: 5,000 Services, 20,000 pods, 300 namespaces. The figures are in docs/benchmarks.md.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use weft_telemetry::Registry;

use crate::controller::{Cluster, SYSTEM};
use crate::server::ApiServer;

const NAMESPACES: usize = 300;
const SERVICES: usize = 5_000;
const PODS: usize = 20_000;
/// Requests under way at once while the world is made.
const AT_ONCE: usize = 64;
/// Everything: making 25,000 objects, and writing 5,000 twins at their pace.
const LONG: Duration = Duration::from_secs(1_200);

fn team(service: usize) -> String {
    format!("team-{}", service % NAMESPACES)
}

async fn make<K>(cluster: &Cluster, count: usize, object: impl Fn(usize) -> (String, Value))
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    K: DeserializeOwned + Serialize + Clone + std::fmt::Debug,
{
    let all = stream::iter((0..count).map(object)).map(|(namespace, object)| async move {
        let object: K = serde_json::from_value(object).unwrap();
        cluster.of::<K>(&namespace).create(&PostParams::default(), &object).await.unwrap();
    });
    all.buffer_unordered(AT_ONCE).collect::<()>().await;
}

async fn pods(cluster: &Cluster) {
    let object = |number: usize| {
        let (service, replica) = (number % SERVICES, number / SERVICES);
        let container = |name: &str| json!({"name": name, "image": "none"});
        let pod = json!({
            "metadata": {"name": format!("app-{service}-{replica}"), "labels": {"app": format!("app-{service}")}},
            "spec": {"initContainers": [container("weft-init"), container("weft-proxy")], "containers": [container("app")]},
        });
        (team(service), pod)
    };
    make::<Pod>(cluster, PODS, object).await;
    let all = stream::iter(0..PODS).map(|number| async move {
        let (service, replica) = (number % SERVICES, number / SERVICES);
        let ip = format!("10.{}.{}.{}", 10 + replica, service / 250, service % 250);
        let ready = json!({"type": "Ready", "status": "True"});
        let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]});
        let patch = json!({ "status": status });
        let api = cluster.of::<Pod>(&team(service));
        let name = format!("app-{service}-{replica}");
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    });
    all.buffer_unordered(AT_ONCE).collect::<()>().await;
}

/// Resident memory of this process, in MiB: the controller is the largest part of it.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn figures(page: &str) -> Vec<&str> {
    let wanted = [
        "weft_controller_reconcile",
        "weft_controller_writ",
        "weft_controller_errors",
        "weft_services",
        "weft_twins",
    ];
    page.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name))).collect()
}

#[tokio::test]
#[ignore = "needs kube-apiserver, and minutes: cargo xtask cluster e2e --long"]
#[expect(clippy::print_stdout, reason = "a measurement tells its figures")]
async fn a_large_cluster_is_followed() {
    let server = ApiServer::start().await;
    let cluster = Cluster { client: server.client().await };
    cluster.furnish().await;
    let begun = Instant::now();
    for number in 0..NAMESPACES {
        let labels = json!({"weft.dev/inject": "enabled"});
        let object = json!({"metadata": {"name": format!("team-{number}"), "labels": labels}});
        let object: Namespace = serde_json::from_value(object).unwrap();
        cluster.all::<Namespace>().create(&PostParams::default(), &object).await.unwrap();
    }
    let service = |number: usize| {
        let spec = json!({"selector": {"app": format!("app-{number}")}, "ports": [{"port": 80}]});
        (team(number), json!({"metadata": {"name": format!("service-{number}")}, "spec": spec}))
    };
    make::<Service>(&cluster, SERVICES, service).await;
    pods(&cluster).await;
    println!("made in {:?}, {} MiB", begun.elapsed(), resident());

    let begun = Instant::now();
    let replica = cluster.replica(&server, "one").await;
    replica.leads().await;
    let registry = Registry::default();
    replica.metrics.register(&registry);
    let mut told = Vec::new();
    let done = loop {
        let mut page = String::new();
        registry.encode(&mut page);
        let has = |line: String| page.lines().any(|found| found == line);
        if told.is_empty() && has(format!("weft_services{{mode=\"strict\"}} {SERVICES}")) {
            told.push(begun.elapsed());
        }
        let meshes = ListParams::default().fields("metadata.name=weft-mesh");
        let written = cluster.all::<ConfigMap>().list_metadata(&meshes).await.unwrap().items.len();
        let twins = has(format!("weft_controller_writes_total{{type=\"twin\"}} {SERVICES}"));
        if !told.is_empty() && written == NAMESPACES && twins {
            break begun.elapsed();
        }
        assert!(begun.elapsed() < LONG, "{:#?}", figures(&page));
        sleep(Duration::from_millis(500)).await;
    };
    let mut page = String::new();
    registry.encode(&mut page);
    println!("strict after {:?}, all written after {done:?}, {} MiB", told, resident());
    println!("{}", figures(&page).join("\n"));
    let state = cluster.key(SYSTEM, "weft-state", "strict.yaml").await.unwrap_or_default();
    assert_eq!(state.lines().count(), SERVICES);
    replica.task.abort();
}
