//! What the demo claims, and whether it held.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;

use crate::demo::shop::Shop;
use crate::{Collector, Metrics, Packets, Report, Span, tree};

/// One claim with what was seen.
#[derive(Debug)]
pub(super) struct Fact {
    pub(super) held: bool,
    pub(super) claim: String,
    pub(super) seen: String,
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.held { "ok    " } else { "FAILED" };
        write!(f, "{mark} {}: {}", self.claim, self.seen)
    }
}

fn fact(held: bool, claim: &str, seen: String) -> Fact {
    Fact { held, claim: claim.to_owned(), seen }
}

/// Text that the applications send and that must not be readable between pods.
const PLAINTEXT: [&[u8]; 6] =
    [b"/checkout", b"/orders/42", b"HTTP/1.1", b"shop.Inventory", b"INCR", b"PRI * HTTP/2.0"];

/// How long a door may take to refuse: more than the time that a proxy waits for a handshake.
const PATIENCE: Duration = Duration::from_secs(15);

/// Reads the captures of all pods and looks for anything but TLS.
pub(super) fn wire(shop: &mut Shop) -> Result<Fact> {
    const CLAIM: &str = "every hop between pods is TLS, no plaintext on the wire";
    let pods = shop.members().map(|member| &member.pod).chain([&shop.shopper]);
    let names: BTreeMap<_, _> =
        pods.flat_map(|pod| pod.addresses().into_iter().map(|ip| (ip, pod.account().to_owned()))).collect();
    let mut problems = Vec::new();
    let mut edges: BTreeMap<String, usize> = BTreeMap::new();
    let (mut packets_seen, mut bytes) = (0, 0);
    for (pod, capture) in shop.captures() {
        let packets: Packets = capture.stop()?;
        packets_seen += packets.count();
        bytes += packets.tcp_bytes();
        for ((from, to), flow) in packets.flows() {
            if flow.bytes.is_empty() {
                continue;
            }
            if !flow.is_tls() {
                problems.push(format!("{from} to {to} (seen at {pod}) is not TLS"));
            }
            let name = |ip| names.get(&ip).map_or("?", String::as_str);
            if flow.from_client {
                *edges.entry(format!("{} to {}", name(from.ip()), name(to.ip()))).or_default() += 1;
            }
        }
        for text in PLAINTEXT {
            if packets.contains(text) {
                problems.push(format!("{:?} is readable at {pod}", String::from_utf8_lossy(text)));
            }
        }
    }
    for edge in [
        "shopper to gateway",
        "gateway to web",
        "web to orders",
        "web to orders-canary",
        "orders to inventory",
        "orders-canary to inventory",
        "inventory to redis",
    ] {
        if !edges.contains_key(edge) {
            problems.push(format!("no connection from {edge} was seen"));
        }
    }
    let seen = if problems.is_empty() {
        format!("{packets_seen} packets, {} KB, all of {} TLS", bytes / 1024, count(edges.len(), "edge"))
    } else {
        problems.truncate(5);
        problems.join("; ")
    };
    Ok(fact(problems.is_empty(), CLAIM, seen))
}

