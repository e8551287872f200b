//! All resources together.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core_kinds::ServiceSpec;
use crate::gateway::GatewaySpec;
use crate::grpc::GrpcRouteSpec;
use crate::http::HttpRouteSpec;
use crate::l4::{TcpRouteSpec, TlsRouteSpec};
use crate::own::BackendSpec;
use crate::policy::{BackendTlsPolicySpec, ReferenceGrantSpec};
use crate::{Kind, Resource, ResourceId, Spec};

/// One version of all resources, each once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceSet {
    by_id: BTreeMap<ResourceId, Arc<Resource>>,
}

macro_rules! each {
    ($($(#[$doc:meta])* $name:ident, $variant:ident($spec:ty);)*) => {
        $($(#[$doc])* pub fn $name(&self) -> impl Iterator<Item = (&Arc<Resource>, &$spec)> {
            self.of(Kind::$variant).filter_map(|resource| match &resource.spec {
                Spec::$variant(spec) => Some((resource, spec)),
                _ => None,
            })
        })*
    };
}

impl ResourceSet {
    /// Adds a resource, or takes the place of the one with its id, which is returned.
    pub fn insert(&mut self, resource: Arc<Resource>) -> Option<Arc<Resource>> {
        self.by_id.insert(resource.id.clone(), resource)
    }

    /// Takes a resource out.
    pub fn remove(&mut self, id: &ResourceId) -> Option<Arc<Resource>> {
        self.by_id.remove(id)
    }

    /// The resource with this id.
    pub fn get(&self, id: &ResourceId) -> Option<&Arc<Resource>> {
        self.by_id.get(id)
    }

    /// The resource of this kind and name.
    pub fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Arc<Resource>> {
        self.get(&ResourceId::new(kind, namespace, name))
    }

    /// All of them, by kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_id.values()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Those of one kind, by namespace and name.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        let from = ResourceId::new(kind, "", "");
        self.by_id
            .range(from..)
            .map(|(_, resource)| resource)
            .take_while(move |resource| resource.id.kind == kind)
    }

    each! {
        /// Every `Gateway`.
        gateways, Gateway(GatewaySpec);
        /// Every `HTTPRoute`.
        http_routes, HttpRoute(HttpRouteSpec);
        /// Every `GRPCRoute`.
        grpc_routes, GrpcRoute(GrpcRouteSpec);
        /// Every `TLSRoute`.
        tls_routes, TlsRoute(TlsRouteSpec);
        /// Every `TCPRoute`.
        tcp_routes, TcpRoute(TcpRouteSpec);
        /// Every `ReferenceGrant`.
        grants, ReferenceGrant(ReferenceGrantSpec);
        /// Every `BackendTLSPolicy`.
        backend_tls, BackendTlsPolicy(BackendTlsPolicySpec);
        /// Every `Service`.
        services, Service(ServiceSpec);
        /// Every `Backend`.
        backends, Backend(BackendSpec);
    }
}

impl FromIterator<Arc<Resource>> for ResourceSet {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(resources: I) -> Self {
        let mut set = Self::default();
        for resource in resources {
            set.insert(resource);
        }
        set
    }
}
