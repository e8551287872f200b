//! `kubectl`: what its users type, typed by a story.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{Output, Process, run};
use crate::wait::eventually;

/// How long any command may take, those that wait included.
const DEADLINE: Duration = Duration::from_secs(300);

/// How long something may take to appear that the cluster makes by itself.
const SOON: Duration = Duration::from_secs(60);

/// `kubectl` with the rights of the cluster's administrator.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    config: PathBuf,
}

/// A port of this machine that leads to a pod or service; closed when dropped.
#[derive(Debug)]
pub struct Forward {
    process: Process,
    port: u16,
    /// Removed after the process has ended.
    _log: tempfile::TempPath,
}

impl Forward {
    /// The port of 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What `kubectl port-forward` has written.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

impl Kubectl {
    pub(crate) fn new(program: PathBuf, config: PathBuf) -> Self {
        Self { program, config }
    }

    /// The configuration file, for other programs.
    pub fn config(&self) -> &std::path::Path {
        &self.config
    }

    /// Runs it, however it ends.
    ///
    /// # Errors
    /// It does not start, or does not end within 5 minutes.
    pub fn output(&self, words: &[&str]) -> Result<Output> {
        let mut command = self.command();
        command.args(words);
        run("kubectl", command, &std::env::temp_dir(), DEADLINE)
    }

    /// Runs it and gives back what it printed.
    ///
    /// # Errors
    /// It failed; the error shows what it wrote.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.output(words)?.ok();
        Ok(output.with_context(|| format!("kubectl {}", words.join(" ")))?.stdout)
    }

    /// Creates or changes objects; each with its namespace in its metadata.
    ///
    /// # Errors
    /// One of them is refused.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        self.feed(&["apply"], &list(objects)).map(drop)
    }

    /// Creates an object that is not there yet.
    ///
    /// # Errors
    /// It is there, or is refused: the error has the API server's words.
    pub fn create(&self, object: &Value) -> Result<()> {
        self.feed(&["create"], object).map(drop)
    }

    /// Runs a command that takes objects, such as `apply`, on text in YAML or JSON.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn feed_text(&self, words: &[&str], text: &str) -> Result<String> {
        let file = tempfile::NamedTempFile::new().context("a file for kubectl")?;
        std::fs::write(file.path(), text).context("a file for kubectl")?;
        let path = file.path().display().to_string();
        self.run(&[words, &["-f", &path]].concat())
    }

    fn feed(&self, words: &[&str], objects: &Value) -> Result<String> {
        self.feed_text(words, &objects.to_string())
    }

    /// One object.
    ///
    /// # Errors
    /// It is not there.
    pub fn get(&self, namespace: &str, kind: &str, name: &str) -> Result<Value> {
        let text = self.run(&["get", "-n", namespace, kind, name, "-o", "json"])?;
        serde_json::from_str(&text).context("an object as JSON")
    }

    /// The objects of a kind that a label selector picks; all of them where it is empty.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn list(&self, namespace: &str, kind: &str, selector: &str) -> Result<Vec<Value>> {
        let mut words = vec!["get", kind, "-o", "json"];
        if namespace.is_empty() {
            words.push("--all-namespaces");
        } else {
            words.extend(["-n", namespace]);
        }
        if !selector.is_empty() {
            words.extend(["-l", selector]);
        }
        let mut list: Value = serde_json::from_str(&self.run(&words)?).context("a list as JSON")?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// Waits until an object is there.
    ///
    /// # Errors
    /// It is not within a minute.
    pub fn wait_for(&self, namespace: &str, kind: &str, name: &str) -> Result<Value> {
        eventually(&format!("{kind} {name} in {namespace}"), SOON, || {
            Ok(self.get(namespace, kind, name).ok())
        })
    }

    /// Forwards a free port of this machine to one of `target`, such as `pod/web-0` or `svc/web`.
    ///
    /// # Errors
    /// `kubectl port-forward` does not start.
    pub fn forward(&self, namespace: &str, target: &str, port: u16) -> Result<Forward> {
        let log = tempfile::Builder::new().prefix("forward-").tempfile().context("a log file")?;
        let mut command = self.command();
        command.args(["port-forward", "-n", namespace, target, &format!(":{port}")]);
        let path = log.into_temp_path();
        let process = Process::start("kubectl port-forward", command, &path)?;
        process.wait_for_log("Forwarding from", Duration::from_secs(30))?;
        let log = process.log();
        let said = log.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
        let Some(port) = said.and_then(|port| port.parse().ok()) else { bail!("no port in {log:?}") };
        Ok(Forward { process, port, _log: path })
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", &self.config);
        command
    }
}

/// Objects as one object, as kubectl takes them.
pub(crate) fn list(objects: &[Value]) -> Value {
    serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects })
}
