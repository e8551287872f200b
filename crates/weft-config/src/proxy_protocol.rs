//! `inbound.proxyProtocol`: the ports of the application that are told by the PROXY protocol who connects.
//!
//! It is fixed at the start. Connections to the application are kept for later requests, and an application that expects
//! the header takes no connection without it, nor the reverse: a change under way would reach both halves at different times.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use weft_core::ProxyProtocol;

use crate::error::ProblemKind;
use crate::read::{Bad, Item, Section};
use crate::scalar;
use crate::tree::Scalar;

/// What is written where only the port is: every server that is worth its name reads both, and a health check can be told
/// from a client only in this one.
const DEFAULT: ProxyProtocol = ProxyProtocol::V2;

/// One entry as a text: `5432=v1`, or `8080` for version 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyProtocolPort {
    /// The application's port.
    pub port: u16,
    /// What is written to it.
    pub version: ProxyProtocol,
}

impl FromStr for ProxyProtocolPort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (port, version) = match text.split_once('=') {
            Some((port, version)) => (port, version_of(version.trim())),
            None => (text, Some(DEFAULT)),
        };
        let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        let port = Some(port.trim()).filter(digits).and_then(|text| text.parse().ok());
        match (port, version) {
            (None | Some(0), _) => Err("is not a port between 1 and 65535, or port=version"),
            (Some(_), None) => Err("names no version of the PROXY protocol"),
            (Some(port), Some(version)) => Ok(Self { port, version }),
        }
    }
}

impl fmt::Display for ProxyProtocolPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.port, self.version)
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyProtocolPorts(BTreeMap<u16, ProxyProtocol>);

impl ProxyProtocolPorts {
    /// What a connection to `port` of the application begins with; `None`: nothing.
    pub fn get(&self, port: u16) -> Option<ProxyProtocol> {
        self.0.get(&port).copied()
    }
}

fn version_of(text: &str) -> Option<ProxyProtocol> {
    match text {
        "1" | "v1" => Some(ProxyProtocol::V1),
        "2" | "v2" => Some(ProxyProtocol::V2),
        _ => None,
    }
}

fn version(written: &Scalar) -> Result<ProxyProtocol, Bad> {
    let text = written.to_string();
    let bad = || Bad::value(format!("\"{text}\" is no version of the PROXY protocol"), "write 1 or 2");
    version_of(text.trim()).ok_or_else(bad)
}

/// A list of mappings, ports, and texts `port=version`; a variable or flag gives the latter two.
pub(crate) fn ports(s: &Section<'_, '_>) -> ProxyProtocolPorts {
    const FIELD: &str = "proxyProtocol";
    s.declare_items(FIELD, &["port", "version"]);
    let mut ports = BTreeMap::new();
    let mut add = |entry: ProxyProtocolPort, origin, path: &str| {
        if ports.insert(entry.port, entry.version).is_some() {
            let reason = format!("an entry above has the port {}", entry.port);
            let bad = Bad { kind: ProblemKind::Conflict, reason, cure: "keep one".to_owned() };
            s.reader().refuse(origin, path, bad);
        }
    };
    if s.overlaid(FIELD) {
        let path = format!("{}.{FIELD}", s.path());
        for (i, (entry, origin)) in s.list(FIELD, text).unwrap_or_default().into_iter().enumerate() {
            add(entry, origin, &format!("{path}[{i}]"));
        }
        return ProxyProtocolPorts(ports);
    }
    for item in s.items(FIELD) {
        let entry = match item.as_scalar() {
            Some(written) => {
                text(written).map_err(|bad| s.reader().refuse(item.origin(), &item.path, bad)).ok()
            }
            None => mapping(&item),
        };
        if let Some(entry) = entry {
            add(entry, item.origin(), &item.path);
        }
    }
    ProxyProtocolPorts(ports)
}

fn text(written: &Scalar) -> Result<ProxyProtocolPort, Bad> {
    let text = written.to_string();
    let cure = "write a port such as 8080, port=version such as 5432=v1, or a mapping";
    text.trim().parse().map_err(|reason| Bad::value(format!("\"{text}\" {reason}"), cure))
}

fn mapping(item: &Item<'_, '_>) -> Option<ProxyProtocolPort> {
    let section = item.section();
    let (port, version) = (section.required("port", scalar::port), section.or("version", DEFAULT, version));
    Some(ProxyProtocolPort { port: port?, version })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{ConfigErrors, Env, ProxyConfig};

    fn load(list: &str, variable: Option<&str>) -> Result<ProxyProtocolPorts, ConfigErrors> {
        let vars = variable.map(|text| ("WEFT_INBOUND_PROXY_PROTOCOL".to_owned(), text.to_owned()));
        let text =
            format!("identity: {{ca: {{address: \"ca:15012\"}}}}\ninbound:\n  proxyProtocol: {list}\n");
        ProxyConfig::from_text(Path::new("weft.yaml"), &text, &Env::from_vars(vars)).map(|config| {
            assert_eq!(config.warnings, Vec::<String>::new());
            config.proxy_protocol
        })
    }

    fn all(ports: &ProxyProtocolPorts) -> Vec<String> {
        ports.0.iter().map(|(port, version)| format!("{port}={version}")).collect()
    }

    #[test]
    fn every_way_to_write_it() {
        let list = "[{port: 5432, version: 1}, {port: 80}, {port: \"81\", version: v1}, 8080, \"8081\", 8082=v1, \"8083 = 2\"]";
        let ports = load(list, None).unwrap();
        assert_eq!(all(&ports), ["80=v2", "81=v1", "5432=v1", "8080=v2", "8081=v2", "8082=v1", "8083=v2"]);
        assert_eq!((ports.get(5432), ports.get(5433)), (Some(ProxyProtocol::V1), None));
        assert_eq!(all(&load("[]", None).unwrap()), Vec::<String>::new());
        assert_eq!(all(&load("[1]", Some("5432=v1, 8080")).unwrap()), ["5432=v1", "8080=v2"]);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (list, place, told) in [
            ("[{port: 80, version: 3}]", "inbound.proxyProtocol[0].version", "\"3\""),
            ("[{version: 1}]", "inbound.proxyProtocol[0].port", "missing"),
            ("[0]", "inbound.proxyProtocol[0]", "not a port"),
            ("[6000-6100]", "inbound.proxyProtocol[0]", "not a port"),
            ("[80=v3]", "inbound.proxyProtocol[0]", "no version"),
            ("[80, 80=v1]", "inbound.proxyProtocol[1]", "above"),
            ("[{port: 80, vers: 1}]", "inbound.proxyProtocol[0].vers", "no such field"),
            ("80", "inbound.proxyProtocol", "a list"),
        ] {
            let errors = load(list, None).unwrap_err();
            let problem = &errors.problems[0];
            assert_eq!(problem.field, place, "{list}: {errors}");
            assert!(problem.reason.contains(told) && !problem.cure.is_empty(), "{list}: {errors}");
            assert!(errors.to_string().contains("weft.yaml:3"), "{list}: {errors}");
        }
        let errors = load("[]", Some("80,80=v1")).unwrap_err();
        assert_eq!(errors.problems[0].field, "inbound.proxyProtocol[1]");
    }
}
