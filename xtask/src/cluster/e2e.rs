//! `cargo xtask cluster e2e`: the tests that need a real API server or Helm, and then the stories of
//! `tests/tests/cluster.rs` on a real cluster.
//!
//! It brings what they need (the programs, three images, the cluster) and tells them where it is. The stories use the
//! cluster as its users do, by `kubectl`, `helm` and `weft`; nothing of them is in here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::cgroup::Groups;
use super::layout::Layout;
use super::{images, needs, open, running, up};
use crate::cargo::{self, Profile};
use crate::dist::oci::Image;
use crate::dist::{self, libs};
use crate::{go, process, setup};

/// Options of `cargo xtask cluster e2e`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Put this program into the image, rather than one that is built.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Leave the cluster up, and in it what the stories made.
    #[arg(long)]
    keep: bool,
    /// The images are loaded already: start with the stories.
    #[arg(long)]
    warm: bool,
    /// For a cluster that is not up yet: how many nodes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    nodes: u8,
    /// For a cluster that is not up yet: pods and services have IPv6 addresses too.
    #[arg(long)]
    dual_stack: bool,
    /// The control part is away for 5 minutes, rather than 40 s, in the story about it; one pod attacks for 2 minutes, rather than
    /// 20 s; and a cluster of 20,000 pods is followed.
    #[arg(long)]
    long: bool,
    /// Where this machine cannot carry a cluster (no root, no Go, no control groups), say why and end with 0.
    #[arg(long)]
    where_possible: bool,
    /// Only the stories that a change breaks first, a few minutes of the hour that all of them take.
    #[arg(long, conflicts_with_all = ["long", "filters"])]
    core: bool,
    /// Run only stories whose name contains one of these words.
    filters: Vec<String>,
}

/// The image under test, and the same program under another version.
pub(super) const IMAGE: &str = "docker.io/weft-test/weft:a";
const NEXT_IMAGE: &str = "docker.io/weft-test/weft:b";
/// It is named in `tests/src/cluster/mod.rs`.
const APP: &str = "docker.io/weft-test/testapp:1";

/// Runs the command.
pub(super) fn run(name: &str, options: &Options) -> Result<ExitCode> {
    if options.where_possible
        && let Some(obstacle) = obstacle(name)
    {
        println!("the stories on a cluster are left out: {obstacle}");
        return Ok(ExitCode::SUCCESS);
    }
    if options.filters.iter().any(|filter| filter.starts_with('-')) {
        bail!("a filter is a part of a story's name");
    }
    needs()?;
    setup::ensure("cargo xtask cluster e2e", &[setup::PODS, setup::STORIES, setup::DIST])?;
    // As `cargo xtask test` does, so that what that has built is there.
    cargo::build(Profile::Debug, &["--workspace", "--all-targets"])?;
    let weft = match &options.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => cargo::binary(Profile::Debug, "weft")?,
    };
    let mut passed = true;
    if options.filters.is_empty() && !options.warm {
        passed = without_nodes(options.long)?;
    }
    let layout = Layout::of(name)?;
    let was_up = running(&layout).is_ok();
    if !was_up {
        up(name, layout.clone(), options.nodes, options.dual_stack)?;
    }
    let loaded = if !options.warm || !was_up { load(name, &layout, &weft) } else { Ok(()) };
    let told = loaded.and_then(|()| stories(&layout, &weft, options));
    // Also where no story could be begun.
    if !was_up && !options.keep {
        super::down(name, &layout)?;
    }
    passed &= told?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Why no cluster can be had on this machine.
fn obstacle(name: &str) -> Option<String> {
    if !dist::check::possible() {
        return Some("only root, of the machine rather than of a user namespace, can make one".to_owned());
    }
    if go::find_go().is_none() {
        return Some("there is no Go (1.26 or later) to build Kubernetes with".to_owned());
    }
    let spaces = ["unshare", "--net", "--mount", "--uts", "true"];
    if let Err(error) = process::capture(&mut process::command(&spaces)) {
        return Some(format!("this machine makes no namespaces: {error:#}"));
    }
    Groups::of(name).and_then(|groups| groups.probe()).err().map(|error| format!("{error:#}"))
}

/// The test that makes a cluster of 20,000 pods: minutes, and figures for the docs rather than a verdict.
const LARGE: &str = "a_large_cluster_is_followed";

/// The story of one pod that attacks the rest of the cluster: minutes of a busy machine. By its name it is told alone.
const ATTACK: &str = "one_pod_attacks_by_all_means_and_nobody_else_notices";

/// The stories of pods that slipped by and are made anew, and of LimitRanges: minutes of waiting for grace times.
const RECREATED: &str = "recreated::";

