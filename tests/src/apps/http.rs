//! An HTTP server whose path picks what it does.
//!
//! | path | answer |
//! |---|---|
//! | `/status/<code>` | that status, with an empty body |
//! | `/delay/<ms>` | the echo, after that time |
//! | `/chunked/<n>` | n chunks of text, without a length |
//! | `/trailers` | a chunk, then the trailer `x-checksum: ok` |
//! | `/hang` | no answer ever |
//! | `/early` | 413 before the request body is read |
//! | `/sse` | three server-sent events, 50 ms apart |
//! | `/bytes/<n>` | n bytes of a pattern, with a length |
//! | `/count` | the number of request body bytes and their checksum |
//! | `/with/<name>/<value>/...` | empty, with these headers, and their number in `x-answered-with` |
//! | anything else | the request as JSON: server, method, path, version, headers, body |

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::checksum::{Checksum, pattern};
use super::ending::{Ending, gracefully};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What begins an HTTP/2 connection (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often the beginning of a preface is looked at again, a millisecond apart.
const MOST_LOOKS: usize = 1000;

pub(crate) async fn serve(stream: TcpStream, name: Arc<str>, ending: Ending) -> Result<()> {
    let http2 = begins_with_preface(&stream).await?;
    let asked = ending.clone();
    let service = service_fn(move |request| {
        let (name, asked) = (name.clone(), asked.clone());
        async move {
            let http1 = takes_close(&request);
            let mut response = answer(request, &name).await;
            if http1 && asked.asked() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert("connection", HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let io = TokioIo::new(stream);
    if http2 {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let connection = server.serve_connection(io, service);
        let served = gracefully(connection, ending.now(), |connection| connection.graceful_shutdown()).await;
        return served.map_err(|error| anyhow!("HTTP/2: {error}"));
    }
    let mut server = hyper::server::conn::http1::Builder::new();
    let server = server.timer(TokioTimer::new()).half_close(true).serve_connection(io, service);
    let served =
        gracefully(server.with_upgrades(), ending.late(), |connection| connection.graceful_shutdown()).await;
    served.map_err(|error| anyhow!("HTTP/1: {error}"))
}

fn takes_close(request: &Request<Incoming>) -> bool {
    request.version() != hyper::Version::HTTP_2 && request.method() != hyper::Method::CONNECT
}

async fn begins_with_preface(stream: &TcpStream) -> Result<bool> {
    let mut buffer = [0; PREFACE.len()];
    for _ in 0..MOST_LOOKS {
        let seen = stream.peek(&mut buffer).await?;
        if seen == 0 || !PREFACE.starts_with(&buffer[..seen]) {
            return Ok(false);
        }
        if seen == PREFACE.len() {
            return Ok(true);
        }
        // Part of the preface: peek returns the same bytes again until more come, and after the client's end for ever.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(false)
}

async fn answer(request: Request<Incoming>, name: &str) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_matches('/').split('/');
    let (word, number) = (parts.next().unwrap_or(""), parts.next().and_then(|n| n.parse::<u64>().ok()));
    match (word, number) {
        ("status", Some(code)) => {
            let mut response = Response::new(full(Bytes::new()));
            let code = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
            *response.status_mut() = code.unwrap_or(StatusCode::BAD_REQUEST);
            response
        }
        ("delay", Some(ms)) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            echo(request, name).await
        }
        ("chunked", Some(count)) => Response::new(frames(
            (0..count).map(|n| Frame::data(Bytes::from(format!("chunk {n}\n")))).collect(),
        )),
        ("trailers", None) => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-checksum", HeaderValue::from_static("ok"));
            let body = frames(vec![Frame::data(Bytes::from_static(b"data\n")), Frame::trailers(trailers)]);
            let mut response = Response::new(body);
            // hyper sends HTTP/1 trailers only where they are announced (RFC 9110 section 6.6.2).
            response.headers_mut().insert("trailer", HeaderValue::from_static("x-checksum"));
            response
        }
        ("hang", None) => std::future::pending().await,
        ("early", None) => {
            let mut response = Response::new(full(Bytes::from_static(b"too large\n")));
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            response
        }
        ("sse", None) => events(),
        ("bytes", Some(count)) => Response::new(full(pattern(count))),
        ("count", None) => count(request).await,
        ("with", None) => answer_with(path.split('/').skip(2)),
        ("ws", None) => upgrade(request),
        _ if request.method() == hyper::Method::CONNECT => upgrade(request),
        _ => echo(request, name).await,
    }
}

async fn echo(request: Request<Incoming>, name: &str) -> Response<Body> {
    let (head, body) = request.into_parts();
    let (body, trailers) = match body.collect().await {
        Ok(body) => {
            let trailers = body.trailers().cloned().unwrap_or_default();
            (body.to_bytes(), trailers)
        }
        Err(error) => (Bytes::from(format!("broken body: {error}")), HeaderMap::new()),
    };
    let json = serde_json::json!({
        "server": name,
        "method": head.method.as_str(),
        "uri": head.uri.to_string(),
        "path": head.uri.path(),
        "version": format!("{:?}", head.version),
        "headers": map(&head.headers),
        "trailers": map(&trailers),
        "body": String::from_utf8_lossy(&body),
    });
    let mut response = Response::new(full(Bytes::from(json.to_string())));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    if let Ok(name) = HeaderValue::from_str(name) {
        response.headers_mut().insert("x-served-by", name);
    }
    response
}

/// Names to values; several values of one name are joined by `, `.
pub(super) fn map(headers: &HeaderMap) -> serde_json::Map<String, serde_json::Value> {
    let mut map = serde_json::Map::new();
    for name in headers.keys() {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .collect();
        map.insert(name.to_string(), values.join(", ").into());
    }
    map
}

/// Names and values in turn.
fn answer_with<'a>(mut words: impl Iterator<Item = &'a str>) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    let mut count = 0_u32;
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            response.headers_mut().append(name, value);
            count += 1;
        }
    }
    response.headers_mut().insert("x-answered-with", count.into());
    response
}

fn events() -> Response<Body> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        for n in 0..3 {
            if sender.send(Bytes::from(format!("data: event {n}\n\n"))).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), receiver))
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(stream)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
    response
}

async fn count(request: Request<Incoming>) -> Response<Body> {
    let mut body = request.into_body();
    let (mut bytes, mut sum) = (0_u64, Checksum::default());
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            bytes += data.len() as u64;
            sum.add(data);
        }
    }
    Response::new(full(Bytes::from(format!("{bytes} {:016x}\n", sum.value()))))
}

/// Takes the request's protocol switch (RFC 9110 section 7.8) or CONNECT, and echoes bytes from then on.
fn upgrade(request: Request<Incoming>) -> Response<Body> {
    let connect = request.method() == hyper::Method::CONNECT;
    let protocol = request.headers().get("upgrade").cloned();
    let mut response = Response::new(full(Bytes::new()));
    if !connect {
        let Some(protocol) = protocol else {
            *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
            return response;
        };
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("upgrade", protocol);
        response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
    }
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
        }
    });
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).boxed_unsync()
}

fn frames(frames: Vec<Frame<Bytes>>) -> Body {
    StreamBody::new(futures_util::stream::iter(frames.into_iter().map(Ok))).boxed_unsync()
}
