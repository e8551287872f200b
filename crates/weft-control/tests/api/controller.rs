//! The controller's life with a real API server: pods are made by hand, for nobody runs them here.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use weft_control::KubeError;
use weft_control::controller::{self, Metrics, Parts, Settings};
use weft_control::manifests::{Values, render};
use weft_core::{DrainTrigger, drain};

use crate::server::ApiServer;

pub(crate) const SYSTEM: &str = "weft-system";
const ROOT: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
/// Everything but what waits for a clock.
const SOON: Duration = Duration::from_secs(30);

/// The rules of a role as it is installed.
fn rules(kind: &str) -> Value {
    let values = Values::read(&[]).unwrap();
    let manifests = render(&values, SYSTEM, false).unwrap();
    let role = manifests.iter().find(|manifest| manifest.kind == kind).unwrap();
    let role: Value = serde_saphyr::from_str(&role.yaml).unwrap();
    role["rules"].clone()
}

pub(crate) struct Cluster {
    pub(crate) client: Client,
}

impl Cluster {
    pub(crate) fn of<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Weft's namespace, its permissions, the CA's Secret, a node, and a namespace that is not labelled yet.
    pub(crate) async fn furnish(&self) {
        for name in [SYSTEM, "shop"] {
            create(&self.all::<Namespace>(), json!({"metadata": {"name": name}})).await;
        }
        create(&self.of::<ServiceAccount>(SYSTEM), json!({"metadata": {"name": "weft-control"}})).await;
        let meta = json!({"name": "weft-control"});
        let bound = |kind: &str| {
            json!({
                "metadata": meta,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "weft-control"},
                "subjects": [{"kind": "ServiceAccount", "name": "weft-control", "namespace": SYSTEM}],
            })
        };
        create(&self.all::<ClusterRole>(), json!({"metadata": meta, "rules": rules("ClusterRole")})).await;
        create(&self.all::<ClusterRoleBinding>(), bound("ClusterRole")).await;
        create(&self.of::<Role>(SYSTEM), json!({"metadata": meta, "rules": rules("Role")})).await;
        create(&self.of::<RoleBinding>(SYSTEM), bound("Role")).await;
        let spec = json!({"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]});
        create(&self.all::<Node>(), json!({"metadata": {"name": "n1"}, "spec": spec})).await;
    }

    async fn label(&self, namespace: &str, value: Option<&str>) {
        let patch = json!({"metadata": {"labels": {"weft.dev/inject": value}}});
        let api = self.all::<Namespace>();
        api.patch(namespace, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    async fn service(&self, name: &str, spec: Value) {
        create(&self.of::<Service>("shop"), json!({"metadata": {"name": name}, "spec": spec})).await;
    }

    /// A running, ready pod of `app`.
    async fn pod(&self, name: &str, app: &str, ip: &str, injected: bool) {
        let container = |name: &str| json!({"name": name, "image": "none"});
        let init = if injected { vec![container("weft-init")] } else { vec![] };
        let mut proxy = container("weft-proxy");
        proxy["restartPolicy"] = json!("Always");
        let init: Vec<Value> = init.into_iter().chain(injected.then_some(proxy)).collect();
        let pods = self.of::<Pod>("shop");
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {"initContainers": init, "containers": [container("app")]},
        });
        create(&pods, pod).await;
        let ready = json!({"type": "Ready", "status": "True"});
        let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]});
        let patch = json!({ "status": status });
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    pub(crate) async fn key(&self, namespace: &str, name: &str, key: &str) -> Option<String> {
        let found = self.of::<ConfigMap>(namespace).get_opt(name).await.unwrap()?;
        found.data?.remove(key)
    }

    /// `weft.yaml` of the shop, once it is as `check` wants it.
    async fn membership(&self, what: &str, check: impl Fn(&str) -> bool) -> String {
        until(what, async || {
            let text = self.key("shop", "weft-mesh", "weft.yaml").await;
            text.ok_or_else(|| "none".to_owned())
                .and_then(|text| if check(&text) { Ok(text) } else { Err(text) })
        })
        .await
    }

    async fn event(&self, namespace: &str, reason: &str, about: &str) {
        until(&format!("event {reason}"), async || {
            let events = self.of::<Event>(namespace).list(&ListParams::default()).await.unwrap();
            let told = events.iter().map(|event| (event.reason.as_deref(), event.regarding.as_ref()));
            let mut told =
                told.map(|(reason, about)| (reason, about.and_then(|about| about.name.as_deref())));
            if told.any(|found| found == (Some(reason), Some(about))) {
                Ok(())
            } else {
                Err(format!("{events:?}"))
            }
        })
        .await;
    }

    /// A replica, with the rights of `weft-control`.
    pub(crate) async fn replica(&self, server: &ApiServer, name: &str) -> Replica {
        let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts = self.of::<ServiceAccount>(SYSTEM);
        let token =
            accounts.create_token_request("weft-control", &PostParams::default(), &request).await.unwrap();
        let client = server.client_with(&token.status.unwrap().token).await;
        let settings = Settings {
            trust_domain: "weft.local".parse().unwrap(),
            cluster_domain: "cluster.local".parse().unwrap(),
            namespace: SYSTEM.parse().unwrap(),
            mesh: Default::default(),
            proxy: Default::default(),
            controller: Default::default(),
            injector: None,
        };
        let (tx, settings) = tokio::sync::watch::channel(Arc::new(settings));
        let (root, roots) = tokio::sync::watch::channel(Arc::from(ROOT));
        let metrics = Arc::new(Metrics::default());
        let parts =
            Parts { client, identity: name.to_owned(), settings, roots, metrics: Arc::clone(&metrics) };
        let (trigger, drain) = drain();
        let task = tokio::spawn(async move {
            let _kept = (tx, root);
            controller::run(parts, drain).await
        });
        Replica { metrics, trigger, task }
    }
}

