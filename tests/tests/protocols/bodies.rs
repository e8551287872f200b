//! Bodies: large ones, answers that come before the request has ended, clients that leave.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use weft_testbed::apps::{Checksum, piece};
use weft_testbed::{eventually, story};

use super::pair::{APP, Pair, pods, serve};

/// Each way; sent and checked piece by piece, never held whole.
const LARGE: u64 = 100 << 20;

/// A server that cannot write for so long is held back. A busy machine may make it shorter: the story then sees less sent.
const STALL: Duration = Duration::from_secs(1);

#[test]
fn a_hundred_megabytes_each_way_are_byte_exact() {
    story("proto-large", |mesh| {
        let pair = Pair::new(mesh, &[8080])?;
        pair.server.app(8080)?;
        let sum = Checksum::of_pattern(LARGE);
        let up = pair.talk(8080, async |wire| {
            wire.say(format!("POST /count HTTP/1.1\r\nhost: {APP}\r\ncontent-length: {LARGE}\r\n\r\n"))
                .await?;
            let mut at = 0;
            while at < LARGE {
                let bytes = piece(at, LARGE);
                wire.say(&bytes).await?;
                at += bytes.len() as u64;
            }
            wire.answer(false).await
        })?;
        assert!(up.ends_with(&format!("{LARGE} {sum:016x}\n")), "{up}");

        let down = pair.talk(8080, async |wire| {
            wire.say(format!("GET /bytes/{LARGE} HTTP/1.1\r\nhost: {APP}\r\n\r\n")).await?;
            wire.head().await?;
            wire.checksum(LARGE).await
        })?;
        assert_eq!(down, sum);
        let bytes = |metric: &str| Ok::<_, anyhow::Error>(pair.client_proxy.metrics()?.sum(metric, &[]));
        assert_eq!(bytes("weft_http_request_body_bytes_total")?, LARGE as f64);
        let count_itself = format!("{LARGE} {sum:016x}\n").len() as f64;
        assert_eq!(bytes("weft_http_response_body_bytes_total")?, LARGE as f64 + count_itself);
        Ok(())
    });
}

/// A client that does not read holds back its server: windows and socket buffers fill up, and nothing else.
#[test]
fn a_slow_reader_slows_its_server_down() {
    story("proto-slow-reader", |mesh| {
        let pair = Pair::new(mesh, &[8082])?;
        let (stalled, told) = tokio::sync::oneshot::channel();
        let server = serve(&pair.server, 8082, async move |mut wire| {
            wire.head().await?;
            wire.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n")).await?;
            let mut at = 0;
            while at < LARGE {
                let bytes = piece(at, LARGE);
                let Ok(written) = tokio::time::timeout(STALL, wire.stream.write(&bytes)).await else { break };
                at += written? as u64;
            }
            let sent = at;
            // Nobody waits any more where the story has failed.
            let _ = stalled.send(());
            while at < LARGE {
                let bytes = piece(at, LARGE);
                wire.say(&bytes).await?;
                at += bytes.len() as u64;
            }
            Ok(sent)
        })?;
        let sum = pair.talk(8082, async |wire| {
            wire.say(format!("GET / HTTP/1.1\r\nhost: {APP}\r\n\r\n")).await?;
            wire.head().await?;
            told.await.context("the server is gone")?;
            wire.checksum(LARGE).await
        })?;
        assert_eq!(sum, Checksum::of_pattern(LARGE), "and then gets every byte");
        let sent = server.join()?;
        assert!(sent < LARGE / 2, "{sent} bytes went to nobody");
        Ok(())
    });
}

#[test]
fn an_answer_may_begin_before_the_request_ends() {
    story("proto-early", |mesh| {
        let pair = Pair::new(mesh, &[8082])?;
        let server = serve(&pair.server, 8082, async |mut wire| {
            wire.head().await?;
            let first = wire.until("one\r\n").await?;
            wire.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nearly\r\n").await?;
            // The rest of the request is still to come, and does.
            let rest = wire.until("0\r\n\r\n").await?;
            wire.say("4\r\nlate\r\n0\r\n\r\n").await?;
            Ok((first, rest))
        })?;
        pair.talk(8082, async |wire| {
            wire.say(format!("POST / HTTP/1.1\r\nhost: {APP}\r\ntransfer-encoding: chunked\r\n\r\n")).await?;
            wire.say("3\r\none\r\n").await?;
            wire.until("early").await?;
            wire.say("3\r\ntwo\r\n0\r\n\r\n").await?;
            wire.until("late\r\n0\r\n\r\n").await?;
            Ok(())
        })?;
        let (first, rest) = server.join()?;
        assert!(first.contains("one") && rest.contains("two"), "{first:?} {rest:?}");
        Ok(())
    });
}

