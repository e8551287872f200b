//! Memory and processor time of Weft's processes, as the kernel tells them.
//!
//! Memory is PSS, as in `cargo xtask bench`: a process's own pages, and its share of those that others map too, such as
//! the program itself, which all of Weft's processes on a node share. Its anonymous part is what none of them shares.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::kube::Kube;
use super::{IDLE, NAMESPACE, median};
use crate::bench::measure::{cpu_nanoseconds, pss_anon_kib, pss_kib};
use crate::cluster::launch::Cluster;
use crate::process;

/// Weft's own namespace.
pub(super) const SYSTEM: &str = "weft-system";
/// How often memory is looked at while processor time is counted.
const LOOKS: u32 = 6;

/// One process at rest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Proportional set size, MB.
    pub(super) pss_mb: f64,
    /// Its anonymous part, MB.
    pub(super) anon_mb: f64,
    /// Processor time, thousandths of a core.
    pub(super) millicores: f64,
}

/// A sidecar, and both replicas of the control part.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Idle {
    pub(super) sidecar: Usage,
    /// The replica that holds the lease, and so writes.
    pub(super) leader: Usage,
    pub(super) other: Usage,
}

/// Counts for `time`, in which nothing else is asked of the cluster.
pub(super) fn measure(cluster: &Cluster, kube: &Kube<'_>, time: Duration) -> Result<Idle> {
    let [leader, other] = replicas(kube)?;
    let of = |namespace: &str, pod: &str, container: &str| -> Result<u32> {
        let id = container_id(kube, namespace, pod, container)?;
        process_of(cluster, &id).with_context(|| format!("{container} of {pod} has no process"))
    };
    let processes = [
        of(NAMESPACE, IDLE, "weft-proxy")?,
        of(SYSTEM, &leader, "weft-control")?,
        of(SYSTEM, &other, "weft-control")?,
    ];
    let before = processes.map(|process| cpu_nanoseconds(&[process]));
    let start = std::time::Instant::now();
    let mut memory: [Vec<(u64, u64)>; 3] = Default::default();
    for _ in 0..LOOKS {
        process::pause(time / LOOKS);
        for (samples, process) in memory.iter_mut().zip(processes) {
            samples.push((pss_kib(process)?, pss_anon_kib(process)?));
        }
    }
    let passed = start.elapsed();
    let mut all = [Usage::default(); 3];
    for (at, before) in before.into_iter().enumerate() {
        let busy = cpu_nanoseconds(&[processes[at]])?.saturating_sub(before?);
        let mb = |kib: fn(&(u64, u64)) -> u64| {
            median(memory[at].iter().map(|look| kib(look) as f64)) * 1024.0 / 1e6
        };
        all[at] = Usage {
            pss_mb: mb(|look| look.0),
            anon_mb: mb(|look| look.1),
            millicores: busy as f64 / passed.as_nanos() as f64 * 1e3,
        };
    }
    let [sidecar, leader, other] = all;
    Ok(Idle { sidecar, leader, other })
}

/// The pods of the control part, the one that leads first.
fn replicas(kube: &Kube<'_>) -> Result<[String; 2]> {
    let lease = kube.get(&["-n", SYSTEM, "lease", "weft-controller"])?;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
    let pods = kube.get(&["-n", SYSTEM, "pods"])?;
    let pods = pods["items"].as_array().context("no pods")?;
    let live = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let mut names: Vec<String> =
        live.filter_map(|pod| Some(pod["metadata"]["name"].as_str()?.to_owned())).collect();
    names.sort_by_key(|name| !holder.starts_with(name.as_str()));
    let [leader, other] = <[String; 2]>::try_from(names)
        .map_err(|names| anyhow::anyhow!("the control part does not have two pods: {names:?}"))?;
    anyhow::ensure!(holder.starts_with(&leader), "the lease is of {holder:?}, which is no pod");
    Ok([leader, other])
}

fn container_id(kube: &Kube<'_>, namespace: &str, pod: &str, container: &str) -> Result<String> {
    let status = &kube.get(&["-n", namespace, "pod", pod])?["status"];
    let all = ["initContainerStatuses", "containerStatuses"];
    let mut found = all.iter().flat_map(|list| status[list].as_array().into_iter().flatten());
    let found = found.find(|status| status["name"] == container);
    let id = found.and_then(|status| status["containerID"].as_str()?.strip_prefix("containerd://"));
    id.map(str::to_owned).with_context(|| format!("{pod} has no container {container}"))
}

/// The process whose control group is the container's.
fn process_of(cluster: &Cluster, container: &str) -> Option<u32> {
    let mut all = cluster.groups.processes().into_iter();
    all.find(|process| {
        fs::read_to_string(format!("/proc/{process}/cgroup")).is_ok_and(|groups| groups.contains(container))
    })
}
