//! HTTP/2 clients that begin a request and do not go on.

mod peer;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response};
use http_body::Body as _;
use peer::settle;
use weft_core::Drain;
use weft_http::{Abort, Answer, Body, BodyError, ErrorCode, Handler, Http2Limits, Interim, serve_http2};

const PAUSE: Duration = Duration::from_secs(60);
const HOURS: Duration = Duration::from_secs(10 * 3600);

/// Answers by path, and notes what came.
#[derive(Default)]
struct App {
    refused: RefCell<Vec<ErrorCode>>,
    /// Calls under way.
    calls: Rc<Cell<usize>>,
    /// What bodies came to that were read behind their answers.
    ends: Rc<RefCell<Vec<Result<usize, BodyError>>>>,
}

struct Counted(Rc<Cell<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn length(mut body: Body) -> Result<usize, BodyError> {
    let mut octets = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        octets += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(octets)
}

struct Shared(Rc<App>);

impl Handler for Shared {
    type Body = Body;

    fn is_link(&self) -> bool {
        false
    }

    fn refused(&self, code: ErrorCode) {
        self.0.refused.borrow_mut().push(code);
    }

    async fn call(&self, request: Request<Body>, _: Interim<'_>) -> Result<Answer<Body>, Abort> {
        self.0.calls.set(self.0.calls.get() + 1);
        let _counted = Counted(Rc::clone(&self.0.calls));
        let ends = Rc::clone(&self.0.ends);
        let path = request.uri().path().to_owned();
        let body = request.into_body();
        // Boxed, for a stream has little room.
        let answer = Box::pin(async move {
            match path.as_str() {
                "/read" => Response::new(match length(body).await {
                    Ok(octets) => Body::Full(octets.to_string().into()),
                    Err(_) => Body::Empty,
                }),
                "/mirror" => Response::new(body),
                "/later" => {
                    tokio::task::spawn_local(async move {
                        let end = length(body).await;
                        ends.borrow_mut().push(end);
                    });
                    Response::new(Body::Empty)
                }
                "/busy" => {
                    tokio::time::sleep(HOURS).await;
                    Response::new(Body::Full(length(body).await.expect("all of it").to_string().into()))
                }
                _ => {
                    tokio::time::sleep(HOURS).await;
                    Response::new(Body::Empty)
                }
            }
        });
        Ok(answer.await.into())
    }
}

struct Scene {
    send: SendRequest<Bytes>,
    app: Rc<App>,
}

impl Scene {
    async fn new(pause: Option<Duration>) -> Self {
        let (near, far) = tokio::io::duplex(1 << 16);
        let app = Rc::new(App::default());
        let handler = Rc::new(Shared(Rc::clone(&app)));
        let limits = Http2Limits { pause, ..Http2Limits::default() };
        tokio::task::spawn_local(async move { serve_http2(far, handler, &limits, Drain::never()).await });
        let (send, connection) = h2::client::handshake(near).await.expect("a handshake");
        tokio::task::spawn_local(connection);
        Self { send, app }
    }

    fn begin(&mut self, path: &str, kind: &str) -> (ResponseFuture, SendStream<Bytes>) {
        let request = Request::post(format!("http://a{path}")).header("content-type", kind);
        self.send.send_request(request.body(()).unwrap(), false).expect("a place")
    }
}

async fn text(response: ResponseFuture) -> (u16, Bytes) {
    let response = response.await.expect("an answer");
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let text = body.data().await.map_or(Bytes::new(), |data| data.expect("data"));
    (status, text)
}

/// Whether an answer comes within a time.
async fn within(time: Duration, response: &mut ResponseFuture) -> Option<u16> {
    let answered = tokio::time::timeout(time, response).await.ok()?;
    Some(answered.expect("an answer").status().as_u16())
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_body_that_does_not_go_on_is_answered_with_408() {
    for first in [&b""[..], b"part"] {
        let mut scene = Scene::new(Some(PAUSE)).await;
        let (mut response, mut stream) = scene.begin("/read", "text/plain");
        stream.send_data(Bytes::copy_from_slice(first), false).unwrap();
        assert_eq!(within(PAUSE, &mut response).await, None, "it may pause so long");
        let answered = tokio::time::timeout(PAUSE / 2, &mut response).await.expect("in time").unwrap();
        assert_eq!(answered.status(), 408);
        assert_eq!(answered.headers()["weft-error"], "request-timeout");
        let mut body = answered.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "the request did not come in time\n");
        settle().await;
        assert_eq!(
            (scene.app.calls.get(), &scene.app.refused.borrow()[..]),
            (0, &[ErrorCode::RequestTimeout][..])
        );
        // The connection is as good as before.
        let (response, mut stream) = scene.begin("/read", "text/plain");
        stream.send_data("all".into(), true).unwrap();
        assert_eq!(text(response).await, (200, "3".into()));
    }
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_slow_body_is_no_paused_one() {
    let mut scene = Scene::new(Some(PAUSE)).await;
    let (response, mut stream) = scene.begin("/read", "text/plain");
    for _ in 0..100 {
        tokio::time::sleep(PAUSE * 9 / 10).await;
        stream.send_data("x".into(), false).unwrap();
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(text(response).await, (200, "100".into()));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn calls_that_go_both_ways_may_be_silent_for_hours() {
    for kind in ["application/grpc", "application/grpc+proto", "application/connect+json"] {
        let mut scene = Scene::new(Some(PAUSE)).await;
        let (mut response, mut stream) = scene.begin("/read", kind);
        stream.send_data("x".into(), false).unwrap();
        assert_eq!(within(HOURS, &mut response).await, None, "{kind}");
        stream.send_data("y".into(), true).unwrap();
        assert_eq!(text(response).await, (200, "2".into()), "{kind}");
    }
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn once_the_answer_has_begun_both_may_be_silent_for_hours() {
    let mut scene = Scene::new(Some(PAUSE)).await;
    let (response, mut stream) = scene.begin("/mirror", "text/plain");
    let mut body = response.await.expect("an answer").into_body();
    for _ in 0..3 {
        tokio::time::sleep(HOURS).await;
        stream.send_data("hello".into(), false).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "hello");
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(body.data().await.is_none_or(|last| last.unwrap().is_empty()));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn who_waits_for_an_answer_is_not_paused() {
    let mut scene = Scene::new(Some(PAUSE)).await;
    // A body that nobody asks for yet, one that is there whole, and none.
    let (busy, mut stream) = scene.begin("/busy", "text/plain");
    stream.send_data("part".into(), false).unwrap();
    let (whole, mut sent) = scene.begin("/busy", "text/plain");
    sent.send_data("part".into(), true).unwrap();
    let (events, _) =
        scene.send.send_request(Request::get("http://a/events").body(()).unwrap(), true).unwrap();
    tokio::time::sleep(HOURS - Duration::from_secs(1)).await;
    stream.send_data("rest".into(), true).unwrap();
    assert_eq!(text(busy).await, (200, "8".into()));
    assert_eq!(text(whole).await, (200, "4".into()));
    assert_eq!(text(events).await, (200, Bytes::new()));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn what_is_still_sent_behind_an_answer_must_go_on() {
    for kind in ["text/plain", "application/grpc"] {
        let mut scene = Scene::new(Some(PAUSE)).await;
        let (mut response, mut stream) = scene.begin("/later", kind);
        assert_eq!(within(PAUSE, &mut response).await, Some(200));
        tokio::time::sleep(PAUSE * 3 / 4).await;
        let _ = stream.send_data("part".into(), false);
        tokio::time::sleep(PAUSE * 3 / 4).await;
        assert!(scene.app.ends.borrow().is_empty(), "{kind}: it has gone on");
        tokio::time::sleep(PAUSE).await;
        let ends = scene.app.ends.borrow();
        assert!(matches!(ends[..], [Err(BodyError::Paused)]), "{kind}: {ends:?}");
    }
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn without_a_limit_a_body_may_pause() {
    let mut scene = Scene::new(None).await;
    let (mut response, mut stream) = scene.begin("/read", "text/plain");
    assert_eq!(within(HOURS, &mut response).await, None);
    stream.send_data("x".into(), true).unwrap();
    assert_eq!(text(response).await, (200, "1".into()));
}
