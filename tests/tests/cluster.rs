//! Weft on a real Kubernetes cluster, installed, used and removed as its users do it.
//!
//! `cargo xtask cluster e2e` brings the cluster and runs these, one after another: they share one installation, which each
//! makes sure of first. A plain `cargo test` leaves them out.

use std::time::Duration;

#[path = "cluster/admission.rs"]
mod admission;
#[path = "cluster/attack.rs"]
mod attack;
#[path = "cluster/checks.rs"]
mod checks;
#[path = "cluster/doors.rs"]
mod doors;
#[path = "cluster/first.rs"]
mod first;
#[path = "cluster/foreign.rs"]
mod foreign;
#[path = "cluster/identity.rs"]
mod identity;
#[path = "cluster/leaving.rs"]
mod leaving;
#[path = "cluster/moving_in.rs"]
mod moving_in;
#[path = "cluster/outages.rs"]
mod outages;
#[path = "cluster/probes.rs"]
mod probes;
#[path = "cluster/recreated.rs"]
mod recreated;
#[path = "cluster/secrets.rs"]
mod secrets;
#[path = "cluster/workloads.rs"]
mod workloads;

/// How long something may take that the cluster or Weft does by itself; nothing that a story measures.
const SOON: Duration = Duration::from_secs(150);
