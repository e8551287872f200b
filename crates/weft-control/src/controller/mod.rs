//! The controller: keeps membership, twins and modes as the cluster's pods and Services ask for.
//!
//! What it decides is what proxies do to requests, so it must be possible to be sure of it: everything is computed anew, as
//! a whole, by pure functions over facts, and only what differs is written. There is no memory but the set of Services
//! that have become strict, and that one lives in a ConfigMap. No namespace can make it too much for the others. A controller that is away, restarted or replaced costs
//! nothing: proxies go on with the files they have.
//!
//! | module | |
//! |---|---|
//! | `settings` | what it is told |
//! | `facts`, `stores`, `service_cidr` | what is watched, and what of it matters |
//! | `world` | one look at all of it: who participates, which pods a Service selects |
//! | `budget` | what one namespace may bring into a pass |
//! | `modes`, `memory` | permissive to strict, one way; how that is remembered |
//! | `membership` | the text of `weft.yaml` |
//! | `twins`, `slips`, `notices` | headless twins; pods without a sidecar; what people are told in Events |
//! | `maker`, `recreate`, `evict` | pods that slipped by, made anew: what makes a pod, which one is next, how it is asked for |
//! | `leader` | which replica writes |
//! | `apply`, `pace` | writes; how fast |
//! | `outbox` | Events, beside the pass |
//! | `run`, `pass`, `writes` | the loop; one round of it: what is decided, what is written |
//! | `metrics` | |

mod apply;
mod budget;
mod evict;
pub mod facts;
mod leader;
mod maker;
mod membership;
mod memory;
mod metrics;
pub mod modes;
mod notices;
mod outbox;
mod pace;
mod pass;
pub mod recreate;
mod run;
mod service_cidr;
mod settings;
pub mod slips;
mod stores;
pub mod twins;
pub mod world;
mod writes;

use std::sync::Arc;

pub(crate) use crate::names::{LEASE, MESH_CONFIG, STATE_CONFIG};
pub use metrics::Metrics;
pub use run::run;
pub use settings::{
    ControllerSettings, MeshSettings, PodCidrMode, ProxySection, RecreateSettings, Settings, SettingsError,
};

/// The key of the ConfigMap that remembers; [`modes::read`] reads its value.
pub const STATE_KEY: &str = "strict.yaml";
/// Beside it, the namespaces that take part by labels of their pods alone.
pub(crate) const BY_PODS_KEY: &str = "by-pods.yaml";
/// Who writes, in field managers and Events.
pub(crate) const CONTROLLER: &str = "weft-controller";

/// What the controller works with.
pub struct Parts {
    /// Of the cluster.
    pub client: kube::Client,
    /// This replica's name, unique among the replicas: the pod's.
    pub identity: String,
    /// What it is told; a change is followed.
    pub settings: tokio::sync::watch::Receiver<Arc<Settings>>,
    /// The trust bundle: certificates in PEM. While it is empty, no `weft-mesh` is written.
    pub roots: tokio::sync::watch::Receiver<Arc<str>>,
    /// What it tells about itself.
    pub metrics: Arc<Metrics>,
}

#[cfg(test)]
pub(crate) mod fake_tests;
#[cfg(test)]
mod rbac_tests;
#[cfg(test)]
mod run_tests;
#[cfg(test)]
mod scale_tests;
