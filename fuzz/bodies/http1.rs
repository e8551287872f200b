//! What the fuzz targets for HTTP/1 do with an input. The tests of weft-http do the same with the corpora and with
//! mutations of them (`tests/http1/corpora.rs` there), so that it runs without a nightly compiler as well.
//!
//! The first bytes of an input say how the rest is cut and what the other side does; the rest is what a peer sends.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use weft_core::Drain;
use weft_http::testing::{Rewritten, rewrite_answers, rewrite_requests};
use weft_http::{Abort, Answer, Body, Handler, Http1Limits, Http1Pool, Interim, serve_http1};

/// Two positions at which bytes are cut, in order.
fn cut(bytes: &[u8], first: u8, second: u8) -> [&[u8]; 3] {
    let at = |place: u8| (usize::from(place) * (bytes.len() + 1)) >> 8;
    let (first, second) = (at(first.min(second)), at(first.max(second)));
    let (head, tail) = bytes.split_at(second);
    let (head, middle) = head.split_at(first);
    [head, middle, tail]
}

fn check(input: &[u8], rewrite: impl Fn(&[&[u8]], usize) -> Rewritten) {
    let [first, second, step, bytes @ ..] = input else { return };
    let whole = rewrite(&[bytes], 1 << 20);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    for other in [rewrite(&cut(bytes, *first, *second), usize::from(*step)), rewrite(&single, 1)] {
        // What is wrong may be seen later, as lines are looked at when they are whole.
        assert_eq!((&other.bytes, other.messages), (&whole.bytes, whole.messages), "cutting matters");
    }
    let again = rewrite(&[&whole.bytes], 7);
    // The case of a field of our own follows those that came in, of which some do not go on.
    assert_eq!(again.bytes.to_ascii_lowercase(), whole.bytes.to_ascii_lowercase());
    assert_eq!((again.messages, again.refused), (whole.messages, false));
}

/// Requests: bytes to events to bytes, and the same events again.
pub(crate) fn http1_request(input: &[u8]) {
    check(input, rewrite_requests);
}

/// Answers, to GET or HEAD.
pub(crate) fn http1_answer(input: &[u8]) {
    let Some((kind, input)) = input.split_first() else { return };
    let method = [Method::GET, Method::HEAD][usize::from(kind % 2)].clone();
    check(input, |pieces, step| rewrite_answers(pieces, &method, step));
}

/// Runs to the end of all limits; what is not over by then hangs.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let over = tokio::time::timeout(Duration::from_secs(4000), test).await;
        assert!(over.is_ok(), "it hangs");
    });
}

fn limits() -> Http1Limits {
    Http1Limits { pause: Duration::from_secs(20), idle: Duration::from_secs(60), ..Http1Limits::default() }
}

/// Answers in one of some ways, and counts.
struct Simple {
    manner: u8,
    heard: RefCell<usize>,
}

async fn read(mut body: Body) -> Option<usize> {
    let mut octets = 0;
    while let Some(frame) =
        std::future::poll_fn(|cx| http_body::Body::poll_frame(std::pin::Pin::new(&mut body), cx)).await
    {
        octets += frame.ok()?.data_ref().map_or(0, bytes::Bytes::len);
    }
    Some(octets)
}

impl Handler for Simple {
    type Body = Body;

    fn is_link(&self) -> bool {
        false
    }

    async fn call(&self, request: Request<Body>, interim: Interim<'_>) -> Result<Answer<Body>, Abort> {
        *self.heard.borrow_mut() += 1;
        let mut response = Response::new(Body::Full(bytes::Bytes::from_static(b"ok")));
        match self.manner % 5 {
            // After the whole body, or before any of it, or with the body held by somebody else, or as it comes.
            0 => _ = read(request.into_body()).await,
            1 => {}
            2 => _ = tokio::task::spawn_local(read(request.into_body())),
            3 => response = Response::new(request.into_body()),
            _ => {
                let mut head = Response::new(());
                *head.status_mut() = StatusCode::CONTINUE;
                interim.send(head);
                _ = read(request.into_body()).await;
            }
        }
        Ok(response.into())
    }
}

