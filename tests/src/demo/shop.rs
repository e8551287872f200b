//! The demo's mesh: who is in it, and how it is set up.

use anyhow::{Context, Result};

use crate::{Capture, Mesh, Pod, Service, Sidecar};

/// A pod with its sidecar.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) pod: Pod,
    pub(super) sidecar: Sidecar,
    capture: Option<Capture>,
}

/// Everybody, in the order of the calls.
#[derive(Debug)]
pub(super) struct Shop {
    pub(super) shopper: Member,
    pub(super) web: Member,
    pub(super) orders: Vec<Member>,
    pub(super) inventory: Member,
    pub(super) redis: Member,
}

/// What the shopper asks for.
pub(super) const URL: &str = "http://web.shop/checkout";

/// How many replicas of `orders` there are.
const REPLICAS: usize = 3;

impl Shop {
    /// Makes pods, applications, names, rules and sidecars. `told` hears of each step.
    pub(super) fn open(mesh: &Mesh, told: impl Fn(&str) -> Result<()>) -> Result<Self> {
        told("pods: shopper, web, orders x3, inventory, redis")?;
        let pod = |name: &str| mesh.pod(&format!("{name}.shop")).start();
        let (shopper, web) = (pod("shopper")?, pod("web")?);
        let orders: Vec<Pod> = (1..=REPLICAS).map(|n| pod(&format!("orders-{n}"))).collect::<Result<_>>()?;
        let (inventory, redis) = (pod("inventory")?, pod("redis")?);

        told("applications: web, orders (HTTP), inventory (gRPC), a real redis-server")?;
        web.app_of("web", 8080)?;
        orders.iter().try_for_each(|pod| pod.app_of("orders", 8080).map(drop))?;
        inventory.app_of("inventory", 50051)?;
        redis.redis().context("redis-server (package redis-server)")?;

        told("names: web, orders, inventory and redis in shop.svc.cluster.local, served by nsd")?;
        let dns = mesh.dns();
        dns.set(Service::virtual_ip("web.shop").port(80, 8080).on(&[&web]))?;
        dns.set(Service::virtual_ip("orders.shop").port(80, 8080).on(&orders.iter().collect::<Vec<_>>()))?;
        dns.set(Service::virtual_ip("inventory.shop").port(50051, 50051).on(&[&inventory]))?;
        dns.set(Service::virtual_ip("redis.shop").port(6379, 6379).on(&[&redis]))?;

        told("the mesh CA, and in each pod: interception rules (weft init) and a sidecar (weft proxy)")?;
        let join = |pod: Pod| -> Result<Member> {
            // The captures begin before any sidecar can send a byte, so that nothing escapes them.
            let capture = Some(pod.capture(&between_pods())?);
            let sidecar = mesh.sidecar(&pod)?.start()?;
            Ok(Member { pod, sidecar, capture })
        };
        Ok(Self {
            redis: join(redis)?,
            inventory: join(inventory)?,
            orders: orders.into_iter().map(join).collect::<Result<_>>()?,
            web: join(web)?,
            shopper: join(shopper)?,
        })
    }

    /// Every member.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        [&self.shopper, &self.web].into_iter().chain(&self.orders).chain([&self.inventory, &self.redis])
    }

    /// The captures of all links, once.
    pub(super) fn captures(&mut self) -> Vec<(String, Capture)> {
        let all = [&mut self.shopper, &mut self.web]
            .into_iter()
            .chain(&mut self.orders)
            .chain([&mut self.inventory, &mut self.redis]);
        all.filter_map(|member| Some((member.pod.name().to_owned(), member.capture.take()?))).collect()
    }

    /// Kills the second replica, programs and all, and takes it out of DNS a moment later, as a cluster does.
    pub(super) fn kill_replica(&self, mesh: &Mesh) -> Result<String> {
        let victim = self.orders.get(1).context("no second replica")?;
        victim.pod.crash();
        crate::rest(std::time::Duration::from_millis(500));
        let name = victim.pod.name();
        let left: Vec<&Pod> = self.orders.iter().map(|m| &m.pod).filter(|pod| pod.name() != name).collect();
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&left))?;
        Ok(name.to_owned())
    }
}

/// TCP between pods; not the name server, the CA (TLS of its own) and the collector, which are no workloads.
fn between_pods() -> String {
    "tcp and not port 53 and not port 15012 and not port 4317 and not port 4318".to_owned()
}
