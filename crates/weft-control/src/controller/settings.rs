//! What the controller is told: the parts of `config.yaml` that concern it.
//!
//! A mistake here would reach every proxy of the mesh at once, and a proxy that starts with a configuration it cannot
//! read does not start. So the settings are checked as the proxies will check them, with the proxies' own reader,
//! before anything is written ([`Settings::check`]).

use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weft_config::{Env, ProxyConfig};
use weft_core::{DnsName, MtlsMode, Namespace, TrustDomain};

use super::membership::{Mesh, weft_yaml};
use crate::inject::InjectSettings;

/// Everything that the controller follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `trustDomain`.
    pub trust_domain: TrustDomain,
    /// `clusterDomain`, such as `cluster.local`.
    pub cluster_domain: DnsName,
    /// Weft's own namespace.
    pub namespace: Namespace,
    /// `mesh`.
    pub mesh: MeshSettings,
    /// `proxy`.
    pub proxy: ProxySection,
    /// `controller`.
    pub controller: ControllerSettings,
    /// `injector`: what a pod would get that is made anew.
    pub injector: Option<InjectSettings>,
}

/// The `controller` section of `config.yaml`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ControllerSettings {
    /// Whether pods that slipped by are made anew.
    pub recreate_slipped: RecreateSettings,
}

/// Pods without a sidecar are evicted, so that their workload makes them anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RecreateSettings {
    /// Whether it is done at all.
    pub enabled: bool,
    /// Evictions that are asked for in a minute, in the whole cluster.
    pub per_minute: u32,
    /// How long a pod is left alone that has just been seen, in seconds.
    pub grace_seconds: u32,
    /// Evictions of one workload whose new pods have no sidecar either, until it is given up.
    pub tries: u32,
    /// Whether pods with an `emptyDir` are evicted too.
    pub delete_empty_dir_data: bool,
}

impl Default for RecreateSettings {
    fn default() -> Self {
        Self { enabled: false, per_minute: 5, grace_seconds: 120, tries: 3, delete_empty_dir_data: false }
    }
}

impl RecreateSettings {
    /// The field that cannot be followed, and why; the chart's schema has the same limits.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        let fields = [
            ("perMinute", self.per_minute, 1..=60),
            ("graceSeconds", self.grace_seconds, 10..=86_400),
            ("tries", self.tries, 1..=10),
        ];
        let wrong = fields.into_iter().find(|(_, value, allowed)| !allowed.contains(value));
        wrong.map(|(field, value, allowed)| {
            (field, format!("{value} is not between {} and {}", allowed.start(), allowed.end()))
        })
    }
}

/// The `mesh` section of `config.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MeshSettings {
    /// Addresses of pods; empty: the podCIDRs of the nodes.
    pub pod_cidrs: Vec<IpNet>,
    /// Networks of virtual addresses; empty: what the cluster's `ServiceCIDR` objects say.
    pub service_cidrs: Vec<IpNet>,
    /// Mode towards pods that are dialed by address, without a name.
    pub pod_cidr_mode: PodCidrMode,
}

/// [`MeshSettings::pod_cidr_mode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodCidrMode {
    /// Mutual TLS where the peer speaks it.
    #[default]
    Permissive,
    /// Mutual TLS or nothing.
    Strict,
    /// Never mutual TLS.
    Disable,
}

impl From<PodCidrMode> for MtlsMode {
    fn from(mode: PodCidrMode) -> Self {
        match mode {
            PodCidrMode::Permissive => Self::Permissive,
            PodCidrMode::Strict => Self::Strict,
            PodCidrMode::Disable => Self::Disable,
        }
    }
}

/// The `proxy` section of `config.yaml`: sections of `weft.yaml` that every proxy gets.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct ProxySection(pub Map<String, Value>);

/// Why settings cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// `proxy` sets what the controller writes.
    #[error("config.yaml: proxy.{field} is written by the controller; {cure}")]
    Reserved {
        /// The field.
        field: &'static str,
        /// What to do instead.
        cure: &'static str,
    },
    /// `proxy` has a section that is not a mapping.
    #[error("config.yaml: proxy.{field} is not a mapping")]
    NotAMapping {
        /// The section.
        field: &'static str,
    },
    /// A proxy would refuse what comes out.
    #[error("config.yaml: proxies would refuse the section proxy: {reason}")]
    Refused {
        /// The reader's words, each mistake with its field.
        reason: String,
    },
}

impl ProxySection {
    /// The fields of `inbound` that are set for every proxy.
    pub(crate) fn inbound(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.get("inbound").and_then(Value::as_object).into_iter().flatten()
    }

    /// All sections but `inbound`.
    pub(crate) fn others(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter().filter(|(name, _)| *name != "inbound")
    }

