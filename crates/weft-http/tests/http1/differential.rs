//! Second opinions: hyper, and llhttp where Node is there. What both take must mean the same.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_http::{Body, Http1Limits, Http1Pool, Interim};

use crate::forwarding::{Act, Client, run, some_requests};
use crate::ragged::Manner;
use crate::reference::{FieldLines, Seen, end_to_end, requests};
use crate::support::read;

const SMOOTH: Manner = Manner { seed: 1, most: 1 << 20, waits: 0, holds_back: false };

/// Requests that readers have disagreed on.
const TRICKY: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "\nGET / HTTP/1.1\nHost: h\n\n",
    "GET / HTTP/1.0\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /b HTTP/1.0\r\n\r\n",
    "GET /<>\"^`{|} HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET ?x=1 HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET //x/../y?a=/b HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET http://other/a HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET http://other?a HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET HTTP://other/a HTTP/1.1\r\nHost: h\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    "PROPFIND / HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h:80\r\nX-Empty:\r\nX-Tab:\ta\tb\t\r\nx_y: \u{e9}\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\nY: b\r\nx: c\r\n\r\n",
    "GET / HTTP/1.1\r\nhOST: h\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\nX: y\r\n z: w\r\n\r\n",
    "GET / HTTP/1.1\r\nHost : h\r\n\r\n",
    "GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /\tHTTP/1.1\r\nHost: h\r\n\r\n",
    "GET / HTTP/1.1 \r\nHost: h\r\n\r\n",
    "GET / HTTP/1.2\r\nHost: h\r\n\r\n",
    "GET / HTTP/01.1\r\nHost: h\r\n\r\n",
    "get / HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 003\r\n\r\nabcGET /b HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nContent_Length: 3\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
    "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "HEAD / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\n\r\n00A;x=\"y\"\r\n0123456789\r\n0\r\nT: v\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nContent-Length: 9\r\nHost: evil\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding\u{0}: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
    "GET / HTTP/1.1\r\nHost: h\r\nConnection: x-a, \u{e9}\r\nX-A: b\r\nX-B: c\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n",
];

/// What an application behind the mesh gets of a client's bytes.
async fn relayed(bytes: &[u8]) -> (Vec<Seen>, Vec<Vec<u8>>) {
    let client = Client { pauses: 0, half: true, reads: true, leaves: 0 };
    let heard = run(bytes.to_vec(), client, SMOOTH, vec![Act::Answer]).await.heard;
    let seen = heard.iter().flat_map(|heard| requests(heard).requests).collect();
    (seen, heard)
}

fn lines(headers: &HeaderMap) -> FieldLines {
    end_to_end(headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect())
}

/// What hyper's server takes of a client's bytes.
async fn by_hyper(bytes: &[u8]) -> Vec<Seen> {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let service = service_fn(move |request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            let (head, body) = request.into_parts();
            // A body that breaks off is no request.
            let Ok(body) = body.collect().await else {
                return Ok::<_, &'static str>(Response::new(Empty::<Bytes>::new()));
            };
            let trailers = body.trailers().map(lines).unwrap_or_default();
            let _ = tell.send(Seen {
                method: head.method.to_string(),
                target: head.uri.to_string().into_bytes(),
                fields: lines(&head.headers),
                body: body.to_bytes().to_vec(),
                trailers,
            });
            Ok(Response::new(Empty::new()))
        }
    });
    let serving = async {
        let _ = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(far), service)
            .await;
    };
    let asking = async {
        let _ = near.write_all(bytes).await;
        let _ = near.shutdown().await;
        let _ = near.read_to_end(&mut Vec::new()).await;
    };
    let _ = tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(serving, asking) }).await;
    told.close();
    let mut seen = Vec::new();
    while let Some(request) = told.recv().await {
        seen.push(request);
    }
    seen
}

fn sorted(mut fields: FieldLines) -> FieldLines {
    fields.sort();
    fields
}

fn comparable(seen: &Seen) -> (String, Vec<u8>, FieldLines, Vec<u8>) {
    // Host follows an absolute target and that of CONNECT, which hyper leaves to its user.
    let absolute = seen.method == "CONNECT" || seen.target.to_ascii_lowercase().starts_with(b"http://");
    let mut fields = sorted(seen.fields.clone());
    fields.retain(|(name, _)| !absolute || name != "host");
    (seen.method.clone(), seen.target.clone(), fields, seen.body.clone())
}

/// What we take and hyper does not, or not as it was written: targets that `http::Uri` cannot hold or changes.
fn is_raw(target: &[u8]) -> bool {
    let uri = http::Uri::try_from(target).ok().map(|uri| uri.to_string());
    uri.is_none_or(|text| text.as_bytes() != target)
}

async fn compare(bytes: &[u8]) {
    let ((ours, _), theirs) = (relayed(bytes).await, by_hyper(bytes).await);
    let text = String::from_utf8_lossy(bytes);
    let mut theirs = theirs.iter();
    for one in &ours {
        if is_raw(&one.target) {
            return;
        }
        // hyper ends at a CONNECT, and before a request that is refused behind its head.
        let Some(other) = theirs.next() else { panic!("only we took {one:?} of {text:?}") };
        assert_eq!(comparable(one), comparable(other), "{text:?}");
    }
}

