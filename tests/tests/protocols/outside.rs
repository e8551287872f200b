//! Destinations outside the mesh: forwarded as they are, and counted.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_testbed::{Recorder, Request, eventually, story};

use super::pair::tls_server;

const API: &str = "api.example.test";

#[test]
fn what_is_not_in_the_mesh_passes_through() {
    story("proto-outside", |mesh| {
        let client = mesh.pod("client.shop").start()?;
        let api = mesh.pod("api.elsewhere").start()?;
        api.app(80)?;
        api.app_of("echo", 7)?;
        mesh.dns().host(API, &api.addresses())?;
        let proxy = mesh.sidecar(&client)?.start()?;
        let passed = |protocol: &str| -> Result<f64> {
            Ok(proxy.metrics()?.sum("weft_passthrough_connections_total", &[("protocol", protocol)]))
        };

        // Plain HTTP is seen, but neither cleaned nor added to.
        let request = Request::get(&format!("http://{API}/x")).header("keep-alive", "timeout=5");
        let seen = client.send(request)?.json()?;
        assert_eq!(seen["server"], "api");
        let headers = seen["headers"].as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
        assert_eq!(headers.unwrap_or_default(), ["host", "keep-alive"], "{seen}");
        assert_eq!(client.send(Request::get(&format!("http://{API}/")).http2())?.status, 200);
        assert_eq!((passed("http1")?, passed("http2")?), (1.0, 1.0));

        // TLS is between the application and its server alone.
        let ca = tls_server(&api, API, 443)?;
        let curl = ["curl", "-sS", "--max-time", "15", "--cacert", &ca, &format!("https://{API}/")];
        assert!(client.exec(&curl)?.ok()?.stdout.contains("TLSv1.3"));
        assert_eq!(passed("tls")?, 1.0);

        // Everything else as well, by name or by address.
        let line = format!("exec 3<>/dev/tcp/{}/7; echo bytes >&3; head -n1 <&3", api.ip());
        assert_eq!(client.exec(&["bash", "-c", &line])?.ok()?.stdout, "bytes\n");
        assert_eq!(passed("tcp")?, 1.0);
        let opened = proxy.metrics()?.sum("weft_tcp_connections_opened_total", &[("direction", "outbound")]);
        assert_eq!(opened, 4.0);
        // Nothing of it was taken for the mesh.
        assert_eq!(proxy.metrics()?.sum("weft_mtls_handshakes_total", &[]), 0.0);
        Ok(())
    });
}

/// A socket that dials a link-local address is bound to the device of the link, and takes no packet from loopback: where a
/// rule redirects it, nothing ever answers.
#[test]
fn a_link_local_destination_is_left_alone() {
    story("proto-link-local", |mesh| {
        let client = mesh.pod("client.shop").start()?;
        let printer = mesh.pod("printer.elsewhere").start()?;
        let recorder = Recorder::start(&printer, 8080)?;
        let _proxy = mesh.sidecar(&client)?.start()?;
        // The kernel gives each link one, once it is sure that nobody else has it.
        let ready = |pod: &weft_testbed::Pod| {
            let show = ["ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"];
            let shown = pod.exec(&show)?.ok()?.stdout;
            let address = shown.split_whitespace().find_map(|word| word.strip_suffix("/64"));
            Ok(address.filter(|_| !shown.contains("tentative")).map(str::to_owned))
        };
        let address = eventually("a link-local address", Duration::from_secs(20), || ready(&printer))?;
        eventually("the client's", Duration::from_secs(20), || ready(&client))?;
        let url = format!("http://[{address}%25eth0]:8080/page");
        let curl = ["curl", "-sS", "--max-time", "15", &url];
        ensure!(client.exec(&curl)?.ok()?.stdout == "recorded\n");
        ensure!(recorder.text().contains("GET /page"), "{}", recorder.text());
        Ok(())
    });
}