/// A client that sends anything, cut anywhere, to a server that answers in some way.
pub(crate) fn http1_client(input: &[u8]) {
    let [first, second, manner, bytes @ ..] = input else { return };
    run(async {
        let (mut near, far) = tokio::io::duplex(usize::from(*manner) + 1);
        let handler = Rc::new(Simple { manner: *manner, heard: RefCell::default() });
        let served = {
            let handler = Rc::clone(&handler);
            tokio::task::spawn_local(async move {
                serve_http1(far, |_| (), handler, &limits(), Drain::never()).await
            })
        };
        let mut sent = Vec::new();
        for mut piece in cut(bytes, *first, *second) {
            // A server that waits for its answers to be taken gets them taken, now and then.
            for _ in 0..piece.len() {
                let written = tokio::time::timeout(Duration::from_millis(1), near.write(piece)).await;
                let octets = written.ok().and_then(Result::ok).unwrap_or(0);
                sent.extend_from_slice(&piece[..octets]);
                piece = &piece[octets..];
                if piece.is_empty() {
                    break;
                }
                let _ = tokio::time::timeout(Duration::from_millis(1), near.read(&mut [0; 300])).await;
            }
            if !piece.is_empty() {
                break;
            }
        }
        if manner.is_multiple_of(2) {
            let _ = near.shutdown().await;
        }
        let mut answers = Vec::new();
        let _ = near.read_to_end(&mut answers).await;
        drop(near);
        let _ = served.await;
        // What could be read as requests was handed on, and nothing else.
        let most = rewrite_requests(&[&sent], 1 << 20).messages + 1;
        assert!(*handler.heard.borrow() <= most, "{} requests of {most}", handler.heard.borrow());
    });
}

/// An application that says anything, at any time, to a pool that sends it a few requests.
pub(crate) fn http1_server(input: &[u8]) {
    let [first, second, manner, bytes @ ..] = input else { return };
    let (first, second, manner, bytes) = (*first, *second, *manner, bytes.to_vec());
    run(async move {
        let pool = Http1Pool::new(limits());
        let connect = || {
            let (near, far) = tokio::io::duplex(usize::from(manner) + 1);
            tokio::task::spawn_local(speak(far, bytes.clone(), first, second, manner));
            near
        };
        for round in 0..3 {
            let body = match manner.wrapping_add(round) % 3 {
                0 => Body::Empty,
                1 => Body::Full(bytes::Bytes::from(vec![b'x'; 40])),
                _ => Body::Full(bytes::Bytes::from(vec![b'x'; 9000])),
            };
            let request = Request::post("/").header("host", "h").body(body).unwrap_or_default();
            let connect = async || Ok::<_, &'static str>((connect(), ()));
            let sent = pool.send(request, &Interim::Nowhere, connect);
            if let Ok(Ok(response)) = tokio::time::timeout(Duration::from_secs(30), sent).await {
                let _ = tokio::time::timeout(Duration::from_secs(30), read(response.into_body())).await;
            }
        }
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert_eq!(pool.idle(), 0, "left in the pool");
    });
}

/// Says its bytes in three pieces, each when something was heard.
async fn speak(mut io: DuplexStream, bytes: Vec<u8>, first: u8, second: u8, manner: u8) {
    for piece in cut(&bytes, first, second) {
        let read = tokio::time::timeout(Duration::from_millis(5), io.read(&mut [0; 500])).await;
        if matches!(read, Ok(Ok(0) | Err(_))) || io.write_all(piece).await.is_err() {
            return;
        }
    }
    // It closes, or takes nothing more for a while.
    if manner.is_multiple_of(2) {
        tokio::time::sleep(Duration::from_secs(100)).await;
    }
}