pub(crate) struct Replica {
    pub(crate) metrics: Arc<Metrics>,
    trigger: DrainTrigger,
    pub(crate) task: JoinHandle<Result<(), KubeError>>,
}

impl Replica {
    pub(crate) async fn leads(&self) {
        until("leader", async || if self.metrics.leads() { Ok(()) } else { Err("does not lead".to_owned()) })
            .await;
    }
}

async fn create<K: DeserializeOwned + Serialize + Clone + std::fmt::Debug>(api: &Api<K>, object: Value) -> K {
    let object: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

/// Waits for what the API server shows in the end.
async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        match check().await {
            Ok(found) => return found,
            Err(reason) => assert!(Instant::now() < deadline, "{what}: {reason}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn ports(service: &Service) -> Vec<(String, i32, Value)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.map(|p| (p.name.clone().unwrap_or_default(), p.port, json!(p.target_port))).collect()
}

const TWIN: &str = "orders-endpoints";

#[tokio::test]
#[ignore = "needs kube-apiserver: cargo xtask cluster e2e"]
async fn a_namespace_moves_in_and_out() {
    let server = ApiServer::start().await;
    let cluster = Cluster { client: server.client().await };
    cluster.furnish().await;
    let first = cluster.replica(&server, "one").await;
    first.leads().await;
    let second = cluster.replica(&server, "two").await;

    cluster.label("shop", Some("enabled")).await;
    let text = cluster.membership("membership", |text| text.contains("namespaces: [shop]")).await;
    assert!(text.contains("{cidr: 10.244.0.0/24, mode: permissive}"), "{text}");
    assert_eq!(cluster.key("shop", "weft-mesh", "root.pem").await.as_deref(), Some(ROOT));
    assert_eq!(cluster.key("shop", "weft-mesh", "ca-key.pem").await, None);

    twins(&cluster).await;
    let since = Instant::now();
    edits_are_put_back(&cluster).await;
    exceptions(&cluster).await;
    foreign_twin(&cluster).await;
    strict(&cluster, since).await;
    slips(&cluster).await;

    // The leader dies without a word; the other takes over when the lease has run out, and remembers.
    assert!(!second.metrics.leads());
    first.task.abort();
    second.leads().await;
    let lease = cluster.of::<Lease>(SYSTEM).get("weft-controller").await.unwrap().spec.unwrap();
    assert_eq!((lease.holder_identity.as_deref(), lease.lease_transitions), (Some("two"), Some(1)));
    cluster.service("later", json!({"type": "ExternalName", "externalName": "x.example"})).await;
    let text = cluster.membership("the new leader's text", |text| text.contains("later.shop.")).await;
    assert!(!text.contains("name: orders.shop."), "{text}");

    leaves(&cluster).await;
    // The next one need not wait for the lease of one that ends in order.
    let third = cluster.replica(&server, "three").await;
    sleep(Duration::from_secs(1)).await;
    assert!(!third.metrics.leads());
    let begun = Instant::now();
    second.trigger.start(Duration::from_secs(1));
    second.task.await.unwrap().unwrap();
    third.leads().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    third.task.abort();
}

async fn twins(cluster: &Cluster) {
    let port = |name: &str, port: i32, target: Value, protocol: &str| json!({"name": name, "port": port, "targetPort": target, "protocol": protocol, "appProtocol": "http"});
    let ports_of = [
        port("web", 80, json!("http"), "TCP"),
        port("dns", 53, json!(53), "UDP"),
        port("more", 81, json!(8081), "TCP"),
    ];
    cluster.service("orders", json!({"selector": {"app": "orders"}, "ports": ports_of})).await;
    let text = cluster.membership("permissive", |text| text.contains("name: orders.shop.")).await;
    assert!(
        text.contains("{name: orders.shop.svc.cluster.local, mode: permissive, endpoints: []}"),
        "{text}"
    );
    assert!(cluster.of::<Service>("shop").get_opt(TWIN).await.unwrap().is_none());
    cluster.pod("orders-1", "orders", "10.244.0.7", true).await;
    let twin = until("twin", async || {
        cluster.of::<Service>("shop").get_opt(TWIN).await.unwrap().ok_or_else(|| "none".to_owned())
    })
    .await;
    let expected = [("p80", 80, json!("http")), ("p81", 81, json!(8081))];
    assert_eq!(ports(&twin), expected.map(|(name, port, target)| (name.to_owned(), port, target)));
    assert_eq!(twin.spec.as_ref().unwrap().cluster_ip.as_deref(), Some("None"));
    cluster.membership("endpoints", |text| text.contains("endpoints: &e0 [10.244.0.7]")).await;
    // Once it is there, its names have the mode of the Service.
    cluster.membership("the twin's mode", |text| text.contains("name: orders-endpoints.shop.")).await;
}

async fn edits_are_put_back(cluster: &Cluster) {
    let merge = PatchParams::default();
    let maps = cluster.of::<ConfigMap>("shop");
    let edit = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}},
                      "data": {"weft.yaml": "mesh: {mode: disable}", "more": "x", "root.pem": null}});
    maps.patch("weft-mesh", &merge, &Patch::Merge(&edit)).await.unwrap();
    until("membership is put back", async || {
        let map = maps.get("weft-mesh").await.unwrap();
        let data = map.data.unwrap();
        let good = data.len() == 2 && data["weft.yaml"].contains("orders.shop.") && data["root.pem"] == ROOT;
        let labelled =
            map.metadata.labels.is_some_and(|labels| labels["app.kubernetes.io/managed-by"] == "weft");
        if good && labelled { Ok(()) } else { Err(format!("{data:?}")) }
    })
    .await;
    // The API server takes no change of such a one any more.
    maps.patch("weft-mesh", &merge, &Patch::Merge(&json!({"immutable": true}))).await.unwrap();
    until("immutable is undone", async || {
        let map = maps.get_opt("weft-mesh").await.unwrap().ok_or_else(|| "none".to_owned())?;
        let good = map.immutable != Some(true) && map.data.as_ref().is_some_and(|data| data.len() == 2);
        if good { Ok(()) } else { Err(format!("{map:?}")) }
    })
    .await;
    maps.delete("weft-mesh", &DeleteParams::default()).await.unwrap();
    cluster.membership("membership is made again", |text| text.contains("orders.shop.")).await;

    let services = cluster.of::<Service>("shop");
    let edit =
        json!({"metadata": {"annotations": {"kept": "yes"}}, "spec": {"selector": {"extra": "label"}}});
    services.patch(TWIN, &merge, &Patch::Merge(&edit)).await.unwrap();
    let change = json!([{"op": "replace", "path": "/spec/ports/2/targetPort", "value": 8082}]);
    let change: json_patch::Patch = serde_json::from_value(change).unwrap();
    services.patch("orders", &merge, &Patch::Json::<()>(change)).await.unwrap();
    until("the twin is put back", async || {
        let twin = services.get(TWIN).await.unwrap();
        let selector = twin.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap();
        let good = selector.len() == 1 && ports(&twin)[1].2 == json!(8082);
        let kept = twin.metadata.annotations.as_ref().is_some_and(|all| all.contains_key("kept"));
        if good && kept { Ok(()) } else { Err(format!("{twin:?}")) }
    })
    .await;
}

