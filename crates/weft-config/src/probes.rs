//! `probes`: the application's own health checks, which the proxy carries out for the kubelet.
//!
//! Where plaintext from outside is refused, the kubelet's checks would be refused with it; and a TCP check would always
//! succeed, because it is the proxy that accepts. So the checks are sent to the proxy's health port, and the proxy asks the
//! application. The list comes from the file or, as JSON, from `WEFT_PROBES`, which an injector can write.

use std::fmt;
use std::time::Duration;

use crate::error::{Origin, ProblemKind};
use crate::read::{Bad, Item, Reader, Section};
use crate::scalar;
use crate::tree::{self, Node, Scalar, Value};

/// The kubelet's own default.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The longest that makes sense for something asked every few seconds.
const LONGEST: u64 = 3600;
const VARIABLE: &str = "WEFT_PROBES";
/// What every path begins with, so that none hides another page.
const PREFIX: &str = "/probe/";
/// What the kubelet calls itself where a probe's definition does not. The version is that of the API that Weft is written
/// for; applications look at what is before the slash.
pub const KUBELET_USER_AGENT: &str = "kube-probe/1.32";
const FIELDS: [&str; 11] = [
    "path",
    "timeoutSeconds",
    "http.port",
    "http.path",
    "http.scheme",
    "http.headers",
    "http.headers[].name",
    "http.headers[].value",
    "tcp.port",
    "grpc.port",
    "grpc.service",
];

/// The digits of a secret: 128 bits in hexadecimal, which nobody finds by trying.
const SECRET_DIGITS: usize = 32;

/// One health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where the proxy offers it.
    pub path: ProbePath,
    /// What is asked of the application.
    pub check: ProbeCheck,
    /// How long the application may take.
    pub timeout: Duration,
}

/// Where a check is offered, such as `/probe/<secret>/app/readiness`. Whoever knows it can have the check carried out, so
/// it is shown without the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ProbePath(String);

impl ProbePath {
    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it has a secret, at least 32 hexadecimal digits right behind `/probe/`. Older injectors write none.
    pub fn is_secret(&self) -> bool {
        split_secret(&self.0).is_some()
    }
}

impl fmt::Display for ProbePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

impl fmt::Debug for ProbePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The secret of a path, and what follows it.
fn split_secret(path: &str) -> Option<(&str, &str)> {
    let (secret, rest) = path.strip_prefix(PREFIX)?.split_once('/')?;
    (secret.len() >= SECRET_DIGITS && secret.bytes().all(|b| b.is_ascii_hexdigit())).then_some((secret, rest))
}

fn masked(path: &str) -> String {
    match split_secret(path) {
        Some((_, rest)) => format!("{PREFIX}***/{rest}"),
        None => path.to_owned(),
    }
}

/// What is asked of the application, at the pod's own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeCheck {
    /// GET over HTTP/1.1.
    Http {
        /// The application's port.
        port: u16,
        /// The `path` of a probe of Kubernetes: what is sent is what the kubelet makes of it.
        path: String,
        /// HTTPS; the certificate is not verified, as the kubelet does not.
        tls: bool,
        /// The `httpHeaders` of a probe of Kubernetes. Nothing else is sent but what the kubelet sends by itself.
        headers: Vec<ProbeHeader>,
    },
    /// A connection can be made.
    Tcp {
        /// The application's port.
        port: u16,
    },
    /// `grpc.health.v1.Health/Check` answers SERVING.
    Grpc {
        /// The application's port.
        port: u16,
        /// The service asked about; empty: the whole server.
        service: String,
    },
}

impl ProbeCheck {
    /// The application's port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Http { port, .. } | Self::Tcp { port } | Self::Grpc { port, .. } => *port,
        }
    }
}

/// One header of a check, fit to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct ProbeHeader {
    /// A token (RFC 9110 section 5.6.2).
    pub name: String,
    /// Without control characters; it may be empty, and is masked where it is shown.
    pub value: String,
}

impl fmt::Debug for ProbeHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeHeader").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Whether `name` can be the name of a header.
pub fn is_header_name(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(token)
}

/// Whether `value` can be the value of a header: the kubelet refuses the others.
pub fn is_header_value(value: &str) -> bool {
    value.bytes().all(|b| b == b'\t' || !b.is_ascii_control())
}

