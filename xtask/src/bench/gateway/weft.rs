//! Weft as a gateway: as it runs beside a load balancer, with metrics on and 1 % of the requests traced and exported.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::bench::backend;
use crate::bench::certs::{Certificates, SERVER_NAME, Side};
use crate::bench::peers::weft::{tracing, wait_for_traces};
use crate::bench::peers::{EDGE_PORT, PROXY_USER, Peer, Program, Proxies};
use crate::bench::topology::Bed;
use crate::bench::work::Listener;
use crate::process::Background;

/// The plaintext port of the same gateway, where changes are looked for.
pub(super) const PLAIN_PORT: u16 = 8081;

/// Which routes there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Routes {
    /// What the other programs have: one host, all paths.
    One,
    /// So many hosts with ten routes each, of which one is called.
    Hosts(usize),
}

/// A gateway of Weft.
pub(crate) struct Weft {
    pub(crate) program: Program,
    routes: Routes,
    traces: bool,
}

impl Weft {
    /// A gateway of this binary.
    pub(crate) fn new(binary: PathBuf, routes: Routes) -> Self {
        Self { program: Program::new(binary), routes, traces: true }
    }

    /// Starts it.
    pub(crate) fn gateway(&self, bed: &Bed, certificates: &Certificates) -> Result<Background> {
        let directory = resources(bed);
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory)?;
        super::super::open_to_all(&directory)?;
        std::fs::write(directory.join("gateway.yaml"), gateway(certificates))?;
        let hosts = if let Routes::Hosts(hosts) = self.routes { hosts } else { 0 };
        for at in 0..hosts {
            std::fs::write(directory.join(format!("host-{at}.yaml")), ten_routes(at))?;
        }
        if hosts == 0 {
            std::fs::write(directory.join("route.yaml"), route("all", SERVER_NAME, "/", ""))?;
        }
        let telemetry = if self.traces { tracing() } else { String::new() };
        let config = format!("resources: [{}]\nworkers: 1\n{telemetry}", directory.display());
        let file = bed.write("weft-edge.yaml", &config)?;
        self.program.start(bed, Side::Server, ("weft-edge", "gateway", &file), true)
    }
}

impl Peer for Weft {
    fn name(&self) -> &'static str {
        "weft"
    }

    fn version(&self) -> Result<String> {
        self.program.version()
    }

    fn note(&self) -> &'static str {
        "one worker, metrics on, 1 % traces exported over OTLP/HTTP"
    }

    fn start(&self, bed: &Bed, certificates: &Certificates) -> Result<Proxies> {
        Ok(self.gateway(bed, certificates)?.into())
    }

    fn address(&self, _listener: Listener) -> String {
        super::address()
    }

    fn tls_address(&self) -> String {
        super::address()
    }

    fn check_after(&self, bed: &Bed) -> Result<()> {
        wait_for_traces(bed, Side::Server)
    }

    fn user(&self) -> Option<u32> {
        Some(PROXY_USER)
    }
}

/// Where its resources are.
pub(super) fn resources(bed: &Bed) -> PathBuf {
    bed.scratch.join("resources")
}

/// Has a file of resources say something else, as an editor does: a new one takes the place of the old one.
pub(super) fn replace(directory: &Path, file: &str, text: &str) -> Result<()> {
    // Not in the directory itself, where it would be read.
    let aside = directory.with_extension("aside");
    std::fs::write(&aside, text)?;
    std::fs::rename(&aside, directory.join(file))?;
    Ok(())
}

fn gateway(certificates: &Certificates) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1
kind: Certificate
metadata: {{ name: edge, namespace: bench }}
spec: {{ certificateFile: {certificate}, keyFile: {key} }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: edge, namespace: bench }}
spec:
  gatewayClassName: weft
  listeners:
    - name: https
      port: {EDGE_PORT}
      protocol: HTTPS
      tls: {{ certificateRefs: [{{ group: weft.dev, kind: Certificate, name: edge }}] }}
    - {{ name: http, port: {PLAIN_PORT}, protocol: HTTP }}
---
apiVersion: weft.dev/v1alpha1
kind: Backend
metadata: {{ name: app, namespace: bench }}
spec: {{ endpoints: [{{ host: 127.0.0.1, port: {app} }}] }}
",
        certificate = certificates.certificate(Side::Server).display(),
        key = certificates.key(Side::Server).display(),
        app = backend::port(Listener::Edge),
    )
}

/// A route of one host and the paths below one.
pub(super) fn route(name: &str, host: &str, path: &str, more: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: {name}, namespace: bench }}
spec:
  parentRefs: [{{ name: edge }}]
  hostnames: [{host}]
  rules:
    - matches: [{{ path: {{ type: PathPrefix, value: {path} }} }}]
      backendRefs: [{{ group: weft.dev, kind: Backend, name: app }}]
{more}"
    )
}

/// The routes of one host, of which one has all paths; the first host is the one that is called.
fn ten_routes(host: usize) -> String {
    let name = if host == 0 { SERVER_NAME.to_owned() } else { format!("h{host}.bench.weft.local") };
    let mut text = route(&format!("h{host}-all"), &name, "/", "");
    for at in 1..10 {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}", route(&format!("h{host}-r{at}"), &name, &format!("/part-{at}"), ""));
    }
    text
}
