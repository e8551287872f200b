//! The cluster's network: a namespace for each node, and one for the wire between them.
//!
//! ```text
//!   machine          wire                 node-1                      node-2
//!   wk-<name> ------ bridge ------------- eth0   cni0 -- pods         eth0   cni0 -- pods
//!                      `------------------------------------------------'
//! ```
//! The machine has one end of a link, with an address of the nodes' network, so that `kubectl` and tests reach the API
//! server; nothing else of the machine is touched, neither its rules nor its routes. Behind the wire there is nothing:
//! its bridge is the nodes' default gateway and answers "unreachable", as a network without a way out does.
//!
//! A node also has mounts of its own: its `/run`, `/var/lib` and `/var/log` are directories of the cluster, so that the
//! kubelet, containerd and the CNI plugins use the paths they always use, two nodes do not meet there, and every mount
//! of a container ends with the node.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::launch::{Cluster, HOLDER};
use super::plan::{Pair, Plan, node_name};
use crate::process;

/// How long the namespaces may take.
const START: Duration = Duration::from_secs(20);

/// Run in a node's new namespaces. `$1` is its name, `$2` its directory.
const NODE: &str = r#"
set -eu
hostname "$1"
mount --bind "$2/var-lib" /var/lib
mount --bind "$2/var-log" /var/log
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns
mount --make-rshared /
exec sleep infinity
"#;

/// What a node and the wire need of the kernel: they pass on what is not for them.
const FORWARD: &[&str] =
    &["net.ipv4.ip_forward=1", "net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.all.forwarding=1"];

/// And a node: that packets between two pods on one bridge pass the rules for services too.
const BRIDGED: &[&str] = &["net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1"];

/// Makes all namespaces and links.
pub(crate) fn make(cluster: &mut Cluster) -> Result<()> {
    let plan = cluster.state.plan.clone();
    cluster.launch(HOLDER, 0, &["unshare", "--net", "--uts", "--", "sleep", "infinity"])?;
    for number in plan.numbers() {
        let directory = cluster.layout.node(number);
        for own in ["var-lib", "var-log"] {
            let path = directory.join(own);
            std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let (name, directory) = (node_name(number), directory.display().to_string());
        let unshare = ["unshare", "--net", "--mount", "--uts", "--propagation", "private", "--"];
        cluster.launch(
            HOLDER,
            number,
            &[&unshare[..], &["sh", "-c", NODE, "sh", &name, &directory]].concat(),
        )?;
    }
    let mut holders = Vec::new();
    for number in std::iter::once(0).chain(plan.numbers()) {
        let pid = cluster.state.daemon(HOLDER, number)?.process.pid;
        cluster.wait("the namespaces", (HOLDER, number), START, || {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Ok(comm.trim() == "sleep")
        })?;
        holders.push(pid);
    }
    wire(&plan, &holders)?;
    machine(&plan)?;
    plan.numbers().try_for_each(|number| node(&plan, number, &holders))
}

fn wire(plan: &Plan, holders: &[u32]) -> Result<()> {
    let Some((wire, nodes)) = holders.split_first() else { bail!("no namespaces") };
    let mut lines = vec![
        "link set lo up".to_owned(),
        "link add wire type bridge".to_owned(),
        "link set wire up".to_owned(),
    ];
    lines.extend(addresses(plan, plan.gateway(), "wire"));
    for (number, holder) in plan.numbers().zip(nodes) {
        let name = node_name(number);
        lines.push(format!("link add {name} type veth peer name eth0 netns {holder}"));
        lines.push(format!("link set {name} master wire up"));
    }
    // To tell a pod that what it wants to reach is not there, the gateway must know where the pod is.
    for number in plan.numbers() {
        lines.extend(pod_routes(plan, number));
    }
    let machine = std::process::id();
    lines.push(format!("link add machine type veth peer name {} netns {machine}", plan.link()));
    lines.push("link set machine master wire up".to_owned());
    sysctl(*wire, FORWARD)?;
    ip(Some(*wire), &lines).context("making the wire between the nodes")
}

fn machine(plan: &Plan) -> Result<()> {
    let link = plan.link();
    let mut lines = vec![format!("link set {link} up")];
    lines.extend(addresses(plan, plan.machine(), &link));
    ip(None, &lines).context("linking this machine with the nodes")
}

fn node(plan: &Plan, number: u8, holders: &[u32]) -> Result<()> {
    let holder = *holders.get(usize::from(number)).context("no namespaces of this node")?;
    let mut lines = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
    lines.extend(addresses(plan, plan.node(number), "eth0"));
    let Pair { v4, v6 } = plan.gateway();
    lines.push(format!("route add default via {v4}"));
    if plan.dual_stack {
        lines.push(format!("route add default via {v6}"));
    }
    for other in plan.numbers().filter(|other| *other != number) {
        lines.extend(pod_routes(plan, other));
    }
    sysctl(holder, FORWARD)?;
    if std::path::Path::new("/proc/sys/net/bridge").is_dir() {
        sysctl(holder, BRIDGED)?;
    }
    ip(Some(holder), &lines).with_context(|| format!("linking {}", node_name(number)))
}

/// The way to the pods of a node.
fn pod_routes(plan: &Plan, number: u8) -> Vec<String> {
    let Pair { v4, v6 } = plan.node(number);
    let networks = plan.pods(number);
    let via = [v4.to_string(), v6.to_string()];
    networks.iter().zip(via).map(|(network, via)| format!("route add {network} via {via}")).collect()
}

fn addresses(plan: &Plan, pair: Pair, link: &str) -> Vec<String> {
    let mut lines = vec![format!("address add {}/24 dev {link}", pair.v4)];
    if plan.dual_stack {
        // Nobody else is there to have the address: no need to ask first, which takes seconds.
        lines.push(format!("address add {}/64 dev {link} nodad", pair.v6));
    }
    lines
}

fn sysctl(holder: u32, settings: &[&str]) -> Result<()> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{holder}/ns/net")).args(["sysctl", "--quiet", "--write"]).args(settings);
    process::capture(&mut command).map(|_| ())
}

/// Runs lines of `ip` in the network namespace of a process, or in ours.
fn ip(holder: Option<u32>, lines: &[String]) -> Result<()> {
    let mut command = match holder {
        Some(pid) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{pid}/ns/net")).arg("ip");
            command
        }
        None => Command::new("ip"),
    };
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start `ip`")?;
    let mut input = child.stdin.take().context("`ip` has an input")?;
    input.write_all(lines.join("\n").as_bytes()).context("cannot write to `ip`")?;
    drop(input);
    let output = child.wait_with_output().context("waiting for `ip`")?;
    if !output.status.success() {
        bail!(
            "`ip` failed: {}\nof these lines:\n{}",
            String::from_utf8_lossy(&output.stderr).trim(),
            lines.join("\n")
        );
    }
    Ok(())
}

/// What addresses and routes this machine has, for [`Plan::new`].
pub(crate) fn taken() -> Result<String> {
    let addresses = process::text(Command::new("ip").args(["-4", "-oneline", "address"]))?;
    let routes = process::text(Command::new("ip").args(["-4", "route", "show", "table", "all"]))?;
    Ok(addresses + &routes)
}

/// Whether the machine's end of the link is there.
pub(crate) fn linked(name: &str) -> bool {
    std::path::Path::new(&format!("/sys/class/net/wk-{name}")).exists()
}