/// Puts the list of `WEFT_PROBES` in the place of the file's.
pub(crate) fn overlay(root: &mut Node, reader: &Reader<'_>) {
    let Some(text) = reader.variable(VARIABLE) else { return };
    let origin = Origin::Env(VARIABLE.to_owned());
    let list = match tree::parse(text) {
        Ok(list) => from(list, &origin),
        Err(problem) => {
            let cure = "write a JSON list".to_owned();
            let bad = Bad { kind: ProblemKind::Syntax, reason: problem.reason, cure };
            return reader.refuse(origin, "probes", bad);
        }
    };
    match &mut root.value {
        Value::Map(entries) => {
            entries.retain(|(key, ..)| key != "probes");
            entries.push(("probes".to_owned(), origin, list));
        }
        Value::Scalar(Scalar::Null) => {
            root.value = Value::Map(vec![("probes".to_owned(), origin, list)]);
        }
        Value::Scalar(_) | Value::List(_) => {}
    }
}

/// The node as if all of it were written at `origin`.
fn from(node: Node, origin: &Origin) -> Node {
    let value = match node.value {
        Value::List(items) => Value::List(items.into_iter().map(|item| from(item, origin)).collect()),
        Value::Map(entries) => Value::Map(
            entries.into_iter().map(|(key, _, node)| (key, origin.clone(), from(node, origin))).collect(),
        ),
        scalar @ Value::Scalar(_) => scalar,
    };
    Node { value, origin: origin.clone() }
}

pub(crate) fn probes(root: &Section<'_, '_>) -> Vec<Probe> {
    root.declare_items("probes", &FIELDS);
    let mut probes: Vec<Probe> = Vec::new();
    // Headers may be credentials, and who knows a path may have the check carried out.
    let shown = |key: &str, text: String| match key {
        "value" => "***".to_owned(),
        "path" => masked(&text),
        _ => text,
    };
    for item in root.items_shown("probes", &shown) {
        let Some(probe) = probe(&item) else { continue };
        if probes.iter().any(|earlier| earlier.path == probe.path) {
            let reason = format!("an entry above has the path {}", probe.path);
            let bad = Bad { kind: ProblemKind::Conflict, reason, cure: "keep one".to_owned() };
            root.reader().refuse(item.origin(), &item.path, bad);
        }
        probes.push(probe);
    }
    probes
}

fn probe(item: &Item<'_, '_>) -> Option<Probe> {
    let s = item.section();
    let path = s.required("path", own_path);
    let timeout = s.scalar("timeoutSeconds", scalar::whole(1..=LONGEST));
    let timeout = timeout.map_or(TIMEOUT, |(seconds, _)| Duration::from_secs(seconds));
    let kinds = ["http", "tcp", "grpc"].map(|kind| s.has(kind));
    let check = match kinds {
        [true, false, false] => http(&s.section("http")),
        [false, true, false] => {
            s.section("tcp").required("port", scalar::port).map(|port| ProbeCheck::Tcp { port })
        }
        [false, false, true] => grpc(&s.section("grpc")),
        _ => {
            for kind in ["http", "tcp", "grpc"] {
                drop(s.section(kind));
            }
            let bad = Bad {
                kind: ProblemKind::Conflict,
                reason: "a probe asks by exactly one of http, tcp and grpc".to_owned(),
                cure: "keep one".to_owned(),
            };
            s.reader().refuse(s.origin(), s.path(), bad);
            None
        }
    };
    Some(Probe { path: path?, check: check?, timeout })
}

fn http(s: &Section<'_, '_>) -> Option<ProbeCheck> {
    const SCHEMES: &[(&str, bool)] = &[("HTTP", false), ("HTTPS", true)];
    let port = s.required("port", scalar::port);
    // The kubelet asks whatever is written here, and takes "" for "/".
    let path =
        s.scalar("path", |written| Ok(written.to_string())).map_or_else(|| "/".to_owned(), |(path, _)| path);
    let tls = s.scalar("scheme", scalar::word(SCHEMES)).is_some_and(|(tls, _)| tls);
    let headers: Vec<_> = s.items("headers").iter().map(header).collect();
    Some(ProbeCheck::Http { port: port?, path, tls, headers: headers.into_iter().collect::<Option<_>>()? })
}

