//! Services whose clients keep their endpoint.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use weft_testbed::{Mesh, Pod, Service, story};

/// A caller that keeps its endpoints, with its sidecar.
fn caller(mesh: &Mesh, name: &str) -> Result<(Pod, weft_testbed::Sidecar)> {
    let pod = mesh.pod(name).start()?;
    let sticky = serde_json::json!(["orders.shop.svc.cluster.local"]);
    let sidecar = mesh.sidecar(&pod)?.config(|yaml| yaml["mesh"]["sessionAffinity"] = sticky).start()?;
    Ok((pod, sidecar))
}

/// Who serves ten requests of `from`, each over a connection of its own.
fn served_by(from: &Pod) -> Result<HashSet<String>> {
    (0..10)
        .map(|_| {
            let answer = from.get("http://orders.shop/")?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(answer.header("x-served-by").to_owned())
        })
        .collect()
}

#[test]
fn a_client_keeps_its_endpoint_until_that_is_gone() {
    story("affinity", |mesh| {
        let orders: Vec<Pod> =
            (0..3).map(|n| mesh.pod(&format!("orders-{n}.shop")).start()).collect::<Result<_>>()?;
        let mut sidecars = Vec::new();
        for pod in &orders {
            pod.app(8080)?;
            sidecars.push(mesh.sidecar(pod)?.start()?);
        }
        let service = || Service::virtual_ip("orders.shop").port(80, 8080);
        mesh.dns().set(service().on(&orders.iter().collect::<Vec<_>>()))?;
        let mut homes = HashSet::new();
        let callers: Vec<_> =
            (0..6).map(|n| caller(mesh, &format!("web-{n}.shop"))).collect::<Result<_>>()?;
        for (web, _) in &callers {
            let home = served_by(web)?;
            ensure!(home.len() == 1, "{home:?}");
            ensure!(served_by(web)? == home, "another one than before");
            homes.extend(home);
        }
        ensure!(homes.len() > 1, "all callers have {homes:?}");

        let (web, _) = &callers[0];
        let home = served_by(web)?;
        let others: Vec<&Pod> = orders.iter().filter(|pod| !home.contains(pod.name())).collect();
        mesh.dns().set(service().on(&others))?;
        weft_testbed::eventually("the caller to move", std::time::Duration::from_secs(20), || {
            Ok((served_by(web)?.is_disjoint(&home)).then_some(()))
        })?;
        ensure!(served_by(web)?.len() == 1, "and to stay there");
        Ok(())
    });
}
