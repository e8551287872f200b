//! Requests whose ends are doubtful, through a gateway to real origins: an origin sees the requests that the gateway has admitted, and
//! nothing that was hidden in one. Clients that come between them get their own answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_testbed::{Gateway, doubtful, eventually};

use super::origins::{Origin, Seen, free_port, makers};
use super::raw::{DOOR, Fields, PATIENCE, backend, fields, route, send_http2};

/// Silence after which a conversation counts as over.
const PAUSE: Duration = Duration::from_millis(250);

/// Clients at the same time: origins have connections of several of them, as they would.
const CLIENTS: usize = 16;

/// A request behind another's end, wherever that is.
fn hidden(id: usize, host: &str) -> String {
    format!("GET /hidden-{id} HTTP/1.1\r\nhost: {host}\r\n\r\n")
}

/// More heads than those of the sidecar's stories, behind the request line and Host.
fn more_heads(hidden: &str) -> Vec<(&'static str, String)> {
    let length = hidden.len();
    let chunked = "transfer-encoding: chunked\r\n";
    let behind = format!("\r\n0\r\n\r\n{hidden}");
    let long = "a".repeat(5000);
    vec![
        ("chunk size and a space", format!("{chunked}\r\n0 \r\n\r\n{hidden}")),
        ("chunk size and a tab", format!("{chunked}\r\n0\t\r\n\r\n{hidden}")),
        ("chunk size behind a space", format!("{chunked}\r\n 0\r\n\r\n{hidden}")),
        ("chunk size, none", format!("{chunked}\r\n\r\n{hidden}")),
        ("chunk size, plus", format!("{chunked}\r\n+0\r\n\r\n{hidden}")),
        ("chunk size, underscore", format!("{chunked}\r\n0_0\r\n\r\n{hidden}")),
        (
            "chunk size, leading zeros",
            format!("{chunked}\r\n00000000000000000000000005\r\nabcde\r\n0\r\n\r\n{hidden}"),
        ),
        ("chunk size of 33 bits", format!("{chunked}\r\n100000000\r\n{hidden}")),
        ("chunk size of 65 bits", format!("{chunked}\r\n10000000000000000\r\n\r\n{hidden}")),
        ("chunk extension, long", format!("{chunked}\r\n0;{long}\r\n\r\n{hidden}")),
        (
            "chunk extension with a line in quotes",
            format!("{chunked}\r\n5;a=\"\r\n\"\r\nabcde\r\n0\r\n\r\n{hidden}"),
        ),
        ("chunk extension, CR", format!("{chunked}\r\n5;a\rb\r\nabcde\r\n0\r\n\r\n{hidden}")),
        ("chunk lines by LF", format!("{chunked}\r\n0\n\n{hidden}")),
        ("chunk size by LF", format!("{chunked}\r\n5\nabcde\r\n0\r\n\r\n{hidden}")),
        ("chunk data by LF", format!("{chunked}\r\n5\r\nabcde\n0\r\n\r\n{hidden}")),
        ("chunk lines by CR", format!("{chunked}\r\n0\r\r{hidden}")),
        ("trailer of framing", format!("{chunked}\r\n0\r\ntransfer-encoding: chunked\r\n\r\n{hidden}")),
        ("trailer of a request", format!("{chunked}\r\n0\r\n{hidden}")),
        ("trailer, folded", format!("{chunked}\r\n0\r\nx: y\r\n {hidden}")),
        ("trailer by LF", format!("{chunked}\r\n0\r\nx: y\n\n{hidden}")),
        ("TE in another case", format!("Transfer-ENCODING: ChUnKeD\r\n{behind}")),
        ("TE and a comma", format!("transfer-encoding: chunked,\r\n{behind}")),
        ("TE behind a comma", format!("transfer-encoding: , chunked\r\n{behind}")),
        ("TE list of two", format!("transfer-encoding: chunked, chunked\r\n{behind}")),
        ("TE of another coding before", format!("transfer-encoding: gzip, chunked\r\n{behind}")),
        (
            "TE identity and CL",
            format!("transfer-encoding: identity\r\ncontent-length: {length}\r\n\r\n{hidden}"),
        ),
        ("TE empty and CL", format!("transfer-encoding:\r\ncontent-length: {length}\r\n\r\n{hidden}")),
        ("TE with a parameter", format!("transfer-encoding: chunked;q=1\r\n{behind}")),
        ("TE with NUL", format!("transfer-encoding: chunked\0\r\n{behind}")),
        (
            "TE by an underscore",
            format!("transfer_encoding: chunked\r\ncontent-length: {length}\r\n\r\n{hidden}"),
        ),
        ("TE name and CR", format!("transfer-encoding\r: chunked\r\n{behind}")),
        ("TE of connection", format!("connection: transfer-encoding\r\n{chunked}{behind}")),
        ("head ended by LF", format!("\n{hidden}")),
        ("header ended by LF", format!("x: y\n\r\n{hidden}")),
        ("header ended by LF, and CL", format!("x: y\ncontent-length: {length}\r\n\r\n{hidden}")),
        ("header with CR", format!("x: a\rcontent-length: {length}\r\n\r\n{hidden}")),
        ("header without a name", format!(": x\r\ncontent-length: {length}\r\n\r\n{hidden}")),
        ("header name with NUL", format!("x\0: y\r\ncontent-length: {length}\r\n\r\n{hidden}")),
        ("CL, leading zeros", format!("content-length: 000{length}\r\n\r\n{hidden}")),
        ("CL, a fraction", format!("content-length: {length}.0\r\n\r\n{hidden}")),
        ("CL and a comma", format!("content-length: {length},\r\n\r\n{hidden}")),
        ("CL empty", format!("content-length:\r\n\r\n{hidden}")),
        ("CL by an underscore", format!("content_length: 0\r\ncontent-length: {length}\r\n\r\n{hidden}")),
        ("CL 0 and one behind", format!("content-length: 0\r\n\r\n{hidden}")),
        ("a body and one behind", format!("content-length: 5\r\n\r\nabcde{hidden}")),
        ("chunks and one behind", format!("{chunked}\r\n5\r\nabcde\r\n0\r\n\r\n{hidden}")),
        ("expectation", format!("expect: 100-continue\r\ncontent-length: {length}\r\n\r\n{hidden}")),
        ("expectation, another", format!("expect: 200-ok\r\ncontent-length: {length}\r\n\r\n{hidden}")),
        ("the end, and one behind", format!("connection: close\r\ncontent-length: 0\r\n\r\n{hidden}")),
    ]
}

