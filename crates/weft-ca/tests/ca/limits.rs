//! Callers that take too much: slow, silent, lying, many. Each limit is reached by one, and somebody else is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use weft_ca::{Authority, Ca, CaParts, Credentials, Limits, PodRef, Proof, Proving, Rate, RootPem, Unproven};
use weft_identity::proto::{SignRequest, WatchBundleRequest};
use weft_telemetry::{Registry, ServerSpans};

use crate::support::{
    CA_ID, ORDERS_TOKEN, RunningCa, SOON, Site, WEB_TOKEN, csr, eventually, raw, raw_from, tcp_from, tls,
    tls_over, with_credential,
};

/// What HTTP/2 begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SHORT: Duration = Duration::from_millis(400);
/// So long that whoever waits for it has failed.
const NEVER: Duration = Duration::from_secs(600);

async fn ca_with(site: &Site, limits: Limits) -> RunningCa {
    let config = site.config("127.0.0.1:0".parse().unwrap(), "");
    RunningCa::serve(Ca::bind(&config).await.unwrap().limited(limits))
}

fn sign(token: &str) -> tonic::Request<SignRequest> {
    with_credential(SignRequest { csr: csr(|_| {}) }, Some(&format!("Bearer {token}")))
}

/// Waits until the other side closes, in whatever way.
async fn closed(mut stream: impl AsyncReadExt + Unpin) {
    let mut rest = [0; 1024];
    let end = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
    timeout(SOON, end).await.expect("still open");
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_ends() {
    let site = Site::new();
    let ca = ca_with(&site, Limits { handshake: SHORT, proof: NEVER, ..Limits::default() }).await;
    let silent = TcpStream::connect(ca.address).await.unwrap();
    let mut half = TcpStream::connect(ca.address).await.unwrap();
    // A record of a ClientHello that says it has 512 octets, and five of them.
    half.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3]).await.unwrap();
    closed(silent).await;
    closed(half).await;
}

#[tokio::test]
async fn a_connection_that_proves_nothing_ends_whatever_it_says() {
    let site = Site::new();
    let ca = ca_with(&site, Limits { proof: SHORT, idle: NEVER, ..Limits::default() }).await;
    let silent = tls(&site, ca.address).await;
    let mut half_a_preface = tls(&site, ca.address).await;
    half_a_preface.write_all(&PREFACE[..10]).await.unwrap();
    let mut half_a_frame = tls(&site, ca.address).await;
    half_a_frame
        .write_all(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 64, 0, 1, 4]].concat())
        .await
        .unwrap();
    for stream in [silent, half_a_preface, half_a_frame] {
        closed(stream).await;
    }
}

#[tokio::test]
async fn a_connection_without_a_call_ends_and_one_with_a_stream_stays() {
    let site = Arc::new(Site::new());
    let ca = ca_with(&site, Limits { idle: SHORT, ..Limits::default() }).await;
    let (mut idle, mut busy) = (raw(&site, ca.address).await, raw(&site, ca.address).await);
    let request =
        with_credential(tokio_stream::pending::<WatchBundleRequest>(), Some(&format!("Bearer {WEB_TOKEN}")));
    let mut stream = busy.client.watch_bundle(request).await.unwrap().into_inner();
    assert!(timeout(SOON, stream.message()).await.unwrap().unwrap().is_some());
    for turn in 1..3 {
        idle.client.sign(sign(ORDERS_TOKEN)).await.unwrap();
        assert_eq!(idle.connects.load(Ordering::Relaxed), turn);
        tokio::time::sleep(3 * SHORT).await;
    }
    assert!(timeout(SHORT, stream.message()).await.is_err(), "the stream is still open, with nothing to say");
    assert_eq!(busy.connects.load(Ordering::Relaxed), 1);
}

/// A call whose body begins and does not go on.
#[tokio::test]
async fn a_body_that_does_not_come_ends_the_call() {
    let site = Site::new();
    let ca = ca_with(&site, Limits { call: SHORT, ..Limits::default() }).await;
    let (mut send, connection) = h2::client::handshake(tls(&site, ca.address).await).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://ca/weft.identity.v1.Identity/Sign")
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {WEB_TOKEN}"))
        .body(())
        .unwrap();
    let (answer, mut body) = send.send_request(request, false).unwrap();
    // The frame of a message of 300 octets, and two of them.
    body.send_data(Bytes::from_static(&[0, 0, 0, 1, 44, 10, 200]), false).unwrap();
    let answer = timeout(SOON, answer).await.expect("still waiting").unwrap();
    assert_eq!(answer.headers()["grpc-status"], "4", "DEADLINE_EXCEEDED");
}

