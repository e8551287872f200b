//! The demo's mesh: who is in it, and how it is set up.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::json;

use crate::demo::edge::{self, Edge};
use crate::mesh::find_program;
use crate::{Capture, Mesh, Pod, Service, Sidecar, SidecarBuilder};

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
    /// Outside the mesh: no sidecar.
    pub(super) shopper: Pod,
    capture: Option<Capture>,
    pub(super) edge: Edge,
    pub(super) gateway: Member,
    pub(super) web: Member,
    pub(super) orders: Vec<Member>,
    pub(super) canary: Member,
    pub(super) inventory: Member,
    pub(super) redis: Member,
}

/// One of the services.
#[derive(Debug)]
struct Role {
    name: &'static str,
    application: &'static str,
    /// The port of the service, and of its pods.
    port: u16,
    target: u16,
    /// Whom it calls.
    calls: Option<&'static str>,
}

const ORDERS: Role =
    Role { name: "orders", application: "orders", port: 80, target: 8080, calls: Some("inventory") };

const ROLES: [Role; 5] = [
    Role { name: "web", application: "web", port: 80, target: 8080, calls: Some("orders") },
    ORDERS,
    Role { name: "orders-canary", ..ORDERS },
    Role { name: "inventory", application: "inventory", port: 50051, target: 50051, calls: Some("redis") },
    Role { name: "redis", application: "redis", port: 6379, target: 6379, calls: None },
];

/// On loopback each pod has three ports beside the proxy's own: the target is the sidecar's, so that callers come to it;
/// the application listens on the second; and the third is the sidecar's for whom the application calls.
const APPLICATION: u16 = 18080;
const CALLEE: u16 = 19080;

const REDIS: &str = "redis-server";

/// How many replicas of `orders` there are.
const REPLICAS: usize = 3;

impl Shop {
    /// Makes pods, applications, names, rules and sidecars. `told` hears of each step.
    pub(super) fn open(mesh: &Mesh, told: impl Fn(&str) -> Result<()>) -> Result<Self> {
        told("pods: shopper (outside the mesh), gateway, web, orders x3, orders-canary, inventory, redis")?;
        let pod = |name: &str| mesh.pod(&format!("{name}.shop")).start();
        let (shopper, gateway) = (pod("shopper")?, mesh.pod("gateway.edge").start()?);
        let (web, canary) = (pod("web")?, pod("orders-canary")?);
        let orders: Vec<Pod> = (1..=REPLICAS).map(|n| pod(&format!("orders-{n}"))).collect::<Result<_>>()?;
        let (inventory, redis) = (pod("inventory")?, pod("redis")?);

        let redis_server = match find_program(REDIS) {
            None if mesh.is_loopback() => {
                "Weft's own small stand-in for redis (redis-server is not installed)"
            }
            _ => "a real redis-server",
        };
        told(&format!("applications: web, orders (HTTP), inventory (gRPC), {redis_server}"))?;
        [&web, &canary, &inventory, &redis].into_iter().chain(&orders).try_for_each(start_application)?;

        told(&format!(
            "names: web, orders, orders-canary, inventory and redis in shop.svc.cluster.local, and {}, served by {}",
            edge::HOST,
            mesh.dns().server()
        ))?;
        set_names(mesh, "web", &[&web])?;
        set_names(mesh, "orders", &orders.iter().collect::<Vec<_>>())?;
        set_names(mesh, "orders-canary", &[&canary])?;
        set_names(mesh, "inventory", &[&inventory])?;
        set_names(mesh, "redis", &[&redis])?;

        told(if mesh.is_loopback() {
            "the mesh CA, and beside each application a sidecar (weft proxy) with a listener for each way"
        } else {
            "the mesh CA, and in each pod of the mesh: interception rules (weft init) and a sidecar (weft proxy)"
        })?;
        // The captures begin before any sidecar can send a byte, so that nothing escapes them.
        let captured = |pod: &Pod| (!mesh.is_loopback()).then(|| pod.capture(&between_pods())).transpose();
        let join_as = |pod: Pod, edit: &dyn Fn(SidecarBuilder) -> SidecarBuilder| -> Result<Member> {
            let capture = captured(&pod)?;
            let sidecar = edit(mesh.sidecar(&pod)?).start()?;
            Ok(Member { pod, sidecar, capture })
        };
        let join = |pod: Pod| {
            let own = pod.clone();
            join_as(pod, &|sidecar| with_listeners(sidecar, &own))
        };
        let capture = captured(&shopper)?;
        let (redis, inventory) = (join(redis)?, join(inventory)?);
        let orders = orders.into_iter().map(join).collect::<Result<_>>()?;
        let canary = join(canary)?;
        told(
            "a route of orders, which the sidecar of web follows: 80 in 100 to orders, 20 to orders-canary",
        )?;
        let (routes, own) = (edge::canary(&web)?, web.clone());
        let web = join_as(web, &|sidecar| {
            with_listeners(sidecar, &own).config(|config| config["resources"] = json!([routes]))
        })?;
        told("the edge: weft gateway with HTTPS, a certificate of its own, and a route to web")?;
        let (edge, resources) = Edge::prepare(mesh, &gateway)?;
        let gateway = join_as(gateway, &|sidecar| sidecar.gateway(&resources))?;
        Ok(Self { redis, inventory, orders, canary, web, gateway, edge, shopper, capture })
    }

