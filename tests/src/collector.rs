//! The collector: where spans and metrics go, and reading spans back (metrics: `measured.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::pod::Pod;
use crate::process::Process;
use crate::wait::eventually;

const GRPC: u16 = 4317;
const HTTP: u16 = 4318;

/// How long the collector may take to start.
const START: Duration = Duration::from_secs(20);

/// How long spans may be under way: the proxy's batch, the collector's batch, the file.
pub(crate) const ARRIVAL: Duration = Duration::from_secs(20);

const METRICS: &str = "metrics.jsonl";

/// One span as the collector wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// 32 hex digits.
    pub trace: String,
    /// 16 hex digits.
    pub id: String,
    /// The parent's id; empty for a root.
    pub parent: String,
    /// The name.
    pub name: String,
    /// `server`, `client`, `internal`, ...
    pub kind: String,
    /// `service.name` of the resource.
    pub service: String,
    /// The other attributes of the resource.
    pub resource: BTreeMap<String, String>,
    /// The span's attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Start, in ns since 1970.
    pub start: u64,
    /// End, in ns since 1970.
    pub end: u64,
    /// Whether the status is an error.
    pub error: bool,
}

impl Span {
    /// An attribute, or "".
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// What receives the spans.
#[derive(Debug, Clone)]
pub(crate) enum Receiver {
    /// A real OpenTelemetry Collector.
    Otelcol(PathBuf),
    /// Weft's own small receiver (`apps/otlp.rs`): OTLP/HTTP only.
    Own,
}

/// A collector in a pod: a real OpenTelemetry Collector, except where [`Mesh::any_collector`](crate::Mesh::any_collector)
/// had to do without.
#[derive(Debug)]
pub struct Collector {
    pod: Pod,
    receiver: Receiver,
    process: Mutex<Arc<Process>>,
}

impl Collector {
    pub(crate) fn start(pod: Pod, receiver: Receiver) -> Result<Self> {
        let config = json!({
            "receivers": { "otlp": { "protocols": {
                "grpc": { "endpoint": pod.listen_on(pod.port(GRPC)) },
                "http": { "endpoint": pod.listen_on(pod.port(HTTP)) },
            }}},
            "processors": { "batch": { "timeout": "100ms" } },
            "exporters": {
                "file": { "path": pod.dir().join("spans.jsonl"), "flush_interval": "100ms" },
                "file/metrics": { "path": pod.dir().join(METRICS), "flush_interval": "100ms" },
            },
            "service": {
                "telemetry": { "metrics": { "level": "none" } },
                "pipelines": {
                    "traces": { "receivers": ["otlp"], "processors": ["batch"], "exporters": ["file"] },
                    "metrics": { "receivers": ["otlp"], "processors": ["batch"], "exporters": ["file/metrics"] },
                },
            },
        });
        fs::write(pod.dir().join("otelcol.yaml"), format!("{config:#}")).context("writing otelcol.yaml")?;
        let process = Mutex::new(launch(&pod, &receiver)?);
        Ok(Self { pod, receiver, process })
    }

    /// The OTLP/gRPC endpoint as a pod reaches it.
    pub fn grpc_for(&self, pod: &Pod) -> String {
        format!("http://{}", self.pod.socket_for(pod, self.pod.port(GRPC)))
    }

    /// The OTLP/HTTP endpoint as a pod reaches it.
    pub fn http_for(&self, pod: &Pod) -> String {
        format!("http://{}", self.pod.socket_for(pod, self.pod.port(HTTP)))
    }

    /// `telemetry.tracing` of `weft.yaml` for a pod: everything is sampled.
    pub(crate) fn tracing_for(&self, pod: &Pod) -> Value {
        match self.receiver {
            Receiver::Otelcol(_) => {
                json!({ "endpoint": self.grpc_for(pod), "protocol": "grpc", "sampling": 1.0 })
            }
            Receiver::Own => json!({ "endpoint": self.http_for(pod), "protocol": "http", "sampling": 1.0 }),
        }
    }

    /// An outage.
    pub fn stop(&self) {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).kill();
    }

    /// Ends an outage. The spans from before stay.
    ///
    /// # Errors
    /// The collector does not start.
    pub fn restart(&self) -> Result<()> {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = launch(&self.pod, &self.receiver)?;
        Ok(())
    }