/// A caller that opens a stream and gives no room to write into it. (That its connection ends when the time for a goodbye is
/// over is a test of `callers`, where time can be set forward.)
#[tokio::test]
async fn a_stream_that_is_not_read_is_not_written_for_and_its_place_comes_back() {
    let site = Arc::new(Site::new());
    let ca = ca_with(&site, Limits { identity_connections: 1, ..Limits::default() }).await;
    let io = tls(&site, ca.address).await;
    let (mut send, connection) =
        h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://ca/weft.identity.v1.Identity/WatchBundle")
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {WEB_TOKEN}"))
        .body(())
        .unwrap();
    let (answer, _reports) = send.send_request(request, false).unwrap();
    let mut answer = timeout(SOON, answer).await.unwrap().unwrap();
    assert!(timeout(SHORT, answer.body_mut().data()).await.is_err(), "there is no window");
    let mut other = raw(&site, ca.address).await;
    let watch = || {
        with_credential(tokio_stream::pending::<WatchBundleRequest>(), Some(&format!("Bearer {WEB_TOKEN}")))
    };
    assert_eq!(other.client.watch_bundle(watch()).await.unwrap_err().code(), Code::ResourceExhausted);
    // Reset, without a word.
    connection.abort();
    drop((answer, send));
    let taken = async {
        while other.client.watch_bundle(watch()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, taken).await.expect("its place is not free");
}

#[tokio::test]
async fn a_few_refusals_end_a_connection_and_some_more_silence_an_address() {
    let site = Arc::new(Site::new());
    let rate = Rate { burst: 7, every: NEVER };
    let ca = ca_with(&site, Limits { address_refusals: rate, ..Limits::default() }).await;
    let mut liar = raw(&site, ca.address).await;
    let mut codes = Vec::new();
    // What is refused and what cannot be said any more, in whatever order the goodbye and the next call meet.
    for _ in 0..60 {
        codes.push(liar.client.sign(sign("wrong-token-0123456789abcdef")).await.unwrap_err().code());
    }
    let refused = codes.iter().filter(|code| **code == Code::Unauthenticated).count();
    assert_eq!(refused, 7, "{codes:?}");
    assert!(liar.connects.load(Ordering::Relaxed) > 2, "no connection has more than three");
    // Now a good token from there is not heard either, and one from elsewhere is.
    assert!(liar.client.sign(sign(WEB_TOKEN)).await.is_err());
    raw_from([127, 0, 0, 2], &site, ca.address).client.sign(sign(WEB_TOKEN)).await.unwrap();
}

#[tokio::test]
async fn a_crowd_of_silent_connections_keeps_nobody_out() {
    let site = Arc::new(Site::new());
    let few = Limits { connections: 8, address_connections: 6, address_unproven: 4, ..Limits::default() };
    let ca = ca_with(&site, few).await;
    let first = site.client(ca.address, WEB_TOKEN);
    first.ready().await;
    // From more addresses than there are places.
    let mut crowd = Vec::new();
    for number in 0..64 {
        let tcp = tcp_from([127, 0, 2, number % 16 + 1], ca.address).await;
        crowd.push(match number % 2 {
            0 => (Some(tcp), None),
            _ => (None, tls_over(&site, tcp).await.ok()),
        });
    }
    let second = site.client(ca.address, ORDERS_TOKEN);
    second.ready().await;
    // Whoever works was not ended for the crowd: no stream has broken.
    for client in [&first, &second] {
        assert_eq!(client.identity.status().bundle_error, None);
    }
}

/// A handshake costs the CA more than it costs whoever sends the same first message over and over.
#[tokio::test]
async fn an_address_dials_at_a_pace_and_others_at_their_own() {
    let site = Arc::new(Site::new());
    let rate = Rate { burst: 5, every: NEVER };
    let ca = ca_with(&site, Limits { address_dials: rate, ..Limits::default() }).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(tls_over(&site, tcp_from([127, 0, 5, 1], ca.address).await).await.unwrap());
    }
    for _ in 0..3 {
        closed(tcp_from([127, 0, 5, 1], ca.address).await).await;
    }
    raw_from([127, 0, 5, 2], &site, ca.address).client.sign(sign(WEB_TOKEN)).await.unwrap();
    // Those that are there stay: each can still be used.
    for stream in open {
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        timeout(SOON, send.ready()).await.expect("closed").unwrap();
    }
}

