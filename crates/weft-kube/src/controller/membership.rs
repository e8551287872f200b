//! Facts to membership, membership to the text of `weft.yaml`.
//!
//! The text is the same for the same facts, down to the byte, so that an unchanged mesh is never written again and never
//! reloaded. What is strict is not mentioned: in a mesh that has moved in, the text does not grow with the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;
use weft_core::MtlsMode;

use super::facts::{Key, ServiceKind};
use super::modes::{Modes, observed};
use super::settings::{ProxySection, Settings};
use super::twins;
use super::world::{World, is_exception};

/// What every proxy is told about the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mesh {
    pub(crate) namespaces: BTreeSet<String>,
    /// Names that are outside all the same, without the cluster's domain: `legacy.shop`.
    pub(crate) exceptions: BTreeSet<String>,
    pub(crate) cidrs: Vec<IpNet>,
    /// Services that are not strict, by name without the cluster's domain, each with the names that follow it.
    pub(crate) modes: BTreeMap<String, Towards>,
}

/// The mode towards a Service that is not strict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Towards {
    /// Mutual TLS towards these and nothing less, plaintext towards all others.
    Permissive {
        sidecars: BTreeSet<IpAddr>,
        /// The name of its twin, where it has one.
        twin: Option<String>,
    },
    /// Never mutual TLS.
    Disabled {
        /// As above.
        twin: Option<String>,
    },
}

/// A name without the cluster's domain.
fn short(key: &Key) -> String {
    format!("{}.{}", key.name, key.namespace)
}

/// What proxies are told, with the modes as they are.
pub(crate) fn mesh(world: &World, settings: &Settings, modes: &Modes) -> Mesh {
    let mut mesh = Mesh { namespaces: world.members.clone(), ..Mesh::default() };
    for (key, service) in world.services().filter(|(_, service)| is_exception(service)) {
        mesh.exceptions.insert(short(key));
        // Pods of a headless Service have names of their own below it.
        if service.kind == ServiceKind::Headless {
            mesh.exceptions.insert(format!("*.{}", short(key)));
        }
    }
    mesh.cidrs = match &settings.mesh.pod_cidrs[..] {
        [] => world.pod_cidrs(),
        written => {
            let mut written = written.to_vec();
            written.sort_unstable();
            written.dedup();
            written
        }
    };
    for (key, service) in world.mesh_services() {
        let twin = || twins::existing(world, key).map(|twin| short(&twin));
        let towards = match modes.towards(&observed(world, key, service), service.mode) {
            MtlsMode::Strict => continue,
            MtlsMode::Disable => Towards::Disabled { twin: twin() },
            MtlsMode::Permissive => {
                let pods = world.pods_of(key, service);
                // Those that are ending, too: DNS names them for a while, and so clients call them for a while.
                let meshed = pods.iter().filter(|pod| pod.takes_mesh_links());
                Towards::Permissive {
                    sidecars: meshed.flat_map(|pod| pod.ips.clone()).collect(),
                    twin: twin(),
                }
            }
        };
        mesh.modes.insert(short(key), towards);
    }
    mesh
}

/// The text of `weft.yaml` for pods of a namespace with this inbound mode.
pub(crate) fn weft_yaml(settings: &Settings, mesh: &Mesh, inbound: MtlsMode) -> String {
    let mut out = String::from(
        "# Written by the controller of Weft; changes made here are put back.\n\
         # Settings for all proxies: the section proxy of config.yaml in ConfigMap weft-config.\n\
         # Settings for some: the annotations weft.dev/* of namespaces, Services and pods.\n",
    );
    let domain = &settings.cluster_domain;
    let ca = format!("weft-ca.{}.svc.{domain}:15012", settings.namespace);
    let _ = write!(
        out,
        "identity:\n  trustDomain: {}\n  ca: {{address: \"{ca}\"}}\nmesh:\n  domains: \
         [\"{{service}}.{{namespace}}.svc.{domain}\", \"{{pod}}.{{service}}.{{namespace}}.svc.{domain}\"]\n",
        scalar(settings.trust_domain.as_str()),
    );
    list(&mut out, "namespaces", mesh.namespaces.iter().map(|namespace| scalar(namespace)));
    let full = |short: &str| scalar(&format!("{short}.svc.{domain}"));
    let kubernetes = "kubernetes.default".to_owned();
    let exceptions: BTreeSet<&String> = mesh.exceptions.iter().chain([&kubernetes]).collect();
    list(&mut out, "exceptions", exceptions.into_iter().map(|name| full(name)));
    let cidr_mode = MtlsMode::from(settings.mesh.pod_cidr_mode);
    block(
        &mut out,
        "cidrs",
        mesh.cidrs.iter().map(|cidr| format!("{{cidr: {}, mode: {cidr_mode}}}", scalar(&cidr.to_string()))),
    );
    modes_text(&mut out, mesh, &full);
    inbound_text(&mut out, inbound, &settings.proxy);
    for (name, value) in settings.proxy.others() {
        let _ = writeln!(out, "{}: {value}", key_text(name));
    }
    out
}

