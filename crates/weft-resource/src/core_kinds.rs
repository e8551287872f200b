//! Kinds of Kubernetes' core group, as far as routes need them. Fields that do not matter here are passed over.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

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

/// A `ConfigMap`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMap {
    /// Its values.
    pub data: BTreeMap<String, String>,
}

/// A `Namespace`: its labels are in its metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSpec;
