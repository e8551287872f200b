//! A gateway with services behind it that tell what they were asked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::Result;
use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;
use weft_testbed::{Gateway, PublicCa, Teller};

/// A gateway with its CA, and what was made for it before it starts.
pub(crate) struct Scene {
    dir: TempDir,
    pub(crate) ca: PublicCa,
    resources: String,
    services: Vec<String>,
}

impl Scene {
    pub(crate) fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let ca = PublicCa::new(dir.path(), "ca")?;
        Ok(Self { dir, ca, resources: String::new(), services: Vec::new() })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Adds documents.
    pub(crate) fn with(&mut self, resources: &str) {
        self.resources.push_str("\n---\n");
        self.resources.push_str(resources);
    }

    /// A Service `NAMESPACE/NAME` with a port 80 named `main`, at an address. `more` is further of its port.
    pub(crate) fn service(&mut self, id: &str, at: SocketAddr, more: &str) {
        let (namespace, name) = id.split_once('/').unwrap_or(("edge", id));
        self.with(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{ports: [{{name: main, port: 80{more}}}]}}\n"
        ));
        self.endpoint(id, 80, at);
    }

    /// Where a port of a Service is.
    pub(crate) fn endpoint(&mut self, id: &str, port: u16, at: SocketAddr) {
        let (namespace, name) = id.split_once('/').unwrap_or(("edge", id));
        self.services.push(format!(
            "{{name: {name}.{namespace}.svc.cluster.local, port: {port}, endpoints: [\"{at}\"]}}"
        ));
    }

    /// Services that speak HTTP/1.1; each says its own name.
    pub(crate) fn tellers<const N: usize>(&mut self, ids: [&'static str; N]) -> Result<[Teller; N]> {
        let mut all = Vec::new();
        for id in ids {
            let teller = Teller::start(id.rsplit('/').next().unwrap_or(id))?;
            self.service(id, teller.addr, "");
            all.push(teller);
        }
        all.try_into().map_err(|_| anyhow::anyhow!("another number of them"))
    }

    /// A Secret of a certificate for these names, which the CA issues.
    pub(crate) fn secret(&mut self, id: &str, names: &[&str]) -> Result<()> {
        let (namespace, name) = id.split_once('/').unwrap_or(("edge", id));
        self.ca.issue(name, names)?;
        let indented = |file: String| -> Result<String> {
            let text = std::fs::read_to_string(self.dir().join(file))?;
            Ok(text.lines().map(|line| format!("    {line}\n")).collect())
        };
        let (chain, key) = (indented(format!("{name}.pem"))?, indented(format!("{name}.key"))?);
        self.with(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\ntype: kubernetes.io/tls\n\
             stringData:\n  tls.crt: |\n{chain}  tls.key: |\n{key}"
        ));
        Ok(())
    }

    /// A ConfigMap with the certificate of a CA of the directory.
    pub(crate) fn authority(&mut self, id: &str, ca: &str) -> Result<()> {
        let (namespace, name) = id.split_once('/').unwrap_or(("edge", id));
        let text = std::fs::read_to_string(self.dir().join(format!("{ca}.pem")))?;
        let lines: String = text.lines().map(|line| format!("    {line}\n")).collect();
        self.with(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata:\n  ca.crt: |\n{lines}"
        ));
        Ok(())
    }

    /// Starts the gateway. None of the services is in the mesh; a name that is not listed is in no DNS.
    pub(crate) fn start(self) -> Result<Gateway> {
        self.start_with("")
    }

    /// The same with more in its `weft.yaml`.
    pub(crate) fn start_with(self, more: &str) -> Result<Gateway> {
        let yaml = format!(
            "mesh: {{namespaces: [nobodys]}}\ndns: {{servers: [\"{}\"]}}\nservices: [{}]\n{more}",
            empty_dns()?,
            self.services.join(", ")
        );
        Gateway::start_with_yaml(self.dir, &self.resources, &yaml)
    }
}

/// A Gateway `edge/public` with these listeners, each a line of YAML.
pub(crate) fn gateway(listeners: &[&str]) -> String {
    let listeners: String = listeners.iter().map(|listener| format!("    - {{{listener}}}\n")).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: public, namespace: edge}}\n\
         spec:\n  gatewayClassName: weft\n  addresses: [{{value: \"{{ip}}\"}}]\n  listeners:\n{listeners}"
    )
}

/// The listener of most tables.
pub(crate) const WEB: &str = "name: web, port: 8080, protocol: HTTP";

/// An HTTPRoute of `edge/public` with the rest of its `spec`, two spaces deep. `meta` is `NAME` or more of its metadata.
pub(crate) fn http_route(meta: &str, spec: &str) -> String {
    route("HTTPRoute", meta, spec)
}

/// A route of any kind.
pub(crate) fn route(kind: &str, meta: &str, spec: &str) -> String {
    let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
    let namespace = if meta.contains("namespace:") { "" } else { ", namespace: edge" };
    let parents = if spec.contains("parentRefs:") { "" } else { "  parentRefs: [{name: public}]\n" };
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: {meta}{namespace}}}\nspec:\n{parents}{spec}\n"
    )
}

/// A name server that knows nothing (RFC 1035 section 4.1.1: a response, code 3).
fn empty_dns() -> Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let at = socket.local_addr()?;
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Some(message) = buffer.get_mut(..length).filter(|message| message.len() > 12) else {
                continue;
            };
            message[2] |= 0x80;
            message[3] = 0x83;
            let _ = socket.send_to(message, from);
        }
    });
    Ok(at)
}

/// A server of gRPC that answers every call with its name and the request as it came, and status 0.
pub(crate) fn grpc_teller(name: &'static str) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve_calls(name, stream));
            }
        });
    });
    Ok(at)
}

async fn serve_calls(name: &'static str, stream: tokio::net::TcpStream) -> Option<()> {
    let mut connection = h2::server::handshake(stream).await.ok()?;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let uri = request.uri();
        let mut said = format!("{name}\n{} {}\n", request.method(), uri.path());
        said.push_str(&format!("host: {}\n", uri.authority().map_or("", |authority| authority.as_str())));
        for (name, value) in request.headers() {
            said.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
        }
        let mut head = http::Response::new(());
        head.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
        let mut body = respond.send_response(head, false).ok()?;
        body.send_data(Bytes::from(said), false).ok()?;
        let status = (http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"));
        body.send_trailers([status].into_iter().collect()).ok()?;
    }
    Some(())
}

/// A server behind TLS with a certificate of the directory. It says its name and the request, and before that which server name it was asked
/// for: `sni: NAME`.
pub(crate) fn tls_teller(dir: &Path, name: &'static str, certificate: &str) -> Result<SocketAddr> {
    let chain =
        CertificateDer::pem_file_iter(dir.join(format!("{certificate}.pem")))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(dir.join(format!("{certificate}.key")))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = Arc::new(versions.with_no_client_auth().with_single_cert(chain, key)?);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            thread::spawn(move || serve_tls(name, config, stream));
        }
    });
    Ok(at)
}

fn serve_tls(name: &str, config: Arc<ServerConfig>, stream: TcpStream) -> Result<()> {
    let mut stream = StreamOwned::new(ServerConnection::new(config)?, stream);
    let (mut came, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        came.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if came.ends_with(b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&came).replace("\r\n", "\n");
            let (line, rest) = head.split_once('\n').unwrap_or((&head, ""));
            let sni = stream.conn.server_name().unwrap_or_default();
            let said = format!("{name}\n{line}\nsni: {sni}\n{rest}");
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{said}", said.len())?;
            stream.flush()?;
            came.clear();
        }
    }
}