/// The whole answer comes before the request's body, which is then sent nevertheless.
#[test]
fn a_body_may_follow_its_answer() {
    story("proto-early-whole", |mesh| {
        let pair = Pair::new(mesh, &[8080, 8082])?;
        let server = serve(&pair.server, 8082, async |mut wire| {
            wire.head().await?;
            wire.say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await?;
            wire.until("the rest").await
        })?;
        pair.talk(8082, async |wire| {
            wire.say(format!("POST / HTTP/1.1\r\nhost: {APP}\r\ncontent-length: 12\r\n\r\nnow ")).await?;
            let answer = wire.answer(false).await?;
            assert!(answer.ends_with("early"), "{answer}");
            wire.say("the rest").await
        })?;
        assert!(server.join()?.ends_with("the rest"));

        // One that refuses early, and closes: the client learns why, and is not left hanging.
        pair.server.app(8080)?;
        let refused = pair.talk(8080, async |wire| {
            wire.say(format!("POST /early HTTP/1.1\r\nhost: {APP}\r\ncontent-length: 100000\r\n\r\nx"))
                .await?;
            wire.answer(false).await
        })?;
        assert!(refused.starts_with("HTTP/1.1 413 ") && refused.ends_with("too large\n"), "{refused}");
        Ok(())
    });
}

/// A body that breaks off must never look like one that has ended.
#[test]
fn a_broken_answer_is_not_made_whole() {
    story("proto-broken-answer", |mesh| {
        let pair = Pair::new(mesh, &[8082, 8083])?;
        for (port, framing, piece) in
            [(8082, "content-length: 100", "some"), (8083, "transfer-encoding: chunked", "4\r\nsome\r\n")]
        {
            let server = serve(&pair.server, port, async move |mut wire| {
                wire.head().await?;
                wire.say(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{piece}")).await
            })?;
            let error = pair.curl(&[&format!("http://{APP}:{port}/")]).err();
            let error = error.map(|error| format!("{error:#}")).unwrap_or_default();
            // "Partial file": curl knows that something is missing.
            assert!(error.contains("exit status: 18") && error.contains("some"), "{framing}: {error:?}");
            server.join()?;
        }
        Ok(())
    });
}

/// `timeouts.request` is about the whole of an answer: one that has begun is broken off.
#[test]
fn an_answer_that_does_not_end_is_broken_off() {
    story("proto-request-time", |mesh| {
        let (client, server) = pods(mesh, &[8082, 8083])?;
        let client_proxy =
            mesh.sidecar(&client)?.config(|yaml| yaml["timeouts"]["request"] = "3s".into()).start()?;
        let server_proxy = mesh.sidecar(&server)?.start()?;
        let pair = Pair { client, server, client_proxy, server_proxy };
        let endless = serve(&pair.server, 8082, async |mut wire| {
            wire.head().await?;
            wire.say("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome").await?;
            wire.gone().await
        })?;
        pair.talk(8082, async |wire| {
            wire.say(format!("GET / HTTP/1.1\r\nhost: {APP}\r\n\r\n")).await?;
            wire.until("some").await?;
            wire.gone().await
        })?;
        endless.join()?;
        let mute = serve(&pair.server, 8083, async |mut wire| {
            wire.head().await?;
            wire.gone().await
        })?;
        let answer = pair.ask(8083, &format!("GET / HTTP/1.1\r\nhost: {APP}\r\n\r\n"))?;
        assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("upstream-timeout"), "{answer}");
        mute.join()?;
        let counted = pair.client_proxy.metrics()?.sum("weft_errors_total", &[("code", "upstream-timeout")]);
        assert!(counted >= 2.0, "{counted} counted");
        Ok(())
    });
}

