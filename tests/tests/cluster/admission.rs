//! How long the API server waits for the injector.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_testbed::cluster::{APP_IMAGE, Cluster, WEFT_NAMESPACE, cluster_story, figure};
use weft_testbed::{Metrics, eventually};

/// How many pods are tried out.
const PODS: usize = 300;
/// The API server's own measure, from its request to the injector's answer.
const SERVER: &str = "apiserver_admission_webhook_admission_duration_seconds";
/// The injector's: from the head of a review to its answer.
const OWN: &str = "weft_injection_duration_seconds";

fn server(cluster: &Cluster) -> Result<Metrics> {
    Ok(Metrics::parse(&cluster.kubectl().run(&["get", "--raw", "/metrics"])?))
}

/// Of each replica.
fn injectors(cluster: &Cluster) -> Result<Vec<Metrics>> {
    let control = cluster.existing(WEFT_NAMESPACE);
    control.pod_names_of("")?.iter().map(|pod| control.metrics(pod)).collect()
}

/// Upper bounds of the buckets: nothing finer is known.
fn tell(what: &str, metrics: &Metrics, name: &str, labels: &[(&str, &str)]) {
    let count = metrics.sum(&format!("{name}_count"), labels);
    let mean = metrics.sum(&format!("{name}_sum"), labels) / count.max(1.0) * 1e3;
    let bound = |share: f64| {
        metrics
            .quantile(name, labels, share)
            .map_or("more".to_owned(), |bound| format!("≤ {} ms", bound * 1e3))
    };
    figure(what, format!("{count} admissions, mean {mean:.1} ms, p50 {}, p99 {}", bound(0.5), bound(0.99)));
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn pods_are_admitted_soon() {
    cluster_story("admission", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("admission", &[("weft.dev/inject", "enabled")])?;
        let pod = |number: usize| {
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": format!("tried-{number}"), "namespace": namespace.name() },
                "spec": { "containers": [{
                    "name": "app", "image": APP_IMAGE, "ports": [{ "containerPort": 8080 }],
                    "readinessProbe": { "httpGet": { "path": "/healthy", "port": 8080 } },
                }]},
            })
        };
        let list = |from: usize, to: usize| {
            let pods: Vec<Value> = (from..to).map(pod).collect();
            json!({ "apiVersion": "v1", "kind": "List", "items": pods }).to_string()
        };
        let labels = [("name", "namespace.injector.weft.dev")];
        let words = ["create", "--dry-run=server", "-o", "json"];
        // Once, that connections and caches are there as they are in a cluster that lives.
        eventually("the injector to be called for the namespace", Duration::from_secs(60), || {
            Ok(cluster.kubectl().feed_text(&words, &list(0, 20))?.contains("weft-proxy").then_some(()))
        })?;
        let (before, own_before) = (server(cluster)?, injectors(cluster)?);
        let made = cluster.kubectl().feed_text(&words, &list(20, 20 + PODS))?;
        let made = made.matches("\"name\": \"weft-proxy\"").count();
        ensure!(made == PODS, "{made} of {PODS} pods were injected");
        let after = server(cluster)?.since(&before);
        // Each by itself: two replicas have series of the same names.
        let own: Vec<Metrics> =
            injectors(cluster)?.iter().zip(&own_before).map(|(new, old)| new.since(old)).collect();
        let own = Metrics::merged(&own);
        let count = after.sum(&format!("{SERVER}_count"), &labels);
        let injected = own.sum(&format!("{OWN}_count"), &[]);
        let all = PODS as f64;
        ensure!(count >= all && injected >= all, "the API server counts {count}, the injectors {injected}");
        tell("admission, as the API server waited for it", &after, SERVER, &labels);
        tell("admission, in the injector itself", &own, OWN, &[]);
        Ok(())
    });
}
