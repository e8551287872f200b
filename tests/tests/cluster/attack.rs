//! One pod attacks everything of Weft that it can reach, by all means at once, and nobody else notices.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_testbed::cluster::{Cluster, Namespace, WEFT_NAMESPACE, Workload, cluster_story, figure};
use weft_testbed::{eventually, rest};

use crate::SOON;

/// Requests a second that the other namespace serves meanwhile.
const RATE: u32 = 200;
/// What one round of deployments may take; it ends the attack's watch late at the most by this.
const LOOK: Duration = Duration::from_secs(1);
/// The chart's `control.resources.limits.memory`.
const CONTROL_MEMORY: f64 = 1024.0 * 1024.0 * 1024.0;
/// The chart's `injector.resources.limits.memory`, of each sidecar.
const PROXY_MEMORY: f64 = 256.0 * 1024.0 * 1024.0;

/// Longer, and with certificates that last a minute, by `cargo xtask cluster e2e --long`.
fn is_long() -> bool {
    std::env::var_os("WEFT_LONG").is_some()
}

/// What a namespace's own people may do in it, and no more: Services.
fn rights(namespace: Namespace<'_>) -> Result<()> {
    let api = "rbac.authorization.k8s.io";
    namespace.apply_object(json!({
        "apiVersion": format!("{api}/v1"), "kind": "Role", "metadata": { "name": "services" },
        "rules": [{ "apiGroups": [""], "resources": ["services"], "verbs": ["create", "patch", "get", "list"] }],
    }))?;
    namespace.apply_object(json!({
        "apiVersion": format!("{api}/v1"), "kind": "RoleBinding", "metadata": { "name": "services" },
        "roleRef": { "apiGroup": api, "kind": "Role", "name": "services" },
        "subjects": [{ "kind": "ServiceAccount", "name": "attacker", "namespace": namespace.name() }],
    }))
}

/// The attacker: no sidecar, no capability, a token of its own for the CA as every pod may ask for, and half a processor. With
/// all of it, it would be the machine that is attacked, and not Weft.
fn attacker(namespace: Namespace<'_>, seconds: u64, services: u32, pods: &str) -> Workload {
    let (seconds, services) = (seconds.to_string(), services.to_string());
    let (ca, injector) =
        (format!("weft-ca.{WEFT_NAMESPACE}:15012"), format!("weft-injector.{WEFT_NAMESPACE}:443"));
    let account = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let words = [
        ["--seconds", &seconds],
        ["--ca", &ca],
        ["--token", "/own/token"],
        ["--injector", &injector],
        ["--api", "kubernetes.default.svc:443"],
        ["--api-token", account],
        ["--namespace", namespace.name()],
        ["--services", &services],
        ["--pods", pods],
    ];
    let words: Vec<&str> = ["attack"].into_iter().chain(words.into_iter().flatten()).collect();
    let deadline = seconds.parse::<u64>().unwrap_or_default() + 120;
    Workload::job("attacker")
        .label("weft.dev/inject", "disabled")
        .container("app", &words, |container| {
            container["volumeMounts"] = json!([{ "name": "own", "mountPath": "/own" }]);
            // What it asks for is its weight where processors are scarce: as little as a proxy does.
            container["resources"] =
                json!({ "requests": { "cpu": "10m" }, "limits": { "cpu": "500m", "memory": "512Mi" } });
        })
        .edit(|pod| {
            let token = json!({ "path": "token", "audience": "weft-ca", "expirationSeconds": 600 });
            let sources = json!([{ "serviceAccountToken": token }]);
            pod["spec"]["volumes"] = json!([{ "name": "own", "projected": { "sources": sources } }]);
            pod["spec"]["automountServiceAccountToken"] = true.into();
            // Whatever becomes of the story, this ends.
            pod["spec"]["activeDeadlineSeconds"] = deadline.into();
        })
}

