//! The demo's edge: a gateway with HTTPS, its certificate, the routes of the shop, and the way to it from this machine.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::gateway::PublicCa;
use crate::mesh::find_program;
use crate::{Mesh, Pod, Request};

/// The shop's name in public, which nobody owns (RFC 6761 section 6.2).
pub(super) const HOST: &str = "shop.test";
const HTTPS: u16 = 8443;

/// A gateway with HTTPS for the shop, and the route behind it.
const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: edge}
spec:
  gatewayClassName: weft{addresses}
  listeners:
  - name: https
    port: {port}
    protocol: HTTPS
    hostname: shop.test
    tls: {certificateRefs: [{group: weft.dev, kind: Certificate, name: shop}]}
    allowedRoutes: {namespaces: {from: All}}
---
apiVersion: weft.dev/v1alpha1
kind: Certificate
metadata: {name: shop, namespace: edge}
spec: {certificateFile: {dir}/shop.pem, keyFile: {dir}/shop.key}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: shop}
spec:
  parentRefs: [{name: public, namespace: edge}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";

/// What web's sidecar follows: one request in five for orders goes to the canary.
const CANARY: &str = "
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: orders-canary, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: orders, port: 80}]
  rules:
  - backendRefs:
    - {name: orders, port: 80, weight: 80}
    - {name: orders-canary, port: 80, weight: 20}
";

/// Writes what web's sidecar follows, and gives the file.
pub(super) fn canary(web: &Pod) -> Result<PathBuf> {
    let file = web.dir().join("canary.yaml");
    fs::write(&file, CANARY).context("writing the canary's route")?;
    Ok(file)
}

/// Where the shop is open to the public.
#[derive(Debug)]
pub(super) struct Edge {
    /// What vouches for its certificate.
    pub(super) ca: PathBuf,
    gateway: SocketAddr,
    /// The same for programs of this machine.
    pub(super) here: SocketAddr,
}

impl Edge {
    /// Writes the gateway's resources into `pod`, and gives the file with them.
    pub(super) fn prepare(mesh: &Mesh, pod: &Pod) -> Result<(Self, PathBuf)> {
        let dir = pod.dir();
        let ca = PublicCa::new(dir, "ca")?;
        ca.issue("shop", &[HOST])?;
        let gateway = SocketAddr::new(pod.ip(), pod.port(HTTPS));
        let resources = dir.join("gateway.yaml");
        // On loopback the pods are addresses of one machine.
        let addresses = match pod.is_loopback() {
            true => format!("\n  addresses: [{{value: \"{}\"}}]", gateway.ip()),
            false => String::new(),
        };
        let text = GATEWAY.replace("{dir}", &dir.display().to_string()).replace("{addresses}", &addresses);
        fs::write(&resources, text.replace("{port}", &gateway.port().to_string()))?;
        mesh.dns().host(HOST, &pod.addresses())?;
        let here = if pod.is_loopback() { gateway } else { passage(pod, gateway)? };
        Ok((Self { ca: dir.join("ca.pem"), gateway, here }, resources))
    }

    /// What the shopper asks for.
    pub(super) fn request(&self) -> Result<Request> {
        Request::get(&format!("https://{HOST}:{}/checkout", self.gateway.port())).trust(&self.ca)
    }

    /// How a person asks from this machine.
    pub(super) fn curl(&self) -> String {
        let Self { ca, here, .. } = self;
        let port = here.port();
        format!(
            "curl --cacert {} --resolve {HOST}:{port}:{} https://{HOST}:{port}/checkout",
            ca.display(),
            here.ip()
        )
    }

    /// Does so. `None`: there is no curl.
    pub(super) fn ask_from_here(&self) -> Option<Result<String>> {
        find_program("curl")?;
        Some(self.asked())
    }

    fn asked(&self) -> Result<String> {
        let words = self.curl();
        let mut words = words.split(' ');
        let mut command = Command::new(words.next().unwrap_or("curl"));
        let output =
            command.args(["-sS", "--fail", "--max-time", "15"]).args(words).output().context("curl")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// A port of this machine that leads to the gateway: a socket stays in the network where it was bound, and a thread inside the
/// pod's network takes its connections.
fn passage(pod: &Pod, gateway: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port of this machine")?;
    listener.set_nonblocking(true)?;
    let here = listener.local_addr()?;
    // It runs as long as the demo.
    let _task = pod.start(async move || passing(listener, gateway).await)?;
    Ok(here)
}

async fn passing(listener: TcpListener, gateway: SocketAddr) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (mut near, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut far = tokio::net::TcpStream::connect(gateway).await?;
            tokio::io::copy_bidirectional(&mut near, &mut far).await
        });
    }
}
