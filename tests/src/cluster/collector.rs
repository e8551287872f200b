//! A real OpenTelemetry Collector in a pod, which writes the spans to its node's disk.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::workload::{REPORTS, Workload};
use super::{COLLECTOR_IMAGE, Namespace};
use crate::collector::{Span, read_file, tree};
use crate::wait::{eventually, rest};

/// The OTLP/gRPC port.
const GRPC: u16 = 4317;

/// How long spans may be under way: the proxy's batch, the collector's batch, the file.
const ARRIVAL: Duration = Duration::from_secs(30);

/// A collector in a namespace.
#[derive(Debug)]
pub struct OtelCollector<'a> {
    namespace: Namespace<'a>,
    ca: String,
}

fn host(namespace: Namespace<'_>) -> String {
    format!("otelcol.{}.svc.cluster.local", namespace.name())
}

impl<'a> OtelCollector<'a> {
    /// Deploys it as the Service `otelcol`, with a certificate of its own, and waits until it takes connections.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(namespace: Namespace<'a>) -> Result<Self> {
        let certificate = rcgen::generate_simple_self_signed([host(namespace)]).context("a certificate")?;
        let collector = Self { namespace, ca: certificate.cert.pem() };
        collector.files().iter().for_each(|file| drop(std::fs::remove_file(file)));
        let tls = json!({ "cert_file": "/etc/otelcol/tls.crt", "key_file": "/etc/otelcol/tls.key" });
        let grpc = json!({ "endpoint": format!("[::]:{GRPC}"), "tls": tls });
        let config = json!({
            "receivers": { "otlp": { "protocols": { "grpc": grpc } } },
            "processors": { "batch": { "timeout": "100ms" } },
            "exporters": { "file": { "path": format!("{REPORTS}/spans.jsonl"), "flush_interval": "100ms" } },
            "service": {
                "telemetry": { "metrics": { "level": "none" } },
                "pipelines": { "traces": {
                    "receivers": ["otlp"], "processors": ["batch"], "exporters": ["file"],
                }},
            },
        });
        namespace.apply_object(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "otelcol" },
            "stringData": {
                "otelcol.yaml": config.to_string(),
                "tls.crt": collector.ca, "tls.key": certificate.signing_key.serialize_pem(),
            },
        }))?;
        let workload = Workload::deployment("otelcol")
            .container("app", &["--config", "/etc/otelcol/otelcol.yaml"], |container| {
                container["image"] = COLLECTOR_IMAGE.into();
                container["readinessProbe"] = json!({ "tcpSocket": { "port": GRPC }, "periodSeconds": 1 });
                container["volumeMounts"] = json!([
                    { "name": "reports", "mountPath": REPORTS }, { "name": "config", "mountPath": "/etc/otelcol" },
                ]);
                container["lifecycle"] = json!(null);
                // The directory of the node is root's.
                container["securityContext"] = json!({ "runAsUser": 0 });
            })
            .edit(|pod| {
                pod["spec"]["volumes"] = json!([
                    { "name": "reports", "hostPath": { "path": REPORTS, "type": "DirectoryOrCreate" } },
                    { "name": "config", "secret": { "secretName": "otelcol" } },
                ]);
            })
            .service(GRPC, GRPC);
        namespace.apply(&workload)?;
        namespace.ready(&["otelcol"])?;
        Ok(collector)
    }

    /// The values of an installation whose proxies report to it.
    pub fn values(&self) -> [String; 2] {
        let endpoint = format!("https://{}:{GRPC}", host(self.namespace));
        [
            format!("proxy.telemetry.tracing.endpoint={endpoint}"),
            format!("proxy.telemetry.tracing.caPem={}", self.ca),
        ]
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let below = format!("{}/spans.jsonl", REPORTS.trim_start_matches("/var/lib/"));
        self.namespace.cluster().node_libraries().into_iter().map(|node| node.join(&below)).collect()
    }

    /// All spans that have arrived.
    ///
    /// # Errors
    /// A line is not OTLP JSON.
    pub fn spans(&self) -> Result<Vec<Span>> {
        let mut spans = Vec::new();
        for file in self.files() {
            spans.extend(read_file(&std::fs::read_to_string(file).unwrap_or_default())?);
        }
        Ok(spans)
    }

    /// Waits until a trace has at least `count` spans that are one tree, and gives them, the root first.
    ///
    /// # Errors
    /// It does not come to that within half a minute.
    pub fn trace(&self, id: &str, count: usize) -> Result<Vec<Span>> {
        let own = || -> Result<Vec<Span>> {
            Ok(self.spans()?.into_iter().filter(|span| span.trace == id).collect())
        };
        eventually(&format!("{count} spans of trace {id}"), ARRIVAL, || {
            rest(Duration::from_millis(200));
            let own = own()?;
            Ok(if own.len() >= count { tree(&own).ok() } else { None })
        })
        .with_context(|| format!("of the trace arrived {:#?}", own()))
    }
}
