//! What `weft check`, `weft status` and `weft version` tell of a real cluster.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_testbed::cluster::{Cluster, Shop, Workload, cluster_story};
use weft_testbed::eventually;

use crate::SOON;

/// One finding of `weft check`, which may fail as a whole.
fn finding(cluster: &Cluster, id: &str) -> Result<Value> {
    let said = cluster.weft(&["check", "-o", "json"])?.stdout;
    let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let mut findings = report["checks"].as_array().into_iter().flatten();
    let found = findings.find(|finding| finding["id"] == id);
    found.cloned().with_context(|| format!("no {id} in {said}"))
}

/// Waits until a finding names all of `names` in its particulars.
fn names(cluster: &Cluster, id: &str, names: &[&str]) -> Result<Value> {
    let mut last = Value::Null;
    eventually(&format!("{id} to name {names:?}"), SOON, || {
        last = finding(cluster, id)?;
        let details = last["details"].to_string();
        Ok(names.iter().all(|name| details.contains(name)).then_some(()))
    })
    .with_context(|| format!("last: {last}"))?;
    Ok(last)
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn pods_that_a_quota_refuses_are_told_and_the_dry_run_is_made_elsewhere() {
    cluster_story("check", |cluster| {
        cluster.install(&[])?;
        // First by name, so that the dry run comes here first.
        let full = cluster.namespace("a-full", &[("weft.dev/inject", "enabled")])?;
        full.apply_object(json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "few" }, "spec": { "hard": { "pods": "0" } },
        }))?;
        let sized = cluster.namespace("sized", &[("weft.dev/inject", "enabled")])?;
        sized.apply_object(json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "compute" }, "spec": { "hard": { "limits.cpu": "4" } },
        }))?;
        sized.apply(&Workload::deployment("orders").app("http", 8080))?;
        sized.apply(&Workload::stateful_set("db").app("http", 8080))?;
        sized.apply(&Workload::job("nightly").app("http", 8080))?;

        let found = names(
            cluster,
            "namespaces.refusals",
            &[
                "deployment sized/orders",
                "statefulset sized/db",
                "job sized/nightly",
                "must specify limits.cpu",
            ],
        )?;
        ensure!(found["state"] == "failed", "{found}");
        ensure!(found["cure"].as_str().is_some_and(|cure| cure.contains("injector.resources")), "{found}");

        let shop = cluster.namespace("shop", &[("weft.dev/inject", "enabled")])?;
        let answers = names(cluster, "webhook.answers", &["not in a-full", "exceeded quota: few"])?;
        ensure!(answers["state"] == "ok", "{answers}");

        Shop::open(shop)?;
        let said = cluster.weft(&["status", "-n", "shop", "--window", "1s"])?.ok()?;
        ensure!(said.stderr.contains("sidecars twice, 1s apart"), "{}", said.stderr);
        let version = cluster.weft(&["version"])?.ok()?.stdout;
        let version = version.split(' ').nth(1).unwrap_or_default().to_owned();
        ensure!(said.stdout.contains("VERSION") && said.stdout.contains(&version), "{}", said.stdout);
        Ok(())
    });
}
