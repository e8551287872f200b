//! Requests that two parsers could read in two ways. Whatever the sidecar makes of them, the application gets what is
//! well-formed beyond doubt, and each request it gets has been seen and counted by both sidecars.

use anyhow::ensure;
use weft_testbed::{Mesh, Metrics, Pod, doubtful, eventually, story};

use crate::judge::{Judge, Judged, Manner};
use crate::{Pair, SOON, converse};

const HOST: &str = "host: orders.shop\r\n";

/// A request hidden in another's body.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: orders.shop\r\n\r\n";

fn requests(metrics: &Metrics, side: &str) -> f64 {
    metrics.sum(&format!("http_{side}_request_duration_seconds_count"), &[])
}

/// What the application may make of one doubtful request.
fn problems(seen: &[Result<Judged, String>], answer: &str, manner: Manner) -> Vec<String> {
    let mut problems = Vec::new();
    for verdict in seen {
        match verdict {
            Err(error) => problems.push(error.clone()),
            Ok(judged) => {
                let known = ["POST /outer HTTP/1.", "GET /hidden HTTP/1."];
                let whole = known.iter().any(|line| judged.head.starts_with(line));
                if !whole || judged.body.contains("XX") {
                    problems.push(format!("{judged:?}"));
                }
            }
        }
    }
    let (answers, count) = (answer.matches("judged").count(), seen.len());
    let as_many = match manner {
        Manner::Late => answers == count,
        // Its connection may have been cut off before an answer to what was hidden came through.
        Manner::EarlyAndDiscards | Manner::EarlyAndCloses => answers <= count,
        Manner::Never => answers == 0,
    };
    if !as_many {
        problems.push(format!("{answers} answers to {count} requests: {answer}"));
    }
    problems
}

#[test]
fn no_request_is_hidden_in_another() {
    hide_requests("smuggling", Manner::Late);
}

/// The application answers at the head: nothing of a body that it has not read yet may become a request of its own.
#[test]
fn nothing_is_hidden_from_one_that_answers_early() {
    hide_requests("smuggling-early", Manner::EarlyAndDiscards);
}

/// And ends its connection with it: the rest of the body has nowhere to go.
#[test]
fn nothing_is_hidden_from_one_that_answers_early_and_closes() {
    hide_requests("smuggling-close", Manner::EarlyAndCloses);
}

/// A request without an answer may be sent again only if it says that this is safe: POST never is.
#[test]
fn nothing_is_hidden_from_one_that_never_answers() {
    hide_requests("smuggling-never", Manner::Never);
}

/// From one request to the next the application changes its manners: what one of them leaves behind on a connection must not
/// meet the next.
#[test]
fn nothing_is_hidden_from_one_that_changes_its_manners() {
    story("smuggling-turns", |mesh| {
        let (orders, judge) = application(mesh)?;
        let pair = Pair::around(mesh, orders, |_| ())?;
        let to = pair.service()?;
        let mut found = Vec::new();
        for ((what, rest), manner) in doubtful(HIDDEN).into_iter().zip(Manner::ALL.into_iter().cycle()) {
            judge.take();
            judge.behave(manner);
            let bytes = format!("POST /outer HTTP/1.1\r\n{HOST}{rest}");
            let answer = pair.web.run(async || converse(to, bytes.as_bytes()).await)?.unwrap_or_default();
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let told = |problem| format!("{what} ({manner:?}): {problem}");
            found.extend(problems(&judge.take(), &answer, manner).into_iter().map(told));
            // Somebody else's request, right behind it.
            judge.behave(Manner::Late);
            let other = pair.web.get("http://orders.shop/other")?;
            let seen = judge.take();
            let alone =
                matches!(seen.as_slice(), [Ok(judged)] if judged.head.starts_with("GET /other HTTP/1.1"));
            if other.status != 200 || !alone {
                found.push(format!("{what} ({manner:?}): the next request: {} {seen:?}", other.status));
            }
        }
        ensure!(found.is_empty(), "{}", found.join("\n"));
        Ok(())
    });
}

fn application(mesh: &Mesh) -> anyhow::Result<(Pod, Judge)> {
    let orders = mesh.pod("orders.shop").start()?;
    let judge = Judge::start(&orders, 8080)?;
    Ok((orders, judge))
}

fn hide_requests(label: &str, manner: Manner) {
    story(label, |mesh| {
        let (orders, judge) = application(mesh)?;
        let pair = Pair::around(mesh, orders, |_| ())?;
        let to = pair.service()?;
        judge.behave(manner);
        let (mut found, mut total) = (Vec::new(), 0);
        for (line, what, rest) in doubtful(HIDDEN)
            .into_iter()
            .flat_map(|(what, rest)| ["1.1", "1.0"].map(|version| (version, what, rest.clone())))
        {
            judge.take();
            let bytes = format!("POST /outer HTTP/{line}\r\n{HOST}{rest}");
            let answer = pair.web.run(async || converse(to, bytes.as_bytes()).await)?.unwrap_or_default();
            let seen = judge.take();
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let told = |problem| format!("{what} ({line}): {problem}");
            found.extend(problems(&seen, &answer, manner).into_iter().map(told));
            total += seen.len();
        }
        ensure!(found.is_empty(), "{}", found.join("\n"));
        ensure!(total >= 10, "only {total} requests got through at all");
        // What the application got, both sidecars have counted; a request whose body broke off is only counted. Counting
        // comes a moment after the answer.
        let all_counted = || {
            let (client, server) = (pair.client.metrics()?, pair.server.metrics()?);
            let (client, server) = (requests(&client, "client"), requests(&server, "server"));
            Ok((client >= server && server >= total as f64).then_some(()))
        };
        // A GET without an answer is sent again, and counted once.
        if manner != Manner::Never {
            eventually("every request to be counted on both sides", SOON, all_counted)?;
        }
        judge.behave(Manner::Late);
        judge.take();
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