async fn exceptions(cluster: &Cluster) {
    cluster.service("partner", json!({"type": "ExternalName", "externalName": "api.example"})).await;
    cluster.service("by-hand", json!({"ports": [{"port": 80}]})).await;
    let text = cluster
        .membership("exceptions", |t| t.contains("by-hand.shop.") && t.contains("partner.shop."))
        .await;
    assert!(text.contains("kubernetes.default.svc.cluster.local"), "{text}");
    assert!(!text.contains("name: partner.shop."), "{text}");
}

async fn foreign_twin(cluster: &Cluster) {
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
    cluster.service("web-endpoints", json!({"selector": {"app": "other"}, "ports": [{"port": 9}]})).await;
    cluster.service("web", spec).await;
    cluster.pod("web-1", "web", "10.244.0.8", true).await;
    cluster.event("shop", "NoTwin", "web").await;
    let foreign = cluster.of::<Service>("shop").get("web-endpoints").await.unwrap();
    assert_eq!(ports(&foreign), [(String::new(), 9, json!(9))]);
    assert!(foreign.metadata.owner_references.is_none());
}

async fn strict(cluster: &Cluster, since: Instant) {
    let state = || cluster.key(SYSTEM, "weft-state", "strict.yaml");
    until("strict", async || {
        let text = state().await.unwrap_or_default();
        if text.contains("- shop/orders\n") { Ok(()) } else { Err(text) }
    })
    .await;
    // Since before the moment at which all its pods were seen to be injected, and the pace of a pass.
    let took = since.elapsed();
    assert!((Duration::from_secs(25)..Duration::from_secs(45)).contains(&took), "{took:?}");
    cluster.membership("strict is told", |text| !text.contains("name: orders.shop.")).await;
    cluster.event("shop", "BecameStrict", "orders").await;
}

