//! Every kind of workload that a cluster has, in the mesh.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use weft_testbed::cluster::{Workload, cluster_story, figure, objects_of};
use weft_testbed::eventually;

use crate::SOON;

const MESHED: &[(&str, &str)] = &[("weft.dev/inject", "enabled")];

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn jobs_complete_and_init_containers_have_the_network() {
    cluster_story("jobs", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("jobs", MESHED)?;
        namespace.apply(&Workload::deployment("orders").app("http", 8080).service(80, 8080))?;
        namespace.ready(&["orders"])?;
        let get = ["get", "http://orders/hello"];

        let job = Workload::job("once").init("before", &get).container("app", &get, |_| {});
        namespace.apply(&job)?;
        let start = std::time::Instant::now();
        namespace.wait("job/once", "condition=complete")?;
        figure("seconds until a job with a sidecar was complete", start.elapsed().as_secs());
        let pods = namespace.pods("app=once")?;
        let pod = pods.first().context("the job has no pod")?;
        ensure!(pod["status"]["phase"] == "Succeeded", "{}", pod["status"]);
        for container in ["before", "app"] {
            let said = namespace.logs("job/once", container)?;
            ensure!(said.contains("\"status\":200"), "{container} got {said}");
            // The sidecar was there: the server's knows who called.
            ensure!(said.contains("ns/jobs/sa/once"), "{container} came without a name: {said}");
        }

        namespace.apply(&Workload::cron_job("tick").container("app", &get, |_| {}))?;
        let done = eventually("a job of the cron job to be complete", Duration::from_secs(180), || {
            let jobs = namespace.cluster().kubectl().list(namespace.name(), "jobs", "")?;
            let mine = jobs.iter().filter(|job| job["metadata"]["ownerReferences"][0]["name"] == "tick");
            Ok(mine.filter(|job| job["status"]["succeeded"] == 1).count().checked_sub(1))
        });
        done.map(drop)
    });
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn every_shape_of_pod_takes_part() {
    cluster_story("shapes", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("shapes", MESHED)?;
        namespace.apply(&Workload::deployment("client").client())?;
        namespace.apply(&Workload::stateful_set("db").replicas(2).app("http", 8080).headless(8080))?;
        let second = ["serve", "http", "--port", "8081", "--name", "second"];
        namespace.apply(
            &Workload::deployment("two").app("http", 8080).container("second", &second, |_| {}).service_of(
                80,
                8080,
                |service| {
                    let more = json!({ "name": "more", "port": 81, "targetPort": 8081 });
                    if let Some(ports) = service["spec"]["ports"].as_array_mut() {
                        ports.push(more);
                    }
                },
            ),
        )?;
        namespace.apply(&Workload::deployment("host").app("http", 18080).service(80, 18080).edit(|pod| {
            pod["spec"]["hostNetwork"] = true.into();
        }))?;
        namespace.ready(&["client", "two", "host"])?;
        namespace.rolled("statefulset/db")?;

        for pod in ["db-0", "db-1"] {
            // A name that nobody has used yet is permissive at first: named as soon as its pods are known to everybody.
            let url = format!("http://{pod}.db:8080/x");
            eventually(&format!("mutual TLS with {pod} by its own name"), SOON, || {
                let answer = namespace.serves("deploy/client", &url)?;
                ensure!(answer.json()["server"] == pod, "{pod}: {}", answer.body);
                let caller = answer.json()["headers"]["x-forwarded-client-cert"].to_string();
                Ok(caller.contains("sa/client").then_some(()))
            })?;
        }
        let first = namespace.serves("deploy/client", "http://two/x")?;
        let other = namespace.serves("deploy/client", "http://two:81/x")?;
        ensure!(first.json()["server"] != "second" && other.json()["server"] == "second", "{other:?}");
        let own = namespace.serves("deploy/two", "http://two/own")?;
        ensure!(own.status == 200, "a pod that calls its own ClusterIP: {own:?}");
        let cluster_ip =
            namespace.get("service", "two")?["spec"]["clusterIP"].as_str().context("no IP")?.to_owned();
        let by_address = namespace.http("deploy/two", &format!("http://{cluster_ip}/own"))?;
        ensure!(by_address.status == 200, "the same by address: {by_address:?}");
        namespace.all_injected(&["host"], false)?;
        let host = namespace.serves("deploy/client", "http://host/x")?;
        ensure!(host.status == 200, "{host:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn a_pod_that_would_be_the_proxy_is_refused() {
    cluster_story("refused", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("refused", MESHED)?;
        let refused = |workload: &Workload, words: &[&str]| -> anyhow::Result<()> {
            let objects = objects_of(workload, namespace.name());
            cluster.kubectl().apply(&objects[..1])?;
            let pod = objects.last().context("no pod")?;
            let Err(error) = cluster.kubectl().create(pod) else { anyhow::bail!("{words:?}: it was let in") };
            let said = format!("{error:#}");
            ensure!(words.iter().all(|word| said.contains(word)), "not clear: {said}");
            Ok(())
        };
        let pod = || Workload::pod("sly").app("http", 8080);
        refused(&pod().edit(|pod| pod["spec"]["securityContext"] = json!({ "runAsUser": 2102 })), &["2102"])?;
        refused(
            &pod().edit(|pod| pod["spec"]["containers"][0]["securityContext"]["runAsUser"] = 2102.into()),
            &["2102", "app"],
        )?;
        refused(&pod().annotate("weft.dev/mod", "strict"), &["weft.dev/mod"])?;
        refused(&pod().annotate("weft.dev/mode", "harsh"), &["weft.dev/mode", "harsh", "strict"])?;

        // What the injected init container needs, the restricted level forbids: the answer says so, and who asked for it.
        let restricted = cluster.namespace(
            "restricted",
            &[("weft.dev/inject", "enabled"), ("pod-security.kubernetes.io/enforce", "restricted")],
        )?;
        let objects = objects_of(&pod(), restricted.name());
        cluster.kubectl().apply(&objects[..1])?;
        let Err(error) = cluster.kubectl().create(objects.last().context("no pod")?) else {
            anyhow::bail!("a restricted namespace took it");
        };
        let said = format!("{error:#}");
        ensure!(said.contains("weft-init") && said.contains("NET_ADMIN"), "not clear: {said}");
        Ok(())
    });
}

/// Pods whose servers do not know the cluster's names, that a quota counts, or that have resources as a whole; and one that
/// asks in another mesh's word.
#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn pods_with_conditions_of_their_own_come_up() {
    cluster_story("conditions", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("conditions", MESHED)?;
        let with = |name: &str, key: &'static str, value: serde_json::Value| {
            Workload::deployment(name).app("http", 8080).edit(move |pod| pod["spec"][key] = value)
        };
        namespace.apply(&with("node-dns", "dnsPolicy", "Default".into()))?;
        let own = with("own-dns", "dnsPolicy", "None".into());
        namespace
            .apply(&own.edit(|pod| pod["spec"]["dnsConfig"] = json!({ "nameservers": ["192.0.2.1"] })))?;
        // Where the cluster does not know them yet it takes them out, and there is nothing to fit into.
        let whole =
            json!({ "requests": { "cpu": "20m", "memory": "64Mi" }, "limits": { "memory": "512Mi" } });
        namespace.apply(&with("whole", "resources", whole))?;
        let names = ["node-dns", "own-dns", "whole"];
        namespace.ready(&names)?;
        namespace.all_injected(&names, true)?;

        let counted = cluster.namespace("counted", MESHED)?;
        counted.apply_object(json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "cpu" },
            "spec": { "hard": { "limits.cpu": "4" } },
        }))?;
        let limited = Workload::deployment("limited").app("http", 8080).edit(|pod| {
            pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "100m".into();
        });
        let limited =
            limited.annotate("weft.dev/proxy-cpu-limit", "500m").annotate("weft.dev/init-cpu-limit", "100m");
        counted.apply(&limited)?;
        counted.ready(&["limited"])?;
        counted.all_injected(&["limited"], true)?;

        let unlabelled = cluster.namespace("unlabelled", &[])?;
        unlabelled.apply(&Workload::deployment("asks").app("http", 8080).label("weft.dev/inject", "true"))?;
        unlabelled.ready(&["asks"])?;
        unlabelled.all_injected(&["asks"], true)
    });
}
