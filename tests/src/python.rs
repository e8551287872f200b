//! Python peers: a virtual environment with pinned packages, made once and kept outside the tree.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::mesh::find_program;
use crate::otelcol::cache_dir;
use crate::{Gateway, Pod, Process};

const REQUIREMENTS: &str = include_str!("../python/requirements.txt");

/// A Python server has to import its packages first, which takes a second on a busy machine.
const START: Duration = Duration::from_secs(20);

/// How long a client may take for everything that it does.
const WORK: Duration = Duration::from_secs(60);

/// The interpreter of the environment.
fn interpreter() -> Result<PathBuf> {
    let wanted: Vec<&str> = REQUIREMENTS.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    // The packages name the directory, so that a change of a version makes a new one.
    let dir = cache_dir()?.join(format!("python-{}", wanted.join("-").replace("==", "-")));
    let python = dir.join("bin/python");
    let done = dir.join("complete");
    if done.is_file() {
        return Ok(python);
    }
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let lock = File::create(dir.join("lock")).context("creating a lock file")?;
    flock(&lock, FlockOperation::LockExclusive).context("waiting for another test")?;
    if !done.is_file() {
        let base = find_program("python3").context("python3 is missing: install python3 and python3-venv")?;
        step(Command::new(base).args(["-m", "venv"]).arg(&dir), "making a virtual environment")?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        step(Command::new(&python).args(pip).args(&wanted), "installing Python packages")?;
        fs::write(&done, "").context("marking the environment")?;
    }
    Ok(python)
}

fn step(command: &mut Command, what: &str) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| what.to_owned())?;
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name).display().to_string()
}

impl Gateway {
    /// Starts a server out of `tests/python` beside it and waits until it writes `listening`.
    ///
    /// # Errors
    /// Python or a package is missing, or the server does not start.
    pub fn python_server(&self, name: &str, args: &[&str]) -> Result<Process> {
        let (python, script) = (interpreter()?.display().to_string(), script(name));
        let process = self.beside(name, &python, &[&[script.as_str()], args].concat())?;
        process.wait_for_log("listening", START)?;
        Ok(process)
    }

    /// Runs a client out of `tests/python` and returns what it printed, which is JSON.
    ///
    /// # Errors
    /// Python or a package is missing, or the client failed.
    pub fn python_client(&self, name: &str, args: &[&str]) -> Result<serde_json::Value> {
        let (python, script) = (interpreter()?.display().to_string(), script(name));
        let output = self.run_within(WORK, &python, &[&[script.as_str()], args].concat())?.ok()?;
        serde_json::from_str(&output.stdout).with_context(|| format!("not JSON: {}", output.stdout))
    }
}

impl Pod {
    /// Starts a server out of `tests/python` and waits until it writes `listening`.
    ///
    /// # Errors
    /// Python or a package is missing, or the server does not start.
    pub fn python_server(&self, name: &str, args: &[&str]) -> Result<Arc<Process>> {
        let (python, script) = (interpreter()?.display().to_string(), script(name));
        let process = self.spawn(name, &[&[python.as_str(), &script], args].concat())?;
        process.wait_for_log("listening", START)?;
        Ok(process)
    }

    /// Runs a client out of `tests/python` and returns what it printed, which is JSON.
    ///
    /// # Errors
    /// Python or a package is missing, or the client failed.
    pub fn python_client(&self, name: &str, args: &[&str]) -> Result<serde_json::Value> {
        let (python, script) = (interpreter()?.display().to_string(), script(name));
        let output = self.exec(&[&[python.as_str(), &script], args].concat())?.ok()?;
        serde_json::from_str(&output.stdout).with_context(|| format!("not JSON: {}", output.stdout))
    }
}
