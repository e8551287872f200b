//! One mesh: a node with a bridge, a name server, and pods on the bridge.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::ca::Ca;
use crate::collector::{Collector, Receiver};
use crate::dns::Dns;
use crate::network::{DNS_NUMBER, Network};
use crate::pod::{Pod, PodBuilder};
use crate::process::{Output, run};
use crate::run_dir::{RUN_VARIABLE, RunDir};
use crate::sandbox::Sandbox;
use crate::sidecar::SidecarBuilder;

/// How long any command of the set-up may take.
const SETUP_DEADLINE: Duration = Duration::from_secs(20);

/// The last lines of each program's output that a failed story shows.
const SHOWN_LINES: usize = 60;

/// What all pods of a mesh share. The run directory goes last, after everything that writes into it.
#[derive(Debug)]
pub(crate) struct Node {
    sandbox: Sandbox,
    network: Network,
    next: AtomicU16,
    run: RunDir,
}

impl Node {
    pub(crate) fn dir(&self) -> &Path {
        self.run.path()
    }

    /// The variable that marks every process of this mesh.
    pub(crate) fn mark(&self) -> (&'static str, &str) {
        (RUN_VARIABLE, self.run.name())
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// Where the name server answers IPv4 and IPv6 clients.
    pub(crate) fn dns(&self) -> (SocketAddr, Option<SocketAddr>) {
        // Port 53 is not for everybody.
        let port = if self.network.is_loopback() { self.network.port(15353) } else { 53 };
        let v6 = self.network.v6(DNS_NUMBER);
        ((self.network.v4(DNS_NUMBER), port).into(), v6.map(|v6| (v6, port).into()))
    }

    /// The bridge, and the routes of the service ranges.
    fn set_up_bridge(&self) -> Result<()> {
        let (v4, v6) = self.network.node();
        let v6 = v6.context("a bridge has IPv6")?;
        // The service ranges are routed to the node and refused there at once: only a sidecar makes them reachable,
        // and without one a test fails in milliseconds rather than in a connect timeout.
        self.ip(
            &self.sandbox,
            &format!(
                "link add br0 type bridge forward_delay 0\nlink set br0 up\naddr add {v4}/16 dev br0\n\
                 addr add {v6}/64 dev br0 nodad\nroute add unreachable 10.96.0.0/12\n\
                 route add unreachable fd96::/64\n"
            ),
        )?;
        let mut forward = self.sandbox.enter(None).command("sh")?;
        // Forwarding is what makes the node answer "unreachable" instead of dropping without a word.
        forward.args([
            "-c",
            "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        ]);
        self.run_command("sh", forward, SETUP_DEADLINE)?.ok().context("turning on forwarding")?;
        Ok(())
    }

    /// Runs an `ip` batch in the node's namespace or in a pod's.
    pub(crate) fn ip(&self, inside: &Sandbox, batch: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new_in(self.dir()).context("creating an ip batch")?;
        std::fs::write(file.path(), batch).context("writing an ip batch")?;
        let mut command = inside.enter(None).command("ip")?;
        command.arg("-batch").arg(file.path());
        self.run_command("ip", command, SETUP_DEADLINE)?
            .ok()
            .with_context(|| format!("ip batch:\n{batch}"))?;
        Ok(())
    }

    pub(crate) fn run_command(
        &self,
        name: &str,
        mut command: std::process::Command,
        deadline: Duration,
    ) -> Result<Output> {
        let (key, value) = self.mark();
        command.env(key, value);
        run(name, command, self.dir(), deadline)
    }

    /// The number of the next pod; its addresses and its link's name follow from it.
    pub(crate) fn next_number(&self) -> u16 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// A bridge with a name server and the pods that are on it. Dropping it ends and removes everything.
#[derive(Debug)]
pub struct Mesh {
    pods: Mutex<Vec<Pod>>,
    dns: Dns,
    ca: OnceLock<Ca>,
    collector: OnceLock<Collector>,
    node: Arc<Node>,
}

impl Mesh {
    /// Makes the node, its bridge and the name server.
    ///
    /// # Errors
    /// Namespaces are not allowed here, or a program that is needed is missing; the error says which.
    pub fn start(label: &str) -> Result<Self> {
        for (program, package) in
            [("ip", "iproute2"), ("unshare", "util-linux"), ("nsd", "nsd"), ("tcpdump", "tcpdump")]
        {
            if find_program(program).is_none() {
                bail!("{program} is missing: install the package {package}");
            }
        }
        Self::start_on(label, Network::Bridge, Sandbox::create(None, None)?)
    }

    /// A mesh of loopback pods, which needs no right at all: each pod is an address of 127.0.0.0/8, nothing is
    /// intercepted, and a sidecar listens for others (`outbound.listeners`, `inbound.listeners`).
    ///
    /// # Errors
    /// The name server does not start.
    pub fn on_loopback(label: &str) -> Result<Self> {
        Self::start_on(label, Network::loopback(), Sandbox::Here)
    }

    fn start_on(label: &str, network: Network, sandbox: Sandbox) -> Result<Self> {
        let run = RunDir::create(label)?;
        let node = Arc::new(Node { sandbox, network, next: AtomicU16::new(DNS_NUMBER), run });
        if !node.network.is_loopback() {
            node.set_up_bridge()?;
        }
        let dns_pod = PodBuilder::new(node.clone(), "dns.weft-system").without_dns().start()?;
        let dns = Dns::start(dns_pod.clone())?;
        Ok(Self {
            pods: Mutex::new(vec![dns_pod]),
            dns,
            ca: OnceLock::new(),
            collector: OnceLock::new(),
            node,
        })
    }

    /// Whether the pods are addresses of loopback.
    pub fn is_loopback(&self) -> bool {
        self.node.network.is_loopback()
    }

    /// The port to use where `wanted` is the usual one; on loopback it may be another, if a program of this machine has it.
    pub fn port(&self, wanted: u16) -> u16 {
        self.node.network.port(wanted)
    }

    /// A new pod, as `name.namespace`: dual-stack, with the service account of the same name.
    pub fn pod(&self, name: &str) -> PodInMesh<'_> {
        PodInMesh { mesh: self, builder: PodBuilder::new(self.node.clone(), name) }
    }

    /// The authoritative name server.
    pub fn dns(&self) -> &Dns {
        &self.dns
    }

    /// The mesh's CA, started at the first call.
    ///
    /// # Errors
    /// It does not start.
    pub fn ca(&self) -> Result<&Ca> {
        self.ca_with(|_| {})
    }

    /// The same; `edit` changes `ca.yaml`, and works only in the first call.
    ///
    /// # Errors
    /// It does not start.
    pub fn ca_with(&self, edit: impl FnOnce(&mut serde_json::Value)) -> Result<&Ca> {
        if let Some(ca) = self.ca.get() {
            return Ok(ca);
        }
        let ca = Ca::start(self.pod("weft-ca.weft-system").start()?, edit)?;
        Ok(self.ca.get_or_init(|| ca))
    }

    /// A real collector, built (once per machine) and started at the first call. Sidecars made afterwards send it all
    /// their traces.
    ///
    /// # Errors
    /// It cannot be built or does not start.
    #[expect(clippy::print_stderr, reason = "a build of a minute must not look like a test that hangs")]
    pub fn collector(&self) -> Result<&Collector> {
        if let Some(collector) = self.collector.get() {
            return Ok(collector);
        }
        let binary = crate::otelcol::collector_binary(|line| eprintln!("{line}"))?;
        self.start_collector(Receiver::Otelcol(binary))
    }

    /// A real collector where one can be had, otherwise Weft's own small receiver; then also the reason.
    ///
    /// # Errors
    /// Neither starts.
    pub fn any_collector(&self, progress: impl Fn(&str)) -> Result<(&Collector, Option<String>)> {
        match crate::otelcol::collector_binary(progress) {
            Ok(binary) => Ok((self.start_collector(Receiver::Otelcol(binary))?, None)),
            Err(error) => Ok((self.start_collector(Receiver::Own)?, Some(format!("{error:#}")))),
        }
    }

    fn start_collector(&self, receiver: Receiver) -> Result<&Collector> {
        let collector = Collector::start(self.pod("collector.weft-system").start()?, receiver)?;
        Ok(self.collector.get_or_init(|| collector))
    }

    /// A sidecar for a pod, with an identity from the mesh's CA; see [`SidecarBuilder`].
    ///
    /// # Errors
    /// The CA does not start.
    pub fn sidecar(&self, pod: &Pod) -> Result<SidecarBuilder> {
        SidecarBuilder::new(pod, self.ca()?, self.collector.get())
    }

    /// Where configuration, output and captures of this mesh are.
    pub fn dir(&self) -> &Path {
        self.node.dir()
    }

    /// The name of the run, which all its processes carry (see [`crate::processes_of`]).
    pub fn run_name(&self) -> &str {
        self.node.mark().1
    }

    pub(crate) fn add(&self, pod: Pod) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).push(pod);
    }

    /// The end of every program's output, and that the directory stays for reading.
    pub fn report_failure(&self) -> String {
        self.node.run.keep();
        let mut report = format!("output of this mesh stays in {}\n", self.dir().display());
        for pod in self.pods.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for process in pod.processes() {
                let log = process.log();
                let lines: Vec<&str> = log.lines().collect();
                let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
                report.push_str(&format!("--- {} in {}\n{}\n", process.name(), pod.name(), shown.join("\n")));
            }
        }
        report
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for pod in self.pods.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            pod.kill_all();
        }
    }
}

