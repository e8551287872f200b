//! Requests as octets, and a gateway that they go to.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use weft_testbed::Gateway;

/// Long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One listener on 8080, for every name.
pub(crate) const DOOR: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: edge}
spec:
  gatewayClassName: weft
  addresses: [{value: "{ip}"}]
  listeners: [{name: web, port: 8080, protocol: HTTP}]
"#;

/// A Backend at an address.
pub(crate) fn backend(name: &str, at: SocketAddr) -> String {
    format!(
        "---\napiVersion: weft.dev/v1alpha1\nkind: Backend\nmetadata: {{name: {name}, namespace: edge}}\n\
         spec: {{endpoints: [{{host: \"{}\", port: {}}}]}}\n",
        at.ip(),
        at.port()
    )
}

/// An HTTPRoute for a host (every one, where it is empty) with these rules, each a line of YAML.
pub(crate) fn route(name: &str, host: &str, rules: &[String]) -> String {
    let hosts = if host.is_empty() { String::new() } else { format!("  hostnames: [\"{host}\"]\n") };
    let rules: String = rules.iter().map(|rule| format!("  - {{{rule}}}\n")).collect();
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: edge}}\n\
         spec:\n  parentRefs: [{{name: public}}]\n{hosts}  rules:\n{rules}"
    )
}

/// The rest of a rule that leads to a backend and says in its answer which rule it is: `x-rule`.
pub(crate) fn told(rule: &str, backend: &str) -> String {
    format!(
        "filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-rule, value: \"{rule}\"}}]}}}}], \
         backendRefs: [{{group: weft.dev, kind: Backend, name: {backend}}}]"
    )
}

/// What came of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Came {
    /// 0: nothing.
    pub(crate) status: u16,
    /// The header `x-rule`.
    pub(crate) rule: String,
    /// The header `location`.
    pub(crate) location: String,
    /// The target of the request as the backend got it.
    pub(crate) target: String,
    /// Its host there.
    pub(crate) host: String,
}

/// Whether an answer is there to its end, as far as it says where that is.
fn is_whole(said: &str) -> bool {
    let Some((head, body)) = said.split_once("\r\n\r\n") else { return false };
    field(head, "content-length").parse().is_ok_and(|length: usize| body.len() >= length)
}

/// Sends octets over a connection of their own, and reads one answer to its end.
pub(crate) fn send(gateway: &Gateway, octets: &[u8]) -> Result<Came> {
    let mut stream = TcpStream::connect(gateway.at(8080))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    // It may be refused before all is said.
    let _ = stream.write_all(octets);
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                said.extend_from_slice(buffer.get(..read).unwrap_or_default());
                if is_whole(&String::from_utf8_lossy(&said)) {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error).with_context(|| String::from_utf8_lossy(octets).into_owned()),
        }
    }
    Ok(read(&String::from_utf8_lossy(&said)))
}

/// GET of a target, octet by octet as it is, over HTTP/1.1.
pub(crate) fn get(gateway: &Gateway, target: &[u8], host: &str) -> Result<Came> {
    let rest = format!(" HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    send(gateway, &[b"GET ", target, rest.as_bytes()].concat())
}

fn read(said: &str) -> Came {
    let (head, body) = said.split_once("\r\n\r\n").unwrap_or((said, ""));
    let mut came = told_by(body);
    came.status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    came.rule = field(head, "x-rule");
    came.location = field(head, "location");
    came
}

/// What a `Teller` says: its name, the request line, the header.
pub(crate) fn told_by(body: &str) -> Came {
    let line = body.lines().nth(1).unwrap_or_default();
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    Came { target, host: field(body, "host"), ..Came::default() }
}

pub(crate) fn field(lines: &str, name: &str) -> String {
    let mut fields = lines.lines().filter_map(|line| line.split_once(':'));
    let found = fields.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

/// A request of HTTP/2: pseudo-headers and headers as they are, valid or not. Each octet is one character.
pub(crate) type Fields = Vec<(String, String)>;

/// Requests that one run of the client sends: on a busy machine it has seconds, not milliseconds, for each.
const AT_ONCE: usize = 32;

/// Requests of HTTP/2 by prior knowledge, each on a connection of its own, with a body where one is given. Status 0 is a stream or a
/// connection that was ended instead.
pub(crate) fn send_http2(gateway: &Gateway, requests: &[(Fields, Option<&str>)]) -> Result<Vec<Came>> {
    let file = gateway.dir().join("requests.json");
    let args = [gateway.ip().to_string(), "8080".to_owned(), file.display().to_string()];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut all = Vec::new();
    for some in requests.chunks(AT_ONCE) {
        std::fs::write(&file, serde_json::to_vec(some)?)?;
        let answers = gateway.python_client("h2_odd_client.py", &args)?;
        all.extend(answers.as_array().context("no list")?.iter().map(|answer| {
            let text = |key: &str| {
                answer.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
            };
            let status = text("status").parse().unwrap_or_default();
            Came { status, rule: text("x-rule"), location: text("location"), ..told_by(&text("body")) }
        }));
    }
    Ok(all)
}

/// A GET of HTTP/2.
pub(crate) fn fields(path: &str, authority: &str) -> Fields {
    [(":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", path)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}
