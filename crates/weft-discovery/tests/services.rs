//! Names learned from answers, and endpoint sets as their records change.

mod support;

use std::collections::HashMap;
use std::time::Duration;

use hickory_proto::rr::{Record, RecordType};
use support::*;
use tokio::time::{Instant, sleep, timeout};
use weft_core::{AppProtocol, EndpointList, EndpointSource};
use weft_discovery::{DiscoveryConfig, ServiceWatch, StaticService};

const VIP: &str = "10.96.0.1:80";
const TWIN: &str = "_p80._tcp.web-endpoints.shop.x";

fn vip() -> Vec<Record> {
    vec![ip_record("web.shop.x", 1, "10.96.0.1")]
}

/// The twin of `web.shop.x` with pods on port 8080, and its virtual IP.
fn twin(pods: &[&str]) -> Vec<Record> {
    let target = |pod: &str| format!("{}.web-endpoints.shop.x", pod.replace(['.', ':'], "-"));
    let mut records = vip();
    for pod in pods {
        records.push(srv_record(TWIN, 1, 8080, &target(pod)));
        records.push(ip_record(&target(pod), 1, pod));
    }
    records
}

async fn ready(watch: &mut ServiceWatch) -> (Vec<String>, EndpointSource) {
    shown(&timeout(PATIENCE, watch.ready()).await.expect("no endpoints"))
}

async fn becomes(watch: &ServiceWatch, endpoints: &[&str], source: EndpointSource) -> EndpointList {
    let expected = (endpoints.iter().map(ToString::to_string).collect(), source);
    eventually(&format!("{endpoints:?} {source}"), || {
        watch.current().filter(|list| shown(list) == expected).map(|list| EndpointList::clone(&list))
    })
    .await
}

#[tokio::test]
async fn an_address_is_known_by_the_name_that_was_asked_for() {
    let zone = Zone::new(vec![
        cname_record("www.x", 60, "web.x"),
        ip_record("web.x", 60, "10.0.0.1"),
        ip_record("web.x", 60, "fd00::1"),
    ]);
    let chain = zone.clone();
    let upstream = Responder::start(move |query, _| {
        let mut answers = chain.answer(query);
        if query.queries[0].name == name("www.x") {
            let mut answer = reply(query, hickory_proto::op::ResponseCode::NoError);
            answer
                .add_answer(cname_record("www.x", 60, "web.x"))
                .add_answer(ip_record("web.x", 60, "10.0.0.1"));
            answers = vec![answer.to_vec().unwrap()];
        }
        answers
    })
    .await;
    let server = Server::start(config(vec![upstream.addr]));
    assert_eq!(server.name_of("10.0.0.1"), None);
    server.a("web.x").await;
    assert_eq!(server.name_of("10.0.0.1"), Some(dns("web.x")));
    server.a("WWW.x").await;
    assert_eq!(server.name_of("10.0.0.1"), Some(dns("www.x")));
    assert_eq!(server.name_of("::ffff:10.0.0.1"), Some(dns("www.x")));
    server.udp(&question("web.x", RecordType::AAAA)).await;
    assert_eq!(server.name_of("fd00::1"), Some(dns("web.x")));
    // From the cache counts as well: it is what the application asked for last.
    server.a("web.x").await;
    assert_eq!(server.name_of("10.0.0.1"), Some(dns("web.x")));
    assert_eq!(server.discovery.learned_addresses(), 2);
}

#[tokio::test]
async fn the_twin_gives_pods_with_their_ports_and_our_own_questions_teach_no_names() {
    let zone = Zone::new(twin(&["10.0.0.1", "10.0.0.2", "fd00::3"]));
    let upstream = zone.serve().await;
    let server = Server::start(config(vec![upstream.addr]));
    let mut watch = server.discovery.watch(&key("web.shop.x", 80), endpoint(VIP));
    let expected = ["10.0.0.1:8080", "10.0.0.2:8080", "[fd00::3]:8080"].map(str::to_owned).to_vec();
    assert_eq!(ready(&mut watch).await, (expected, EndpointSource::Srv));
    assert_eq!(server.discovery.learned_addresses(), 0);
    assert_eq!(watch.current().unwrap().protocol, AppProtocol::Detect);
}

