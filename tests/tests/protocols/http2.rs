//! HTTP/2 with the library `h2` (Python) at both ends: what clients and servers of the wild do to each other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use weft_testbed::{Mesh, Process, story};

use super::pair::{APP, Pair};

const PORT: &str = "8080";
/// How long a machine that does much else may take for what it does at once.
const SOON: Duration = Duration::from_secs(20);

fn pair(mesh: &Mesh) -> Result<(Pair, Arc<Process>)> {
    let pair = Pair::new(mesh, &[8080])?;
    let server = pair.server.python_server("h2_server.py", &[PORT])?;
    Ok((pair, server))
}

/// What came of each request; all go over one connection of the client.
fn fetch(pair: &Pair, targets: &[&str]) -> Result<Vec<Value>> {
    let seen = pair.client.python_client("h2_client.py", &[&[APP, PORT], targets].concat())?;
    Ok(seen.as_array().cloned().unwrap_or_default())
}

#[test]
fn trailers_and_early_hints_arrive() {
    story("proto-h2", |mesh| {
        let (pair, _) = pair(mesh)?;
        let seen = fetch(&pair, &["/echo", "/hints", "/echo"])?;
        for echo in [&seen[0], &seen[2]] {
            assert_eq!(
                (&echo["headers"][":status"], &echo["body"]),
                (&json!("200"), &json!("hello")),
                "{echo}"
            );
            assert_eq!(echo["trailers"]["x-sum"], "5", "{echo}");
        }
        assert_eq!(seen[1]["interim"][0][":status"], "103", "{}", seen[1]);
        assert_eq!(seen[1]["interim"][0]["link"], "</style.css>; rel=preload", "{}", seen[1]);
        assert_eq!((&seen[1]["headers"][":status"], &seen[1]["body"]), (&json!("200"), &json!("done")));
        Ok(())
    });
}

#[test]
fn the_rarer_parts_of_http2_pass() {
    story("proto-h2-rare", |mesh| {
        let (pair, _) = pair(mesh)?;
        let seen = fetch(&pair, &["/continue", "/tunnel", "/echo~60000", "/echo~66000", "/echo"])?;
        let [go_on, tunnel, large, too_large, last] = &seen[..] else { anyhow::bail!("{seen:?}") };
        assert_eq!(
            (&go_on["interim"][0][":status"], &go_on["body"]),
            (&json!("100"), &json!("hello")),
            "{go_on}"
        );
        // Extended CONNECT (RFC 8441): WebSocket over HTTP/2.
        assert_eq!(
            (&tunnel["headers"][":status"], &tunnel["body"]),
            (&json!("200"), &json!("hello")),
            "{tunnel}"
        );
        assert_eq!(large["headers"][":status"], "200", "{large}");
        assert_eq!(too_large["headers"][":status"], "431", "{too_large}");
        // And the connection goes on.
        assert_eq!(last["headers"][":status"], "200", "{last}");
        Ok(())
    });
}

/// RST_STREAM from the server, with its own code, and the connection goes on.
#[test]
fn a_servers_reset_reaches_the_client() {
    story("proto-h2-reset", |mesh| {
        let (pair, _) = pair(mesh)?;
        let seen =
            fetch(&pair, &["/reset-body/8", "/reset-body/11", "/reset-head/8", "/reset-head/11", "/echo"])?;
        for (reset, code) in seen.iter().zip([8, 11]) {
            assert_eq!((&reset["body"], &reset["reset"]), (&json!("part"), &json!(code)), "{reset}");
        }
        for (reset, code) in seen[2..].iter().zip([8, 11]) {
            assert_eq!((&reset["headers"], &reset["reset"]), (&Value::Null, &json!(code)), "{reset}");
        }
        assert_eq!(seen[4]["trailers"]["x-sum"], "5", "{}", seen[4]);
        Ok(())
    });
}

/// gRPC servers end a call early in this way. All of the answer counts, and the reset is no error.
#[test]
fn an_answer_before_a_reset_without_error_arrives_whole() {
    story("proto-h2-enough", |mesh| {
        let (pair, _) = pair(mesh)?;
        for seen in fetch(&pair, &["/enough+"; 20])? {
            assert_eq!(
                (&seen["body"], &seen["trailers"]["x-sum"]),
                (&json!("enough"), &json!("early")),
                "{seen}"
            );
        }
        Ok(())
    });
}

/// RST_STREAM from the client, with its own code, before the answer's head and after it.
#[test]
fn a_clients_reset_reaches_the_server() {
    story("proto-h2-cancel", |mesh| {
        let (pair, server) = pair(mesh)?;
        // The client resets when it knows that its request is at the server: a reset before that may take it along.
        let seen = fetch(&pair, &["/echo", "/wait!8", "/echo"])?;
        assert_eq!(seen[2]["body"], "hello");
        server.wait_for_log("reset by the client with 8", SOON)?;
        fetch(&pair, &["/hold!8", "/echo"])?;
        let resets = || Ok((server.log().matches("with 8").count() == 2).then_some(()));
        weft_testbed::eventually("the second reset", SOON, resets)
    });
}

/// A burst of requests that finds no connection to the application opens one, not one each.
#[test]
fn a_burst_opens_one_connection_to_the_application() {
    story("proto-h2-burst", |mesh| {
        let pair = Pair::new(mesh, &[8080])?;
        pair.server.app(8080)?;
        let url = format!("http://{APP}:{PORT}/");
        let load = ["h2load", "--requests=64", "--clients=1", "--max-concurrent-streams=64", &url];
        let output = pair.client.exec(&load)?.ok()?;
        assert!(output.stdout.contains("64 succeeded"), "{}", output.stdout);
        let metrics = pair.server_proxy.metrics()?;
        let opened =
            |protocol| metrics.sum("weft_application_connections_opened_total", &[("protocol", protocol)]);
        // The pod has an address of each family: a link came to each that was picked.
        let links = metrics.sum("weft_mtls_handshakes_total", &[("direction", "inbound")]);
        assert!((1.0..=2.0).contains(&links), "{links}");
        assert_eq!((opened("http/2"), opened("http/1")), (links, 0.0));
        assert_eq!(metrics.sum("weft_application_connections_open", &[("protocol", "http/2")]), links);
        Ok(())
    });
}

/// A sidecar that takes two streams on a link, and a client that has fifty: all wait their turn, over a few links.
#[test]
fn where_few_streams_are_taken_requests_wait() {
    story("proto-h2-few", |mesh| {
        let (client, server) = super::pair::pods(mesh, &[8080])?;
        let few = |yaml: &mut Value| {
            yaml["limits"]["http2"]["maxConcurrentStreams"] = 2.into();
            yaml["limits"]["http2"]["maxConnectionsPerEndpoint"] = 3.into();
        };
        let client_proxy = mesh.sidecar(&client)?.config(few).start()?;
        let _server_proxy = mesh.sidecar(&server)?.config(few).start()?;
        server.app(8080)?;
        // The sidecar of the client takes two streams on a connection as well.
        let url = format!("http://{APP}:{PORT}/");
        let load = ["h2load", "--requests=500", "--clients=25", "--max-concurrent-streams=2", &url];
        let output = client.exec(&load)?.ok()?;
        assert!(output.stdout.contains("500 succeeded"), "{}", output.stdout);
        let metrics = client_proxy.metrics()?;
        // The pod has an address of each family.
        assert!(metrics.sum("weft_links_opened_total", &[]) <= 6.0);
        assert_eq!(metrics.sum("weft_errors_total", &[]), 0.0);
        Ok(())
    });
}
