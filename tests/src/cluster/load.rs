//! Steady traffic from pods of the cluster, whose reports outlive the pods.
//!
//! A client that is moved into the mesh is restarted like everything else, and its requests count as well. So each pod
//! writes its report to a directory of its node, and the load is the sum of what is there.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::Namespace;
use super::node::entries;
use super::workload::{REPORTS, Workload};
use crate::load::Report;
use crate::wait::{eventually, rest};

/// How long further answers may take to come, restarts of everything included.
const SOON: Duration = Duration::from_secs(120);

/// Load about to be started.
#[derive(Debug)]
#[must_use = "call start()"]
pub struct ClusterLoadBuilder<'a> {
    namespace: Namespace<'a>,
    name: String,
    words: Vec<String>,
}

/// Load that runs in a Deployment of its own.
#[derive(Debug)]
#[must_use = "call stop() for the report"]
pub struct ClusterLoad<'a> {
    namespace: Namespace<'a>,
    name: String,
}

impl<'a> ClusterLoadBuilder<'a> {
    pub(super) fn new(namespace: Namespace<'a>, name: &str, url: &str) -> Self {
        Self { namespace, name: name.to_owned(), words: vec!["load".into(), "--url".into(), url.into()] }
    }

    fn word(mut self, words: &[&str]) -> Self {
        self.words.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Requests a second of each pod; 20 unless said.
    pub fn rate(self, rate: u32) -> Self {
        self.word(&["--rate", &rate.to_string()])
    }

    /// Connections that share the rate; 4 unless said.
    pub fn connections(self, connections: u32) -> Self {
        self.word(&["--connections", &connections.to_string()])
    }

    /// Each request over a connection of its own.
    pub fn fresh_connections(self) -> Self {
        self.word(&["--fresh"])
    }

    /// HTTP/2 by prior knowledge.
    pub fn http2(self) -> Self {
        self.word(&["--http2"])
    }

    /// Starts it and waits for its first answers.
    ///
    /// # Errors
    /// It does not start, or nothing answers.
    pub fn start(self) -> Result<ClusterLoad<'a>> {
        let Self { namespace, name, mut words } = self;
        words.extend(["--report".into(), format!("{REPORTS}/{}/{name}/$(POD).json", namespace.name())]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let workload = Workload::deployment(&name)
            .container("app", &words, |container| {
                container["volumeMounts"] = json!([{ "name": "reports", "mountPath": REPORTS }]);
                // The directory of the node is root's. And nobody waits for a client's end.
                container["securityContext"]["runAsUser"] = 0.into();
                container["securityContext"]["runAsGroup"] = 0.into();
                container["lifecycle"] = json!(null);
            })
            .edit(|pod| {
                let volume = json!({ "path": REPORTS, "type": "DirectoryOrCreate" });
                pod["spec"]["volumes"] = json!([{ "name": "reports", "hostPath": volume }]);
            });
        let load = ClusterLoad { namespace, name };
        // Of an earlier run in a namespace of this name.
        load.directories().iter().for_each(|directory| drop(fs::remove_dir_all(directory)));
        namespace.apply(&workload)?;
        load.wait_for(1)?;
        Ok(load)
    }
}

impl ClusterLoad<'_> {
    /// Its name, which is that of its Deployment.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn directories(&self) -> Vec<PathBuf> {
        let below =
            format!("{}/{}/{}", REPORTS.trim_start_matches("/var/lib/"), self.namespace.name(), self.name);
        self.namespace.cluster().node_libraries().into_iter().map(|node| node.join(&below)).collect()
    }

    /// What has happened so far: at most half a second old.
    ///
    /// # Errors
    /// A report cannot be read.
    pub fn so_far(&self) -> Result<Report> {
        let mut sum = Report::default();
        for directory in self.directories() {
            for file in entries(&directory) {
                if file.extension().is_some_and(|extension| extension == "json") {
                    let text = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
                    sum.join(serde_json::from_slice(&text).context("a report")?);
                }
            }
        }
        Ok(sum)
    }

    /// Waits until `more` further requests have been answered well.
    ///
    /// # Errors
    /// It takes longer than 2 minutes.
    pub fn wait_for(&self, more: u64) -> Result<()> {
        let goal = self.so_far()?.ok + more;
        let what = format!("{more} further good answers of {}", self.name);
        eventually(&what, SOON, || {
            rest(Duration::from_millis(200));
            Ok((self.so_far()?.ok >= goal).then_some(()))
        })
        .with_context(|| format!("so far: {:?}", self.so_far()))
    }

    /// Ends it: requests that are under way are waited for.
    ///
    /// # Errors
    /// The Deployment does not go.
    pub fn stop(self) -> Result<Report> {
        self.namespace.run(&["delete", "deployment", &self.name, "--cascade=foreground", "--timeout=60s"])?;
        let report = self.so_far()?;
        super::figure(
            &format!("{} of {}", self.name, self.namespace.name()),
            format!("{} sent, {} ok, {} failed", report.sent, report.ok, report.failures()),
        );
        Ok(report)
    }
}
