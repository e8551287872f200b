//! The controller: Services without end in a namespace of one's own, each of which wants something.

use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{Orders, PATIENCE, dial, over_and_over, tls};

/// Between two of one connection: what the API server and the cluster's own controllers carry beside everything else. They
/// are not what is attacked.
const PACE: Duration = Duration::from_millis(150);

pub(super) fn begin(orders: &Rc<Orders>) {
    let made = Rc::new(AtomicUsize::new(0));
    over_and_over(orders, "services connections", 8, async move |orders: &Orders, _| {
        make(orders, &made).await
    });
}

/// Makes Services on one connection until there are enough, and then changes them.
async fn make(orders: &Orders, made: &AtomicUsize) -> Result<()> {
    let token = std::fs::read_to_string(&orders.api_token).context("the token")?;
    let tls = tls::shake(dial(orders.api).await?, b"http/1.1").await?;
    let (mut send, connection) = timeout(PATIENCE, handshake(TokioIo::new(tls))).await??;
    let _running = Running(tokio::spawn(async move { drop(connection.await) }));
    loop {
        let number = made.fetch_add(1, Ordering::Relaxed);
        let path = format!("/api/v1/namespaces/{}/services", orders.namespace);
        let (method, path, what) = if number < orders.services {
            ("POST", path, "services made")
        } else {
            ("PATCH", format!("{path}/flood-{}", number % orders.services), "services changed")
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "kubernetes")
            .header("authorization", format!("Bearer {}", token.trim()))
            .header(
                "content-type",
                if method == "POST" { "application/json" } else { "application/merge-patch+json" },
            )
            .body(Full::new(Bytes::from(service(number % orders.services, number).to_string())))?;
        send.ready().await?;
        let answer = timeout(PATIENCE, send.send_request(request)).await??;
        let status = answer.status();
        timeout(PATIENCE, answer.into_body().collect()).await??;
        ensure!(status.is_success(), "{status}");
        orders.counts.add(what);
        sleep(PACE).await;
    }
}

/// Headless, so that it costs the cluster's own parts little; with pods behind it, ports and an annotation, which is what the
/// controller looks at.
fn service(number: usize, turn: usize) -> serde_json::Value {
    let modes = ["strict", "permissive", "disable", "nonsense"];
    let ports: Vec<_> =
        (1..=8).map(|port| json!({ "name": format!("p{port}"), "port": port, "targetPort": 8080 })).collect();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": format!("flood-{number}"),
            "annotations": { "weft.dev/mode": modes[turn % modes.len()], "turn": turn.to_string() },
        },
        "spec": { "clusterIP": "None", "selector": { "app": "own" }, "ports": ports },
    })
}

struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}
