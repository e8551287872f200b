//! Pods that slipped by, made anew; and sidecars that keep within a namespace's LimitRange.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_testbed::cluster::{CONTROL, Cluster, Namespace, WEFT_NAMESPACE, Workload, cluster_story, figure};
use weft_testbed::{eventually, rest};

use crate::SOON;

fn budget(min_available: u32) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "orders"},
           "spec": {"minAvailable": min_available, "selector": {"matchLabels": {"app": "orders"}}}})
}

/// Nobody injects while these are made.
fn without_injector(cluster: &Cluster, make: impl FnOnce() -> Result<()>) -> Result<()> {
    let control = cluster.existing(WEFT_NAMESPACE);
    control.run(&["scale", CONTROL, "--replicas=0"])?;
    eventually("the control part to be gone", SOON, || Ok(control.pods("")?.is_empty().then_some(())))?;
    make()?;
    control.run(&["scale", CONTROL, "--replicas=2"])?;
    cluster.control_ready()?;
    cluster.injector_answers()
}

fn told(namespace: &Namespace<'_>, reason: &str) -> Result<usize> {
    let words = ["get", "events", "--field-selector", &format!("reason={reason}"), "-o", "name"];
    Ok(namespace.run(&words)?.lines().count())
}

fn whole(namespace: &Namespace<'_>) -> Result<bool> {
    let pods = namespace.pods("app=orders")?;
    let injected = |pod: &Value| {
        pod["spec"]["initContainers"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["name"] == "weft-proxy"))
    };
    Ok(pods.len() == 3 && pods.iter().all(injected))
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn pods_that_slipped_by_are_made_anew_as_their_budget_allows() {
    cluster_story("recreated", |cluster| {
        cluster.install(&["controller.recreateSlipped.enabled=true,controller.recreateSlipped.graceSeconds=10,controller.recreateSlipped.perMinute=60"])?;
        let namespace = cluster.namespace("recreated", &[("weft.dev/inject", "enabled")])?;
        // The first pod brings the namespace its weft-mesh.
        namespace.apply(&Workload::deployment("client").client())?;
        namespace.ready(&["client"])?;
        namespace.apply_object(budget(3))?;
        without_injector(cluster, || {
            namespace
                .apply(&Workload::deployment("orders").replicas(3).app("http", 8080).service(80, 8080))?;
            namespace.ready(&["orders"])
        })?;
        namespace.all_injected(&["orders"], false)?;
        let before = namespace.pod_names("orders")?;

        // Three of three have to be there: nobody goes.
        eventually("the eviction to be refused", SOON, || {
            Ok((told(&namespace, "SidecarRecreateWaits")? > 0).then_some(()))
        })?;
        rest(Duration::from_secs(45));
        ensure!(namespace.pod_names("orders")? == before, "a budget was not kept");
        ensure!(told(&namespace, "SidecarRecreateWaits")? == 1, "told more than once");

        // Two of three: one after another, and calls go on meanwhile.
        let calls = namespace.load("calls", "http://orders/").rate(20).start()?;
        namespace.apply_object(budget(2))?;
        eventually("all pods to have a sidecar", SOON * 3, || Ok(whole(&namespace)?.then_some(())))?;
        namespace.ready(&["orders"])?;
        calls.wait_for(20)?;
        calls.stop()?.all_ok(100)?;
        figure("evictions that were told", told(&namespace, "SidecarRecreate")?);
        cluster.install(&[])
    });
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn sidecars_keep_within_the_limits_of_their_namespace() {
    cluster_story("limits", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("limits", &[("weft.dev/inject", "enabled")])?;
        namespace.apply_object(json!({
            "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "narrow"},
            "spec": {"limits": [{"type": "Container", "min": {"cpu": "20m", "memory": "32Mi"}, "max": {"cpu": "1", "memory": "128Mi"},
                                 "default": {"cpu": "100m", "memory": "64Mi"}, "defaultRequest": {"cpu": "20m", "memory": "32Mi"},
                                 "maxLimitRequestRatio": {"cpu": "5", "memory": "4"}}]},
        }))?;
        // A watch is a moment behind.
        rest(Duration::from_secs(5));
        namespace.apply(&Workload::deployment("orders").app("http", 8080).service(80, 8080))?;
        namespace.ready(&["orders"])?;
        namespace.all_injected(&["orders"], true)
    });
}