fn list(out: &mut String, name: &str, items: impl Iterator<Item = String>) {
    let items: Vec<String> = items.collect();
    let _ = writeln!(out, "  {name}: [{}]", items.join(", "));
}

fn block(out: &mut String, name: &str, items: impl Iterator<Item = String>) {
    let mut items = items.peekable();
    if items.peek().is_none() {
        let _ = writeln!(out, "  {name}: []");
        return;
    }
    let _ = writeln!(out, "  {name}:");
    for item in items {
        let _ = writeln!(out, "    - {item}");
    }
}

/// One entry for the Service, one for the names below it, and the same for its twin, whose names reverse lookups of its
/// pods give. The addresses stand there once; the others refer to them by a YAML alias.
fn modes_text(out: &mut String, mesh: &Mesh, full: &impl Fn(&str) -> String) {
    let mut entries = Vec::new();
    for (number, (name, towards)) in mesh.modes.iter().enumerate() {
        let (mode, twin, sidecars) = match towards {
            Towards::Permissive { sidecars, twin } => ("permissive", twin, Some(sidecars)),
            Towards::Disabled { twin } => ("disable", twin, None),
        };
        // A Service that is called as the twin would be has its own mode.
        let twin = twin.as_ref().filter(|twin| !mesh.modes.contains_key(*twin));
        let anchored = sidecars.filter(|sidecars| !sidecars.is_empty());
        let names = [Some(name), twin].into_iter().flatten();
        let names = names.flat_map(|name| [name.clone(), format!("*.{name}")]);
        for (position, name) in names.enumerate() {
            let mut entry = format!("{{name: {}, mode: {mode}", full(&name));
            match (sidecars, anchored) {
                (None, _) => {}
                (Some(_), None) => entry.push_str(", endpoints: []"),
                (Some(_), Some(_)) if position > 0 => {
                    let _ = write!(entry, ", endpoints: *e{number} ");
                }
                (Some(_), Some(sidecars)) => {
                    let ips: Vec<String> = sidecars.iter().map(|ip| scalar(&ip.to_string())).collect();
                    let _ = write!(entry, ", endpoints: &e{number} [{}]", ips.join(", "));
                }
            }
            entry.push('}');
            entries.push(entry);
        }
    }
    block(out, "modes", entries.into_iter());
}

fn inbound_text(out: &mut String, mode: MtlsMode, proxy: &ProxySection) {
    let _ = writeln!(out, "inbound:\n  mode: {mode}");
    for (name, value) in proxy.inbound() {
        let _ = writeln!(out, "  {}: {value}", key_text(name));
    }
}

/// JSON is YAML: a section of `config.yaml` is written as one line of it.
fn key_text(name: &str) -> String {
    Value::from(name).to_string()
}

/// A scalar that YAML reads as this text: quoted unless it is plainly a name, for a namespace may be called `null` or
/// `1e3`.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan"];
    let name = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
        && !WORDS.contains(&text);
    let v4 = text.parse::<std::net::Ipv4Addr>().is_ok();
    let net = text.parse::<ipnet::Ipv4Net>().is_ok();
    if name || v4 || net { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
pub(crate) mod tests;
