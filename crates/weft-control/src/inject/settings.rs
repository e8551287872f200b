//! The `injector` section of `config.yaml` of `weft control`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::quantity::Quantity;

/// What is injected, and how. Unknown fields are errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InjectSettings {
    /// The image of `weft-init` and `weft-proxy`.
    pub image: String,
    /// When the kubelet pulls it.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// Whether `weft-proxy` is a native sidecar.
    #[serde(default)]
    pub native_sidecar: NativeSidecar,
    /// Of `weft-proxy`, where no annotation asks for others. Written in part, it stands for the whole.
    #[serde(default = "proxy_resources")]
    pub resources: Resources,
    /// Of `weft-init`.
    #[serde(default = "init_resources")]
    pub init_resources: Resources,
}

impl InjectSettings {
    /// The defaults, with this image.
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            image_pull_policy: PullPolicy::default(),
            native_sidecar: NativeSidecar::default(),
            resources: proxy_resources(),
            init_resources: init_resources(),
        }
    }

    /// What is wrong although every field could be read; empty where nothing is.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.image.is_empty() || self.image.chars().any(|c| c.is_whitespace() || c.is_control()) {
            problems.push(format!(
                "injector.image {:?}: write an image reference such as weft:0.1.0",
                self.image
            ));
        }
        for (field, resources) in [("resources", &self.resources), ("initResources", &self.init_resources)] {
            let found =
                resources.problems().into_iter().map(|problem| format!("injector.{field}: {problem}"));
            problems.extend(found);
        }
        problems
    }
}

/// What `weft inject` reads of `config.yaml`; the rest is `weft control`'s to check.
#[derive(Deserialize)]
struct Config {
    namespace: Option<String>,
    injector: InjectSettings,
}

impl InjectSettings {
    /// The `injector` section of a whole `config.yaml`, and Weft's own namespace where the file names it.
    ///
    /// # Errors
    /// Everything that is wrong with the section; what cannot be read at all with its line.
    pub fn from_config(text: &str) -> Result<(Self, Option<String>), Vec<String>> {
        let options = serde_saphyr::options! { with_snippet: false };
        let config: Config =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| vec![error.to_string()])?;
        let problems = config.injector.problems();
        if problems.is_empty() { Ok((config.injector, config.namespace)) } else { Err(problems) }
    }
}

/// `imagePullPolicy` of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// Where the node does not have it.
    #[default]
    IfNotPresent,
    /// Not at all.
    Never,
}

/// Whether `weft-proxy` is an init container with `restartPolicy: Always`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NativeSidecar {
    /// Where the API server is of version 1.29 or later.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never: it is the first of the containers.
    Never,
}

impl NativeSidecar {
    /// The answer for an API server of version `major`.`minor`; `None` where the version is not known, as offline, and
    /// then it counts as new.
    pub fn resolve(self, version: Option<(u32, u32)>) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            // SidecarContainers is on by default since 1.29.
            Self::Auto => version.is_none_or(|version| version >= (1, 29)),
        }
    }
}

/// `resources` of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// What the scheduler keeps free for it, by resource name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Quantity>,
    /// What it may use at most, by resource name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Quantity>,
}

impl Resources {
    /// What the API server would refuse; empty where nothing is.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (list, of) in [("requests", &self.requests), ("limits", &self.limits)] {
            for name in ["memory", "ephemeral-storage"] {
                if let Some(octets) = of.get(name).filter(|octets| !octets.is_whole()) {
                    problems.push(format!("{list}.{name} {octets}: {name} is counted in whole octets; m stands for thousandths, M and Mi for millions"));
                }
            }
        }
        for (name, limit) in &self.limits {
            if let Some(request) = self.requests.get(name).filter(|request| *request > limit) {
                problems.push(format!("the {name} request {request} is above the {name} limit {limit}"));
            }
        }
        problems
    }
}

fn quantities(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    let pairs = pairs.iter().filter_map(|(name, amount)| Some(((*name).to_owned(), amount.parse().ok()?)));
    pairs.collect()
}

/// An idle proxy holds a few MiB; the limit leaves room for thousands of connections. No limit on CPU: throttling a proxy
/// throttles its application.
fn proxy_resources() -> Resources {
    Resources {
        requests: quantities(&[("cpu", "10m"), ("memory", "24Mi")]),
        limits: quantities(&[("memory", "256Mi")]),
    }
}

fn init_resources() -> Resources {
    Resources {
        requests: quantities(&[("cpu", "10m"), ("memory", "16Mi")]),
        limits: quantities(&[("memory", "64Mi")]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_enough() {
        let settings: InjectSettings = serde_saphyr::from_str("image: weft:0.1.0").unwrap();
        assert_eq!(settings, InjectSettings::new("weft:0.1.0"));
        assert_eq!(settings.resources.requests.len() + settings.resources.limits.len(), 3);
        assert_eq!(settings.init_resources.limits["memory"].as_str(), "64Mi");
        assert!(settings.problems().is_empty());
    }

    #[test]
    fn every_field_is_read() {
        let text = "image: r/weft:1\nimagePullPolicy: Never\nnativeSidecar: never\nresources: {requests: {cpu: 1}}\ninitResources: {limits: {memory: 1Gi}}\n";
        let settings: InjectSettings = serde_saphyr::from_str(text).unwrap();
        assert_eq!(
            (settings.image_pull_policy, settings.native_sidecar),
            (PullPolicy::Never, NativeSidecar::Never)
        );
        assert_eq!(settings.resources.requests["cpu"].as_str(), "1");
        assert!(settings.resources.limits.is_empty() && settings.init_resources.requests.is_empty());
    }

    #[test]
    fn mistakes_are_told() {
        for text in [
            "{}",
            "{image: a, imagePolicy: Always}",
            "{image: a, resources: {requests: {cpu: 1cpu}}}",
            "{image: a, nativeSidecar: yes}",
        ] {
            assert!(serde_saphyr::from_str::<InjectSettings>(text).is_err(), "{text}");
        }
        let wrong = "{image: 'a b', resources: {requests: {memory: 2Gi}, limits: {memory: 1Gi}}, initResources: {limits: {memory: 1m}}}";
        let settings: InjectSettings = serde_saphyr::from_str(wrong).unwrap();
        assert_eq!(settings.problems().len(), 3, "{:?}", settings.problems());
    }

    #[test]
    fn the_section_is_found_in_a_whole_file() {
        let text =
            "trustDomain: a.example\nnamespace: mesh\ninjector:\n  image: weft:1\nproxy: {log: debug}\n";
        let (settings, namespace) = InjectSettings::from_config(text).unwrap();
        assert_eq!((settings, namespace.as_deref()), (InjectSettings::new("weft:1"), Some("mesh")));
        let wrong = InjectSettings::from_config("injector:\n  image: weft:1\n  imag: x\n").unwrap_err();
        assert!(wrong[0].contains("imag") && wrong[0].contains("line 3"), "{wrong:?}");
        assert!(InjectSettings::from_config("injector: {image: ''}").is_err());
        assert!(InjectSettings::from_config("mesh: {}").is_err());
    }

    #[test]
    fn native_from_1_29_on() {
        let auto = |version| NativeSidecar::Auto.resolve(version);
        assert!(auto(None) && auto(Some((1, 29))) && auto(Some((2, 0))) && !auto(Some((1, 28))));
        assert!(NativeSidecar::Always.resolve(Some((1, 28))) && !NativeSidecar::Never.resolve(None));
    }
}
