//! The control part is away.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_testbed::cluster::{CONTROL, Cluster, WEFT_NAMESPACE, Workload, cluster_story, figure};
use weft_testbed::{eventually, rest};

use crate::SOON;

/// Longer by `cargo xtask cluster e2e --long`.
fn absence() -> Duration {
    Duration::from_secs(if std::env::var_os("WEFT_LONG").is_some() { 300 } else { 40 })
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn traffic_goes_on_without_control_and_a_pod_that_slipped_by_is_reported() {
    cluster_story("away", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("away", &[("weft.dev/inject", "enabled")])?;
        namespace.apply(&Workload::deployment("orders").replicas(2).app("http", 8080).service(80, 8080))?;
        namespace.apply(&Workload::deployment("client").client())?;
        namespace.ready(&["orders", "client"])?;
        namespace.strict(&["orders"])?;
        let kept = namespace.load("kept", "http://orders/").rate(20).start()?;
        let fresh = namespace.load("fresh", "http://orders/").rate(10).fresh_connections().start()?;
        // What the injector would give a pod, kept for a pod that starts while only the CA is away.
        let control = cluster.existing(WEFT_NAMESPACE);

        control.run(&["scale", CONTROL, "--replicas=0"])?;
        eventually("the control part to be gone", SOON, || Ok(control.pods("")?.is_empty().then_some(())))?;
        // Nobody injects now: the cluster goes on making pods, and this one has no sidecar.
        namespace.apply(&Workload::deployment("slipped").client())?;
        // It was injected before, and starts anew now: it has to wait for its identity.
        let waiting = namespace.pod_names("orders")?;
        rest(absence());
        kept.wait_for(100)?;
        fresh.wait_for(50)?;
        namespace.all_injected(&["slipped"], false)?;

        control.run(&["scale", CONTROL, "--replicas=2"])?;
        cluster.control_ready()?;
        eventually("the slipped pod to be reported", SOON, || {
            let pods = namespace.pods("app=slipped")?;
            let conditions =
                pods.iter().flat_map(|pod| pod["status"]["conditions"].as_array().into_iter().flatten());
            let mut mine = conditions.filter(|condition| condition["type"] == "weft.dev/SidecarInjected");
            Ok(mine.any(|condition| condition["status"] == "False").then_some(()))
        })?;
        ensure!(namespace.pod_names("orders")? == waiting, "pods were restarted by somebody");
        kept.wait_for(50)?;
        kept.stop()?.all_ok(500)?;
        fresh.stop()?.all_ok(200)?;
        figure("seconds without the control part", absence().as_secs());
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn a_pod_that_starts_without_the_ca_waits_and_becomes_ready() {
    cluster_story("no-ca", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("no-ca", &[("weft.dev/inject", "enabled")])?;
        let control = cluster.existing(WEFT_NAMESPACE);
        // The injector has to see the pod, and the CA must be gone before the pod asks it: an init container of the
        // pod's own cannot hold the sidecar, so the Service of the CA is taken away instead.
        let service = control.get("service", "weft-ca")?;
        control.run(&["delete", "service", "weft-ca"])?;
        namespace.apply(&Workload::deployment("orders").app("http", 8080).service(80, 8080))?;
        let pod = eventually("the pod", SOON, || Ok(namespace.pod_name("orders").ok()))?;
        let said = eventually("a clear log line", SOON, || {
            let log = namespace.logs(&format!("pod/{pod}"), "weft-proxy").unwrap_or_default();
            let mut lines = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
            Ok(lines.find(|line| line.contains("weft-ca")).map(str::to_owned))
        });
        let mut again = serde_json::json!({
            "apiVersion": "v1", "kind": "Service", "spec": service["spec"],
            "metadata": { "name": "weft-ca", "labels": service["metadata"]["labels"] },
        });
        again["spec"]["clusterIP"] = serde_json::Value::Null;
        again["spec"]["clusterIPs"] = serde_json::Value::Null;
        control.apply_object(again)?;
        figure("what a pod without the CA says", said?);
        namespace.ready(&["orders"])
    });
}

/// Pods that the API server is asked to make, without making them, in one call of kubectl.
const TRIED_AT_ONCE: usize = 50;

/// How many of some pods that are only tried out have no sidecar.
fn slipping(cluster: &Cluster, namespace: &str) -> Result<usize> {
    let pod = |i: usize| {
        serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": format!("tried-{i}"), "namespace": namespace },
            "spec": { "containers": [{ "name": "app", "image": "none" }] },
        })
    };
    let pods: Vec<_> = (0..TRIED_AT_ONCE).map(pod).collect();
    let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": pods }).to_string();
    let made = cluster.kubectl().feed_text(&["create", "--dry-run=server", "-o", "json"], &list)?;
    let injected = made.matches("\"name\": \"weft-proxy\"").count();
    Ok(TRIED_AT_ONCE.saturating_sub(injected))
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn restarts_of_weft_control_let_no_pod_slip_by() {
    cluster_story("restarts", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("restarts", &[("weft.dev/inject", "enabled")])?;
        let control = cluster.existing(WEFT_NAMESPACE);
        let (mut tried, mut slipped) = (0, 0);
        while tried < 5_000 {
            let before: Vec<_> = control.pods("")?.iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
            control.run(&["rollout", "restart", CONTROL])?;
            // Until the last of those that were there has ended, its drain included.
            loop {
                slipped += slipping(cluster, namespace.name())?;
                tried += TRIED_AT_ONCE;
                if !control.pods("")?.iter().any(|pod| before.contains(&pod["metadata"]["uid"])) {
                    break;
                }
            }
            cluster.control_ready()?;
        }
        ensure!(slipped == 0, "{slipped} of {tried} pods slipped by");
        figure("pods injected during restarts of weft-control", tried);
        Ok(())
    });
}
