//! How exchanges end that do not end well: the codes of both sides pass as they are, and gRPC hears what it understands.

mod peer;

use std::rc::Rc;

use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use peer::{END_HEADERS, END_STREAM, Frame, Server, get, kind, settle};
use weft_core::Drain;
use weft_http::{
    Abort, Answer, Body, BodyError, ErrorCode, ExchangeError, Handler, Http2Client, Http2Limits, Interim,
    Refusal, ResetCode, serve_http2,
};

/// Passes requests on to a server of the test, as a proxy does.
struct Proxy(Http2Client);

impl Handler for Proxy {
    type Body = Body;

    fn is_link(&self) -> bool {
        false
    }

    async fn call(&self, request: Request<Body>, interim: Interim<'_>) -> Result<Answer<Body>, Abort> {
        let (head, body) = request.into_parts();
        let slot = self.0.slot().expect("a place");
        // Boxed, for a stream has little room.
        match Box::pin(slot.exchange(Request::from_parts(head, ()), body, &interim)).await {
            Ok(response) => Ok(response.into()),
            Err(ExchangeError::Reset(code)) => Err(Abort(code)),
            Err(error) if error.is_safe_to_retry() => Err(Abort(ResetCode::REFUSED_STREAM)),
            Err(_) => Ok(Refusal { code: ErrorCode::UpstreamClosed, grpc: true }.response().into()),
        }
    }
}

/// A client, a proxy and a server.
async fn scene() -> (SendRequest<bytes::Bytes>, Server) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = Server::start(far, 100);
    let client = Http2Client::handshake(near, &Http2Limits::default(), ()).await.expect("a handshake");
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::task::spawn_local(async move {
        serve_http2(far, Rc::new(Proxy(client)), &Http2Limits::default(), Drain::never()).await
    });
    let (send, connection) = h2::client::handshake(near).await.expect("a handshake");
    tokio::task::spawn_local(connection);
    (send, server)
}

/// Codes that a peer may send: the first and last that are registered, and one that is not.
const CODES: [u32; 6] = [1, 2, 7, 8, 13, 0xdead];

