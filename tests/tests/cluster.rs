//! Weft on a real Kubernetes cluster, installed, used and removed as its users do it.
//!
//! `cargo xtask cluster e2e` brings the cluster and runs these, one after another: they share one installation, which each
//! makes sure of first. A plain `cargo test` leaves them out.

#[path = "cluster/first.rs"]
mod first;
#[path = "cluster/moving_in.rs"]
mod moving_in;
