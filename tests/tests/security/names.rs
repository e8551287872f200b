//! What names and addresses of others do to the mesh's own: answers of thousands, borrowed addresses, aliases.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use weft_testbed::{Mesh, Pod, Recorder, Request, Response, Service, Sidecar, story};

/// Addresses that one answer over TCP has room for.
const MANY: u32 = 4000;

/// A strict caller and a server without a sidecar, which writes down what it gets. What it gets of a mesh destination is a
/// ClientHello at the most.
fn caller_and_recorder(mesh: &Mesh, cidrs: &[&str]) -> Result<(Pod, Sidecar, Pod, Recorder)> {
    let web = mesh.pod("web.shop").start()?;
    let plain = mesh.pod("plain.shop").start()?;
    let sidecar = mesh
        .sidecar(&web)?
        .config(|yaml| {
            yaml["mesh"]["mode"] = "strict".into();
            yaml["mesh"]["cidrs"] = serde_json::json!(cidrs);
            yaml["timeouts"]["handshake"] = "1s".into();
        })
        .start()?;
    let recorder = Recorder::start(&plain, 8080)?;
    Ok((web, sidecar, plain, recorder))
}

/// Dials an address without asking for a name, as an application does that has kept it.
fn dial(from: &Pod, to: IpAddr, path: &str) -> Result<Response> {
    from.get(&format!("http://{}{path}", SocketAddr::new(to, 8080)))
}

fn kept_secret(answer: &Response, recorder: &Recorder) -> Result<()> {
    ensure!(answer.status == 502 && answer.header("weft-error") == "tls-failed", "{answer:?}");
    ensure!(!recorder.text().contains("secret"), "sent in plaintext: {}", recorder.text());
    Ok(())
}

/// Ten look-ups of names outside that have more addresses than a sidecar remembers.
#[test]
fn answers_of_thousands_push_no_service_out_of_the_mesh() {
    story("dns-flood", |mesh| {
        let (web, sidecar, plain, recorder) = caller_and_recorder(mesh, &[])?;
        mesh.dns().set(Service::headless("stock.shop").named_port("http", 8080).on(&[&plain]))?;
        let stock = web.resolve("stock.shop")?[0];
        kept_secret(&dial(&web, stock, "/secret-before")?, &recorder)?;
        mesh.dns().hosts((0..10).map(|name| {
            let first = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + name * MANY;
            let all = (first..first + MANY).map(|ip| Ipv4Addr::from(ip).into()).collect();
            (format!("evil{name}.example"), all)
        }))?;
        for name in 0..10 {
            // Over TCP, so that the application gets all of it.
            let found = web.exec(&["dig", "+tcp", "+short", &format!("evil{name}.example")])?.ok()?.stdout;
            ensure!(found.lines().count() == MANY as usize, "{found}");
        }
        kept_secret(&dial(&web, stock, "/secret-after")?, &recorder)?;
        // Remembered was something of each: the sidecar did see those answers.
        let names = sidecar.metrics()?.sum("weft_dns_learned_addresses", &[]);
        ensure!((600.0..1000.0).contains(&names), "{names} addresses");
        Ok(())
    });
}

/// A name outside that has the address of a pod, which nobody has asked for by its own name.
#[test]
fn an_outside_name_takes_no_address_out_of_the_cidrs() {
    story("dns-borrowed", |mesh| {
        let (web, _sidecar, plain, recorder) = caller_and_recorder(mesh, &["10.77.0.0/16"])?;
        mesh.dns().host("point.example", &plain.addresses())?;
        for pod in web.resolve("point.example")? {
            if pod.is_ipv4() {
                kept_secret(&dial(&web, pod, "/secret")?, &recorder)?;
            } else {
                // The control: this one is in no network of the mesh's.
                let answer = dial(&web, pod, "/open")?;
                ensure!(answer.status == 200 && recorder.text().contains("/open"), "{answer:?}");
            }
        }
        ensure!(recorder.connections() >= 2, "one of the two addresses was not dialed");
        Ok(())
    });
}

