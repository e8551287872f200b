//! The first story: install, label, restart, and every hop is mutual TLS, with names and traces.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use weft_testbed::cluster::{OtelCollector, Shop, cluster_story, figure, identities};

/// What no packet between pods may show.
const MARKER: &str = "kettle-of-fish-4711";

/// What pods say to each other, of both families. Not the kubelet's probes and the API server, which come from the nodes'
/// own addresses. Spans are among it, by TLS: the collector is no part of the mesh, and has a certificate of its own.
const BETWEEN_PODS: &str = "tcp and ( net 10.244.0.0/16 or net fd77:6566:7444::/56 ) and not port 53 \
    and not host 10.244.1.1 and not host 10.244.2.1 \
    and not host fd77:6566:7444:1::1 and not host fd77:6566:7444:2::1";

/// Hops that have a proxy at each end: client, web, orders, inventory; redis is TCP.
const SPANS: usize = 6;

#[test]
#[ignore = "needs a cluster: cargo xtask cluster e2e"]
fn label_restart_and_every_hop_is_mutual_tls() {
    cluster_story("first", |cluster| {
        let observe = cluster.namespace("observe", &[])?;
        let collector = OtelCollector::start(observe)?;
        let [endpoint, ca] = collector.values();
        cluster.install(&[&endpoint, &ca, "proxy.telemetry.tracing.sampling=1"])?;
        let namespace = cluster.namespace("first", &[])?;
        let shop = Shop::open(namespace)?;
        let all = [&["client"][..], &Shop::ALL].concat();
        namespace.all_injected(&all, false)?;

        // All that a user does.
        namespace.label("weft.dev/inject=enabled")?;
        namespace.restart(&all)?;
        namespace.all_injected(&all, true)?;
        namespace.serves("deploy/client", &shop.url())?;
        namespace.strict(&["web", "orders", "inventory", "redis"])?;
        namespace.annotate("weft.dev/mode=strict")?;
        let url = format!("{}?{MARKER}", shop.url());
        shop.until_refused()?;
        // Clients of redis keep the connection that they have, until the pod that has become strict ends it.
        namespace.plaintext_ends("redis")?;
        namespace.serves("deploy/client", &shop.url())?;

        let capture = cluster.capture(BETWEEN_PODS)?;
        let mut trace = String::new();
        for _ in 0..5 {
            // One for each request: five with the same parent would be five trees.
            trace = new_trace();
            let context = format!("traceparent:00-{trace}-00f067aa0ba902b7-01");
            let answer = namespace.http_with("deploy/client", &url, &["--header", &context])?;
            ensure!(answer.status == 200, "{answer:?}");
        }
        let packets = capture.stop()?;
        let seen: usize = packets.iter().map(weft_testbed::Packets::tcp_bytes).sum();
        ensure!(seen > 2000, "only {seen} bytes were seen");
        for node in &packets {
            for word in [MARKER, "/checkout", "orders.first", "INCR", "Reserve"] {
                let plain = node.contains(word.as_bytes());
                ensure!(!plain, "{word:?} is to be read on the wire: {:?}", node.flows_with(word.as_bytes()));
            }
        }
        figure("bytes seen between pods, none of them plain", seen);

        for (callee, caller) in
            [("web", "client"), ("orders", "web"), ("inventory", "orders"), ("redis", "inventory")]
        {
            let metrics = namespace.metrics(&namespace.pod_name(callee)?)?;
            let callers = identities(&metrics);
            let wanted = format!("spiffe://weft.local/ns/first/sa/{caller}");
            ensure!(callers.len() == 1 && callers.contains(&wanted), "{callee} is called by {callers:?}");
        }
        let spans = collector.trace(&trace, SPANS)?;
        let services: BTreeSet<&str> = spans.iter().map(|span| span.service.as_str()).collect();
        for service in ["web", "orders", "inventory"] {
            ensure!(services.iter().any(|name| name.contains(service)), "no span of {service}: {services:?}");
        }
        let root = spans.first().context("no spans")?;
        ensure!(root.parent == "00f067aa0ba902b7", "the root's parent is {}", root.parent);
        figure("spans in one trace", spans.len());
        Ok(())
    });
}

/// Another one in each run.
fn new_trace() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos());
    format!("{now:032x}")
}
