//! Places for streams: a peer that takes few makes calls wait, in turn, and no call is lost for it.

mod peer;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use h2::Reason;
use http::{Request, Response};
use peer::{Server, get, settle};
use weft_http::{Body, ExchangeError, Http2Client, Http2Limits, Http2Pool, Interim, Lease};

/// A pool whose dials come to a server of the test, which keeps what it got.
struct Scene {
    pool: Http2Pool<Http2Client, &'static str>,
    servers: RefCell<Vec<Server>>,
    streams: Cell<u32>,
    /// Dials fail while this is set.
    down: Cell<bool>,
}

impl Scene {
    /// A server that takes so many streams on each connection, and a client that opens so many connections.
    fn new(streams: u32, connections: usize) -> Rc<Self> {
        Rc::new(Self {
            pool: Http2Pool::new(connections),
            servers: RefCell::default(),
            streams: Cell::new(streams),
            down: Cell::new(false),
        })
    }

    async fn acquire(self: &Rc<Self>) -> Result<Lease<Http2Client>, &'static str> {
        let dial = || {
            let this = Rc::clone(self);
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if this.down.get() {
                    return Err("down");
                }
                let (near, far) = tokio::io::duplex(1 << 16);
                this.servers.borrow_mut().push(Server::start(far, this.streams.get()));
                Http2Client::handshake(near, &Http2Limits::default(), ()).await.map_err(|_| "handshake")
            }
        };
        self.pool.acquire(|_| true, dial).await
    }

    async fn call(self: &Rc<Self>) -> Result<Response<Body>, ExchangeError> {
        let lease = self.acquire().await.expect("a place");
        lease.slot.exchange(get(), Body::Empty, &Interim::Nowhere).await
    }

    /// Starts a call; the result is `None` until it ends.
    fn start(self: &Rc<Self>) -> (tokio::task::JoinHandle<()>, Rc<RefCell<Option<bool>>>) {
        let outcome = Rc::new(RefCell::new(None));
        let (this, told) = (Rc::clone(self), Rc::clone(&outcome));
        let task = tokio::task::spawn_local(async move {
            let answered = this.call().await;
            *told.borrow_mut() = Some(answered.is_ok());
        });
        (task, outcome)
    }

    fn open(&self) -> usize {
        self.servers.borrow().iter().map(Server::open).sum()
    }

    /// Answers the oldest request of any connection.
    fn answer_one(&self) -> bool {
        self.servers.borrow().iter().any(|server| {
            let taken = server.take();
            taken.is_some_and(|stream| {
                server.answer(stream);
                true
            })
        })
    }
}

