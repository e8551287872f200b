//! Requests to applications without a sidecar, over sockets of this machine: what is promised of them holds whether a request is sent
//! at once, over a connection that was idle, or has to wait for one.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use weft_balance::Timestamp;
use weft_config::RetryBudget;
use weft_core::{AppProtocol, EndpointAddr, EndpointList, EndpointSource, MtlsMode, PeerRule};
use weft_http::{ErrorCode, Http2Limits};
use weft_telemetry::Registry;

use super::Times;
use super::tests::{client_of, rule, ways};
use crate::cluster::{Beyond, Cluster, Connect, Connecting, Opened};
use crate::dial::DialError;
use crate::shared::Service;

/// What an application does with a request; `What::Good` first on each connection, so that it is idle afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Answers.
    Good,
    /// Answers before it has read the request's body, and reads it then.
    Early,
    /// Closes without a word, as one does whose patience with an idle connection has just ended.
    Closes,
    /// Resets the connection.
    Resets,
    /// Closes after half a head.
    HalfHead,
    /// Closes after half a body.
    HalfBody,
    /// Says nothing.
    Never,
    /// Answers 503.
    Fails,
}

/// An application: what it does with the requests that follow the first on a connection, and what it has got.
struct Application {
    then: Cell<What>,
    connections: Cell<usize>,
    /// Method and body of each request that came whole.
    got: RefCell<Vec<(String, String)>>,
}

/// Applications on sockets.
#[derive(Default)]
struct Sockets(RefCell<HashMap<EndpointAddr, std::net::SocketAddr>>);

impl Connect for Sockets {
    fn link<'a>(&'a self, _: EndpointAddr, _: &'a PeerRule, _: &'a Http2Limits) -> Connecting<'a, Opened> {
        Box::pin(async { Err(DialError::new(ErrorCode::TlsFailed, &"no mesh here")) })
    }

    fn plain(&self, endpoint: EndpointAddr) -> Connecting<'_, TcpStream> {
        let at = self.0.borrow().get(&endpoint).copied();
        Box::pin(async move {
            let refused = |_| DialError::new(ErrorCode::ConnectRefused, &"nobody");
            TcpStream::connect(at.ok_or(()).map_err(refused)?).await.map_err(|_| refused(()))
        })
    }
}

struct Scene {
    cluster: Rc<Cluster>,
    registry: Registry,
    applications: Vec<Rc<Application>>,
    sockets: Rc<Sockets>,
}

fn endpoint(at: usize) -> EndpointAddr {
    EndpointAddr::new(([10, 0, 0, at as u8 + 1], 80).into())
}

impl Scene {
    async fn new(then: &[What], mode: MtlsMode, budget: RetryBudget) -> Self {
        let sockets = Rc::new(Sockets::default());
        let mut applications = Vec::new();
        for (at, then) in then.iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sockets.0.borrow_mut().insert(endpoint(at), listener.local_addr().unwrap());
            let application = Rc::new(Application {
                then: Cell::new(*then),
                connections: Cell::default(),
                got: RefCell::default(),
            });
            applications.push(Rc::clone(&application));
            tokio::task::spawn_local(accept(listener, application));
        }
        let (ways, registry) = ways(Rc::clone(&sockets) as _, budget);
        let all: Vec<EndpointAddr> = (0..then.len()).map(endpoint).collect();
        let list = EndpointList::new(1, all, AppProtocol::Http, EndpointSource::Static);
        let rule = crate::cluster::MeshRule { mode: mode.into(), ..rule("shop") };
        let service = Service::listed(&list);
        let cluster = Cluster::new(&ways, &"orders.shop:80".into(), rule, service, Beyond::default());
        Self { cluster, registry, applications, sockets }
    }

    /// One application that does this with a request that finds its connection idle.
    async fn one(then: What) -> Self {
        Self::new(&[then], MtlsMode::Disable, RetryBudget { percent: 20, min_per_second: 10 }).await
    }

    fn client(&self) -> Client {
        Client(client_of(&self.cluster, Times::default()))
    }

    fn connections(&self, at: usize) -> usize {
        self.applications[at].connections.get()
    }

    fn got(&self, at: usize) -> Vec<(String, String)> {
        self.applications[at].got.borrow().clone()
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        self.registry.encode(&mut text);
        text
    }

    fn retries(&self, reason: &str) -> bool {
        let series =
            format!("weft_http_retries_total{{destination_service=\"orders.shop:80\",reason=\"{reason}\"}}");
        self.metrics().contains(&series)
    }

    fn in_flight(&self) -> u32 {
        // This one is one.
        self.cluster.pick_now(Timestamp::now(), &[]).unwrap().links.endpoint.in_flight() - 1
    }
}