async fn slips(cluster: &Cluster) {
    cluster.pod("orders-2", "orders", "10.244.0.9", false).await;
    until("condition", async || {
        let pod = cluster.of::<Pod>("shop").get("orders-2").await.unwrap();
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        let of = |kind: &str| conditions.iter().find(|c| c.type_ == kind).map(|c| c.status.as_str());
        if of("weft.dev/SidecarInjected") == Some("False") && of("Ready") == Some("True") {
            Ok(())
        } else {
            Err(format!("{conditions:?}"))
        }
    })
    .await;
    cluster.event("shop", "SidecarMissing", "orders-2").await;
    let text = cluster.membership("still", |_| true).await;
    assert!(!text.contains("name: orders.shop."), "{text}");
}

async fn leaves(cluster: &Cluster) {
    let pods = cluster.of::<Pod>("shop");
    cluster.label("shop", None).await;
    // Its pods still read the file.
    cluster.membership("outside", |text| text.contains("namespaces: []")).await;
    until("the twin is removed", async || match cluster.of::<Service>("shop").get_opt(TWIN).await.unwrap() {
        None => Ok(()),
        Some(twin) => Err(format!("{twin:?}")),
    })
    .await;
    assert_eq!(cluster.key(SYSTEM, "weft-state", "strict.yaml").await.as_deref(), Some("[]\n"));
    until("the condition is taken away", async || {
        let pod = pods.get("orders-2").await.unwrap();
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        if conditions.iter().any(|c| c.type_.starts_with("weft")) {
            Err(format!("{conditions:?}"))
        } else {
            Ok(())
        }
    })
    .await;
    for name in ["orders-1", "web-1"] {
        pods.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
    until("membership is removed", async || {
        match cluster.of::<ConfigMap>("shop").get_opt("weft-mesh").await.unwrap() {
            None => Ok(()),
            Some(_) => Err("there".to_owned()),
        }
    })
    .await;
}
