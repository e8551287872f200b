//! `ServiceCIDR` of `networking.k8s.io/v1`: the networks that a cluster gives virtual addresses from.
//!
//! Served from Kubernetes 1.33 on. The oldest version whose types are compiled in is older, so the few fields that matter
//! stand here.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;

/// The object.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ServiceCidr {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: ServiceCidrSpec,
}

/// Its specification.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ServiceCidrSpec {
    #[serde(default)]
    pub(crate) cidrs: Vec<String>,
}

impl Resource for ServiceCidr {
    type DynamicType = ();
    type Scope = k8s_openapi::ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "ServiceCIDR".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "networking.k8s.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "servicecidrs".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
