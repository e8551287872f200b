//! Starting the programs of a cluster so that they outlive this one: in a session of their own, in the cluster's
//! control group, in the namespaces of a node, with their output in a file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::cgroup::Groups;
use super::layout::Layout;
use super::parts::Parts;
use super::state::{Daemon, Identity, State};
use crate::process;

/// The name of the process that holds a node's namespaces open.
pub(crate) const HOLDER: &str = "namespaces";
/// How many lines of a log explain a failure.
const TAIL: usize = 12;

/// A cluster that is being started.
pub(crate) struct Cluster {
    pub(crate) layout: Layout,
    pub(crate) groups: Groups,
    pub(crate) parts: Parts,
    pub(crate) state: State,
}

impl Cluster {
    /// Starts a program in the namespaces of `node`.
    pub(crate) fn start<S: AsRef<OsStr>>(&mut self, name: &str, node: u8, words: &[S]) -> Result<()> {
        let holder = self.state.daemon(HOLDER, node)?.process.pid;
        let mut all: Vec<OsString> = enter(holder);
        all.extend(words.iter().map(Into::into));
        self.launch(name, node, &all)
    }

    /// Starts a program in the machine's namespaces.
    pub(crate) fn launch<S: AsRef<OsStr>>(&mut self, name: &str, node: u8, words: &[S]) -> Result<()> {
        let log = self.layout.log(name, node);
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let script = format!("{}exec \"$@\"", self.groups.join_script());
        // Each of them replaces itself by the next: the id is the program's in the end.
        let mut command = Command::new("setsid");
        command
            .args(["sh", "-c", &script, "sh"])
            .args(words)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start `{}`", process::line(&command)))?;
        let pid = child.id();
        let process = Identity::of(pid).with_context(|| format!("{name} ended at once"))?;
        self.state.daemons.push(Daemon { name: name.to_owned(), node, process, log });
        self.state.save(&self.layout.state())
    }

    /// An error that names a daemon which has ended, with the end of its log.
    pub(crate) fn check(&self) -> Result<()> {
        match self.state.daemons.iter().find(|daemon| !daemon.process.runs()) {
            Some(Daemon { name, log, .. }) => bail!("{name} ended:\n{}", tail(log)),
            None => Ok(()),
        }
    }

    /// Waits for `condition`; fails at once when a daemon ends, and with the log of `component` when time is up.
    pub(crate) fn wait(
        &self,
        what: &str,
        component: (&str, u8),
        limit: Duration,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let outcome = process::wait_until(what, limit, || {
            self.check()?;
            let held = condition()?;
            if !held {
                process::pause(Duration::from_millis(150));
            }
            Ok(held)
        });
        outcome.map_err(|error| {
            let log = self.layout.log(component.0, component.1);
            anyhow!("{error:#}\nThe last lines of {}:\n{}", log.display(), tail(&log))
        })
    }

    /// `kubectl` for the whole cluster, from the machine's own namespace.
    pub(crate) fn kubectl(&self) -> Result<Command> {
        kubectl(&self.parts, &self.layout)
    }
}

/// `kubectl` with the cluster's configuration and no other.
pub(crate) fn kubectl(parts: &Parts, layout: &Layout) -> Result<Command> {
    let mut command = Command::new(parts.program("kubectl")?);
    environment(&mut command, layout);
    Ok(command)
}

/// What makes kubectl and helm work with this cluster, and keeps what they remember of it in its directory.
pub(crate) fn environment(command: &mut Command, layout: &Layout) {
    command.env("KUBECONFIG", layout.kubeconfig()).env("KUBECACHEDIR", layout.at("kubectl-cache"));
    for name in ["CACHE", "CONFIG", "DATA"] {
        command.env(format!("HELM_{name}_HOME"), layout.at("helm").join(name.to_lowercase()));
    }
}

/// The words that run what follows in the namespaces of the process `holder`.
pub(crate) fn enter(holder: u32) -> Vec<OsString> {
    let namespaces = [("net", "net"), ("mount", "mnt"), ("uts", "uts")];
    let options = namespaces.map(|(option, file)| format!("--{option}=/proc/{holder}/ns/{file}"));
    std::iter::once("nsenter".to_owned()).chain(options).map(OsString::from).collect()
}

/// The last lines of a file.
pub(crate) fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
