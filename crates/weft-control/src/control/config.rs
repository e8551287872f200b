//! `config.yaml` of `weft control`, with mistakes named by file, line and field.

use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;
use weft_config::ExportConfig;
use weft_core::{DnsName, Namespace, TrustDomain};

use crate::KubeError;
use crate::controller::{ControllerSettings, MeshSettings, ProxySection, Settings};
use crate::inject::InjectSettings;
use crate::webhook::WebhookSettings;

use super::leaving::GRACE;
use super::telemetry;

/// Where Weft is installed unless told otherwise.
const NAMESPACE: &str = "weft-system";

/// From the signal to the end of the listeners. The endpoints' controller and kube-proxy need a second or two to forget a
/// pod, up to ten on a large cluster.
const DRAIN_PERIOD: Duration = Duration::from_secs(15);
/// The kubelet would have to wait as long for each replica of a roll-out.
const LONGEST_DRAIN: Duration = Duration::from_secs(300);

/// Everything `weft control` can be told. Fields have the names of the file, in Rust's spelling.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlConfig {
    /// `trustDomain`, default `weft.local`: the mesh that the CA vouches for.
    pub trust_domain: TrustDomain,
    /// `clusterDomain`, default `cluster.local`: the suffix of the cluster's DNS names.
    pub cluster_domain: DnsName,
    /// `namespace`: Weft's own. By default the one it runs in (`POD_NAMESPACE`), else `weft-system`.
    pub namespace: Namespace,
    /// `ca`: lifetimes.
    pub ca: CaSettings,
    /// `drainPeriod`, default 15 s: how long CA and injector go on taking connections after the signal to end.
    pub drain_period: Duration,
    /// `webhook`: who may ask the injector.
    pub webhook: WebhookSettings,
    /// `injector`: what is put into pods. Only the injector needs it.
    pub injector: Option<InjectSettings>,
    /// `controller`: what it may do beside keeping membership.
    pub controller: ControllerSettings,
    /// `mesh`: addresses that are in the mesh without a name.
    pub mesh: MeshSettings,
    /// `proxy`: merged into every `weft.yaml`.
    pub proxy: ProxySection,
    /// `telemetry`: where its own spans and metrics are sent. By default nowhere.
    pub telemetry: ExportConfig,
}

/// The `ca` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaSettings {
    /// `leafLifetime`, default 24 h: the life of a workload's certificate.
    pub leaf_lifetime: Duration,
    /// `rootLifetime`, default 10 years: the life of a root that is made.
    pub root_lifetime: Duration,
    /// `identityConnections`, default 16,384: what one identity may have open.
    pub identity_connections: usize,
}