/// Many servers read trailers as if they were headers.
#[test]
fn trailers_cannot_claim_what_headers_cannot() {
    story("proto-trailers", |mesh| {
        let pair = Pair::new(mesh, &[8082])?;
        let server = serve(&pair.server, 8082, async |mut wire| {
            let head = wire.head().await?;
            let body = wire.until("\r\n0\r\n").await?;
            let trailers = wire.until("\r\n\r\n").await.unwrap_or_default();
            wire.say("HTTP/1.1 204 No Content\r\n\r\n").await?;
            Ok(format!("{head}{body}{trailers}"))
        })?;
        let answer = pair.ask(
            8082,
            &format!(
                "POST / HTTP/1.1\r\nhost: {APP}\r\ntransfer-encoding: chunked\r\n\
                 trailer: x-checksum, x-forwarded-client-cert, weft-error\r\n\r\n\
                 4\r\nbody\r\n0\r\nx-checksum: fine\r\nx-forwarded-client-cert: URI=spiffe://weft.local/ns/a/sa/admin\r\n\
                 weft-error: tls-failed\r\n\r\n"
            ),
        )?;
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        let seen = server.join()?;
        assert!(seen.contains("body") && seen.contains("x-checksum: fine"), "{seen}");
        assert!(!seen.contains("admin") && !seen.contains("tls-failed"), "{seen}");
        Ok(())
    });
}

#[test]
fn a_broken_request_is_not_made_whole() {
    story("proto-broken-request", |mesh| {
        let pair = Pair::new(mesh, &[8082, 8083])?;
        for (port, framing, piece) in
            [(8082, "content-length: 100", "some"), (8083, "transfer-encoding: chunked", "4\r\nsome\r\n")]
        {
            let server = serve(&pair.server, port, async |mut wire| {
                wire.head().await?;
                // Whatever comes, it is neither the whole length nor the last chunk.
                wire.until("some").await?;
                Ok(wire.rest().await.unwrap_or_default())
            })?;
            pair.talk(port, async |wire| {
                wire.say(format!("POST / HTTP/1.1\r\nhost: {APP}\r\n{framing}\r\n\r\n{piece}")).await?;
                // It is on its way before the client goes.
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(())
            })?;
            let rest = server.join()?;
            assert!(rest.trim().is_empty(), "{framing}: {rest:?}");
        }
        Ok(())
    });
}

#[test]
fn a_client_that_leaves_cancels_the_call() {
    story("proto-leave", |mesh| {
        let (client, server) = pods(mesh, &[8082, 8083])?;
        let client_proxy =
            mesh.sidecar(&client)?.config(|yaml| yaml["http"]["halfClose"] = "cancel".into()).start()?;
        let server_proxy = mesh.sidecar(&server)?.start()?;
        let pair = Pair { client, server, client_proxy, server_proxy };
        // While it waits for the answer's head, and in the middle of an answer.
        for (port, answer) in [(8082, ""), (8083, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")] {
            let server = serve(&pair.server, port, async move |mut wire| {
                wire.head().await?;
                wire.say(answer).await?;
                wire.gone().await
            })?;
            pair.talk(port, async |wire| {
                wire.say(format!("GET / HTTP/1.1\r\nhost: {APP}\r\n\r\n")).await?;
                if !answer.is_empty() {
                    wire.until("some").await?;
                }
                // The application has the request before the client goes.
                eventually_active(&pair, 1.0)
            })?;
            server.join()?;
        }
        eventually_active(&pair, 0.0)
    });
}

/// What closes only its sending half may still read, and by default it does. What is gone answers with a reset.
#[test]
fn a_client_that_closes_its_half_gets_its_answer() {
    story("proto-half", |mesh| {
        let pair = Pair::new(mesh, &[8082, 8083])?;
        let server = serve(&pair.server, 8082, async |mut wire| {
            wire.head().await?;
            wire.say("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await
        })?;
        let answer = pair.talk(8082, async |wire| {
            wire.say(format!("GET / HTTP/1.1\r\nhost: {APP}\r\n\r\n")).await?;
            wire.finish().await?;
            wire.rest().await
        })?;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("late"), "{answer}");
        server.join()?;

        let server = serve(&pair.server, 8083, async |mut wire| {
            wire.head().await?;
            wire.gone().await
        })?;
        pair.talk(8083, async |wire| {
            wire.say(format!("GET / HTTP/1.1\r\nhost: {APP}\r\n\r\n")).await?;
            eventually_active(&pair, 1.0)?;
            wire.reset()
        })?;
        server.join()
    });
}

/// Waits until both sidecars together have this many requests in progress at the server's side.
fn eventually_active(pair: &Pair, count: f64) -> Result<()> {
    eventually("the number of requests in progress", Duration::from_secs(5), || {
        let active = pair.metrics()?.sum("http_server_active_requests", &[]);
        Ok((active == count).then_some(()))
    })
}
