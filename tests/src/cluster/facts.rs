//! What the sidecars' metrics say about who talks to whom, and how.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;

use super::Namespace;
use crate::sidecar::Metrics;
use crate::wait::eventually;

/// `timeouts.drain` as it is by default, and time for the metric to tell.
const DRAIN: Duration = Duration::from_secs(40);

/// The callers that a sidecar has verified: `peer_identity` of what came in.
pub fn identities(metrics: &Metrics) -> BTreeSet<String> {
    ["http_server_request_duration_seconds_count", "weft_tcp_connections_opened_total"]
        .into_iter()
        .flat_map(|name| metrics.of(name, &[]))
        .filter(|sample| sample.name.starts_with("http_server") || sample.label("direction") == "inbound")
        .map(|sample| sample.label("peer_identity").to_owned())
        .filter(|identity| !identity.is_empty())
        .collect()
}

/// Connections without mutual TLS that reached a pod's sidecar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plaintext {
    /// Served, because the mode is permissive.
    pub served: f64,
    /// Refused, because it is strict.
    pub refused: f64,
}

impl Namespace<'_> {
    /// What of a pod came in plaintext.
    ///
    /// # Errors
    /// It has no sidecar that answers.
    pub fn plaintext(&self, pod: &str) -> Result<Plaintext> {
        let metrics = self.metrics(pod)?;
        let sum = |outcome: &str| metrics.sum("weft_plaintext_connections_total", &[("outcome", outcome)]);
        Ok(Plaintext { served: sum("served"), refused: sum("refused") })
    }

    /// Waits until no TCP connection that was accepted in plaintext is open any more: for the drain of strict pods.
    ///
    /// # Errors
    /// One stays open.
    pub fn plaintext_ends(&self, workload: &str) -> Result<()> {
        eventually(&format!("the plaintext connections of {workload} to end"), DRAIN, || {
            let open = |pod: &String| {
                let labels = [("direction", "inbound"), ("tls", "none")];
                Ok(self.metrics(pod)?.sum("weft_tcp_connections_active", &labels))
            };
            let open = self.pod_names(workload)?.iter().map(open).sum::<Result<f64>>()?;
            Ok((open < 1.0).then_some(()))
        })
    }
}