    /// An outage of the worse kind: connections are taken, nothing is answered.
    pub fn pause(&self) {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).pause();
    }

    /// Ends [`Collector::pause`].
    pub fn resume(&self) {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).resume();
    }

    pub(crate) fn metrics_file(&self) -> PathBuf {
        self.pod.dir().join(METRICS)
    }

    /// The pod it runs in.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// All spans that have arrived.
    ///
    /// # Errors
    /// The file has a complete line that is not OTLP JSON.
    pub fn spans(&self) -> Result<Vec<Span>> {
        let text = fs::read_to_string(self.pod.dir().join("spans.jsonl")).unwrap_or_default();
        read_file(&text)
    }

    /// The spans in the last megabyte of the file: for a view that is drawn again and again.
    ///
    /// # Errors
    /// As [`Collector::spans`].
    pub fn recent_spans(&self) -> Result<Vec<Span>> {
        use std::io::{Read, Seek, SeekFrom};
        const RECENT: u64 = 1 << 20;
        let Ok(mut file) = fs::File::open(self.pod.dir().join("spans.jsonl")) else { return Ok(Vec::new()) };
        let length = file.metadata().context("the collector's file")?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(RECENT))).context("the collector's file")?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).context("the collector's file")?;
        let text = String::from_utf8_lossy(&bytes);
        // Begun in the middle of a line: that one is left out.
        let whole = if length > RECENT { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &text };
        read_file(whole)
    }

    /// Waits until `enough` is true of all spans that have arrived.
    ///
    /// # Errors
    /// 20 s pass; the error lists what did arrive.
    pub fn wait_for(&self, what: &str, enough: impl Fn(&[Span]) -> bool) -> Result<Vec<Span>> {
        eventually(what, ARRIVAL, || {
            let spans = self.spans()?;
            Ok(enough(&spans).then_some(spans))
        })
        .with_context(|| {
            let spans = self.spans().unwrap_or_default();
            let lines: Vec<String> = spans.iter().rev().take(30).map(describe).collect();
            format!("{} spans arrived, the last:\n{}", spans.len(), lines.join("\n"))
        })
    }

    /// Waits until one trace has at least `count` spans and all of them are joined in one tree; returns them, the root
    /// first, each parent before its children.
    ///
    /// # Errors
    /// It does not come to that within 20 s.
    pub fn trace(&self, id: &str, count: usize) -> Result<Vec<Span>> {
        let of = |spans: &[Span]| -> Vec<Span> { spans.iter().filter(|s| s.trace == id).cloned().collect() };
        let all = self.wait_for(&format!("{count} spans of trace {id}"), |spans| {
            let own = of(spans);
            own.len() >= count && tree(&own).is_ok()
        })?;
        tree(&of(&all))
    }
}

