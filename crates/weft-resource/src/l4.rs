//! `TLSRoute` and `TCPRoute`.

use serde::Deserialize;

use crate::reference::{BackendRef, ParentRef};
use crate::value::{HostPattern, Port, SectionName, Weight};

/// `spec` of a `TLSRoute`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsRouteSpec {
    /// What it hangs on.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// The server names it is for. (From v1 on there is at least one; older versions may leave it out.)
    #[serde(default)]
    pub hostnames: Vec<HostPattern>,
    /// Its rules: one.
    pub rules: Vec<L4Rule>,
}

/// `spec` of a `TCPRoute`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpRouteSpec {
    /// What it hangs on.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Its rules: one.
    pub rules: Vec<L4Rule>,
}

/// `rules[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct L4Rule {
    /// Its name.
    pub name: Option<SectionName>,
    /// Where connections go.
    #[serde(default)]
    pub backend_refs: Vec<L4BackendRef>,
}

/// `backendRefs[]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct L4BackendRef {
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
    /// Its share among the rule's backends.
    #[serde(default)]
    pub weight: Weight,
}

impl L4BackendRef {
    /// Which backend.
    pub fn backend(&self) -> BackendRef {
        BackendRef {
            group: self.group.clone(),
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            port: self.port,
        }
    }
}