/// Whole requests, whose first line is part of the doubt.
fn whole(id: usize, host: &str, hidden: &str) -> Vec<(&'static str, String)> {
    let (length, host) = (hidden.len(), format!("host: {host}\r\n"));
    vec![
        ("two spaces", format!("POST  /outer-{id} HTTP/1.1\r\n{host}\r\n{hidden}")),
        ("a tab", format!("POST\t/outer-{id} HTTP/1.1\r\n{host}\r\n{hidden}")),
        ("a space before", format!(" POST /outer-{id} HTTP/1.1\r\n{host}\r\n{hidden}")),
        (
            "lines before",
            format!("\r\n\r\nPOST /outer-{id} HTTP/1.1\r\n{host}content-length: 0\r\n\r\n{hidden}"),
        ),
        ("LF before", format!("\nPOST /outer-{id} HTTP/1.1\r\n{host}content-length: 0\r\n\r\n{hidden}")),
        ("first line by LF", format!("POST /outer-{id} HTTP/1.1\n{host}\r\n{hidden}")),
        ("first line with CR", format!("POST /outer-{id}\rHTTP/1.1\r\n{host}\r\n{hidden}")),
        ("a target with a line", format!("GET /outer-{id}\r\n /x HTTP/1.1\r\n{host}\r\n{hidden}")),
        ("HTTP/0.9", format!("GET /outer-{id}\r\n{hidden}")),
        ("HTTP/1.2", format!("GET /outer-{id} HTTP/1.2\r\n{host}\r\n{hidden}")),
        ("HTTP/2.0", format!("GET /outer-{id} HTTP/2.0\r\n{host}\r\n{hidden}")),
        ("HTTP/1.10", format!("GET /outer-{id} HTTP/1.10\r\n{host}\r\n{hidden}")),
        ("http/1.1", format!("GET /outer-{id} http/1.1\r\n{host}\r\n{hidden}")),
        (
            "GET with a body",
            format!("GET /outer-{id} HTTP/1.1\r\n{host}content-length: {length}\r\n\r\n{hidden}"),
        ),
        (
            "GET with chunks",
            format!(
                "GET /outer-{id} HTTP/1.1\r\n{host}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{hidden}\r\n0\r\n\r\n"
            ),
        ),
        ("HEAD and one behind", format!("HEAD /outer-{id} HTTP/1.1\r\n{host}\r\n{hidden}")),
        (
            "HEAD with a body",
            format!("HEAD /outer-{id} HTTP/1.1\r\n{host}content-length: {length}\r\n\r\n{hidden}"),
        ),
        (
            "OPTIONS with a body",
            format!("OPTIONS /outer-{id} HTTP/1.1\r\n{host}content-length: {length}\r\n\r\n{hidden}"),
        ),
        ("TRACE", format!("TRACE /outer-{id} HTTP/1.1\r\n{host}\r\n{hidden}")),
        ("CONNECT", format!("CONNECT outer:80 HTTP/1.1\r\n{host}\r\n{hidden}")),
        ("a preface of HTTP/2", format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{hidden}")),
        ("a method that ends in a line", format!("GET\r\n /outer-{id} HTTP/1.1\r\n{host}\r\n{hidden}")),
    ]
}

/// Every request of HTTP/1 that a client sends, by number.
fn http1(host: &str) -> Vec<(usize, String, String)> {
    let (heads, lines) = (doubtful("").len() + more_heads("").len(), whole(0, "", "").len());
    let mut all = Vec::new();
    for id in 0..2 * heads + lines {
        let hidden = hidden(id, host);
        let case = match id.checked_sub(2 * heads) {
            Some(at) => whole(id, host, &hidden).into_iter().nth(at),
            None => {
                let version = if id % 2 == 0 { "1.1" } else { "1.0" };
                let case = doubtful(&hidden).into_iter().chain(more_heads(&hidden)).nth(id / 2);
                case.map(|(what, rest)| {
                    (what, format!("POST /outer-{id} HTTP/{version}\r\nhost: {host}\r\n{rest}"))
                })
            }
        };
        all.extend(case.map(|(what, octets)| (id, what.to_owned(), octets)));
    }
    all
}

/// A GET of HTTP/2 that others are made of.
struct Get(Fields);

fn own(name: &str, value: &str) -> Fields {
    vec![(name.to_owned(), value.to_owned())]
}

impl Get {
    /// With another value of a field.
    fn instead(&self, name: &str, value: &str) -> Fields {
        let other = |(key, old): &(String, String)| {
            (key.clone(), if key == name { value.to_owned() } else { old.clone() })
        };
        self.0.iter().map(other).collect()
    }

    /// With a field behind the others.
    fn with(&self, name: &str, value: &str) -> Fields {
        [self.0.clone(), own(name, value)].concat()
    }

    /// The same as a POST.
    fn post(&self, name: &str, value: &str) -> Fields {
        [self.instead(":method", "POST"), own(name, value)].concat()
    }
}

/// Heads of HTTP/2 that would be two in HTTP/1.1, if they were written down as they are.
fn http2_heads(id: usize, host: &str) -> Vec<(&'static str, Fields)> {
    let hidden = hidden(id, host);
    let (length, path) = (hidden.len(), format!("/outer-{id}"));
    let get = Get(fields(&path, host));
    vec![
        ("value with a line", get.with("x", "y\r\ntransfer-encoding: chunked")),
        ("value with a head", get.with("x", &format!("y\r\n\r\n{hidden}"))),
        ("value with LF", get.with("x", "y\ntransfer-encoding: chunked")),
        ("value with CR", get.with("x", "y\rz")),
        ("value with NUL", get.with("x", "y\0z")),
        ("value behind a space", get.with("x", " y")),
        ("name with a line", get.with(&format!("x: y\r\n\r\n{hidden}"), "z")),
        ("name with a colon", get.with("x: y", "z")),
        ("name with a space", get.with("transfer-encoding ", "chunked")),
        ("name in capitals", get.with("Transfer-Encoding", "chunked")),
        ("name, none", get.with("", "x")),
        ("path with a space", get.instead(":path", &format!("{path} HTTP/1.1"))),
        (
            "path with a request",
            get.instead(":path", &format!("{path} HTTP/1.1\r\nhost: {host}\r\n\r\nGET /hidden-{id}")),
        ),
        ("path with a tab", get.instead(":path", &format!("{path}\tx"))),
        ("path with LF", get.instead(":path", &format!("{path}\n"))),
        ("path empty", get.instead(":path", "")),
        ("path without a slash", get.instead(":path", &format!("outer-{id}"))),
        ("path of a URI", get.instead(":path", &format!("http://{host}{path}"))),
        (
            "method with a line",
            get.instead(":method", &format!("GET /hidden-{id} HTTP/1.1\r\nx: y\r\n\r\nGET")),
        ),
        ("method with a space", get.instead(":method", "GET /hidden")),
        ("method, none", get.instead(":method", "")),
        (
            "authority with a line",
            get.instead(":authority", &format!("{host}\r\ntransfer-encoding: chunked")),
        ),
        ("authority with a space", get.instead(":authority", &format!("{host} x"))),
        ("authority with a path", get.instead(":authority", &format!("{host}/hidden-{id}"))),
        ("scheme with a URI", get.instead(":scheme", &format!("http://{host}/hidden-{id}?"))),
        ("connection", get.with("connection", "keep-alive, x")),
        ("upgrade", get.with("upgrade", "h2c")),
        ("keep-alive", get.with("keep-alive", "timeout=5")),
        ("proxy-connection", get.with("proxy-connection", "keep-alive")),
        ("CL and none", get.with("content-length", &length.to_string())),
        ("a pseudo-header behind", get.with(":path", &format!("/hidden-{id}"))),
        ("a pseudo-header of nobody", [own(":x", "y"), get.0.clone()].concat()),
        ("a cookie with a line", get.with("cookie", "a=1\r\nx: y")),
        ("CONNECT with a path", get.instead(":method", "CONNECT")),
        ("a protocol of nobody", [get.instead(":method", "CONNECT"), own(":protocol", "x\r\ny")].concat()),
    ]
}

/// The same with bodies.
fn http2_bodies(id: usize, host: &str) -> Vec<(&'static str, Fields, String)> {
    let hidden = hidden(id, host);
    let length = hidden.len();
    let get = Get(fields(&format!("/outer-{id}"), host));
    let chunks = format!("0\r\n\r\n{hidden}");
    vec![
        ("TE and chunks", get.post("transfer-encoding", "chunked"), chunks.clone()),
        ("TE of other words", get.post("transfer-encoding", "x"), chunks.clone()),
        ("te: chunked", get.post("te", "chunked"), chunks),
        ("CL 0 and a body", get.post("content-length", "0"), hidden.clone()),
        ("CL too large", get.post("content-length", &(length + 10).to_string()), hidden.clone()),
        ("CL too small", get.post("content-length", "5"), hidden.clone()),
        ("CL plus", get.post("content-length", &format!("+{length}")), hidden.clone()),
        ("CL list", get.post("content-length", &format!("{length}, {length}")), hidden.clone()),
        ("CL and a line", get.post("content-length", &format!("{length}\r\nx: y")), hidden.clone()),
        (
            "CL twice",
            [get.post("content-length", "0"), own("content-length", &length.to_string())].concat(),
            hidden.clone(),
        ),
        ("a body", get.instead(":method", "POST"), hidden.clone()),
        ("a body of its length", get.post("content-length", &length.to_string()), hidden.clone()),
        ("a body of GET", get.0, hidden),
    ]
}

/// Every request of HTTP/2 that a client sends, by number; the body where there is one.
fn http2(host: &str) -> Vec<(&'static str, Fields, Option<String>)> {
    let heads = http2_heads(0, host).len();
    let of_heads = (0..heads).filter_map(|id| http2_heads(id, host).into_iter().nth(id));
    let of_heads = of_heads.map(|(what, fields)| (what, fields, None));
    let bodies = (heads..).map_while(|id| http2_bodies(id, host).into_iter().nth(id - heads));
    of_heads.chain(bodies.map(|(what, fields, body)| (what, fields, Some(body)))).collect()
}

/// Says it, and reads to the end of the connection, or until nothing more comes for so long.
fn converse(gateway: &Gateway, octets: &[u8], pause: Duration) -> Result<String> {
    let mut stream = TcpStream::connect(gateway.at(8080))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(pause))?;
    let _ = stream.write_all(octets);
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        said.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// The paths of the requests that somebody's answers are to.
fn answered(said: &str) -> Vec<&str> {
    let lines = said.lines().filter_map(|line| line.split_once("took ").map(|(_, rest)| rest));
    lines.filter_map(|rest| rest.split(' ').nth(1)).collect()
}

/// One client with its doubtful request, and the next who only wants its own page.
fn one(gateway: &Gateway, host: &str, id: usize, octets: &str) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let said = converse(gateway, octets.as_bytes(), PAUSE)?;
    let own = [format!("/outer-{id}"), format!("/hidden-{id}")];
    let answers = answered(&said);
    let (outer, behind) = (answers.first(), answers.get(1));
    let in_order = answers.len() <= 2
        && outer.is_none_or(|outer| own.iter().any(|own| own == outer))
        && behind.is_none_or(|behind| *behind == own[1]);
    if !in_order {
        wrong.push(format!("its answers are {answers:?}"));
    }
    let after = format!("GET /after-{id} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let said = converse(gateway, after.as_bytes(), PATIENCE)?;
    if !said.starts_with("HTTP/1.1 200") || answered(&said) != [format!("/after-{id}")] {
        wrong.push(format!("the next client got {said:?}"));
    }
    Ok(wrong)
}

/// What the gateway says it has admitted for an origin: how often each request, and how often with the origin's own answer.
fn admitted(gateway: &Gateway, host: &str) -> (Seen, Seen) {
    let (mut all, mut whole) = (Seen::new(), Seen::new());
    for line in gateway.process().log().lines().filter(|line| line.starts_with('{')) {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let text = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("authority") != host {
            continue;
        }
        let request = format!("{} {}", text("method"), text("path"));
        if line.get("status").and_then(Value::as_u64) == Some(200) {
            *whole.entry(request.clone()).or_default() += 1;
        }
        *all.entry(request).or_default() += 1;
    }
    (all, whole)
}

/// Why an origin has seen anything but what was admitted.
fn problems(gateway: &Gateway, origin: &Origin) -> Vec<String> {
    let host = format!("{}.test", origin.maker);
    let ((seen, refused), (all, whole)) = (origin.seen(), admitted(gateway, &host));
    let of = |counts: &Seen, request: &str| counts.get(request).copied().unwrap_or_default();
    let mut wrong: Vec<String> = refused.iter().map(|what| format!("it refused {what}")).collect();
    for (request, count) in &seen {
        if *count > of(&all, request) {
            wrong.push(format!("it saw {request} {count} times, and {} were admitted", of(&all, request)));
        }
    }
    for (request, count) in &whole {
        if of(&seen, request) < *count {
            wrong.push(format!(
                "it saw {request} {} times, and {count} were answered for it",
                of(&seen, request)
            ));
        }
    }
    wrong
}

fn scene() -> Result<(Gateway, Vec<Origin>)> {
    let mut resources = DOOR.to_owned();
    let mut places = Vec::new();
    for maker in makers() {
        let at = free_port()?;
        resources.push_str(&backend(maker, at));
        let rule = format!("backendRefs: [{{group: weft.dev, kind: Backend, name: {maker}}}]");
        resources.push_str(&route(maker, &format!("{maker}.test"), &[rule]));
        places.push((maker, at));
    }
    let gateway = Gateway::start(tempfile::tempdir()?, &resources)?;
    let origins =
        places.into_iter().map(|(maker, at)| Origin::start(&gateway, maker, at)).collect::<Result<_>>()?;
    Ok((gateway, origins))
}

/// Waits until the origin's view and the gateway's are the same, and says what is not.
fn settled(gateway: &Gateway, origin: &Origin) -> Result<()> {
    let same = || Ok(problems(gateway, origin).is_empty().then_some(()));
    let settled = eventually("the views to be the same", PATIENCE / 4, same);
    settled.with_context(|| format!("{}:\n{}", origin.maker, problems(gateway, origin).join("\n")))
}

#[test]
fn origins_see_the_requests_that_were_admitted() -> Result<()> {
    let (gateway, origins) = scene()?;
    for origin in &origins {
        let host = format!("{}.test", origin.maker);
        let cases = http1(&host);
        let next = AtomicUsize::new(0);
        let client = || {
            let mut wrong = Vec::new();
            while let Some((id, what, octets)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                let told = |problem| format!("{what} ({id}, {}): {problem}", origin.maker);
                match one(&gateway, &host, *id, octets) {
                    Ok(problems) => wrong.extend(problems.into_iter().map(told)),
                    Err(error) => wrong.push(told(format!("{error:#}"))),
                }
            }
            wrong
        };
        let wrong: Vec<String> = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            clients
                .into_iter()
                .flat_map(|client| client.join().unwrap_or_else(|_| vec!["a client panicked".to_owned()]))
                .collect()
        });
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        settled(&gateway, origin)?;
        let (seen, _) = origin.seen();
        let count = |what: &str| seen.keys().filter(|request| request.contains(what)).count();
        ensure!(
            count("/after-") == cases.len(),
            "{}: {} of {} pages",
            origin.maker,
            count("/after-"),
            cases.len()
        );
        // Some of them are two requests beyond doubt, and most are none.
        ensure!(
            (5..cases.len() / 2).contains(&count("/hidden-")),
            "{}: {} hidden ones",
            origin.maker,
            count("/hidden-")
        );
    }
    Ok(())
}

