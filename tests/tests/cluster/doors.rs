//! Who may come in, and what of the outside can be reached.

use anyhow::ensure;
use serde_json::json;
use weft_testbed::cluster::{Workload, cluster_story};
use weft_testbed::eventually;

use crate::SOON;

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn plaintext_is_served_or_refused_as_the_mode_says() {
    cluster_story("doors", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("doors", &[("weft.dev/inject", "enabled")])?;
        let outside = cluster.namespace("doors-outside", &[])?;
        namespace.apply(&Workload::deployment("orders").app("http", 8080).service(80, 8080))?;
        let strict = Workload::deployment("vault").app("http", 8080).service(80, 8080);
        namespace.apply(&strict.annotate("weft.dev/mode", "strict"))?;
        outside.apply(&Workload::deployment("client").client())?;
        namespace.ready(&["orders", "vault"])?;
        outside.ready(&["client"])?;

        let served = outside.serves("deploy/client", "http://orders.doors/in-the-clear")?;
        ensure!(served.json()["headers"]["x-forwarded-client-cert"].is_null(), "{}", served.body);
        let pod = namespace.pod_name("orders")?;
        ensure!(namespace.plaintext(&pod)?.served > 0.0, "permissive: {:?}", namespace.plaintext(&pod)?);

        let pod = namespace.pod_name("vault")?;
        let answer = outside.http("deploy/client", "http://vault.doors/no-mark-of-this");
        ensure!(answer.is_err(), "a strict pod answered plaintext: {answer:?}");
        ensure!(namespace.plaintext(&pod)?.refused > 0.0, "strict: {:?}", namespace.plaintext(&pod)?);
        let metrics = namespace.metrics(&pod)?;
        let requests = metrics.sum("http_server_request_duration_seconds_count", &[]);
        ensure!(requests == 0.0, "{requests} requests came to the application");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn what_is_outside_can_be_reached() {
    cluster_story("outward", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("outward", &[("weft.dev/inject", "enabled")])?;
        let outside = cluster.namespace("outward-outside", &[])?;
        outside.apply(&Workload::deployment("legacy").app("http", 8080).service(80, 8080))?;
        namespace.apply(&Workload::deployment("client").client().edit(|pod| {
            pod["spec"]["automountServiceAccountToken"] = true.into();
        }))?;
        namespace.apply_object(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "alias" },
            "spec": { "type": "ExternalName", "externalName": "legacy.outward-outside.svc.cluster.local" },
        }))?;
        outside.ready(&["legacy"])?;
        namespace.ready(&["client"])?;
        let answer = namespace.serves("deploy/client", "http://legacy.outward-outside/x")?;
        ensure!(answer.status == 200, "{answer:?}");
        eventually("the ExternalName to work", SOON, || {
            let answer = namespace.http("deploy/client", "http://alias/x");
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })?;
        // TLS of the application's own, untouched.
        let url = "https://kubernetes.default.svc/version";
        let said = namespace.exec("deploy/client", &["/usr/bin/curl", "-sk", url])?;
        ensure!(said.stdout.contains("gitVersion"), "{said:?}");
        Ok(())
    });
}
