//! `weft control`: the parts of Weft that know of Kubernetes, in one process.
//!
//! The CA, the injector and the controller share a client, one issuer and one set of health and metrics pages. Each part
//! also runs alone; nothing but the API server is between them. A part that cannot reach the API server waits and says
//! so: the process is alive, not ready, and what it did before stays in force in the cluster.
//!
//! | module | |
//! |---|---|
//! | `config` | `config.yaml` |
//! | `follow` | its changes |
//! | `admin` | `/metrics`, `/live`, `/ready` |
//! | `run`, `parts` | the parts, put together |
//! | `injector` | what the injector asks the API server, and when it is ready |
//! | `leaving` | the end: first not ready, then deaf |
//! | `telemetry` | what is sent to collectors |
//! | `wait` | waiting for the API server |

mod admin;
mod config;
mod follow;
mod injector;
mod leaving;
mod parts;
mod run;
mod telemetry;
mod wait;

pub use admin::{PartReadiness, Readiness};
pub use config::{CaSettings, ControlConfig};
pub use run::{Binds, Control, ControlOptions, Part};
