//! WebSockets through a gateway, opened over HTTP/1.1 and over HTTP/2.

use std::net::TcpListener;

use anyhow::{Result, ensure};
use serde_json::json;
use weft_testbed::{Gateway, Teller};

fn gateway(host: &str, port: u16) -> Result<Gateway> {
    let resources = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: public, namespace: edge}}\n\
         spec: {{gatewayClassName: weft, addresses: [{{value: \"{{ip}}\"}}], listeners: [{{name: web, port: 8080, protocol: HTTP}}]}}\n\
         ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: all, namespace: edge}}\n\
         spec: {{parentRefs: [{{name: public}}], rules: [{{backendRefs: [{{group: weft.dev, kind: Backend, name: behind}}]}}]}}\n\
         ---\napiVersion: weft.dev/v1alpha1\nkind: Backend\nmetadata: {{name: behind, namespace: edge}}\n\
         spec: {{endpoints: [{{host: \"{host}\", port: {port}}}]}}\n"
    );
    Gateway::start(tempfile::tempdir()?, &resources)
}

#[test]
fn both_versions_open_one_and_both_sides_talk() -> Result<()> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let gateway = gateway("127.0.0.1", port)?;
    let _server = gateway.python_server("websocket_server.py", &[&port.to_string()])?;
    let seen = gateway.python_client("websocket_client.py", &[&format!("ws://{}/", gateway.at(8080))])?;
    ensure!(seen["texts"] == json!(["hello", "", "ünïcödé"]), "{seen}");
    ensure!(seen["large"] == 300_000 && seen["pong"] == true && seen["subprotocol"] == "chat", "{seen}");
    ensure!(seen["close"] == json!([4000, "enough"]), "{seen}");
    let (host, port) = (gateway.ip().to_string(), "8080");
    let long = "x".repeat(60_000);
    let args = [&host, port, "/", "over HTTP/2", "ünïcödé", &long];
    let seen = gateway.python_client("h2_websocket_client.py", &args)?;
    ensure!(seen["status"] == "200" && seen["texts"] == json!(["over HTTP/2", "ünïcödé", long]), "{seen}");
    ensure!(seen["close"] == json!([8, 4000, "enough"]), "{seen}");
    Ok(())
}

/// The client of HTTP/1.1 looks at `Sec-WebSocket-Accept` itself. That of HTTP/2 is told nothing of it: its gateway has to.
#[test]
fn a_switch_by_who_does_not_know_the_key_is_no_200() -> Result<()> {
    let teller = Teller::start("a")?;
    let gateway = gateway("127.0.0.1", teller.addr.port())?;
    let seen = gateway
        .python_client("h2_websocket_client.py", &[&gateway.ip().to_string(), "8080", "/upgrade", "x"])?;
    ensure!(seen["status"] == "502" && seen["error"] == "upstream-protocol", "{seen}");
    // It was asked as a client of HTTP/1.1 asks, with another key each time.
    gateway.python_client("h2_websocket_client.py", &[&gateway.ip().to_string(), "8080", "/upgrade", "x"])?;
    let keys: Vec<String> = teller
        .seen()
        .iter()
        .filter_map(|head| {
            let lower = head.to_lowercase();
            let at = lower.find("sec-websocket-key: ")?;
            head.get(at..)?.lines().next().map(str::to_owned)
        })
        .collect();
    ensure!(keys.len() == 2 && keys.first() != keys.last(), "{keys:?}");
    Ok(())
}