#[tokio::test]
async fn addresses_that_come_along_are_not_asked_for() {
    let zone = Zone::new(vec![srv_record(TWIN, 60, 8080, "pod.x")]);
    zone.additional(vec![ip_record("pod.x", 60, "10.0.0.1"), ip_record("other.x", 60, "10.0.0.9")]);
    let upstream = zone.serve().await;
    let server = Server::start(config(vec![upstream.addr]));
    let mut watch = server.discovery.watch(&key("web.shop.x", 80), endpoint(VIP));
    assert_eq!(ready(&mut watch).await, (vec!["10.0.0.1:8080".to_owned()], EndpointSource::Srv));
    assert_eq!(zone.was_asked("pod.x", RecordType::A), 0);
}

#[tokio::test]
async fn without_a_twin_a_name_gives_all_of_its_addresses_and_a_virtual_ip_itself() {
    let zone = Zone::new(vec![
        ip_record("db.x", 60, "10.0.0.2"),
        ip_record("db.x", 60, "10.0.0.1"),
        ip_record("db.x", 60, "fd00::1"),
        ip_record("web.shop.x", 60, "10.96.0.1"),
    ]);
    let upstream = zone.serve().await;
    let server = Server::start(config(vec![upstream.addr]));
    let mut headless = server.discovery.watch(&key("db.x", 5432), endpoint("10.0.0.2:5432"));
    let all = ["10.0.0.1:5432", "10.0.0.2:5432", "[fd00::1]:5432"].map(str::to_owned).to_vec();
    assert_eq!(ready(&mut headless).await, (all, EndpointSource::Headless));
    let mut virtual_ip = server.discovery.watch(&key("web.shop.x", 80), endpoint(VIP));
    assert_eq!(ready(&mut virtual_ip).await, (vec![VIP.to_owned()], EndpointSource::Dialed));
}

/// A listener of the proxy knows a name and no address.
#[tokio::test]
async fn a_service_that_is_known_by_name_alone_has_what_dns_says() {
    let zone = Zone::new(twin(&["10.0.0.2", "10.0.0.3"]));
    let upstream = zone.serve().await;
    let server = Server::start(config(vec![upstream.addr]));
    let mut watch = server.discovery.watch(&key("web.shop.x", 80), None);
    let expected = vec!["10.0.0.2:8080".to_owned(), "10.0.0.3:8080".to_owned()];
    assert_eq!(ready(&mut watch).await, (expected, EndpointSource::Srv));
    let mut virtual_ip = server.discovery.watch(&key("web.shop.x", 81), None);
    assert_eq!(ready(&mut virtual_ip).await, (vec!["10.96.0.1:81".to_owned()], EndpointSource::Headless));
    let mut unknown = server.discovery.watch(&key("nobody.shop.x", 80), None);
    assert_eq!(ready(&mut unknown).await, (Vec::new(), EndpointSource::Dialed));
}

#[tokio::test]
async fn srv_of_the_name_itself_and_of_a_named_port_tell_the_protocol() {
    let zone = Zone::new(vec![
        srv_record("_p80._tcp.a.x", 60, 8080, "pod.x"),
        srv_record("_grpc._tcp.b.x", 60, 9090, "pod.x"),
        srv_record("_redis._tcp.c.x", 60, 6379, "pod.x"),
        ip_record("pod.x", 60, "10.0.0.1"),
    ]);
    let upstream = zone.serve().await;
    let srv_labels = HashMap::from([(90, "grpc".to_owned()), (6379, "_redis".to_owned())]);
    let server = Server::start(DiscoveryConfig { srv_labels, ..config(vec![upstream.addr]) });
    for (service, port, expected, protocol) in [
        ("a.x", 80, "10.0.0.1:8080", AppProtocol::Detect),
        ("b.x", 90, "10.0.0.1:9090", AppProtocol::Http),
        ("c.x", 6379, "10.0.0.1:6379", AppProtocol::Opaque),
    ] {
        let mut watch = server.discovery.watch(&key(service, port), endpoint(VIP));
        assert_eq!(ready(&mut watch).await, (vec![expected.to_owned()], EndpointSource::Srv));
        assert_eq!(watch.current().unwrap().protocol, protocol, "{service}");
    }
}

