//! What every resource has.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::core_kinds::{ConfigMap, NamespaceSpec, Secret, ServiceSpec};
use crate::gateway::GatewaySpec;
use crate::grpc::GrpcRouteSpec;
use crate::http::HttpRouteSpec;
use crate::l4::{TcpRouteSpec, TlsRouteSpec};
use crate::own::{BackendSpec, CertificateSpec};
use crate::policy::{BackendTlsPolicySpec, ReferenceGrantSpec};

macro_rules! kinds {
    ($($name:ident($spec:ty) = $group:literal $($version:literal)|+, $kind:literal;)*) => {
        /// The kinds there are.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $(#[doc = concat!("`", $kind, "` of `", $group, "`.")] $name,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The API group; empty for the core group.
            pub fn group(self) -> &'static str {
                match self { $(Self::$name => $group,)* }
            }

            /// The kind's name as `kind:` has it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $kind,)* }
            }

            /// The versions that are read; the first is the one to write.
            pub fn versions(self) -> &'static [&'static str] {
                match self { $(Self::$name => &[$($version),+],)* }
            }
        }

        /// What a resource says, by kind.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Spec { $(#[doc = concat!("`", $kind, "`.")] $name($spec),)* }

        impl Spec {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$name(_) => Kind::$name,)* }
            }
        }
    };
}

kinds! {
    Gateway(GatewaySpec) = "gateway.networking.k8s.io" "v1" | "v1beta1", "Gateway";
    HttpRoute(HttpRouteSpec) = "gateway.networking.k8s.io" "v1" | "v1beta1", "HTTPRoute";
    GrpcRoute(GrpcRouteSpec) = "gateway.networking.k8s.io" "v1", "GRPCRoute";
    TlsRoute(TlsRouteSpec) = "gateway.networking.k8s.io" "v1" | "v1alpha3" | "v1alpha2", "TLSRoute";
    TcpRoute(TcpRouteSpec) = "gateway.networking.k8s.io" "v1alpha2", "TCPRoute";
    ReferenceGrant(ReferenceGrantSpec) = "gateway.networking.k8s.io" "v1" | "v1beta1", "ReferenceGrant";
    BackendTlsPolicy(BackendTlsPolicySpec) = "gateway.networking.k8s.io" "v1" | "v1alpha3", "BackendTLSPolicy";
    Service(ServiceSpec) = "" "v1", "Service";
    Secret(Secret) = "" "v1", "Secret";
    ConfigMap(ConfigMap) = "" "v1", "ConfigMap";
    Namespace(NamespaceSpec) = "" "v1", "Namespace";
    Backend(BackendSpec) = "weft.dev" "v1alpha1", "Backend";
    Certificate(CertificateSpec) = "weft.dev" "v1alpha1", "Certificate";
}

impl Kind {
    /// The kind that `apiVersion` and `kind` name.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let is = |known: &&Self| {
            known.group() == group && known.as_str() == kind && known.versions().contains(&version)
        };
        Self::ALL.iter().find(is).copied()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which resource: its kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId {
    /// The kind.
    pub kind: Kind,
    /// The namespace; empty for a `Namespace`.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ResourceId {
    /// The resource of this kind and name.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// `metadata`, as far as it matters here. Kubernetes writes many more fields; they are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMeta {
    /// The name.
    pub name: String,
    /// The namespace; `None`: `default`.
    pub namespace: Option<String>,
    /// Labels; those of a `Namespace` are matched by `allowedRoutes`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339; between two routes of the same precedence the older one wins. `None` is younger than any.
    pub creation_timestamp: Option<String>,
}

/// Where a resource was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file.
    pub path: Arc<Path>,
    /// The line on which its document begins, from 1.
    pub line: u32,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// One resource, checked as far as it can be alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Which.
    pub id: ResourceId,
    /// Its metadata.
    pub meta: ObjectMeta,
    /// Of what it says: equal where nothing has changed.
    pub hash: u64,
    /// Where it was written.
    pub source: Source,
    /// What it says.
    pub spec: Spec,
}