/// An answer's head: `:status: 200`, and for gRPC `content-type: application/grpc`, as RFC 7541 says it without a table.
fn head(stream: u32, grpc: bool) -> Frame {
    let mut block = vec![0x88];
    if grpc {
        block.extend_from_slice(&[0x0f, 0x10, 16]);
        block.extend_from_slice(b"application/grpc");
    }
    Frame::new(kind::HEADERS, END_HEADERS, stream, &block)
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_servers_code_reaches_the_client_before_the_answer() {
    let (mut send, server) = scene().await;
    for (code, stream) in CODES.into_iter().zip((1..).step_by(2)) {
        let (response, _) = send.send_request(get(), true).unwrap();
        settle().await;
        server.reset(stream, code);
        let error = response.await.expect_err("a reset");
        assert_eq!(error.reason(), Some(Reason::from(code)));
    }
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_servers_code_reaches_the_client_after_the_head() {
    let (mut send, server) = scene().await;
    for (code, stream) in CODES.into_iter().zip((1..).step_by(2)) {
        for_both(&mut send, &server, stream, code).await;
    }

    async fn for_both(send: &mut SendRequest<bytes::Bytes>, server: &Server, stream: u32, code: u32) {
        let (response, _) = send.send_request(get(), true).unwrap();
        settle().await;
        // One that speaks gRPC as well: its own word is worth more than ours.
        server.send(&head(stream, stream % 4 == 1));
        let mut body = response.await.expect("an answer").into_body();
        settle().await;
        server.reset(stream, code);
        let error = body.data().await.expect("no end").expect_err("a reset");
        assert_eq!(error.reason(), Some(Reason::from(code)));
    }
}

/// The code that came to the server for a stream.
fn reset_of(server: &Server, stream: u32) -> Option<u32> {
    let frames = server.frames();
    frames.iter().find(|frame| frame.kind == kind::RST_STREAM && frame.stream == stream).map(Frame::number)
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_clients_code_reaches_the_server() {
    for answered in [false, true] {
        for whole in [false, true] {
            let (mut send, server) = scene().await;
            for (code, stream) in CODES.into_iter().zip((1..).step_by(2)) {
                let (response, mut body) = send.send_request(get(), whole).unwrap();
                settle().await;
                let mut kept = None;
                if answered {
                    server.send(&head(stream, false));
                    kept = Some(response.await.expect("an answer"));
                }
                body.send_reset(code.into());
                settle().await;
                assert_eq!(reset_of(&server, stream), Some(code), "answered {answered}, whole {whole}");
                drop(kept);
            }
        }
    }
}

async fn end_of(mut body: RecvStream) -> Result<Option<HeaderMap>, h2::Error> {
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
    }
    body.trailers().await
}

/// Begins an answer, and ends the server's connection in the midst of it.
async fn dies(grpc: bool) -> Result<Option<HeaderMap>, h2::Error> {
    let (mut send, server) = scene().await;
    let (response, _) = send.send_request(get(), true).unwrap();
    settle().await;
    server.send(&head(1, grpc));
    server.send(&Frame::new(kind::DATA, 0, 1, b"\0\0\0\0\x01a"));
    let response: Response<RecvStream> = response.await.expect("an answer");
    settle().await;
    server.close();
    end_of(response.into_body()).await
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_server_that_dies_is_unavailable_to_grpc() {
    let trailers = dies(true).await.expect("an end").expect("trailers");
    assert_eq!(trailers["grpc-status"], "14");
    assert!(trailers.contains_key("grpc-message"));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_server_that_dies_breaks_other_answers_off() {
    let error = dies(false).await.expect_err("no end");
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_draining_servers_calls_go_on_and_those_it_did_not_see_may_go_elsewhere() {
    let (mut send, server) = scene().await;
    let (first, _) = send.send_request(get(), true).unwrap();
    let (second, _) = send.send_request(get(), true).unwrap();
    settle().await;
    server.go_away(1, 0);
    let error = second.await.expect_err("not seen");
    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
    server.send(&Frame::new(kind::HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]));
    assert_eq!(first.await.expect("an answer").status(), 200);
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn interim_answers_have_an_end() {
    let interim = |stream| Frame::new(kind::HEADERS, END_HEADERS, stream, b"\x08\x03103");
    let client = || async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let server = Server::start(far, 100);
        (Http2Client::handshake(near, &Http2Limits::default(), ()).await.expect("a handshake"), server)
    };
    // With a body, without one, and one that asks for an upgrade.
    for way in 0..3 {
        let (client, server) = client().await;
        let slot = client.slot().expect("a place");
        let call = tokio::task::spawn_local(async move {
            match way {
                0 => slot.exchange(get(), Body::Full("x".into()), &Interim::Nowhere).await.map(drop),
                1 => slot.send_now(get()).unwrap().head(&Interim::Nowhere).await.map(drop),
                _ => slot.open(get(), |_, _| true).await.map(drop),
            }
        });
        settle().await;
        for _ in 0..1000 {
            server.send(&interim(1));
        }
        settle().await;
        assert!(!call.is_finished(), "so many may be of use");
        server.send(&interim(1));
        settle().await;
        assert!(matches!(call.await.unwrap(), Err(ExchangeError::TooManyInterim)));
        assert_eq!(reset_of(&server, 1), Some(u32::from(Reason::CANCEL)));
    }
}

/// Begins an answer whose time is over then.
struct Overdue;

/// One chunk, and the end of its time.
struct Cut(Option<&'static str>);

impl http_body::Body for Cut {
    type Data = bytes::Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, BodyError>>> {
        std::task::Poll::Ready(Some(match self.0.take() {
            Some(data) => Ok(http_body::Frame::data(data.into())),
            None => Err(BodyError::TimedOut),
        }))
    }
}

impl Handler for Overdue {
    type Body = Cut;

    fn is_link(&self) -> bool {
        false
    }

    async fn call(&self, request: Request<Body>, _: Interim<'_>) -> Result<Answer<Cut>, Abort> {
        let mut response = Response::new(Cut(Some("word")));
        if let Some(kind) = request.headers().get("content-type") {
            response.headers_mut().insert("content-type", kind.clone());
        }
        Ok(response.into())
    }
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn an_answer_whose_time_is_over_says_so_to_grpc() {
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::task::spawn_local(async move {
        serve_http2(far, Rc::new(Overdue), &Http2Limits::default(), Drain::never()).await
    });
    let (mut send, connection) = h2::client::handshake(near).await.expect("a handshake");
    tokio::task::spawn_local(connection);
    let grpc = Request::post("http://a/").header("content-type", "application/grpc").body(()).unwrap();
    let (response, _) = send.send_request(grpc, true).unwrap();
    let trailers = end_of(response.await.expect("an answer").into_body()).await.expect("an end");
    assert_eq!(trailers.expect("trailers")["grpc-status"], "4");
    let (response, _) = send.send_request(get(), true).unwrap();
    let error = match response.await {
        Ok(answer) => end_of(answer.into_body()).await.expect_err("no end"),
        Err(error) => error,
    };
    assert_eq!(error.reason(), Some(Reason::CANCEL));
}