#[test]
fn origins_see_one_request_for_one_of_http2() -> Result<()> {
    let (gateway, origins) = scene()?;
    for origin in &origins {
        let host = format!("{}.test", origin.maker);
        let cases = http2(&host);
        let count = cases.len();
        let requests: Vec<(Fields, Option<&str>)> =
            cases.iter().map(|(_, fields, body)| (fields.clone(), body.as_deref())).collect();
        let answers = send_http2(&gateway, &requests)?;
        ensure!(answers.len() == count, "{} answers", answers.len());
        settled(&gateway, origin)?;
        let (seen, _) = origin.seen();
        let hidden: Vec<&String> = seen.keys().filter(|request| request.contains("hidden")).collect();
        ensure!(hidden.is_empty(), "{}: it saw {hidden:?}", origin.maker);
        let served: Vec<&str> = cases
            .iter()
            .zip(&answers)
            .filter(|(_, came)| came.status == 200)
            .map(|((what, ..), _)| *what)
            .collect();
        for what in ["a body", "a body of its length", "a body of GET"] {
            ensure!(served.contains(&what), "{}: {what} was refused: {served:?}", origin.maker);
        }
        ensure!(
            served.len() < count / 3,
            "{}: only some are one request beyond doubt: {served:?}",
            origin.maker
        );
    }
    Ok(())
}
