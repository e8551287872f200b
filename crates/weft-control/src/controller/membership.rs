//! Facts to membership, membership to the text of `weft.yaml`.
//!
//! The text is the same for the same facts, down to the byte, so that an unchanged mesh is never written again and never
//! reloaded. What is strict is not mentioned: in a mesh that has moved in, the text does not grow with the cluster. It has
//! a size, of which each namespace has its share ([`budget`](super::budget)); sizes are reckoned before anything is built.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;
use weft_core::{DnsName, MtlsMode};

use super::MESH_CONFIG;
use super::budget::{Held, Look, Looks, OCTETS, Why, level};
use super::facts::{Key, PodFacts, ServiceFacts, ServiceKind};
use super::modes::Modes;
use super::settings::{ProxySection, Settings};
use super::twins;
use super::world::World;
use crate::names::CA_ACCOUNT;

/// What every proxy is told about the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mesh {
    pub(crate) namespaces: BTreeSet<String>,
    /// Names that are outside all the same, without the cluster's domain: `legacy.shop`.
    pub(crate) exceptions: BTreeSet<String>,
    pub(crate) cidrs: Vec<IpNet>,
    /// Networks of virtual addresses.
    pub(crate) service_cidrs: Vec<IpNet>,
    /// Services that are not strict, by name without the cluster's domain, each with the names that follow it.
    pub(crate) modes: BTreeMap<String, Towards>,
    /// Services whose clients keep their endpoint, by name as above.
    pub(crate) affinity: BTreeSet<String>,
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

/// What proxies are told of all Services together: what does not grow with what a namespace holds.
pub(crate) fn frame(world: &World, settings: &Settings) -> Mesh {
    let written = |nets: &[IpNet]| {
        let mut nets = nets.to_vec();
        nets.sort_unstable();
        nets.dedup();
        nets
    };
    let given = &settings.mesh;
    Mesh {
        namespaces: world.members.clone(),
        cidrs: match &given.pod_cidrs[..] {
            [] => world.pod_cidrs(),
            nets => written(nets),
        },
        service_cidrs: match &given.service_cidrs[..] {
            [] => world.service_cidrs(),
            nets => written(nets),
        },
        ..Mesh::default()
    }
}

/// Puts the Services into the frame, with the modes as they are, in `room` octets; what has no room is held back.
pub(crate) fn fill(
    mesh: &mut Mesh,
    (world, looks): (&World, &Looks<'_>),
    domain: &DnsName,
    modes: &Modes,
    room: usize,
) -> Held {
    let mut held = Held::default();
    let mut of_namespace: BTreeMap<&str, Pieces<'_>> = BTreeMap::new();
    for piece in pieces(world, looks, modes) {
        // Kubernetes' names are names of DNS, but this text is read by every proxy.
        if full(&short(piece.key()), domain).parse::<DnsName>().is_err() {
            held.add(piece.key(), Why::Name);
            continue;
        }
        let octets = piece.octets(domain);
        of_namespace.entry(piece.namespace()).or_default().push((piece, octets));
    }
    for namespace in newcomers(world, modes, &of_namespace, room) {
        mesh.namespaces.remove(namespace);
        for (piece, _) in of_namespace.remove(namespace).into_iter().flatten() {
            held.add(piece.key(), Why::Waits);
        }
    }
    let most = level(of_namespace.values().map(demand), room).min(OCTETS);
    for mut pieces in of_namespace.into_values() {
        pieces.sort_unstable_by_key(|(piece, _)| (piece.service().created, &piece.key().name));
        let mut used = 0usize;
        for (piece, octets) in pieces {
            used = used.saturating_add(octets);
            if used > most {
                held.add(piece.key(), Why::Octets);
            } else {
                piece.put(mesh);
            }
        }
    }
    held
}

type Pieces<'w> = Vec<(Piece<'w>, usize)>;

/// The octets that a namespace asks for, up to what one may have.
fn demand(pieces: &Pieces<'_>) -> usize {
    pieces.iter().fold(0, |sum: usize, (_, octets)| sum.saturating_add(*octets)).min(OCTETS)
}

/// Namespaces that cannot join yet: there is not room for all of it. One that is in already, or has a Service that is
/// strict, never goes out again by this.
fn newcomers<'w>(
    world: &World,
    modes: &Modes,
    of_namespace: &BTreeMap<&'w str, Pieces<'w>>,
    room: usize,
) -> Vec<&'w str> {
    let strict: BTreeSet<&str> = modes.strict().map(|key| key.namespace.as_str()).collect();
    let is_in = |namespace: &str| {
        let map = world.seen.meshes.get(&Key::new(namespace, MESH_CONFIG));
        strict.contains(namespace) || map.is_some_and(|map| map.labelled && !map.waits())
    };
    let mut used = 0usize;
    let mut new = Vec::new();
    for (namespace, pieces) in of_namespace {
        if is_in(namespace) {
            used = used.saturating_add(demand(pieces));
        } else {
            new.push((demand(pieces), *namespace));
        }
    }
    new.sort_unstable();
    let fits = |(demand, _): &(usize, &str)| {
        let fits = *demand < OCTETS && used.saturating_add(*demand) <= room;
        used = if fits { used + demand } else { used };
        !fits
    };
    new.retain(fits);
    new.into_iter().map(|(_, namespace)| namespace).collect()
}

/// What proxies are told of one Service.
enum Piece<'w> {
    Outside(&'w Key, &'w ServiceFacts),
    Towards { look: &'w Look<'w>, mode: MtlsMode, twin: Option<Key> },
    Keeps(&'w Look<'w>),
}

