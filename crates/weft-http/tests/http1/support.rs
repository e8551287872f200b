//! Peers and a handler, each driven by what a test says.

use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use weft_core::Drain;
use weft_http::{
    Abort, Answer, Body, ErrorCode, Handler, Http1Fault, Http1Limits, Interim, UpgradeIo, serve_http1,
};

/// Answers by path, and notes what came.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) heads: RefCell<Vec<String>>,
    pub(crate) bodies: RefCell<Vec<Result<String, String>>>,
    pub(crate) refused: RefCell<Vec<ErrorCode>>,
    /// Bodies that the test reads itself.
    pub(crate) taken: RefCell<Vec<Body>>,
}

/// The handler of a connection, whose notes the test reads.
struct Shared(Rc<Script>);

/// Reads a body to its end.
pub(crate) async fn read(body: Body) -> Result<String, String> {
    let (data, trailers) = read_all(body).await?;
    Ok(match trailers {
        Some(trailers) => format!("{data}+{trailers:?}"),
        None => data,
    })
}

async fn read_all(mut body: Body) -> Result<(String, Option<HeaderMap>), String> {
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame.map_err(|error| error.to_string())?.into_data() {
            Ok(piece) => data.extend_from_slice(&piece),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((String::from_utf8_lossy(&data).into_owned(), trailers))
}

pub(crate) fn full(text: &str) -> Body {
    Body::Full(Bytes::copy_from_slice(text.as_bytes()))
}

fn answer(status: u16, text: &str) -> Response<Body> {
    let mut response = Response::new(if text.is_empty() { Body::Empty } else { full(text) });
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

impl Handler for Shared {
    type Body = Body;

    fn is_link(&self) -> bool {
        false
    }

    fn refused(&self, code: ErrorCode) {
        self.0.refused.borrow_mut().push(code);
    }

    async fn call(&self, request: Request<Body>, interim: Interim<'_>) -> Result<Answer<Body>, Abort> {
        let (head, body) = request.into_parts();
        let mut told = format!("{} {}", head.method, head.uri);
        for (name, value) in &head.headers {
            told.push_str(&format!(" {name}={}", String::from_utf8_lossy(value.as_bytes())));
        }
        self.0.heads.borrow_mut().push(told);
        Ok(match head.uri.path() {
            "/echo" => {
                let text = read(body).await;
                self.0.bodies.borrow_mut().push(text.clone());
                answer(200, &text.unwrap_or_default())
            }
            "/early" => answer(413, "too large\n"),
            "/never" => pending().await,
            "/held" => {
                let this = Rc::clone(&self.0);
                tokio::task::spawn_local(async move {
                    let text = read(body).await;
                    this.bodies.borrow_mut().push(text);
                });
                answer(200, "ok")
            }
            "/take" => {
                self.0.taken.borrow_mut().push(body);
                answer(200, "ok")
            }
            "/mirror" => return Ok(Response::new(body).into()),
            "/late" => {
                // It looks at the body once, and has then enough of it.
                let mut body = body;
                let looked = tokio::time::timeout(MOMENT, poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)));
                let _ = looked.await;
                drop(body);
                tokio::time::sleep(Duration::from_secs(1000)).await;
                answer(200, "ok")
            }
            "/refused" => {
                // Whoever reads the request lets go of it a moment after the answer's head.
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    drop(body);
                });
                answer(413, "too large\n")
            }
            "/interim" => {
                for (status, link) in [(102, "a"), (103, "b")] {
                    let mut head = Response::new(());
                    *head.status_mut() = StatusCode::from_u16(status).unwrap();
                    head.headers_mut().insert("link", HeaderValue::from_static(link));
                    interim.send(head);
                }
                answer(200, "ok")
            }
            "/continue" => {
                let mut head = Response::new(());
                *head.status_mut() = StatusCode::CONTINUE;
                interim.send(head);
                answer(200, &read(body).await.unwrap())
            }
            "/empty" => answer(204, ""),
            "/large" => answer(200, &"x".repeat(200_000)),
            "/abort" => return Err(Abort(h2::Reason::CANCEL.into())),
            "/switch" => {
                let mut response = answer(101, "");
                response.headers_mut().insert("content-length", HeaderValue::from_static("0"));
                return Ok(Answer { response, upgrade: Some(Box::new(|io| Box::pin(parrot(io)))) });
            }
            _ => answer(200, "ok"),
        }
        .into())
    }
}

/// Says everything twice.
async fn parrot(mut io: UpgradeIo) {
    let mut word = [0; 64];
    while let Ok(read @ 1..) = io.read(&mut word).await {
        io.write_all(&word[..read]).await.unwrap();
        io.write_all(&word[..read]).await.unwrap();
    }
}

/// A client's connection that is served.
pub(crate) struct Client {
    pub(crate) io: DuplexStream,
    pub(crate) script: Rc<Script>,
    pub(crate) served: tokio::task::JoinHandle<Result<weft_http::Ended, Http1Fault>>,
}

/// Runs a test with local tasks.
pub(crate) async fn local(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

impl Client {
    pub(crate) fn new() -> Self {
        Self::with(Http1Limits::default(), Drain::never())
    }

    pub(crate) fn with(limits: Http1Limits, drain: Drain) -> Self {
        Self::sized(limits, drain, 1 << 20)
    }

    pub(crate) fn sized(limits: Http1Limits, drain: Drain, room: usize) -> Self {
        let (io, server) = tokio::io::duplex(room);
        Self::over(io, server, limits, drain)
    }

    /// Over a connection of any kind.
    pub(crate) fn over(
        io: DuplexStream,
        server: impl AsyncRead + AsyncWrite + Unpin + 'static,
        limits: Http1Limits,
        drain: Drain,
    ) -> Self {
        let script = Rc::new(Script::default());
        let handler = Rc::new(Shared(Rc::clone(&script)));
        let served =
            tokio::task::spawn_local(
                async move { serve_http1(server, |_| (), handler, &limits, drain).await },
            );
        Self { io, script, served }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.io.write_all(text.as_bytes()).await.unwrap();
    }

    /// What comes until nothing more does for a while.
    pub(crate) async fn heard(&mut self) -> String {
        heard(&mut self.io).await
    }

    /// Sends and hears.
    pub(crate) async fn say(&mut self, text: &str) -> String {
        self.send(text).await;
        self.heard().await
    }

    /// Whether the server has closed.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        matches!(tokio::time::timeout(MOMENT, self.io.read(&mut byte)).await, Ok(Ok(0) | Err(_)))
    }
}

/// Paused time passes only when nothing else can happen, so this is no guess.
const MOMENT: Duration = Duration::from_millis(1);

/// What comes until nothing more does.
pub(crate) async fn heard(io: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    let mut piece = vec![0; 65_536];
    while let Ok(Ok(read @ 1..)) = tokio::time::timeout(MOMENT, io.read(&mut piece)).await {
        text.extend_from_slice(&piece[..read]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Waits for the server's or client's end of a stream.
pub(crate) async fn pass_time(time: Duration) {
    tokio::time::sleep(time).await;
}
