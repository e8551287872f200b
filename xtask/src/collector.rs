//! The OpenTelemetry Collector of the demo and the stories, built by Go while cargo builds the rest.
//!
//! Whoever needs a collector builds it where there is none (`tests/src/otelcol.rs`), which by then has everybody waiting. So it is
//! begun before: in the same place, under the same lock, from the same manifest. What fails here fails there again, and
//! is told there.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use crate::{cargo, process, setup};

/// A build under way, if one is needed.
pub(crate) struct Build(Option<JoinHandle<()>>);

/// Begins to build the collector where there is none. `go` is used where the machine has no Go of its own.
pub(crate) fn start(go: Option<&Path>) -> Build {
    let Some(work) = Work::find(go) else { return Build(None) };
    println!(
        "meanwhile: the OpenTelemetry Collector, built once by Go ({})",
        work.directory.join("build.log").display()
    );
    Build(Some(std::thread::spawn(move || match work.run() {
        Ok(()) => println!("the OpenTelemetry Collector is built"),
        Err(error) => println!("the OpenTelemetry Collector was not built: {error:#}"),
    })))
}

impl Build {
    /// Waits for its end.
    pub(crate) fn finish(self) {
        let Some(building) = self.0 else { return };
        if !building.is_finished() {
            println!("waiting for the OpenTelemetry Collector");
        }
        // A panic has told of itself; whoever needs the collector tries again.
        let _ = building.join();
    }
}

struct Work {
    go: PathBuf,
    manifest: String,
    version: String,
    /// Where the test bed looks.
    directory: PathBuf,
}

impl Work {
    /// `None` where nothing is to be done, or nothing can be.
    fn find(go: Option<&Path>) -> Option<Self> {
        if env::var_os("WEFT_OTELCOL").is_some() {
            return None;
        }
        let usual = || Some(PathBuf::from("/usr/local/go/bin/go")).filter(|go| go.is_file());
        let go = setup::find_program("go").or_else(usual).or_else(|| go.map(Path::to_owned))?;
        let manifest = fs::read_to_string(cargo::root().join("tests/otelcol.yaml")).ok()?;
        let version = format!("v{}", version(&manifest)?);
        let directory = cache()?.join(format!("otelcol-{version}"));
        (!directory.join("otelcol").is_file()).then_some(Self { go, manifest, version, directory })
    }

    fn run(&self) -> Result<()> {
        let dir = &self.directory;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let lock = File::create(dir.join("lock"))?;
        lock.lock().context("waiting for another build")?;
        if dir.join("otelcol").is_file() {
            return Ok(());
        }
        fs::write(dir.join("manifest.yaml"), &self.manifest)?;
        let log = File::create(dir.join("build.log"))?;
        let builder = format!("go.opentelemetry.io/collector/cmd/builder@{}", self.version);
        let own = env::var_os("PATH").unwrap_or_default();
        // The builder runs `go` by name.
        let path = self.go.parent().map(Path::to_owned).into_iter().chain(env::split_paths(&own));
        // It ends with us, should we be ended: as all children.
        let mut command = process::command(&["setpriv", "--pdeathsig", "KILL"]);
        command.arg(&self.go).args(["run", &builder, "--config", "manifest.yaml"]);
        command.env("PATH", env::join_paths(path)?).env("CGO_ENABLED", "0").current_dir(dir);
        let status = quietly(&mut command, log)?;
        anyhow::ensure!(status, "see {}", dir.join("build.log").display());
        // In one step: a build that was interrupted leaves no binary.
        fs::rename(dir.join("out/otelcol"), dir.join("otelcol")).context("cannot keep it")
    }
}

fn quietly(command: &mut Command, log: File) -> Result<bool> {
    let status = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).status();
    Ok(status.with_context(|| format!("cannot start `{}`", process::line(command)))?.success())
}

/// The version of the distribution, which is that of the builder.
fn version(manifest: &str) -> Option<&str> {
    manifest.lines().find_map(|line| line.trim().strip_prefix("version: "))
}

/// Where built and downloaded things are kept, as `weft_testbed::otelcol::cache_dir` says.
fn cache() -> Option<PathBuf> {
    let below = |name: &str, rest: &str| env::var_os(name).map(|base| PathBuf::from(base).join(rest));
    below("WEFT_CACHE", "")
        .or_else(|| below("XDG_CACHE_HOME", "weft"))
        .or_else(|| below("HOME", ".cache/weft"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_names_one_version() {
        let manifest = fs::read_to_string(cargo::root().join("tests/otelcol.yaml")).unwrap();
        let version = version(&manifest).unwrap();
        let modules: Vec<_> = manifest.lines().filter_map(|line| line.split_once("gomod: ")).collect();
        assert!(!modules.is_empty());
        for (_, module) in modules {
            assert!(module.ends_with(&format!(" v{version}")), "{module}");
        }
    }
}
