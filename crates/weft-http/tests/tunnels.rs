//! Streams that carry another protocol: what is written to one that is not read has a bound, in octets and in time.

mod peer;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use peer::{END_HEADERS, Frame, Server, kind, setting, settle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_core::Drain;
use weft_http::{
    Abort, Answer, Body, Handler, Http2Client, Http2Limits, Interim, Opened, StreamIo, serve_http2,
};

const STALL: Duration = Duration::from_secs(60);

fn limits() -> Http2Limits {
    Http2Limits { write_stall: Some(STALL), ..Http2Limits::default() }
}

fn connect() -> Request<()> {
    Request::builder().method(Method::CONNECT).uri("a:1").body(()).unwrap()
}

fn accepted(status: StatusCode, _: &HeaderMap) -> bool {
    status.is_success()
}

async fn open(client: &Http2Client) -> StreamIo {
    match client.slot().expect("a place").open(connect(), accepted).await.expect("an answer") {
        Opened::Stream(_, io) => io,
        Opened::Answer(answer) => panic!("{answer:?}"),
    }
}

/// A tunnel to a server that reads when it is told to.
async fn tunnel() -> (StreamIo, SendStream<Bytes>, RecvStream) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let accepting = tokio::task::spawn_local(peer::accept(far));
    let client = Http2Client::handshake(near, &limits(), ()).await.expect("a handshake");
    let opening = tokio::task::spawn_local(async move { open(&client).await });
    let peer::Accepted { request, mut respond } = accepting.await.expect("a request");
    let send = respond.send_response(Response::new(()), false).expect("the stream is open");
    (opening.await.expect("a tunnel"), send, request.into_body())
}

/// Writes until it fails; counts what was taken.
async fn write(mut io: impl tokio::io::AsyncWrite + Unpin, taken: Rc<Cell<usize>>) -> io::ErrorKind {
    loop {
        match io.write(&[0; 8192]).await {
            Ok(octets) => taken.set(taken.get() + octets),
            Err(error) => return error.kind(),
        }
    }
}

