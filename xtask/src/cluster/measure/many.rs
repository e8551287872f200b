//! A larger mesh: what more pods and services cost those who have to know of them.
//!
//! They are objects without processes: a Node that no kubelet stands for, and pods on it that went through the injector
//! and have addresses, but never become ready. So their services stay permissive, which is the dearest state: every
//! proxy is told the address of each pod. Then the services are made strict, as they are in a mesh that has moved in.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::idle::{self, Idle};
use super::kube::{self, Kube};
use super::{NAMESPACE, SETTLE, SOON};
use crate::cluster::launch::Cluster;
use crate::process;

/// The namespace of the many.
const CROWD: &str = "measure-many";
/// The node that does not exist.
const NODE: &str = "measure-nowhere";

/// Before and after, in this order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Many {
    pub(super) pods: u32,
    pub(super) before: Idle,
    /// All services listed with the addresses of their pods.
    pub(super) permissive: Idle,
    /// None is listed.
    pub(super) strict: Idle,
    /// Bytes of `weft.yaml` in each of the three.
    pub(super) bytes: [usize; 3],
}

pub(super) fn measure(cluster: &Cluster, kube: &Kube<'_>, pods: u32, time: Duration) -> Result<Many> {
    // Whatever the measurements before this one left in its memory is not the crowd's.
    process::pause(SETTLE);
    let (before, start) = (idle::measure(cluster, kube, time)?, mesh(kube)?.len());
    make(kube, pods)?;
    process::wait_until("all pods to be told to proxies", SOON, || {
        let text = mesh(kube)?;
        Ok((0..pods).all(|number| text.contains(&format!("[{}]", address(number)))))
    })?;
    let full = mesh(kube)?.len();
    rest(kube)?;
    let permissive = idle::measure(cluster, kube, time)?;
    kube.run(&["annotate", "services", "-n", CROWD, "--all", "--overwrite", "weft.dev/mode=strict"])?;
    process::wait_until("nobody to be listed", SOON, || Ok(!mesh(kube)?.contains("name: crowd-")))?;
    let after = mesh(kube)?.len();
    rest(kube)?;
    let strict = idle::measure(cluster, kube, time)?;
    Ok(Many { pods, before, permissive, strict, bytes: [start, full, after] })
}

/// Takes away what was made here.
pub(super) fn clean(kube: &Kube<'_>) -> Result<()> {
    // No kubelet would say that they have ended.
    kube.run(&["delete", "pods", "-n", CROWD, "--all", "--force", "--grace-period=0", "--ignore-not-found"])?;
    kube.run(&["delete", "namespace", CROWD, "--ignore-not-found", "--timeout=120s"])?;
    kube.run(&["delete", "node", NODE, "--ignore-not-found"]).map(drop)
}

/// Waits until the kubelet has brought a change to the proxy, and the proxy has taken it.
fn rest(kube: &Kube<'_>) -> Result<()> {
    let version = || -> Result<String> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}:15020/proxy/metrics", super::IDLE);
        let metrics = kube.run(&["get", "--raw", &path])?;
        let line = metrics.lines().find(|line| line.starts_with("weft_config_version "));
        line.map(str::to_owned).context("the sidecar does not tell its configuration's version")
    };
    // The proxy counts its configurations; what came last is known when none has come for a while.
    let mut last = (version()?, std::time::Instant::now());
    process::wait_until("the sidecar's configuration to settle", SOON, || {
        process::pause(Duration::from_secs(1));
        let now = version()?;
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
        Ok(last.1.elapsed() > SETTLE)
    })
}

/// What the sidecar is told.
fn mesh(kube: &Kube<'_>) -> Result<String> {
    let object = kube.get(&["-n", NAMESPACE, "configmap", "weft-mesh"])?;
    Ok(object["data"]["weft.yaml"].as_str().context("weft-mesh has no weft.yaml")?.to_owned())
}

/// An address that no pod of the cluster has.
fn address(number: u32) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(10, 244, 100, 0)) + number)
}

fn make(kube: &Kube<'_>, pods: u32) -> Result<()> {
    kube.apply(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE }, "spec": {
        // Nothing of the cluster's own is to be put there.
        "unschedulable": true, "taints": [{ "key": "weft.dev/nowhere", "effect": "NoSchedule" }],
    }}))?;
    kube.meshed_namespace(CROWD)?;
    process::wait_until("the namespace to take pods", SOON, || {
        Ok(kube.get(&["-n", CROWD, "serviceaccount", "default"]).is_ok())
    })?;
    let mut objects = Vec::new();
    for number in 0..pods {
        let name = format!("crowd-{number}");
        objects.push(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": CROWD },
            "spec": { "selector": { "app": name }, "ports": [{ "port": 80, "targetPort": 8080 }] },
        }));
        objects.push(pod(&name));
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string();
    kube.feed(&["create"], &list)?;
    set_addresses(kube, pods)?;
    let made = kube.get(&["-n", CROWD, "pods"])?;
    let made = made["items"].as_array().context("no pods")?;
    let injected = made.iter().filter(|pod| pod["spec"]["initContainers"][1]["name"] == "weft-proxy").count();
    ensure!(injected == pods as usize, "{injected} of {pods} pods were injected");
    Ok(())
}

fn pod(name: &str) -> Value {
    let mut pod = kube::pod(name, true);
    pod["metadata"]["namespace"] = CROWD.into();
    pod["spec"]["nodeName"] = NODE.into();
    // Its node is never heard of, and that is no reason to remove it.
    pod["spec"]["tolerations"] = json!([{ "operator": "Exists" }]);
    pod
}

/// Says what a kubelet would say, by one curl for all of them.
fn set_addresses(kube: &Kube<'_>, pods: u32) -> Result<()> {
    let mut script = String::new();
    for number in 0..pods {
        let ip = address(number);
        let status = json!({ "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] } });
        // Each transfer has all of its options again: `next` forgets them.
        let _ = write!(
            script,
            "{}url = \"{}/api/v1/namespaces/{CROWD}/pods/crowd-{number}/status\"\nrequest = \"PATCH\"\n\
             header = \"content-type: application/merge-patch+json\"\ndata = {}\noutput = \"/dev/null\"\n{}fail\nsilent\n",
            if number > 0 { "next\n" } else { "" },
            kube.url(),
            Value::String(status.to_string()),
            kube.credentials(),
        );
    }
    let file = kube.file("addresses", &script)?;
    process::capture(std::process::Command::new("curl").args(["-K", &file])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_no_node() {
        assert_eq!(address(0).to_string(), "10.244.100.0");
        assert_eq!(address(999).to_string(), "10.244.103.231");
    }

    #[test]
    fn the_crowd_is_on_the_node_that_is_not_there() {
        let pod = pod("crowd-1");
        assert_eq!(
            (&pod["spec"]["nodeName"], &pod["metadata"]["labels"]["app"]),
            (&json!(NODE), &json!("crowd-1"))
        );
    }
}