/// The pods of a namespace by name, with how often each of their containers was restarted.
fn restarts(namespace: Namespace<'_>) -> Result<BTreeMap<String, u64>> {
    let mut pods = namespace.pods("")?;
    // Of the roll-out before.
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let counted = pods.iter().map(|pod| {
        let lists = ["containerStatuses", "initContainerStatuses"];
        let all = lists.iter().flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
        let count = all.filter_map(|container| container["restartCount"].as_u64()).sum();
        (pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(), count)
    });
    Ok(counted.collect())
}

/// The most memory that was seen, and what the pods count.
struct Watched<'a> {
    namespace: Namespace<'a>,
    most: f64,
}

impl<'a> Watched<'a> {
    fn new(namespace: Namespace<'a>) -> Self {
        Self { namespace, most: 0.0 }
    }

    /// Looks at pods once; one that is ending or has just begun does not answer.
    fn look(&mut self, selector: &str) -> Result<()> {
        for pod in self.namespace.pod_names_of(selector)? {
            if let Ok(metrics) = self.namespace.metrics(&pod) {
                self.most = self.most.max(metrics.sum("process_resident_memory_bytes", &[]));
            }
        }
        Ok(())
    }
}

/// What all replicas of the control part count together.
fn control(cluster: &Cluster, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let control = cluster.existing(WEFT_NAMESPACE);
    control.pod_names_of("")?.iter().map(|pod| Ok(control.metrics(pod)?.sum(name, labels))).sum()
}

/// Deployments that come, are rolled and go on while the attack lasts; how many pods that were.
fn deploy(
    namespace: Namespace<'_>,
    until: Instant,
    mut each: impl FnMut() -> Result<()>,
) -> Result<Vec<String>> {
    let mut made = Vec::new();
    loop {
        let name = format!("fresh-{}", made.len());
        namespace.apply(&Workload::deployment(&name).app("http", 8080).service(80, 8080))?;
        namespace.ready(&[&name])?;
        namespace.run(&["rollout", "restart", "deployment/orders"])?;
        namespace.rolled("deployment/orders")?;
        made.push(name);
        each()?;
        if Instant::now() >= until {
            return Ok(made);
        }
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn one_pod_attacks_by_all_means_and_nobody_else_notices() {
    cluster_story("attack", |cluster| {
        let (seconds, services) = if is_long() { (120, 4_000) } else { (20, 600) };
        // At the half of a minute a proxy asks for another certificate, and has none if it has not got one after the other half.
        let values: &[&str] = if is_long() { &["ca.leafLifetime=1m"] } else { &[] };
        cluster.install(values)?;
        let own = cluster.existing(WEFT_NAMESPACE);
        let before = restarts(own)?;
        let shop = cluster.namespace("attacked", &[("weft.dev/inject", "enabled")])?;
        let foul = cluster.namespace("attacker", &[("weft.dev/inject", "enabled")])?;
        shop.apply(&Workload::deployment("orders").replicas(2).app("http", 8080).service(80, 8080))?;
        shop.apply(&Workload::deployment("client").client())?;
        // By what the attacker finds its victims: every pod of the deployment, also while it is rolled.
        shop.apply_object(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "everyone" },
            "spec": { "clusterIP": "None", "selector": { "app": "orders" }, "ports": [{ "port": 8080 }] },
        }))?;
        shop.ready(&["orders", "client"])?;
        shop.strict(&["orders"])?;
        let load = shop.load("steady", "http://orders/").rate(RATE).connections(16).start()?;

        foul.apply(&Workload::deployment("own").client())?;
        rights(foul)?;
        let signed = control(cluster, "weft_ca_signatures_total", &[("outcome", "signed")])?;
        foul.apply(&attacker(foul, seconds, services, "everyone.attacked"))?;
        started(foul)?;
        let until = Instant::now() + Duration::from_secs(seconds);
        let (mut ours, mut theirs) = (Watched::new(own), Watched::new(shop));
        let made = deploy(shop, until, || {
            ours.look("")?;
            theirs.look("")
        })?;
        while Instant::now() < until {
            ours.look("")?;
            theirs.look("")?;
            rest(LOOK);
        }
        foul.wait("job/attacker", "condition=complete")?;
        let attack: BTreeMap<String, u64> = serde_json::from_str(
            foul.logs("job/attacker", "app")?.lines().last().context("the attacker has said nothing")?,
        )
        .context("what the attacker has said")?;
        ours.look("")?;
        theirs.look("")?;
        let signed = control(cluster, "weft_ca_signatures_total", &[("outcome", "signed")])? - signed;
        let limited = control(cluster, "weft_ca_limited_total", &[])?;
        tell(&attack, &ours, &theirs, signed, &made);

        // Nobody has noticed.
        load.stop()?.all_ok(u64::from(RATE) * seconds * 3 / 4)?;
        shop.all_injected(&["orders", "client", "steady"], true)?;
        shop.all_injected(&made.iter().map(String::as_str).collect::<Vec<_>>(), true)?;
        for (pod, count) in restarts(shop)? {
            ensure!(count == 0, "{pod} was restarted {count} times");
        }
        ensure!(restarts(own)? == before, "before {before:?}, now {:?}", restarts(own)?);
        ensure!(ours.most > 0.0 && ours.most < CONTROL_MEMORY, "weft-control had {} octets", ours.most);
        ensure!(theirs.most > 0.0 && theirs.most < PROXY_MEMORY, "a proxy had {} octets", theirs.most);
        // What was made during the attack is in the mesh as everything else.
        let last = made.last().context("nothing was deployed")?;
        let answer = shop.serves("deploy/client", &format!("http://{last}/"))?;
        let caller = &answer.json()["headers"]["x-forwarded-client-cert"];
        ensure!(!caller.is_null(), "{last} was called without mutual TLS: {}", answer.body);
        // One for each pod that began, at the least; and it was an attack.
        ensure!(signed >= made.len() as f64 * 2.0, "{signed} certificates");
        ensure!(limited > 0.0, "the CA has turned nobody down");
        attacked(&attack)?;
        if is_long() {
            renewed(shop)?;
        }
        Ok(())
    });
}

