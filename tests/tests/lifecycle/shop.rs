//! A client `web` and replicas of `orders`, each with an application and a sidecar.

use std::time::Duration;

use weft_testbed::{Load, Mesh, Pod, Result, Service, Sidecar, eventually};

/// Where `web` finds `orders`: port 8080 of the replicas.
pub(crate) const ORDERS: &str = "http://orders.shop/";

/// A safety net, nothing that a story measures.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// One replica.
pub(crate) struct Replica {
    pub(crate) pod: Pod,
    pub(crate) sidecar: Sidecar,
}

/// `orders-<number>.shop`: HTTP on 8080, an echo of bytes on 9000. A drain may take up to `drain`.
pub(crate) fn replica(mesh: &Mesh, number: usize, drain: &str) -> Result<Replica> {
    let pod = mesh.pod(&format!("orders-{number}.shop")).start()?;
    pod.app(8080)?;
    pod.app_of("echo", 9000)?;
    let sidecar = mesh.sidecar(&pod)?.config(|yaml| yaml["timeouts"]["drain"] = drain.into()).start()?;
    Ok(Replica { pod, sidecar })
}

/// So many replicas, in DNS; a drain of theirs takes as long as connections do.
pub(crate) fn replicas(mesh: &Mesh, count: usize) -> Result<Vec<Replica>> {
    let replicas: Vec<Replica> = (1..=count).map(|n| replica(mesh, n, "5m")).collect::<Result<_>>()?;
    publish(mesh, &replicas.iter().collect::<Vec<_>>())?;
    Ok(replicas)
}

/// Puts exactly these into DNS.
pub(crate) fn publish(mesh: &Mesh, replicas: &[&Replica]) -> Result<()> {
    let pods: Vec<&Pod> = replicas.iter().map(|replica| &replica.pod).collect();
    mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).port(9000, 9000).on(&pods))
}

/// The client with its sidecar.
pub(crate) fn web(mesh: &Mesh) -> Result<(Pod, Sidecar)> {
    let web = mesh.pod("web.shop").start()?;
    let sidecar = mesh.sidecar(&web)?.start()?;
    Ok((web, sidecar))
}

/// 200 GETs a second to `orders`, begun well.
pub(crate) fn traffic(web: &Pod) -> Result<Load> {
    let load = web.load(ORDERS).rate(200).start()?;
    load.wait_for(50)?;
    Ok(load)
}

/// Requests that a replica's application has answered to this load.
pub(crate) fn served(load: &Load, replica: &str) -> u64 {
    load.so_far().served_by.get(replica).copied().unwrap_or(0)
}

/// Waits until a replica has answered `more` further requests of this load.
pub(crate) fn wait_served(load: &Load, replica: &str, more: u64) -> Result<()> {
    let goal = served(load, replica) + more;
    eventually(&format!("{replica} to serve {more} requests"), SOON, || {
        Ok((served(load, replica) >= goal).then_some(()))
    })
}

/// Waits until a sidecar says that it drains.
pub(crate) fn wait_draining(sidecar: &Sidecar) -> Result<()> {
    eventually("the sidecar to say that it drains", SOON, || {
        let answer = sidecar.admin("/ready")?;
        Ok((answer.status == 503 && answer.text().contains("draining")).then_some(()))
    })
}
