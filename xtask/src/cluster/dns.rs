//! The cluster's DNS: CoreDNS in a pod, and the proof that it answers.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::control;
use super::launch::{Cluster, HOLDER, enter};
use super::plan::{API_SERVICE, DNS_SERVICE};
use crate::{process, setup};

/// The Deployment, its permissions and its Service.
const OBJECTS: &str = include_str!("../../../tests/cluster/coredns.yaml");
/// How long from the node being ready to an answer.
const READY: Duration = Duration::from_secs(90);

/// Creates the objects.
pub(crate) fn deploy(cluster: &Cluster) -> Result<()> {
    control::create(cluster, "coredns.yaml", OBJECTS)
}

/// Waits until every node gets an answer from the service's virtual address: then the API server, the scheduler, the
/// kubelet, the images, the network of pods, kube-proxy and CoreDNS all do what they are for.
pub(crate) fn await_answer(cluster: &Cluster) -> Result<()> {
    let busybox = setup::find_program("busybox").context("busybox is not installed")?;
    for number in cluster.state.plan.numbers() {
        let holder = cluster.state.daemon(HOLDER, number)?.process.pid;
        let outcome = cluster.wait("an answer from CoreDNS", ("kubelet", number), READY, || {
            let mut command = process::command(&enter(holder));
            command.args(["timeout", "2"]).arg(&busybox).args([
                "nslookup",
                "-type=a",
                "kubernetes.default.svc.cluster.local",
                DNS_SERVICE,
            ]);
            Ok(process::text(&mut command).is_ok_and(|text| answers(&text)))
        });
        outcome.map_err(|error| {
            let mut kubectl = cluster.kubectl().ok();
            let pods = kubectl.as_mut().and_then(|kubectl| {
                let words = ["get", "pods,events", "--all-namespaces", "--request-timeout=5s"];
                process::text(kubectl.args(words)).ok()
            });
            anyhow!("{error:#}\nPods and events:\n{}", pods.unwrap_or_default())
        })?;
    }
    Ok(())
}

/// Whether the output of `nslookup` has the API server's service as its answer.
fn answers(text: &str) -> bool {
    let after_name = text.split_once("Name:").map_or("", |(_, rest)| rest);
    after_name.split_whitespace().any(|word| word == API_SERVICE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_counts() {
        let head = "Server:\t\t10.96.0.1\nAddress:\t10.96.0.1:53\n\n";
        assert!(!answers(&format!("{head}** server can't find kubernetes.default: NXDOMAIN\n")));
        let name = "Name:\tkubernetes.default.svc.cluster.local\n";
        assert!(answers(&format!("{head}{name}Address: 10.96.0.1\n")));
        assert!(!answers(&format!("{head}{name}Address: 10.96.0.11\n")));
    }

    #[test]
    fn the_objects_name_what_is_there() {
        assert!(OBJECTS.contains(&format!("image: {}\n", super::super::images::COREDNS)));
        assert!(OBJECTS.contains(&format!("clusterIP: {DNS_SERVICE}\n")));
    }
}
