use std::net::IpAddr;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::duplex;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream as ClientStream;

use super::super::budget::{Bounds, Pool};
use super::tests::{Root, call, client, connect, dial, exchange, options, pod, review, shaken, trusting};
use super::*;

/// A webhook that serves, with what a test has to know of it.
struct Served {
    address: SocketAddr,
    root: Arc<Root>,
    registry: Registry,
    leaving: weft_core::DrainTrigger,
    drain: weft_core::DrainTrigger,
    task: tokio::task::JoinHandle<()>,
}

async fn served(change: impl FnOnce(&mut WebhookOptions), bounds: impl FnOnce(&mut Webhook)) -> Served {
    let (root, _) = Root::new(Duration::from_secs(3600));
    let mut options = options(root.clone());
    change(&mut options);
    let registry = options.registry.clone();
    let mut webhook = Webhook::bind(options).await.unwrap();
    bounds(&mut webhook);
    let address = webhook.local_addr();
    let ((leaving, left), (drain, drained)) = (weft_core::drain(), weft_core::drain());
    let task = tokio::spawn(webhook.serve(left, drained));
    Served { address, root, registry, leaving, drain, task }
}

fn seats(webhook: &mut Webhook, total: usize, per_address: usize) {
    webhook.seats = Seats::new(Limits { total, per_address });
    Arc::get_mut(&mut webhook.handler).unwrap().seats = webhook.seats.clone();
}

/// One pool for everything.
fn pool(octets: usize, share: usize) -> Pool {
    Pool::new(Bounds { common: share, all_common: octets, all_larger: 0, share })
}

impl Served {
    async fn asks(&self) -> u16 {
        call(self.address, &self.root, "POST /inject", &review(&pod())).await.0
    }

    fn counted(&self, line: &str) -> bool {
        let mut text = String::new();
        self.registry.encode(&mut text);
        text.lines().any(|found| found == line)
    }
}

/// Waits for the end of a connection.
async fn ends(mut stream: impl AsyncRead + Unpin) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn who_says_nothing_or_half_a_head_keeps_nobody_out() {
    let served = served(|_| {}, |webhook| seats(webhook, 8, 6)).await;
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(dial(served.address, 2).await);
    }
    let mut halves = Vec::new();
    for _ in 0..2 {
        let mut half =
            trusting(dial(served.address, 3).await, served.root.certificate.clone()).await.unwrap();
        half.write_all(b"POST /inject HTTP/1.1\r\nhost:").await.unwrap();
        halves.push(half);
    }
    for _ in 0..4 {
        assert_eq!(served.asks().await, 200);
    }
    // The oldest of the address that had most.
    ends(silent.remove(0)).await;
    assert!(served.counted("weft_injector_connections_ended_total{reason=\"room\"} 1"));
}

#[tokio::test]
async fn bodies_that_do_not_come_make_room() {
    const KIB: usize = 1 << 10;
    let served = served(
        |_| {},
        |webhook| Arc::get_mut(&mut webhook.handler).unwrap().bodies = pool(64 * KIB, 32 * KIB),
    )
    .await;
    let mut slow = Vec::new();
    for last in [2, 3] {
        let mut tls =
            trusting(dial(served.address, last).await, served.root.certificate.clone()).await.unwrap();
        let head =
            "POST /inject HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 32768\r\n\r\n";
        tls.write_all(head.as_bytes()).await.unwrap();
        // The server asks for it, so it has room.
        tls.read_exact(&mut [0; 25]).await.unwrap();
        slow.push(tls);
    }
    assert_eq!(served.asks().await, 200);
    ends(slow.remove(0)).await;
}

#[tokio::test]
async fn what_would_take_too_much_memory_is_not_read() {
    let served = served(|_| {}, |_| {}).await;
    let many = [b"[".to_vec(), br#"{"":0},"#.repeat(20_000), b"0]".to_vec()].concat();
    let (status, told) = call(served.address, &served.root, "POST /inject", &many).await;
    assert_eq!(status, 413);
    assert!(String::from_utf8_lossy(&told).contains("octets of memory"));
    let deep = "[".repeat(1 << 20);
    assert_eq!(call(served.address, &served.root, "POST /inject", deep.as_bytes()).await.0, 400);
    assert!(served.counted("weft_injections_total{outcome=\"too_large\"} 1"));
    assert_eq!(served.asks().await, 200);
}

#[tokio::test]
async fn who_finds_no_room_is_told_to_come_again() {
    let mut held = None;
    let served = served(
        |_| {},
        |webhook| {
            let handler = Arc::get_mut(&mut webhook.handler).unwrap();
            handler.trees = pool(1 << 20, 1 << 20);
            held = handler.trees.try_take(IpAddr::from([10, 0, 0, 1]), 1 << 20).ok();
        },
    )
    .await;
    let tls = connect(served.address, &served.root).await;
    let (head, _) = exchange(tls, "POST /inject", &review(&pod())).await;
    assert!(head.starts_with("HTTP/1.1 429") && head.contains("retry-after: 1"), "{head}");
    assert!(served.counted("weft_injections_total{outcome=\"busy\"} 1"));
    drop(held);
    assert_eq!(served.asks().await, 200);
}

/// An authority of the cluster, and what it gives a client of that name.
fn cluster() -> (String, impl Fn(&str) -> (CertificateDer<'static>, PrivateKeyDer<'static>)) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let issue = move |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&key, &issuer).unwrap();
        (leaf.der().clone(), PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))
    };
    (pem, issue)
}

