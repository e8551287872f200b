use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use kube::client::Body;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

/// An API server on which Weft has just been installed: no Secret, no webhook, and watches in which nothing happens.
fn fresh_cluster() -> Client {
    let service = tower::service_fn(|request: Request<Body>| async move {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let missing =
            ["/secrets/weft-ca", "/services/weft-ca", "/weft-injector"].iter().any(|end| path.ends_with(end));
        let (code, text) = if parts.method == "POST" && path.ends_with("/secrets") {
            (201, body.collect_bytes().await.unwrap().to_vec())
        } else if parts.method == "GET" && missing {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                "message": "not found", "code": 404});
            (404, status.to_string().into_bytes())
        } else if path == "/api/v1/configmaps" && !parts.uri.query().unwrap_or_default().contains("watch") {
            let none = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": []});
            (200, none.to_string().into_bytes())
        } else {
            std::future::pending().await
        };
        Ok::<_, Infallible>(Response::builder().status(code).body(Body::from(text)).unwrap())
    });
    Client::new(service, "default")
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn ready(health: SocketAddr) -> String {
    let mut stream = TcpStream::connect(health).await.unwrap();
    stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_replica_that_is_told_to_end_is_not_ready_at_once_and_serves_for_its_drain_period() {
    let config = "{drainPeriod: 1s, injector: {image: 'weft:1', nativeSidecar: always}}";
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = ControlOptions {
        config: ControlConfig::from_yaml(Path::new("config.yaml"), config, None).unwrap(),
        file: None,
        replica: "replica-1".to_owned(),
        parts: [Part::Ca, Part::Injector].into(),
        binds: Binds { ca: free_port(), injector: free_port(), metrics: local, health: local },
        build: BuildInfo { version: "0", revision: "", rustc: "" },
    };
    let control = Control::bind(options, fresh_cluster()).await.unwrap();
    let binds = control.binds();
    let (trigger, drain) = weft_core::drain();
    let served = tokio::spawn(control.serve(drain));
    while !ready(binds.health).await.contains(" 200 OK") {
        tokio::task::yield_now().await;
    }
    let began = tokio::time::Instant::now();
    trigger.start(Duration::from_secs(10));
    assert!(ready(binds.health).await.contains("draining"));
    for listener in [binds.ca, binds.injector] {
        assert!(TcpStream::connect(listener).await.is_ok(), "{listener}");
    }
    served.await.unwrap().unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
    for listener in [binds.ca, binds.injector] {
        assert!(TcpStream::connect(listener).await.is_err(), "{listener}");
    }
}
