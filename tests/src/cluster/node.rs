//! The nodes: their files and their wires, seen from the machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Cluster;
use crate::capture::{Packets, stopped};
use crate::process::Process;

/// What passes the bridges of all nodes' pods.
#[derive(Debug)]
#[must_use = "call stop() to see what was captured"]
pub struct NodeCapture {
    running: Vec<(Arc<Process>, PathBuf)>,
    _dir: tempfile::TempDir,
}

impl NodeCapture {
    /// Ends it and reads what each node saw.
    ///
    /// # Errors
    /// Packets were lost, or there is nothing to read.
    pub fn stop(self) -> Result<Vec<Packets>> {
        self.running.iter().map(|(process, file)| stopped(process, file)).collect()
    }
}

/// What is in a directory; nothing where it is gone: pods come and go while their nodes are looked at.
pub(super) fn entries(directory: impl AsRef<Path>) -> Vec<PathBuf> {
    std::fs::read_dir(directory)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

impl Cluster {
    /// A process of each node, which holds its namespaces.
    pub(super) fn holders(&self) -> Result<Vec<u64>> {
        let text = std::fs::read(self.dir().join("state.json")).context("the cluster's state")?;
        let state: Value = serde_json::from_slice(&text).context("the cluster's state")?;
        let daemons = state["daemons"].as_array().context("no daemons")?;
        let nodes = daemons.iter().filter(|daemon| daemon["name"] == "namespaces" && daemon["node"] != 0);
        let pids: Vec<u64> = nodes.filter_map(|daemon| daemon["process"]["pid"].as_u64()).collect();
        if pids.is_empty() {
            bail!("the cluster has no nodes: {state}");
        }
        Ok(pids)
    }

    /// What each node has as `/var/lib`.
    pub(super) fn node_libraries(&self) -> Vec<PathBuf> {
        (1..=2)
            .map(|node| self.dir().join(format!("node-{node}/var-lib")))
            .filter(|path| path.is_dir())
            .collect()
    }

    /// Records what passes between pods, on every node's bridge.
    ///
    /// # Errors
    /// tcpdump cannot be started.
    pub fn capture(&self, filter: &str) -> Result<NodeCapture> {
        let dir = tempfile::tempdir().context("a directory for captures")?;
        let mut running = Vec::new();
        for (number, holder) in self.holders()?.into_iter().enumerate() {
            let file = dir.path().join(format!("node-{number}.pcap"));
            let mut command = Command::new("nsenter");
            // In promiscuous mode the bridge also shows what it passes from one pod to another.
            command.args([
                &format!("--net=/proc/{holder}/ns/net"),
                "tcpdump",
                "-i",
                "cni0",
                "-Z",
                "root",
                "-w",
            ]);
            command.arg(&file).args(["-s", "0", "-U", "--immediate-mode", "-B", "65536"]);
            command.args(filter.split_whitespace());
            let process = Process::start("tcpdump", command, &dir.path().join(format!("log-{number}")))?;
            process.wait_for_log("listening on", Duration::from_secs(20))?;
            running.push((Arc::new(process), file));
        }
        Ok(NodeCapture { running, _dir: dir })
    }
}