    fn reserved(&self) -> Result<(), SettingsError> {
        if self.0.contains_key("identity") {
            let cure = "set trustDomain, or use weft.dev/config on a pod";
            return Err(SettingsError::Reserved { field: "identity", cure });
        }
        if self.0.contains_key("mesh") {
            let cure = "use the section mesh of config.yaml and the annotations of Services";
            return Err(SettingsError::Reserved { field: "mesh", cure });
        }
        match self.0.get("inbound") {
            None => Ok(()),
            Some(Value::Object(inbound)) if inbound.contains_key("mode") => Err(SettingsError::Reserved {
                field: "inbound.mode",
                cure: "annotate namespaces or pods with weft.dev/mode",
            }),
            Some(Value::Object(_)) => Ok(()),
            Some(_) => Err(SettingsError::NotAMapping { field: "inbound" }),
        }
    }
}

impl Settings {
    /// Whether proxies could run with what these settings give.
    ///
    /// # Errors
    /// What is wrong, with its field.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.proxy.reserved()?;
        let text = weft_yaml(self, &Mesh::default(), MtlsMode::Permissive);
        read(&text).map_err(|reason| SettingsError::Refused { reason })
    }
}

/// Reads `text` as a proxy would.
pub(crate) fn read(text: &str) -> Result<(), String> {
    match ProxyConfig::from_text(Path::new("weft.yaml"), text, &Env::empty()) {
        Ok(_) => Ok(()),
        Err(errors) => Err(errors
            .problems
            .iter()
            .map(|p| format!("{}: {}", p.field, p.reason))
            .fold(String::new(), |all, one| if all.is_empty() { one } else { all + "; " + &one })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn settings(proxy: &str) -> Settings {
        Settings {
            trust_domain: "weft.local".parse().unwrap(),
            cluster_domain: "cluster.local".parse().unwrap(),
            namespace: "weft-system".parse().unwrap(),
            mesh: MeshSettings::default(),
            proxy: serde_saphyr::from_str(proxy).unwrap(),
            controller: ControllerSettings::default(),
            injector: None,
        }
    }

    #[test]
    fn what_proxies_take_is_taken() {
        let good = "{timeouts: {connect: 2s}, inbound: {opaquePorts: [3306]}, \
                    telemetry: {tracing: {endpoint: 'http://otel.obs:4317'}}, log: 'info,weft=debug'}";
        assert_eq!(settings(good).check(), Ok(()));
        assert_eq!(settings("{}").check(), Ok(()));
    }

    #[test]
    fn what_the_controller_writes_is_refused_in_the_section_proxy() {
        for (proxy, named) in [
            ("{identity: {trustDomain: other}}", "proxy.identity"),
            ("{mesh: {mode: disable}}", "proxy.mesh"),
            ("{inbound: {mode: disable}}", "proxy.inbound.mode"),
            ("{inbound: 3}", "proxy.inbound"),
        ] {
            let told = settings(proxy).check().unwrap_err().to_string();
            assert!(told.contains(named), "{told}");
        }
    }

    #[test]
    fn what_proxies_would_refuse_is_refused_with_its_field() {
        let told = settings("{timeouts: {conect: 2s}}").check().unwrap_err().to_string();
        assert!(told.contains("timeouts.conect"), "{told}");
    }

    #[test]
    fn the_mesh_section_refuses_unknown_fields() {
        let read = serde_saphyr::from_str::<MeshSettings>;
        let good = "{podCidrs: [10.0.0.0/8, 'fd00::/8'], serviceCidrs: [10.96.0.0/12], podCidrMode: strict}";
        let good = read(good).unwrap();
        assert_eq!(good.service_cidrs.len(), 1);
        assert_eq!((good.pod_cidrs.len(), good.pod_cidr_mode), (2, PodCidrMode::Strict));
        assert!(read("{podCidr: []}").is_err());
        assert!(read("{podCidrMode: maybe}").is_err());
    }
    #[test]
    fn recreation_is_off_and_has_limits() {
        let read = |text: &str| serde_saphyr::from_str::<ControllerSettings>(text);
        assert_eq!(read("{}").unwrap(), ControllerSettings::default());
        let off = RecreateSettings::default();
        assert!(!off.enabled && !off.delete_empty_dir_data && off.problem().is_none());
        let on = read(
            "recreateSlipped: {enabled: true, perMinute: 60, graceSeconds: 10, tries: 1, deleteEmptyDirData: true}",
        );
        let on = on.unwrap().recreate_slipped;
        assert!(on.enabled && on.delete_empty_dir_data && on.problem().is_none());
        assert_eq!((on.per_minute, on.grace_seconds, on.tries), (60, 10, 1));
        for (text, field) in [
            ("{perMinute: 0}", "perMinute"),
            ("{perMinute: 61}", "perMinute"),
            ("{graceSeconds: 9}", "graceSeconds"),
            ("{tries: 0}", "tries"),
            ("{tries: 11}", "tries"),
        ] {
            let settings = read(&format!("recreateSlipped: {text}")).unwrap().recreate_slipped;
            assert_eq!(settings.problem().map(|(field, _)| field), Some(field), "{text}");
        }
        assert!(read("recreateSlipped: {perminute: 1}").is_err());
        assert!(read("recreateSlipped: {perMinute: -1}").is_err());
    }
}