fn paused(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn hyper_reads_tricky_requests_as_we_do() {
    paused(async {
        for bytes in TRICKY {
            compare(bytes.as_bytes()).await;
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hyper_reads_any_requests_as_we_do(bytes in some_requests()) {
        paused(compare(&bytes));
    }
}

/// Answers that readers have disagreed on, to a GET; the connection ends behind them.
const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
    "HTTP/1.1 200 OK\r\n\r\nok",
    "HTTP/1.0 200 OK\r\n\r\nok",
    "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 299 \r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 599 Nein \u{e9}\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nT: v\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokk\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nX-A: \u{e9}\r\nX-Empty:\r\nx-a: c\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nX\u{0}: y\r\n\r\n",
    "ICY 200 OK\r\n\r\n",
    "",
];

/// Those that we take and hyper does not: browsers and nginx do (docs/guide/protocols.md).
const TOLERATED: &[&str] = &[
    "HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
    // As the coding says, and the connection is not used again.
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
];

/// Status, fields, and the body if it came whole.
type Reading = (u16, FieldLines, Option<Vec<u8>>);

/// The far end of a connection whose application says `answer` and closes.
fn saying(answer: &'static str) -> tokio::io::DuplexStream {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    tokio::task::spawn_local(async move {
        let _ = far.read(&mut [0; 4096]).await;
        let _ = far.write_all(answer.as_bytes()).await;
    });
    near
}

async fn answer_by_us(answer: &'static str) -> Option<Reading> {
    let pool = Http1Pool::new(Http1Limits::default());
    let request = Request::get("/").header("host", "h").body(Body::Empty).unwrap();
    let connect = async || Ok::<_, &'static str>((saying(answer), ()));
    let (head, body) = pool.send(request, &Interim::Nowhere, connect).await.ok()?.into_parts();
    let body = read(body).await.ok().map(String::into_bytes);
    Some((head.status.as_u16(), sorted(lines(&head.headers)), body))
}

async fn answer_by_hyper(answer: &'static str) -> Option<Reading> {
    let (mut send, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(saying(answer))).await.ok()?;
    tokio::task::spawn_local(connection);
    let request = Request::get("/").header("host", "h").body(Empty::<Bytes>::new()).unwrap();
    let (head, body) = send.send_request(request).await.ok()?.into_parts();
    let body = body.collect().await.ok().map(|body| {
        let trailers = body.trailers().map(|trailers| format!("+{trailers:?}")).unwrap_or_default();
        [&body.to_bytes()[..], trailers.as_bytes()].concat()
    });
    Some((head.status.as_u16(), sorted(lines(&head.headers)), body))
}

#[test]
fn hyper_reads_tricky_answers_as_we_do() {
    paused(async {
        for answer in ANSWERS {
            let (ours, theirs) = (answer_by_us(answer).await, answer_by_hyper(answer).await);
            if let (Some(ours), Some(theirs)) = (&ours, &theirs) {
                assert_eq!(ours, theirs, "{answer:?}");
            }
            assert!(ours.is_none() || theirs.is_some(), "only we take {answer:?}: {ours:?}");
        }
        for answer in TOLERATED {
            assert!(answer_by_us(answer).await.is_some_and(|(.., body)| body.is_some()), "{answer:?}");
        }
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn unhex_lines(text: &str) -> FieldLines {
    let pairs = text.split(',').filter_map(|pair| pair.split_once(':'));
    end_to_end(
        pairs
            .map(|(name, value)| (String::from_utf8_lossy(&unhex(name)).to_ascii_lowercase(), unhex(value)))
            .collect(),
    )
}

/// What the mesh writes for each of the tricky requests means to Node what it means to us.
#[test]
fn llhttp_reads_what_we_write_as_we_mean_it() {
    let mut written = Vec::new();
    paused(async {
        for bytes in TRICKY {
            let (_, heard) = relayed(bytes.as_bytes()).await;
            written.extend(heard.into_iter().filter(|heard| !heard.is_empty()));
        }
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http1/llhttp.mjs");
    let node = Command::new("node").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut node) = node else {
        eprintln!("skipped: there is no `node` on the PATH");
        return;
    };
    let cases: String = written.iter().map(|bytes| format!("{}\n", hex(bytes))).collect();
    node.stdin.take().unwrap().write_all(cases.as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success());
    let output = String::from_utf8(output.stdout).unwrap();
    for (index, bytes) in written.iter().enumerate() {
        let seen: Vec<_> = output
            .lines()
            .map(|line| line.split('\t').collect::<Vec<_>>())
            .filter(|parts| parts[0] == index.to_string())
            .map(|parts| {
                (parts[1].to_owned(), unhex(parts[2]), sorted(unhex_lines(parts[3])), unhex(parts[4]))
            })
            .collect();
        let meant: Vec<_> = requests(bytes)
            .requests
            .into_iter()
            .map(|one| (one.method, one.target, sorted(one.fields), one.body))
            .collect();
        // Node answers 400 to such targets and to methods that it does not know, from whomever they come; nginx, HAProxy
        // and many applications take them.
        let refused =
            meant.iter().any(|(method, target, ..)| method == "get" || is_raw(target) || !target.is_ascii());
        assert!(
            seen == meant || refused && seen.is_empty(),
            "{seen:?}, {:?}",
            String::from_utf8_lossy(bytes)
        );
    }
}
