//! `browser` → `web` → `orders` → `inventory` (gRPC) → redis, each in a pod with a sidecar; and `echo`, which answers
//! with the headers that it saw.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use weft_testbed::{Collector, Mesh, Pod, Process, Request, Result, Service, Sidecar, Span, eventually};

/// A safety net, nothing that a story measures.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A span of somebody who reports elsewhere.
pub(crate) const CALLER: &str = "00f067aa0ba902b7";

pub(crate) struct Shop<'a> {
    pub(crate) collector: &'a Collector,
    pods: BTreeMap<&'static str, Pod>,
    apps: BTreeMap<&'static str, Arc<Process>>,
    sidecars: BTreeMap<&'static str, Sidecar>,
}

impl<'a> Shop<'a> {
    /// Only `browser` and `echo`; `edit` changes `telemetry.tracing` of both.
    pub(crate) fn pair(mesh: &'a Mesh, edit: impl Fn(&mut Value)) -> Result<Self> {
        let mut shop = Self::new(mesh)?;
        shop.add(mesh, "echo", "http", 8080, 80, |tracing, _| edit(tracing))?;
        shop.add(mesh, "browser", "", 0, 0, |tracing, _| edit(tracing))?;
        Ok(shop)
    }

    /// All of them, reporting by OTLP over `protocol`: `grpc` or `http`.
    pub(crate) fn chain(mesh: &'a Mesh, protocol: &str) -> Result<Self> {
        let mut shop = Self::new(mesh)?;
        let collector = shop.collector;
        let report = |tracing: &mut Value, pod: &Pod| {
            let endpoint = if protocol == "http" { collector.http_for(pod) } else { collector.grpc_for(pod) };
            *tracing = json!({ "endpoint": endpoint, "protocol": protocol, "sampling": 1.0 });
        };
        shop.add(mesh, "redis", "redis", 6379, 6379, report)?;
        shop.add(mesh, "inventory", "inventory", 50051, 50051, report)?;
        shop.add(mesh, "orders", "orders", 8080, 80, report)?;
        shop.add(mesh, "web", "web", 8080, 80, report)?;
        shop.add(mesh, "browser", "", 0, 0, report)?;
        Ok(shop)
    }

    fn new(mesh: &'a Mesh) -> Result<Self> {
        let (pods, apps, sidecars) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { collector: mesh.collector()?, pods, apps, sidecars })
    }

    fn add(
        &mut self,
        mesh: &Mesh,
        name: &'static str,
        app: &str,
        target: u16,
        port: u16,
        edit: impl Fn(&mut Value, &Pod),
    ) -> Result<()> {
        let pod = mesh.pod(&format!("{name}.shop")).start()?;
        if !app.is_empty() {
            let process = if app == "redis" { pod.redis()? } else { pod.app_of(app, target)? };
            self.apps.insert(name, process);
            mesh.dns().set(Service::virtual_ip(&format!("{name}.shop")).port(port, target).on(&[&pod]))?;
        }
        let sidecar = mesh.sidecar(&pod)?.config(|yaml| edit(&mut yaml["telemetry"]["tracing"], &pod));
        self.sidecars.insert(name, sidecar.start()?);
        self.pods.insert(name, pod);
        Ok(())
    }

    pub(crate) fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.get(name).with_context(|| format!("no pod {name}"))
    }

    pub(crate) fn sidecar(&self, name: &str) -> Result<&Sidecar> {
        self.sidecars.get(name).with_context(|| format!("no sidecar {name}"))
    }

    /// Kills an application and leaves its sidecar.
    pub(crate) fn stop_app(&self, name: &str) -> Result<()> {
        self.apps.get(name).with_context(|| format!("no application {name}"))?.kill();
        Ok(())
    }

    /// Sends to `echo` and returns the headers that its application saw.
    pub(crate) fn echo(&self, headers: &[(&str, &str)]) -> Result<BTreeMap<String, String>> {
        let request = headers
            .iter()
            .fold(Request::get("http://echo.shop/"), |request, (name, value)| request.header(name, value));
        let seen = self.pod("browser")?.send(request)?.json()?;
        let headers = seen["headers"].as_object().context("no headers")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(headers.iter().map(|(name, value)| (name.clone(), text(value))).collect())
    }

    /// The access log lines of a sidecar for a path, once there are `count`.
    pub(crate) fn lines(&self, name: &str, path: &str, count: usize) -> Result<Vec<Value>> {
        let sidecar = self.sidecar(name)?;
        eventually(&format!("{count} log lines of {name} for {path}"), SOON, || {
            let mut lines = Vec::new();
            // The last line may be half written.
            for line in sidecar.log().split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let line: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
                if line["direction"].is_string() && line["path"] == path {
                    lines.push(line);
                }
            }
            Ok((lines.len() >= count).then_some(lines))
        })
    }
}

/// A valid trace id that no other story has.
pub(crate) fn new_trace() -> String {
    format!("{:032x}", fastrand::u128(1..))
}

/// `traceparent` of [`CALLER`], with the sampled flag.
pub(crate) fn traceparent(trace: &str, sampled: bool) -> String {
    format!("00-{trace}-{CALLER}-0{}", u8::from(sampled))
}

/// One span of a service and kind.
pub(crate) fn one<'a>(spans: &'a [Span], service: &str, kind: &str) -> Result<&'a Span> {
    let found: Vec<&Span> =
        spans.iter().filter(|span| span.service == service && span.kind == kind).collect();
    let [span] = found.as_slice() else {
        anyhow::bail!("{} {kind} spans of {service} in {spans:#?}", found.len())
    };
    Ok(span)
}
