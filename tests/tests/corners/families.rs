//! A pod that calls itself, and pods of one address family.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use weft_testbed::{Mesh, Pod, Request, Service, story};

use crate::exchange;

/// A pod that serves `orders.shop` on 80 (HTTP) and 7000 (echo), and its sidecar.
fn workload(mesh: &Mesh, pod: &Pod) -> Result<weft_testbed::Sidecar> {
    pod.app(8080)?;
    pod.app_of("echo", 7000)?;
    mesh.sidecar(pod)?.start()
}

fn caller(answer: &weft_testbed::Response) -> Result<String> {
    ensure!(answer.status == 200, "{answer:?}");
    let seen = answer.json()?;
    Ok(seen["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default().to_owned())
}

fn echo(from: &Pod, name: &str) -> Result<()> {
    for ip in from.resolve(name)? {
        let to = SocketAddr::new(ip, 7000);
        let answer = from.run(async || exchange(to, b"to and fro").await)?;
        ensure!(answer.as_deref() == Some(&b"to and fro"[..]), "{to}: {answer:?}");
    }
    Ok(())
}

#[test]
fn a_pod_calls_itself_by_its_services_name() {
    story("itself", |mesh| {
        let orders = mesh.pod("orders.shop").start()?;
        let sidecar = workload(mesh, &orders)?;
        let service = Service::virtual_ip("orders.shop").port(80, 8080).port(7000, 7000);
        mesh.dns().set(service.on(&[&orders]))?;
        let own = "URI=spiffe://weft.local/ns/shop/sa/orders";
        // More often than it has addresses, so that both families are picked.
        for round in 0..8 {
            let request = Request::get("http://orders.shop/self");
            let request = if round % 2 == 0 { request } else { request.http2() };
            let told = caller(&orders.send(request)?)?;
            ensure!(told.ends_with(own), "through its own front door, as itself: {told}");
        }
        echo(&orders, "orders.shop")?;
        let metrics = sidecar.metrics()?;
        let labels = [("peer_identity", "spiffe://weft.local/ns/shop/sa/orders"), ("tls", "mutual")];
        let seen = metrics.sum("http_server_request_duration_seconds_count", &labels);
        ensure!(seen >= 8.0, "the inbound side has seen {seen} of 8 calls");
        // By address, there is no service and no policy of one: it is the pod's own business.
        for ip in orders.addresses() {
            let url = format!("http://{}/", SocketAddr::new(ip, 8080));
            ensure!(orders.get(&url)?.status == 200, "{url}");
        }
        ensure!(orders.get("http://127.0.0.1:8080/")?.status == 200, "loopback");
        Ok(())
    });
}

#[test]
fn a_replica_may_pick_itself_among_others() {
    story("replica", |mesh| {
        let pods = [mesh.pod("orders-1.shop").start()?, mesh.pod("orders-2.shop").start()?];
        let sidecars = [workload(mesh, &pods[0])?, workload(mesh, &pods[1])?];
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&pods[0], &pods[1]]))?;
        let mut served = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let answer = pods[0].get("http://orders.shop/")?;
            ensure!(caller(&answer)?.ends_with("sa/orders"), "{answer:?}");
            served.insert(answer.header("x-served-by").to_owned());
        }
        ensure!(served.len() == 2, "only {served:?} served");
        ensure!(sidecars.iter().all(|sidecar| sidecar.process().is_running()));
        Ok(())
    });
}

#[test]
fn pods_without_ipv4_have_the_whole_mesh() {
    story("ipv6-only", |mesh| {
        let web = mesh.pod("web.shop").ipv6_only().start()?;
        let orders = mesh.pod("orders.shop").ipv6_only().start()?;
        let _orders = workload(mesh, &orders)?;
        let client = mesh.sidecar(&web)?.start()?;
        let service = Service::virtual_ip("orders.shop").port(80, 8080).port(7000, 7000);
        mesh.dns().set(service.on(&[&orders]))?;
        mesh.dns().set(Service::headless("stock.shop").named_port("http", 8080).on(&[&orders]))?;
        let capture = orders.capture("tcp port 8080 or tcp port 7000")?;
        for url in ["http://orders.shop/", "http://stock.shop:8080/", "http://orders/"] {
            let told = caller(&web.get(url)?)?;
            ensure!(told.ends_with("URI=spiffe://weft.local/ns/shop/sa/web"), "{url}: {told}");
        }
        echo(&web, "orders.shop")?;
        let own = caller(&orders.get("http://orders.shop/")?)?;
        ensure!(own.ends_with("sa/orders"), "its own service: {own}");
        let packets = capture.stop()?;
        let flows = packets.flows();
        ensure!(!flows.is_empty() && flows.keys().all(|(from, to)| from.is_ipv6() && to.is_ipv6()));
        ensure!(flows.values().all(|flow| flow.bytes.is_empty() || flow.is_tls()), "plaintext over IPv6");
        ensure!(client.metrics()?.sum("weft_dns_queries_total", &[("outcome", "answered")]) > 0.0);
        Ok(())
    });
}

#[test]
fn both_families_and_mixed_replicas() {
    story("dual", |mesh| {
        let four = mesh.pod("orders-1.shop").ipv4_only().start()?;
        let six = mesh.pod("orders-2.shop").ipv6_only().start()?;
        let both = mesh.pod("orders-3.shop").start()?;
        let pods = [&four, &six, &both];
        for pod in pods {
            workload(mesh, pod)?;
        }
        let web = mesh.pod("web.shop").start()?;
        mesh.sidecar(&web)?.start()?;
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&pods))?;
        let mut served = std::collections::BTreeSet::new();
        for _ in 0..60 {
            let answer = web.get("http://orders.shop/")?;
            ensure!(answer.status == 200, "{answer:?}");
            served.insert(answer.header("x-served-by").to_owned());
        }
        ensure!(served.len() == 3, "only {served:?} served");
        // A caller with one family: the endpoints of the other cannot be reached, and cost no request.
        let old = mesh.pod("old.shop").ipv4_only().start()?;
        mesh.sidecar(&old)?.start()?;
        for _ in 0..20 {
            let answer = old.get("http://orders.shop/")?;
            ensure!(answer.status == 200 && answer.header("x-served-by") != "orders-2", "{answer:?}");
        }
        Ok(())
    });
}
