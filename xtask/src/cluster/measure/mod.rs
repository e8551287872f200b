//! `cargo xtask cluster measure`: what the mesh costs a cluster while nobody calls anybody, and what it adds to a pod's start.
//!
//! Figures of requests are the business of `cargo xtask bench`. Here is what each pod and each cluster pays all the time:
//! memory and processor time of an idle sidecar and of the control part (`idle`), how both grow with the mesh (`many`),
//! how much later an injected pod is ready (`startup`), and how long its admission takes (`admission`). Nothing runs
//! beside what is measured; one thing is measured at a time.

mod admission;
mod idle;
mod kube;
mod many;
mod report;
mod startup;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};

use super::layout::Layout;
use super::{e2e, images, needs, open, running, up};
use crate::{bench, dist, process, setup};
use kube::Kube;

/// Options of `cargo xtask cluster measure`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Measure this program, rather than a release build that is made.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// How long processor time is counted, in seconds.
    #[arg(long, default_value_t = 60, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How many pods are started with a sidecar, and how many without.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    starts: u32,
    /// How many admissions are timed.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    admissions: u32,
    /// By how many pods and services the mesh grows; figures are for 100.
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pods: u32,
    /// Leave the cluster up, and in it what was made.
    #[arg(long)]
    keep: bool,
    /// Put the tables into docs/benchmarks.md.
    #[arg(long)]
    write_docs: bool,
}

/// The namespace of the pods that are measured.
const NAMESPACE: &str = "measure";
/// The only pod that stays.
const IDLE: &str = "idle";
/// How long new processes are left alone before they count as idle.
const SETTLE: Duration = Duration::from_secs(30);
/// How long something may take that the cluster or Weft does by itself.
const SOON: Duration = Duration::from_secs(180);

/// Runs the command.
pub(super) fn run(name: &str, options: &Options) -> Result<ExitCode> {
    needs()?;
    setup::ensure("cargo xtask cluster measure", &[setup::PODS, setup::DIST])?;
    let weft = match &options.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => dist::release()?,
    };
    let layout = Layout::of(name)?;
    let was_up = running(&layout).is_ok();
    if !was_up {
        up(name, layout.clone(), 1, false)?;
    }
    let measured = measure(name, &layout, &weft, options);
    if was_up && !options.keep {
        clean(name, &layout)?;
    } else if !options.keep {
        super::down(name, &layout)?;
    }
    let tables = measured?.markdown();
    println!("\n{tables}");
    if options.write_docs {
        bench::report::write_section(report::BEGIN, report::END, &tables)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(name: &str, layout: &Layout, weft: &Path, options: &Options) -> Result<report::Results> {
    let step = |what: &str| println!("{what}");
    let cluster = {
        let _lock = layout.lock()?;
        let cluster = open(name, layout.clone())?;
        let work = tempfile::tempdir()?;
        images::load(&cluster, &e2e::pack(weft, e2e::IMAGE, "a", work.path())?)?;
        cluster
    };
    let kube = Kube::new(&cluster)?;
    step("installing Weft");
    install(&kube, weft)?;
    kube.meshed_namespace(NAMESPACE)?;
    injector_answers(&kube)?;
    kube.apply(&kube::pod(IDLE, true))?;
    kube.wait_ready(IDLE)?;

    step("letting everything come to rest");
    process::pause(SETTLE);
    let time = Duration::from_secs(options.seconds);
    step(&format!("{} s of idleness", options.seconds));
    let before = idle::measure(&cluster, &kube, time)?;
    step(&format!("{} pods with and {} without a sidecar", options.starts, options.starts));
    let startup = startup::measure(&kube, options.starts)?;
    step(&format!("{} admissions", options.admissions));
    let admission = admission::measure(&kube, options.admissions)?;
    step(&format!("{} more pods and services", options.pods));
    let many = many::measure(&cluster, &kube, options.pods, time)?;
    Ok(report::Results {
        machine: bench::machine(),
        version: process::text(Command::new(weft).arg("--version"))?.trim().to_owned(),
        kubernetes: super::parts::KUBERNETES.to_owned(),
        seconds: options.seconds,
        idle: before,
        startup,
        admission,
        many,
    })
}

/// `weft install | kubectl apply -f -`.
fn install(kube: &Kube<'_>, weft: &Path) -> Result<()> {
    let mut command = Command::new(weft);
    command.args(["install", "--image", e2e::IMAGE]).env("KUBECONFIG", kube.config());
    let objects = process::text(&mut command)?;
    kube.feed(&["apply"], &objects)?;
    let words = ["rollout", "status", "deployment/weft-control", "-n", idle::SYSTEM, "--timeout=180s"];
    kube.run(&words).map(drop)
}

fn injector_answers(kube: &Kube<'_>) -> Result<()> {
    let pod = kube::pod("probe", true).to_string();
    process::wait_until("the injector to be called", SOON, || {
        let made = kube.feed(&["create", "--dry-run=server", "-o", "json"], &pod);
        Ok(made.is_ok_and(|made| made.contains("\"weft-proxy\"")))
    })
}

/// Takes away what was made on a cluster that others use.
fn clean(name: &str, layout: &Layout) -> Result<()> {
    let cluster = open(name, layout.clone())?;
    let kube = Kube::new(&cluster)?;
    many::clean(&kube)?;
    kube.run(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s"])
        .map(drop)
        .context("the namespace of the measurement")
}

/// The middle value, or the mean of the two in the middle; 0 of nothing.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    bench::report::median(values).unwrap_or_default()
}

/// The value that this share of all are at most (nearest rank); 0 of nothing.
fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * share).ceil().max(1.0);
    sorted.get(rank as usize - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert!((percentile(&values, 0.5) - 100.0).abs() < 1e-9);
        assert!((percentile(&values, 0.99) - 198.0).abs() < 1e-9);
        assert!((percentile(&[7.0], 0.0) - 7.0).abs() < 1e-9);
        assert!(percentile(&[], 0.5).abs() < 1e-9);
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
    }
}
