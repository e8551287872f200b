//! Weft against a real API server: etcd and kube-apiserver on loopback, without nodes.
//!
//! Ignored by a plain `cargo test`, because the API server has to be built first: `cargo xtask cluster e2e` does, and
//! runs these. By hand, with etcd on the `PATH`:
//!
//! ```text
//! WEFT_KUBE_APISERVER=.../kube-apiserver cargo test -p weft-control --test api -- --ignored
//! ```

mod control;
mod controller;
mod log;
mod outage;
mod scale;
mod secret;
mod server;
mod support;