/// Whether the attacker's pod has begun, or is over already.
fn started(namespace: Namespace<'_>) -> Result<()> {
    eventually("the attacker to begin", SOON, || {
        let pods = namespace.pods("app=attacker")?;
        Ok(pods.iter().any(|pod| pod["status"]["phase"] != "Pending").then_some(()))
    })
}

fn tell(
    attack: &BTreeMap<String, u64>,
    ours: &Watched<'_>,
    theirs: &Watched<'_>,
    signed: f64,
    made: &[String],
) {
    let mib = |octets: f64| format!("{:.0} MiB at most", octets / 1024.0 / 1024.0);
    for (what, count) in attack {
        figure(&format!("attack: {what}"), count);
    }
    figure("attacked: memory of a replica of weft-control", mib(ours.most));
    figure("attacked: memory of a proxy", mib(theirs.most));
    figure("attacked: certificates signed", signed);
    figure("attacked: deployments made and rolled", made.len());
}

/// Each means came to something: else nothing was shown.
fn attacked(attack: &BTreeMap<String, u64>) -> Result<()> {
    let count = |what: &str| attack.get(what).copied().unwrap_or_default();
    for (what, least) in [
        // After a few of them the CA hears nothing of this address for a while.
        ("ca forged tokens sent", 3),
        ("ca silent TLS open", 100),
        ("ca own streams", 10),
        ("injector silent TLS open", 500),
        ("injector half a head open", 32),
        ("injector reviews sent", 5),
        ("proxy held", 100),
        ("metrics answers", 20),
        ("health answers", 20),
        ("datagrams sent", 20),
        ("services made", 20),
    ] {
        ensure!(count(what) >= least, "{what}: {}, {least} expected of {attack:?}", count(what));
    }
    Ok(())
}

/// The pods that were there all the time have renewed their certificates meanwhile.
fn renewed(shop: Namespace<'_>) -> Result<()> {
    for workload in ["client", "steady"] {
        for pod in shop.pod_names(workload)? {
            let renewals = shop.metrics(&pod)?.sum("weft_certificate_renewals_total", &[("outcome", "ok")]);
            ensure!(renewals >= 2.0, "{pod} has renewed its certificate {renewals} times");
            figure("attacked: renewals of one proxy", renewals);
        }
    }
    Ok(())
}
