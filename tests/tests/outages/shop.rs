//! `web` calls `orders`, each with a sidecar, in all the ways that an outage could show.

use std::time::Duration;

use weft_testbed::{Load, Mesh, Pod, Result, Service, Sidecar, eventually};

/// A safety net, nothing that a story measures.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Shop {
    pub(crate) web: Pod,
    pub(crate) client: Sidecar,
    pub(crate) orders: Pod,
    _server: Sidecar,
}

impl Shop {
    pub(crate) fn open(mesh: &Mesh) -> Result<Self> {
        let orders = mesh.pod("orders.shop").start()?;
        orders.app(8080)?;
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&orders]))?;
        let server = mesh.sidecar(&orders)?.start()?;
        let web = mesh.pod("web.shop").start()?;
        let client = mesh.sidecar(&web)?.start()?;
        Ok(Self { web, client, orders, _server: server })
    }

    /// Kept connections and new ones.
    pub(crate) fn traffic(&self) -> Result<Traffic> {
        let kept = self.web.load("http://orders.shop/").rate(100).start()?;
        let fresh = self.web.load("http://orders.shop/new").rate(25).fresh_connections().start()?;
        let traffic = Traffic { kept, fresh };
        traffic.go_on(1)?;
        Ok(traffic)
    }
}

pub(crate) struct Traffic {
    kept: Load,
    fresh: Load,
}

impl Traffic {
    /// Waits until so many further requests went well on new connections, and four times as many on kept ones: about
    /// `units` seconds of traffic.
    pub(crate) fn go_on(&self, units: u64) -> Result<()> {
        self.fresh.wait_for(units * 25)?;
        self.kept.wait_for(units * 50)
    }

    /// Not one may have failed.
    pub(crate) fn end(self) -> Result<()> {
        self.kept.stop()?.all_ok(150)?;
        self.fresh.stop()?.all_ok(75)
    }
}

/// Waits until a counter of a sidecar has grown beyond what it was.
pub(crate) fn wait_counted(
    sidecar: &Sidecar,
    metric: &str,
    labels: &[(&str, &str)],
    before: f64,
) -> Result<()> {
    eventually(&format!("{metric} {labels:?} to grow beyond {before}"), SOON, || {
        Ok((sidecar.metrics()?.sum(metric, labels) > before).then_some(()))
    })
}
