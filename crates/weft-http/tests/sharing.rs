//! One connection for many callers: who asks for much and reads nothing does not stop the others, and what lies unread has a
//! bound.

mod peer;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use http_body::Body as _;
use peer::{get, settle};
use tokio::io::DuplexStream;
use weft_core::Drain;
use weft_http::{Abort, Answer, Body, Handler, Http2Client, Http2Limits, Interim, serve_http2};

/// What the proxy takes by default.
const STREAMS: u32 = 256;
/// Larger than a stream's window.
const LARGE: usize = 2 << 20;

/// Sends so many octets, as the windows allow, and counts them.
async fn feed(mut stream: SendStream<Bytes>, mut left: usize, sent: Rc<Cell<usize>>) {
    while left > 0 {
        stream.reserve_capacity(left.min(1 << 17));
        let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
        let room = room.min(left);
        left -= room;
        sent.set(sent.get() + room);
        if stream.send_data(Bytes::from(vec![0; room]), left == 0).is_err() {
            return;
        }
    }
}

/// Answers every request with many octets.
async fn generous(io: DuplexStream, sent: Rc<Cell<usize>>) {
    let mut server = h2::server::Builder::new();
    let serving = server.max_concurrent_streams(4 * STREAMS).handshake::<_, Bytes>(io);
    let mut connection = serving.await.expect("a handshake");
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let stream = respond.send_response(Response::new(()), false).expect("the stream is open");
        tokio::task::spawn_local(feed(stream, LARGE, Rc::clone(&sent)));
    }
}

async fn call(client: &Http2Client) -> Body {
    let slot = client.slot().expect("a place");
    slot.exchange(get(), Body::Empty, &Interim::Nowhere).await.expect("an answer").into_body()
}

async fn length(mut body: Body) -> usize {
    let mut octets = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        octets += frame.expect("no error").data_ref().map_or(0, Bytes::len);
    }
    octets
}

/// Fails where something is held up.
async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(1), future).await.unwrap_or_else(|_| panic!("{what} is held up"))
}

fn limits() -> Http2Limits {
    Http2Limits { max_concurrent_streams: STREAMS, ..Http2Limits::default() }.for_many()
}

/// A client whose server takes more streams than it will open.
async fn client(sent: &Rc<Cell<usize>>) -> Http2Client {
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::task::spawn_local(generous(far, Rc::clone(sent)));
    Http2Client::handshake(near, &limits(), ()).await.expect("a handshake")
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn answers_that_nobody_reads_do_not_hold_up_those_of_others() {
    let sent = Rc::default();
    let client = client(&sent).await;
    let early = call(&client).await;
    let mut kept = Vec::new();
    // All the places there are but one.
    while client.limit() - kept.len() > 2 {
        kept.push(call(&client).await);
    }
    settle().await;
    let most = usize::try_from(limits().connection_window).unwrap();
    assert!(sent.get() <= most, "{} of {most} lie unread", sent.get());
    assert_eq!(soon("one that had begun before", length(early)).await, LARGE);
    let late = soon("the head of one that comes later", call(&client)).await;
    assert_eq!(soon("one that comes later", length(late)).await, LARGE);
    // Nothing is lost of those.
    for body in kept {
        assert_eq!(soon("one that was not read", length(body)).await, LARGE);
    }
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn no_more_streams_are_opened_than_the_window_has_room_for() {
    let client = client(&Rc::default()).await;
    assert_eq!(client.limit(), 256, "the server takes more");
    let places: Vec<_> = std::iter::from_fn(|| client.slot()).collect();
    assert_eq!(places.len(), 256);
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn answers_that_are_given_up_unread_give_their_window_back() {
    let client = client(&Rc::default()).await;
    for _ in 0..5 {
        let mut kept = Vec::new();
        while kept.len() < 255 {
            kept.push(call(&client).await);
        }
        settle().await;
        drop(kept);
        settle().await;
    }
    assert_eq!(soon("another", length(call(&client).await)).await, LARGE);
}

/// Reads the bodies of POST, and keeps others.
#[derive(Default)]
struct Reads(RefCell<Vec<Body>>);

impl Handler for Reads {
    type Body = Body;

    fn is_link(&self) -> bool {
        true
    }

    async fn call(&self, request: Request<Body>, _: Interim<'_>) -> Result<Answer<Body>, Abort> {
        if request.method() == http::Method::POST {
            let octets = Box::pin(length(request.into_body())).await;
            return Ok(Response::new(Body::Full(octets.to_string().into())).into());
        }
        self.0.borrow_mut().push(request.into_body());
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn uploads_that_nobody_reads_do_not_hold_up_those_of_others() {
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::task::spawn_local(async move {
        serve_http2(far, Rc::new(Reads::default()), &limits(), Drain::never()).await
    });
    let (mut send, connection) = h2::client::handshake(near).await.expect("a handshake");
    tokio::task::spawn_local(connection);
    let mut kept = Vec::new();
    for _ in 1..STREAMS {
        send = send.ready().await.expect("a place");
        let (response, stream) =
            send.send_request(Request::put("http://a/").body(()).unwrap(), false).unwrap();
        tokio::task::spawn_local(feed(stream, LARGE, Rc::default()));
        kept.push(response);
    }
    settle().await;
    send = send.ready().await.expect("a place");
    let (response, stream) = send.send_request(Request::post("http://a/").body(()).unwrap(), false).unwrap();
    tokio::task::spawn_local(feed(stream, LARGE, Rc::default()));
    let mut body: RecvStream = soon("another upload", response).await.expect("an answer").into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), LARGE.to_string());
}