impl CaSettings {
    /// What callers of the CA may take.
    pub(super) fn limits(&self) -> weft_ca::Limits {
        weft_ca::Limits { identity_connections: self.identity_connections, ..Default::default() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    #[serde(default, deserialize_with = "parsed")]
    trust_domain: Option<TrustDomain>,
    cluster_domain: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "parsed")]
    namespace: Option<Namespace>,
    #[serde(default)]
    ca: RawCa,
    drain_period: Option<Spanned<String>>,
    webhook: Option<Spanned<WebhookSettings>>,
    injector: Option<Spanned<InjectSettings>>,
    controller: Option<Spanned<ControllerSettings>>,
    #[serde(default)]
    mesh: MeshSettings,
    proxy: Option<Spanned<ProxySection>>,
    /// Read by the reader of the proxies' own.
    telemetry: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawCa {
    leaf_lifetime: Option<Spanned<String>>,
    root_lifetime: Option<Spanned<String>>,
    identity_connections: Option<Spanned<usize>>,
}

impl ControlConfig {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`KubeError::Config`] naming file, line and field.
    pub fn load(path: &Path) -> Result<Self, KubeError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| mistake(path, None, "", format!("cannot be read: {error}")))?;
        let pod_namespace = std::env::var("POD_NAMESPACE").ok();
        Self::from_yaml(path, &text, pod_namespace.as_deref())
    }

    /// The same from text. `path` is for error messages; `pod_namespace` is where the process runs, if in a pod.
    ///
    /// # Errors
    /// [`KubeError::Config`].
    pub fn from_yaml(path: &Path, text: &str, pod_namespace: Option<&str>) -> Result<Self, KubeError> {
        let raw: Raw = parse(path, if text.trim().is_empty() { "{}" } else { text })?;
        let namespace = match (raw.namespace, pod_namespace) {
            (Some(namespace), _) => namespace,
            (None, Some(found)) => found
                .parse()
                .map_err(|error| mistake(path, None, "namespace", format!("POD_NAMESPACE: {error}")))?,
            (None, None) => known(NAMESPACE, path)?,
        };
        let proxy_line = raw.proxy.as_ref().map(|proxy| proxy.defined.line());
        let config = Self {
            trust_domain: match raw.trust_domain {
                Some(domain) => domain,
                None => known("weft.local", path)?,
            },
            cluster_domain: cluster_domain(path, raw.cluster_domain)?,
            namespace,
            ca: raw.ca.check(path)?,
            drain_period: drain_period(path, raw.drain_period.as_ref())?,
            webhook: webhook(path, raw.webhook)?,
            controller: controller(path, raw.controller, raw.injector.is_some())?,
            injector: injector(path, raw.injector)?,
            mesh: raw.mesh,
            proxy: raw.proxy.map(|proxy| proxy.value).unwrap_or_default(),
            telemetry: match raw.telemetry {
                Some(_) => telemetry::read(path, text)?,
                None => ExportConfig::default(),
            },
        };
        // A mistake in `proxy` would reach every proxy of the mesh: it is judged by their own reader.
        config.settings().check().map_err(|error| {
            let reason = error.to_string();
            mistake(path, proxy_line, "proxy", reason.strip_prefix("config.yaml: ").unwrap_or(&reason))
        })?;
        Ok(config)
    }

    /// From the signal to the end, at the latest.
    pub fn drain_time(&self) -> Duration {
        self.drain_period + GRACE
    }

    /// What of it concerns the controller.
    pub fn settings(&self) -> Settings {
        Settings {
            trust_domain: self.trust_domain.clone(),
            cluster_domain: self.cluster_domain.clone(),
            namespace: self.namespace.clone(),
            mesh: self.mesh.clone(),
            proxy: self.proxy.clone(),
            controller: self.controller,
            injector: self.injector.clone(),
        }
    }

    /// Takes what can change while it runs (`controller`, `mesh`, `proxy`) from `new`. Returns the names of the other
    /// fields that differ: those wait for a restart.
    pub(super) fn follow(&self, new: Self) -> (Self, Vec<&'static str>) {
        let differing = [
            ("trustDomain", self.trust_domain != new.trust_domain),
            ("clusterDomain", self.cluster_domain != new.cluster_domain),
            ("ca", self.ca != new.ca),
            ("drainPeriod", self.drain_period != new.drain_period),
            ("webhook", self.webhook != new.webhook),
            ("injector", self.injector != new.injector),
            ("telemetry", self.telemetry != new.telemetry),
        ];
        let waiting = differing.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
        (Self { controller: new.controller, mesh: new.mesh, proxy: new.proxy, ..self.clone() }, waiting)
    }
}

impl RawCa {
    fn check(self, path: &Path) -> Result<CaSettings, KubeError> {
        let defaults = weft_ca::Lifetimes::default();
        let leaf = duration(path, "ca.leafLifetime", self.leaf_lifetime.as_ref(), defaults.leaf)?;
        let root = duration(path, "ca.rootLifetime", self.root_lifetime.as_ref(), defaults.root)?;
        let lifetimes = weft_ca::Lifetimes { leaf, root };
        lifetimes.check().map_err(|(field, reason)| {
            let at = if field == "leafLifetime" { self.leaf_lifetime } else { self.root_lifetime };
            mistake(path, at.map(|raw| raw.defined.line()), &format!("ca.{field}"), reason)
        })?;
        let identity_connections = match self.identity_connections {
            None => weft_ca::Limits::default().identity_connections,
            Some(raw) => {
                let line = Some(raw.defined.line());
                let limits = weft_ca::Limits::with_identity_connections(raw.value);
                limits
                    .map_err(|reason| mistake(path, line, "ca.identityConnections", reason))?
                    .identity_connections
            }
        };
        Ok(CaSettings { leaf_lifetime: leaf, root_lifetime: root, identity_connections })
    }
}

