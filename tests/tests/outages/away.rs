//! One after the other, in both ways to be away (gone; there, but silent), and all at once.

use weft_testbed::{Mesh, Result, Service, eventually, story};

use super::shop::{SOON, Shop, wait_counted};

/// Seconds of traffic in an outage: several times the TTL of all records.
const LENGTH: u64 = 4;

const REFRESHES: &str = "weft_endpoint_refreshes_total";
const RENEWALS: &str = "weft_certificate_renewals_total";

#[test]
fn the_name_server_is_gone_and_comes_back() {
    story("dns-gone", |mesh| {
        let shop = Shop::open(mesh)?;
        let traffic = shop.traffic()?;
        let failed = shop.client.metrics()?.sum(REFRESHES, &[("outcome", "failed")]);
        mesh.dns().stop();
        traffic.go_on(LENGTH)?;
        // It did notice; the last good endpoints stay.
        wait_counted(&shop.client, REFRESHES, &[("outcome", "failed")], failed)?;
        assert!(shop.client.admin("/endpoints")?.text().contains("\"error\":\""));
        mesh.dns().restart()?;
        dns_recovers(mesh, &shop)?;
        traffic.end()
    });
}

#[test]
fn the_name_server_hangs() {
    story("dns-hangs", |mesh| {
        let shop = Shop::open(mesh)?;
        let traffic = shop.traffic()?;
        mesh.dns().pause();
        traffic.go_on(LENGTH)?;
        mesh.dns().resume();
        dns_recovers(mesh, &shop)?;
        traffic.end()
    });
}

/// A change that was made after the outage comes through.
fn dns_recovers(mesh: &Mesh, shop: &Shop) -> Result<()> {
    let second = mesh.pod("orders-2.shop").start()?;
    second.app(8080)?;
    mesh.sidecar(&second)?.start()?;
    mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&shop.orders, &second]))?;
    eventually("the new replica to be found", SOON, || {
        Ok((shop.web.get("http://orders.shop/")?.header("x-served-by") == "orders-2").then_some(()))
    })?;
    let error = shop.client.admin("/endpoints")?.text();
    assert!(!error.contains("\"error\":\""), "{error}");
    Ok(())
}

#[test]
fn the_ca_is_gone_and_comes_back() {
    story("ca-gone", |mesh| {
        // A leaf ends half a minute after it was made, a renewal is due after half of that.
        mesh.ca_with(|yaml| yaml["leafLifetime"] = "30s".into())?;
        let shop = Shop::open(mesh)?;
        let traffic = shop.traffic()?;
        let ok = [("outcome", "ok")];
        let renewals = shop.client.metrics()?.sum(RENEWALS, &ok);
        mesh.ca()?.stop();
        traffic.go_on(LENGTH)?;
        // Renewals are due by now and fail, and say so.
        wait_counted(&shop.client, RENEWALS, &[("outcome", "failed")], 0.0)?;
        let certs = shop.client.admin("/certs")?.json()?;
        assert!(certs["lastError"]["error"].as_str().is_some_and(|error| !error.is_empty()), "{certs}");
        assert_eq!(shop.client.admin("/ready")?.status, 200, "the last good leaf is good");
        mesh.ca()?.restart()?;
        wait_counted(&shop.client, RENEWALS, &ok, renewals)?;
        traffic.go_on(1)?;
        traffic.end()
    });
}

/// Where the CA was is kept: a proxy whose connection to it is gone as well finds it without a name server, and renews.
#[test]
fn certificates_are_renewed_while_the_name_server_is_away() {
    const CA: &str = "ca.weft-system";
    story("dns-renews", |mesh| {
        mesh.ca_with(|yaml| yaml["leafLifetime"] = "20s".into())?;
        let ca = mesh.ca()?;
        mesh.dns().host(CA, &[ca.pod().ip()])?;
        let port = ca.address_for(ca.pod()).port();
        let web = mesh.pod("web.shop").start()?;
        let address = format!("{CA}:{port}");
        let sidecar = mesh
            .sidecar(&web)?
            .config(|config| config["identity"]["ca"]["address"] = address.into())
            .start()?;
        let ok = [("outcome", "ok")];
        let renewals = || -> Result<f64> { Ok(sidecar.metrics()?.sum(RENEWALS, &ok)) };
        for silent in [false, true] {
            if silent {
                mesh.dns().pause();
            } else {
                mesh.dns().stop();
            }
            ca.stop();
            ca.restart()?;
            let before = renewals()?;
            // Two: the second has a whole lifetime behind it in which nobody was asked.
            wait_counted(&sidecar, RENEWALS, &ok, before + 1.0)?;
            assert_eq!(sidecar.admin("/ready")?.status, 200);
            if silent { mesh.dns().resume() } else { mesh.dns().restart()? }
        }
        Ok(())
    });
}

#[test]
fn everything_is_away_at_once() {
    story("all-gone", |mesh| {
        let collector = mesh.collector()?;
        let shop = Shop::open(mesh)?;
        let traffic = shop.traffic()?;
        collector.wait_for("spans before the outage", |spans| !spans.is_empty())?;
        mesh.ca()?.stop();
        mesh.dns().stop();
        collector.stop();
        traffic.go_on(LENGTH)?;
        mesh.ca()?.restart()?;
        mesh.dns().restart()?;
        collector.restart()?;
        dns_recovers(mesh, &shop)?;
        let trace = "5bf92f3577b34da6a3ce929d0e0e4736";
        let request = weft_testbed::Request::get("http://orders.shop/after")
            .header("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"));
        assert_eq!(shop.web.send(request)?.status, 200);
        collector.trace(trace, 2)?;
        traffic.end()
    });
}
