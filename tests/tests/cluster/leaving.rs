//! Another way in, another version, and the way out.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use weft_testbed::cluster::{Cluster, Shop, WEFT_NAMESPACE, cluster_story, figure};
use weft_testbed::eventually;

use crate::SOON;

/// Everything there is, but for what the cluster writes by itself all the time.
fn listing(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let kinds = cluster.kubectl().run(&["api-resources", "--verbs=list", "-o", "name"])?;
    let noise = [
        "events",
        "leases.coordination",
        "endpointslices",
        "componentstatuses",
        "endpoints",
        "podmetrics",
        "nodemetrics",
    ];
    let kinds: Vec<&str> =
        kinds.lines().filter(|kind| !noise.iter().any(|noise| kind.starts_with(noise))).collect();
    let words = ["get", &kinds.join(","), "-A", "-o"];
    let form =
        r#"jsonpath={range .items[*]}{.kind}{"/"}{.metadata.namespace}{"/"}{.metadata.name}{"\n"}{end}"#;
    let all = cluster.kubectl().run(&[&words[..], &[form]].concat())?;
    Ok(all.lines().map(str::to_owned).collect())
}

/// Removed at last by whoever removes it: compared until nothing is left.
fn nothing_left(cluster: &Cluster, before: &BTreeSet<String>) -> Result<()> {
    let mut left = Vec::new();
    eventually("nothing to be left", SOON, || {
        left = listing(cluster)?.difference(before).cloned().collect();
        Ok(left.is_empty().then_some(()))
    })
    .map_err(|error| error.context(format!("left: {left:#?}")))
}

/// Without Weft, whatever an earlier story left.
fn without(cluster: &Cluster) -> Result<BTreeSet<String>> {
    // A story of Helm that failed left its release, and a namespace that Helm made.
    let _ = cluster.helm(&["uninstall", "weft", "--namespace", WEFT_NAMESPACE, "--no-hooks"]);
    let _ = cluster.weft(&["uninstall", "--force"])?;
    cluster.kubectl().run(&[
        "delete",
        "namespace",
        WEFT_NAMESPACE,
        "--ignore-not-found",
        "--timeout=120s",
    ])?;
    eventually("Weft's namespace to be gone", Duration::from_secs(120), || {
        let gone = cluster.kubectl().run(&[
            "get",
            "namespace",
            WEFT_NAMESPACE,
            "--ignore-not-found",
            "-o",
            "name",
        ])?;
        Ok(gone.is_empty().then_some(()))
    })?;
    // Namespaces of earlier stories that are on their way out must not be in one listing and not in the other.
    eventually("earlier stories' namespaces to be gone", SOON, || {
        let namespaces = cluster.kubectl().list("", "namespaces", "")?;
        Ok(namespaces.iter().all(|namespace| namespace["status"]["phase"] == "Active").then_some(()))
    })?;
    listing(cluster)
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn weft_uninstall_leaves_nothing() {
    cluster_story("uninstall", |cluster| {
        let before = without(cluster)?;
        cluster.install(&[])?;
        let namespace = cluster.namespace("leaving", &[("weft.dev/inject", "enabled")])?;
        Shop::open(namespace)?;
        let refused = cluster.weft(&["uninstall"])?;
        ensure!(!refused.status.success(), "pods with sidecars run: {refused:?}");
        namespace.label("weft.dev/inject-")?;
        namespace.restart(&[&Shop::ALL[..], &["client"]].concat())?;
        let done = cluster.weft(&["uninstall"])?.ok()?;
        figure("weft uninstall", done.stdout.replace('\n', "; "));
        cluster.kubectl().run(&["delete", "namespace", "leaving", "--timeout=120s"])?;
        nothing_left(cluster, &before)
    });
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn helm_installs_and_uninstalls() {
    cluster_story("helm", |cluster| {
        let before = without(cluster)?;
        by_helm(cluster, "install")?;
        cluster.injector_answers()?;
        let namespace = cluster.namespace("by-helm", &[("weft.dev/inject", "enabled")])?;
        let shop = Shop::open(namespace)?;
        namespace.all_injected(&Shop::ALL, true)?;
        namespace.serves("deploy/client", &shop.url())?;
        cluster.kubectl().run(&["delete", "namespace", "by-helm", "--timeout=120s"])?;
        out_by_helm(cluster)?;
        nothing_left(cluster, &before)
    });
}

/// `helm install` or `helm upgrade` of the chart with the image under test.
fn by_helm(cluster: &Cluster, action: &str) -> Result<String> {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/weft");
    let (repository, tag) = cluster.image().rsplit_once(':').unwrap_or((cluster.image(), "latest"));
    let values = [format!("image.repository={repository}"), format!("image.tag={tag}")];
    let mut words = vec![action, "weft", chart, "--set", &values[0], "--set", &values[1]];
    words.extend(["--namespace", WEFT_NAMESPACE, "--wait", "--timeout", "3m"]);
    if action == "install" {
        words.push("--create-namespace");
    }
    cluster.helm(&words)
}

fn out_by_helm(cluster: &Cluster) -> Result<()> {
    cluster.helm(&["uninstall", "weft", "--namespace", WEFT_NAMESPACE, "--wait"])?;
    // Helm made the namespace by --create-namespace, and never removes it.
    cluster.kubectl().run(&["delete", "namespace", WEFT_NAMESPACE, "--timeout=120s"]).map(drop)
}

/// Helm notes that a release is being uninstalled before it asks whether it may be. What the refusal then says is what
/// makes the release whole again, and after that it can be upgraded, and uninstalled once it may be.
#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn a_refused_helm_uninstall_says_how_to_go_on() {
    cluster_story("helm-refused", |cluster| {
        let before = without(cluster)?;
        by_helm(cluster, "install")?;
        cluster.injector_answers()?;
        let namespace = cluster.namespace("by-helm", &[("weft.dev/inject", "enabled")])?;
        let shop = Shop::open(namespace)?;
        let Err(refused) = cluster.helm(&["uninstall", "weft", "--namespace", WEFT_NAMESPACE, "--wait"])
        else {
            bail!("pods with sidecars run, and Helm has uninstalled");
        };
        let told = cluster.kubectl().run(&["logs", "-n", WEFT_NAMESPACE, "job/weft-uninstall-check"])?;
        let cure = "helm rollback weft 1 --namespace weft-system";
        ensure!(told.trim_end().ends_with(cure), "the Job's log is {told}");
        figure("Helm itself shows the reason", format!("{refused:#}").contains(cure));
        namespace.serves("deploy/client", &shop.url())?;

        cluster.helm(&["rollback", "weft", "1", "--namespace", WEFT_NAMESPACE, "--wait"])?;
        by_helm(cluster, "upgrade")?;
        cluster.kubectl().run(&["delete", "namespace", "by-helm", "--timeout=120s"])?;
        out_by_helm(cluster)?;
        nothing_left(cluster, &before)
    });
}