fn duration(
    path: &Path,
    field: &str,
    raw: Option<&Spanned<String>>,
    default: Duration,
) -> Result<Duration, KubeError> {
    let Some(raw) = raw else { return Ok(default) };
    humantime::parse_duration(&raw.value).map_err(|error| {
        mistake(path, Some(raw.defined.line()), field, format!("{error}; write it as 24h or 30m"))
    })
}

fn drain_period(path: &Path, raw: Option<&Spanned<String>>) -> Result<Duration, KubeError> {
    let period = duration(path, "drainPeriod", raw, DRAIN_PERIOD)?;
    if period > LONGEST_DRAIN {
        let reason = format!("must not be longer than {}", humantime::format_duration(LONGEST_DRAIN));
        return Err(mistake(path, raw.map(|raw| raw.defined.line()), "drainPeriod", reason));
    }
    Ok(period)
}

fn webhook(path: &Path, raw: Option<Spanned<WebhookSettings>>) -> Result<WebhookSettings, KubeError> {
    let Some(raw) = raw else { return Ok(WebhookSettings::default()) };
    match raw.value.problem() {
        None => Ok(raw.value),
        Some((field, reason)) => {
            Err(mistake(path, Some(raw.defined.line()), &format!("webhook.{field}"), reason))
        }
    }
}

fn injector(path: &Path, raw: Option<Spanned<InjectSettings>>) -> Result<Option<InjectSettings>, KubeError> {
    let Some(raw) = raw else { return Ok(None) };
    match raw.value.problems().as_slice() {
        [] => Ok(Some(raw.value)),
        problems => Err(mistake(path, Some(raw.defined.line()), "injector", problems.join("; "))),
    }
}

fn controller(
    path: &Path,
    raw: Option<Spanned<ControllerSettings>>,
    injects: bool,
) -> Result<ControllerSettings, KubeError> {
    let Some(raw) = raw else { return Ok(ControllerSettings::default()) };
    let recreate = raw.value.recreate_slipped;
    let lacks = (recreate.enabled && !injects).then(|| {
        let reason =
            "a pod is only evicted if it would be injected, for which the section injector is needed";
        ("enabled", reason.to_owned())
    });
    match recreate.problem().or(lacks) {
        None => Ok(raw.value),
        Some((field, reason)) => {
            let field = format!("controller.recreateSlipped.{field}");
            Err(mistake(path, Some(raw.defined.line()), &field, reason))
        }
    }
}

fn cluster_domain(path: &Path, raw: Option<Spanned<String>>) -> Result<DnsName, KubeError> {
    let Some(raw) = raw else { return known("cluster.local", path) };
    raw.value.parse().map_err(|error| mistake(path, Some(raw.defined.line()), "clusterDomain", error))
}

/// A constant of ours as a checked value.
fn known<T: FromStr>(text: &str, path: &Path) -> Result<T, KubeError>
where
    T::Err: Display,
{
    text.parse().map_err(|error: T::Err| mistake(path, None, "", error))
}

/// A value of a type that parses itself.
fn parsed<'de, D: Deserializer<'de>, T: FromStr>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T::Err: Display,
{
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, KubeError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map(|location| location.line());
        let field = line.and_then(|line| key_at(text, line)).unwrap_or_default();
        let message = error.without_snippet().to_string();
        mistake(path, line, &field, message.lines().next().unwrap_or_default().trim())
    })
}

/// The key on a line of block-style YAML.
fn key_at(text: &str, line: u64) -> Option<String> {
    let line = text.lines().nth(usize::try_from(line.checked_sub(1)?).ok()?)?;
    let (key, _) = line.split_once(':')?;
    let key = key.trim_start_matches([' ', '-', '{']).trim();
    key.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| key.to_owned())
}

