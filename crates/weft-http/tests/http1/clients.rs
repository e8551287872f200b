//! Clients of all manners.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use weft_core::Drain;
use weft_http::{Ended, ErrorCode, HalfClose, Http1Limits};

use crate::support::{Client, local, pass_time};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn heads(client: &Client) -> Vec<String> {
    client.script.heads.borrow().clone()
}

#[tokio::test(start_paused = true)]
async fn requests_follow_each_other_on_one_connection() {
    local(async {
        let mut client = Client::new();
        assert_eq!(client.say("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").await, OK);
        assert_eq!(client.say("\r\n\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n").await, OK, "empty lines before it");
        let two =
            "GET /c HTTP/1.1\r\nHost: h\r\n\r\nPOST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nxy";
        let answers = client.say(two).await;
        assert_eq!(answers, format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nxy"), "pipelined");
        assert_eq!(heads(&client)[0], "GET /a host=h");
        drop(client.io);
        assert_eq!(client.served.await.unwrap().unwrap(), Ended::Closed);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_cut_of_a_request_is_the_same_request() {
    local(async {
        let whole = "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: v\r\n\r\nGET /next HTTP/1.1\r\nHost: h\r\n\r\n";
        for cut in 1..whole.len() {
            let mut client = Client::new();
            let (first, second) = whole.split_at(cut);
            client.send(first).await;
            pass_time(Duration::from_millis(5)).await;
            client.send(second).await;
            let heard = client.heard().await;
            assert!(heard.ends_with(OK), "{cut}: {heard}");
            let bodies = client.script.bodies.borrow().clone();
            assert_eq!(bodies, [Ok("abcde+{\"t\": \"v\"}".to_owned())], "{cut}");
            assert_eq!(heads(&client).len(), 2, "{cut}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn doubtful_framing_is_refused_and_nothing_behind_it_is_read() {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n";
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5 \u{b}\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Content-Length : 5\r\n",
        "X: y\r\n Content-Length: 5\r\n",
        "Host: other\r\n",
        "X\u{0}: y\r\n",
        "X: a\rb\r\n",
        ": empty\r\n",
    ] {
        local(async {
            let mut client = Client::new();
            let heard = client.say(&format!("POST /x HTTP/1.1\r\nHost: h\r\n{fields}\r\n{hidden}")).await;
            assert!(heard.starts_with("HTTP/1.1 400 "), "{fields:?}: {heard}");
            assert!(
                heard.contains("Connection: close\r\n") && heard.contains("Weft-Error: bad-request"),
                "{heard}"
            );
            assert_eq!(heard.matches("HTTP/1.1").count(), 1, "{heard}");
            assert_eq!(heads(&client).len(), 0);
            assert_eq!(*client.script.refused.borrow(), [ErrorCode::BadRequest]);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_length_with_zeros_in_front_is_that_length() {
    local(async {
        let mut client = Client::new();
        let heard = client
            .say("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 00000000000000000000002\r\n\r\nok")
            .await;
        assert_eq!(heard, OK);
        assert_eq!(heads(&client), ["POST /echo host=h content-length=2"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn limits_have_their_status() {
    let limits = Http1Limits {
        max_header_bytes: 9000,
        max_target_bytes: 100,
        max_headers: 10,
        ..Http1Limits::default()
    };
    let long = "a".repeat(200);
    for (request, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), "414 URI Too Long"),
        (format!("GET /{long}"), "414 URI Too Long"),
        (
            format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "a".repeat(9000)),
            "431 Request Header Fields Too Large",
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "a".repeat(9000)),
            "431 Request Header Fields Too Large",
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(10)),
            "431 Request Header Fields Too Large",
        ),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n".to_owned(), "505 HTTP Version Not Supported"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400 Bad Request"),
        ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), "400 Bad Request"),
        ("GET /\r\nHost: h\r\n\r\n".to_owned(), "400 Bad Request"),
        ("CONNECT /x HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), "400 Bad Request"),
        ("G(T / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), "400 Bad Request"),
    ] {
        local(async {
            let mut client = Client::with(limits, Drain::never());
            let heard = client.say(&request).await;
            assert!(heard.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request:.40?}: {heard}");
            assert!(client.is_closed().await);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_is_heard_and_the_rest_is_never_a_request() {
    local(async {
        // A length that is not worth reading: the answer, then the end.
        let mut client = Client::new();
        let heard =
            client.say("POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 15000000\r\n\r\nGET /x").await;
        assert!(heard.starts_with("HTTP/1.1 413 ") && heard.contains("Connection: close\r\n"), "{heard}");
        pass_time(Duration::from_secs(2)).await;
        client.send(" HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(client.heard().await, "");
        assert_eq!(heads(&client).len(), 1, "the body is no request");
        assert!(!client.served.is_finished(), "it reads on for a while, so that the answer is not lost");
        pass_time(Duration::from_secs(6)).await;
        assert!(client.served.is_finished());
    })
    .await;
    local(async {
        // A short rest is read, however slowly it comes, and the connection goes on.
        let mut client = Client::new();
        let heard =
            client.say("POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 26\r\n\r\nGET /x HTTP/1.1").await;
        assert!(heard.starts_with("HTTP/1.1 413 ") && !heard.contains("Connection"), "{heard}");
        pass_time(Duration::from_secs(2)).await;
        assert_eq!(client.say("\r\nHost: h\r\n").await, "");
        assert_eq!(client.say("GET /y HTTP/1.1\r\nHost: h\r\n\r\n").await, OK);
        assert_eq!(heads(&client).len(), 2);
    })
    .await;
}

/// What was promised with the answer is kept, however much is still to come.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_let_go_behind_its_answer_is_taken_to_its_end() {
    local(async {
        let mut client = Client::new();
        let heard = client.say("POST /refused HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 413 ") && !heard.contains("Connection: close"), "{heard}");
        for _ in 0..20 {
            client.send(&"x".repeat(100_000)).await;
            pass_time(Duration::from_secs(1)).await;
        }
        assert_eq!(client.say("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await, OK);
        assert_eq!(heads(&client).len(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_still_read_goes_on_behind_its_answer() {
    local(async {
        let mut client = Client::new();
        let heard = client
            .say("POST /held HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            .await;
        assert_eq!(heard, OK);
        pass_time(Duration::from_secs(60)).await;
        assert_eq!(client.say("2\r\nde\r\n").await, "");
        let next = client.say("0\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(next, OK);
        assert_eq!(*client.script.bodies.borrow(), [Ok("abcde".to_owned())]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_expects_to_be_told_is_told_by_the_application_alone() {
    local(async {
        let mut client = Client::new();
        let head = "POST /continue HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
        assert_eq!(client.say(head).await, "HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(client.say("ab").await, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab");
        // A final answer instead: whether the body comes is not known, so nothing may follow.
        let refused = client.say(&head.replace("/continue", "/early")).await;
        assert!(refused.starts_with("HTTP/1.1 413 ") && refused.contains("Connection: close"), "{refused}");
        assert!(client.is_closed().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn interim_answers_pass_but_not_to_http_1_0() {
    local(async {
        let mut client = Client::new();
        let heard = client.say("GET /interim HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(
            heard,
            format!(
                "HTTP/1.1 102 Processing\r\nLink: a\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: b\r\n\r\n{OK}"
            )
        );
        let mut old = Client::new();
        let heard = old.say("GET /interim HTTP/1.0\r\n\r\n").await;
        assert_eq!(heard, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        assert!(old.is_closed().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_are_kept_as_asked() {
    for (request, keeps, says) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", true, ""),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", false, "Connection: close\r\n"),
        ("GET / HTTP/1.0\r\n\r\n", false, "Connection: close\r\n"),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true, "Connection: keep-alive\r\n"),
    ] {
        local(async {
            let mut client = Client::new();
            let heard = client.say(request).await;
            assert!(heard.contains(&format!("Content-Length: 2\r\n{says}\r\nok")), "{request}: {heard}");
            assert_eq!(client.is_closed().await, !keeps, "{request}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_its_half_gets_its_answer_or_is_gone_as_configured() {
    local(async {
        let mut client = Client::new();
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        client.io.shutdown().await.unwrap();
        assert_eq!(client.heard().await, format!("{OK}{OK}"));
        assert_eq!(client.served.await.unwrap().unwrap(), Ended::Closed);
    })
    .await;
    local(async {
        let limits = Http1Limits { half_close: HalfClose::Cancel, ..Http1Limits::default() };
        let mut client = Client::with(limits, Drain::never());
        client.send("GET /never HTTP/1.1\r\nHost: h\r\n\r\n").await;
        client.io.shutdown().await.unwrap();
        assert_eq!(client.served.await.unwrap().unwrap(), Ended::Aborted);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_in_its_body_ends_the_request() {
    local(async {
        let mut client = Client::new();
        client.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab").await;
        client.heard().await;
        drop(client.io);
        assert_eq!(client.served.await.unwrap().unwrap(), Ended::Aborted);
        let bodies = client.script.bodies.borrow().clone();
        assert!(bodies.is_empty() || bodies[0].is_err(), "half a body is no body: {bodies:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_malformed_body_is_told_and_nothing_behind_it_is_read() {
    local(async {
        let mut client = Client::new();
        let heard = client
            .say("POST /held HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\nGET /hidden HTTP/1.1\r\nHost: h\r\n\r\n")
            .await;
        assert_eq!(heard.matches("HTTP/1.1 ").count(), 1, "{heard}");
        assert_eq!(heads(&client).len(), 1);
        let mut waiting = Client::new();
        let heard = waiting.say("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz").await;
        assert!(heard.starts_with("HTTP/1.1 "), "{heard}");
        assert!(heard.contains("Connection: close"), "{heard}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn slow_clients_are_given_up() {
    let limits = Http1Limits {
        header_read: Duration::from_secs(30),
        idle: Duration::from_secs(600),
        pause: Duration::from_secs(60),
        ..Http1Limits::default()
    };
    local(async {
        let mut client = Client::with(limits, Drain::never());
        client.send("GET / HTTP/1.1\r\n").await;
        for _ in 0..29 {
            pass_time(Duration::from_secs(1)).await;
            client.send("x: y\r\n").await;
        }
        assert_eq!(client.heard().await, "", "a head gets its whole time");
        pass_time(Duration::from_secs(20)).await;
        let heard = client.heard().await;
        assert!(heard.starts_with("HTTP/1.1 408 "), "{heard}");
    })
    .await;
    local(async {
        let mut client = Client::with(limits, Drain::never());
        client.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab").await;
        pass_time(Duration::from_secs(59)).await;
        client.send("c").await;
        pass_time(Duration::from_secs(59)).await;
        assert_eq!(client.heard().await, "");
        pass_time(Duration::from_secs(30)).await;
        let heard = client.heard().await;
        assert!(heard.starts_with("HTTP/1.1 408 "), "{heard}");
    })
    .await;
    local(async {
        let client = Client::with(limits, Drain::never());
        pass_time(Duration::from_secs(599)).await;
        assert!(!client.served.is_finished());
        pass_time(Duration::from_secs(200)).await;
        assert_eq!(client.served.await.unwrap().unwrap(), Ended::Closed);
    })
    .await;
    local(async {
        // Takes nothing of its answer.
        let mut client = Client::sized(limits, Drain::never(), 1024);
        client.send("GET /large HTTP/1.1\r\nHost: h\r\n\r\n").await;
        pass_time(Duration::from_secs(59)).await;
        assert!(!client.served.is_finished());
        pass_time(Duration::from_secs(30)).await;
        assert!(client.served.await.unwrap().is_err());
    })
    .await;
    local(async {
        // An application that takes its time is not the client's fault.
        let mut client = Client::with(limits, Drain::never());
        client.send("POST /never HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\n\r\nab").await;
        pass_time(Duration::from_secs(1000)).await;
        assert!(!client.served.is_finished());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn draining_answers_what_is_under_way() {
    local(async {
        let (trigger, drain) = weft_core::drain();
        let idle = Client::with(Http1Limits::default(), drain.clone());
        let mut busy = Client::with(Http1Limits::default(), drain);
        busy.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n").await;
        assert_eq!(busy.heard().await, "");
        trigger.start(Duration::from_secs(5));
        let began = tokio::time::Instant::now();
        assert_eq!(idle.served.await.unwrap().unwrap(), Ended::Closed);
        assert!((weft_core::ON_ITS_WAY..weft_core::ON_ITS_WAY * 2).contains(&began.elapsed()));
        let heard = busy.say("ab").await;
        assert_eq!(heard, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab");
        assert!(busy.is_closed().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_on_its_way_when_the_drain_began_is_answered() {
    const LAST: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab";
    let post = "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab";
    local(async {
        let (trigger, drain) = weft_core::drain();
        let mut fresh = Client::with(Http1Limits::default(), drain.clone());
        let mut kept = Client::with(Http1Limits::default(), drain.clone());
        assert!(!kept.say(post).await.contains("Connection: close"));
        trigger.start(Duration::from_secs(30));
        // One whose TLS handshake has ended only now.
        let mut late = Client::with(Http1Limits::default(), drain);
        pass_time(weft_core::ON_ITS_WAY - Duration::from_millis(50)).await;
        for client in [&mut fresh, &mut kept, &mut late] {
            assert_eq!(client.say(post).await, LAST);
            assert!(client.is_closed().await);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_takes_the_connection_with_all_that_was_read() {
    local(async {
        let mut client = Client::new();
        let request = "GET /switch HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 0\r\n\r\nab";
        let heard = client.say(request).await;
        assert_eq!(heard, "HTTP/1.1 101 Switching Protocols\r\n\r\nabab", "a length means nothing in it");
        assert_eq!(client.say("GET / HTTP/1.1").await, "GET / HTTP/1.1GET / HTTP/1.1");
        drop(client.io);
        assert_eq!(client.served.await.unwrap().unwrap(), Ended::Switched);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_the_connection_or_the_mesh_does_not_pass() {
    local(async {
        let mut client = Client::new();
        client
            .say(
                "GET / HTTP/1.1\r\nX-A: 1\r\nConnection: keep-alive, X-Private\r\nHost: h\r\nKeep-Alive: 5\r\nX-Private: 2\r\n\
                 Proxy-Connection: x\r\nTE: gzip, trailers\r\nWeft-Wire: 2\r\nX_Forwarded-Client_Cert: me\r\nX-B: \r\nX-A: 3\r\n\r\n",
            )
            .await;
        assert_eq!(heads(&client), ["GET / x-a=1 x-a=3 host=h te=trailers x-b="]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn answers_without_a_body_have_none() {
    local(async {
        let mut client = Client::new();
        let heard = client.say("GET /empty HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(heard, "HTTP/1.1 204 No Content\r\n\r\n");
        let heard = client.say("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(heard, "HTTP/1.1 200 OK\r\n\r\n");
        let heard = client.say("GET /abort HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(heard, "");
        assert!(client.is_closed().await, "an answer that was broken off");
    })
    .await;
}
