//! HTTP/2 peers for the tests: they do what they are told, and nothing else.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses some of it")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use weft_http::Body;

/// Frame kinds (RFC 9113 section 6).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// What a client says first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// `:method: GET`, `:scheme: http`, `:path: /`, from the static table (RFC 7541 appendix A).
pub const GET: &[u8] = &[0x82, 0x86, 0x84];
/// The same for POST.
pub const POST: &[u8] = &[0x83, 0x86, 0x84];

/// A frame (RFC 9113 section 4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        Self { kind, flags, stream, payload: payload.to_vec() }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], self.kind, self.flags];
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// The next frame; `None`: the peer has closed.
    pub async fn read(io: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Self> {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        io.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Self { kind: head[3], flags: head[4], stream, payload })
    }

    /// The number in its last four octets: an error code, or a setting's value.
    pub fn number(&self) -> u32 {
        let at = self.payload.len() - 4;
        u32::from_be_bytes(self.payload[at..].try_into().unwrap())
    }
}

/// SETTINGS with one setting.
pub fn setting(id: u8, value: u32) -> Frame {
    let mut payload = vec![0, id];
    payload.extend_from_slice(&value.to_be_bytes());
    Frame::new(kind::SETTINGS, 0, 0, &payload)
}

/// SETTINGS_MAX_CONCURRENT_STREAMS and SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 section 6.5.2).
pub const MAX_CONCURRENT_STREAMS: u8 = 3;
pub const INITIAL_WINDOW_SIZE: u8 = 4;

/// A plain GET.
pub fn get() -> Request<()> {
    Request::get("http://orders/").body(()).unwrap()
}

/// Lets everything run that can, with the clock standing still or nearly.
pub async fn settle() {
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}

/// Polls once, for a caller that does not wait.
pub fn look<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

/// A server on one connection that writes its frames itself, so that it can say whatever it likes whenever it likes.
pub struct Server {
    out: mpsc::UnboundedSender<Vec<u8>>,
    seen: Rc<RefCell<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Requests that were neither answered nor given up.
    open: VecDeque<u32>,
    frames: Vec<Frame>,
    closed: bool,
}

impl Server {
    /// Serves `io`, and says that it takes so many streams.
    pub fn start(io: DuplexStream, streams: u32) -> Self {
        let (out, queue) = mpsc::unbounded_channel();
        let seen = Rc::new(RefCell::new(Seen::default()));
        let (read, write) = tokio::io::split(io);
        let this = Self { out, seen };
        this.limit(streams);
        tokio::task::spawn_local(write_all(write, queue));
        tokio::task::spawn_local(read_all(read, this.out.clone(), Rc::clone(&this.seen)));
        this
    }

    /// Requests under way.
    pub fn open(&self) -> usize {
        self.seen.borrow().open.len()
    }

    /// The oldest of them.
    pub fn take(&self) -> Option<u32> {
        self.seen.borrow_mut().open.pop_front()
    }

    /// Every frame that has come.
    pub fn frames(&self) -> Vec<Frame> {
        self.seen.borrow().frames.clone()
    }

    pub fn is_closed(&self) -> bool {
        self.seen.borrow().closed
    }

    pub fn send(&self, frame: &Frame) {
        let _ = self.out.send(frame.bytes());
    }

    /// Answers with a head that is all: `:status: 200`.
    pub fn answer(&self, stream: u32) {
        self.send(&Frame::new(kind::HEADERS, END_HEADERS | END_STREAM, stream, &[0x88]));
    }

    pub fn reset(&self, stream: u32, code: u32) {
        self.send(&Frame::new(kind::RST_STREAM, 0, stream, &code.to_be_bytes()));
    }

    /// Closes the connection without a word.
    pub fn close(&self) {
        let _ = self.out.send(Vec::new());
    }

    /// Announces a limit of streams.
    pub fn limit(&self, streams: u32) {
        self.send(&setting(MAX_CONCURRENT_STREAMS, streams));
    }

    /// Takes no more streams than up to `last`.
    pub fn go_away(&self, last: u32, code: u32) {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend_from_slice(&code.to_be_bytes());
        self.send(&Frame::new(kind::GOAWAY, 0, 0, &payload));
    }
}

async fn write_all(mut io: WriteHalf<DuplexStream>, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(bytes) = queue.recv().await {
        if bytes.is_empty() || io.write_all(&bytes).await.is_err() {
            break;
        }
    }
    let _ = io.shutdown().await;
}

async fn read_all(
    mut io: ReadHalf<DuplexStream>,
    out: mpsc::UnboundedSender<Vec<u8>>,
    seen: Rc<RefCell<Seen>>,
) {
    let mut preface = [0; PREFACE.len()];
    if io.read_exact(&mut preface).await.is_ok() {
        while let Some(frame) = Frame::read(&mut io).await {
            match (frame.kind, frame.flags & ACK) {
                (kind::SETTINGS, 0) => {
                    let _ = out.send(Frame::new(kind::SETTINGS, ACK, 0, &[]).bytes());
                }
                (kind::PING, 0) => {
                    let _ = out.send(Frame::new(kind::PING, ACK, 0, &frame.payload).bytes());
                }
                (kind::HEADERS, _) => seen.borrow_mut().open.push_back(frame.stream),
                (kind::RST_STREAM, _) => seen.borrow_mut().open.retain(|open| *open != frame.stream),
                _ => {}
            }
            seen.borrow_mut().frames.push(frame);
        }
    }
    seen.borrow_mut().closed = true;
}

/// A request as an `h2` server takes it.
pub struct Accepted {
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
}

impl Accepted {
    /// Answers with a head that is all.
    pub fn answer(mut self) {
        self.respond.send_response(Response::new(()), true).expect("the stream is open");
    }
}

/// The first request of a connection. What comes after it is not taken, and the connection goes on.
pub async fn accept(io: DuplexStream) -> Accepted {
    let mut connection = h2::server::handshake(io).await.expect("a handshake");
    let (request, respond) = connection.accept().await.expect("a request").expect("a request");
    tokio::task::spawn_local(async move { while connection.accept().await.is_some() {} });
    Accepted { request, respond }
}

/// The far end of a body that comes when it is told to.
pub struct Sender {
    stream: h2::SendStream<Bytes>,
    _kept: (h2::client::ResponseFuture, h2::client::SendRequest<Bytes>, SendResponse<Bytes>),
}

impl Sender {
    pub fn send(&mut self, data: &'static [u8]) {
        self.stream.send_data(Bytes::from_static(data), false).expect("the stream is open");
    }

    pub fn end(&mut self) {
        self.stream.send_data(Bytes::new(), true).expect("the stream is open");
    }

    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }
}

/// A body that comes over a connection of its own, as it is sent.
pub async fn slow_body() -> (Sender, Body) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let accepting = tokio::task::spawn_local(accept(far));
    let (mut send, connection) = h2::client::handshake(near).await.expect("a handshake");
    tokio::task::spawn_local(connection);
    let (response, stream) = send.send_request(get(), false).expect("a new connection");
    let Accepted { request, respond } = accepting.await.expect("a request");
    (Sender { stream, _kept: (response, send, respond) }, Body::from_stream(request.into_body()))
}
