//! The exchange of an application's requests, against peers in memory and on a clock of the test.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_config::{Env, ProxyConfig, RetryBudget};
use weft_core::{
    AppProtocol, Drain, EndpointAddr, EndpointList, EndpointSource, MtlsMode, PeerRule, SpiffeId,
};
use weft_http::{ErrorCode, Http2Client, Http2Limits, serve_http1};
use weft_telemetry::AccessLogMode;
use weft_telemetry::access::AccessLogTarget;
use weft_telemetry::metrics::Direction;
use weft_telemetry::{AccessLog, Registry, Sampler};

use super::{Exchange, Outbound, Times};
use crate::cluster::{Beyond, Cluster, Connect, Connecting, MeshRule, Opened, Ways};
use crate::destination::Destination;
use crate::dial::DialError;
use crate::limits::Limits;
use crate::shared::Service;
use crate::telemetry::WorkerTelemetry;

/// What a peer does with a request.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// Answers 200 with this text, when it has read the whole request.
    Answers(&'static str),
    /// Reads nothing and says nothing.
    Nothing,
    /// Begins an answer, and never ends it.
    Begins,
    /// Refuses the stream once so much of the body has come.
    Refuses(usize),
    /// Refuses its first stream and takes no more on that connection, as an application that ends; after that its sidecar says
    /// that it is gone.
    Leaves,
    /// Its sidecar says that the application is gone.
    Left,
    /// Closes the connection after so long.
    Closes(Duration),
    /// Begins a gRPC answer, and says this status at its end.
    Status(&'static str),
    /// Cannot be connected to, which takes so long to tell: as a pod whose node is gone.
    Vanished(Duration),
}

/// Peers in memory. What a link is opened to is noted.
#[derive(Default)]
struct Peers {
    does: RefCell<HashMap<EndpointAddr, Does>>,
    /// Request bodies as they came whole, by endpoint.
    got: Rc<RefCell<Vec<(EndpointAddr, String)>>>,
    links: RefCell<Vec<(EndpointAddr, String)>>,
}

impl Connect for Peers {
    fn link<'a>(
        &'a self,
        endpoint: EndpointAddr,
        rule: &'a PeerRule,
        limits: &'a Http2Limits,
    ) -> Connecting<'a, Opened> {
        Box::pin(async move {
            self.links.borrow_mut().push((endpoint, rule.to_string()));
            let Some(does) = self.does.borrow().get(&endpoint).copied() else {
                return Err(DialError::new(ErrorCode::ConnectRefused, &"nobody"));
            };
            if let Does::Vanished(after) = does {
                tokio::time::sleep(after).await;
                return Err(DialError::new(ErrorCode::ConnectTimeout, &"no answer"));
            }
            let (near, far) = duplex(1 << 20);
            let first = self.links.borrow().iter().filter(|(to, _)| *to == endpoint).count() == 1;
            tokio::task::spawn_local(serve(far, endpoint, does, first, Rc::clone(&self.got)));
            let client = Http2Client::handshake(near, limits, ()).await.unwrap();
            let peer: SpiffeId = "spiffe://mesh.test/ns/shop/sa/orders".parse().unwrap();
            Ok(Opened { client, peer, generation: 0 })
        })
    }

    fn plain(&self, _endpoint: EndpointAddr) -> Connecting<'_, TcpStream> {
        Box::pin(async { Err(DialError::new(ErrorCode::ConnectRefused, &"no plaintext here")) })
    }
}

/// Serves one connection of a peer.
async fn serve(
    io: DuplexStream,
    endpoint: EndpointAddr,
    does: Does,
    mut first: bool,
    got: Rc<RefCell<Vec<(EndpointAddr, String)>>>,
) {
    let mut connection = h2::server::handshake(io).await.unwrap();
    // Held: dropping one of these is an answer, too.
    let mut held = Vec::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        if let Does::Closes(after) = does {
            // The connection has to go on for the request to be there.
            tokio::select! {
                () = tokio::time::sleep(after) => return,
                _ = connection.accept() => return,
            }
        }
        let does = match does {
            Does::Leaves if std::mem::replace(&mut first, false) => {
                connection.graceful_shutdown();
                Does::Refuses(0)
            }
            Does::Leaves => Does::Left,
            does => does,
        };
        held.push(tokio::task::spawn_local(act(request, respond, endpoint, does, Rc::clone(&got))));
    }
}

