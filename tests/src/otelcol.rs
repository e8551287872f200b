//! A real OpenTelemetry Collector, built once by Go and kept outside the tree.
//!
//! Its version stands here and in the manifest, `tests/otelcol.yaml`. `docs/guide/testing.md` says how to have another one
//! used.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::mesh::find_program;

const VERSION: &str = "v0.145.0";

/// The components that tests need, and no other: the binary builds in a minute. `cargo xtask` begins with it early.
const MANIFEST: &str = include_str!("../otelcol.yaml");

/// Where built and downloaded things are kept: `$WEFT_CACHE`, `$XDG_CACHE_HOME/weft` or `~/.cache/weft`.
///
/// # Errors
/// None of the variables is set.
pub fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("WEFT_CACHE") {
        return Ok(dir.into());
    }
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    Ok(base.or_else(home).context("neither WEFT_CACHE, XDG_CACHE_HOME nor HOME is set")?.join("weft"))
}

/// The collector's binary, built where it is not there yet. `progress` is told what takes long.
///
/// # Errors
/// It is not there and cannot be built, for example because Go is not installed.
pub fn collector_binary(progress: impl Fn(&str)) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WEFT_OTELCOL") {
        return Ok(path.into());
    }
    let dir = cache_dir()?.join(format!("otelcol-{VERSION}"));
    let binary = dir.join("otelcol");
    if binary.is_file() {
        return Ok(binary);
    }
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    // Several tests may want it at once: the first builds, the others wait for the lock.
    let lock = File::create(dir.join("lock")).context("creating a lock file")?;
    flock(&lock, FlockOperation::LockExclusive).context("waiting for another build of the collector")?;
    if !binary.is_file() {
        build(&dir, progress)?;
        // In one step: a build that was interrupted leaves no binary.
        fs::rename(dir.join("out/otelcol"), &binary).context("keeping the collector")?;
    }
    Ok(binary)
}

fn build(dir: &Path, progress: impl Fn(&str)) -> Result<()> {
    let Some(go) = find_go() else {
        bail!(
            "no Go to build the OpenTelemetry Collector with: install Go, or set WEFT_OTELCOL to a collector"
        );
    };
    progress("building the OpenTelemetry Collector once, this takes a minute or two");
    fs::write(dir.join("manifest.yaml"), MANIFEST).context("writing the collector's manifest")?;
    let log = File::create(dir.join("build.log")).context("creating the build log")?;
    let builder = format!("go.opentelemetry.io/collector/cmd/builder@{VERSION}");
    let status = Command::new(&go)
        .args(["run", &builder, "--config", "manifest.yaml"])
        // The builder runs `go` by name.
        .env("PATH", path_with(&go)?)
        .env("CGO_ENABLED", "0")
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("duplicating the build log")?)
        .stderr(log)
        .status()
        .context("running go")?;
    if !status.success() {
        bail!("the collector did not build ({status}): see {}", dir.join("build.log").display());
    }
    Ok(())
}

pub(crate) fn find_go() -> Option<PathBuf> {
    find_program("go").or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|path| path.is_file()))
}

fn path_with(go: &Path) -> Result<std::ffi::OsString> {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let dirs = go.parent().map(Path::to_owned).into_iter().chain(std::env::split_paths(&own));
    std::env::join_paths(dirs).context("a PATH entry with a colon")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_of_this_version() {
        assert!(
            MANIFEST.contains(&format!("\n  version: {}\n", VERSION.trim_start_matches('v'))),
            "{MANIFEST}"
        );
    }
}
