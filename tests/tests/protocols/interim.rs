//! Answers before the answer: `Expect: 100-continue` (RFC 9110 section 10.1.1).
//!
//! The promise of 100 is that the server wants the body. So none may come that the application did not give, and where
//! the application answers at once instead, the body must stay where it is.

use weft_testbed::story;

use super::pair::{APP, Pair, serve};

fn expecting(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nhost: {APP}\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n")
}

#[test]
fn no_100_comes_before_the_applications_own() {
    story("proto-continue", |mesh| {
        let pair = Pair::new(mesh, &[8081, 8082])?;
        let (ask, asked) = tokio::sync::oneshot::channel::<()>();
        let server = serve(&pair.server, 8082, async move |mut wire| {
            let head = wire.head().await?;
            // The client says when: until then it must have seen nothing, and this side no body.
            let _ = asked.await;
            assert!(wire.is_quiet(), "a body came that nobody asked for");
            wire.say("HTTP/1.1 100 Continue\r\n\r\n").await?;
            let body = wire.take(4).await?;
            wire.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
            Ok((head, body))
        })?;
        pair.talk(8082, async |wire| {
            wire.say(expecting(4)).await?;
            // Long enough for a 100 of the proxy's own to arrive, shorter than the second it waits for the application.
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            assert!(wire.is_quiet(), "100 before the application's own");
            let _ = ask.send(());
            assert_eq!(wire.head().await?, "HTTP/1.1 100 Continue\r\n\r\n");
            wire.say("body").await?;
            let answer = wire.answer(false).await?;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{answer}");
            Ok(())
        })?;
        let (head, body) = server.join()?;
        assert!(head.contains("expect: 100-continue"), "{head}");
        assert_eq!(body, "body");

        // And by curl, to an application that asks for the body in the same way.
        pair.server.app_of("raw", 8081)?;
        let url = format!("http://{APP}:8081/continue");
        let seen = pair.curl(&["-H", "Expect: 100-continue", "-d", "hello", &url])?;
        assert_eq!(seen, "expected=true early=false body=5\n");
        Ok(())
    });
}

#[test]
fn a_final_answer_stops_the_body() {
    story("proto-417", |mesh| {
        let pair = Pair::new(mesh, &[8080, 8082])?;
        let server = serve(&pair.server, 8082, async |mut wire| {
            wire.head().await?;
            wire.say("HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno\n")
                .await?;
            wire.rest().await
        })?;
        let answer = pair.ask(8082, &expecting(1_000_000))?;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("no\n"), "{answer}");
        assert!(!answer.contains("100 Continue"), "{answer}");
        assert_eq!(server.join()?, "", "a byte of the body was sent to an application that refused it");

        pair.server.app(8080)?;
        let url = format!("http://{APP}:8080/early");
        let format = "%{http_code} %{size_upload}";
        let seen =
            pair.curl(&["-H", "Expect: 100-continue", "-o", "/dev/null", "-w", format, "-d", "x", &url])?;
        assert_eq!(seen, "413 0");
        Ok(())
    });
}

#[test]
fn an_application_that_ignores_expect_gets_the_body() {
    story("proto-expect-ignored", |mesh| {
        let pair = Pair::new(mesh, &[8081])?;
        // This path reads the body without a word before it, as HTTP/1.0 servers do.
        pair.server.app_of("raw", 8081)?;
        let answer = pair.talk(8081, async |wire| {
            wire.say(expecting(4)).await?;
            // How long to wait is the client's own affair, as it is without a proxy: nobody else says 100.
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            assert!(wire.is_quiet(), "100, and not from the application");
            wire.say("body").await?;
            wire.answer(false).await
        })?;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("POST / HTTP/1.1"), "{answer}");
        // Most clients do not wait for the 100 (curl: 1 s), and some not at all.
        let impatient = pair.ask(8081, &format!("{}body", expecting(4)))?;
        assert!(impatient.contains("POST / HTTP/1.1"), "{impatient}");
        Ok(())
    });
}

/// Every 1xx comes before the answer, in the order in which the application gave them.
#[test]
fn early_hints_reach_an_http1_client() {
    story("proto-hints", |mesh| {
        let pair = Pair::new(mesh, &[8081])?;
        pair.server.app_of("raw", 8081)?;
        let (hints, answer) = pair.talk(8081, async |wire| {
            wire.say(format!("GET /hints HTTP/1.1\r\nhost: {APP}\r\n\r\n")).await?;
            Ok((wire.head().await?, wire.answer(false).await?))
        })?;
        assert!(hints.starts_with("HTTP/1.1 103 Early Hints\r\n"), "{hints}");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("done\n"), "{answer}");
        Ok(())
    });
}