async fn act(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    endpoint: EndpointAddr,
    does: Does,
    got: Rc<RefCell<Vec<(EndpointAddr, String)>>>,
) {
    let mut body = request.into_body();
    let mut read = Vec::new();
    let until = if let Does::Refuses(until) = does { until } else { usize::MAX };
    if !matches!(does, Does::Nothing) {
        while read.len() < until
            && let Some(Ok(data)) = body.data().await
        {
            body.flow_control().release_capacity(data.len()).unwrap();
            read.extend_from_slice(&data);
        }
    }
    match does {
        Does::Answers(text) => {
            got.borrow_mut().push((endpoint, String::from_utf8(read).unwrap()));
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(text.into(), true).unwrap();
        }
        Does::Leaves | Does::Left => {
            got.borrow_mut().push((endpoint, "left".to_owned()));
            let told = weft_http::Refusal { code: ErrorCode::ConnectRefused, grpc: false };
            let mut head = told.response().map(drop);
            head.headers_mut().remove("content-length");
            let _ = respond.send_response(head, true).unwrap();
        }
        Does::Refuses(_) => respond.send_reset(Reason::REFUSED_STREAM),
        Does::Begins => {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data("the beginning".into(), false).unwrap();
            std::future::pending::<()>().await;
        }
        Does::Status(status) => {
            let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data("message".into(), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
        Does::Nothing | Does::Closes(_) | Does::Vanished(_) => std::future::pending().await,
    }
}

/// What clusters have in common whose connections come about so.
pub(super) fn ways(connect: Rc<dyn Connect>, budget: RetryBudget) -> (Rc<Ways>, Registry) {
    let text = "identity: {trustDomain: mesh.test, files: {certificate: c, key: k, bundle: b}}\n";
    let mut config = ProxyConfig::from_text(Path::new("weft.yaml"), text, &Env::empty()).unwrap();
    config.retries.budget = budget;
    let registry = Registry::default();
    let sampler = Arc::new(Sampler::new(0.0).unwrap());
    let target = AccessLogTarget::File("/dev/null".into());
    let (access, _writer) = AccessLog::start(&target, AccessLogMode::Off, 1, &registry).unwrap();
    let telemetry = Rc::new(WorkerTelemetry::new(&registry, &sampler, None, &access));
    let ways = Rc::new(Ways {
        connect,
        telemetry,
        limits: Rc::new(Limits::new(&config)),
        retries: config.retries,
        max_connections: 4,
        generation: Rc::new(Cell::new(0)),
        rng: RefCell::new(fastrand::Rng::with_seed(1)),
        affinity_key: 1,
        direction: Direction::Outbound,
        handshake: SECOND,
    });
    (ways, registry)
}

/// Serves a client's requests to a cluster.
pub(super) fn client_of(cluster: &Rc<Cluster>, times: Times) -> DuplexStream {
    let (client, io) = duplex(1 << 16);
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let side = Outbound::new(Destination::of_cluster(cluster), None, false, (at(1), at(2)));
    let facts = side.facts(at(1));
    let ways = &cluster.ways;
    let handler = Exchange::new(side, &ways.telemetry, facts, times);
    let limits = ways.limits.http1;
    tokio::task::spawn_local(async move {
        let _ = serve_http1(io, |_| (), handler, &limits, Drain::never()).await;
    });
    client
}

/// A client whose connection an exchange serves.
struct Scene {
    peers: Rc<Peers>,
    cluster: Rc<Cluster>,
    registry: Registry,
    times: Times,
}

fn endpoint(last: u8) -> EndpointAddr {
    EndpointAddr::new(([10, 0, 0, last], 80).into())
}

pub(super) fn rule(namespace: &str) -> MeshRule {
    let peer = PeerRule {
        trust_domain: "mesh.test".parse().unwrap(),
        namespace: Some(namespace.parse().unwrap()),
        service_accounts: Vec::new(),
    };
    MeshRule::new(MtlsMode::Strict.into(), peer)
}

impl Scene {
    /// Endpoints 10.0.0.1 and on that do this.
    fn new(does: &[Does]) -> Self {
        Self::with_budget(does, RetryBudget { percent: 20, min_per_second: 10 })
    }

    fn with_budget(does: &[Does], budget: RetryBudget) -> Self {
        let peers = Rc::new(Peers::default());
        let all: Vec<EndpointAddr> = (1..).map(endpoint).take(does.len()).collect();
        peers.does.borrow_mut().extend(all.iter().copied().zip(does.iter().copied()));
        let (ways, registry) = ways(Rc::clone(&peers) as _, budget);
        let list = EndpointList::new(1, all, AppProtocol::Http, EndpointSource::Static);
        let cluster = Cluster::new(
            &ways,
            &"orders.shop:80".into(),
            rule("shop"),
            Service::listed(&list),
            Beyond::default(),
        );
        Self { peers, cluster, registry, times: Times::default() }
    }

    /// With `timeouts.request`.
    fn within(self, limit: Duration) -> Self {
        Self { times: Times { request: Some(limit), ..self.times }, ..self }
    }

    /// A client's connection.
    fn client(&self) -> DuplexStream {
        client_of(&self.cluster, self.times)
    }

    /// Sends `text` and reads until the connection ends.
    async fn ask(&self, text: &str) -> String {
        let mut client = self.client();
        client.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer).await;
        answer
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        self.registry.encode(&mut text);
        text
    }
}

async fn locally(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n";
const SECOND: Duration = Duration::from_secs(1);

/// The moment that a request has to be over by is told from when it came, by the clock of the machine, which does not stand
/// still here: what the test has taken so far is added.
fn is_a_second(took: Duration) -> bool {
    (SECOND..SECOND + SECOND / 4).contains(&took)
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_request_is_that_of_all_its_tries() {
    locally(async {
        let slow = Does::Closes(Duration::from_millis(700));
        let scene = Scene::new(&[slow, slow, slow]).within(SECOND);
        let began = Instant::now();
        let answer = scene.ask(GET).await;
        assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
        assert!(is_a_second(began.elapsed()), "{:?}: one second, not one for each try", began.elapsed());
        assert_eq!(scene.peers.links.borrow().len(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_request_is_that_of_an_upgrade_as_well() {
    locally(async {
        let scene = Scene::new(&[Does::Nothing]).within(SECOND);
        let began = Instant::now();
        let upgrade =
            "GET /ws HTTP/1.1\r\nhost: orders\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n";
        let answer = scene.ask(upgrade).await;
        assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
        assert!(is_a_second(began.elapsed()), "{:?}", began.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_request_is_that_of_its_answers_last_octet() {
    locally(async {
        let scene = Scene::new(&[Does::Begins]).within(SECOND);
        let began = Instant::now();
        let answer = scene.ask(GET).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("the beginning"), "{answer}");
        assert!(!answer.ends_with("0\r\n\r\n"), "half an answer must not look whole: {answer}");
        assert!(is_a_second(began.elapsed()), "{:?}", began.elapsed());
        assert!(scene.metrics().contains("error_type=\"upstream-timeout\""), "{}", scene.metrics());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_half_read_goes_whole_to_the_next() {
    locally(async {
        for read in [0, 1, 5_000, 9_999] {
            let scene = Scene::new(&[Does::Refuses(read), Does::Answers("thanks")]);
            let body: String = ('a'..='z').cycle().take(10_000).collect();
            let mut client = scene.client();
            let head =
                "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 10000\r\nconnection: close\r\n\r\n";
            client.write_all(head.as_bytes()).await.unwrap();
            for part in body.as_bytes().chunks(1_000) {
                client.write_all(part).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{read}: {answer}");
            let got = scene.peers.got.borrow();
            assert_eq!(got.len(), 1);
            assert!(got[0] == (endpoint(2), body), "{read}: {} octets came", got[0].1.len());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_not_looked_at_goes_elsewhere_without_a_budget() {
    locally(async {
        let none = RetryBudget { percent: 0, min_per_second: 0 };
        let scene = Scene::with_budget(&[Does::Refuses(0), Does::Answers("here")], none);
        for _ in 0..20 {
            let answer = scene.ask(GET).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    })
    .await;
}

/// A connection that ends refuses what comes at that moment, and says nothing of its endpoint: as many endpoints are asked as for a
/// request that no connection has refused.
#[tokio::test(start_paused = true)]
async fn the_refusal_of_a_last_connection_is_no_try() {
    locally(async {
        for second in [Does::Left, Does::Leaves] {
            let scene = Scene::new(&[Does::Left, second, Does::Left]);
            let answer = scene.ask(GET).await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            let mut asked: Vec<_> = scene.peers.got.borrow().iter().map(|(at, _)| *at).collect();
            asked.sort_unstable();
            assert_eq!(asked, [endpoint(1), endpoint(2), endpoint(3)], "{second:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_seen_is_sent_again_as_often_as_the_budget_says() {
    locally(async {
        let few = RetryBudget { percent: 0, min_per_second: 1 };
        let closes = Does::Closes(Duration::ZERO);
        let scene = Scene::with_budget(&[closes, closes], few);
        for _ in 0..30 {
            let answer = scene.ask(GET).await;
            assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        }
        let metrics = scene.metrics();
        let made =
            r#"weft_http_retries_total{destination_service="orders.shop:80",reason="connection_lost"} 10"#;
        assert!(metrics.contains(made), "ten seconds' worth: {metrics}");
        let refused = r#"weft_http_retries_refused_total{destination_service="orders.shop:80"}"#;
        assert!(metrics.contains(refused), "{metrics}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_says_nothing_is_not_waited_for_where_there_is_another() {
    locally(async {
        let gone = Does::Vanished(5 * SECOND);
        for does in [[gone, Does::Answers("here")], [Does::Answers("here"), gone]] {
            let scene = Scene::new(&does);
            for _ in 0..20 {
                let began = Instant::now();
                let answer = scene.ask(GET).await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                assert!(began.elapsed() < Duration::from_millis(350), "{:?}", began.elapsed());
            }
            let dials = scene.peers.links.borrow().len();
            assert!(dials <= 2, "{dials} dials: what was slow is not tried again by the next request");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn of_two_that_are_slow_the_one_that_comes_is_taken() {
    locally(async {
        let scene =
            Scene::new(&[Does::Vanished(SECOND / 2), Does::Vanished(5 * SECOND), Does::Answers("third")]);
        for _ in 0..10 {
            let began = Instant::now();
            let answer = scene.ask(GET).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
        }
        let alone = Scene::new(&[Does::Vanished(5 * SECOND)]);
        let answer = alone.ask(GET).await;
        assert!(answer.starts_with("HTTP/1.1 503") || answer.starts_with("HTTP/1.1 504"), "{answer}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_has_nowhere_to_go_is_none() {
    locally(async {
        let scene = Scene::new(&[Does::Closes(Duration::ZERO)]);
        let answer = scene.ask(GET).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert!(!scene.metrics().contains("weft_http_retries_total{"), "{}", scene.metrics());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_grpc_status_at_the_end_is_a_failure_to_balancing_and_metrics() {
    locally(async {
        let grpc = "POST /a.B/C HTTP/1.1\r\nhost: orders\r\ncontent-type: application/grpc\r\nte: trailers\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        for (status, failures) in [("0", 0), ("5", 0), ("14", 1)] {
            let scene = Scene::new(&[Does::Status(status)]);
            let answer = scene.ask(grpc).await;
            assert!(answer.to_lowercase().contains(&format!("grpc-status: {status}")), "{answer}");
            let picked = scene.cluster.pick_now(weft_balance::Timestamp::now(), &[]).unwrap();
            assert_eq!(picked.links.endpoint.consecutive_failures(), failures, "status {status}");
            assert_eq!(scene.metrics().contains("error_type=\"UNAVAILABLE\""), failures > 0);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_says_nothing_of_the_endpoint() {
    locally(async {
        let scene = Scene::new(&[Does::Begins]);
        let mut client = scene.client();
        client.write_all(GET.as_bytes()).await.unwrap();
        let mut some = [0; 64];
        assert!(client.read(&mut some).await.unwrap() > 0);
        drop(client);
        tokio::time::sleep(SECOND).await;
        let picked = scene.cluster.pick_now(weft_balance::Timestamp::now(), &[]).unwrap();
        assert_eq!(picked.links.endpoint.consecutive_failures(), 0);
        assert_eq!(picked.links.endpoint.in_flight(), 1, "this one alone");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_open_connection_follows_whom_its_destination_may_be() {
    locally(async {
        let scene = Scene::new(&[Does::Answers("one")]);
        let mut client = scene.client();
        let ask = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";
        let mut some = [0; 1_024];
        for namespace in ["shop", "shop", "vault"] {
            scene.cluster.follow(rule(namespace), None);
            client.write_all(ask.as_bytes()).await.unwrap();
            assert!(client.read(&mut some).await.unwrap() > 0);
            tokio::time::sleep(SECOND).await;
        }
        let links: Vec<String> = scene.peers.links.borrow().iter().map(|(_, rule)| rule.clone()).collect();
        assert_eq!(links.len(), 2, "a link was used under a rule that it was not opened with: {links:?}");
        assert!(links[1].contains("/ns/vault/"), "{links:?}");
    })
    .await;
}
