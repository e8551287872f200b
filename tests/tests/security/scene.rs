//! A workload under attack.

use std::net::SocketAddr;

use anyhow::Result;
use weft_testbed::{Mesh, Pod, Recorder, Sidecar};

/// A workload `orders.shop` with a recording application and a sidecar, and a pod without one that attacks it.
pub(crate) struct Scene {
    pub(crate) mallory: Pod,
    pub(crate) orders: Pod,
    pub(crate) app: Recorder,
    pub(crate) sidecar: Sidecar,
    pub(crate) to: SocketAddr,
}

impl Scene {
    /// With the sidecar in some inbound mode.
    pub(crate) fn new(mesh: &Mesh, mode: &str) -> Result<Self> {
        Self::configured(mesh, |yaml| yaml["inbound"]["mode"] = mode.into())
    }

    /// With any configuration.
    pub(crate) fn configured(mesh: &Mesh, edit: impl FnOnce(&mut serde_json::Value)) -> Result<Self> {
        let orders = mesh.pod("orders.shop").start()?;
        let app = Recorder::start(&orders, 8080)?;
        let sidecar = mesh.sidecar(&orders)?.config(edit).start()?;
        let mallory = mesh.pod("mallory.shop").start()?;
        let to = SocketAddr::new(orders.ip(), 8080);
        Ok(Self { mallory, orders, app, sidecar, to })
    }
}