/// The stories of `--core`: injection and every hop's identity, both doors of a mode, each shape of pod, the CA against a forged
/// token, moving in under load, and the way out.
const CORE: [&str; 6] = [
    "label_restart_and_every_hop_is_mutual_tls",
    "plaintext_is_served_or_refused_as_the_mode_says",
    "every_shape_of_pod_takes_part",
    "a_token_gives_its_own_identity_or_none",
    "clients_move_in_first",
    "weft_uninstall_leaves_nothing",
];

/// What needs Kubernetes' API server alone, or Helm: part of the crate's own tests.
fn without_nodes(long: bool) -> Result<bool> {
    let parts = super::Parts::ensure()?;
    let mut command = cargo::cargo();
    command.args(["test", "--workspace", "--no-fail-fast", "--test", "api", "--test", "chart"]);
    // One API server with its store at a time: each takes a whole core while it starts.
    command.args(["--", "--ignored", "--test-threads", "1"]);
    if !long {
        command.args(["--skip", LARGE]);
    }
    command
        .env("WEFT_KUBE_APISERVER", parts.program("kube-apiserver")?)
        .env("WEFT_HELM", parts.program("helm")?);
    println!("$ {}", process::line(&command));
    process::stream(&mut command)
}

fn load(name: &str, layout: &Layout, weft: &Path) -> Result<()> {
    let work = tempfile::tempdir()?;
    let mut archives = vec![pack(weft, IMAGE, "a", work.path())?, pack(weft, NEXT_IMAGE, "b", work.path())?];
    let app = work.path().join("testapp.tar");
    application(&cargo::binary(Profile::Debug, "weft-testapp")?)?.fast().write(&app, APP)?;
    archives.push(app);
    let _lock = layout.lock()?;
    let cluster = open(name, layout.clone())?;
    for archive in &archives {
        images::load(&cluster, archive)?;
    }
    images::collector(&cluster)?;
    println!("loaded {IMAGE}, {NEXT_IMAGE}, {APP} and {}", images::COLLECTOR);
    Ok(())
}

/// Packs the program as `cargo xtask dist` does.
pub(super) fn pack(weft: &Path, tag: &str, version: &str, work: &Path) -> Result<PathBuf> {
    dist::archive(weft, tag, version, &work.join(version))
}

/// The test applications, redis, curl and a shell, with the libraries that they need.
fn application(testapp: &Path) -> Result<Image> {
    let redis = setup::find_program("redis-server").context("redis-server is not installed")?;
    let curl = setup::find_program("curl").context("curl is not installed")?;
    let busybox = setup::find_program("busybox").context("busybox is not installed")?;
    let mut image = Image::new()
        .file("/weft-testapp", read(testapp)?, 0o755)
        .file("/usr/bin/redis-server", read(&redis)?, 0o755)
        .file("/usr/bin/curl", read(&curl)?, 0o755)
        .file("/bin/busybox", read(&busybox)?, 0o755)
        .symlink("/bin/sh", "busybox")
        .file("/etc/nsswitch.conf", "hosts: files dns\n", 0o644)
        .directory("/tmp", 0o1777);
    for library in libs::closure(&[testapp.to_owned(), redis, curl])? {
        image = image.file(&library.display().to_string(), read(&library)?, 0o755);
    }
    Ok(image.entrypoint(&["/weft-testapp"]).env("PATH", "/bin:/usr/bin").user("65532:65532"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

fn stories(layout: &Layout, weft: &Path, options: &Options) -> Result<bool> {
    let parts = super::Parts::ensure()?;
    let mut command = cargo::cargo();
    command.args(["test", "--workspace", "--test", "cluster", "--", "--ignored", "--test-threads", "1"]);
    // Figures, and what a failed story saw, as they come: a whole run takes a while.
    command.arg("--nocapture").args(&options.filters);
    if options.core {
        command.args(CORE);
    }
    if !options.long && options.filters.is_empty() {
        command.args(["--skip", ATTACK, "--skip", RECREATED]);
    }
    command
        .env("WEFT_BIN", weft)
        .env("WEFT_CLUSTER", layout.top())
        .env("WEFT_KUBECTL", parts.program("kubectl")?)
        .env("WEFT_HELM", parts.program("helm")?)
        .env("WEFT_IMAGE", IMAGE)
        .env("WEFT_NEXT_IMAGE", NEXT_IMAGE);
    for (set, name) in [(options.keep, "WEFT_KEEP"), (options.long, "WEFT_LONG")] {
        if set {
            command.env(name, "1");
        }
    }
    println!("$ {}", process::line(&command));
    process::stream(&mut command)
}