#[tokio::test]
async fn an_identity_has_so_many_streams_and_another_its_own() {
    let site = Arc::new(Site::new());
    let ca = ca_with(&site, Limits { identity_connections: 2, ..Limits::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(raw(&site, ca.address).await);
    }
    let (reports, requests) = tokio::sync::mpsc::channel::<WatchBundleRequest>(1);
    let request = with_credential(ReceiverStream::new(requests), Some(&format!("Bearer {WEB_TOKEN}")));
    let first = clients[0].client.watch_bundle(request).await.unwrap().into_inner();
    let _second = clients[0].client.watch_bundle(watch(WEB_TOKEN)).await.unwrap();
    let status = clients[0].client.watch_bundle(watch(WEB_TOKEN)).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "too many bundle streams on this connection; come again later")
    );
    let status = clients[1].client.watch_bundle(watch(WEB_TOKEN)).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "too many bundle streams of this identity; come again later")
    );
    // Its keys are signed all the same, and others are not concerned.
    clients[1].client.sign(sign(WEB_TOKEN)).await.unwrap();
    let _other = clients[2].client.watch_bundle(watch(ORDERS_TOKEN)).await.unwrap();
    drop((first, reports));
    let mut again = clients.swap_remove(1);
    let taken = async {
        while again.client.watch_bundle(watch(WEB_TOKEN)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, taken).await.expect("the place of the first is not free");
}

/// A bundle stream whose caller says nothing.
fn watch(token: &str) -> tonic::Request<tokio_stream::Pending<WatchBundleRequest>> {
    with_credential(tokio_stream::pending::<WatchBundleRequest>(), Some(&format!("Bearer {token}")))
}

/// One account's token, shown from many addresses, took all places.
#[tokio::test]
async fn an_identity_has_so_many_connections_wherever_they_come_from() {
    let site = Arc::new(Site::new());
    let config = site.config("127.0.0.1:0".parse().unwrap(), "identityConnections: 2");
    let ca = RunningCa::serve(Ca::bind(&config).await.unwrap());
    let from = |number| raw_from([127, 0, 3, number], &site, ca.address);
    let (mut working, mut idle, mut third, mut fourth) = (from(1), from(2), from(3), from(4));
    // One whose end the test can bring about.
    let (reports, requests) = tokio::sync::mpsc::channel::<WatchBundleRequest>(1);
    let request = with_credential(ReceiverStream::new(requests), Some(&format!("Bearer {WEB_TOKEN}")));
    let stream = working.client.watch_bundle(request).await.unwrap();
    idle.client.sign(sign(WEB_TOKEN)).await.unwrap();
    // The one without a call makes room.
    let _third = third.client.watch_bundle(watch(WEB_TOKEN)).await.unwrap();
    // Now all have a stream. A key is signed all the same, as often as it is asked for, and a stream is refused.
    let ended = async {
        while idle.connects.load(Ordering::Relaxed) < 3 {
            idle.client.sign(sign(WEB_TOKEN)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, ended).await.expect("its connections stay");
    let status = fourth.client.watch_bundle(watch(WEB_TOKEN)).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "too many connections of this identity; come again later")
    );
    let _other = from(5).client.watch_bundle(watch(ORDERS_TOKEN)).await.unwrap();
    for working in [&working, &third] {
        assert_eq!(working.connects.load(Ordering::Relaxed), 1, "who works is left alone");
    }
    drop((stream, reports, working));
    let taken = async {
        while fourth.client.watch_bundle(watch(WEB_TOKEN)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, taken).await.expect("the place of the first is not free");
}

/// Tokens are names of pods.
struct Pods;

impl Credentials for Pods {
    fn prove<'a>(&'a self, token: &'a str) -> Proving<'a> {
        let id = "spiffe://weft.local/ns/shop/sa/web".parse().unwrap();
        let pod = Some(PodRef { name: token.to_owned(), uid: format!("uid-of-{token}") });
        Box::pin(std::future::ready(Ok(Proof { id, pod })))
    }
}

#[tokio::test]
async fn a_pod_has_so_many_connections_wherever_they_come_from() {
    let site = Arc::new(Site::new());
    let pem = RootPem::generate(&"weft.local".parse().unwrap(), NEVER).unwrap();
    std::fs::create_dir(site.path("data")).unwrap();
    site.write("data/root.pem", &pem.bundle);
    let parts = CaParts {
        listen: "127.0.0.1:0".parse().unwrap(),
        authority: Authority::new(pem, CA_ID.parse().unwrap(), SOON).unwrap(),
        credentials: Arc::new(Pods),
        registry: Registry::default(),
        spans: ServerSpans::default(),
    };
    let ca = RunningCa::serve(Ca::with(parts).await.unwrap());
    let mut other = raw_from([127, 0, 4, 100], &site, ca.address);
    let mut others = other.client.watch_bundle(watch("orders-1")).await.unwrap().into_inner();
    assert!(timeout(SOON, others.message()).await.unwrap().unwrap().is_some());
    let (mut streams, most) = (Vec::new(), Limits::default().pod_connections);
    for number in 1..=most as u8 + 3 {
        let mut raw = raw_from([127, 0, 4, number], &site, ca.address);
        let mut stream = raw.client.watch_bundle(watch("web-1")).await.unwrap().into_inner();
        assert!(timeout(SOON, stream.message()).await.unwrap().unwrap().is_some());
        streams.push((raw, stream));
    }
    for (_, stream) in &mut streams[..3] {
        let end = timeout(SOON, stream.message()).await.expect("still open");
        assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    }
    for stream in streams[3..].iter_mut().map(|(_, stream)| stream).chain([&mut others]) {
        assert!(timeout(Duration::from_millis(5), stream.message()).await.is_err(), "it was ended");
    }
}

/// Says that every token but the good one is bad, after a while, and counts how often it was asked.
struct Slow {
    asked: AtomicUsize,
    at_once: AtomicUsize,
    most: AtomicUsize,
}

impl Credentials for Slow {
    fn prove<'a>(&'a self, token: &'a str) -> Proving<'a> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let now = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(now, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.at_once.fetch_sub(1, Ordering::Relaxed);
            match token {
                "good" => Ok(Proof::of("spiffe://weft.local/ns/shop/sa/web".parse().unwrap())),
                _ => Err(Unproven::Refused("bad".to_owned())),
            }
        })
    }
}

