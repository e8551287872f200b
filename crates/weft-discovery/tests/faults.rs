//! The server and its upstream servers when things go wrong: losses, lies, delays, outages, garbage.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use weft_discovery::{DiscoveryConfig, Upstreams};

fn good(query: &Message) -> Message {
    let mut message = reply(query, ResponseCode::NoError);
    let owner = query.queries[0].name.to_ascii();
    if query.queries[0].query_type == RecordType::A {
        message.add_answer(ip_record(&owner, 60, "10.0.0.1"));
    }
    message
}

fn packet(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap()
}

#[track_caller]
fn assert_one(answer: &Message) {
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert_eq!(addresses(answer), ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
}

#[tokio::test]
async fn a_lost_packet_is_asked_for_again() {
    let mut lost = false;
    let upstream = Responder::start(move |query, _| {
        if std::mem::replace(&mut lost, true) { vec![packet(&good(query))] } else { Vec::new() }
    })
    .await;
    let server = Server::start(config(vec![upstream.addr]));
    assert_one(&server.a("web.x").await);
    // In the same try, in case it was the OPT record that was lost.
    assert_eq!((upstream.queries(), server.discovery.stats().upstream_timeouts.get()), (2, 0));
}

#[tokio::test]
async fn answers_to_other_questions_are_not_believed() {
    let upstream = Responder::start(|query, _| {
        let mut id = good(query);
        id.metadata.id ^= 1;
        id.answers[0] = ip_record("web.x", 60, "6.6.6.6");
        let mut other = reply(&question("evil.x", RecordType::A), ResponseCode::NoError);
        other.metadata.id = query.metadata.id;
        other.add_answer(ip_record("web.x", 60, "6.6.6.6"));
        vec![
            vec![],
            b"garbage that is longer than a header".to_vec(),
            packet(&id),
            packet(&other),
            packet(&good(query)),
        ]
    })
    .await;
    let server = Server::start(config(vec![upstream.addr]));
    assert_one(&server.a("web.x").await);
    assert_eq!((upstream.queries(), server.discovery.stats().upstream_mismatched.get()), (1, 4));
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp_and_cut_again_only_for_who_cannot_take_it() {
    let upstream = Responder::start(|query, over| {
        let mut answer = reply(query, ResponseCode::NoError);
        match over {
            Over::Udp => answer.metadata.truncation = true,
            Over::Tcp => (0..100).for_each(|i| {
                answer.add_answer(ip_record("web.x", 60, &format!("10.0.0.{i}")));
            }),
        }
        vec![packet(&answer)]
    })
    .await;
    let server = Server::start(config(vec![upstream.addr]));
    let plain = server.a("web.x").await;
    assert!(plain.metadata.truncation);
    assert_eq!(plain.answers.len(), 30, "as many as fit 512 octets");
    let large = server.udp(&with_edns(question("web.x", RecordType::A), 4096)).await;
    assert!(!large.metadata.truncation);
    assert_eq!(large.answers.len(), 100);
    let mut stream = server.tcp().await;
    send_tcp(&mut stream, &question("web.x", RecordType::A)).await;
    assert_eq!(recv_tcp(&mut stream).await.answers.len(), 100);
    // One over UDP and one over TCP: the rest came from the cache.
    assert_eq!((upstream.queries(), server.discovery.stats().truncated.get()), (2, 1));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_passed_over_and_then_asked_last() {
    let silent = Responder::start(|_, _| Vec::new()).await;
    let refusing = Responder::start(|query, _| vec![packet(&reply(query, ResponseCode::Refused))]).await;
    let well = Responder::start(|query, _| vec![packet(&good(query))]).await;
    let server = Server::start(config(vec![silent.addr, refusing.addr, well.addr]));
    for name in ["a.x", "b.x", "c.x"] {
        assert_one(&server.a(name).await);
    }
    // Each both with EDNS and without.
    assert_eq!((silent.queries(), refusing.queries(), well.queries()), (2, 2, 3));
}

#[tokio::test]
async fn a_server_that_knows_no_edns_is_asked_without() {
    let upstream = Responder::start(|query, _| {
        vec![match query.edns {
            Some(_) => packet(&reply(query, ResponseCode::FormErr)),
            None => packet(&good(query)),
        }]
    })
    .await;
    let server = Server::start(config(vec![upstream.addr]));
    assert_one(&server.udp(&with_edns(question("web.x", RecordType::A), 1232)).await);
}

/// A server that does `what` with queries that have an OPT record.
async fn without_edns(what: impl Fn(&Message) -> Option<Message> + Send + 'static) -> (Server, Responder) {
    let upstream = Responder::start(move |query, _| match query.edns {
        Some(_) => what(query).iter().map(packet).collect(),
        None => vec![packet(&good(query))],
    })
    .await;
    (Server::start(config(vec![upstream.addr])), upstream)
}

#[tokio::test]
async fn what_a_server_has_against_edns_is_found_out_once() {
    for code in [ResponseCode::Refused, ResponseCode::ServFail, ResponseCode::FormErr, ResponseCode::NotImp] {
        let (server, upstream) = without_edns(move |query| Some(reply(query, code))).await;
        for name in ["a.x", "b.x", "c.x"] {
            assert_one(&server.udp(&with_edns(question(name, RecordType::A), 1232)).await);
        }
        assert_eq!(upstream.queries(), 4, "{code}");
    }
}

#[tokio::test]
async fn a_server_that_is_silent_to_edns_costs_half_a_timeout_once() {
    let (server, upstream) = without_edns(|_| None).await;
    let began = Instant::now();
    assert_one(&server.a("a.x").await);
    assert!(began.elapsed() >= Duration::from_millis(120), "not asked both ways at once");
    for name in ["b.x", "c.x"] {
        assert_one(&server.a(name).await);
    }
    assert_eq!((upstream.queries(), server.discovery.stats().upstream_timeouts.get()), (4, 0));
}

/// Where a firewall lets no TCP to port 53, what came over UDP is all there is.
#[tokio::test]
async fn an_answer_that_cannot_be_had_over_tcp_is_given_as_it_came() {
    let upstream = Responder::start(|query, over| {
        let mut answer = good(query);
        answer.metadata.truncation = true;
        // Not even a length: the connection is left open.
        if over == Over::Tcp { Vec::new() } else { vec![packet(&answer)] }
    })
    .await;
    let server = Server::start(config(vec![upstream.addr]));
    let answer = server.a("web.x").await;
    assert_one(&answer);
    assert!(answer.metadata.truncation);
    assert_eq!(server.discovery.cached_answers(), 0);
}

/// The same with nothing in it. What it says, "ask over TCP", is told to who can do that, and is no answer for who has.
#[tokio::test]
async fn an_answer_that_was_cut_away_says_so_over_udp_and_is_a_failure_over_tcp() {
    for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
        let upstream = Responder::start(move |query, over| {
            let mut answer = reply(query, code);
            answer.metadata.truncation = true;
            if over == Over::Tcp { Vec::new() } else { vec![packet(&answer)] }
        })
        .await;
        let server = Server::start(config(vec![upstream.addr]));
        let answer = server.a("web.x").await;
        assert_eq!((answer.metadata.truncation, answer.metadata.response_code), (true, code));
        assert!(answer.answers.is_empty());
        let mut stream = server.tcp().await;
        send_tcp(&mut stream, &question("web.x", RecordType::A)).await;
        let answer = recv_tcp(&mut stream).await;
        assert_eq!(
            (answer.metadata.truncation, answer.metadata.response_code),
            (false, ResponseCode::ServFail)
        );
    }
}

/// One server cannot be reached over TCP, and the next can.
#[tokio::test]
async fn a_server_that_has_the_whole_answer_is_asked_after_one_that_cut_it_away() {
    let cutting = Responder::start(|query, over| {
        let mut answer = reply(query, ResponseCode::NoError);
        answer.metadata.truncation = true;
        if over == Over::Tcp { Vec::new() } else { vec![packet(&answer)] }
    })
    .await;
    let whole = Responder::start(|query, _| vec![packet(&good(query))]).await;
    let server = Server::start(config(vec![cutting.addr, whole.addr]));
    let answer = server.a("web.x").await;
    assert_one(&answer);
    assert!(!answer.metadata.truncation);
}

/// A firewall that comes to be before a server which took EDNS until then.
#[tokio::test]
async fn a_known_server_that_falls_silent_to_edns_costs_half_a_timeout_as_well() {
    let blocked = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&blocked);
    let upstream = Responder::start(move |query, _| match query.edns {
        Some(_) if now.load(Ordering::Relaxed) => Vec::new(),
        _ => vec![packet(&good(query))],
    })
    .await;
    let server = Server::start(config(vec![upstream.addr]));
    assert_one(&server.a("a.x").await);
    blocked.store(true, Ordering::Relaxed);
    for name in ["b.x", "c.x", "d.x"] {
        assert_one(&server.a(name).await);
    }
    let stats = server.discovery.stats();
    // Both ways once, and then only as it takes it.
    assert_eq!((upstream.queries(), stats.upstream_timeouts.get()), (5, 0));
}

/// musl up to 1.2.3 knows neither EDNS nor TCP.
#[tokio::test]
async fn a_client_with_nothing_but_512_octets_of_udp_gets_addresses_and_they_are_known() {
    let upstream = Responder::start(|query, _| {
        let mut answer = reply(query, ResponseCode::NoError);
        (1..=42).for_each(|i| {
            answer.add_answer(ip_record("many.x", 60, &format!("10.0.0.{i}")));
        });
        vec![packet(&answer)]
    })
    .await;
    let server = Server::start(config(vec![upstream.addr]));
    let answer = server.a("many.x").await;
    assert!(answer.metadata.truncation && answer.answers.len() == 30, "{}", answer.answers.len());
    assert_eq!(server.name_of("10.0.0.1"), Some(dns("many.x")));
    assert_eq!(server.name_of("10.0.0.30"), Some(dns("many.x")));
}

#[tokio::test]
async fn a_failure_of_all_servers_passes_through_and_is_remembered_briefly() {
    let upstream = Responder::start(|query, _| vec![packet(&reply(query, ResponseCode::ServFail))]).await;
    let server = Server::start(config(vec![upstream.addr]));
    for _ in 0..5 {
        assert_eq!(server.a("web.x").await.metadata.response_code, ResponseCode::ServFail);
    }
    // With EDNS and without; it makes no difference, and the second is not asked again.
    assert_eq!(upstream.queries(), 2);
    assert_eq!(server.discovery.stats().failed.get(), 5);
    sleep(Duration::from_millis(1050)).await;
    server.a("web.x").await;
    assert_eq!(upstream.queries(), 3);
}

#[tokio::test]
async fn without_any_server_the_answer_is_servfail_and_not_silence() {
    let server = Server::start(config(vec![]));
    assert_eq!(server.a("web.x").await.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_server_of_our_own_in_the_list_is_no_loop() {
    let listeners = weft_discovery::DnsListeners::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let addr = listeners.addrs()[0];
    let (discovery, task) = weft_discovery::Discovery::new(config(vec![addr]));
    let (trigger, drain) = weft_core::drain();
    let running = tokio::spawn(task.run(listeners, drain));
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&packet(&question("web.x", RecordType::A)), addr).await.unwrap();
    let mut buffer = [0; 512];
    timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((discovery.stats().queries_udp.get(), discovery.stats().upstream_queries.get()), (1, 0));
    trigger.close();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn identical_queries_under_way_are_one() {
    let delay = Duration::from_millis(100);
    let upstream = Responder::with_delay(delay, |query, _| vec![packet(&good(query))]).await;
    let config =
        DiscoveryConfig { query_timeout: Some(Duration::from_secs(2)), ..config(vec![upstream.addr]) };
    let server = Server::start(config);
    let asked =
        ["web.x", "WEB.x", "wEb.x", "web.X", "web.x", "weB.x"].map(|name| question(name, RecordType::A));
    let [a, b, c, d, e, f] = &asked;
    let answers = tokio::join!(
        server.udp(a),
        server.udp(b),
        server.udp(c),
        server.udp(d),
        server.udp(e),
        server.udp(f)
    );
    for (answer, asked) in
        [answers.0, answers.1, answers.2, answers.3, answers.4, answers.5].iter().zip(&asked)
    {
        assert_one(answer);
        assert!(answer.queries[0].name.eq_case(&asked.queries[0].name), "each in its own spelling");
    }
    assert_eq!((upstream.queries(), server.discovery.stats().coalesced.get()), (1, 5));
}

#[tokio::test]
async fn too_many_queries_at_a_time_are_refused_and_those_under_way_are_answered() {
    let delay = Duration::from_millis(200);
    let upstream = Responder::with_delay(delay, |query, _| vec![packet(&good(query))]).await;
    let server = Server::start(DiscoveryConfig { max_in_flight: 2, ..config(vec![upstream.addr]) });
    let (a, b, late) = tokio::join!(server.a("a.x"), server.a("b.x"), async {
        eventually("two under way", || (upstream.queries() == 2).then_some(())).await;
        server.a("c.x").await
    });
    assert_one(&a);
    assert_one(&b);
    assert_eq!(late.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(server.discovery.stats().overloaded.get(), 1);
    assert_one(&server.a("c.x").await);
}

#[tokio::test]
async fn answers_outlive_the_servers_for_a_while() {
    let zone = Zone::new(vec![ip_record("web.x", 1, "10.0.0.1")]);
    let upstream = zone.serve().await;
    let server =
        Server::start(DiscoveryConfig { max_stale: Duration::from_secs(2), ..config(vec![upstream.addr]) });
    assert_one(&server.a("web.x").await);
    assert_eq!(server.a("gone.x").await.metadata.response_code, ResponseCode::NXDomain);
    upstream.stop().await;
    sleep(Duration::from_millis(1100)).await;
    let stale = server.a("web.x").await;
    assert_one(&stale);
    assert_eq!(stale.answers[0].ttl, 30);
    // A search list goes on to its next domain only if this one is still known not to exist.
    assert_eq!(server.a("gone.x").await.metadata.response_code, ResponseCode::NXDomain);
    let before = Instant::now();
    assert_one(&server.a("web.x").await);
    assert!(before.elapsed() < Duration::from_millis(200), "without asking the dead servers each time");
    assert!(server.discovery.stats().cache_stale.get() >= 3);
    sleep(Duration::from_millis(2000)).await;
    assert_eq!(server.a("web.x").await.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_slow_server_does_not_hold_up_who_can_have_a_stale_answer() {
    let names = ["web.x", "api.x", "db.x", "mail.x"];
    let zone = Zone::new(names.iter().map(|name| ip_record(name, 1, "10.0.0.1")).collect());
    let upstream = zone.serve().await;
    let config =
        DiscoveryConfig { query_timeout: Some(Duration::from_secs(5)), ..config(vec![upstream.addr]) };
    let server = Server::start(config);
    for name in names {
        assert_one(&server.a(name).await);
    }
    zone.health(Health::Silent);
    sleep(Duration::from_millis(1100)).await;
    let before = Instant::now();
    assert_one(&server.a("web.x").await);
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    // An application goes along a search list, and each step of it is another question.
    let before = Instant::now();
    for name in names {
        assert_one(&server.a(name).await);
    }
    assert!(before.elapsed() < Duration::from_secs(1), "one wait was enough: {:?}", before.elapsed());
}

#[tokio::test]
async fn a_changed_resolv_conf_is_followed() {
    let old = Responder::start(|query, _| vec![packet(&good(query))]).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    // Port 53 cannot be bound by a test. The kernel refuses to connect to the broadcast address at once, which counts.
    std::fs::write(file.path(), "nameserver 255.255.255.255\noptions attempts:1\n").unwrap();
    let config =
        DiscoveryConfig { upstreams: Upstreams::ResolvConf(file.path().into()), ..config(vec![old.addr]) };
    let server = Server::start(config);
    let first = server.a("web.x").await.metadata.response_code;
    assert_eq!(first, ResponseCode::ServFail);
    assert_eq!(old.queries(), 0);
    let asked =
        server.discovery.stats().upstream_errors.get() + server.discovery.stats().upstream_timeouts.get();
    assert_eq!(asked, 1, "one server, one attempt");
    std::fs::write(
        file.path(),
        "nameserver 255.255.255.255\nnameserver 255.255.255.255\noptions attempts:2\n",
    )
    .unwrap();
    sleep(Duration::from_millis(2100)).await;
    server.a("other.x").await;
    let now =
        server.discovery.stats().upstream_errors.get() + server.discovery.stats().upstream_timeouts.get();
    assert_eq!(now - asked, 4, "two servers, two attempts");
}

#[tokio::test]
async fn a_resolv_conf_may_have_odd_bytes_and_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    let config = DiscoveryConfig {
        upstreams: Upstreams::ResolvConf(path.clone()),
        query_timeout: Some(Duration::from_millis(50)),
        ..config(Vec::new())
    };
    let server = Server::start(config);
    let stats = server.discovery.stats();
    let asked = || stats.upstream_queries.get() + stats.upstream_errors.get();
    // No file: the local host is asked, as the C library does, and not nobody.
    server.a("a.x").await;
    let before = asked();
    assert!(before > 0);
    std::fs::write(&path, b"# r\xe9seau\nnameserver 255.255.255.255\noptions attempts:1\n").unwrap();
    sleep(Duration::from_millis(2100)).await;
    server.a("b.x").await;
    assert_eq!(asked() - before, 1, "the one server, once");
}

#[tokio::test]
async fn tcp_takes_several_queries_at_a_time_and_answers_each_when_it_can() {
    let upstream = Responder::start(|query, _| {
        let slow = query.queries[0].name == name("slow.x");
        if slow { Vec::new() } else { vec![packet(&good(query))] }
    })
    .await;
    let server = Server::start(config(vec![upstream.addr]));
    let mut stream = server.tcp().await;
    let (slow, fast) = (question("slow.x", RecordType::A), question("fast.x", RecordType::A));
    send_tcp(&mut stream, &slow).await;
    send_tcp(&mut stream, &fast).await;
    let first = recv_tcp(&mut stream).await;
    assert_eq!(first.metadata.id, fast.metadata.id);
    assert_one(&first);
    let second = recv_tcp(&mut stream).await;
    assert_eq!(
        (second.metadata.id, second.metadata.response_code),
        (slow.metadata.id, ResponseCode::ServFail)
    );
}

#[tokio::test]
async fn tcp_connections_are_bounded_and_idle_ones_closed() {
    let upstream = Responder::start(|query, _| vec![packet(&good(query))]).await;
    let server = Server::start(DiscoveryConfig {
        tcp_connections: 2,
        tcp_idle: Duration::from_millis(300),
        ..config(vec![upstream.addr])
    });
    let (mut one, mut two) = (server.tcp().await, server.tcp().await);
    let stats = server.discovery.stats();
    eventually("two connections", || (stats.tcp_connections.get() == 2).then_some(())).await;
    let mut three = server.tcp().await;
    assert_eq!(timeout(PATIENCE, three.read(&mut [0; 8])).await.unwrap().unwrap_or(0), 0, "closed at once");
    assert_eq!(stats.tcp_refused.get(), 1);
    // Half a length, then nothing: idle as well.
    one.write_all(&[0]).await.unwrap();
    for stream in [&mut one, &mut two] {
        assert_eq!(
            timeout(PATIENCE, stream.read(&mut [0; 8])).await.unwrap().unwrap(),
            0,
            "closed when idle"
        );
    }
    eventually("none left", || (stats.tcp_connections.get() == 0).then_some(())).await;
    let mut four = server.tcp().await;
    send_tcp(&mut four, &question("web.x", RecordType::A)).await;
    assert_one(&recv_tcp(&mut four).await);
}

#[tokio::test]
async fn a_client_that_closes_its_sending_half_still_gets_its_answer() {
    let delay = Duration::from_millis(50);
    let upstream = Responder::with_delay(delay, |query, _| vec![packet(&good(query))]).await;
    let server = Server::start(config(vec![upstream.addr]));
    let mut stream = server.tcp().await;
    send_tcp(&mut stream, &question("web.x", RecordType::A)).await;
    stream.shutdown().await.unwrap();
    assert_one(&recv_tcp(&mut stream).await);
}

#[tokio::test]
async fn any_bytes_leave_the_server_well() {
    let upstream = Responder::start(|query, _| vec![packet(&good(query))]).await;
    let server = Server::start(config(vec![upstream.addr]));
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.addr).await.unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    let seed = packet(&with_edns(question("web.x", RecordType::A), 1232));
    for round in 0..2000 {
        let bytes: Vec<u8> = if round % 2 == 0 {
            (0..rng.usize(..700)).map(|_| rng.u8(..)).collect()
        } else {
            let mut bytes = seed.clone();
            (0..=rng.usize(..4)).for_each(|_| {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            });
            bytes
        };
        socket.send(&bytes).await.unwrap();
        if round % 100 == 0 {
            let mut stream = server.tcp().await;
            let _ = stream.write_all(&bytes).await;
            assert_one(&server.a("web.x").await);
        }
    }
    assert_one(&server.a("web.x").await);
    let stats = server.discovery.stats();
    assert!(stats.malformed.get() > 0 && stats.rejected.get() > 0);
    server.stop().await;
}

/// Somebody outside answers with as much as a message can hold, under ever new names.
#[tokio::test]
async fn large_answers_take_no_more_memory_than_they_may() {
    let upstream = Responder::start(|query, over| {
        let mut answer = reply(query, ResponseCode::NoError);
        let owner = query.queries[0].name.to_ascii();
        let count = if owner.starts_with('m') { 500 } else { 2000 };
        match over {
            Over::Udp => answer.metadata.truncation = true,
            Over::Tcp => (0..count).for_each(|i: u16| {
                let [high, low] = i.to_be_bytes();
                answer.add_answer(ip_record(&owner, 60, &format!("10.0.{high}.{low}")));
            }),
        }
        vec![packet(&answer)]
    })
    .await;
    let config = DiscoveryConfig {
        cache_octets: 256 << 10,
        query_timeout: Some(PATIENCE),
        ..config(vec![upstream.addr])
    };
    let server = Server::start(config);
    let ask = async |name: &str| {
        let mut stream = server.tcp().await;
        send_tcp(&mut stream, &question(name, RecordType::A)).await;
        recv_tcp(&mut stream).await.answers.len()
    };
    // Passed on whole, and not kept: the next one asks upstream again.
    assert_eq!(ask("large.x").await, 2000);
    assert_eq!((server.discovery.cached_answers(), server.discovery.cached_octets()), (0, 0));
    for i in 0..40 {
        assert_eq!(ask(&format!("m{i}.x")).await, 500);
        let octets = server.discovery.cached_octets();
        assert!((8000..=256 << 10).contains(&octets), "{octets}");
    }
    assert!((5..30).contains(&server.discovery.cached_answers()), "{}", server.discovery.cached_answers());
    // What is in use stays, and comes from the cache.
    let before = upstream.queries();
    assert_eq!(ask("m39.x").await, 500);
    assert_eq!(upstream.queries(), before);
}
