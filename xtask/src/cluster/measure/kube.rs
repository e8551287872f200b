//! The cluster's API, by `kubectl` where a second does not matter, by curl with the administrator's certificate where a
//! millisecond does.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{NAMESPACE, SOON};
use crate::cluster::images::BUSYBOX;
use crate::cluster::launch::{self, Cluster};
use crate::process;

/// The API of the cluster.
pub(super) struct Kube<'a> {
    cluster: &'a Cluster,
    scratch: tempfile::TempDir,
}

/// A pod that serves HTTP to nobody, with a sidecar or, in the same namespace, without.
pub(super) fn pod(name: &str, sidecar: bool) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": NAMESPACE,
            "labels": { "app": name, "weft.dev/inject": if sidecar { "enabled" } else { "disabled" } },
        },
        "spec": {
            "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
            "containers": [{
                "name": "app", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent",
                "command": ["httpd", "-f", "-p", "8080"], "ports": [{ "containerPort": 8080 }],
            }],
        },
    })
}

impl<'a> Kube<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Result<Self> {
        Ok(Self { cluster, scratch: tempfile::tempdir().context("a directory for requests")? })
    }

    /// The file for programs that talk to the cluster.
    pub(super) fn config(&self) -> PathBuf {
        self.cluster.layout.kubeconfig()
    }

    /// `kubectl`, not started yet.
    pub(super) fn kubectl(&self, words: &[&str]) -> Result<Command> {
        let mut command = launch::kubectl(&self.cluster.parts, &self.cluster.layout)?;
        command.args(words);
        Ok(command)
    }

    /// What `kubectl` prints.
    pub(super) fn run(&self, words: &[&str]) -> Result<String> {
        process::text(&mut self.kubectl(words)?)
    }

    /// An object or a list.
    pub(super) fn get(&self, words: &[&str]) -> Result<Value> {
        let text = self.run(&[&["get", "-o", "json"], words].concat())?;
        serde_json::from_str(&text).context("an object as JSON")
    }

    /// A command that takes objects as text.
    pub(super) fn feed(&self, words: &[&str], objects: &str) -> Result<String> {
        let file = self.file("objects", objects)?;
        self.run(&[words, &["-f", &file]].concat())
    }

    pub(super) fn apply(&self, object: &Value) -> Result<()> {
        self.feed(&["apply"], &object.to_string()).map(drop)
    }

    /// A namespace whose pods are injected.
    pub(super) fn meshed_namespace(&self, name: &str) -> Result<()> {
        let labels = json!({ "weft.dev/inject": "enabled" });
        self.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } }))
    }

    /// Waits until a pod of the measurement's namespace is ready.
    pub(super) fn wait_ready(&self, pod: &str) -> Result<()> {
        let limit = format!("--timeout={}s", SOON.as_secs());
        self.run(&["wait", "-n", NAMESPACE, &format!("pod/{pod}"), "--for=condition=ready", &limit]).map(drop)
    }

    /// A file of the measurement's own.
    pub(super) fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.scratch.path().join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.display().to_string())
    }

    /// Where the API server is.
    pub(super) fn url(&self) -> String {
        self.cluster.state.plan.api_url()
    }

    /// Lines of curl's configuration by which it is the cluster's administrator.
    pub(super) fn credentials(&self) -> String {
        let pki = |name: &str| self.cluster.layout.at("pki").join(name).display().to_string();
        let lines = [("cacert", "ca.pem"), ("cert", "admin.pem"), ("key", "admin.key")];
        lines.map(|(option, file)| format!("{option} = {:?}\n", pki(file))).concat()
    }

    /// curl as the cluster's administrator, which fails where the API server refuses.
    pub(super) fn curl(&self, words: &[&str], path: &str) -> Result<Command> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail", "--max-time", "600"]);
        command.args(["-K", &self.file("administrator", &self.credentials())?]);
        command.args(["-H", "content-type: application/json", "-o", "/dev/null"]).args(words);
        command.arg(format!("{}{path}", self.url()));
        Ok(command)
    }
}