fn pieces<'w>(world: &'w World, looks: &'w Looks<'w>, modes: &Modes) -> impl Iterator<Item = Piece<'w>> {
    let outside = looks.outside.iter().map(|(key, service)| Piece::Outside(key, service));
    let towards = looks.mesh.iter().filter_map(|look| {
        let mode = modes.towards(&look.seen, look.service.mode);
        let listed = mode != MtlsMode::Strict;
        listed.then(|| Piece::Towards { look, mode, twin: twins::existing(world, look.key) })
    });
    let keeps = looks.mesh.iter().filter(|look| look.service.keeps_clients).map(Piece::Keeps);
    outside.chain(towards).chain(keeps)
}

/// Those that are ending, too: DNS names them for a while, and so clients call them for a while.
fn sidecars<'w>(look: &'w Look<'w>) -> impl Iterator<Item = &'w IpAddr> {
    let meshed = look.pods.iter().filter(|pod: &&&PodFacts| pod.takes_mesh_links());
    meshed.flat_map(|pod| &pod.ips)
}

impl<'w> Piece<'w> {
    fn key(&self) -> &'w Key {
        match self {
            Self::Outside(key, _) => key,
            Self::Towards { look, .. } | Self::Keeps(look) => look.key,
        }
    }

    fn namespace(&self) -> &'w str {
        &self.key().namespace
    }

    fn service(&self) -> &'w ServiceFacts {
        match self {
            Self::Outside(_, service) => service,
            Self::Towards { look, .. } | Self::Keeps(look) => look.service,
        }
    }

    /// No less than it will take.
    fn octets(&self, domain: &DnsName) -> usize {
        // `.`, `.svc.`, the domain, quotes, and `*.` where names below are meant.
        let name = |key: &Key| key.name.len() + key.namespace.len() + domain.as_str().len() + 10;
        match self {
            Self::Outside(key, _) => 2 * (name(key) + 2),
            Self::Keeps(look) => name(look.key) + 2,
            Self::Towards { look, twin, .. } => {
                let entry = "    - {name: , mode: permissive, endpoints: &e1000000 [] }\n".len();
                let names = name(look.key) + twin.as_ref().map_or(0, |twin| name(twin) + entry);
                let written = |ip: &IpAddr| if ip.is_ipv4() { 17 } else { 43 };
                2 * (names + entry) + sidecars(look).map(written).sum::<usize>()
            }
        }
    }

    fn put(self, mesh: &mut Mesh) {
        match self {
            Self::Outside(key, service) => {
                mesh.exceptions.insert(short(key));
                // Pods of a headless Service have names of their own below it.
                if service.kind == ServiceKind::Headless {
                    mesh.exceptions.insert(format!("*.{}", short(key)));
                }
            }
            Self::Keeps(look) => {
                mesh.affinity.insert(short(look.key));
            }
            Self::Towards { look, mode, twin } => {
                let twin = twin.map(|twin| short(&twin));
                let towards = match mode {
                    MtlsMode::Permissive => {
                        Towards::Permissive { sidecars: sidecars(look).copied().collect(), twin }
                    }
                    MtlsMode::Strict | MtlsMode::Disable => Towards::Disabled { twin },
                };
                mesh.modes.insert(short(look.key), towards);
            }
        }
    }
}

fn full(short: &str, domain: &DnsName) -> String {
    format!("{short}.svc.{domain}")
}

/// The text of `weft.yaml` for pods of a namespace with this inbound mode.
pub(crate) fn weft_yaml(settings: &Settings, mesh: &Mesh, inbound: MtlsMode) -> String {
    let mut out = String::from(
        "# Written by the controller of Weft; changes made here are put back.\n\
         # Settings for all proxies: the section proxy of config.yaml in ConfigMap weft-config.\n\
         # Settings for some: the annotations weft.dev/* of namespaces, Services and pods.\n",
    );
    let domain = &settings.cluster_domain;
    let namespace = &settings.namespace;
    let ca = format!("weft-ca.{namespace}.svc.{domain}:15012");
    // The CA's own identity is of the namespace that it was installed in.
    let server = format!("spiffe://{}/ns/{namespace}/sa/{CA_ACCOUNT}", settings.trust_domain);
    let _ = write!(
        out,
        "identity:\n  trustDomain: {}\n  ca: {{address: \"{ca}\", serverId: \"{server}\"}}\nmesh:\n  domains: \
         [\"{{service}}.{{namespace}}.svc.{domain}\", \"{{pod}}.{{service}}.{{namespace}}.svc.{domain}\"]\n",
        scalar(settings.trust_domain.as_str()),
    );
    list(&mut out, "namespaces", mesh.namespaces.iter().map(|namespace| scalar(namespace)));
    let full = |short: &str| scalar(&full(short, domain));
    let kubernetes = "kubernetes.default".to_owned();
    let exceptions: BTreeSet<&String> = mesh.exceptions.iter().chain([&kubernetes]).collect();
    list(&mut out, "exceptions", exceptions.into_iter().map(|name| full(name)));
    let cidr_mode = MtlsMode::from(settings.mesh.pod_cidr_mode);
    block(
        &mut out,
        "cidrs",
        mesh.cidrs.iter().map(|cidr| format!("{{cidr: {}, mode: {cidr_mode}}}", scalar(&cidr.to_string()))),
    );
    // Written only where there are some: a proxy of an older version does not know the field.
    if !mesh.service_cidrs.is_empty() {
        list(&mut out, "serviceCidrs", mesh.service_cidrs.iter().map(|cidr| scalar(&cidr.to_string())));
    }
    if !mesh.affinity.is_empty() {
        list(&mut out, "sessionAffinity", mesh.affinity.iter().map(|name| full(name)));
    }
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
