//! Kinds of Kubernetes' core group, as far as routes need them. Fields that do not matter here are passed over.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};

use crate::value::Port;

/// `spec` of a `Service`. It stands for the DNS name `{name}.{namespace}.svc.{clusterDomain}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Its ports.
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// Its virtual address, if it has one; `None` as a text for a headless service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// `ExternalName` and others.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// `ports[]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name, which a `BackendTLSPolicy` may refer to.
    pub name: Option<String>,
    /// The port that clients dial.
    pub port: Port,
    /// `TCP` by default; others are passed over.
    pub protocol: Option<String>,
    /// What is spoken: `http`, `https`, `tcp`, `tls`, `grpc`, `kubernetes.io/h2c`, `kubernetes.io/ws`, `kubernetes.io/wss`.
    pub app_protocol: Option<String>,
}

/// A `Secret` with its values decoded.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret {
    /// Its type, such as `kubernetes.io/tls`.
    pub kind: String,
    /// Its values.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.data.keys().map(String::as_str).collect();
        f.debug_struct("Secret").field("kind", &self.kind).field("data", &names).finish()
    }
}

impl Secret {
    /// The one of these fields; what `stringData` has takes the place of the same name in `data`.
    pub(crate) fn of(kind: Option<String>, data: Option<RawSecret>, texts: Option<SecretTexts>) -> Self {
        let mut values: BTreeMap<String, Vec<u8>> = data
            .map(|raw| raw.0)
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| (name, value.0))
            .collect();
        values.extend(
            texts.map(|texts| texts.0).unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes())),
        );
        // What Kubernetes takes for a type that is not written.
        Self { kind: kind.unwrap_or_else(|| "Opaque".to_owned()), data: values }
    }
}

/// `data` of a Secret.
#[derive(Deserialize)]
pub(crate) struct RawSecret(BTreeMap<String, Base64>);

/// `stringData` of a Secret.
#[derive(Deserialize)]
pub(crate) struct SecretTexts(BTreeMap<String, String>);

/// `binaryData` of a ConfigMap.
pub(crate) type RawConfigMap = BTreeMap<String, Base64>;

/// Octets as Kubernetes writes them.
pub(crate) struct Base64(Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        // Line breaks are passed over, as by Kubernetes.
        text.retain(|c| c != '\n' && c != '\r');
        // The text is not told: it may be a secret.
        let refused = |_| serde::de::Error::custom("this is not base64 (RFC 4648 section 4)");
        STANDARD.decode(text).map(Self).map_err(refused)
    }
}

/// A `ConfigMap`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConfigMap {
    /// Its values.
    pub data: BTreeMap<String, String>,
    /// Its values that are no text.
    pub binary_data: BTreeMap<String, Vec<u8>>,
}

impl ConfigMap {
    pub(crate) fn of(data: Option<BTreeMap<String, String>>, binary: Option<RawConfigMap>) -> Self {
        let binary = binary.unwrap_or_default().into_iter().map(|(name, value)| (name, value.0));
        Self { data: data.unwrap_or_default(), binary_data: binary.collect() }
    }

    /// A value, wherever it stands.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let text = self.data.get(name).map(String::as_bytes);
        text.or_else(|| self.binary_data.get(name).map(Vec::as_slice))
    }
}

impl fmt::Debug for ConfigMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.data.keys().chain(self.binary_data.keys()).map(String::as_str).collect();
        f.debug_struct("ConfigMap").field("data", &names).finish()
    }
}

/// A `Namespace`: its labels are in its metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSpec;