#[tokio::test]
async fn only_the_api_servers_certificate_may_ask_where_one_is_wanted() {
    let ((pem, issue), (_, other)) = (cluster(), cluster());
    let served = served(
        |options| {
            options.callers =
                WebhookSettings { client_ca: pem, client_names: vec!["kube-apiserver".to_owned()] };
        },
        |_| {},
    )
    .await;
    let root = || served.root.certificate.clone();
    let with = async |(leaf, key): (CertificateDer<'static>, PrivateKeyDer<'static>)| {
        let config = client(root()).with_client_auth_cert(vec![leaf], key).unwrap();
        shaken(dial(served.address, 1).await, config).await
    };
    let head = async |tls: ClientStream<TcpStream>| exchange(tls, "POST /inject", &review(&pod())).await.0;
    assert!(head(with(issue("kube-apiserver")).await.unwrap()).await.starts_with("HTTP/1.1 200"));
    assert!(head(with(issue("system:node:a")).await.unwrap()).await.starts_with("HTTP/1.1 403"));
    assert!(served.counted("weft_injections_total{outcome=\"forbidden\"} 1"));
    // In TLS 1.3 a client hears of its refusal when it reads.
    let refused = async |tls: std::io::Result<ClientStream<TcpStream>>| {
        let Ok(mut tls) = tls else { return };
        let mut answer = Vec::new();
        assert!(tls.read_to_end(&mut answer).await.is_err() && answer.is_empty());
    };
    refused(with(other("kube-apiserver")).await).await;
    refused(trusting(dial(served.address, 1).await, root()).await).await;
}

#[tokio::test]
async fn a_replica_that_is_told_to_end_goes_on_serving_whoever_comes() {
    let served = served(|_| {}, |_| {}).await;
    let kept = connect(served.address, &served.root).await;
    let mut idle = connect(served.address, &served.root).await;
    served.leaving.start(Duration::from_secs(60));
    assert_eq!(served.asks().await, 200);
    // A connection that was there before is answered, and told to end; so is one that asks to be kept.
    let mut kept = kept;
    let body = review(&pod());
    let head = format!("POST /inject HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    kept.write_all(head.as_bytes()).await.unwrap();
    kept.write_all(&body).await.unwrap();
    let mut answer = Vec::new();
    kept.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    assert!(answer.contains("x-content-type-options: nosniff"), "{answer}");
    drop(kept);
    // One that has nothing under way meets an orderly end at the last, and what is on its way then no reset.
    served.drain.start(Duration::from_secs(5));
    assert_eq!(idle.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    for _ in 0..3 {
        idle.get_mut().0.write_all(head.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    drop(idle);
    served.task.await.unwrap();
}

/// A connection in memory, whose times are those of a paused clock.
async fn in_memory(buffer: usize) -> (tokio::io::DuplexStream, Arc<Root>, tokio::task::JoinHandle<Duration>) {
    let (root, _) = Root::new(Duration::from_secs(3600));
    let webhook = Webhook::bind(options(root.clone())).await.unwrap();
    let (ours, theirs) = duplex(buffer);
    let door = Door {
        callers: None,
        seats: webhook.seats.clone(),
        handler: webhook.handler.clone(),
        lingering: Arc::new(Semaphore::new(1)),
        leaving: Drain::never(),
        drain: Drain::never(),
    };
    let seat = Arc::new(door.seats.take(IpAddr::from([10, 0, 0, 1])).unwrap());
    let acceptor = TlsAcceptor::from(webhook.serving.config());
    let task = tokio::spawn(async move {
        let began = Instant::now();
        door.connection(acceptor, ours, ([10, 0, 0, 1], 1234).into(), seat).await;
        began.elapsed()
    });
    (theirs, root, task)
}

#[tokio::test(start_paused = true)]
async fn every_silence_has_its_end() {
    let (_never_speaks, _, task) = in_memory(1 << 16).await;
    assert_eq!(task.await.unwrap().as_secs(), 10);

    let (stream, root, task) = in_memory(1 << 16).await;
    sleep(Duration::from_secs(9)).await;
    let mut half = trusting(stream, root.certificate.clone()).await.unwrap();
    half.write_all(b"POST /inject HTTP/1.1\r\n").await.unwrap();
    assert_eq!(task.await.unwrap().as_secs(), 19);

    let (stream, root, task) = in_memory(1 << 16).await;
    let mut half_a_body = trusting(stream, root.certificate.clone()).await.unwrap();
    half_a_body.write_all(b"POST /inject HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{").await.unwrap();
    let mut answer = Vec::new();
    let _ = half_a_body.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    drop(half_a_body);
    assert_eq!(task.await.unwrap().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_ends_the_connection() {
    let (stream, root, task) = in_memory(4096).await;
    let mut tls = trusting(stream, root.certificate.clone()).await.unwrap();
    let body = review(&pod());
    let head = format!("POST /inject HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    // Each answer is larger than a quarter of the buffer: they soon find no room.
    for _ in 0..16 {
        let wrote = timeout(Duration::from_secs(60), async {
            tls.write_all(head.as_bytes()).await?;
            tls.write_all(&body).await
        });
        if !matches!(wrote.await, Ok(Ok(()))) {
            break;
        }
    }
    let took = task.await.unwrap();
    assert!(took.as_secs() >= 10 && took.as_secs() <= 11, "{took:?}");
}
