//! What the mesh leans on is away or hangs: the CA, DNS, the collector. No request fails.

use std::time::Duration;

use weft_testbed::{Load, Mesh, Pod, Result, Service, story};

const URL: &str = "http://orders.shop/";

/// A server behind a sidecar, and a client with a sidecar that sends it 200 requests a second.
fn traffic(mesh: &Mesh) -> Result<(Pod, Load)> {
    let orders = mesh.pod("orders.shop").start()?;
    orders.app(8080)?;
    mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&orders]))?;
    mesh.sidecar(&orders)?.start()?;
    let web = mesh.pod("web.shop").start()?;
    mesh.sidecar(&web)?.start()?;
    let load = web.load(URL).rate(200).start()?;
    load.wait_for(50)?;
    Ok((web, load))
}

#[test]
fn the_ca_dns_and_the_collector_are_away() {
    story("outages", |mesh| {
        let collector = mesh.collector()?;
        let (web, load) = traffic(mesh)?;
        mesh.ca()?.stop();
        mesh.dns().stop();
        collector.stop();
        // Records had a TTL of 1 s: by now they would be gone without the last good set.
        load.wait_for(600)?;
        // New connections of the application resolve by the sidecar as well.
        load.stop()?.all_ok(600)?;
        let fresh = web.load(URL).rate(20).connections(1).start()?;
        fresh.wait_for(10)?;
        fresh.stop()?.all_ok(10)
    });
}

#[test]
fn a_collector_that_hangs_slows_nothing() {
    story("slow-collector", |mesh| {
        let collector = mesh.collector()?;
        let (_web, load) = traffic(mesh)?;
        collector.pause();
        load.wait_for(400)?;
        collector.resume();
        let report = load.stop()?;
        report.all_ok(400)?;
        // An export waits 5 s by default: a request that waited for it would show.
        assert!(report.quantile(1.0) < Duration::from_secs(4), "{:?}", report.quantile(1.0));
        Ok(())
    });
}
