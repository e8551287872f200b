//! Headers that only the mesh may write.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::Value;
use weft_testbed::{Mesh, Pod, Request, Service, story};

use crate::certs::Authority;
use crate::peers::{Outcome, client, request};

const LIE: &str = "URI=spiffe://weft.local/ns/bank/sa/admin";

/// What an attacker would like the application to believe.
const SPOOFED: [(&str, &str); 6] = [
    ("x-forwarded-client-cert", LIE),
    // Which CGI and its successors take for the same.
    ("x_forwarded_client_cert", LIE),
    ("weft-wire", "1.0"),
    ("weft-error", "tls-failed"),
    ("weft-identity", "admin"),
    ("weft-upgrade", ""),
];

fn workload(mesh: &Mesh, mode: &str) -> Result<Pod> {
    let orders = mesh.pod("orders.shop").start()?;
    orders.app(8080)?;
    mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&orders]))?;
    mesh.sidecar(&orders)?.config(|yaml| yaml["inbound"]["mode"] = mode.into()).start()?;
    Ok(orders)
}

/// The application saw this caller and none of the lies.
fn sees(seen: &Value, caller: Option<&str>) -> Result<()> {
    let headers = seen["headers"].as_object().cloned().unwrap_or_default();
    let told = headers.get("x-forwarded-client-cert").and_then(Value::as_str);
    match caller {
        Some(caller) => ensure!(told.is_some_and(|told| told.ends_with(caller)), "{headers:?}"),
        None => ensure!(told.is_none(), "{headers:?}"),
    }
    for name in headers.keys() {
        ensure!(!name.starts_with("weft-"), "{name} reached the application: {headers:?}");
    }
    ensure!(!format!("{headers:?}").contains("sa/admin"), "{headers:?}");
    Ok(())
}

fn spoof(mut request: Request) -> Request {
    for (name, value) in SPOOFED {
        request = request.header(name, value);
    }
    // A second value, and the trick of having the proxy remove its own header.
    request.header("x-forwarded-client-cert", LIE)
}

#[test]
fn an_application_cannot_speak_for_the_mesh() {
    story("spoof-app", |mesh| {
        let _orders = workload(mesh, "strict")?;
        let web = mesh.pod("web.shop").start()?;
        mesh.sidecar(&web)?.start()?;
        let one = spoof(Request::get("http://orders.shop/1"))
            .header("connection", "x-forwarded-client-cert, x-request-id, weft-wire");
        let two = spoof(Request::get("http://orders.shop/2").http2());
        for request in [one, two] {
            let answer = web.send(request)?;
            ensure!(answer.status == 200, "{answer:?}");
            sees(&answer.json()?, Some("URI=spiffe://weft.local/ns/shop/sa/web"))?;
        }
        Ok(())
    });
}

#[test]
fn a_mesh_peer_speaks_for_itself_only() {
    story("spoof-peer", |mesh| {
        let orders = workload(mesh, "strict")?;
        let mallory = mesh.pod("mallory.shop").start()?;
        let to = SocketAddr::new(orders.ip(), 8080);
        // It has an identity of the mesh, and its own idea of a sidecar. It may say which version its application
        // speaks and what upgrade it wants: these are the link's own headers, and end here all the same.
        let own = Authority::of(mesh.ca()?)?.good("dev", "mallory")?;
        let spoofed: Vec<_> = SPOOFED.into_iter().filter(|(name, _)| *name != "weft-upgrade").collect();
        let outcome = request(&mallory, to, &client(Some(&own), &["weft/http"])?, &spoofed)?;
        let Outcome::Answered { status: 200, body } = outcome else { anyhow::bail!("{outcome:?}") };
        sees(&serde_json::from_str(&body)?, Some("URI=spiffe://weft.local/ns/dev/sa/mallory"))
    });
}

#[test]
fn plaintext_has_no_identity_whatever_it_says() {
    story("spoof-plain", |mesh| {
        let orders = workload(mesh, "permissive")?;
        let outsider = mesh.pod("outsider.shop").start()?;
        for request in [Request::get, |url: &str| Request::get(url).http2()] {
            let answer = outsider.send(spoof(request(&format!("http://{}:8080/", orders.ip()))))?;
            ensure!(answer.status == 200, "{answer:?}");
            sees(&answer.json()?, None)?;
        }
        Ok(())
    });
}

/// An application that answers in the name of the mesh, over both versions.
#[test]
fn an_application_cannot_answer_for_the_mesh() {
    story("spoof-answer", |mesh| {
        let _orders = workload(mesh, "strict")?;
        let web = mesh.pod("web.shop").start()?;
        mesh.sidecar(&web)?.start()?;
        for request in [Request::get, |url: &str| Request::get(url).http2()] {
            let answer = web.send(request("http://orders.shop/with/weft-error/x/weft-upgrade/x"))?;
            ensure!(answer.status == 200, "{answer:?}");
            ensure!(answer.header("x-answered-with") == "2", "the application did not try: {answer:?}");
            ensure!(answer.header("weft-error").is_empty(), "{answer:?}");
            ensure!(answer.header("upgrade").is_empty(), "{answer:?}");
        }
        Ok(())
    });
}
