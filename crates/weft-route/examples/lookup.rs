//! What it costs to compile routes and to find one among them: 10 routes on one host against 5,000 on 500.
//!
//! `cargo run --release -p weft-route --example lookup`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement that a person runs")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method};
use serde_json::{Value, json};
use weft_resource::{Kind, ObjectMeta, Resource, ResourceId, ResourceSet, Source, Spec};
use weft_route::{ListenerKind, Options, Program, RequestView, compile};

fn resource(kind: Kind, name: &str, spec: Spec) -> Arc<Resource> {
    let meta: ObjectMeta = serde_json::from_value(json!({"name": name})).unwrap();
    let source = Source { path: Path::new("lookup.yaml").into(), line: 1 };
    Arc::new(Resource { id: ResourceId::new(kind, "shop", name), meta, hash: 0, source, spec })
}

fn read<T: for<'de> serde::Deserialize<'de>>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Ten routes on each host, of every kind of match.
fn resources(hosts: usize) -> ResourceSet {
    let mut set = ResourceSet::default();
    let gateway =
        json!({"gatewayClassName": "weft", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]});
    set.insert(resource(Kind::Gateway, "edge", Spec::Gateway(read(gateway))));
    for host in 0..hosts {
        let service = format!("s{host}");
        set.insert(resource(Kind::Service, &service, Spec::Service(read(json!({"ports": [{"port": 80}]})))));
        for route in 0..10 {
            let path = match route {
                0 => json!({"type": "Exact", "value": "/exact"}),
                1 => json!({"type": "RegularExpression", "value": "/r[0-9]+/.*"}),
                _ => json!({"type": "PathPrefix", "value": format!("/p{route}/api")}),
            };
            let headers = if route == 5 { json!([{"name": "x-canary", "value": "1"}]) } else { json!([]) };
            let spec = json!({
                "parentRefs": [{"name": "edge"}],
                "hostnames": [format!("h{host}.shop.example")],
                "rules": [{"matches": [{"path": path, "headers": headers}], "backendRefs": [{"name": service, "port": 80}]}],
            });
            set.insert(resource(Kind::HttpRoute, &format!("r{host}-{route}"), Spec::HttpRoute(read(spec))));
        }
    }
    set
}

fn program(set: &ResourceSet) -> Program {
    let options = Options {
        cluster_domain: "cluster.local".parse().unwrap(),
        gateways: weft_route::Gateways::All,
        client_namespace: None,
    };
    let compiled = compile(set, &options);
    assert!(compiled.notes.is_empty(), "{:?}", compiled.notes.first());
    compiled.program
}

/// Nanoseconds for one look-up: the socket's listener by host, then its rule.
fn lookups(program: &Program, hosts: usize) -> f64 {
    const ROUNDS: usize = 2_000_000;
    let socket = &program.sockets[0];
    let paths = ["/exact", "/r12/x", "/p2/api/a/b", "/p9/api", "/p5/api/x"];
    let names: Vec<String> = (0..hosts).map(|host| format!("h{host}.shop.example")).collect();
    let (method, mut headers) = (Method::GET, HeaderMap::new());
    headers.insert("x-canary", "1".parse().unwrap());
    let mut rng = fastrand::Rng::with_seed(1);
    let order: Vec<(usize, usize)> =
        (0..4096).map(|_| (rng.usize(..hosts), rng.usize(..paths.len()))).collect();
    let started = Instant::now();
    for (host, path) in order.iter().cycle().take(ROUNDS) {
        let request = RequestView {
            host: &names[*host],
            method: &method,
            path: paths[*path],
            query: None,
            headers: &headers,
        };
        let listener = socket.listeners.most_specific(request.host).unwrap();
        let ListenerKind::Http(table) = &listener.kind else { panic!("no requests") };
        assert!(black_box(table.find(black_box(&request))).is_some());
    }
    started.elapsed().as_nanos() as f64 / ROUNDS as f64
}

/// Memory of this process, MiB.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap_or_default() / 1024.0
}

fn main() {
    for hosts in [1, 500] {
        let before = memory();
        let set = resources(hosts);
        let with_resources = memory();
        let started = Instant::now();
        let program = program(&set);
        let compiled = started.elapsed();
        let after = memory();
        println!(
            "{} routes on {hosts} hosts: compiled in {:.1} ms, a look-up {:.0} ns; resources {:.1} MiB, program {:.1} MiB, process {after:.1} MiB",
            hosts * 10,
            compiled.as_secs_f64() * 1000.0,
            lookups(&program, hosts),
            with_resources - before,
            after - with_resources,
        );
    }
}
