//! A gateway with a listener of each kind, and what clients see at it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_testbed::{Gateway, PublicCa};

/// Long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// HTTP on 8080, HTTPS on 8443, TCP on 9000 and 9001.
pub(crate) const DOORS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: edge}
spec:
  gatewayClassName: weft
  addresses: [{value: "{ip}"}]
  listeners:
    - {name: web, port: 8080, protocol: HTTP}
    - {name: shop, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{group: weft.dev, kind: Certificate, name: shop}]}}
    - {name: one, port: 9000, protocol: TCP}
    - {name: two, port: 9001, protocol: TCP}
---
apiVersion: weft.dev/v1alpha1
kind: Certificate
metadata: {name: shop, namespace: edge}
spec: {certificateFile: "{dir}/shop.pem", keyFile: "{dir}/shop.key"}
"#;

/// A `Backend` at an address, with more of its `spec`.
pub(crate) fn backend(name: &str, addr: SocketAddr, more: &str) -> String {
    format!(
        "---\napiVersion: weft.dev/v1alpha1\nkind: Backend\nmetadata: {{name: {name}, namespace: edge}}\n\
         spec: {{endpoints: [{{host: \"{}\", port: {}}}]{more}}}\n",
        addr.ip(),
        addr.port()
    )
}

/// A route that hands all of some listeners to one backend.
pub(crate) fn route(kind: &str, name: &str, sections: &[&str], backend: &str) -> String {
    let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
    let parents: Vec<String> =
        sections.iter().map(|section| format!("{{name: public, sectionName: {section}}}")).collect();
    format!(
        "---\napiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: edge}}\n\
         spec: {{parentRefs: [{}], rules: [{{backendRefs: [{{group: weft.dev, kind: Backend, name: {backend}}}]}}]}}\n",
        parents.join(", ")
    )
}

/// A gateway with these resources behind its doors, and these fields of `weft.yaml`.
pub(crate) fn gateway(resources: &[String], fields: &[(&str, &str)]) -> Result<Gateway> {
    let dir = tempfile::tempdir()?;
    PublicCa::new(dir.path(), "ca")?.issue("shop", &["a.shop.test"])?;
    Gateway::start_with(dir, &format!("{DOORS}{}", resources.concat()), fields)
}

/// What curl gets at an address, head and body; over TLS where the port ends in 443.
pub(crate) fn curl(gateway: &Gateway, at: SocketAddr, path: &str, args: &[&str]) -> Result<String> {
    let (scheme, port) = if at.port() % 1000 == 443 { ("https", at.port()) } else { ("http", at.port()) };
    let url = format!("{scheme}://a.shop.test:{port}{path}");
    let resolve = format!("a.shop.test:{port}:{}", at.ip());
    let fixed = ["-s", "-S", "-i", "--cacert", "ca.pem", "--resolve", &resolve, &url];
    let output = gateway.run("curl", &[&fixed, args].concat())?;
    ensure!(output.status.success(), "curl {url} {args:?}: {}", output.stderr);
    Ok(output.stdout.replace('\r', ""))
}

/// The value of a header in what somebody said, in any case.
pub(crate) fn field<'s>(said: &'s str, name: &str) -> Option<&'s str> {
    let mut fields = said.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// A connection from an address of this machine.
pub(crate) fn connect_from(from: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::new(from, 0))?;
    connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What comes until the other side ends, also by a reset.
pub(crate) fn all(stream: &mut TcpStream) -> Result<String> {
    let (mut came, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => came.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error).context("waiting for the end"),
        }
    }
    Ok(String::from_utf8_lossy(&came).into_owned())
}

/// Says something, and what comes until the end.
pub(crate) fn say(stream: &mut TcpStream, said: &[u8]) -> Result<String> {
    // It may be over before all is said.
    let _ = stream.write_all(said);
    all(stream)
}