fn grpc(s: &Section<'_, '_>) -> Option<ProbeCheck> {
    let port = s.required("port", scalar::port);
    // Empty means the whole server, and is what a manifest writes by default.
    let service = s.scalar("service", |written| Ok(written.to_string())).map(|(service, _)| service);
    let service = service.unwrap_or_default();
    Some(ProbeCheck::Grpc { port: port?, service })
}

fn header(item: &Item<'_, '_>) -> Option<ProbeHeader> {
    let s = item.section();
    let name = s.required("name", |written| {
        let name = scalar::text(written)?;
        let cure = "write letters, digits and -";
        if is_header_name(&name) { Ok(name) } else { Err(Bad::value(format!("\"{name}\" is no name"), cure)) }
    })?;
    let value = s.scalar("value", |written| {
        let value = written.to_string();
        let bad = |reason: &str, cure| Err(Bad::value(reason, cure));
        if !is_header_value(&value) {
            return bad("this has a control character", "take it out");
        }
        if name.eq_ignore_ascii_case("host") && !value.is_ascii() {
            return bad("this is no host name", "write it in ASCII (xn--...)");
        }
        Ok(value)
    });
    Some(ProbeHeader { value: value.map_or_else(String::new, |(value, _)| value), name })
}

fn own_path(written: &Scalar) -> Result<ProbePath, Bad> {
    let path = target(written)?;
    if path.starts_with(PREFIX) {
        return Ok(ProbePath(path));
    }
    Err(Bad::value(format!("\"{path}\" could hide another page"), "let it begin with /probe/"))
}

