//! The controller: keeps membership, twins and modes as the cluster's pods and Services ask for.
//!
//! What it decides is what proxies do to requests, so it must be possible to be sure of it: everything is computed anew, as
//! a whole, by pure functions over facts, and only what differs is written. There is no memory but the set of Services
//! that have become strict, and that one lives in a ConfigMap. A controller that is away, restarted or replaced costs
//! nothing: proxies go on with the files they have.
//!
//! | module | |
//! |---|---|
//! | `settings` | what it is told |
//! | `facts`, `stores` | what is watched, and what of it matters |
//! | `world` | one look at all of it: who participates, which pods a Service selects |
//! | `modes` | permissive to strict, one way |
//! | `membership` | the text of `weft.yaml` |
//! | `twins`, `slips`, `notices` | headless twins; pods without a sidecar; what people are told in Events |
//! | `leader` | which replica writes |
//! | `apply` | writes |
//! | `run`, `pass` | the loop; one round of it |
//! | `metrics` | |

mod apply;
pub mod facts;
mod leader;
mod membership;
mod metrics;
pub mod modes;
mod notices;
mod pass;
mod run;
mod settings;
pub mod slips;
mod stores;
pub mod twins;
pub mod world;

use std::sync::Arc;

pub(crate) use crate::names::{LEASE, MESH_CONFIG, STATE_CONFIG};
pub use metrics::Metrics;
pub use run::run;
pub use settings::{MeshSettings, PodCidrMode, ProxySection, Settings, SettingsError};

/// The key of the ConfigMap that remembers; [`modes::read`] reads its value.
pub const STATE_KEY: &str = "strict.yaml";
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
