//! `Gateway`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::reference::ObjectRef;
use crate::value::{HostPattern, Port, SectionName};

/// `spec` of a `Gateway`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewaySpec {
    /// Which implementation it is for. From files, any name is ours.
    pub gateway_class_name: String,
    /// Its listeners.
    pub listeners: Vec<Listener>,
    /// The addresses to bind; empty: all.
    #[serde(default)]
    pub addresses: Vec<GatewayAddress>,
    /// Client certificates and the certificate towards backends.
    pub tls: Option<GatewayTls>,
    /// What a cluster makes for it; nothing here.
    pub infrastructure: Option<serde::de::IgnoredAny>,
    /// Which `ListenerSet`s may add listeners; there are none from files.
    pub allowed_listeners: Option<serde::de::IgnoredAny>,
}

/// `addresses[]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayAddress {
    /// `IPAddress` (the default) or `Hostname`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The address.
    pub value: Option<String>,
}

/// `listeners[]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// Its name within the gateway.
    pub name: SectionName,
    /// The host names it takes; `None`: all.
    pub hostname: Option<HostPattern>,
    /// The port it listens on.
    pub port: Port,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// TLS; must be there for HTTPS and TLS.
    pub tls: Option<ListenerTls>,
    /// Which routes may hang on it.
    #[serde(default)]
    pub allowed_routes: AllowedRoutes,
}

/// `listeners[].protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum Protocol {
    /// Plaintext HTTP/1.1 and h2c.
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP over TLS, terminated here.
    #[serde(rename = "HTTPS")]
    Https,
    /// TLS, passed through or terminated to bytes.
    #[serde(rename = "TLS")]
    Tls,
    /// Bytes.
    #[serde(rename = "TCP")]
    Tcp,
    /// Requests from the sidecars of a mesh, over mutual TLS with the mesh's own identities. (The Gateway API leaves names with
    /// a domain to implementations.)
    #[serde(rename = "weft.dev/mesh")]
    Mesh,
}

/// `listeners[].tls`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    /// Terminate is the default.
    #[serde(default)]
    pub mode: TlsMode,
    /// Secrets of type `kubernetes.io/tls`, or our `Certificate`s.
    #[serde(default)]
    pub certificate_refs: Vec<ObjectRef>,
    /// Options of an implementation; ours are named `weft.dev/...`.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// `listeners[].tls.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TlsMode {
    /// The gateway has the certificate.
    #[default]
    Terminate,
    /// The backend has it; the gateway looks at the server name only.
    Passthrough,
}

/// `listeners[].allowedRoutes`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowedRoutes {
    /// Of which namespaces; the gateway's own by default.
    #[serde(default)]
    pub namespaces: RouteNamespaces,
    /// Of which kinds; empty: those that fit the protocol.
    #[serde(default)]
    pub kinds: Vec<RouteGroupKind>,
}

/// `allowedRoutes.namespaces`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteNamespaces {
    /// Same by default.
    #[serde(default)]
    pub from: FromNamespaces,
    /// For `from: Selector`.
    pub selector: Option<LabelSelector>,
}

/// `allowedRoutes.namespaces.from`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum FromNamespaces {
    /// Every namespace.
    All,
    /// Those whose labels the selector matches.
    Selector,
    /// The gateway's own.
    #[default]
    Same,
    /// None.
    None,
}

/// A Kubernetes label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels that must have these values.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions, all of which must hold.
    #[serde(default)]
    pub match_expressions: Vec<LabelExpression>,
}

/// `matchExpressions[]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelExpression {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: LabelOperator,
    /// With what.
    #[serde(default)]
    pub values: Vec<String>,
}

/// `matchExpressions[].operator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum LabelOperator {
    /// Has one of the values.
    In,
    /// Has none of the values, or is not there.
    NotIn,
    /// Is there.
    Exists,
    /// Is not there.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether these labels fulfil it. An empty selector matches everything.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let all = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        all && self.match_expressions.iter().all(|expression| {
            let found = labels.get(&expression.key);
            let listed = found.is_some_and(|value| expression.values.contains(value));
            match expression.operator {
                LabelOperator::In => listed,
                LabelOperator::NotIn => !listed,
                LabelOperator::Exists => found.is_some(),
                LabelOperator::DoesNotExist => found.is_none(),
            }
        })
    }
}

/// `allowedRoutes.kinds[]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteGroupKind {
    /// `None`: that of the Gateway API.
    pub group: Option<String>,
    /// The kind.
    pub kind: String,
}

/// `spec.tls`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayTls {
    /// Towards backends.
    pub backend: Option<BackendTls>,
    /// Towards clients.
    pub frontend: Option<FrontendTls>,
}

/// `spec.tls.backend`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTls {
    /// The certificate that the gateway shows to backends.
    pub client_certificate_ref: Option<ObjectRef>,
}

/// `spec.tls.frontend`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendTls {
    /// For every HTTPS listener without one of its own.
    pub default: FrontendTlsConfig,
    /// By port.
    #[serde(default)]
    pub per_port: Vec<FrontendTlsPort>,
}

/// `spec.tls.frontend.perPort[]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendTlsPort {
    /// The port.
    pub port: Port,
    /// Its configuration.
    pub tls: FrontendTlsConfig,
}

/// `spec.tls.frontend.default`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendTlsConfig {
    /// How client certificates are checked; `None`: none is asked for.
    pub validation: Option<FrontendValidation>,
}

/// `validation`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendValidation {
    /// ConfigMaps or Secrets with `ca.crt`.
    pub ca_certificate_refs: Vec<ObjectRef>,
    /// `AllowValidOnly` by default.
    #[serde(default)]
    pub mode: ValidationMode,
}

/// `validation.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ValidationMode {
    /// A connection without a valid certificate fails.
    #[default]
    AllowValidOnly,
    /// It is served as one without a certificate.
    AllowInsecureFallback,
}