/// Four connections of one pod made 620 questions a second, and 260 of them starved all others.
#[tokio::test]
async fn what_one_address_asks_is_bounded_and_others_are_served_meanwhile() {
    let site = Arc::new(Site::new());
    let pem = RootPem::generate(&"weft.local".parse().unwrap(), NEVER).unwrap();
    std::fs::create_dir(site.path("data")).unwrap();
    site.write("data/root.pem", &pem.bundle);
    let slow = Arc::new(Slow {
        asked: AtomicUsize::new(0),
        at_once: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
    });
    let parts = CaParts {
        listen: "127.0.0.1:0".parse().unwrap(),
        authority: Authority::new(pem, CA_ID.parse().unwrap(), SOON).unwrap(),
        credentials: slow.clone(),
        registry: Registry::default(),
        spans: ServerSpans::default(),
    };
    let ca = RunningCa::serve(Ca::with(parts).await.unwrap());
    // Both ways: with a token that is refused, and with a good one shown over and over.
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..260_u32 {
        let (site, address) = (site.clone(), ca.address);
        let source = if number % 2 == 0 { [127, 0, 0, 3] } else { [127, 0, 0, 4] };
        flood.spawn(async move {
            let mut raw = raw_from(source, &site, address);
            loop {
                let _ = raw.client.sign(sign(if number % 2 == 0 { "bad" } else { "good" })).await;
                // Or the flood's own side takes all of the machine.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    eventually(|| if slow.asked.load(Ordering::Relaxed) > 60 { Ok(()) } else { Err("no flood".to_owned()) })
        .await;
    let (before, began) = (slow.asked.load(Ordering::Relaxed), std::time::Instant::now());
    let genuine = async {
        for number in 10..30 {
            raw_from([127, 0, 0, number], &site, ca.address).client.sign(sign("good")).await.unwrap();
        }
    };
    timeout(SOON, genuine).await.expect("genuine callers starve");
    let asked = slow.asked.load(Ordering::Relaxed) - before;
    // One refusal a second and ten questions a second, with what is left of the bursts, and the twenty genuine ones.
    let allowed = 20 + 60 + 20 + 11 * (began.elapsed().as_secs() as usize + 1);
    assert!(asked <= allowed, "{asked} questions in {:?}", began.elapsed());
    assert!(slow.most.load(Ordering::Relaxed) <= 9, "four of each address, and one");
    flood.shutdown().await;
}