/// A request target in origin form (RFC 9112 section 3.2.1), made of visible ASCII characters.
fn target(written: &Scalar) -> Result<String, Bad> {
    let path = scalar::text(written)?;
    if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Ok(path);
    }
    Err(Bad::value(
        format!("\"{path}\" is not a path"),
        "begin it with /, and escape what a URL does not allow",
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{ConfigErrors, Env, ProxyConfig};

    fn load(text: &str, variable: Option<&str>) -> Result<Vec<Probe>, ConfigErrors> {
        let vars = variable.map(|json| (VARIABLE.to_owned(), json.to_owned()));
        let text = format!("identity: {{ca: {{address: \"ca:15012\"}}}}\n{text}");
        ProxyConfig::from_text(Path::new("weft.yaml"), &text, &Env::from_vars(vars)).map(|config| {
            assert_eq!(config.warnings, Vec::<String>::new());
            config.probes
        })
    }

    #[test]
    fn the_variable_wins_over_the_file() {
        let file = "probes: [{path: /probe/a/liveness, tcp: {port: 1}}]";
        let json = r#"[{"path":"/probe/app/readiness","http":{"port":8080,"path":"/h?x=1","scheme":"HTTPS"},"timeoutSeconds":3},
            {"path":"/probe/api/startup","grpc":{"port":9000,"service":""}}]"#;
        assert_eq!(load(file, None).unwrap()[0].check, ProbeCheck::Tcp { port: 1 });
        let probes = load(file, Some(json)).unwrap();
        assert_eq!(
            probes[0],
            Probe {
                path: ProbePath("/probe/app/readiness".to_owned()),
                check: ProbeCheck::Http {
                    port: 8080,
                    path: "/h?x=1".to_owned(),
                    tls: true,
                    headers: Vec::new(),
                },
                timeout: Duration::from_secs(3),
            }
        );
        assert_eq!(probes[1].check, ProbeCheck::Grpc { port: 9000, service: String::new() });
        assert_eq!(load("", Some(json)).unwrap().len(), 2);
    }

    #[test]
    fn headers_are_read_and_their_values_not_shown() {
        let json = r#"[{"path":"/probe/app/readiness","http":{"port":8080,"path":"a \"<>`\u0001?é","headers":[
            {"name":"Authorization","value":"Bearer s3cret"},{"name":"X-Empty","value":""},{"name":"x-empty"}]}}]"#;
        let probes = load("", Some(json)).unwrap();
        let ProbeCheck::Http { path, headers, .. } = &probes[0].check else { panic!("{probes:?}") };
        assert_eq!(path, "a \"<>`\u{1}?é", "any path is the kubelet's to judge");
        let read: Vec<_> = headers.iter().map(|h| (h.name.as_str(), h.value.as_str())).collect();
        assert_eq!(read, [("Authorization", "Bearer s3cret"), ("X-Empty", ""), ("x-empty", "")]);
        assert!(!format!("{probes:?}").contains("s3cret"));
        let vars = Env::from_vars([(VARIABLE.to_owned(), json.to_owned())]);
        let text = "identity: {ca: {address: \"ca:15012\"}}";
        let config = ProxyConfig::from_text(Path::new("weft.yaml"), text, &vars).unwrap();
        let shown = config.snapshot.effective.iter().find(|field| field.field == "probes").unwrap();
        assert!(shown.value.contains("Authorization, value: ***"), "{}", shown.value);
        assert!(!shown.value.contains("s3cret"), "{}", shown.value);
    }

    #[test]
    fn the_secret_of_a_path_is_not_shown() {
        let secret = "0123456789abcdef0123456789abcdef";
        let json =
            format!(r#"[{{"path":"/probe/{secret}/app/preStop","http":{{"port":80,"path":"/bye"}}}}]"#);
        let probes = load("", Some(&json)).unwrap();
        assert_eq!(probes[0].path.as_str(), format!("/probe/{secret}/app/preStop"));
        assert!(probes[0].path.is_secret());
        assert_eq!(probes[0].path.to_string(), "/probe/***/app/preStop");
        assert!(!format!("{probes:?}").contains(secret));
        let twice = format!("[{0},{0}]", json.trim_matches(['[', ']']));
        assert!(!load("", Some(&twice)).unwrap_err().to_string().contains(secret));
        let vars = Env::from_vars([(VARIABLE.to_owned(), json)]);
        let text = "identity: {ca: {address: \"ca:15012\"}}";
        let config = ProxyConfig::from_text(Path::new("weft.yaml"), text, &vars).unwrap();
        let shown = config.snapshot.effective.iter().find(|field| field.field == "probes").unwrap();
        assert!(shown.value.contains("path: /probe/***/app/preStop"), "{}", shown.value);
        assert!(shown.value.contains("path: /bye") && !shown.value.contains(secret), "{}", shown.value);
        // Of an injector that wrote none.
        for old in
            ["/probe/app/readiness", "/probe/0123456789abcdef0123456789abcdef", "/probe/0123/app/readiness"]
        {
            assert!(!ProbePath(old.to_owned()).is_secret(), "{old}");
        }
    }

    #[test]
    fn mistakes_name_the_field() {
        for (json, field) in [
            (r#"[{"path":"/ready","tcp":{"port":1}}]"#, "probes[0].path"),
            (r#"[{"path":"/probe/a","tcp":{"port":0}}]"#, "probes[0].tcp.port"),
            (r#"[{"path":"/probe/a","tcp":{"port":1},"http":{"port":1}}]"#, "probes[0]"),
            (r#"[{"path":"/probe/a"}]"#, "probes[0]"),
            (
                r#"[{"path":"/probe/a","http":{"port":1,"headers":[{"name":"a b","value":""}]}}]"#,
                "probes[0].http.headers[0].name",
            ),
            (
                r#"[{"path":"/probe/a","http":{"port":1,"headers":[{"name":"a","value":"b\nc"}]}}]"#,
                "probes[0].http.headers[0].value",
            ),
            (
                r#"[{"path":"/probe/a","http":{"port":1,"headers":[{"name":"host","value":"bücher.example"}]}}]"#,
                "probes[0].http.headers[0].value",
            ),
            (r#"[{"path":"/probe/a","http":{"port":1,"headers":{"a":"b"}}}]"#, "probes[0].http.headers"),
            (r#"[{"path":"/probe/a","tcp":{"port":1}},{"path":"/probe/a","tcp":{"port":1}}]"#, "probes[1]"),
            (r#"[{"path":"/probe/a","tcp":{"port":1},"x":1}]"#, "probes[0].x"),
            ("[{", "probes"),
            ("7", "probes"),
        ] {
            let told = load("", Some(json)).unwrap_err().to_string();
            assert!(told.contains(&format!("WEFT_PROBES: {field}: ")), "{json}: {told}");
        }
    }
}