#[tokio::test]
async fn changes_are_followed_and_each_has_a_higher_version() {
    let zone = Zone::new(twin(&["10.0.0.1"]));
    let upstream = zone.serve().await;
    let server = Server::start(config(vec![upstream.addr]));
    let mut watch = server.discovery.watch(&key("web.shop.x", 80), endpoint(VIP));
    let first = timeout(PATIENCE, watch.ready()).await.unwrap();
    zone.replace(twin(&["10.0.0.1", "10.0.0.2"]));
    let second = timeout(PATIENCE, watch.changed()).await.unwrap();
    assert_eq!(shown(&second).0, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    zone.replace(twin(&["10.0.0.2"]));
    let third = timeout(PATIENCE, watch.changed()).await.unwrap();
    assert!(first.version < second.version && second.version < third.version);
    // The twin goes: the virtual IP serves. It comes back: its pods do.
    zone.replace(vip());
    becomes(&watch, &[VIP], EndpointSource::Dialed).await;
    zone.replace(twin(&["10.0.0.7"]));
    becomes(&watch, &["10.0.0.7:8080"], EndpointSource::Srv).await;
}

#[tokio::test]
async fn the_last_good_endpoints_stay_whatever_dns_does() {
    let zone = Zone::new(twin(&["10.0.0.1", "10.0.0.2"]));
    let upstream = zone.serve().await;
    let config = DiscoveryConfig { max_stale: Duration::ZERO, ..config(vec![upstream.addr]) };
    let server = Server::start(config);
    let watch = server.discovery.watch(&key("web.shop.x", 80), endpoint(VIP));
    let good = becomes(&watch, &["10.0.0.1:8080", "10.0.0.2:8080"], EndpointSource::Srv).await;
    let stats = server.discovery.stats();
    for outage in ["servfail", "silent", "empty"] {
        match outage {
            "servfail" => zone.health(Health::ServFail),
            "silent" => zone.health(Health::Silent),
            _ => {
                zone.health(Health::Well);
                zone.replace(Vec::new());
            }
        }
        let failed = stats.refreshes_failed.get();
        eventually(outage, || (stats.refreshes_failed.get() >= failed + 2).then_some(())).await;
        assert_eq!(*watch.current().unwrap(), good, "{outage}");
        let status = server.discovery.snapshot();
        assert!(status[0].error.is_some() && status[0].age.is_some() && status[0].watchers == 1);
    }
    zone.replace(twin(&["10.0.0.3"]));
    becomes(&watch, &["10.0.0.3:8080"], EndpointSource::Srv).await;
    assert!(server.discovery.snapshot()[0].error.is_none());
}

#[tokio::test]
async fn with_dns_dead_from_the_start_the_dialed_address_serves_soon_and_pods_come_when_it_is_back() {
    let zone = Zone::new(twin(&["10.0.0.1"]));
    zone.health(Health::Silent);
    let upstream = zone.serve().await;
    let config = DiscoveryConfig {
        query_timeout: Some(Duration::from_millis(400)),
        first_wait: Duration::from_millis(100),
        ..config(vec![upstream.addr])
    };
    let server = Server::start(config);
    let before = Instant::now();
    let mut watch = server.discovery.watch(&key("web.shop.x", 80), endpoint(VIP));
    assert!(watch.current().is_none());
    assert_eq!(ready(&mut watch).await, (vec![VIP.to_owned()], EndpointSource::Dialed));
    assert!(before.elapsed() < Duration::from_millis(350), "{:?}", before.elapsed());
    // While nothing else is known, it is the address that was dialed last.
    let other = server.discovery.watch(&key("web.shop.x", 80), endpoint("10.96.0.2:80"));
    becomes(&watch, &["10.96.0.2:80"], EndpointSource::Dialed).await;
    zone.health(Health::Well);
    becomes(&other, &["10.0.0.1:8080"], EndpointSource::Srv).await;
}

#[tokio::test]
async fn an_early_refresh_does_not_believe_the_cache_and_is_not_made_too_often() {
    // Addresses come along: a look-up without an AAAA record would have the short TTL of a negative answer.
    let zone = Zone::new(vec![srv_record(TWIN, 300, 8080, "pod.x")]);
    zone.additional(vec![ip_record("pod.x", 300, "10.0.0.1")]);
    let upstream = zone.serve().await;
    let server = Server::start(config(vec![upstream.addr]));
    let watch = server.discovery.watch(&key("web.shop.x", 80), endpoint(VIP));
    becomes(&watch, &["10.0.0.1:8080"], EndpointSource::Srv).await;
    zone.additional(vec![ip_record("pod.x", 300, "10.0.0.2")]);
    // Answers younger than a second are believed.
    sleep(Duration::from_millis(1050)).await;
    let before = Instant::now();
    watch.refresh_soon();
    becomes(&watch, &["10.0.0.2:8080"], EndpointSource::Srv).await;
    assert!(before.elapsed() < Duration::from_secs(1), "long before the TTL");
    let asked = zone.was_asked(TWIN, RecordType::SRV);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1500) {
        server.discovery.refresh_soon(watch.key());
        sleep(Duration::from_millis(1)).await;
    }
    assert!(zone.was_asked(TWIN, RecordType::SRV) - asked <= 2, "one a second");
}