/// A pod about to be made; see [`Mesh::pod`].
#[derive(Debug)]
#[must_use = "call start()"]
pub struct PodInMesh<'a> {
    mesh: &'a Mesh,
    builder: PodBuilder,
}

impl PodInMesh<'_> {
    /// Without IPv6.
    pub fn ipv4_only(mut self) -> Self {
        self.builder = self.builder.ipv4_only();
        self
    }

    /// Without IPv4.
    pub fn ipv6_only(mut self) -> Self {
        self.builder = self.builder.ipv6_only();
        self
    }

    /// Another service account than the pod's name without a `-<number>` at its end.
    pub fn account(mut self, account: &str) -> Self {
        self.builder = self.builder.account(account);
        self
    }

    /// Makes it.
    ///
    /// # Errors
    /// The namespace or its link cannot be made.
    pub fn start(self) -> Result<Pod> {
        let pod = self.builder.start()?;
        self.mesh.add(pod.clone());
        Ok(pod)
    }
}

/// Runs a story with a mesh of its own. When it fails, the end of every program's output is shown.
///
/// # Panics
/// The story failed: this is the test's verdict.
pub fn story(label: &str, tell: impl FnOnce(&Mesh) -> Result<()>) {
    story_in(label, Mesh::start(label), tell);
}

/// The same with loopback pods (see [`Mesh::on_loopback`]).
///
/// # Panics
/// The story failed: this is the test's verdict.
pub fn loopback_story(label: &str, tell: impl FnOnce(&Mesh) -> Result<()>) {
    story_in(label, Mesh::on_loopback(label), tell);
}

#[expect(clippy::print_stderr, reason = "the output of a failed story belongs beside the test's verdict")]
fn story_in(label: &str, mesh: Result<Mesh>, tell: impl FnOnce(&Mesh) -> Result<()>) {
    let mesh = match mesh {
        Ok(mesh) => mesh,
        Err(error) => panic!("{label}: {error:#}"),
    };
    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tell(&mesh)));
    match end {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            eprintln!("{}", mesh.report_failure());
            drop(mesh);
            panic!("{label}: {error:#}");
        }
        Err(panic) => {
            eprintln!("{}", mesh.report_failure());
            drop(mesh);
            std::panic::resume_unwind(panic);
        }
    }
}

/// A program on the path, or in the directories that a user's path may lack.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The pod's address of the family, if it has one.
pub(crate) fn addresses(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Vec<IpAddr> {
    v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)).collect()
}
