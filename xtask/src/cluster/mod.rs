//! `cargo xtask cluster`: a real Kubernetes cluster on this machine, from packages and Go modules, without a container
//! engine or an image registry.
//!
//! What runs are Kubernetes' own components (see `parts`), etcd, containerd, runc and CoreDNS, in network namespaces
//! (see `net`) and control groups (see `cgroup`) of their own; the machine's rules, services and directories are left
//! alone. `docs/guide/testing.md` says how to use it.

mod certs;
mod cgroup;
mod cleanup;
mod control;
mod dns;
mod e2e;
mod images;
mod launch;
mod layout;
mod measure;
mod net;
mod node;
mod parts;
mod plan;
mod state;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::setup;
use cgroup::Groups;
use launch::Cluster;
use layout::Layout;
use parts::Parts;
use plan::Plan;
use state::State;

/// Options of `cargo xtask cluster`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which cluster.
    #[arg(long, default_value = "weft", global = true)]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Start a cluster, after ending what an earlier run left; returns when its DNS answers.
    Up {
        /// How many nodes.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
        nodes: u8,
        /// Pods and services have IPv6 addresses too.
        #[arg(long)]
        dual_stack: bool,
    },
    /// End a cluster, also one that crashed, and remove all that is left of it.
    Down,
    /// Load the images of archives (OCI layout or `docker save`) on every node.
    LoadImage {
        /// The archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Build an OpenTelemetry Collector and load it as an image (docker.io/weft-test/otelcol:1).
    LoadCollector,
    /// Print where the configuration for kubectl is.
    Kubeconfig,
    /// Say which clusters there are and what of them runs; exit code 1 when this cluster is not whole.
    Status,
    /// Build the parts and nothing else.
    Build,
    /// Run kubectl of the cluster's version with its configuration.
    Kubectl {
        /// kubectl's arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Run helm with the cluster's configuration.
    Helm {
        /// helm's arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Run the stories of Weft on Kubernetes, with the programs, images and the cluster that they need.
    E2e(e2e::Options),
    /// Measure what Weft costs an idle cluster and adds to a pod's start, on a cluster of its own where none is up.
    Measure(measure::Options),
    /// Run a program in the network of a node, from where pods and services can be reached.
    Exec {
        /// Which node.
        #[arg(long, default_value_t = 1)]
        node: u8,
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<String>,
    },
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let name = options.name.as_str();
    let layout = Layout::of(&options.name)?;
    match &options.action {
        Action::Up { nodes, dual_stack } => up(&options.name, layout, *nodes, *dual_stack)?,
        Action::Down => down(&options.name, &layout)?,
        Action::LoadImage { archives } => {
            let _lock = layout.lock()?;
            let cluster = open(&options.name, layout)?;
            for archive in archives {
                images::load(&cluster, archive)?;
                println!("loaded {} on {} node(s)", archive.display(), cluster.state.plan.nodes);
            }
        }
        Action::LoadCollector => {
            let _lock = layout.lock()?;
            images::collector(&open(&options.name, layout)?)?;
            println!("loaded {}", images::COLLECTOR);
        }
        Action::Kubeconfig => {
            running(&layout)?;
            println!("{}", layout.kubeconfig().display());
        }
        Action::Status => return status(&options.name),
        Action::Build => {
            needs()?;
            for tool in Parts::ensure()?.tools()? {
                println!("{}", tool.display());
            }
        }
        Action::E2e(options) => return e2e::run(name, options),
        Action::Measure(options) => return measure::run(name, options),
        Action::Kubectl { words } => return tool(&layout, "kubectl", words),
        Action::Helm { words } => return tool(&layout, "helm", words),
        Action::Exec { node, words } => {
            let state = running(&layout)?;
            let holder = state.daemon(launch::HOLDER, *node)?.process.pid;
            let mut command = Command::new("nsenter");
            // Only the network: files are this machine's.
            command.arg(format!("--net=/proc/{holder}/ns/net")).args(words);
            launch::environment(&mut command, &layout);
            return replace(&mut command);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes the command, so that its exit code and signals are ours.
fn replace(command: &mut Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt as _;
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start `{}`", crate::process::line(command)))
}

fn tool(layout: &Layout, name: &str, words: &[String]) -> Result<ExitCode> {
    running(layout)?;
    let mut command = Command::new(Parts::ensure()?.program(name)?);
    launch::environment(command.args(words), layout);
    replace(&mut command)
}

/// The state of a cluster that is up.
fn running(layout: &Layout) -> Result<State> {
    match State::load(&layout.state())? {
        Some(state) if state.complete && state.running().len() == state.daemons.len() => Ok(state),
        Some(_) => bail!(
            "the cluster is not whole (see `cargo xtask cluster status`): run `cargo xtask cluster up` again"
        ),
        None => bail!("no cluster is up: run `cargo xtask cluster up`"),
    }
}

fn open(name: &str, layout: Layout) -> Result<Cluster> {
    let state = running(&layout)?;
    Ok(Cluster { layout, groups: Groups::of(name)?, parts: Parts::ensure()?, state })
}

fn needs() -> Result<()> {
    setup::ensure("cargo xtask cluster", &[setup::CLUSTER])?;
    if setup::is_root() {
        Ok(())
    } else {
        Err(setup::Missing(
            "cargo xtask cluster makes namespaces, mounts and control groups: only root may".to_owned(),
        )
        .into())
    }
}

fn up(name: &str, layout: Layout, nodes: u8, dual_stack: bool) -> Result<()> {
    needs()?;
    let parts = Parts::ensure()?;
    let _lock = layout.lock()?;
    let start = Instant::now();
    let left = cleanup::down(name, &layout)?;
    if left.directory || left.processes > 0 {
        println!("ended what was there of the cluster {name} ({} processes)", left.processes);
    }
    let plan = Plan::new(name, nodes, dual_stack, &net::taken()?)?;
    std::fs::create_dir_all(layout.at("logs")).context("cannot make the directory of the logs")?;
    let groups = Groups::of(name)?;
    let mut cluster = Cluster { layout, groups, parts, state: State::new(plan)? };
    if let Err(error) = bring_up(&mut cluster, start) {
        // Its directory stays for whoever wants to read the logs; the next `up` or `down` removes it.
        if let Err(second) = cleanup::stop(name, &cluster.layout) {
            eprintln!("and what was started could not be ended: {second:#}");
        }
        bail!(
            "the cluster did not start: {error:#}
All logs: {}",
            cluster.layout.at("logs").display()
        );
    }
    let Cluster { layout, state, .. } = &cluster;
    println!(
        "cluster {name}, Kubernetes {}, is up after {:.1} s: {} node(s)",
        parts::KUBERNETES,
        start.elapsed().as_secs_f64(),
        state.plan.nodes
    );
    println!("  export KUBECONFIG={}", layout.kubeconfig().display());
    println!("  {}", cluster.parts.program("kubectl")?.display());
    Ok(())
}

/// Every step in order; what does not depend on another is under way while that one is waited for.
fn bring_up(cluster: &mut Cluster, start: Instant) -> Result<()> {
    let step = |what: &str| println!("[{:5.1} s] {what}", start.elapsed().as_secs_f64());
    cluster.groups.make(cluster.state.plan.numbers())?;
    net::make(cluster)?;
    let certificates = certs::Certificates::make(&cluster.layout.at("pki"), &cluster.state.plan)?;
    let plan = &cluster.state.plan;
    certificates.kubeconfig(
        "admin",
        &plan.api_url(),
        &format!("weft-test-{}", plan.name),
        &cluster.layout.kubeconfig(),
    )?;
    step("namespaces, links and certificates made");
    control::start_api(cluster, &certificates)?;
    node::start_containerd(cluster)?;
    node::await_containerd(cluster)?;
    images::prepare(cluster)?;
    step("containerd runs, images loaded");
    control::await_api(cluster)?;
    step("the API server is ready");
    control::register_nodes(cluster)?;
    control::start_controllers(cluster, &certificates)?;
    node::start_agents(cluster, &certificates)?;
    dns::deploy(cluster)?;
    node::await_ready(cluster)?;
    step("every node is ready");
    dns::await_answer(cluster)?;
    step("CoreDNS answers");
    cluster.state.complete = true;
    cluster.state.save(&cluster.layout.state())
}

fn down(name: &str, layout: &Layout) -> Result<()> {
    if !setup::is_root() {
        bail!("only root may end a cluster");
    }
    let _lock = layout.lock()?;
    let ended = cleanup::down(name, layout)?;
    if ended == cleanup::Ended::default() {
        println!("no cluster {name} is up");
    } else {
        println!("cluster {name} is down ({} processes ended)", ended.processes);
    }
    Ok(())
}

fn status(wanted: &str) -> Result<ExitCode> {
    let mut whole = false;
    for name in Layout::names()? {
        let layout = Layout::of(&name)?;
        let Some(state) = State::load(&layout.state())? else { continue };
        let running = state.running();
        let fine = state.complete && running.len() == state.daemons.len();
        whole |= fine && name == wanted;
        let families = if state.plan.dual_stack { "IPv4 and IPv6" } else { "IPv4" };
        let word = if fine {
            "up"
        } else if running.is_empty() {
            "not running"
        } else {
            "not whole"
        };
        println!(
            "{name}: {word}, {} node(s), {families}, API server {}",
            state.plan.nodes,
            state.plan.api_url()
        );
        for daemon in &state.daemons {
            let word = if daemon.process.runs() && running.contains(&daemon) { "runs" } else { "ended" };
            println!("  {word:6} {:24} {:>7}  {}", daemon.name, daemon.process.pid, daemon.log.display());
        }
    }
    if !whole {
        println!("the cluster {wanted} is not up");
    }
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
