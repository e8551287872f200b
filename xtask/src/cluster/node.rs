//! What runs on each node: containerd with its plugins, the kubelet, kube-proxy.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::certs::Certificates;
use super::images;
use super::launch::{Cluster, enter};
use super::plan::{DNS_SERVICE, Plan, node_name};
use crate::{process, setup};

/// How long containerd may take.
const START: Duration = Duration::from_secs(30);
/// How long a node may take to be ready.
const READY: Duration = Duration::from_secs(120);
/// Where Debian has the CNI plugins.
pub(crate) const CNI_PLUGINS: &str = "/usr/lib/cni";
/// containerd's socket, as seen on the node.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// Starts containerd on every node.
pub(crate) fn start_containerd(cluster: &mut Cluster) -> Result<()> {
    let containerd = setup::find_program("containerd").context("containerd is not installed")?;
    for number in cluster.state.plan.numbers() {
        let directory = cluster.layout.node(number);
        let cni = directory.join("cni");
        fs::create_dir_all(&cni).with_context(|| format!("cannot make {}", cni.display()))?;
        let network = cni_config(&cluster.state.plan, number);
        write(&cni.join("10-weft.conflist"), &serde_json::to_string_pretty(&network)?)?;
        let config = directory.join("containerd.toml");
        write(&config, &containerd_config(&cni))?;
        cluster.start("containerd", number, &[containerd.as_path(), Path::new("--config"), &config])?;
    }
    Ok(())
}

/// Waits until containerd answers on every node.
pub(crate) fn await_containerd(cluster: &Cluster) -> Result<()> {
    for number in cluster.state.plan.numbers() {
        cluster.wait("containerd", ("containerd", number), START, || {
            Ok(process::capture(ctr(cluster, number)?.arg("version")).is_ok())
        })?;
    }
    Ok(())
}

/// `ctr` on a node, for the images and containers of Kubernetes.
pub(crate) fn ctr(cluster: &Cluster, number: u8) -> Result<Command> {
    let holder = cluster.state.daemon(super::launch::HOLDER, number)?.process.pid;
    let mut command = process::command(&enter(holder));
    command.args(["ctr", "--address", SOCKET, "--namespace", "k8s.io"]);
    Ok(command)
}

/// Starts kubelet and kube-proxy on every node.
pub(crate) fn start_agents(cluster: &mut Cluster, certificates: &Certificates) -> Result<()> {
    let plan = cluster.state.plan.clone();
    let resolv = cluster.layout.at("resolv.conf");
    write(&resolv, &format!("nameserver {DNS_SERVICE}\n"))?;
    let proxy_config = certificates.certificate("proxy").with_extension("kubeconfig");
    certificates.kubeconfig("proxy", &plan.api_url(), &plan.name, &proxy_config)?;
    for number in plan.numbers() {
        let name = node_name(number);
        let directory = cluster.layout.node(number);
        let kubeconfig = directory.join("kubeconfig");
        certificates.kubeconfig(&name, &plan.api_url(), &plan.name, &kubeconfig)?;
        let config = directory.join("kubelet.json");
        let text = kubelet_config(cluster, number, certificates, &resolv);
        write(&config, &serde_json::to_string_pretty(&text)?)?;
        let words = [
            cluster.parts.program("kubelet")?.display().to_string(),
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--hostname-override={name}"),
            format!("--node-ip={}", plan.node_ips(number)),
        ];
        cluster.start("kubelet", number, &words)?;
        let words = [
            cluster.parts.program("kube-proxy")?.display().to_string(),
            format!("--kubeconfig={}", proxy_config.display()),
            format!("--hostname-override={name}"),
            format!("--cluster-cidr={}", plan.all_pods()),
            "--proxy-mode=iptables".to_owned(),
            // Settings of the whole machine, which a namespace cannot change.
            "--conntrack-max-per-core=0".to_owned(),
            "--conntrack-min=0".to_owned(),
            "--conntrack-tcp-timeout-established=0".to_owned(),
            "--conntrack-tcp-timeout-close-wait=0".to_owned(),
        ];
        cluster.start("kube-proxy", number, &words)?;
    }
    Ok(())
}

/// Waits until every node is ready.
pub(crate) fn await_ready(cluster: &Cluster) -> Result<()> {
    for number in cluster.state.plan.numbers() {
        let query = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        cluster.wait("a node to be ready", ("kubelet", number), READY, || {
            let mut kubectl = cluster.kubectl()?;
            let answer = process::text(kubectl.args(["get", "node", &node_name(number), "-o", query]));
            Ok(answer.is_ok_and(|text| text.trim() == "True"))
        })?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn containerd_config(cni: &Path) -> String {
    let (pause, cni) = (images::PAUSE, cni.display());
    // Roots, state and socket are the usual ones: those directories are the node's own.
    format!(
        r#"version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing"]

[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Without the right to lower oom_score_adj (CAP_SYS_RESOURCE), as in many containers, no container would start.
restrict_oom_score_adj = true
disable_apparmor = true
tolerate_missing_hugetlb_controller = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "{cni}"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "runc"
SystemdCgroup = false
"#
    )
}

fn cni_config(plan: &Plan, number: u8) -> serde_json::Value {
    let ranges: Vec<_> = plan.pods(number).iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
    let routes: Vec<_> =
        ["0.0.0.0/0", "::/0"].iter().take(ranges.len()).map(|dst| json!({ "dst": dst })).collect();
    json!({
        "cniVersion": "0.4.0",
        "name": "weft",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                // Nobody outside needs to answer a pod.
                "ipMasq": false,
                // A pod may call a service of which it is itself the endpoint.
                "hairpinMode": true,
                "ipam": { "type": "host-local", "ranges": ranges, "routes": routes },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

fn kubelet_config(
    cluster: &Cluster,
    number: u8,
    certificates: &Certificates,
    resolv: &Path,
) -> serde_json::Value {
    let name = node_name(number);
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": if cluster.state.plan.dual_stack { "::" } else { "0.0.0.0" },
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": certificates.certificate("ca") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": certificates.certificate(&name),
        "tlsPrivateKeyFile": certificates.key(&name),
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cluster.groups.node(number),
        "failCgroupV1": false,
        "enforceNodeAllocatable": ["none"],
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_SERVICE],
        "resolvConf": resolv,
        // The machine's disk may be nearly full without harm to a test.
        "evictionHard": { "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
        "imageGCHighThresholdPercent": 100,
        // How long a change of a ConfigMap may take to be seen in a pod: a minute would make tests wait.
        "syncFrequency": "10s",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "registerNode": true,
    })
}
