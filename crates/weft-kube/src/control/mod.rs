//! `weft control`: the parts of Weft that know of Kubernetes, in one process.
//!
//! The CA, the injector and the controller share a client, one issuer and one set of health and metrics pages. Each part
//! also runs alone; nothing but the API server is between them. A part that cannot reach the API server waits and says
//! so: the process is alive, not ready, and what it did before stays in force in the cluster.
//!
//! | module | |
//! |---|---|
//! | `config` | `config.yaml` |
//! | `client` | the way to the API server |
//! | `admin` | `/metrics`, `/live`, `/ready` |
//! | `run` | the parts, put together |

mod admin;
mod client;
mod config;
mod run;

pub use admin::{PartReadiness, Readiness};
pub use client::client;
pub(crate) use client::describe;
pub use config::{CaSettings, ControlConfig, InjectorSettings, MeshSettings};
pub use run::{Binds, Control, ControlOptions, Part};