    /// Every member.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        let before = [&self.gateway, &self.web].into_iter().chain(&self.orders);
        before.chain([&self.canary, &self.inventory, &self.redis])
    }

    /// The captures of all links, once.
    pub(super) fn captures(&mut self) -> Vec<(String, Capture)> {
        let before = [&mut self.gateway, &mut self.web].into_iter().chain(&mut self.orders);
        let all = before.chain([&mut self.canary, &mut self.inventory, &mut self.redis]);
        let of = |pod: &Pod, capture: &mut Option<Capture>| Some((pod.name().to_owned(), capture.take()?));
        let members = all.filter_map(|member| of(&member.pod, &mut member.capture));
        members.chain(of(&self.shopper, &mut self.capture)).collect()
    }

    /// Kills the second replica, programs and all, and takes it out of DNS a moment later, as a cluster does.
    pub(super) fn kill_replica(&self, mesh: &Mesh) -> Result<String> {
        let victim = self.orders.get(1).context("no second replica")?;
        victim.pod.crash();
        crate::rest(std::time::Duration::from_millis(500));
        let name = victim.pod.name();
        let left: Vec<&Pod> = self.orders.iter().map(|m| &m.pod).filter(|pod| pod.name() != name).collect();
        set_names(mesh, "orders", &left)?;
        Ok(name.to_owned())
    }
}

impl Member {
    /// Where callers come to this pod, if any do.
    pub(super) fn door(&self) -> Option<SocketAddr> {
        let role = role(&self.pod)?;
        Some(SocketAddr::new(self.pod.ip(), self.pod.port(role.target)))
    }
}

/// What a pod is; the shopper and the gateway are none of the services.
fn role(pod: &Pod) -> Option<&'static Role> {
    ROLES.iter().find(|role| role.name == pod.account())
}

fn start_application(pod: &Pod) -> Result<()> {
    let role = role(pod).with_context(|| format!("no application for {}", pod.name()))?;
    let port = if pod.is_loopback() { pod.port(APPLICATION) } else { role.target };
    if role.name == "redis" {
        if pod.is_loopback() && find_program(REDIS).is_none() {
            return pod.app_of("counter", port).map(drop);
        }
        return pod.redis_on(port).map(drop).context("redis-server (package redis-server)");
    }
    let callee = SocketAddr::new(pod.ip(), pod.port(CALLEE));
    let calls: Vec<_> =
        role.calls.filter(|_| pod.is_loopback()).map(|name| (name, callee)).into_iter().collect();
    pod.app_calling(role.application, port, &calls).map(drop)
}

fn set_names(mesh: &Mesh, name: &str, pods: &[&Pod]) -> Result<()> {
    let role = ROLES.iter().find(|role| role.name == name).with_context(|| format!("no service {name}"))?;
    let service = Service::virtual_ip(&format!("{name}.shop")).port(role.port, mesh.port(role.target));
    mesh.dns().set(service.on(pods))
}

/// On loopback: what interception does elsewhere.
fn with_listeners(sidecar: SidecarBuilder, pod: &Pod) -> SidecarBuilder {
    if !pod.is_loopback() {
        return sidecar;
    }
    let at = |port: u16| SocketAddr::new(pod.ip(), pod.port(port));
    let own = role(pod);
    let sidecar = match own {
        Some(role) => sidecar.inbound_listener(at(role.target), at(APPLICATION)),
        None => sidecar,
    };
    match own.and_then(|role| role.calls).and_then(|name| ROLES.iter().find(|role| role.name == name)) {
        Some(Role { name, port, .. }) => {
            sidecar.outbound_listener(at(CALLEE), &format!("{name}.shop.svc.cluster.local:{port}"))
        }
        None => sidecar,
    }
}

/// TCP between pods; not the name server, the CA (TLS of its own) and the collector, which are no workloads.
fn between_pods() -> String {
    "tcp and not port 53 and not port 15012 and not port 4317 and not port 4318".to_owned()
}
