//! The harness itself: pods, names, captures, and that nothing outlives a test.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use weft_testbed::{Request, Service, clean_stale, eventually, processes_of, story};

#[test]
fn two_pods_talk_and_the_wire_shows_what_they_say() {
    story("talk", |mesh| {
        let client = mesh.pod("client.shop").start()?;
        let server = mesh.pod("server.shop").start()?;
        server.app(8080)?;
        let capture = server.capture("tcp port 8080")?;
        for ip in server.addresses() {
            let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
            let answer = client.send(Request::post(&format!("http://{host}:8080/x"), "plainly visible"))?;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.json()?["body"], "plainly visible");
            assert_eq!(answer.json()?["server"], "server");
        }
        let packets = capture.stop()?;
        assert!(packets.contains(b"plainly visible"));
        assert!(!packets.contains(b"never said"));
        // Two connections, two directions each; the client's side of each is known and is not TLS.
        assert_eq!(packets.flows().len(), 4);
        assert_eq!(packets.flows().values().filter(|flow| flow.from_client).count(), 2);
        assert!(packets.flows().values().all(|flow| !flow.is_tls()));
        Ok(())
    });
}

#[test]
fn names_are_as_in_a_cluster() {
    story("names", |mesh| {
        let client = mesh.pod("client.shop").start()?;
        let first = mesh.pod("orders-1.shop").start()?;
        let second = mesh.pod("orders-2.shop").ipv4_only().start()?;
        assert_eq!((second.account(), second.v6()), ("orders", None));
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&first, &second]))?;

        let srv = client.lookup("_p80._tcp.orders-endpoints.shop.svc.cluster.local", "SRV")?;
        assert_eq!(srv.records.len(), 2, "{srv:?}");
        assert!(srv.records[0].contains("0 100 8080 orders-"), "{srv:?}");
        assert_eq!(srv.ttls, [1, 1]);
        assert!(srv.additional.contains(&first.ip().to_string()), "{srv:?}");

        // From a short name, by the search domains, to the virtual IP, which nothing routes.
        let addresses = client.resolve("orders")?;
        assert!(addresses[0].to_string().starts_with("10.96."), "{addresses:?}");
        let error = client.get("http://orders/").err().context("a virtual IP answered without a mesh")?;
        assert!(format!("{error:#}").contains("connecting to"), "{error:#}");

        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&second]))?;
        let srv = client.lookup("_p80._tcp.orders-endpoints.shop.svc.cluster.local", "SRV")?;
        assert_eq!(srv.records.len(), 1);
        assert_eq!(client.lookup("missing.shop.svc.cluster.local", "A")?.code, "NXDomain");

        // Applications with a C library see the same names.
        let host = client.exec(&["getent", "ahostsv4", "orders"])?.ok()?;
        assert!(host.stdout.contains("10.96."), "{host:?}");
        // A program starts in its pod's directory.
        let here = client.exec(&["pwd"])?.ok()?;
        assert_eq!(here.stdout.trim(), client.dir().to_string_lossy());
        Ok(())
    });
}

#[test]
fn pods_of_one_family_have_only_that_one() {
    story("families", |mesh| {
        let client = mesh.pod("client.shop").ipv6_only().start()?;
        let server = mesh.pod("server.shop").ipv6_only().start()?;
        server.app(8080)?;
        mesh.dns().set(Service::headless("server.shop").named_port("http", 8080).on(&[&server]))?;
        assert_eq!(client.get("http://server:8080/")?.status, 200);
        let routes = client.exec(&["ip", "-4", "route"])?.ok()?;
        assert_eq!(routes.stdout, "");
        Ok(())
    });
}

#[test]
fn a_dns_outage_comes_and_goes() {
    story("outage", |mesh| {
        let client = mesh.pod("client.shop").start()?;
        mesh.dns().host("api.example.test", &[client.ip()])?;
        assert_eq!(client.resolve("api.example.test")?, [client.ip()]);
        mesh.dns().stop();
        assert!(client.lookup("api.example.test", "A").is_err());
        mesh.dns().restart()?;
        assert_eq!(client.lookup("api.example.test", "A")?.records, [client.ip().to_string()]);
        Ok(())
    });
}

#[test]
fn a_deleted_pod_is_gone() {
    story("deleted", |mesh| {
        let client = mesh.pod("client.shop").start()?;
        let server = mesh.pod("server.shop").start()?;
        let app = server.app(8080)?;
        let url = format!("http://{}:8080/", server.ip());
        assert_eq!(client.get(&url)?.status, 200);
        server.delete()?;
        assert!(!app.is_running());
        assert!(client.get(&url).is_err());
        Ok(())
    });
}

/// Another process makes a mesh and is killed without a chance to clean up.
#[test]
fn nothing_survives_a_crash() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weft-testapp"))
        .args(["mesh-and-wait"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
        .unwrap();
    let run = line.trim().to_owned();
    let dir = std::env::temp_dir().join(&run);
    assert!(dir.exists() && !processes_of(&run).is_empty(), "{run}");
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = || {
        clean_stale();
        Ok((!dir.exists() && processes_of(&run).is_empty()).then_some(()))
    };
    eventually("the crashed run to be gone", Duration::from_secs(5), gone).unwrap();
}

#[test]
fn load_reports_what_failed() {
    story("load", |mesh| {
        let client = mesh.pod("client.shop").start()?;
        let server = mesh.pod("server.shop").start()?;
        let app = server.app(8080)?;
        let load = client.load(&format!("http://{}:8080/", server.ip())).rate(200).start()?;
        load.wait_for(50)?;
        assert_eq!(load.so_far().failures(), 0, "{:?}", load.so_far());
        app.kill();
        eventually("requests to fail", Duration::from_secs(5), || {
            Ok((load.so_far().failures() > 0).then_some(()))
        })?;
        let report = load.stop()?;
        assert_eq!(report.sent, report.ok + report.failures());
        assert_eq!(report.served_by["server"], report.ok);
        assert!(report.quantile(0.5) > Duration::ZERO);
        assert!(report.all_ok(1).is_err());
        Ok(())
    });
}

#[test]
fn spans_are_read_back_from_a_real_collector() {
    story("collector", |mesh| {
        let client = mesh.pod("client.shop").start()?;
        let collector = mesh.collector()?;
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let span = serde_json::json!({
            "traceId": trace, "spanId": "b7ad6b7169203331", "name": "GET", "kind": 3,
            "startTimeUnixNano": "1000", "endTimeUnixNano": "2000",
        });
        let body = serde_json::json!({ "resourceSpans": [{
            "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": "web" } }] },
            "scopeSpans": [{ "spans": [span] }],
        }]});
        let url = format!("{}/v1/traces", collector.http_for(&client));
        let request = Request::post(&url, body.to_string()).header("content-type", "application/json");
        assert_eq!(client.send(request)?.status, 200);
        let spans = collector.trace(trace, 1)?;
        assert_eq!((spans[0].service.as_str(), spans[0].kind.as_str()), ("web", "client"));
        Ok(())
    });
}