#[tokio::test]
async fn watches_share_one_service_and_the_last_one_takes_it_along() {
    let zone = Zone::new(twin(&["10.0.0.1"]));
    let upstream = zone.serve().await;
    let config = DiscoveryConfig { idle_after: Duration::from_millis(200), ..config(vec![upstream.addr]) };
    let server = Server::start(config);
    let stats = server.discovery.stats();
    let mut one = server.discovery.watch(&key("web.shop.x", 80), endpoint(VIP));
    let two = one.clone();
    let three = server.discovery.watch(&key("web.shop.x", 80), endpoint(VIP));
    let first = timeout(PATIENCE, one.ready()).await.unwrap();
    assert_eq!((stats.services.get(), server.discovery.snapshot()[0].watchers), (1, 3));
    drop((one, two));
    sleep(Duration::from_millis(600)).await;
    assert_eq!(stats.services.get(), 1);
    drop(three);
    eventually("the service is dropped", || (stats.services.get() == 0).then_some(())).await;
    assert!(server.discovery.snapshot().is_empty());
    let mut again = server.discovery.watch(&key("web.shop.x", 80), endpoint(VIP));
    assert!(timeout(PATIENCE, again.ready()).await.unwrap().version > first.version);
}

#[tokio::test]
async fn static_services_need_no_dns() {
    let statics = vec![StaticService {
        key: key("legacy.x", 3306),
        endpoints: vec![endpoint("10.1.0.2:3307"), endpoint("10.1.0.1:3307")],
        protocol: AppProtocol::Opaque,
    }];
    let server = Server::start(DiscoveryConfig { statics, ..config(vec![]) });
    let watch = server.discovery.watch(&key("legacy.x", 3306), endpoint("10.1.0.9:3306"));
    let list = watch.current().expect("at once");
    assert_eq!(shown(&list).0, ["10.1.0.1:3307", "10.1.0.2:3307"]);
    assert_eq!((list.source, list.protocol), (EndpointSource::Static, AppProtocol::Opaque));
    assert_eq!(server.discovery.stats().upstream_queries.get(), 0);
}

#[tokio::test]
async fn beyond_the_bound_and_after_the_end_the_dialed_address_serves() {
    let zone = Zone::new(twin(&["10.0.0.1"]));
    zone.health(Health::Silent);
    let upstream = zone.serve().await;
    let config = DiscoveryConfig {
        max_services: 1,
        first_wait: Duration::from_secs(60),
        query_timeout: Some(Duration::from_secs(5)),
        ..config(vec![upstream.addr])
    };
    let server = Server::start(config);
    let mut first = server.discovery.watch(&key("web.shop.x", 80), endpoint(VIP));
    let second = server.discovery.watch(&key("db.shop.x", 80), endpoint("10.96.0.2:80"));
    assert_eq!(shown(&second.current().unwrap()), (vec!["10.96.0.2:80".to_owned()], EndpointSource::Dialed));
    assert_eq!(server.discovery.stats().services_refused.get(), 1);
    let discovery = server.discovery.clone();
    server.stop().await;
    assert_eq!(ready(&mut first).await, (vec![VIP.to_owned()], EndpointSource::Dialed));
    let late = discovery.watch(&key("late.x", 80), endpoint("10.96.0.3:80"));
    assert_eq!(shown(&late.current().unwrap()).0, ["10.96.0.3:80"]);
}