fn launch(pod: &Pod, receiver: &Receiver) -> Result<Arc<Process>> {
    let Receiver::Otelcol(binary) = receiver else { return pod.app_of("otlp", pod.port(HTTP)) };
    let config = pod.dir().join("otelcol.yaml").display().to_string();
    let process = pod.spawn("otelcol", &[&binary.display().to_string(), "--config", &config])?;
    eventually("the collector to listen", START, || {
        if !process.is_running() {
            bail!("the collector ended");
        }
        // Its two receivers begin one after the other.
        for port in [GRPC, HTTP] {
            let address = std::net::SocketAddr::new(pod.ip(), pod.port(port));
            if !pod.run(async || Ok(tokio::net::TcpStream::connect(address).await.is_ok()))? {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .with_context(|| format!("output of the collector: {}", process.log().trim()))?;
    Ok(process)
}

/// Orders spans of one trace from the root down.
///
/// # Errors
/// There is no root or more than one, or a parent that is not there.
pub fn tree(spans: &[Span]) -> Result<Vec<Span>> {
    let by_id: BTreeMap<&str, &Span> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    // A parent that is not among the spans is fine for one span only: the caller's own, which is not exported here.
    let roots: Vec<&Span> = spans.iter().filter(|span| !by_id.contains_key(span.parent.as_str())).collect();
    let [root] = roots.as_slice() else {
        let names: Vec<String> = roots.iter().map(|span| describe(span)).collect();
        bail!("{} spans without a parent in the trace instead of one:\n{}", roots.len(), names.join("\n"));
    };
    let mut ordered: Vec<Span> = vec![(*root).clone()];
    let mut at = 0;
    while let Some(parent) = ordered.get(at).map(|span| span.id.clone()) {
        let mut children: Vec<Span> = spans.iter().filter(|s| s.parent == parent).cloned().collect();
        children.sort_by_key(|span| span.start);
        let next = at + 1;
        ordered.splice(next..next, children);
        at = next;
    }
    Ok(ordered)
}

fn describe(span: &Span) -> String {
    let Span { trace, id, parent, name, kind, service, .. } = span;
    format!("  {trace} {id} <- {parent:16} {service} {kind} {name:?}")
}

pub(crate) fn read_file(text: &str) -> Result<Vec<Span>> {
    // The last line may be half written.
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut spans = Vec::new();
    for line in complete.lines() {
        read_line(&serde_json::from_str(line).context("the collector's file")?, &mut spans);
    }
    Ok(spans)
}

/// One `ExportTraceServiceRequest` in OTLP's JSON encoding.
fn read_line(line: &Value, spans: &mut Vec<Span>) {
    for resource_spans in array(&line["resourceSpans"]) {
        let mut resource = attributes(&resource_spans["resource"]["attributes"]);
        let service = resource.remove("service.name").unwrap_or_default();
        for span in array(&resource_spans["scopeSpans"]).iter().flat_map(|scope| array(&scope["spans"])) {
            let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
            let time = |key: &str| span[key].as_str().and_then(|time| time.parse().ok()).unwrap_or_default();
            // SpanKind and StatusCode of opentelemetry/proto/trace/v1/trace.proto.
            let kind = match span["kind"].as_u64() {
                Some(1) => "internal",
                Some(2) => "server",
                Some(3) => "client",
                Some(4) => "producer",
                Some(5) => "consumer",
                _ => "unspecified",
            };
            spans.push(Span {
                trace: text("traceId"),
                id: text("spanId"),
                parent: text("parentSpanId"),
                name: text("name"),
                kind: kind.to_owned(),
                service: service.clone(),
                resource: resource.clone(),
                attributes: attributes(&span["attributes"]),
                start: time("startTimeUnixNano"),
                end: time("endTimeUnixNano"),
                error: span["status"]["code"].as_u64() == Some(2),
            });
        }
    }
}

pub(crate) fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn attributes(list: &Value) -> BTreeMap<String, String> {
    let pair = |item: &Value| {
        let value = item["value"].as_object()?.values().next()?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some((item["key"].as_str()?.to_owned(), text))
    };
    array(list).iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: &str, parent: &str, start: u64) -> Span {
        let text = |text: &str| text.to_owned();
        Span {
            trace: text("t"),
            id: text(id),
            parent: text(parent),
            name: text(id),
            kind: text("server"),
            service: text("s"),
            resource: BTreeMap::new(),
            attributes: BTreeMap::new(),
            start,
            end: start,
            error: false,
        }
    }

    #[test]
    fn a_tree_has_one_root_and_every_parent() {
        let spans = [span("c", "b", 3), span("d", "a", 2), span("a", "caller", 0), span("b", "a", 1)];
        let order: Vec<String> = tree(&spans).unwrap().into_iter().map(|span| span.id).collect();
        assert_eq!(order, ["a", "b", "c", "d"]);
        assert!(tree(&[span("a", "", 0), span("b", "lost", 1)]).is_err());
        assert!(tree(&[]).is_err());
    }

    #[test]
    fn otlp_json_is_read() {
        let line = json!({ "resourceSpans": [{
            "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": "web" } }] },
            "scopeSpans": [{ "spans": [{
                "traceId": "0a", "spanId": "01", "parentSpanId": "", "name": "GET", "kind": 3,
                "startTimeUnixNano": "5", "endTimeUnixNano": "7", "status": { "code": 2 },
                "attributes": [{ "key": "http.response.status_code", "value": { "intValue": "503" } }],
            }]}],
        }]});
        let mut spans = Vec::new();
        read_line(&line, &mut spans);
        assert_eq!((spans[0].kind.as_str(), spans[0].service.as_str()), ("client", "web"));
        assert_eq!((spans[0].end, spans[0].error), (7, true));
        assert_eq!(spans[0].attribute("http.response.status_code"), "503");
    }
}
