//! `resources`, `clusterDomain` and `gateway`: where gateways and routes come from, and which of them are this process's.

use std::path::{Path, PathBuf};

use weft_core::DnsName;

use crate::compression::{self, Compression};
use crate::edge::conflict;
use crate::env::Role;
use crate::read::{Bad, Section};
use crate::scalar;
use crate::tree::Scalar;

/// The suffix of a cluster's DNS names, where nobody chose another.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// Where gateways and routes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// `resources`: files and directories with YAML documents, relative ones from the directory of `weft.yaml`. What is in them
    /// may change while the process runs; the list itself may not.
    pub paths: Vec<PathBuf>,
    /// `clusterDomain`: a `Service` is `{name}.{namespace}.svc.{clusterDomain}`.
    pub cluster_domain: DnsName,
    /// `gateway.name`: the one `Gateway` whose listeners this process has; `None`: all there are.
    pub gateway: Option<GatewayName>,
    /// `gateway.compression`: what is made smaller; `None`: nothing.
    pub compression: Option<Compression>,
}

/// `namespace/name` of a `Gateway`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl std::fmt::Display for GatewayName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Reads them; `s` is `gateway`. `None` only where a problem was told.
pub(crate) fn resources(root: &Section<'_, '_>, s: &Section<'_, '_>, config: &Path) -> Option<Resources> {
    let paths = root.list("resources", scalar::path);
    let gateway = root.reader().role() == Role::Gateway;
    let none = paths.as_ref().is_none_or(Vec::is_empty);
    if gateway && none {
        root.missing("resources");
    }
    let domain = scalar::parsed::<DnsName>("write a DNS suffix such as cluster.local");
    let default = CLUSTER_DOMAIN.parse().ok()?;
    let cluster_domain = root.or("clusterDomain", default, domain);
    let name = s.scalar("name", gateway_name);
    match &name {
        Some((_, origin)) if !gateway => {
            let bad = conflict("a sidecar has no listeners of a Gateway");
            s.reader().refuse(origin.clone(), "gateway.name", bad);
        }
        None if gateway => s.default("name", &"all"),
        _ => {}
    }
    let compression = compression::compression(s);
    let directory = config.parent().unwrap_or(Path::new(""));
    let paths = paths.unwrap_or_default().into_iter().map(|(path, _)| directory.join(path)).collect();
    let gateway = name.map(|(name, _)| name);
    Some(Resources { paths, cluster_domain, gateway, compression })
}

fn gateway_name(written: &Scalar) -> Result<GatewayName, Bad> {
    let text = scalar::text(written)?;
    let label = |text: &str| !text.is_empty() && text.parse::<DnsName>().is_ok();
    match text.split_once('/') {
        Some((namespace, name)) if label(namespace) && label(name) => {
            Ok(GatewayName { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => {
            Err(Bad::value(format!("\"{text}\" is no Gateway"), "write namespace/name, such as edge/public"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Env, IdentitySource, ProxyConfig, Workers};

    fn load(role: Role, text: &str) -> Result<ProxyConfig, String> {
        let env = Env::empty().with_role(role);
        ProxyConfig::from_text(Path::new("weft.yaml"), text, &env).map_err(|errors| errors.to_string())
    }

    #[test]
    fn a_gateway_needs_resources_and_nothing_else() {
        let config = load(Role::Gateway, "resources: [a.yaml, dir]").unwrap();
        assert_eq!(config.role, Role::Gateway);
        assert_eq!(config.workers, Workers::Auto);
        assert_eq!(config.identity.source, IdentitySource::None);
        assert_eq!((config.bind.outbound, config.bind.inbound, config.bind.dns), (None, None, None));
        assert_eq!(config.bind.ports(), [15000, 15020, 15021]);
        assert_eq!(config.resources.paths, [PathBuf::from("a.yaml"), PathBuf::from("dir")]);
        assert_eq!(config.resources.cluster_domain.as_str(), "cluster.local");
        assert_eq!(config.resources.gateway, None);
        let env = Env::empty().with_role(Role::Gateway);
        let beside = ProxyConfig::from_text(Path::new("/srv/weft.yaml"), "resources: [a, /b]", &env).unwrap();
        assert_eq!(beside.resources.paths, [PathBuf::from("/srv/a"), PathBuf::from("/b")]);
        let told = load(Role::Gateway, "").unwrap_err();
        assert!(
            told.contains("resources: this field is missing") && told.contains("WEFT_RESOURCES"),
            "{told}"
        );
    }

    #[test]
    fn what_means_nothing_to_a_gateway_is_told_and_not_passed_over() {
        for (text, field) in [
            ("bind: {outbound: 16001}", "bind.outbound"),
            ("bind: {inbound: 16001}", "bind.inbound"),
            ("bind: {dns: 16001}", "bind.dns"),
            ("inbound: {mode: permissive}", "inbound"),
            ("outbound: {opaquePorts: [3306]}", "outbound"),
            ("probes: []", "probes"),
        ] {
            let told = load(Role::Gateway, &format!("resources: [r]\n{text}\n")).unwrap_err();
            assert!(told.starts_with("weft.yaml:2:") && told.contains(&format!(" {field}: ")), "{told}");
            assert!(told.contains("weft proxy"), "{told}");
        }
        let env = Env::empty().with_role(Role::Gateway).with_flag("--set", "inbound.mode", "permissive");
        let told = ProxyConfig::from_text(Path::new("weft.yaml"), "resources: [r]", &env).unwrap_err();
        assert!(told.to_string().contains("inbound: a gateway has no such thing"), "{told}");
    }

    #[test]
    fn one_gateway_may_be_named() {
        let named = |name: &str| load(Role::Gateway, &format!("resources: [r]\ngateway: {{name: {name}}}\n"));
        assert_eq!(named("edge/public").unwrap().resources.gateway.unwrap().to_string(), "edge/public");
        for bad in ["public", "/public", "edge/", "a/b/c", "a b/c"] {
            let told = named(bad).unwrap_err();
            assert!(told.contains("gateway.name") && told.contains("edge/public"), "{told}");
        }
        let identity = "identity: {files: {certificate: c, key: k, bundle: b}}\n";
        let told = load(Role::Sidecar, &format!("{identity}gateway: {{name: edge/public}}\n")).unwrap_err();
        assert!(told.contains("weft.yaml:2:17: gateway.name") && told.contains("weft gateway"), "{told}");
        assert!(load(Role::Sidecar, identity).unwrap().resources.paths.is_empty());
        let routed = load(Role::Sidecar, &format!("{identity}resources: [r]\n")).unwrap();
        assert_eq!(routed.resources.paths, [PathBuf::from("r")]);
    }
}
