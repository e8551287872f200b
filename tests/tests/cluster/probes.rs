//! What the kubelet and `kubectl` do to a pod goes on working when it is strict.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context, ensure};
use serde_json::json;
use weft_testbed::cluster::{Workload, cluster_story};
use weft_testbed::eventually;

use crate::SOON;

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn probes_exec_logs_and_forwarding_under_strict() {
    cluster_story("probes", |cluster| {
        cluster.install(&[])?;
        let namespace = cluster.namespace("probes", &[("weft.dev/inject", "enabled")])?;
        namespace.annotate("weft.dev/mode=strict")?;
        let probed_app = |kind: &str, name: &str, probe: serde_json::Value| {
            Workload::deployment(name).app(kind, 8080).service(80, 8080).edit(|pod| {
                let container = &mut pod["spec"]["containers"][0];
                let mut probe = probe;
                probe["periodSeconds"] = 1.into();
                for kind in ["startupProbe", "readinessProbe", "livenessProbe"] {
                    container[kind] = probe.clone();
                }
            })
        };
        let probed = |name: &str, probe| probed_app("http", name, probe);
        // gRPC's own health protocol, of the server and of one service of it.
        let grpc = |service: &str| json!({ "grpc": { "port": 8080, "service": service } });
        for (name, service) in [("by-grpc", ""), ("by-grpc-name", "shop.Inventory"), ("bad-name", "nobody")] {
            namespace.apply(&probed_app("inventory", name, grpc(service)))?;
        }
        let good = [
            ("by-http", json!({ "httpGet": { "path": "/healthy", "port": "app" } })),
            ("by-tcp", json!({ "tcpSocket": { "port": 8080 } })),
            (
                "by-exec",
                json!({ "exec": { "command": ["/weft-testapp", "get", "http://127.0.0.1:8080/"] }, "timeoutSeconds": 5 }),
            ),
        ];
        for (name, probe) in &good {
            namespace.apply(&probed(name, probe.clone()))?;
        }
        // Not ready, and told so: what a proxy that answers for the application would hide.
        let bad = [
            ("bad-http", json!({ "httpGet": { "path": "/status/503", "port": 8080 } })),
            ("bad-tcp", json!({ "tcpSocket": { "port": 9 } })),
            ("bad-grpc", json!({ "grpc": { "port": 9 } })),
        ];
        for (name, probe) in &bad {
            namespace.apply(&probed(name, probe.clone()))?;
        }
        let mut names: Vec<&str> = good.iter().map(|(name, _)| *name).collect();
        names.extend(["by-grpc", "by-grpc-name"]);
        namespace.ready(&names)?;
        for name in bad.iter().map(|(name, _)| *name).chain(["bad-name"]) {
            let why = eventually(&format!("a failed probe of {name}"), SOON, || {
                let events = cluster.kubectl().list(namespace.name(), "events", "")?;
                let mut failed = events.iter().filter(|event| {
                    let pod = event["involvedObject"]["name"].as_str().unwrap_or_default();
                    event["reason"] == "Unhealthy" && pod.starts_with(name)
                });
                Ok(failed.find_map(|event| {
                    event["message"].as_str().filter(|said| said.contains("503")).map(str::to_owned)
                }))
            })?;
            ensure!(why.contains("probe failed"), "{name}: {why}");
        }

        let answer = namespace.exec("deploy/by-http", &["/bin/busybox", "echo", "hello"])?.ok()?;
        ensure!(answer.stdout == "hello\n", "{answer:?}");
        ensure!(namespace.logs("deploy/by-http", "app")?.contains("listening on"), "no logs");
        let forward = cluster.kubectl().forward(namespace.name(), "deploy/by-http", 8080)?;
        let mut stream = TcpStream::connect(("127.0.0.1", forward.port())).context("the forwarded port")?;
        stream.write_all(b"GET /forwarded HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        let mut said = String::new();
        stream.read_to_string(&mut said).context("reading through the forwarded port")?;
        ensure!(said.starts_with("HTTP/1.1 200 "), "{said}: {}", forward.log());
        Ok(())
    });
}
