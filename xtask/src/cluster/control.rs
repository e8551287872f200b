//! The control plane, on the first node: etcd, the API server, the controllers and the scheduler.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::certs::Certificates;
use super::launch::Cluster;
use super::plan::{API_PORT, Plan, node_name};
use crate::{process, setup};

/// How long the API server may take on a busy machine.
const START: Duration = Duration::from_secs(120);

const ETCD: &str = "http://127.0.0.1:2379";
/// Who issues service accounts' tokens, in their `iss`.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Starts etcd and the API server; neither waits for the other.
pub(crate) fn start_api(cluster: &mut Cluster, certificates: &Certificates) -> Result<()> {
    let etcd = setup::find_program("etcd").context("etcd is not installed")?;
    let data = cluster.layout.at("etcd").display().to_string();
    let words = [
        etcd.display().to_string(),
        format!("--data-dir={data}"),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        // Its data ends with the cluster.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    cluster.start("etcd", 1, &words)?;
    let program = cluster.parts.program("kube-apiserver")?.display().to_string();
    let words = [vec![program], api_flags(&cluster.state.plan, certificates)].concat();
    cluster.start("kube-apiserver", 1, &words)
}

fn api_flags(plan: &Plan, certificates: &Certificates) -> Vec<String> {
    let certificate = |name: &str| certificates.certificate(name).display().to_string();
    let key = |name: &str| certificates.key(name).display().to_string();
    vec![
        format!("--advertise-address={}", plan.node(1).v4),
        format!("--bind-address={}", if plan.dual_stack { "::" } else { "0.0.0.0" }),
        format!("--secure-port={API_PORT}"),
        format!("--etcd-servers={ETCD}"),
        format!("--service-cluster-ip-range={}", plan.services()),
        format!("--client-ca-file={}", certificate("ca")),
        format!("--tls-cert-file={}", certificate("apiserver")),
        format!("--tls-private-key-file={}", key("apiserver")),
        format!("--kubelet-certificate-authority={}", certificate("ca")),
        format!("--kubelet-client-certificate={}", certificate("apiserver-kubelet")),
        format!("--kubelet-client-key={}", key("apiserver-kubelet")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--service-account-issuer={ISSUER}"),
        format!("--service-account-key-file={}", certificate("service-accounts")),
        format!("--service-account-signing-key-file={}", key("service-accounts")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
    ]
}

/// Waits until the API server says that it is ready.
pub(crate) fn await_api(cluster: &Cluster) -> Result<()> {
    cluster.wait("the API server", ("kube-apiserver", 1), START, || {
        Ok(process::capture(cluster.kubectl()?.args(["get", "--raw=/readyz", "--request-timeout=5s"]))
            .is_ok())
    })
}

/// Starts the controllers and the scheduler.
pub(crate) fn start_controllers(cluster: &mut Cluster, certificates: &Certificates) -> Result<()> {
    let plan = cluster.state.plan.clone();
    let config = |name: &str| -> Result<String> {
        let file = certificates.certificate(name).with_extension("kubeconfig");
        certificates.kubeconfig(name, &plan.api_url(), &plan.name, &file)?;
        Ok(file.display().to_string())
    };
    let words = [
        cluster.parts.program("kube-controller-manager")?.display().to_string(),
        format!("--kubeconfig={}", config("controller-manager")?),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        format!("--service-account-private-key-file={}", certificates.key("service-accounts").display()),
        format!("--root-ca-file={}", certificates.certificate("ca").display()),
        format!("--cluster-signing-cert-file={}", certificates.certificate("ca").display()),
        format!("--cluster-signing-key-file={}", certificates.key("ca").display()),
        format!("--cluster-cidr={}", plan.all_pods()),
        // Each node's network is decided before it starts, as its routes and its CNI configuration are.
        "--allocate-node-cidrs=false".to_owned(),
        "--flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins".to_owned(),
    ];
    cluster.start("kube-controller-manager", 1, &words)?;
    let words = [
        cluster.parts.program("kube-scheduler")?.display().to_string(),
        format!("--kubeconfig={}", config("scheduler")?),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
    ];
    cluster.start("kube-scheduler", 1, &words)
}

/// Registers the nodes with the networks of their pods; the kubelets fill in the rest.
pub(crate) fn register_nodes(cluster: &Cluster) -> Result<()> {
    let plan = &cluster.state.plan;
    let items: Vec<_> = plan
        .numbers()
        .map(|number| {
            let (name, networks) = (node_name(number), plan.pods(number));
            json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
                "spec": { "podCIDR": networks.first(), "podCIDRs": networks },
            })
        })
        .collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    create(cluster, "nodes.json", &serde_json::to_string_pretty(&list)?)
}

/// Creates objects from text, which stays in the cluster's directory as `name`.
pub(crate) fn create(cluster: &Cluster, name: &str, objects: &str) -> Result<()> {
    let file = cluster.layout.at(name);
    std::fs::write(&file, objects).with_context(|| format!("cannot write {}", file.display()))?;
    let mut kubectl: Command = cluster.kubectl()?;
    process::capture(kubectl.args(["create", "--validate=false", "-f"]).arg(&file)).map(|_| ())
}
