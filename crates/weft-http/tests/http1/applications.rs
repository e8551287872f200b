//! Applications of all manners, and the pool of connections to them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use weft_http::{Body, Http1Error, Http1Fault, Http1Limits, Http1Opened, Http1Pool, Interim, Unanswered};

use crate::support::{full, heard, local, pass_time, read};

/// Connections that the pool has opened, the application's side of each.
#[derive(Default)]
pub(crate) struct Application(RefCell<Vec<Option<DuplexStream>>>);

impl Application {
    pub(crate) fn connect(&self) -> Result<(DuplexStream, ()), &'static str> {
        self.connect_sized(1 << 16)
    }

    pub(crate) fn connect_sized(&self, room: usize) -> Result<(DuplexStream, ()), &'static str> {
        let (near, far) = tokio::io::duplex(room);
        self.0.borrow_mut().push(Some(far));
        Ok((near, ()))
    }

    pub(crate) fn opened(&self) -> usize {
        self.0.borrow().len()
    }

    pub(crate) async fn side(&self, index: usize) -> DuplexStream {
        loop {
            if let Some(io) = self.0.borrow_mut().get_mut(index).and_then(Option::take) {
                return io;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "h").body(Body::Empty).unwrap()
}

fn post(body: Body) -> Request<Body> {
    Request::post("/x").header("host", "h").body(body).unwrap()
}

struct Scene {
    pool: Rc<Http1Pool>,
    application: Rc<Application>,
}

type Answered = Result<Response<Body>, Http1Error<&'static str>>;

impl Scene {
    fn new() -> Self {
        Self { pool: Http1Pool::new(Http1Limits::default()), application: Rc::default() }
    }

    fn send(&self, request: Request<Body>) -> tokio::task::JoinHandle<Answered> {
        let (pool, application) = (Rc::clone(&self.pool), Rc::clone(&self.application));
        tokio::task::spawn_local(async move {
            pool.send(request, &Interim::Nowhere, async || application.connect()).await
        })
    }

    /// Sends a GET; the application's connection `index` says `answer`.
    async fn exchange(&self, index: usize, answer: &str) -> (DuplexStream, Answered) {
        let sent = self.send(get("/"));
        let mut io = self.application.side(index).await;
        assert_eq!(heard(&mut io).await, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        io.write_all(answer.as_bytes()).await.unwrap();
        (io, sent.await.unwrap())
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn text(answered: Answered) -> String {
    read(answered.unwrap().into_body()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_used_again_when_both_messages_are_whole() {
    for (answer, body, idle) in [
        (OK, "ok", 1),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "", 1),
        // What it announces may come yet, and would be the next answer.
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "", 0),
        ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "", 0),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", 1),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "ok", 1),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", "ok", 0),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", 0),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok", "ok", 1),
        // Section 6.1: what has both is read by the coding, and not trusted again.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "ok",
            0,
        ),
        // Another answer behind it, to a request that nobody sent.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
            "ok",
            0,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nrest", "", 0),
    ] {
        local(async {
            let scene = Scene::new();
            let (_io, answered) = scene.exchange(0, answer).await;
            assert_eq!(text(answered).await, body, "{answer}");
            assert_eq!(scene.pool.idle(), idle, "{answer}");
            if idle == 1 {
                let again = scene.pool.send_now(get("/again")).unwrap();
                drop(again);
                assert_eq!(scene.pool.idle(), 0, "given up in between: closed");
            }
        })
        .await;
    }
}