async fn in_turn(calls: usize, streams: u32, connections: usize) {
    let scene = Scene::new(streams, connections);
    let running: Vec<_> = (0..calls).map(|_| scene.start()).collect();
    let most = usize::try_from(streams).unwrap() * connections;
    for answered in 0..calls {
        settle().await;
        let open = scene.open();
        assert!(open <= most, "{open} streams of {most}");
        assert_eq!(open, most.min(calls - answered), "every place is used while somebody waits");
        assert!(scene.answer_one());
    }
    settle().await;
    let ended = running.iter().filter(|(_, outcome)| *outcome.borrow() == Some(true)).count();
    assert_eq!(ended, calls, "every call has its answer");
    assert!(scene.servers.borrow().len() <= connections);
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_peer_that_takes_few_streams_makes_calls_wait() {
    in_turn(50, 1, 1).await;
    in_turn(50, 2, 1).await;
    in_turn(50, 10, 1).await;
    in_turn(250, 100, 1).await;
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn where_one_connection_has_no_room_others_are_opened_up_to_a_bound() {
    in_turn(50, 10, 3).await;
    in_turn(50, 1, 7).await;
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn one_connection_is_enough_where_it_has_room() {
    let scene = Scene::new(100, 8);
    let _running: Vec<_> = (0..100).map(|_| scene.start()).collect();
    settle().await;
    assert_eq!((scene.servers.borrow().len(), scene.open()), (1, 100));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn places_are_given_in_the_order_of_asking() {
    let scene = Scene::new(1, 1);
    let order = Rc::new(RefCell::new(Vec::new()));
    for number in 0..20 {
        let (scene, order) = (Rc::clone(&scene), Rc::clone(&order));
        tokio::task::spawn_local(async move {
            let lease = scene.acquire().await.expect("a place");
            order.borrow_mut().push(number);
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(lease);
        });
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(*order.borrow(), (0..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_limit_of_none_that_rises_lets_those_in_who_wait() {
    let scene = Scene::new(0, 8);
    let (_task, outcome) = scene.start();
    settle().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((scene.servers.borrow().len(), scene.open()), (1, 0), "no use in another connection");
    scene.servers.borrow()[0].limit(1);
    settle().await;
    assert!(scene.answer_one());
    settle().await;
    assert_eq!(*outcome.borrow(), Some(true));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_limit_that_falls_below_what_is_open_holds_for_those_who_come() {
    let scene = Scene::new(5, 1);
    let running: Vec<_> = (0..12).map(|_| scene.start()).collect();
    settle().await;
    assert_eq!(scene.open(), 5);
    scene.servers.borrow()[0].limit(2);
    settle().await;
    for open in [4, 3, 2, 2, 2, 2] {
        assert!(scene.answer_one());
        settle().await;
        assert_eq!(scene.open(), open);
    }
    while scene.answer_one() {
        settle().await;
    }
    assert!(running.iter().all(|(_, outcome)| *outcome.borrow() == Some(true)));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn who_gives_up_leaves_the_queue() {
    let scene = Scene::new(1, 1);
    let (first, _) = scene.start();
    settle().await;
    let (waits, _) = scene.start();
    let (last, outcome) = scene.start();
    settle().await;
    assert_eq!(scene.pool.waiting(), 2);
    waits.abort();
    settle().await;
    assert_eq!(scene.pool.waiting(), 1);
    // One that has its place, and not yet its request, gives it on as well.
    first.abort();
    settle().await;
    assert!(scene.answer_one());
    settle().await;
    if outcome.borrow().is_none() {
        assert!(scene.answer_one());
    }
    last.await.expect("the last call ends");
    assert_eq!((*outcome.borrow(), scene.pool.waiting()), (Some(true), 0));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_place_that_nobody_came_to_take_goes_to_the_next() {
    let scene = Scene::new(1, 1);
    let held = scene.acquire().await.expect("a place");
    let mut second = Box::pin(scene.acquire());
    let mut third = Box::pin(scene.acquire());
    assert!(peer::look(second.as_mut()).is_pending());
    assert!(peer::look(third.as_mut()).is_pending());
    drop(held);
    // The place is the second's, which never looks.
    assert!(peer::look(third.as_mut()).is_pending());
    drop(second);
    assert!(peer::look(third.as_mut()).is_ready());
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn goaway_sends_those_who_wait_to_another_connection() {
    let scene = Scene::new(1, 1);
    let (_one, first) = scene.start();
    settle().await;
    let (_two, second) = scene.start();
    settle().await;
    scene.servers.borrow()[0].go_away(1, 0);
    settle().await;
    assert_eq!(scene.servers.borrow().len(), 2, "what is open goes on meanwhile");
    scene.servers.borrow()[1].answer(1);
    settle().await;
    assert_eq!((*first.borrow(), *second.borrow()), (None, Some(true)));
    scene.servers.borrow()[0].answer(1);
    settle().await;
    assert_eq!(*first.borrow(), Some(true));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn where_there_is_no_connection_all_who_wait_are_told() {
    let scene = Scene::new(1, 4);
    scene.down.set(true);
    let asked: Vec<_> = (0..3)
        .map(|_| {
            let scene = Rc::clone(&scene);
            tokio::task::spawn_local(async move { scene.acquire().await.err() })
        })
        .collect();
    for task in asked {
        assert_eq!(task.await.unwrap(), Some("down"));
    }
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn where_no_other_connection_can_be_opened_calls_wait_for_the_one_there_is() {
    let scene = Scene::new(1, 4);
    let (_one, first) = scene.start();
    settle().await;
    scene.down.set(true);
    let (_two, second) = scene.start();
    settle().await;
    assert_eq!(*second.borrow(), None, "a failed dial is not its failure");
    for _ in 0..2 {
        assert!(scene.answer_one());
        settle().await;
    }
    assert_eq!((*first.borrow(), *second.borrow()), (Some(true), Some(true)));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_dial_outlives_the_request_that_began_it() {
    let scene = Scene::new(1, 1);
    let (task, _) = scene.start();
    tokio::task::yield_now().await;
    task.abort();
    settle().await;
    assert_eq!(scene.servers.borrow().len(), 1);
    assert!(scene.pool.try_acquire(|_| true).is_some(), "and is there for the next");
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn refused_is_known_as_not_processed() {
    let scene = Scene::new(10, 1);
    let call = {
        let scene = Rc::clone(&scene);
        tokio::task::spawn_local(async move { scene.call().await.err() })
    };
    settle().await;
    scene.servers.borrow()[0].reset(1, Reason::REFUSED_STREAM.into());
    let error = call.await.unwrap().expect("no answer");
    assert!(error.is_safe_to_retry(), "{error}");
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn an_upload_that_outlives_its_answer_keeps_its_place() {
    let scene = Scene::new(1, 1);
    let (mut sender, body) = peer::slow_body().await;
    let upload = {
        let scene = Rc::clone(&scene);
        tokio::task::spawn_local(async move {
            let lease = scene.acquire().await.expect("a place");
            let request = Request::post("http://orders/").body(()).unwrap();
            lease.slot.exchange(request, body, &Interim::Nowhere).await.map(|response| response.status())
        })
    };
    settle().await;
    scene.servers.borrow()[0].answer(1);
    assert_eq!(upload.await.unwrap().unwrap(), 200);
    settle().await;
    assert!(scene.pool.try_acquire(|_| true).is_none(), "to the server the stream is still open");
    sender.end();
    settle().await;
    assert!(scene.pool.try_acquire(|_| true).is_some());
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn what_cannot_be_said_in_http2_costs_its_own_stream_only() {
    let scene = Scene::new(10, 1);
    let lease = scene.acquire().await.expect("a place");
    let bad = Request::get("http://orders/").header("connection", "close").body(()).unwrap();
    let error = lease.slot.exchange(bad, Body::Empty, &Interim::Nowhere).await.expect_err("refused");
    assert!(matches!(error, ExchangeError::Unsendable(_)), "{error}");
    let (_task, outcome) = scene.start();
    settle().await;
    assert!(scene.answer_one());
    settle().await;
    assert_eq!((*outcome.borrow(), scene.servers.borrow().len()), (Some(true), 1));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_request_may_name_its_host_in_host_alone() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let accepting = tokio::task::spawn_local(peer::accept(far));
    let client = Http2Client::handshake(near, &Http2Limits::default(), ()).await.expect("a handshake");
    let request = Request::get("/a?b").version(http::Version::HTTP_2).header("host", "orders");
    let sent = client.slot().expect("a place").send_now(request.body(()).unwrap()).expect("it can be said");
    let accepted = accepting.await.expect("a request");
    let request = &accepted.request;
    assert_eq!(request.uri().authority(), None, "nothing is made up");
    assert_eq!((request.uri().path(), &request.headers()["host"]), ("/a", &"orders".parse().unwrap()));
    accepted.answer();
    assert_eq!(sent.head(&Interim::Nowhere).await.expect("an answer").status(), 200);
}
