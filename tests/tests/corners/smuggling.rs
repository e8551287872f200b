//! Requests that two parsers could read in two ways. Whatever the sidecar makes of them, the application gets what is
//! well-formed beyond doubt, and each request it gets has been seen and counted by both sidecars.

use anyhow::ensure;
use weft_testbed::{Metrics, eventually, story};

use crate::judge::Judge;
use crate::{Pair, SOON, converse};

const HOST: &str = "host: orders.shop\r\n";

/// A request hidden in another's body.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: orders.shop\r\n\r\n";

/// Heads (after the request line and Host) that no two parsers agree on, with a hidden request behind them.
fn doubtful() -> Vec<(&'static str, String)> {
    let length = HIDDEN.len();
    let behind_chunks = format!("0\r\n\r\n{HIDDEN}");
    let both = behind_chunks.len();
    let chunked = "transfer-encoding: chunked\r\n";
    vec![
        ("CL.TE", format!("content-length: {both}\r\n{chunked}\r\n{behind_chunks}")),
        ("TE.CL", format!("{chunked}content-length: 4\r\n\r\n{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n")),
        ("TE.TE", format!("{chunked}transfer-encoding: x\r\n\r\n{behind_chunks}")),
        ("TE twice", format!("{chunked}{chunked}\r\n{behind_chunks}")),
        ("TE list", format!("transfer-encoding: chunked, identity\r\n\r\n{behind_chunks}")),
        ("TE unknown", format!("transfer-encoding: xchunked\r\n\r\n{HIDDEN}")),
        ("TE tab", format!("transfer-encoding:\tchunked\r\n\r\n{behind_chunks}")),
        ("TE vertical tab", format!("transfer-encoding: \x0bchunked\r\n\r\n{behind_chunks}")),
        ("TE quoted", format!("transfer-encoding: \"chunked\"\r\n\r\n{behind_chunks}")),
        ("TE space before colon", format!("transfer-encoding : chunked\r\n\r\n{behind_chunks}")),
        ("TE folded", format!("transfer-encoding:\r\n chunked\r\n\r\n{behind_chunks}")),
        ("TE after a fold", format!("x: y\r\n transfer-encoding: chunked\r\n\r\n{behind_chunks}")),
        ("TE after a bare LF", format!("x: y\ntransfer-encoding: chunked\r\n\r\n{behind_chunks}")),
        ("TE after a bare CR", format!("x: y\rtransfer-encoding: chunked\r\n\r\n{behind_chunks}")),
        ("CL twice, other", format!("content-length: 0\r\ncontent-length: {length}\r\n\r\n{HIDDEN}")),
        ("CL twice, same", format!("content-length: {length}\r\ncontent-length: {length}\r\n\r\n{HIDDEN}")),
        ("CL list", format!("content-length: {length}, {length}\r\n\r\n{HIDDEN}")),
        ("CL plus", format!("content-length: +{length}\r\n\r\n{HIDDEN}")),
        ("CL minus", format!("content-length: -1\r\n\r\n{HIDDEN}")),
        ("CL hex", format!("content-length: 0x2b\r\n\r\n{HIDDEN}")),
        ("CL space", format!("content-length: {length} 0\r\n\r\n{HIDDEN}")),
        ("CL space before colon", format!("content-length : {length}\r\n\r\n{HIDDEN}")),
        ("CL NUL", format!("content-length: {length}\0\r\n\r\n{HIDDEN}")),
        ("CL too large", format!("content-length: 184467440737095516160\r\n\r\n{HIDDEN}")),
        ("chunk too large", format!("{chunked}\r\n10000000000000000{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n")),
        ("chunk minus", format!("{chunked}\r\n-1\r\n{HIDDEN}")),
        ("chunk 0x", format!("{chunked}\r\n0x{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n")),
        ("chunk extension LF", format!("{chunked}\r\n2;\n{HIDDEN}\r\n0\r\n\r\n")),
        ("chunk without its end", format!("{chunked}\r\n2\r\nabXX0\r\n\r\n{HIDDEN}")),
        ("trailer CL", format!("{chunked}\r\n0\r\ncontent-length: {length}\r\n\r\n{HIDDEN}")),
        ("header without colon", format!("content-length {length}\r\n\r\n{HIDDEN}")),
        ("first line folded", format!(" x: y\r\n\r\n{HIDDEN}")),
        ("another host", format!("host: bank.shop\r\n\r\n{HIDDEN}")),
        (
            "connection takes CL",
            format!("connection: content-length\r\ncontent-length: {length}\r\n\r\n{HIDDEN}"),
        ),
        (
            "upgrade with a body",
            format!("connection: upgrade\r\nupgrade: websocket\r\ncontent-length: {length}\r\n\r\n{HIDDEN}"),
        ),
        (
            "h2c upgrade",
            format!(
                "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n{HIDDEN}"
            ),
        ),
    ]
}