/// Environment variables and configurations tell applications addresses of services that they never ask DNS for.
#[test]
fn a_service_dialed_by_its_address_is_judged_by_its_name() {
    story("dns-by-address", |mesh| {
        let orders = mesh.pod("orders.bank").start()?;
        orders.app(8080)?;
        let _server = mesh.sidecar(&orders)?.start()?;
        let plain = mesh.pod("plain.shop").start()?;
        mesh.dns().set(Service::virtual_ip("orders.bank").port(80, 8080).on(&[&orders]))?;
        mesh.dns().set(Service::virtual_ip("stock.shop").port(80, 8080).on(&[&plain]))?;
        let nameless = plain.addresses()[0];
        let web = mesh.pod("web.shop").start()?;
        let sidecar = mesh
            .sidecar(&web)?
            .config(|yaml| {
                let own = format!("{nameless}/{}", if nameless.is_ipv4() { 32 } else { 128 });
                yaml["mesh"]["namespaces"] = serde_json::json!(["shop", "bank"]);
                yaml["mesh"]["serviceCidrs"] = serde_json::json!(["10.96.0.0/16", "fd96::/64", own]);
                yaml["timeouts"]["handshake"] = "1s".into();
            })
            .start()?;
        let recorder = Recorder::start(&plain, 8080)?;

        // Asked for by a pod without a sidecar, so that the caller's own sidecar has not seen it.
        for address in plain.resolve("orders.bank.svc.cluster.local.")? {
            let answer = web.get(&format!("http://{}/", SocketAddr::new(address, 80)))?;
            ensure!(answer.status == 200 && answer.json()?["server"] == "orders", "{answer:?}");
        }
        let label = [("destination_service", "orders.bank.svc.cluster.local:80"), ("tls", "mutual")];
        let counted = sidecar.metrics()?.sum("http_client_request_duration_seconds_count", &label);
        ensure!(counted >= 1.0, "{counted} of orders.bank");
        for address in plain.resolve("stock.shop.svc.cluster.local.")? {
            let answer = web.get(&format!("http://{}/secret", SocketAddr::new(address, 80)))?;
            kept_secret(&answer, &recorder)?;
        }

        // An address of the range that has no name; a name outside, both ways; a service's name, one way.
        kept_secret(&dial(&web, nameless, "/secret")?, &recorder)?;
        mesh.dns().host("evil.example", &[nameless])?;
        mesh.dns().pointer(nameless, "evil.example")?;
        ensure!(web.resolve("evil.example")? == [nameless], "it is known by an outside name as well");
        kept_secret(&dial(&web, nameless, "/secret-evil")?, &recorder)?;
        // A service of a namespace that is not in the mesh may have any endpoints.
        mesh.dns().host("evil.other.svc.cluster.local", &[nameless])?;
        ensure!(web.resolve("evil.other.svc.cluster.local.")? == [nameless], "known by a name of its shape");
        kept_secret(&dial(&web, nameless, "/secret-other")?, &recorder)?;
        mesh.dns().pointer(nameless, "kubernetes.default.svc.cluster.local")?;
        kept_secret(&dial(&web, nameless, "/secret-borrowed")?, &recorder)?;
        Ok(())
    });
}

/// A service of a namespace that is not in the mesh has its address in the same range.
#[test]
fn a_service_outside_the_mesh_is_left_alone_by_its_address_too() {
    story("dns-by-address-outside", |mesh| {
        let plain = mesh.pod("plain.legacy").start()?;
        let web = mesh.pod("web.shop").start()?;
        let address = plain.addresses()[0];
        let _sidecar = mesh
            .sidecar(&web)?
            .config(|yaml| {
                let own = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
                yaml["mesh"]["namespaces"] = serde_json::json!(["shop"]);
                yaml["mesh"]["serviceCidrs"] = serde_json::json!([own]);
            })
            .start()?;
        let recorder = Recorder::start(&plain, 8080)?;
        mesh.dns().host("plain.legacy.svc.cluster.local", &[address])?;
        mesh.dns().pointer(address, "plain.legacy.svc.cluster.local")?;
        let answer = dial(&web, address, "/hello")?;
        ensure!(answer.status == 200 && recorder.text().contains("GET /hello"), "{answer:?}");
        Ok(())
    });
}

/// CoreDNS' `autopath`: the server goes along the search list by itself, and answers the first step of it with an alias.
#[test]
fn an_alias_of_the_search_list_is_judged_by_what_it_stands_for() {
    story("dns-autopath", |mesh| {
        let (web, sidecar, plain, recorder) = caller_and_recorder(mesh, &[])?;
        let orders = mesh.pod("orders.bank").start()?;
        orders.app(8080)?;
        let _server = mesh.sidecar(&orders)?.start()?;
        mesh.dns().set(Service::virtual_ip("orders.bank").port(80, 8080).on(&[&orders]))?;
        mesh.dns().alias("orders.bank.shop.svc.cluster.local", "orders.bank.svc.cluster.local")?;
        mesh.dns().host("plain.test", &plain.addresses())?;
        mesh.dns().alias("plain.test.shop.svc.cluster.local", "plain.test")?;

        // A service of another namespace: that namespace's identity, and its name in the metrics.
        let answer = web.send(Request::get("http://orders.bank/"))?;
        ensure!(answer.status == 200 && answer.json()?["server"] == "orders", "{answer:?}");
        let label = [("destination_service", "orders.bank.svc.cluster.local:80"), ("tls", "mutual")];
        let counted = sidecar.metrics()?.sum("http_client_request_duration_seconds_count", &label);
        ensure!(counted == 1.0, "{counted} of orders.bank");

        // A host outside stays outside.
        let answer = web.get("http://plain.test:8080/hello")?;
        ensure!(answer.status == 200 && answer.text() == "recorded\n", "{answer:?}");
        ensure!(recorder.text().contains("GET /hello"), "{}", recorder.text());

        // A lie of the same kind about a service of the mesh makes no outside host of it.
        mesh.dns().host("evil.example", &plain.addresses())?;
        mesh.dns().alias("stock.shop.svc.cluster.local", "evil.example")?;
        recorder.clear();
        let answer = web.get("http://stock.shop:8080/secret")?;
        kept_secret(&answer, &recorder)?;
        Ok(())
    });
}
