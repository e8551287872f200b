//! Weft against a real API server: etcd and kube-apiserver on loopback, without nodes.
//!
//! Ignored by a plain `cargo test`, because the API server has to be built first. With `WEFT_KUBE_BIN` naming the
//! directory that holds `kube-apiserver` (`cargo xtask cluster up` builds it), and etcd on the `PATH`:
//!
//! ```text
//! WEFT_KUBE_BIN=... cargo test -p weft-kube --test api -- --ignored
//! ```

mod control;
mod controller;
mod log;
mod outage;
mod secret;
mod server;
mod support;