struct Client(DuplexStream);

impl Client {
    /// Sends a request and brings its answer's head and body (which has to be there: `content-length`).
    async fn ask(&mut self, request: &str) -> String {
        self.0.write_all(request.as_bytes()).await.unwrap();
        self.answer().await
    }

    async fn answer(&mut self) -> String {
        let read = read_message(&mut self.0);
        let (head, body) = tokio::time::timeout(Duration::from_secs(20), read).await.unwrap();
        format!("{head}{body}")
    }

    async fn get(&mut self) -> String {
        self.ask("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await
    }
}

/// Head and body, as far as they come.
async fn read_message(io: &mut (impl AsyncReadExt + Unpin)) -> (String, String) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && io.read(&mut byte).await.is_ok_and(|n| n > 0) {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length =
        head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    let mut have = 0;
    while have < body.len() {
        match io.read(&mut body[have..]).await {
            Ok(more) if more > 0 => have += more,
            _ => break,
        }
    }
    body.truncate(have);
    (head, String::from_utf8(body).unwrap())
}

async fn accept(listener: TcpListener, application: Rc<Application>) {
    while let Ok((stream, _)) = listener.accept().await {
        application.connections.set(application.connections.get() + 1);
        tokio::task::spawn_local(serve(stream, Rc::clone(&application)));
    }
}

async fn serve(mut stream: TcpStream, application: Rc<Application>) {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood";
    let mut what = What::Good;
    loop {
        if what == What::Early {
            let mut some = [0; 1];
            stream.peek(&mut some).await.unwrap();
            stream.write_all(ANSWER).await.unwrap();
        }
        let (head, body) = read_message(&mut stream).await;
        let Some(method) = head.split_whitespace().next() else { return };
        match what {
            What::Good => stream.write_all(ANSWER).await.unwrap(),
            What::Early => {}
            What::Closes => return,
            What::Resets => {
                weft_net::reset(stream);
                return;
            }
            What::HalfHead => {
                stream.write_all(&ANSWER[..20]).await.unwrap();
                return;
            }
            What::HalfBody => {
                stream.write_all(&ANSWER[..ANSWER.len() - 2]).await.unwrap();
                return;
            }
            What::Never => std::future::pending().await,
            What::Fails => {
                let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        }
        application.got.borrow_mut().push((method.to_owned(), body));
        what = application.then.get();
    }
}

async fn locally(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

const POST: &str = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 5\r\n\r\nhello";
const PUT: &str = "PUT / HTTP/1.1\r\nhost: orders\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_connection_that_is_idle_is_taken_again() {
    locally(async {
        for mode in [MtlsMode::Disable, MtlsMode::Permissive] {
            let scene =
                Scene::new(&[What::Good], mode, RetryBudget { percent: 20, min_per_second: 10 }).await;
            let mut client = scene.client();
            for _ in 0..5 {
                assert!(client.get().await.ends_with("good"));
                assert!(client.ask(POST).await.ends_with("good"));
            }
            assert_eq!(scene.connections(0), 1, "{mode:?}");
            assert_eq!(scene.got(0).iter().filter(|got| **got == ("POST".into(), "hello".into())).count(), 5);
            assert_eq!(scene.in_flight(), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_meets_a_connection_which_closes_goes_over_another() {
    locally(async {
        for then in [What::Closes, What::Resets] {
            // Nobody else is there, and no budget is asked: it is not the endpoint's failure.
            let none = RetryBudget { percent: 0, min_per_second: 0 };
            let scene = Scene::new(&[then], MtlsMode::Disable, none).await;
            let mut client = scene.client();
            for _ in 0..5 {
                let answer = client.get().await;
                assert!(answer.ends_with("good"), "{then:?}: {answer}");
            }
            assert_eq!((scene.connections(0), scene.got(0).len()), (5, 5), "{then:?}");
            assert!(!scene.metrics().contains("weft_http_retries_total{"), "{}", scene.metrics());
            assert_eq!(scene.in_flight(), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_must_not_be_repeated_is_not() {
    locally(async {
        for then in [What::Closes, What::Resets] {
            let scene = Scene::new(
                &[then, then],
                MtlsMode::Disable,
                RetryBudget { percent: 100, min_per_second: 10 },
            )
            .await;
            let mut client = scene.client();
            // Until each has an idle connection.
            while scene.connections(0) == 0 || scene.connections(1) == 0 {
                assert!(scene.client().get().await.ends_with("good"));
            }
            let before = scene.got(0).len() + scene.got(1).len();
            let answer = client.ask(POST).await;
            assert!(answer.starts_with("HTTP/1.1 502"), "{then:?}: {answer}");
            assert_eq!(scene.got(0).len() + scene.got(1).len(), before, "{then:?}: it came twice");
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_was_sent_at_once_goes_whole_to_the_next() {
    locally(async {
        for then in [What::Closes, What::HalfHead] {
            let scene = Scene::one(then).await;
            let mut client = scene.client();
            assert!(client.get().await.ends_with("good"));
            // What may have been seen goes to no endpoint twice.
            let answer = client.ask(PUT).await;
            assert!(answer.starts_with("HTTP/1.1 502"), "{then:?}: {answer}");
            assert!(scene.got(0).iter().all(|(method, _)| method == "GET"), "{then:?}: it came half");
        }
        let budget = RetryBudget { percent: 100, min_per_second: 10 };
        let scene = Scene::new(&[What::Closes, What::Good], MtlsMode::Disable, budget).await;
        while scene.connections(0) == 0 || scene.connections(1) == 0 {
            assert!(scene.client().get().await.ends_with("good"));
        }
        let mut retried = false;
        for _ in 0..20 {
            let answer = scene.client().ask(PUT).await;
            assert!(answer.ends_with("good"), "{answer}");
            retried |= scene.retries("connection_lost");
        }
        assert!(retried, "none met the connection that closes: {}", scene.metrics());
        let puts = |at| scene.got(at).into_iter().filter(|(method, _)| method == "PUT");
        assert!(puts(0).chain(puts(1)).all(|(_, body)| body == "hello"));
        assert_eq!(puts(0).chain(puts(1)).count(), 20);
    })
    .await;
}

#[tokio::test]
async fn what_breaks_off_is_told() {
    locally(async {
        let scene = Scene::one(What::HalfHead).await;
        scene.applications[0].then.set(What::HalfHead);
        let mut client = scene.client();
        assert!(client.get().await.ends_with("good"));
        let answer = client.ask(POST).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert_eq!(scene.in_flight(), 0);

        let scene = Scene::one(What::HalfBody).await;
        let mut client = scene.client();
        assert!(client.get().await.ends_with("good"));
        let answer = client.get().await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("go"), "{answer}");
        tokio::task::yield_now().await;
        assert_eq!(scene.in_flight(), 0);
        let picked = scene.cluster.pick_now(Timestamp::now(), &[]).unwrap();
        assert_eq!(picked.links.endpoint.consecutive_failures(), 1, "half an answer is a failure");
    })
    .await;
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_read() {
    locally(async {
        let scene = Scene::one(What::Early).await;
        let mut client = scene.client();
        assert!(client.get().await.ends_with("good"));
        for _ in 0..3 {
            assert!(client.ask(POST).await.ends_with("good"));
        }
        assert_eq!(scene.got(0).iter().filter(|got| **got == ("POST".into(), "hello".into())).count(), 3);
        assert_eq!(scene.in_flight(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    locally(async {
        let scene = Scene::one(What::Never).await;
        let mut client = scene.client();
        assert!(client.get().await.ends_with("good"));
        client.0.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(scene.in_flight(), 1);
        drop(client);
        let gone = async {
            while scene.in_flight() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
        // And the next gets a connection of its own.
        assert!(scene.client().get().await.ends_with("good"));
        assert_eq!(scene.connections(0), 2);
    })
    .await;
}

#[tokio::test]
async fn failures_count_for_the_endpoint() {
    locally(async {
        let scene = Scene::one(What::Fails).await;
        let mut client = scene.client();
        assert!(client.get().await.ends_with("good"));
        for failures in 1..4 {
            assert!(client.get().await.starts_with("HTTP/1.1 503"));
            let picked = scene.cluster.pick_now(Timestamp::now(), &[]).unwrap();
            assert_eq!(picked.links.endpoint.consecutive_failures(), failures);
        }
        assert_eq!(scene.connections(0), 1);
    })
    .await;
}

#[tokio::test]
async fn a_connection_ends_what_is_held_against_an_endpoint() {
    locally(async {
        let scene = Scene::one(What::Good).await;
        let there = scene.sockets.0.borrow_mut().remove(&endpoint(0)).unwrap();
        assert!(scene.client().get().await.starts_with("HTTP/1.1 503"));
        let now = Timestamp::now();
        let links = scene.cluster.pick_now(now, &[]).unwrap().links;
        assert_eq!(links.endpoint.availability(now), weft_balance::Availability::BackingOff);
        scene.sockets.0.borrow_mut().insert(endpoint(0), there);
        assert!(scene.client().get().await.ends_with("good"));
        assert_eq!(links.endpoint.availability(Timestamp::now()), weft_balance::Availability::Available);
    })
    .await;
}