/// The code that ends a stream.
async fn end(mut recv: RecvStream) -> Option<Reason> {
    loop {
        if let Err(error) = recv.data().await? {
            return error.reason();
        }
    }
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn who_gives_no_window_gets_no_more_and_not_for_ever() {
    let (io, _send, recv) = tunnel().await;
    let taken = Rc::new(Cell::new(0));
    let writing = tokio::task::spawn_local(write(io, Rc::clone(&taken)));
    tokio::time::sleep(STALL * 3 / 4).await;
    assert_eq!((writing.is_finished(), taken.get()), (false, 65_535), "no more than the window");
    tokio::time::sleep(STALL * 2).await;
    assert_eq!(writing.await.expect("an end"), io::ErrorKind::TimedOut);
    assert_eq!(end(recv).await, Some(Reason::CANCEL));
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_slow_reader_and_a_silent_writer_go_on() {
    let (mut io, mut send, mut recv) = tunnel().await;
    let taken = Rc::new(Cell::new(0));
    for _ in 0..20 {
        // A window's worth, which is taken little by little.
        let mut left = 100_000_usize;
        let writing = async { io.write_all(&vec![0; 100_000]).await.expect("it goes on") };
        let reading = async {
            while left > 0 {
                tokio::time::sleep(STALL * 3 / 4).await;
                let data = recv.data().await.expect("no end").expect("data");
                left -= data.len();
                taken.set(taken.get() + data.len());
                recv.flow_control().release_capacity(data.len()).unwrap();
            }
        };
        tokio::join!(writing, reading);
        // Then nobody says anything for long.
        tokio::time::sleep(STALL * 100).await;
        send.send_data("word".into(), false).unwrap();
        let mut word = [0; 4];
        io.read_exact(&mut word).await.expect("a word");
    }
    assert_eq!(taken.get(), 2_000_000);
}

/// A server that gives all the window there is, and stops reading its socket.
#[tokio::test(start_paused = true, flavor = "local")]
async fn who_does_not_read_its_socket_makes_little_wait() {
    let limits = limits();
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let (server, client) = tokio::join!(
        async {
            let mut preface = [0; peer::PREFACE.len()];
            far.read_exact(&mut preface).await.unwrap();
            let mut first = setting(peer::INITIAL_WINDOW_SIZE, (1 << 31) - 1).bytes();
            first.extend(Frame::new(kind::SETTINGS, peer::ACK, 0, &[]).bytes());
            first.extend(Frame::new(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0]).bytes());
            far.write_all(&first).await.unwrap();
            far
        },
        Http2Client::handshake(near, &limits, ())
    );
    let (mut server, client) = (server, client.expect("a handshake"));
    let taken = Rc::new(Cell::new(0));
    let mut writing = Vec::new();
    for stream in (0..50).map(|number| 1 + 2 * number) {
        let opening = open(&client);
        let answering = async {
            loop {
                let frame = Frame::read(&mut server).await.expect("a frame");
                if frame.kind == kind::HEADERS {
                    break;
                }
            }
            server.write_all(&Frame::new(kind::HEADERS, END_HEADERS, stream, &[0x88]).bytes()).await.unwrap();
        };
        writing.push(tokio::join!(opening, answering).0);
    }
    let writing: Vec<_> =
        writing.into_iter().map(|io| tokio::task::spawn_local(write(io, Rc::clone(&taken)))).collect();
    settle().await;
    assert!(taken.get() <= 4 << 20, "{} octets wait", taken.get());
    tokio::time::sleep(STALL * 3).await;
    assert!(writing.iter().all(tokio::task::JoinHandle::is_finished), "all of them hear of it");
    drop(server);
}

/// Accepts every CONNECT, and writes until it fails.
#[derive(Default)]
struct Talker(Rc<Cell<usize>>, Rc<RefCell<Vec<io::ErrorKind>>>);

impl Handler for Talker {
    type Body = Body;

    fn is_link(&self) -> bool {
        true
    }

    async fn call(&self, _: Request<Body>, _: Interim<'_>) -> Result<Answer<Body>, Abort> {
        let (taken, ends) = (Rc::clone(&self.0), Rc::clone(&self.1));
        Ok(Answer {
            response: Response::new(Body::Empty),
            upgrade: Some(Box::new(move |io| {
                Box::pin(async move {
                    let end = write(io, taken).await;
                    ends.borrow_mut().push(end);
                })
            })),
        })
    }
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_client_that_does_not_read_its_tunnel_loses_it_and_nothing_else() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let talker = Rc::new(Talker::default());
    let (taken, ends) = (Rc::clone(&talker.0), Rc::clone(&talker.1));
    tokio::task::spawn_local(async move { serve_http2(far, talker, &limits(), Drain::never()).await });
    let (mut send, connection) = h2::client::handshake(near).await.expect("a handshake");
    tokio::task::spawn_local(connection);
    let (response, _kept) = send.send_request(connect(), false).unwrap();
    let body = response.await.expect("an answer").into_body();
    tokio::time::sleep(STALL * 3 / 4).await;
    assert_eq!((taken.get(), ends.borrow().len()), (65_535, 0));
    tokio::time::sleep(STALL * 2).await;
    assert_eq!(ends.borrow()[..], [io::ErrorKind::TimedOut]);
    assert_eq!(end(body).await, Some(Reason::CANCEL));
    let (response, _kept) = send.send_request(connect(), false).unwrap();
    assert_eq!(response.await.expect("an answer").status(), 200, "the connection is as good as before");
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_tunnel_that_the_peer_resets_fails_and_gives_its_place_free() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = Server::start(far, 1);
    let client = Http2Client::handshake(near, &limits(), ()).await.expect("a handshake");
    let opening = async { open(&client).await };
    let answering = async {
        settle().await;
        server.send(&Frame::new(kind::HEADERS, END_HEADERS, 1, &[0x88]));
    };
    let (io, ()) = tokio::join!(opening, answering);
    let writing = tokio::task::spawn_local(write(io, Rc::default()));
    settle().await;
    server.reset(1, 8);
    settle().await;
    assert!(writing.is_finished(), "{:?}", client.slot().is_some());
    assert!(client.slot().is_some());
}