/// NTLM and Negotiate bind a login to the connection: whoever came next would be taken for the one who logged in.
#[tokio::test(start_paused = true)]
async fn a_connection_with_a_login_of_its_own_is_used_by_nobody_else() {
    for (authorization, challenge, idle) in [
        ("Basic bmVnb3RpYXRlOm50bG0=", "Basic realm=\"NTLM\"", 1),
        ("Bearer ntlm", "Bearer", 1),
        ("NTLM TlRMTVNTUAAD", "Basic", 0),
        ("negotiate YII", "Basic", 0),
        ("Basic x", "Basic realm=a, Negotiate", 0),
        ("Basic x", "NTLM", 0),
    ] {
        local(async {
            let scene = Scene::new();
            let mut request = get("/");
            request.headers_mut().insert("authorization", authorization.parse().unwrap());
            let sent = scene.send(request);
            let mut io = scene.application.side(0).await;
            heard(&mut io).await;
            let answer =
                format!("HTTP/1.1 401 No\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 2\r\n\r\nno");
            io.write_all(answer.as_bytes()).await.unwrap();
            assert_eq!(text(sent.await.unwrap()).await, "no");
            assert_eq!(scene.pool.idle(), idle, "{authorization} {challenge}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_read_to_its_end_closes_the_connection() {
    local(async {
        let scene = Scene::new();
        let (mut io, answered) = scene.exchange(0, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok").await;
        drop(answered);
        assert_eq!(scene.pool.idle(), 0);
        assert!(matches!(io.read(&mut [0]).await, Ok(0)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_an_application_says_unasked_closes_an_idle_connection() {
    for unasked in ["HTTP/1.1 408 Request Timeout\r\n\r\n", "x", ""] {
        local(async {
            let scene = Scene::new();
            let (mut io, answered) = scene.exchange(0, OK).await;
            text(answered).await;
            assert_eq!(scene.pool.idle(), 1);
            if unasked.is_empty() {
                drop(io);
            } else {
                io.write_all(unasked.as_bytes()).await.unwrap();
            }
            pass_time(Duration::from_millis(1)).await;
            assert_eq!(scene.pool.idle(), 0, "{unasked:?}: at once, and not when it is needed");
            let (_io, answered) = scene.exchange(1, OK).await;
            assert_eq!(text(answered).await, "ok");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn idle_connections_end_after_their_time() {
    local(async {
        let scene = Scene::new();
        let (_io, answered) = scene.exchange(0, OK).await;
        text(answered).await;
        pass_time(Duration::from_secs(590)).await;
        assert_eq!(scene.pool.idle(), 1);
        pass_time(Duration::from_secs(200)).await;
        assert_eq!(scene.pool.idle(), 0);
    })
    .await;
}

/// An application that takes the request and closes, as one does whose idle time is over in that moment.
#[tokio::test(start_paused = true)]
async fn a_stale_connection_is_tried_again_at_once_where_that_does_no_harm() {
    local(async {
        let scene = Scene::new();
        let (mut io, answered) = scene.exchange(0, OK).await;
        text(answered).await;
        let sending = scene.pool.send_now(get("/again")).unwrap();
        let answer = tokio::task::spawn_local(async move { sending.answer(&Interim::Nowhere).await });
        assert_eq!(heard(&mut io).await, "GET /again HTTP/1.1\r\nHost: h\r\n\r\n");
        drop(io);
        let Err(Unanswered::Stale(request)) = answer.await.unwrap() else { panic!("not stale") };
        assert_eq!(request.uri(), "/again");
        let sent = scene.send(*request);
        let mut io = scene.application.side(1).await;
        assert_eq!(heard(&mut io).await, "GET /again HTTP/1.1\r\nHost: h\r\n\r\n");
        io.write_all(OK.as_bytes()).await.unwrap();
        assert_eq!(text(sent.await.unwrap()).await, "ok");
        // A POST may have had its effect.
        let sent = scene.send(post(full("x")));
        assert!(heard(&mut io).await.ends_with("\r\n\r\nx"));
        drop(io);
        assert!(matches!(sent.await.unwrap(), Err(Http1Error::Exchange(Http1Fault::NoAnswer))));
        assert_eq!(scene.application.opened(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_that_closes_is_not_tried_again() {
    local(async {
        let scene = Scene::new();
        let sent = scene.send(get("/"));
        drop(scene.application.side(0).await);
        assert!(sent.await.unwrap().is_err());
        assert_eq!(scene.application.opened(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_counts_even_where_the_body_is_not_taken() {
    local(async {
        let scene = Scene::new();
        // More than the connection takes at once.
        let sent = scene.send(post(full(&"x".repeat(1 << 20))));
        let mut io = scene.application.side(0).await;
        let mut some = vec![0; 1000];
        io.read_exact(&mut some).await.unwrap();
        io.write_all(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
        drop(io);
        let answered = sent.await.unwrap().unwrap();
        assert_eq!(answered.status(), 413);
        assert_eq!(read(answered.into_body()).await.unwrap(), "no");
        pass_time(Duration::from_millis(1)).await;
        assert_eq!(scene.pool.idle(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_comes_back_when_the_later_of_both_ends() {
    local(async {
        let scene = Scene::new();
        let sent = scene.send(post(full(&"x".repeat(200_000))));
        let mut io = scene.application.side(0).await;
        io.write_all(OK.as_bytes()).await.unwrap();
        assert_eq!(text(sent.await.unwrap()).await, "ok", "before the request is whole");
        assert_eq!(scene.pool.idle(), 0);
        assert!(heard(&mut io).await.ends_with("xxx"));
        assert_eq!(scene.pool.idle(), 1, "now it is");
    })
    .await;
    local(async {
        let scene = Scene::new();
        let sent = scene.send(post(full(&"x".repeat(200_000))));
        let mut io = scene.application.side(0).await;
        io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await.unwrap();
        let answered = sent.await.unwrap().unwrap();
        drop(answered);
        // The client has gone, and the rest of its request with it.
        let rest = heard(&mut io).await;
        assert!(rest.len() < 200_000, "{}", rest.len());
        assert_eq!(scene.pool.idle(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn heads_say_what_the_message_has() {
    local(async {
        let scene = Scene::new();
        // What came in about framing does not go out.
        let mut request = post(full("abc"));
        for (name, value) in [
            ("content-length", "40"),
            ("content-length", "41"),
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
            ("upgrade", "websocket"),
        ] {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let sent = scene.send(request);
        let mut io = scene.application.side(0).await;
        assert_eq!(heard(&mut io).await, "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
        io.write_all(OK.as_bytes()).await.unwrap();
        text(sent.await.unwrap()).await;
        // A length that was said without a body is nothing that an application would wait for.
        let mut request = get("/");
        request.headers_mut().insert("content-length", "40".parse().unwrap());
        let sent = scene.send(request);
        assert_eq!(heard(&mut io).await, "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
        drop(sent);
    })
    .await;
    local(async {
        let scene = Scene::new();
        let mut request = get("/");
        *request.version_mut() = Version::HTTP_10;
        let sent = scene.send(request);
        let mut io = scene.application.side(0).await;
        assert_eq!(heard(&mut io).await, "GET / HTTP/1.0\r\nHost: h\r\n\r\n");
        io.write_all(b"HTTP/1.0 200 OK\r\n\r\nall of it").await.unwrap();
        drop(io);
        assert_eq!(text(sent.await.unwrap()).await, "all of it");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_an_error_and_not_an_end() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n",
    ] {
        local(async {
            let scene = Scene::new();
            let (io, answered) = scene.exchange(0, answer).await;
            drop(io);
            assert!(read(answered.unwrap().into_body()).await.is_err(), "{answer}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer() {
    for answer in [
        "",
        "HTTP/1.1 200",
        "garbage\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ] {
        local(async {
            let scene = Scene::new();
            let sent = scene.send(get("/"));
            let mut io = scene.application.side(0).await;
            heard(&mut io).await;
            io.write_all(answer.as_bytes()).await.unwrap();
            drop(io);
            assert!(sent.await.unwrap().is_err(), "{answer:?}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn odd_but_common_answers_pass() {
    local(async {
        let scene = Scene::new();
        let odd = "HTTP/1.1  603 \r\nX-A : b\r\nX-Folded: one\r\n  two\r\nX-Latin: \u{e9}\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n";
        let (_io, answered) = scene.exchange(0, odd).await;
        let answered = answered.unwrap();
        assert_eq!(answered.status(), 603);
        assert_eq!(answered.headers()["x-a"], "b");
        assert_eq!(answered.headers()["x-folded"], "one two");
        assert_eq!(answered.headers()["x-empty"], "");
        assert_eq!(answered.headers()["x-latin"].as_bytes(), "\u{e9}".as_bytes());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_takeover_leaves_the_pool_for_good() {
    for (answer, switches) in [
        ("HTTP/1.1 200 Connected\r\n\r\nab", true),
        // Go's net/http answers so to a CONNECT that it does not know, and reads on.
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", false),
        ("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 2\r\n\r\nab", false),
    ] {
        local(async {
            let scene = Scene::new();
            let request = Request::connect("h:80").header("host", "h:80").body(Body::Empty).unwrap();
            let (pool, application) = (Rc::clone(&scene.pool), Rc::clone(&scene.application));
            let opened = tokio::task::spawn_local(async move {
                pool.open(request, &Interim::Nowhere, async || application.connect()).await
            });
            let mut io = scene.application.side(0).await;
            assert_eq!(heard(&mut io).await, "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n");
            io.write_all(answer.as_bytes()).await.unwrap();
            match opened.await.unwrap().unwrap() {
                Http1Opened::Switched(_, mut rest) => {
                    assert!(switches, "{answer}");
                    let mut word = [0; 2];
                    rest.read_exact(&mut word).await.unwrap();
                    assert_eq!(&word, b"ab");
                }
                Http1Opened::Answer(response) => {
                    assert!(!switches, "{answer}");
                    assert_eq!(read(response.into_body()).await.unwrap(), "ab");
                }
            }
            assert_eq!(scene.pool.idle(), 0, "{answer}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn interim_answers_have_an_end() {
    let hints = "HTTP/1.1 103 Early Hints\r\n\r\n";
    local(async {
        // As many as a patient server may have a use for.
        let scene = Scene::new();
        let (_io, answered) = scene.exchange(0, &format!("{}{OK}", hints.repeat(1000))).await;
        assert_eq!(text(answered).await, "ok");
        let scene = Scene::new();
        let sent = scene.send(get("/"));
        let mut io = scene.application.side(0).await;
        heard(&mut io).await;
        while io.write_all(hints.as_bytes()).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let Err(Http1Error::Exchange(Http1Fault::Malformed(what))) = sent.await.unwrap() else {
            panic!("an answer")
        };
        assert_eq!((what, scene.pool.idle()), ("too many interim answers", 0));
    })
    .await;
}
