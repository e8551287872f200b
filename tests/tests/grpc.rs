//! grpcio at both ends: the calls of a real gRPC library, without sidecars, through two of them, and through a gateway.

use std::time::Duration;

use serde_json::{Value, json};
use weft_testbed::{Mesh, Pod, Result, Service, eventually, story};

#[path = "grpc/edge.rs"]
mod edge;

/// The service as grpcio's own resolver is told of it.
const TARGET: &str = "dns:///greeter.shop.svc.cluster.local:9000";

/// The codes from 1 on: <https://grpc.io/docs/guides/status-codes/>.
const CODES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

fn check(seen: &Value) {
    assert_eq!(seen["unary"], "echo hi");
    assert_eq!(seen["trailer"], "kept");
    assert_eq!(seen["stream"], 20_000);
    assert_eq!(seen["count"], "20000 20000");
    assert_eq!(seen["bidi"], "echo 49");
    assert_eq!(seen["early"], json!(["RESOURCE_EXHAUSTED", "enough"]));
    assert_eq!(seen["fail"], json!(["FAILED_PRECONDITION", "not today: 100 %"]));
    for (n, code) in CODES.iter().enumerate() {
        assert_eq!(seen["status"][n], json!([code, format!("code {}", n + 1)]));
    }
    assert_eq!(seen["large"], 1_000_005);
    // The deadline travels with the call; 60 s is what the client gives, and gRPC rounds it up on the wire.
    assert!(seen["remaining"].as_f64().is_some_and(|left| (0.0..61.0).contains(&left)), "{seen}");
    // The server would answer after a minute.
    assert_eq!(seen["deadline"], "DEADLINE_EXCEEDED");
    assert_eq!((&seen["cancel"], &seen["endless"]), (&json!("CANCELLED"), &json!("first")));
}

#[test]
fn grpc_without_a_mesh() {
    story("grpc-plain", |mesh| {
        let client = mesh.pod("client.shop").start()?;
        let server = mesh.pod("server.shop").start()?;
        let process = server.python_server("grpc_server.py", &["50051"])?;
        check(&client.python_client("grpc_client.py", &[&format!("ipv4:{}:50051", server.ip())])?);
        wait_for_both_ends(&process)
    });
}

/// A client, and a server that `greeter.shop:9000` stands for.
fn pods(mesh: &Mesh) -> Result<(Pod, Pod)> {
    let client = mesh.pod("client.shop").start()?;
    // One address, so that there is one endpoint and one link.
    let server = mesh.pod("server.shop").ipv4_only().start()?;
    mesh.dns().set(Service::virtual_ip("greeter.shop").port(9000, 50051).on(&[&server]))?;
    Ok((client, server))
}

#[test]
fn grpc_through_two_sidecars() {
    story("grpc-mesh", |mesh| {
        let (client, server) = pods(mesh)?;
        let process = server.python_server("grpc_server.py", &["50051"])?;
        let proxy = mesh.sidecar(&client)?.start()?;
        mesh.sidecar(&server)?.start()?;
        let seen = client.python_client("grpc_client.py", &[TARGET])?;
        check(&seen);
        let peer = seen["peer"].as_str().unwrap_or_default();
        assert!(peer.contains("spiffe://weft.local/ns/shop/sa/client"), "{seen}");
        wait_for_both_ends(&process)?;
        // One link carried it all: no small frame was taken for a flood, and no reset for a broken link.
        let metrics = proxy.metrics()?;
        assert_eq!(metrics.sum("weft_links_opened_total", &[]), 1.0);
        assert_eq!(metrics.sum("weft_errors_total", &[]), 0.0);
        // A gRPC failure is HTTP 200; its own code is what is counted.
        let failures = [("rpc_response_status_code", "DATA_LOSS"), ("http_response_status_code", "200")];
        assert_eq!(metrics.sum("http_client_request_duration_seconds_count", &failures), 1.0);
        Ok(())
    });
}

/// What the mesh itself has to say comes in gRPC's own words.
#[test]
fn a_failure_of_the_mesh_is_a_grpc_status() {
    story("grpc-failure", |mesh| {
        let (client, server) = pods(mesh)?;
        mesh.sidecar(&client)?.start()?;
        let failure = || client.python_client("grpc_client.py", &[TARGET, "failure"]);
        // Nothing stands on the endpoint's port: no sidecar, no application.
        assert_eq!(failure()?, json!(["UNAVAILABLE", "the endpoint refused the connection"]));
        // A sidecar, but its application has not come up.
        mesh.sidecar(&server)?.start()?;
        assert_eq!(failure()?, json!(["UNAVAILABLE", "the endpoint refused the connection"]));
        server.python_server("grpc_server.py", &["50051"])?;
        assert_eq!(failure()?, json!(["OK", ""]));
        Ok(())
    });
}

/// The deadline and the cancellations reach the server's handlers as the end of their calls. The client has waited until
/// a call of each kind had come there; one that it gave up before it was sent is not waited for, and one that arrives late
/// ends as well.
fn wait_for_both_ends(server: &weft_testbed::Process) -> Result<()> {
    let all_ended = || {
        let log = server.log();
        let count = |text: &str| log.matches(text).count();
        let (begun, ended) = (count("slow: begun"), count("slow: ended"));
        let endless = (count("endless: begun"), count("endless: ended"));
        Ok((begun >= 2 && ended == begun && endless == (1, 1)).then_some(()))
    };
    eventually("the cancelled calls to end at the server", Duration::from_secs(20), all_ended)
}