fn mistake(path: &Path, line: Option<u64>, field: &str, reason: impl Display) -> KubeError {
    KubeError::Config { path: path.to_owned(), line, field: field.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::PodCidrMode;

    fn load(text: &str) -> Result<ControlConfig, KubeError> {
        ControlConfig::from_yaml(Path::new("/etc/weft-control/config.yaml"), text, None)
    }

    #[test]
    fn an_empty_file_has_the_defaults() {
        for text in ["", "\n", "{}", "# nothing\n{}"] {
            let config = load(text).unwrap();
            assert_eq!(config.trust_domain.as_str(), "weft.local");
            assert_eq!(config.cluster_domain.as_str(), "cluster.local");
            assert_eq!(config.ca.leaf_lifetime, Duration::from_secs(24 * 3600));
            assert_eq!(config.mesh, MeshSettings::default());
            assert_eq!(config.drain_time(), Duration::from_secs(20));
            assert_eq!(config.webhook, WebhookSettings::default());
            assert_eq!(config.controller, ControllerSettings::default());
            assert!(config.injector.is_none() && config.proxy.0.is_empty());
            assert_eq!(config.telemetry, ExportConfig::default());
        }
    }

    #[test]
    fn every_field_is_read() {
        let config = load(
            "trustDomain: prod.example\nclusterDomain: k8s.example\nnamespace: mesh\n\
             ca: {leafLifetime: 1h, rootLifetime: 1year, identityConnections: 600}\ninjector:\n  image: weft:1\n\
             drainPeriod: 30s\nwebhook: {clientCa: '', clientNames: []}\n\
             controller: {recreateSlipped: {enabled: true, tries: 2}}\n\
             mesh: {podCidrs: [10.244.0.0/16, 'fd00::/64'], podCidrMode: strict}\n\
             proxy:\n  inbound: {opaquePorts: [1]}\n  log: debug\n\
             telemetry:\n  tracing: {endpoint: 'http://a:4317', sampling: 0.5, queue: 9, headers: {k: v}}\n  \
             metrics: {otlp: {endpoint: 'http://b:4318', protocol: http, interval: 10s}}\n  resource: {team: mesh}\n",
        )
        .unwrap();
        assert_eq!(config.cluster_domain.as_str(), "k8s.example");
        assert_eq!(config.trust_domain.as_str(), "prod.example");
        assert_eq!(config.ca.leaf_lifetime, Duration::from_secs(3600));
        assert_eq!(config.ca.limits().identity_connections, 600);
        assert_eq!(config.drain_period, Duration::from_secs(30));
        assert_eq!(config.mesh.pod_cidrs.len(), 2);
        assert_eq!(config.mesh.pod_cidr_mode, PodCidrMode::Strict);
        let recreate = config.controller.recreate_slipped;
        assert_eq!((recreate.enabled, recreate.tries, recreate.per_minute), (true, 2, 5));
        let ExportConfig { tracing, sampling, metrics, resource } = &config.telemetry;
        let (tracing, metrics) = (tracing.as_ref().unwrap(), metrics.as_ref().unwrap());
        assert_eq!(
            (tracing.collector.endpoint.as_str(), *sampling, tracing.queue),
            ("http://a:4317", 0.5, 9)
        );
        assert_eq!(tracing.collector.headers, [("k".to_owned(), "v".to_owned())]);
        assert_eq!((metrics.collector.endpoint.as_str(), metrics.interval.as_secs()), ("http://b:4318", 10));
        assert_eq!(resource["team"], "mesh");
        assert_eq!(config.settings().controller, config.controller);
        assert_eq!(config.settings().injector, config.injector);
        assert_eq!(config.injector.unwrap().image, "weft:1");
        assert_eq!(config.proxy.0["log"], "debug");
    }

    #[test]
    fn the_namespace_is_the_files_then_the_pods_own() {
        let path = Path::new("c");
        let of = |text, pod| ControlConfig::from_yaml(path, text, pod).unwrap().namespace.to_string();
        assert_eq!(of("namespace: a", Some("b")), "a");
        assert_eq!(of("{}", Some("b")), "b");
        assert_eq!(of("{}", None), "weft-system");
    }

    #[test]
    fn some_changes_are_followed_and_others_wait() {
        let old = load("trustDomain: a\nproxy: {log: info}").unwrap();
        let (now, waiting) =
            old.follow(load("trustDomain: b\nproxy: {log: debug}\nca: {leafLifetime: 1h}\ncontroller: {recreateSlipped: {tries: 2}}\ntelemetry: {resource: {a: b}}").unwrap());
        assert_eq!(waiting, ["trustDomain", "ca", "telemetry"]);
        assert_eq!((now.trust_domain.as_str(), &now.proxy.0["log"]), ("a", &"debug".into()));
        assert_eq!(now.ca, old.ca);
        assert_eq!(now.controller.recreate_slipped.tries, 2);
    }

    #[test]
    fn mistakes_are_named_with_file_line_and_field() {
        let cases = [
            ("trustDomain: Weft", ":1: trustDomain: "),
            ("\nclusterDomain: cluster..local", ":2: clusterDomain: "),
            ("namespace: a/b", ":1: namespace: "),
            ("\n\ntrustDomian: a", ":3: trustDomian: unknown field"),
            ("ca:\n  leafLifetime: soon", ":2: ca.leafLifetime: "),
            ("ca:\n  leafLifetime: 90days", ":2: ca.leafLifetime: must be between"),
            (
                "ca:\n  rootLifetime: 1h\n  leafLifetime: 2h",
                ":3: ca.leafLifetime: is longer than rootLifetime",
            ),
            ("ca:\n  leaf: 1h", ":2: leaf: "),
            ("ca:\n  identityConnections: 0", ":2: ca.identityConnections: must be between 1 and 24576"),
            ("mesh:\n  podCidrs: [10.0.0.0/33]", ":2: podCidrs: "),
            ("mesh:\n  podCidrMode: loose", ":2: podCidrMode: "),
            ("proxy:\n  mesh: {}", ":2: proxy: proxy.mesh is written by the controller"),
            (
                "proxy:\n  inbound: {mode: strict}",
                ":2: proxy: proxy.inbound.mode is written by the controller",
            ),
            ("proxy: [a]", ":1: proxy: "),
            ("injector:\n  imagePullPolicy: Never", "missing field"),
            ("injector:\n  image: 'a b'", "injector: injector.image"),
            ("injector:\n  image: a\n  pull: b", ":3: pull: "),
            ("\ndrainPeriod: 1h", ":2: drainPeriod: must not be longer than 5m"),
            ("drainPeriod: -1s", ":1: drainPeriod: "),
            ("webhook:\n  clientCa: text", "webhook.clientCa: there is no certificate in it"),
            ("webhook:\n  clientNames: [a]", "webhook.clientNames: nobody's certificate is asked for"),
            ("webhook:\n  clientCA: ''", ":2: clientCA: "),
            ("proxy:\n  timeouts: {conect: 2s}", "timeouts.conect"),
            (
                "controller:\n  recreateSlipped: {perMinute: 0}",
                "controller.recreateSlipped.perMinute: 0 is not between 1 and 60",
            ),
            (
                "controller:\n  recreateSlipped: {enabled: true}",
                "controller.recreateSlipped.enabled: a pod is only evicted if it would be injected",
            ),
            ("controller:\n  recreate: {}", ":2: recreate: unknown field"),
            (
                "\ntelemetry:\n  tracing: {endpoint: 'otel:4317'}",
                ":3: telemetry.tracing.endpoint: \"otel:4317\" is not an http or https URL; write http://",
            ),
            (
                "telemetry:\n  tracing:\n    endpoint: http://a\n    sampling: 2",
                ":4: telemetry.tracing.sampling: ",
            ),
            (
                "telemetry:\n  metrics:\n    otlp: {interval: 1ms}",
                ":3: telemetry.metrics.otlp.endpoint: this field is missing and has no default; telemetry.metrics.otlp.interval: ",
            ),
            ("telemetry:\n  accessLog: {}", ":2: telemetry.accessLog: "),
            ("telemetry: [a]", ":1: telemetry: "),
        ];
        for (text, expected) in cases {
            let error = load(text).unwrap_err().to_string();
            assert!(error.starts_with("/etc/weft-control/config.yaml:"), "{error}");
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
            assert_eq!(error.lines().count(), 1, "{error:?}");
        }
    }
}
