//! HTTP/1: versions, framing, heads, and what is refused.

use anyhow::Result;
use weft_testbed::{Request, story};

use super::pair::{APP, Pair, header, serve};

/// An HTTP server (8080), and one that shows what came over its socket (8081).
fn servers(mesh: &weft_testbed::Mesh) -> Result<Pair> {
    let pair = Pair::new(mesh, &[8080, 8081, 8082, 8083])?;
    pair.server.app(8080)?;
    pair.server.app_of("raw", 8081)?;
    Ok(pair)
}

#[test]
fn curl_speaks_every_version() {
    story("proto-curl", |mesh| {
        let pair = servers(mesh)?;
        let url = format!("http://{APP}:8080/x");
        for (flag, version) in
            [("--http1.0", "HTTP/1.0"), ("--http1.1", "HTTP/1.1"), ("--http2-prior-knowledge", "HTTP/2.0")]
        {
            let seen: serde_json::Value = serde_json::from_str(&pair.curl(&[flag, &url, "-d", "body"])?)?;
            assert_eq!((&seen["version"], &seen["body"]), (&version.into(), &"body".into()), "{flag}");
        }

        // Keep-alive: every kind of body over one connection of the client.
        let [status, chunked] = ["status/204", "chunked/3"].map(|path| format!("http://{APP}:8080/{path}"));
        let format = "%{http_code} %{size_download} %{num_connects}\n";
        let urls = [&url, &status, &chunked, &url];
        let mut args = vec!["-w", format];
        args.extend(urls.iter().flat_map(|url| ["-o", "/dev/null", url]));
        let lines = pair.curl(&args)?;
        let connects: Vec<_> = lines.lines().filter_map(|line| line.rsplit(' ').next()).collect();
        assert_eq!(connects, ["1", "0", "0", "0"], "{lines}");

        // An HTTP/1.0 answer without a length ends with its connection.
        let old = pair.curl(&["-i", &format!("http://{APP}:8081/until-close")])?;
        assert!(old.starts_with("HTTP/1.1 200 OK") && old.ends_with("until the end\n"), "{old}");
        // The end of the application's connection is no end of the client's.
        pair.talk(8081, async |wire| {
            for _ in 0..2 {
                wire.say(format!("GET /until-close HTTP/1.1\r\nhost: {APP}\r\n\r\n")).await?;
                let answer = wire.answer(false).await?;
                assert!(answer.ends_with("until the end\n\r\n0\r\n\r\n"), "{answer:?}");
            }
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    story("proto-pipeline", |mesh| {
        let pair = servers(mesh)?;
        // The first is the slowest: whoever answers out of order is seen.
        let paths = ["/delay/150", "/delay/50", "/status/204", "/delay/0"];
        let requests: String =
            paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nhost: {APP}\r\n\r\n")).collect();
        let answers = pair.talk(8080, async |wire| {
            wire.say(&requests).await?;
            let mut answers = Vec::new();
            for _ in paths {
                answers.push(wire.answer(false).await?);
            }
            Ok(answers)
        })?;
        for (path, answer) in paths.iter().zip(&answers) {
            let expected = if path.contains("204") { "HTTP/1.1 204" } else { "HTTP/1.1 200" };
            assert!(answer.starts_with(expected), "{path}: {answer}");
            assert!(path.contains("204") || answer.contains(path), "{path}: {answer}");
        }
        Ok(())
    });
}

#[test]
fn answers_without_a_body_leave_the_connection_usable() {
    story("proto-bodiless", |mesh| {
        let pair = servers(mesh)?;
        pair.talk(8080, async |wire| {
            for (request, status) in [
                ("HEAD /bytes/5000", "200"),
                ("GET /status/204", "204"),
                ("GET /status/304", "304"),
                ("GET /bytes/3", "200"),
            ] {
                wire.say(format!("{request} HTTP/1.1\r\nhost: {APP}\r\n\r\n")).await?;
                let answer = wire.answer(request.starts_with("HEAD")).await?;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
                if request.starts_with("HEAD") {
                    // The length that GET would have had (RFC 9110 section 9.3.2).
                    assert_eq!(header(&answer, "content-length"), Some("5000"), "{answer}");
                }
                if status.ends_with("04") {
                    assert_eq!(header(&answer, "transfer-encoding"), None, "{answer}");
                }
            }
            Ok(())
        })
    });
}

#[test]
fn an_absolute_target_arrives_as_it_was_sent() {
    story("proto-absolute", |mesh| {
        let pair = servers(mesh)?;
        let answer =
            pair.ask(8081, "GET http://other.example/head?q=1 HTTP/1.1\r\nhost: a-lie\r\nX-Kept: 1\r\n\r\n")?;
        assert!(answer.contains("GET http://other.example/head?q=1 HTTP/1.1\r\n"), "{answer}");
        // RFC 9112 section 3.2.2: a proxy replaces Host by the target's.
        assert!(answer.contains("host: other.example\r\n") && !answer.contains("a-lie"), "{answer}");
        // And the star form (RFC 9112 section 3.2.4).
        let answer = pair.ask(8081, &format!("OPTIONS * HTTP/1.1\r\nhost: {APP}\r\n\r\n"))?;
        assert!(answer.contains("OPTIONS * HTTP/1.1\r\n"), "{answer}");
        Ok(())
    });
}

#[test]
fn chunks_and_trailers_go_both_ways() {
    story("proto-chunked", |mesh| {
        let pair = servers(mesh)?;
        let server = serve(&pair.server, 8082, async |mut wire| {
            let head = wire.head().await?;
            assert_eq!(header(&head, "transfer-encoding"), Some("chunked"), "{head}");
            assert_eq!(header(&head, "te"), Some("trailers"), "{head}");
            let body = wire.until("\r\n\r\n").await?;
            wire.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n").await?;
            wire.say("3\r\nabc\r\n0\r\nx-sum: out\r\n\r\n").await?;
            Ok(body)
        })?;
        let request = format!(
            "POST / HTTP/1.1\r\nhost: {APP}\r\nte: trailers\r\nconnection: TE\r\n\
             transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n4\r\nwxyz\r\n0\r\nx-sum: in\r\n\r\n"
        );
        let answer = pair.ask(8082, &request)?;
        let body = server.join()?;
        assert!(body.contains("wxyz") && body.ends_with("x-sum: in\r\n\r\n"), "{body:?}");
        assert_eq!(header(&answer, "trailer"), Some("x-sum"), "{answer}");
        assert!(answer.contains("abc") && answer.ends_with("x-sum: out\r\n\r\n"), "{answer:?}");

        // A client that did not ask for trailers gets none (RFC 9110 section 6.5.1), and the body all the same.
        let answer = pair.ask(8080, &format!("GET /trailers HTTP/1.1\r\nhost: {APP}\r\n\r\n"))?;
        assert!(answer.ends_with("\r\n0\r\n\r\n") && answer.contains("data"), "{answer:?}");
        Ok(())
    });
}

#[test]
fn http10_stays_http10() {
    story("proto-http10", |mesh| {
        let pair = servers(mesh)?;
        // No Host, which HTTP/1.0 allows, and no framing that it does not know.
        let answer = pair.talk(8080, async |wire| {
            wire.say("GET /chunked/3 HTTP/1.0\r\n\r\n").await?;
            wire.rest().await
        })?;
        assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("chunk 1\nchunk 2\n"), "{answer}");
        assert_eq!(header(&answer, "transfer-encoding"), None, "{answer}");
        let seen = pair.talk(8081, async |wire| {
            wire.say("GET /head HTTP/1.0\r\n\r\n").await?;
            wire.rest().await
        })?;
        assert!(seen.contains("GET /head HTTP/1.0\r\n"), "{seen}");
        // Its keep-alive is one connection's own business, and works.
        pair.talk(8080, async |wire| {
            for _ in 0..2 {
                wire.say("GET /bytes/3 HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await?;
                let answer = wire.answer(false).await?;
                assert_eq!(header(&answer, "connection"), Some("keep-alive"), "{answer}");
            }
            Ok(())
        })
    });
}

#[test]
fn heads_that_cannot_be_right_are_refused() {
    story("proto-refused", |mesh| {
        let pair = servers(mesh)?;
        let field =
            |bytes: usize| format!("GET / HTTP/1.1\r\nhost: {APP}\r\nx: {}\r\n\r\n", "x".repeat(bytes));
        for (request, status, code) in [
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400", Some("bad-request")),
            (format!("GET / HTTP/1.1\r\nhost: {APP}\r\nhost: b\r\n\r\n"), "400", Some("bad-request")),
            // Two lengths that differ are request smuggling (RFC 9112 section 6.3).
            (
                format!("POST / HTTP/1.1\r\nhost: {APP}\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
                "400",
                None,
            ),
            (format!("GET / HTTP/1.1\r\nhost: {APP}\r\nx : y\r\n\r\n"), "400", None),
            // The limit is 64 KiB; the mesh adds a few hundred bytes of its own.
            (field(60_000), "200", None),
            (field(66_000), "431", None),
            (format!("GET / HTTP/1.1\r\nhost: {APP}\r\n{}\r\n", "x: y\r\n".repeat(110)), "431", None),
        ] {
            let answer = pair.ask(8080, &request)?;
            let shown = &request[..request.len().min(120)];
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {answer:.200}");
            if code.is_some() {
                assert_eq!(header(&answer, "weft-error"), code, "{shown}: {answer}");
            }
        }
        // Nothing of it reached the application, and the proxy goes on.
        assert_eq!(pair.client.send(Request::get(&format!("http://{APP}:8080/")))?.status, 200);
        Ok(())
    });
}

/// What an application may answer with is limited as well, so that one head cannot take a sidecar's memory.
#[test]
fn answers_with_too_large_a_head_become_502() {
    story("proto-large-answer", |mesh| {
        let pair = servers(mesh)?;
        for (port, bytes, status, code) in
            [(8082, 60_000, "200", None), (8083, 70_000, "502", Some("upstream-protocol"))]
        {
            let server = serve(&pair.server, port, async move |mut wire| {
                wire.head().await?;
                let field = "x".repeat(bytes);
                wire.say(format!("HTTP/1.1 200 OK\r\nx: {field}\r\ncontent-length: 0\r\n\r\n")).await?;
                wire.gone().await
            })?;
            let answer =
                pair.ask(port, &format!("GET / HTTP/1.1\r\nhost: {APP}\r\nconnection: close\r\n\r\n"))?;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes}: {answer:.200}");
            assert_eq!(header(&answer, "weft-error"), code, "{bytes}: {answer:.200}");
            drop(server);
        }
        Ok(())
    });
}
