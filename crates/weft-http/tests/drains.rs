//! HTTP/2 clients when a drain begins.

use std::rc::Rc;
use std::time::Duration;

use h2::client::SendRequest;
use http::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use weft_core::{Drain, ON_ITS_WAY};
use weft_http::{Abort, Answer, Body, Handler, Http2Limits, Interim, serve_http2};

struct Hello;

impl Handler for Hello {
    type Body = Body;

    fn is_link(&self) -> bool {
        false
    }

    async fn call(&self, _: Request<Body>, _: Interim<'_>) -> Result<Answer<Body>, Abort> {
        Ok(Response::new(Body::Full("hello".into())).into())
    }
}

type Send = SendRequest<bytes::Bytes>;

/// A client, and its connection on both sides. `later`: how long it takes to say its first word.
async fn client(
    drain: Drain,
    later: Duration,
) -> (Result<Send, h2::Error>, JoinHandle<Result<(), h2::Error>>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let served = tokio::task::spawn_local(async move {
        serve_http2(far, Rc::new(Hello), &Http2Limits::default(), drain).await
    });
    tokio::time::sleep(later).await;
    let shaken = h2::client::handshake(near).await;
    let send = shaken.map(|(send, connection)| {
        tokio::task::spawn_local(connection);
        send
    });
    (send, served)
}

async fn ask(send: Send) -> Result<(Send, u16), h2::Error> {
    let mut send = send.ready().await?;
    let (response, _) = send.send_request(Request::get("https://h/").body(()).unwrap(), true)?;
    let (head, mut body) = response.await?.into_parts();
    while let Some(data) = body.data().await {
        data?;
    }
    Ok((send, head.status.as_u16()))
}

async fn is_told(send: Send, served: JoinHandle<Result<(), h2::Error>>) {
    let told = ask(send).await.map(|(_, status)| status).expect_err("it is to go elsewhere");
    assert_eq!((told.is_go_away(), told.reason()), (true, Some(h2::Reason::NO_ERROR)), "{told}");
    // The client has gone: how that looks from here is all the same.
    let _ = served.await.unwrap();
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn a_client_in_use_is_told_at_once() {
    let (trigger, drain) = weft_core::drain();
    let (send, served) = client(drain, Duration::ZERO).await;
    let (send, status) = ask(send.unwrap()).await.unwrap();
    assert_eq!(status, 200);
    let began = tokio::time::Instant::now();
    trigger.start(Duration::from_secs(30));
    tokio::time::sleep(Duration::from_millis(10)).await;
    is_told(send, served).await;
    assert!(began.elapsed() < ON_ITS_WAY, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn one_that_has_just_connected_is_told_behind_its_first_request() {
    // With its preface on the way, and with its request.
    for (connects, asks) in [(0, 900), (900, 10), (900, 900)] {
        let (trigger, drain) = weft_core::drain();
        trigger.start(Duration::from_secs(30));
        let (send, served) = client(drain, Duration::from_millis(connects)).await;
        let send = send.unwrap().ready().await.unwrap();
        tokio::time::sleep(Duration::from_millis(asks)).await;
        let (send, status) = ask(send).await.unwrap();
        assert_eq!(status, 200, "{connects}, {asks}");
        tokio::time::sleep(ON_ITS_WAY).await;
        is_told(send, served).await;
    }
}

#[tokio::test(start_paused = true, flavor = "local")]
async fn one_that_says_nothing_is_not_waited_for() {
    let (trigger, drain) = weft_core::drain();
    let (send, served) = client(drain.clone(), Duration::ZERO).await;
    trigger.start(Duration::from_secs(30));
    let began = tokio::time::Instant::now();
    tokio::time::sleep(ON_ITS_WAY + Duration::from_millis(10)).await;
    is_told(send.unwrap(), served).await;
    assert!(began.elapsed() < ON_ITS_WAY * 2);
    // Not even a preface.
    let (near, far) = tokio::io::duplex(1 << 16);
    serve_http2(far, Rc::new(Hello), &Http2Limits::default(), drain).await.unwrap();
    assert!(began.elapsed() < ON_ITS_WAY * 4);
    drop(near);
}

const GOAWAY: u8 = 7;
const PING: u8 = 6;
const ACK: u8 = 1;

/// A reset would take the GOAWAY away again that says which requests count.
#[tokio::test(flavor = "local")]
async fn the_last_word_reaches_a_client_that_still_sends() {
    let (trigger, drain) = weft_core::drain();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(addr), listener.accept());
    let (mut near, far) = (near.unwrap(), far.unwrap().0);
    let served = tokio::task::spawn_local(async move {
        serve_http2(far, Rc::new(Hello), &Http2Limits::default(), drain).await
    });
    // The preface, and SETTINGS that say nothing (RFC 9113 section 3.4).
    near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    trigger.start(Duration::from_secs(30));
    let mut goaways = 0;
    loop {
        let mut head = [0; 9];
        if near.read_exact(&mut head).await.is_err() {
            break;
        }
        let [high, middle, low, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        near.read_exact(&mut payload).await.expect("no reset");
        goaways += u32::from(kind == GOAWAY);
        if (kind, flags & ACK) == (PING, 0) {
            let pong = [&[0, 0, 8, PING, ACK, 0, 0, 0, 0][..], &payload].concat();
            near.write_all(&pong).await.unwrap();
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let ping = [&[0, 0, 8, PING, 0, 0, 0, 0, 0][..], &[7; 8]].concat();
                near.write_all(&ping).await.expect("no reset");
            }
        }
    }
    assert_eq!(goaways, 2, "that it goes, and which requests count");
    drop(near);
    served.await.unwrap().unwrap();
}
