//! How one resource names another.

use serde::Deserialize;

use crate::value::Port;

/// `parentRefs[]`: the gateway, listener or service that a route hangs on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentRef {
    /// `None`: that of the Gateway API.
    pub group: Option<String>,
    /// `None`: `Gateway`.
    pub kind: Option<String>,
    /// `None`: the route's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// One listener of a gateway.
    pub section_name: Option<String>,
    /// The listeners of a gateway on this port; one port of a service.
    pub port: Option<Port>,
}

/// An object of the same namespace, or with a grant of another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectRef {
    /// The group of its kind. Without it, or empty, the core group.
    pub group: Option<String>,
    /// Its kind. Without it the usual one of the place where the reference stands.
    pub kind: Option<String>,
    /// Its namespace. Without it that of the resource that refers to it.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// `backendRef`: what requests are sent to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    /// `None` or empty: the core group.
    pub group: Option<String>,
    /// `None`: `Service`.
    pub kind: Option<String>,
    /// `None`: the route's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its port; a service must have one.
    pub port: Option<Port>,
}