fn count(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

/// No request failed, and there were enough to say so.
pub(super) fn requests(report: &Report, least: u64, killed: &str) -> Fact {
    let seen = match report.all_ok(least) {
        Ok(()) => format!("{} requests, 0 failed", report.sent),
        Err(error) => format!("{error:#}"),
    };
    fact(report.all_ok(least).is_ok(), &format!("no request failed, also while {killed} was killed"), seen)
}

/// The newest trace that goes through all services and is one tree.
pub(super) fn whole_trace(spans: &[Span]) -> Option<Vec<Span>> {
    let mut traces: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
    for span in spans {
        traces.entry(&span.trace).or_default().push(span.clone());
    }
    let whole = |spans: &Vec<Span>| {
        // The server's span of each service, below the client's span of its caller.
        ["gateway", "web", "orders", "inventory"]
            .iter()
            .all(|name| spans.iter().any(|s| s.kind == "server" && is_of(&s.service, name)))
            && spans.iter().filter(|span| span.kind == "client").count() >= 2
    };
    let mut found: Vec<Vec<Span>> =
        traces.into_values().filter(whole).filter_map(|spans| tree(&spans).ok()).collect();
    found.sort_by_key(|spans| spans.first().map_or(0, |root| root.start));
    found.pop()
}

/// Replicas are `orders-1`, `orders-2`, ...
fn is_of(service: &str, name: &str) -> bool {
    service.rsplit('/').next().is_some_and(|service| service.starts_with(name))
}

/// Waits for such a trace.
pub(super) fn trace(collector: &Collector) -> Fact {
    const CLAIM: &str = "the spans of a request are joined in one trace, from the edge to redis";
    match collector.wait_for("a trace through all services", |spans| whole_trace(spans).is_some()) {
        Ok(spans) => {
            let own = whole_trace(&spans).unwrap_or_default();
            fact(true, CLAIM, format!("{} in one tree, {} in all", count(own.len(), "span"), spans.len()))
        }
        Err(error) => fact(false, CLAIM, format!("{error:#}")),
    }
}

/// What is held on loopback in the place of [`wire`]: who comes to a pod's door in plaintext gets nothing from there.
pub(super) fn doors(shop: &Shop) -> Fact {
    const CLAIM: &str = "plaintext at the door of each pod is refused";
    let mut problems = Vec::new();
    let mut doors = 0;
    for member in shop.members().filter(|member| member.sidecar.process().is_running()) {
        let Some(door) = member.door() else { continue };
        doors += 1;
        if let Some(problem) = knock(door) {
            problems.push(format!("{}: {problem}", member.pod.name()));
        }
    }
    let held = problems.is_empty() && doors > 0;
    let seen =
        if held { format!("{}, no byte came back", count(doors, "door")) } else { problems.join("; ") };
    fact(held, CLAIM, seen)
}

/// Asks in plaintext; what is wrong with the answer, which must be none.
fn knock(door: SocketAddr) -> Option<String> {
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&door, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /checkout HTTP/1.1\r\nhost: door\r\n\r\n")?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error),
            _ => Ok(answer),
        }
    };
    match ask() {
        Ok(answer) if answer.is_empty() => None,
        Ok(answer) => Some(format!("{} bytes came back", answer.len())),
        Err(error) => Some(error.to_string()),
    }
}

/// Every inbound series that carried something was mutual TLS, with the identity of the caller that belongs there; and
/// each proxy that was called has made handshakes.
pub(super) fn callers(scrapes: &BTreeMap<String, Metrics>) -> Fact {
    const CLAIM: &str = "each callee saw mutual TLS and the identity of its caller";
    let callers: [(&str, &[&str]); 4] = [
        ("web", &["edge/sa/gateway"]),
        ("orders", &["shop/sa/web"]),
        ("inventory", &["shop/sa/orders", "shop/sa/orders-canary"]),
        ("redis", &["shop/sa/inventory"]),
    ];
    let mut problems = Vec::new();
    let mut handshakes = 0.0;
    for (service, callers) in callers {
        let expected = callers.iter().map(|caller| format!("spiffe://weft.local/ns/{caller}"));
        let expected: Vec<String> = expected.collect();
        let mut series = 0;
        for (pod, metrics) in scrapes.iter().filter(|(pod, _)| pod.starts_with(service)) {
            for name in ["http_server_request_duration_seconds_count", "weft_tcp_connections_opened_total"] {
                let inbound =
                    metrics.of(name, &[]).filter(|s| s.value > 0.0 && s.label("direction") != "outbound");
                for sample in inbound {
                    series += 1;
                    let (tls, identity) = (sample.label("tls"), sample.label("peer_identity"));
                    if tls != "mutual" || !expected.iter().any(|expected| expected == identity) {
                        problems.push(format!("{pod}: tls={tls} identity={identity}"));
                    }
                }
            }
            let good = |outcome: &str| {
                let labels = [("direction", "inbound"), ("outcome", outcome)];
                metrics.sum("weft_mtls_handshakes_total", &labels)
            };
            handshakes += good("full") + good("resumed");
        }
        if series == 0 {
            problems.push(format!("nobody has called {service}"));
        }
    }
    problems.dedup();
    let held = problems.is_empty() && handshakes > 0.0;
    let seen = if held { format!("{handshakes:.0} handshakes") } else { problems.join("; ") };
    fact(held, CLAIM, seen)
}