fn requests(metrics: &Metrics, side: &str) -> f64 {
    metrics.sum(&format!("http_{side}_request_duration_seconds_count"), &[])
}

#[test]
fn no_request_is_hidden_in_another() {
    story("smuggling", |mesh| {
        let orders = mesh.pod("orders.shop").start()?;
        let judge = Judge::start(&orders, 8080)?;
        let pair = Pair::around(mesh, orders, |_| ())?;
        let to = pair.service()?;
        let (mut problems, mut total) = (Vec::new(), 0);
        for (line, what, rest) in doubtful()
            .into_iter()
            .flat_map(|(what, rest)| ["1.1", "1.0"].map(|version| (version, what, rest.clone())))
        {
            judge.take();
            let bytes = format!("POST /outer HTTP/{line}\r\n{HOST}{rest}");
            let answer = pair.web.run(async || converse(to, bytes.as_bytes()).await)?.unwrap_or_default();
            let seen = judge.take();
            let answer = String::from_utf8_lossy(&answer).into_owned();
            for verdict in &seen {
                match verdict {
                    Err(error) => problems.push(format!("{what} ({line}): {error}")),
                    Ok(judged) => {
                        let known = ["POST /outer HTTP/1.", "GET /hidden HTTP/1."];
                        let whole = known.iter().any(|line| judged.head.starts_with(line));
                        if !whole || judged.body.contains("XX") {
                            problems.push(format!("{what} ({line}): {judged:?}"));
                        }
                    }
                }
            }
            let count = seen.len();
            total += count;
            let answers = answer.matches("judged").count();
            if answers != count {
                problems.push(format!("{what} ({line}): {answers} answers to {count} requests: {answer}"));
            }
        }
        ensure!(problems.is_empty(), "{}", problems.join("\n"));
        ensure!(total >= 10, "only {total} requests got through at all");
        // What the application got, both sidecars have counted; a request whose body broke off is only counted. Counting
        // comes a moment after the answer.
        eventually("every request to be counted on both sides", SOON, || {
            let (client, server) = (pair.client.metrics()?, pair.server.metrics()?);
            let (client, server) = (requests(&client, "client"), requests(&server, "server"));
            Ok((client >= server && server >= total as f64).then_some(()))
        })?;
        ensure!(pair.web.get("http://orders.shop/")?.status == 200, "a good request at the end");
        ensure!(judge.take().len() == 1, "one good request");
        Ok(())
    });
}

/// What is plainly malformed is refused with 400, and the connection ends with it.
#[test]
fn plain_mistakes_get_400_and_the_end() {
    story("bad-request", |mesh| {
        let pair = Pair::start(mesh, |_| ())?;
        let to = pair.service()?;
        let mistakes = [
            ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
            ("two hosts", format!("GET / HTTP/1.1\r\n{HOST}host: other\r\n\r\n")),
            ("a length that is none", format!("POST / HTTP/1.1\r\n{HOST}content-length: x\r\n\r\n")),
            ("a name with a space", format!("GET / HTTP/1.1\r\n{HOST}x y: z\r\n\r\n")),
            ("a NUL", format!("GET / HTTP/1.1\r\n{HOST}x: \0\r\n\r\n")),
        ];
        for (what, bytes) in mistakes {
            let answer = pair.web.run(async || converse(to, bytes.as_bytes()).await)?.unwrap_or_default();
            let text = String::from_utf8_lossy(&answer).into_owned();
            ensure!(text.starts_with("HTTP/1.1 400"), "{what}: {text:?}");
        }
        let huge = format!("GET / HTTP/1.1\r\n{HOST}x: {}\r\n\r\n", "y".repeat(100_000));
        let many = format!("GET / HTTP/1.1\r\n{HOST}{}\r\n", "x: y\r\n".repeat(200));
        for bytes in [huge, many] {
            let answer = pair.web.run(async || converse(to, bytes.as_bytes()).await)?.unwrap_or_default();
            let text = String::from_utf8_lossy(&answer).into_owned();
            // A client that is still sending when it is refused may meet a reset before it reads the answer.
            ensure!(text.is_empty() || text.starts_with("HTTP/1.1 431"), "{text:?}");
        }
        pair.works()
    });
}
