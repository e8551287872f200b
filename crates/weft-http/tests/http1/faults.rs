//! Peers that stall, answer out of turn or leave half-way, and what must not become of it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_core::Drain;
use weft_http::{Body, Http1Limits, Http1Opened, Http1Pool, Interim};

use crate::applications::Application;
use crate::ragged::{Manner, Ragged};
use crate::support::{Client, full, heard, local, pass_time, read};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn short() -> Http1Limits {
    Http1Limits { pause: Duration::from_secs(60), ..Http1Limits::default() }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_a_socket_holds_back_are_flushed_even_where_that_takes_turns() {
    for seed in 1..50 {
        local(async {
            let (io, server) = tokio::io::duplex(1 << 16);
            let server = Ragged::new(server, Manner { seed, ..Manner::WORST });
            let mut client = Client::over(io, server, short(), Drain::never());
            assert_eq!(client.say("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await, OK);
            let body = "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nxy";
            assert!(client.say(body).await.ends_with("xy"));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_one_large_piece_is_not_one_that_stands_still() {
    local(async {
        let mut client = Client::sized(short(), Drain::never(), 1024);
        client.send("GET /large HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let (mut got, mut piece) = (0, vec![0; 1024]);
        while got < 200_000 {
            pass_time(Duration::from_secs(30)).await;
            let read = client.io.read(&mut piece).await.unwrap();
            assert!(read > 0, "given up at {got}");
            got += read;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connect_with_content_and_what_is_no_host_are_refused() {
    for request in [
        "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\nContent-Length: 28\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "CONNECT a@h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h/x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a@h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h#\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\u{e9}\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: h?\r\n\r\n",
        "GET http://a@h/ HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        local(async {
            let mut client = Client::new();
            let heard = client.say(request).await;
            assert!(heard.starts_with("HTTP/1.1 400 "), "{request}: {heard}");
            assert!(client.script.heads.borrow().is_empty(), "{request}");
        })
        .await;
    }
    for host in ["", "h", "h:80", "[::1]:80", "a_b.c", "1.2.3.4", "x%20y"] {
        local(async {
            let mut client = Client::new();
            assert_eq!(client.say(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await, OK, "{host}");
        })
        .await;
    }
}

/// Counts itself as an open connection.
struct Open(Rc<Cell<u32>>);

impl Open {
    fn new(open: &Rc<Cell<u32>>) -> Self {
        open.set(open.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_with_a_connection_is_held_as_long_as_it_lives() {
    for answer in
        ["HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"]
    {
        local(async {
            let (pool, application) = (Http1Pool::new(short()), Application::default());
            let open = Rc::new(Cell::new(0));
            let request = Request::get("/").header("host", "h").body(Body::Empty).unwrap();
            let connect = async || application.connect().map(|(io, ())| (io, Open::new(&open)));
            let exchange = pool.open(request, &Interim::Nowhere, connect);
            let side = async {
                let mut io = application.side(0).await;
                heard(&mut io).await;
                io.write_all(answer.as_bytes()).await.unwrap();
                io
            };
            let (opened, mut io) = tokio::join!(exchange, side);
            assert_eq!(open.get(), 1, "{answer}");
            io.write_all(b"ok").await.unwrap();
            drop(io);
            let Ok(Http1Opened::Answer(response)) = opened else { panic!("{answer}") };
            assert_eq!(read(response.into_body()).await.unwrap(), "ok");
            assert_eq!(open.get(), 0, "{answer}");
        })
        .await;
    }
    local(async {
        let (pool, application) = (Http1Pool::new(short()), Application::default());
        let open = Rc::new(Cell::new(0));
        let request = Request::connect("h:80").header("host", "h:80").body(Body::Empty).unwrap();
        let connect = async || application.connect().map(|(io, ())| (io, Open::new(&open)));
        let side = async {
            let mut io = application.side(0).await;
            heard(&mut io).await;
            io.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
            io
        };
        let (opened, _io) = tokio::join!(pool.open(request, &Interim::Nowhere, connect), side);
        let Ok(Http1Opened::Switched(_, rest)) = opened else { panic!("no tunnel") };
        assert_eq!(open.get(), 1, "it counts as long as the tunnel");
        drop(rest);
        assert_eq!(open.get(), 0);
    })
    .await;
}

/// All of the request is in the queue of a socket that takes a few bytes, when the answer comes.
#[tokio::test(start_paused = true)]
async fn a_request_that_was_queued_is_written_though_its_answer_has_come() {
    for close in ["", "Connection: close\r\n"] {
        local(async {
            let (pool, application) = (Http1Pool::new(short()), Rc::new(Application::default()));
            let request = Request::post("/x").header("host", "h").body(full(&"x".repeat(3000))).unwrap();
            let (pool2, application2) = (Rc::clone(&pool), Rc::clone(&application));
            let sent = tokio::task::spawn_local(async move {
                pool2.send(request, &Interim::Nowhere, async || application2.connect_sized(100)).await
            });
            let mut io = application.side(0).await;
            io.read_exact(&mut [0; 10]).await.unwrap();
            io.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{close}\r\nok").as_bytes())
                .await
                .unwrap();
            assert_eq!(read(sent.await.unwrap().unwrap().into_body()).await.unwrap(), "ok");
            let rest = heard(&mut io).await;
            assert!(rest.ends_with(&"x".repeat(3000)), "{}", rest.len());
            assert_eq!(pool.idle(), usize::from(close.is_empty()));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_whole_does_not_hold_an_upload_that_nobody_takes() {
    for closes in [true, false] {
        local(async {
            let (pool, application) = (Http1Pool::new(short()), Rc::new(Application::default()));
            let mut client = Client::with(short(), Drain::never());
            // The client's body, of which only a part comes.
            client.send("POST /take HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\n\r\n").await;
            pass_time(Duration::from_millis(1)).await;
            let body = client.script.taken.borrow_mut().pop().unwrap();
            let request = Request::post("/x").header("host", "h").body(body).unwrap();
            let (pool2, application2) = (Rc::clone(&pool), Rc::clone(&application));
            let sent = tokio::task::spawn_local(async move {
                pool2.send(request, &Interim::Nowhere, async || application2.connect()).await
            });
            if !closes {
                client.send(&"x".repeat(300_000)).await;
            }
            let mut io = application.side(0).await;
            io.write_all(OK.as_bytes()).await.unwrap();
            assert_eq!(read(sent.await.unwrap().unwrap().into_body()).await.unwrap(), "ok");
            assert_eq!(client.heard().await, OK);
            if closes {
                // It wants no more: neither does the mesh, and the client has the time of a pause to send what it began.
                drop(io);
                pass_time(Duration::from_secs(100)).await;
            } else {
                // It takes nothing, and keeps the connection.
                pass_time(Duration::from_secs(59)).await;
                assert!(!client.served.is_finished());
                pass_time(Duration::from_secs(120)).await;
            }
            assert!(client.served.is_finished(), "closes: {closes}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_holds_a_body_hears_that_its_client_stands_still_or_its_connection_ends() {
    local(async {
        let mut client = Client::with(short(), Drain::never());
        let heard = client.say("POST /held HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab").await;
        assert_eq!(heard, OK);
        pass_time(Duration::from_secs(200)).await;
        assert!(client.served.is_finished());
        assert!(client.is_closed().await, "whoever still holds the body does not hold the socket");
        assert!(client.script.bodies.borrow()[0].is_err());
    })
    .await;
    local(async {
        // Refused without having been told to send.
        let mut client = Client::with(short(), Drain::never());
        let request = "POST /held HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        let heard = client.say(request).await;
        assert!(heard.contains("Connection: close"), "{heard}");
        assert!(client.is_closed().await, "it waits for nothing");
        assert!(client.script.bodies.borrow()[0].is_err());
    })
    .await;
    local(async {
        // The connection's task ends, by whatever.
        let mut client = Client::with(short(), Drain::never());
        client.say("POST /held HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab").await;
        client.served.abort();
        assert!(client.is_closed().await);
        assert!(client.script.bodies.borrow()[0].is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_hears_the_end_of_its_answer_while_its_request_is_still_read() {
    for request in [
        "POST /held HTTP/1.0\r\nContent-Length: 5\r\n\r\nab",
        "POST /held HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 5\r\n\r\nab",
    ] {
        local(async {
            let mut client = Client::new();
            assert!(client.say(request).await.ends_with("\r\n\r\nok"));
            assert!(client.is_closed().await, "{request}");
            client.send("cde").await;
            pass_time(Duration::from_millis(1)).await;
            assert_eq!(*client.script.bodies.borrow(), [Ok("abcde".to_owned())], "{request}");
            assert!(client.served.is_finished(), "{request}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_rest_is_read_byte_by_byte_and_the_connection_goes_on() {
    local(async {
        let mut client = Client::new();
        client.say("POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 26\r\n\r\n").await;
        for _ in 0..26 {
            assert_eq!(client.say("x").await, "");
        }
        assert_eq!(client.say("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await, OK);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_server_ends_is_closed_by_and_by() {
    local(async {
        let (trigger, drain) = weft_core::drain();
        let mut client = Client::with(short(), drain);
        client.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n").await;
        trigger.start(Duration::from_secs(50));
        assert!(client.say("ab").await.contains("Connection: close"));
        // It did not know yet.
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert!(!client.served.is_finished(), "a reset would take the answer away");
        drop(client.io);
        client.served.await.unwrap().unwrap();
        assert_eq!(client.script.heads.borrow().len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_malformed_request_does_not_wait_for_ever_for_its_answer() {
    local(async {
        let (pool, application) = (Http1Pool::new(short()), Rc::new(Application::default()));
        let mut client = Client::new();
        client.send("POST /take HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
        pass_time(Duration::from_millis(1)).await;
        let body = client.script.taken.borrow_mut().pop().unwrap();
        let request = Request::post("/x").header("host", "h").body(body).unwrap();
        let application2 = Rc::clone(&application);
        let sent = tokio::task::spawn_local(async move {
            pool.send(request, &Interim::Nowhere, async || application2.connect()).await
        });
        let mut io = application.side(0).await;
        io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await.unwrap();
        let response = sent.await.unwrap().unwrap();
        client.send("zz\r\n").await;
        heard(&mut io).await;
        assert!(
            matches!(io.read(&mut [0]).await, Ok(0)),
            "the application hears that the request breaks off"
        );
        io.write_all(b"ok").await.unwrap();
        assert_eq!(read(response.into_body()).await.unwrap(), "ok", "and may still answer");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_phrase_is_kept_behind_empty_lines() {
    local(async {
        let (pool, application) = (Http1Pool::new(short()), Application::default());
        let request =
            Request::get("/").header("host", "h").version(Version::HTTP_11).body(Body::Empty).unwrap();
        let side = async {
            let mut io = application.side(0).await;
            io.write_all(b"\r\n\r\nHTTP/1.1 200 Fine\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        };
        let (response, ()) =
            tokio::join!(pool.send(request, &Interim::Nowhere, async || application.connect()), side);
        let response = response.unwrap();
        let reason = response.extensions().get::<weft_http::Reason>();
        assert!(format!("{reason:?}").contains("Fine"), "{reason:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_idle_time_at_all_is_no_busy_loop() {
    local(async {
        let limits = Http1Limits { idle: Duration::ZERO, ..Http1Limits::default() };
        let (pool, application) = (Http1Pool::new(limits), Application::default());
        let request = Request::get("/").header("host", "h").body(Body::Empty).unwrap();
        let side = async {
            let mut io = application.side(0).await;
            io.write_all(OK.as_bytes()).await.unwrap();
            io
        };
        let (response, _io) =
            tokio::join!(pool.send(request, &Interim::Nowhere, async || application.connect()), side);
        assert_eq!(read(response.unwrap().into_body()).await.unwrap(), "ok");
        pass_time(Duration::from_millis(100)).await;
        assert_eq!(pool.idle(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_stands_still_does_not_hold_an_answer_that_waits_for_it() {
    local(async {
        let mut client = Client::with(short(), Drain::never());
        let heard = client.say("POST /mirror HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab").await;
        assert!(heard.ends_with("\r\n\r\nab"), "{heard}");
        pass_time(Duration::from_secs(59)).await;
        assert_eq!(client.say("c").await, "c");
        pass_time(Duration::from_secs(59)).await;
        assert!(!client.served.is_finished());
        pass_time(Duration::from_secs(60)).await;
        assert!(client.served.is_finished());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_wants_is_not_late() {
    local(async {
        let mut client = Client::with(short(), Drain::never());
        client.send("POST /late HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n").await;
        pass_time(Duration::from_secs(999)).await;
        assert_eq!(client.heard().await, "", "the application takes its time");
        pass_time(Duration::from_secs(2)).await;
        assert_eq!(client.heard().await, OK);
    })
    .await;
}
