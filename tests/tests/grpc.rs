//! grpcio at both ends: the calls of a real gRPC library, without sidecars and through two of them.

use std::time::Duration;

use serde_json::Value;
use weft_testbed::{Result, Service, eventually, story};

fn check(seen: &Value) {
    assert_eq!(seen["unary"], "echo hi");
    assert_eq!(seen["trailer"], "kept");
    assert_eq!(seen["stream"], 1000);
    assert_eq!(seen["bidi"], "echo 49");
    assert_eq!(seen["fail"], serde_json::json!(["FAILED_PRECONDITION", "not today: 100 %"]));
    assert_eq!(seen["large"], 1_000_005);
    assert_eq!(seen["deadline"], "DEADLINE_EXCEEDED");
    assert!(seen["deadline_took"].as_f64().is_some_and(|took| (0.2..2.0).contains(&took)), "{seen}");
    assert_eq!(seen["cancel"], "CANCELLED");
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

#[test]
fn grpc_through_two_sidecars() {
    story("grpc-mesh", |mesh| {
        let client = mesh.pod("client.shop").start()?;
        let server = mesh.pod("server.shop").start()?;
        let process = server.python_server("grpc_server.py", &["50051"])?;
        mesh.dns().set(Service::virtual_ip("greeter.shop").port(9000, 50051).on(&[&server]))?;
        mesh.sidecar(&client)?.start()?;
        mesh.sidecar(&server)?.start()?;
        let seen = client.python_client("grpc_client.py", &["dns:///greeter.shop.svc.cluster.local:9000"])?;
        check(&seen);
        let peer = seen["peer"].as_str().unwrap_or_default();
        assert!(peer.contains("spiffe://weft.local/ns/shop/sa/client"), "{seen}");
        wait_for_both_ends(&process)
    });
}

/// The deadline and the cancellation reach the server's handlers as the end of their calls.
fn wait_for_both_ends(server: &weft_testbed::Process) -> Result<()> {
    let ended = || Ok((server.log().matches("slow: ended by the client").count() == 2).then_some(()));
    eventually("both slow calls to end at the server", Duration::from_secs(5), ended)
}
