//! Somebody else's workload behind a service's address: whoever can write a list of endpoints cannot become the service.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_testbed::cluster::{Namespace, Workload, cluster_story};
use weft_testbed::eventually;

use crate::SOON;

const MESHED: &[(&str, &str)] = &[("weft.dev/inject", "enabled")];

/// Puts an address behind a Service, beside what Kubernetes itself put there.
fn place(namespace: Namespace<'_>, service: &str, port_name: &str, address: &str) -> Result<()> {
    namespace.apply_object(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": format!("{service}-placed"), "labels": { "kubernetes.io/service-name": service } },
        "ports": [{ "name": port_name, "port": 8080, "protocol": "TCP" }],
        "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
    }))
}

/// What of a pod's application was asked, by HTTP and by TCP, as its sidecar counts it.
fn served(namespace: Namespace<'_>, workload: &str) -> Result<f64> {
    let metrics = namespace.metrics(&namespace.pod_name(workload)?)?;
    Ok(metrics.sum("http_server_request_duration_seconds_count", &[])
        + metrics.sum("weft_tcp_connections_opened_total", &[("direction", "inbound")]))
}

fn address(namespace: Namespace<'_>, workload: &str) -> Result<String> {
    let pod = namespace.get("pod", &namespace.pod_name(workload)?)?;
    Ok(pod["status"]["podIP"].as_str().context("no address")?.to_owned())
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn another_namespaces_workload_cannot_stand_in_for_a_service() {
    cluster_story("foreign", |cluster| {
        cluster.install(&[])?;
        let bank = cluster.namespace("bank", MESHED)?;
        // Strict from the start: nothing of this is about moving in.
        bank.annotate("weft.dev/mode=strict")?;
        bank.apply(&Workload::deployment("vault").app("http", 8080).service(80, 8080))?;
        bank.apply(&Workload::deployment("ledger").app("http", 8080).headless(8080))?;
        bank.apply(&Workload::deployment("client").client())?;
        let den = cluster.namespace("den", MESHED)?;
        // It takes whatever comes, so that it is the client who has to refuse.
        den.apply(&Workload::deployment("mallory").app("http", 8080))?;
        let strict = Workload::deployment("careful").app("http", 8080);
        den.apply(&strict.annotate("weft.dev/mode", "strict"))?;
        bank.ready(&["vault", "ledger", "client"])?;
        den.ready(&["mallory", "careful"])?;
        bank.serves("deploy/client", "http://vault/deposit")?;
        bank.serves("deploy/client", "http://ledger:8080/entry")?;
        bank.strict(&["vault", "ledger"])?;

        // The services' own pods go, and mallory's address is what DNS and the virtual IP then lead to.
        let mallory = address(den, "mallory")?;
        for service in ["vault", "vault-endpoints"] {
            place(bank, service, "p80", &mallory)?;
        }
        place(bank, "ledger", "p8080", &mallory)?;
        bank.scale("vault", 0)?;
        bank.scale("ledger", 0)?;
        for url in ["http://vault/deposit", "http://ledger:8080/entry"] {
            eventually(&format!("{url} to be refused for who answers"), SOON, || {
                let answer = bank.http("deploy/client", url)?;
                ensure!(answer.status >= 500, "{url} was answered: {answer:?}");
                Ok((answer.header("weft-error") == "identity-mismatch").then_some(()))
            })?;
        }
        let client = bank.pod_name("client")?;
        let log = bank.logs(&format!("pod/{client}"), "weft-proxy")?;
        let told = |line: &&str| {
            line.contains("no mesh link")
                && line.contains("ns/den/sa/mallory")
                && line.contains("expected spiffe://weft.local/ns/bank/")
        };
        ensure!(log.lines().any(|line| told(&line)), "the client's log does not say why: {log}");
        let errors = bank.metrics(&client)?.sum("weft_errors_total", &[("code", "identity-mismatch")]);
        ensure!(errors >= 2.0, "{errors} errors were counted");
        ensure!(served(den, "mallory")? == 0.0, "something came to mallory's application");

        // A Service without a selector is outside of the mesh: nothing is asked of who answers, and nothing is said in the
        // mesh's name. A strict workload refuses such callers.
        bank.apply_object(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "branch" },
            "spec": { "ports": [{ "name": "p80", "port": 80, "targetPort": 8080 }] },
        }))?;
        place(bank, "branch", "p80", &address(den, "careful")?)?;
        let pod = den.pod_name("careful")?;
        eventually("the workload behind it to refuse", SOON, || {
            let answer = bank.http("deploy/client", "http://branch/deposit");
            ensure!(!answer.as_ref().is_ok_and(|answer| answer.status < 500), "it was answered: {answer:?}");
            Ok((den.plaintext(&pod)?.refused > 0.0).then_some(()))
        })?;
        ensure!(served(den, "careful")? == 0.0, "something came to its application");
        Ok(())
    });
}