/// Every outbound series that carried something was mutual TLS, with the identity that belongs to the service.
pub(super) fn identities(scrapes: &BTreeMap<String, Metrics>) -> Fact {
    let mut problems = Vec::new();
    let mut links = 0;
    for (pod, metrics) in scrapes {
        for name in ["http_client_request_duration_seconds_count", "weft_tcp_connections_opened_total"] {
            for sample in metrics.of(name, &[]).filter(|sample| sample.value > 0.0) {
                let label = |name: &str| sample.labels.get(name).map_or("", String::as_str);
                if label("direction") == "inbound" || !label("destination_service").contains(".shop.") {
                    continue;
                }
                let service = label("destination_service").split('.').next().unwrap_or_default();
                let expected = format!("spiffe://weft.local/ns/shop/sa/{service}");
                // A request that got no answer has no peer; it is counted as failed elsewhere.
                if label("tls") != "mutual" || label("peer_identity") != expected {
                    problems.push(format!(
                        "{pod} to {service}: tls={} identity={}",
                        label("tls"),
                        label("peer_identity")
                    ));
                }
                links += 1;
            }
        }
    }
    problems.dedup();
    let held = problems.is_empty() && links > 0;
    let seen =
        if held { format!("{links} series, each with the callee's SPIFFE id") } else { problems.join("; ") };
    fact(held, "each link is mutual TLS with the right identity", seen)
}

/// Requests that each replica of `orders` took until the kill: all of them take part.
///
/// Not more is claimed than that: the picker goes by latency and load, so on a busy machine a replica that was slow for
/// a moment rightly gets less for a while.
pub(super) fn balance(counts: &BTreeMap<String, f64>) -> Fact {
    let held = counts.len() == 3 && counts.values().all(|count| *count > 0.0);
    let seen: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count:.0}")).collect();
    fact(held, "all replicas of orders take part", seen.join(", "))
}

/// What the gateway's clients and the gateway's own way into the mesh are.
pub(super) fn edge(shop: &Shop, scrapes: &BTreeMap<String, Metrics>) -> Fact {
    const CLAIM: &str = "the gateway takes HTTPS, from this machine as well, and leads into the mesh";
    let none = Metrics::default();
    let metrics = scrapes.get(shop.gateway.pod.name()).unwrap_or(&none);
    let handshakes = ["full", "resumed"]
        .map(|outcome| metrics.sum("weft_gateway_handshakes_total", &[("outcome", outcome)]));
    let handshakes = handshakes.iter().sum::<f64>();
    let sent = metrics.sum("weft_route_requests_total", &[("route", "shop/shop")]);
    let asked = shop.edge.ask_from_here();
    let held = handshakes > 0.0 && sent > 0.0 && !matches!(asked, Some(Err(_)));
    let here = match asked {
        None => "curl is not here".to_owned(),
        Some(Ok(_)) => "curl: 200".to_owned(),
        Some(Err(error)) => format!("curl: {error:#}"),
    };
    fact(held, CLAIM, format!("{handshakes:.0} handshakes, {sent:.0} requests; {here}"))
}

/// Requests of web for orders that went to each backend of the route.
pub(super) fn shares(web: &Metrics) -> (f64, f64) {
    let sent = |backend: &str| {
        let labels = [("route", "shop/orders"), ("backend", backend)];
        web.sum("weft_route_requests_total", &labels)
    };
    (sent("orders.shop.svc.cluster.local:80"), sent("orders-canary.shop.svc.cluster.local:80"))
}

/// The canary gets the share that its route says.
pub(super) fn canary(scrapes: &BTreeMap<String, Metrics>) -> Fact {
    let (stable, canary) = scrapes.get("web").map_or((0.0, 0.0), shares);
    let total = stable + canary;
    // Six standard deviations of as many draws of one in five.
    let spread = 6.0 * (0.2 * 0.8 / total.max(1.0)).sqrt();
    let share = canary / total.max(1.0);
    let seen = format!("{canary:.0} of {total:.0} requests, {:.0} %", share * 100.0);
    fact(canary > 0.0 && (share - 0.2).abs() <= spread, "the canary of orders gets one request in five", seen)
}
