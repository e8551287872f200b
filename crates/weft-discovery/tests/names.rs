//! Which name an address is known by, where answers have aliases, and where they lie.

mod support;

use hickory_proto::rr::{Record, RecordType};
use support::*;
use weft_core::{DnsName, MtlsMode};
use weft_discovery::{DiscoveryConfig, Judge, Standing};

/// `[pod.]service.namespace.svc.mesh` is in the mesh.
struct Mesh;

impl Judge for Mesh {
    fn version(&self) -> u64 {
        1
    }

    fn standing(&self, name: &DnsName) -> Standing {
        let labels: Vec<&str> = name.labels().collect();
        match labels[..] {
            [.., _, namespace, "svc", "mesh"] if labels.len() < 6 => {
                Standing::Inside { mode: MtlsMode::Strict, namespace: namespace.parse().unwrap() }
            }
            _ => Standing::Outside,
        }
    }
}

/// A server for pods of the namespace `web`, with answers as a resolver gives them: `(question, aliases, addresses)`.
async fn serving(answers: Vec<(&'static str, Vec<&'static str>, Vec<&'static str>)>) -> (Server, Responder) {
    let upstream = Responder::start(move |query, _| {
        let asked = query.queries[0].name.to_ascii().to_ascii_lowercase();
        let mut message = reply(query, hickory_proto::op::ResponseCode::NoError);
        for (question, aliases, addresses) in &answers {
            if name(question).to_ascii() == asked && query.queries[0].query_type == RecordType::A {
                let owners: Vec<&str> = std::iter::once(*question).chain(aliases.iter().copied()).collect();
                let cnames = owners.windows(2).map(|pair| cname_record(pair[0], 60, pair[1]));
                let owner = owners.last().unwrap();
                message.answers =
                    addresses.iter().map(|ip| ip_record(owner, 60, ip)).collect::<Vec<Record>>();
                message.answers.extend(cnames);
            }
        }
        vec![message.to_vec().unwrap()]
    })
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "search web.svc.mesh svc.mesh mesh corp.example\n").unwrap();
    let search_from = Some(file.into_temp_path().keep().unwrap());
    let server = Server::start(DiscoveryConfig { search_from, ..config(vec![upstream.addr]) });
    server.discovery.judge_names(Mesh);
    (server, upstream)
}

/// The name of an address, with a `!` where it is outside.
fn known(server: &Server, ip: &str) -> String {
    let named = server.discovery.name_of(ip.parse().unwrap());
    named.map_or_else(String::new, |named| format!("{}{}", if named.outside { "!" } else { "" }, named.name))
}

#[tokio::test]
async fn a_step_along_the_search_list_is_known_by_what_it_stands_for() {
    let (server, _upstream) = serving(vec![
        ("orders.shop.web.svc.mesh", vec!["orders.shop.svc.mesh"], vec!["10.0.0.1"]),
        ("orders.shop.svc.mesh", vec![], vec!["10.0.0.1"]),
        ("plain.test.web.svc.mesh", vec!["plain.test"], vec!["192.0.2.1"]),
        ("intra.host.web.svc.mesh", vec!["intra.host.corp.example"], vec!["192.0.2.2"]),
    ])
    .await;
    for question in ["orders.shop.web.svc.mesh", "plain.test.web.svc.mesh", "intra.host.web.svc.mesh"] {
        assert_eq!(addresses(&server.a(question).await).len(), 1);
    }
    assert_eq!(known(&server, "10.0.0.1"), "orders.shop.svc.mesh");
    assert_eq!(known(&server, "192.0.2.1"), "!plain.test");
    assert_eq!(known(&server, "192.0.2.2"), "!intra.host.corp.example");
    // From the cache as well, both answers at hand.
    let hits = server.discovery.stats().cache_hits.get();
    server.a("orders.shop.web.svc.mesh").await;
    assert_eq!(server.discovery.stats().cache_hits.get(), hits + 2);
}

#[tokio::test]
async fn an_alias_into_the_mesh_is_believed_as_far_as_the_mesh_name_says_the_same() {
    let (server, upstream) = serving(vec![
        ("orders.shop.svc.mesh", vec![], vec!["10.0.0.1", "10.0.0.2"]),
        ("api.example", vec!["cdn.example", "orders.shop.svc.mesh"], vec!["10.0.0.1"]),
        ("evil.example", vec!["orders.shop.svc.mesh"], vec!["10.0.0.2", "6.6.6.6"]),
        ("worse.example", vec!["trap.evil.svc.mesh"], vec!["10.0.0.1", "10.0.0.9"]),
        ("trap.evil.svc.mesh", vec![], vec!["10.0.0.1"]),
        ("nobody.example", vec!["nobody.shop.svc.mesh"], vec!["10.0.0.8"]),
    ])
    .await;
    server.a("api.example").await;
    assert_eq!(known(&server, "10.0.0.1"), "orders.shop.svc.mesh");
    server.a("evil.example").await;
    assert_eq!(known(&server, "10.0.0.2"), "orders.shop.svc.mesh");
    assert_eq!(known(&server, "6.6.6.6"), "!evil.example");
    // One that has the address, too, comes too late for it.
    server.a("worse.example").await;
    assert_eq!(known(&server, "10.0.0.1"), "orders.shop.svc.mesh");
    assert_eq!(known(&server, "10.0.0.9"), "!worse.example");
    server.a("nobody.example").await;
    assert_eq!(known(&server, "10.0.0.8"), "!nobody.example");
    assert_eq!(upstream.queries(), 7, "each question once, and each mesh name that one led to");
}

#[tokio::test]
async fn no_answer_about_a_mesh_name_leads_out_of_the_mesh_or_to_another_namespace() {
    let (server, _upstream) = serving(vec![
        ("orders.shop.svc.mesh", vec!["evil.example"], vec!["10.0.0.1"]),
        ("stock.web.svc.mesh", vec!["stock"], vec!["10.0.0.2"]),
        ("bank.bank.svc.mesh", vec!["thief.evil.svc.mesh"], vec!["10.0.0.3"]),
        ("db.shop.svc.mesh", vec!["pg.shop.svc.mesh"], vec!["10.0.0.4"]),
    ])
    .await;
    for (question, ip, expected) in [
        ("orders.shop.svc.mesh", "10.0.0.1", "orders.shop.svc.mesh"),
        ("stock.web.svc.mesh", "10.0.0.2", "stock.web.svc.mesh"),
        ("bank.bank.svc.mesh", "10.0.0.3", "bank.bank.svc.mesh"),
        ("db.shop.svc.mesh", "10.0.0.4", "pg.shop.svc.mesh"),
    ] {
        server.a(question).await;
        assert_eq!(known(&server, ip), expected);
    }
}

#[tokio::test]
async fn many_addresses_of_others_leave_a_mesh_address_what_it_is() {
    let upstream = Responder::start(|query, over| {
        let owner = query.queries[0].name.to_ascii();
        let mut answer = reply(query, hickory_proto::op::ResponseCode::NoError);
        let number: u32 = owner.trim_start_matches("evil").split('.').next().unwrap().parse().unwrap_or(0);
        match over {
            _ if owner.starts_with("orders") => {
                answer.add_answer(ip_record(&owner, 60, "10.0.0.1"));
            }
            Over::Udp => answer.metadata.truncation = true,
            Over::Tcp => (0..2000).for_each(|i| {
                let ip = std::net::Ipv4Addr::from(0xc612_0000 + number * 2000 + i);
                answer.add_answer(ip_record(&owner, 60, &ip.to_string()));
            }),
        }
        vec![answer.to_vec().unwrap()]
    })
    .await;
    // To write thousands of records takes a test's server a while.
    let server =
        Server::start(DiscoveryConfig { query_timeout: Some(PATIENCE), ..config(vec![upstream.addr]) });
    server.discovery.judge_names(Mesh);
    server.a("orders.shop.svc.mesh").await;
    assert_eq!(known(&server, "10.0.0.1"), "orders.shop.svc.mesh");
    for i in 0..20 {
        let mut stream = server.tcp().await;
        send_tcp(&mut stream, &question(&format!("evil{i}.example"), RecordType::A)).await;
        assert_eq!(recv_tcp(&mut stream).await.answers.len(), 2000);
    }
    assert_eq!(known(&server, "10.0.0.1"), "orders.shop.svc.mesh");
    assert_eq!(server.discovery.learned_addresses(), 1 + 20 * 64);
}
